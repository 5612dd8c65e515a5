"""The model with a scalar head: transformers' own scores, packed; its folder is a reward model's, and returns whole."""

import json
from pathlib import Path

import pytest
import torch
from train_records import VOCABULARY, save_tiny_model
from transformers import AutoModelForSequenceClassification, MistralConfig

from train_cluster.config import OptimizerConfig
from train_cluster.model import load_policy, published_parameters, save_folder
from train_cluster.plain import PlainEngine
from train_cluster.scalar import load_scalar, save_scalar_folder

LENGTHS = (5, 40, 1, 17, 16, 3)


def a_row() -> dict[str, torch.Tensor]:
    """Random sequences, packed; the last token of each is scored."""
    random, T = torch.Generator().manual_seed(0), sum(LENGTHS)
    return {
        "tokens": torch.randint(0, VOCABULARY, (1, T), generator=random),
        "positions": torch.cat([torch.arange(n) for n in LENGTHS])[None],
        "predict_index": torch.tensor(LENGTHS).cumsum(0) - 1,
    }


def scores_of_transformers(folder: Path, row: dict[str, torch.Tensor]) -> torch.Tensor:
    """What AutoModelForSequenceClassification says of each sequence alone."""
    plain = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    assert plain.config.num_labels == 1
    return torch.cat([plain(tokens[None]).logits[0] for tokens in row["tokens"][0].split(LENGTHS)])


@pytest.fixture
def causal(tmp_path: Path) -> Path:
    """A folder of a language model with weights, whose padding token also ends its sequences."""
    save_tiny_model(tmp_path / "config")
    config = json.loads((tmp_path / "config" / "config.json").read_text())
    (tmp_path / "config" / "config.json").write_text(json.dumps({**config, "eos_token_id": 2, "pad_token_id": 2}))
    policy = load_policy(tmp_path / "config", random_init=True, seed=3)
    save_folder(tmp_path / "causal", tmp_path / "config", dict(published_parameters(policy)))
    return tmp_path / "causal"


def test_a_packed_row_scores_as_transformers_does_at_each_last_token(causal: Path, tmp_path: Path) -> None:
    model = load_scalar(causal, head="fresh", seed=5).eval()
    save_scalar_folder(tmp_path / "reward", causal, dict(published_parameters(model)))
    row = a_row()
    row["tokens"][0, -1] = 2  # ended by the end-of-sequence token
    scores = model(**row)
    assert scores.dtype == torch.float32
    assert scores.std() > 0.1
    torch.testing.assert_close(scores, scores_of_transformers(tmp_path / "reward", row), atol=1e-5, rtol=0)


def test_another_architecture_without_our_attention(tmp_path: Path) -> None:
    MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    ).save_pretrained(tmp_path / "config")
    model = load_scalar(tmp_path / "config", random_init=True, head="fresh").eval()
    save_scalar_folder(tmp_path / "reward", tmp_path / "config", dict(published_parameters(model)))
    torch.testing.assert_close(
        model(**a_row()), scores_of_transformers(tmp_path / "reward", a_row()), atol=1e-5, rtol=0
    )


def test_a_saved_folder_is_a_reward_model_that_returns_whole(causal: Path, tmp_path: Path) -> None:
    (causal / "tokenizer.json").write_text("{}")
    model = load_scalar(causal, head="fresh", seed=5)
    save_scalar_folder(tmp_path / "reward", causal, dict(published_parameters(model)))
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["pad_token_id"] is None  # else transformers would score the token before the end
    assert (tmp_path / "reward" / "tokenizer.json").read_text() == "{}"
    returned = load_scalar(tmp_path / "reward")
    assert list(published_parameters(returned)) == list(published_parameters(model))
    for name, parameter in published_parameters(model).items():
        assert torch.equal(published_parameters(returned)[name], parameter)
    save_scalar_folder(tmp_path / "again", tmp_path / "reward", dict(published_parameters(returned)))
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "reward" / file).read_bytes()


def test_heads(causal: Path) -> None:
    torch.manual_seed(1)
    first, again, other = (load_scalar(causal, head="fresh", seed=seed) for seed in (5, 5, 6))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))  # the caller's generator was left alone
    heads = [published_parameters(model)["score.weight"] for model in (first, again, other)]
    assert heads[0].shape == (1, 16)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(load_scalar(causal, head="zeros")(**a_row()), torch.zeros(len(LENGTHS)))
    body = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(published_parameters(first)[body], published_parameters(load_policy(causal))[body])


def test_a_language_model_is_no_reward_model(causal: Path) -> None:
    with pytest.raises(ValueError, match="is no reward model"):
        load_scalar(causal)


def test_weights_that_are_missing_are_not_drawn_at_random(causal: Path, tmp_path: Path) -> None:
    tensors = dict(published_parameters(load_scalar(causal, head="fresh")))
    tensors.pop("score.weight")
    save_scalar_folder(tmp_path / "headless", causal, tensors)
    with pytest.raises(ValueError, match=r"lacks 1 of its weights \(score\.weight"):
        load_scalar(tmp_path / "headless")


def test_the_plain_engine_trains_it(causal: Path) -> None:
    engine = PlainEngine(load_scalar(causal, head="zeros"), optimizer=OptimizerConfig(gradient_clip=10))
    goal = torch.linspace(-1, 1, len(LENGTHS))
    losses = []
    for _ in range(30):
        loss = (engine.forward(**a_row()) - goal).square().mean()
        engine.backward(loss)
        engine.step(learning_rate=3e-3)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
