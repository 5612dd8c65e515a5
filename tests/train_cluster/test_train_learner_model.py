"""The policy model: packed equals unpacked, the head equals transformers', names and folders are ordinary ones."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_records import VOCABULARY, save_tiny_model
from transformers import AutoModelForCausalLM, MistralConfig, Qwen2Config, Qwen3Config

from train_cluster import head
from train_cluster.attention import find_segments
from train_cluster.model import PolicyModel, load_policy, published_parameters, save_folder, tied_aliases

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
}
LENGTHS = (5, 40, 1, 17, 16, 3)


def a_row(lengths: tuple[int, ...] = LENGTHS) -> dict[str, torch.Tensor]:
    """Random sequences, packed; every position predicts a random target."""
    random, T = torch.Generator().manual_seed(0), sum(lengths)
    return {
        "tokens": torch.randint(0, VOCABULARY, (1, T), generator=random),
        "positions": torch.cat([torch.arange(n) for n in lengths])[None],
        "predict_index": torch.arange(T),
        "targets": torch.randint(0, VOCABULARY, (T,), generator=random),
    }


def one_by_one(folder: Path, model: PolicyModel, row: dict[str, torch.Tensor], temperature: float) -> torch.Tensor:
    """The same log-probs by transformers itself: eager attention, one sequence a call, logits of the whole vocabulary."""
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    plain.load_state_dict(model.causal.state_dict())
    logprobs = [
        (plain(tokens[None]).logits[0] / temperature).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        for tokens, targets in zip(row["tokens"][0].split(LENGTHS), row["targets"].split(LENGTHS), strict=True)
    ]
    return torch.cat(logprobs)


def test_weights_that_are_missing_are_not_drawn_at_random(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    tensors = dict(published_parameters(load_policy(tmp_path, random_init=True, seed=3)))
    tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_folder(tmp_path / "saved", tmp_path, tensors)
    with pytest.raises(ValueError, match=r"lacks 1 of its weights \(model\.layers\.0\.mlp\.up_proj\.weight"):
        load_policy(tmp_path / "saved")


@pytest.mark.parametrize("config", [None, Qwen2Config, Qwen3Config, MistralConfig])
@pytest.mark.parametrize("tied", [True, False])
def test_packed_logprobs_equal_unpacked_ones(tmp_path: Path, config: type | None, tied: bool) -> None:
    if config is None:
        save_tiny_model(tmp_path, tied=tied)
    else:
        config(**SHAPE, tie_word_embeddings=tied).save_pretrained(tmp_path)
    model = load_policy(tmp_path, random_init=True, seed=3).eval()
    save_folder(tmp_path / "saved", tmp_path, dict(published_parameters(model)))
    row = a_row()
    packed, _ = model(**row, temperature=0.7)
    torch.testing.assert_close(packed, one_by_one(tmp_path / "saved", model, row, 0.7), atol=1e-5, rtol=0)


def test_gradients_reach_only_the_sequence_they_come_from(tmp_path: Path) -> None:
    model = load_policy(save_tiny_model(tmp_path), random_init=True).eval()
    row = a_row((6, 5, 7))
    embeddings: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        embeddings.append(output)

    model.causal.get_input_embeddings().register_forward_hook(keep)
    logprobs, _ = model(**row, temperature=1.0)
    logprobs[6:11].sum().backward()
    reached = embeddings[0].grad[0].abs().sum(-1) > 0
    assert reached.tolist() == [False] * 6 + [True] * 5 + [False] * 7


def test_chunked_head_gives_the_same_values_and_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_policy(save_tiny_model(tmp_path), random_init=True)
    results = []
    for chunk in (head.CHUNK_LOGITS, 7 * VOCABULARY):
        monkeypatch.setattr(head, "CHUNK_LOGITS", chunk)
        model.zero_grad()
        logprobs, entropy = model(**a_row(), temperature=1.3, entropy="value")
        (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
        results.append([logprobs.detach(), entropy, *(p.grad for p in model.parameters())])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-4)


def test_entropy_and_temperatures_by_token(tmp_path: Path) -> None:
    model = load_policy(save_tiny_model(tmp_path), random_init=True).eval()
    for parameter in model.parameters():
        parameter.data.zero_()  # logits 0: every token has log-prob -log V and entropy log V
    logprobs, entropy = model(**a_row((4,)), temperature=0.5, entropy="value")
    expected = torch.full((4,), VOCABULARY).log()
    torch.testing.assert_close(entropy, expected)
    torch.testing.assert_close(logprobs, -expected)
    model = load_policy(tmp_path, random_init=True).eval()
    apart = [model(**a_row((4,)), temperature=t)[0] for t in (0.5, 2.0)]
    mixed, _ = model(**a_row((4,)), temperature=torch.tensor([0.5, 2.0, 0.5, 2.0]))
    torch.testing.assert_close(mixed, torch.stack([apart[i % 2][i] for i in range(4)]))


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    grads = []
    for checkpointing in (False, True):
        model = load_policy(tmp_path, random_init=True, gradient_checkpointing=checkpointing).train()
        model(**a_row(), temperature=1.0)[0].sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_random_init_depends_on_the_seed_alone(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    torch.manual_seed(1)
    first = load_policy(tmp_path, random_init=True, seed=5)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))  # the caller's generator was left alone
    again, other = (load_policy(tmp_path, random_init=True, seed=seed) for seed in (5, 6))
    half = load_policy(tmp_path, random_init=True, seed=5, dtype=torch.bfloat16)
    name = "model.layers.0.mlp.up_proj.weight"
    weights = [published_parameters(m)[name] for m in (first, again, other, half)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(weights[0].bfloat16(), weights[3])


def test_names_are_those_of_transformers_each_once(tmp_path: Path) -> None:
    for tied in (True, False):
        model = load_policy(save_tiny_model(tmp_path, tied=tied), random_init=True)
        names = published_parameters(model)
        assert ("lm_head.weight" in names) is not tied
        assert tied_aliases(model) == ({"lm_head.weight": "model.embed_tokens.weight"} if tied else {})
        assert set(names) | set(tied_aliases(model)) == set(
            AutoModelForCausalLM.from_config(model.causal.config).state_dict()
        )


def test_a_saved_folder_is_an_ordinary_one(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_text("not copied")
    model = load_policy(tmp_path / "model", random_init=True, seed=4)
    save_folder(tmp_path / "out", tmp_path / "model", dict(published_parameters(model)))
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    modes = {file.stat().st_mode for file in (tmp_path / "out").iterdir()}
    assert len(modes) == 1, "whoever may read the one file may read the others"
    loaded = load_policy(tmp_path / "out")
    for name, parameter in published_parameters(model).items():
        assert torch.equal(published_parameters(loaded)[name], parameter)
    with pytest.raises(ValueError, match="exists"):
        save_folder(tmp_path / "out", tmp_path / "model", {})


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere holds no config\.json"):
        load_policy(tmp_path / "nowhere")


def test_segments_are_bucketed_by_length() -> None:
    segments = find_segments(torch.cat([torch.arange(n) for n in LENGTHS]))
    assert [tuple(index.shape) for index in segments.buckets] == [(4, 16), (1, 40), (1, 17)]
    assert sorted(segments.unpack.tolist()) == sorted(set(segments.unpack.tolist()))
    assert len(segments.unpack) == sum(LENGTHS)
