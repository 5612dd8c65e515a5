"""Reward models: against transformers' own score, in any batching and precision; ensembles, refusals, failures by group."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from score_workers import arrived, exhaust, worker
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from experience import wire
from experience.buffer import ExperienceBuffer
from experience.schema import CompletionGroup
from score_cluster import ensemble, metrics
from score_cluster.answers import Answers, RewardFailed, Scores
from score_cluster.int8 import weight_bytes
from score_cluster.model_source import ModelSource
from score_cluster.reward_config import ModelRewardConfig
from score_cluster.reward_model import HfRewardModel, card_warnings, weights_hash

Make = Callable[..., str]
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def make(tmp_path: Path, policy_folder: str) -> Make:
    """make(name, seed, poisoned): a reward-model folder beside the policy's tokenizer; `poisoned` is a token of NaN."""

    def make(name: str = "reward", *, seed: int = 1, poisoned: int | None = None, width: int = 64) -> str:
        folder = tmp_path / name
        shutil.copytree(policy_folder, folder)
        torch.manual_seed(seed)
        own = {"hidden_size": width, "intermediate_size": 2 * width, "num_labels": 1, "initializer_range": 0.15}
        config = LlamaConfig(**{**json.loads((folder / "config.json").read_text()), **own})
        model = LlamaForSequenceClassification(config)
        if poisoned is not None:
            with torch.no_grad():
                model.get_parameter(EMBEDDING)[poisoned] = torch.nan
        model.save_pretrained(folder)
        return str(folder)

    return make


def load(path: str, precision: Any = "float32", limit: int = 4096) -> HfRewardModel:
    return HfRewardModel(path, precision=precision, micro_batch_tokens=limit, threads=1, field="reward 'r': path")


def draw(count: int, *, seed: int = 0) -> list[Any]:
    generator = np.random.default_rng(seed)
    return [generator.integers(3, 25, generator.integers(1, 30), dtype=np.int32) for _ in range(count)]


def source(policy_folder: str, *paths: str, **settings: Any) -> ModelSource:
    where = {"path": paths[0]} if len(paths) == 1 else {"paths": paths}
    config = ModelRewardConfig.model_validate(
        {"kind": "model", "name": "r", "precision": "float32", **where, **settings}
    )
    return ModelSource(config, model_path=policy_folder, threads=1)


def answers(folder: str, *texts: str, prompt: str = "abc>", finished: bool = True, sequence: int = 3) -> Answers:
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokens(text: str, end: bool) -> Any:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.asarray([*ids, *([tokenizer.eos_token_id] if end else [])], dtype=np.int32)

    return Answers(
        sequence=sequence,
        prompt=prompt,
        prompt_tokens=tokens(prompt, end=False),
        metadata={},
        completions=texts,
        tokens=tuple(tokens(text, finished) for text in texts),
        finished=(finished,) * len(texts),
        max_tokens=8,
    )


def test_float32_agrees_with_transformers_one_by_one(make: Make) -> None:
    path, sequences = make(), draw(12)
    theirs = LlamaForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = [theirs(torch.tensor(tokens[None].astype(np.int64))).logits.item() for tokens in sequences]
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(load(path).scores(sequences), expected, atol=1e-5)


def test_neither_batching_nor_order_changes_a_score(make: Make) -> None:
    path, sequences = make(), draw(30, seed=1)
    together = load(path).scores(sequences)
    np.testing.assert_allclose(load(path, limit=1).scores(sequences), together, atol=1e-5)
    np.testing.assert_allclose(load(path, limit=64).scores(sequences[::-1])[::-1], together, atol=1e-5)
    assert load(path).scores([]) == []


@pytest.mark.parametrize("precision", ["int8", "int8_weights", "bfloat16"])
def test_low_precision_keeps_the_order_of_what_differs(make: Make, precision: str) -> None:
    path, sequences = make(), draw(60, seed=2)
    exact, near = (np.array(load(path, one).scores(sequences)) for one in ("float32", precision))
    assert 0 < np.abs(near - exact).mean() < 0.05 * exact.std()
    apart = np.abs(exact[:, None] - exact) > 0.25 * exact.std()
    assert ((near[:, None] > near) == (exact[:, None] > exact))[apart].all()


def test_int8_keeps_the_head_and_the_embedding_in_float(make: Make) -> None:
    path = make()
    exact, small = load(path)._model, load(path, "int8_weights")._model
    torch.testing.assert_close(small.score.weight, exact.score.weight, atol=0, rtol=0)
    embedding = exact.get_parameter(EMBEDDING).nbytes
    assert weight_bytes(small) - embedding < 0.3 * (weight_bytes(exact) - embedding)


def test_members_are_combined_by_hand() -> None:
    scores = np.array([[1.0, 2.0], [3.0, 2.0], [2.0, 5.0]])
    # means 2 and 3; deviations -1 1 0 and -1 -1 2: variances 2/3 and 2
    assert ensemble.disagreement(scores) == pytest.approx([(2 / 3) ** 0.5, 2**0.5])
    assert ensemble.combined(scores, how="mean", std_factor=9.0) == pytest.approx([2, 3])
    assert ensemble.combined(scores, how="min", std_factor=9.0) == pytest.approx([1, 2])
    expected = [2 - 0.5 * (2 / 3) ** 0.5, 3 - 0.5 * 2**0.5]
    assert ensemble.combined(scores, how="mean_minus_std", std_factor=0.5) == pytest.approx(expected)
    assert ensemble.disagreement(scores[:1]) == pytest.approx([0, 0])


def test_a_single_model_scores_prompt_completion_and_end(make: Make, policy_folder: str) -> None:
    path = make()
    (found,) = source(policy_folder, path).score([given := answers(path, "cba", "a")])
    expected = load(path).scores([np.concatenate([given.prompt_tokens, tokens]) for tokens in given.tokens])
    assert isinstance(found, Scores)
    assert found.values == pytest.approx(expected)
    assert found.measures == {}


def test_an_ensemble_tells_its_members_and_their_disagreement(
    make: Make, buffer: ExperienceBuffer, policy_folder: str, complete: Callable[..., None]
) -> None:
    paths = [make(f"member-{seed}", seed=seed) for seed in (1, 2, 3)]
    complete([{}, {}], ["cba", "ab"])
    config = ModelRewardConfig(kind="model", name="helpful", paths=tuple(paths), combine="mean", precision="float32")
    worker(buffer, policy_folder, config).step()
    groups = arrived(buffer)
    scores = [score for record in groups.values() for score in record.scores]
    assert len(scores) == 4
    for score in scores:
        members = [score.measures[f"helpful.member_{index}"] for index in range(3)]
        assert len(set(members)) == 3
        assert score.components == {"helpful": pytest.approx(np.mean(members))}
        assert score.total == score.components["helpful"]
        assert score.measures["helpful.disagreement"] == pytest.approx(np.std(members))
    mean = np.mean([score.measures["helpful.disagreement"] for score in scores])
    assert metrics.DISAGREEMENT.labels("helpful")._value.get() == pytest.approx(mean)
    assert len(groups[0].component_hashes["helpful"]) == 64


def test_a_group_that_scores_nan_is_quarantined_and_the_component_named(
    make: Make, buffer: ExperienceBuffer, policy_folder: str, complete: Callable[..., None]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(policy_folder)
    path = make(poisoned=tokenizer.convert_tokens_to_ids("q"))

    def poison(data: bytes) -> bytes:
        group = wire.decode(data, CompletionGroup)
        tokens = np.array(tokenizer("qb", add_special_tokens=False)["input_ids"], dtype=np.int32)
        first = replace(group.completions[0], tokens=tokens)
        return wire.encode(replace(group, completions=(first, *group.completions[1:])))

    complete([{}] * 3, ["a", "c"], damage={0: poison})
    config = ModelRewardConfig(kind="model", name="helpful", path=path)
    scorer = worker(buffer, policy_folder, config)
    exhaust(scorer)
    assert sorted(arrived(buffer)) == [1, 2]
    (settlement,) = buffer.settled()
    assert (settlement.sequence, settlement.outcome) == (0, "quarantined")
    assert "reward 'helpful' failed on group 0" in settlement.reason
    assert f"{path} scored completion 0 nan, which is not a finite number" in settlement.reason
    assert scorer.status()["failures"] == 3


def test_what_does_not_fit_the_model_fails_its_group_alone(make: Make, policy_folder: str) -> None:
    path = make()
    good, long = answers(path, "cba"), answers(path, "abc" * 200, sequence=4)
    odd = answers(path, "a", sequence=5)
    odd = replace(odd, tokens=(np.array([9999], dtype=np.int32),))
    judge = source(policy_folder, path)
    found = judge.score([long, good, odd])
    assert isinstance(found[0], RewardFailed)
    assert "a sequence of 605 tokens is longer than the model's context" in str(found[0])
    assert isinstance(found[2], RewardFailed)
    assert "token 9999 is outside the vocabulary" in str(found[2])
    (alone,) = judge.score([good])
    assert isinstance(found[1], Scores)
    assert isinstance(alone, Scores)
    assert found[1].values == pytest.approx(alone.values, abs=1e-6)


def test_each_group_has_the_scores_of_its_own_completions(make: Make, policy_folder: str) -> None:
    judge = source(policy_folder, path := make())
    batch = [answers(path, "cba", "a"), answers(path, "xyz" * 5), answers(path, "b", "cc", "ddd")]
    together = [one.values for one in judge.score(batch) if isinstance(one, Scores)]
    alone = [one.values for group in batch for one in judge.score([group]) if isinstance(one, Scores)]
    assert [len(values) for values in together] == [2, 1, 3]
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def other_tokenizer(folder: str, *, template: str | None = None) -> None:
    """Number the letters the other way round."""
    file = Path(folder) / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    letters = [token for token in vocabulary if len(token) == 1]
    numbers = [vocabulary[token] for token in letters]
    vocabulary.update(zip(letters, numbers[::-1], strict=True))
    file.write_text(json.dumps(content))
    if template is not None:
        (Path(folder) / "chat_template.jinja").write_text(template)


def test_another_tokenizer_is_refused_unless_it_reads_the_text(make: Make, policy_folder: str) -> None:
    path = make()
    other_tokenizer(path)
    with pytest.raises(ValueError, match=r"reward 'r': path = .*not that of the policy .*set retokenise: true"):
        source(policy_folder, path)
    judge = source(policy_folder, path, retokenise=True)
    for finished in (True, False):
        (found,) = judge.score([answers(policy_folder, "cba", "xy", finished=finished)])
        own = answers(path, "cba", "xy", finished=finished)  # as its own tokens say it
        expected = load(path).scores([np.concatenate([own.prompt_tokens, tokens]) for tokens in own.tokens])
        assert isinstance(found, Scores)
        assert found.values == pytest.approx(expected, abs=1e-5)


def test_a_chat_template_of_its_own_writes_the_text(make: Make, policy_folder: str) -> None:
    path = make()
    other_tokenizer(path, template="{% for turn in messages %}{{ turn.content }}>{% endfor %}")
    assert isinstance(AutoTokenizer.from_pretrained(path), PreTrainedTokenizerFast)
    (found,) = source(policy_folder, path, retokenise=True).score([answers(policy_folder, "ba", prompt="abc")])
    rendered = answers(path, "", prompt="abc>ba>", finished=False).prompt_tokens
    assert isinstance(found, Scores)
    assert found.values == pytest.approx(load(path).scores([rendered]), abs=1e-5)


def test_members_of_an_ensemble_share_a_tokenizer(make: Make, policy_folder: str) -> None:
    first, second = make("first"), make("second")
    other_tokenizer(second)
    with pytest.raises(ValueError, match=r"second: its tokenizer is not that of .*first .*share one tokenizer"):
        source(policy_folder, first, second, retokenise=True)


def test_members_of_an_ensemble_share_a_chat_template(make: Make, policy_folder: str) -> None:
    first, second = make("first"), make("second")
    for path, end in ((first, ">"), (second, "|")):
        other_tokenizer(path, template="{% for turn in messages %}{{ turn.content }}" + end + "{% endfor %}")
    with pytest.raises(ValueError, match=r"second: its tokenizer is not that of .*their chat templates differ"):
        source(policy_folder, first, second, retokenise=True)


def without_weight(folder: str) -> None:
    from safetensors.torch import load_file, save_file

    file = Path(folder) / "model.safetensors"
    tensors = load_file(file)
    del tensors["score.weight"]
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (Path(folder) / "config.json").unlink(), "is no model folder"),
        (lambda folder: (Path(folder) / "model.safetensors").unlink(), "has no weights"),
        (without_weight, r"lacks 1 of its weights \(score.weight"),
        (lambda folder: (Path(folder) / "tokenizer.json").unlink(), "its tokenizer cannot be read"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(
    make: Make, policy_folder: str, damage: Callable[[str], None], said: str
) -> None:
    path = make()
    damage(path)
    with pytest.raises(ValueError, match=f"reward 'r': path = {path}: {said}"):
        source(policy_folder, path)


def test_a_language_model_is_no_reward_model(policy_folder: str) -> None:
    with pytest.raises(ValueError, match=r"is no reward model \(LlamaForCausalLM with 2 labels\); give the folder"):
        source(policy_folder, policy_folder)


def test_the_hash_is_of_the_weights_and_of_how_they_are_used(make: Make, policy_folder: str) -> None:
    one, same, other = make("one"), make("same"), make("other", seed=5)
    assert weights_hash(one) == weights_hash(same) != weights_hash(other)
    hashes = [
        source(policy_folder, *paths, **settings).hash
        for paths, settings in [
            ((one,), {}),
            ((same,), {}),
            ((other,), {}),
            ((one,), {"precision": "int8"}),
            ((one, other), {"combine": "mean"}),
            ((one, other), {"combine": "min"}),
        ]
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 5


def test_a_card_that_warns_is_repeated_in_the_log(
    make: Make, policy_folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = make()

    def card(word: str, bias: str) -> None:
        held_out = {"verdict": {"word": word, "advice": "more pairs"}, "length": {"warning": bias}}
        (Path(path) / "reward_card.json").write_text(json.dumps({"held_out": held_out}))

    card("healthy", "")
    assert card_warnings(path, field="f") == []
    card("weak", "scores follow length")
    source(policy_folder, path)
    told = [record.message for record in caplog.records if "its card" in record.message or "length" in record.message]
    assert told == [
        f"reward 'r': path = {path}: its card calls it weak: more pairs",
        f"reward 'r': path = {path}: scores follow length",
    ]
    (Path(path) / "reward_card.json").write_text("[]")
    assert "cannot be read" in card_warnings(path, field="f")[0]
