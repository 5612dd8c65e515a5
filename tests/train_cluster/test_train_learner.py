"""The learner on real engines, by GRPO: identities, bit-identical resume, two ranks, and that it learns."""

import copy
import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY
from train_records import (
    CONTROLS,
    VOCABULARY,
    ThreadedRank,
    a_completion,
    a_record,
    a_scored_group,
    random_group,
    save_tiny_model,
)

from experience.schema import VersionSpan
from train_cluster import metrics
from train_cluster.config import CorrectionConfig, GrpoConfig, KlConfig, OptimizerConfig, TrainingConfig
from train_cluster.learner import Learner
from train_cluster.measures import correlation
from train_cluster.model import load_policy
from train_cluster.plain import PlainEngine
from train_cluster.report import StepReport

CONFIG = TrainingConfig(
    algorithm=GrpoConfig(),
    kl=KlConfig(coefficient=0.05, adaptive=True, target_nats=0.1),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
    mini_batches=2,
    micro_batch_tokens=48,
    dtype="float32",
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def an_engine(folder: Path, config: TrainingConfig = CONFIG) -> PlainEngine:
    model = load_policy(folder, random_init=True, seed=1, attention_dropout=config.attention_dropout)
    return PlainEngine(model, optimizer=config.optimizer)


def weights(engine: PlainEngine) -> dict[str, torch.Tensor]:
    return {name: tensor for name in engine.specs() if (tensor := engine.gather(name, owner=engine.rank)) is not None}


def assert_close(left: PlainEngine, right: PlainEngine, *, atol: float) -> None:
    for name, tensor in weights(left).items():
        torch.testing.assert_close(tensor, weights(right)[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def a_config(base: TrainingConfig = CONFIG, **changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({**base.model_dump(), **changes})


ONE_UPDATE: dict[str, Any] = {"kl": KlConfig(where="none"), "mini_batches": 1}


def test_equal_rewards_give_no_policy_gradient(model_folder: Path) -> None:
    engine = an_engine(model_folder)
    group = random_group(0)
    equal = dataclasses.replace(group, scores=tuple(dataclasses.replace(s, total=0.1) for s in group.scores))
    report = Learner(engine, config=a_config(**ONE_UPDATE)).step(a_record(1, [equal, equal]))
    assert report.grad_norm == 0.0
    assert report.loss == 0.0


def test_a_step_follows_the_policy_gradient_worked_by_hand(model_folder: Path) -> None:
    """One update on policy: the gradient is −sum(A · grad log pi) / tokens, with A from the rewards."""
    engine = an_engine(model_folder)
    by_hand = copy.deepcopy(engine.module)
    answers, prompt = [np.array([3, 4]), np.array([5])], [1, 2]
    logprobs = [_logprobs(by_hand, prompt, answer) for answer in answers]
    group = a_scored_group(
        0, prompt, [a_completion(i, a, logprobs[i].detach().numpy()) for i, a in enumerate(answers)], [1.0, 0.0]
    )
    config = a_config(**ONE_UPDATE, algorithm=GrpoConfig(scale_by_std=False), correction=CorrectionConfig())
    report = Learner(engine, config=config).step(a_record(1, [group]))
    loss = -(0.5 * logprobs[0].sum() - 0.5 * logprobs[1].sum()) / 3  # rewards 1, 0: mean 1/2; three tokens
    loss.backward()
    norm = torch.stack([p.grad.square().sum() for p in by_hand.parameters()]).sum().sqrt()
    assert report.grad_norm == pytest.approx(float(norm), rel=1e-4)
    assert report.loss == pytest.approx(-(0.5 * 2 - 0.5 * 1) / 3, rel=1e-4)  # every ratio and weight is 1
    assert report.correction_mean == pytest.approx(1.0, abs=1e-5)
    assert report.logprob_gap == pytest.approx(0.0, abs=1e-5)
    assert report.logprob_gap_sequences == 2


def test_a_report_counts_what_a_batch_is_made_of(model_folder: Path) -> None:
    """Lengths 4, 2, 2 with rewards 3, 1, 1: correlation 1. Step 5, policy 4; oldest trained versions 1, 4 and 3."""
    behaviour = np.full(4, -np.log(VOCABULARY))
    spans = (
        VersionSpan(lineage=0, epoch=1, number=1, start=0, end=1),
        VersionSpan(lineage=0, epoch=1, number=4, start=1, end=4),
    )
    mixed = dataclasses.replace(a_completion(0, np.arange(4), behaviour), spans=spans, finish_reason="length")
    sampled = np.array([True, False])  # a tool wrote the second token
    tool = dataclasses.replace(a_completion(2, np.arange(2), behaviour[:2], version=3), sampled=sampled)
    completions = [mixed, a_completion(1, np.arange(2), behaviour[:2], version=4), tool]
    record = a_record(5, [a_scored_group(0, [1, 2], completions, [3.0, 1.0, 1.0])])

    def reported(clip: float) -> StepReport:
        optimizer = OptimizerConfig(learning_rate=1e-3, gradient_clip=clip)
        config = a_config(**ONE_UPDATE, optimizer=optimizer)
        learner = Learner(an_engine(model_folder, config), config=config)
        learner.load_state({"version": 1, "steps": 4, "kl": {"coefficient": 0.0}})
        return learner.step(record)

    report = reported(1e-6)
    assert report.staleness_steps == {0: 1, 1: 1, 3: 1}
    assert report.finish_reasons == {"length": 1, "stop": 2}
    assert report.truncated == pytest.approx(1 / 3)
    assert report.masked == pytest.approx(1 / 8)
    assert report.length_reward_correlation == pytest.approx(1.0)
    assert (report.grad_clipped_ratio, reported(1e6).grad_clipped_ratio) == (1.0, 0.0)


def test_the_correlation_by_hand() -> None:
    xs, ys = np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 3.0])
    assert correlation(xs, ys) == pytest.approx(0.5)  # covariance 1/3, variances 2/3
    assert correlation(xs, -xs) == pytest.approx(-1.0)
    assert correlation(xs, np.ones(3)) == correlation(np.ones(3), ys) == 0.0


def test_staleness_is_observed_by_response_in_steps_and_in_versions(model_folder: Path) -> None:
    """A version every 3 steps: behind policy 7, of version 6, what is 1 step old is 0 versions old; 2 steps 1, 5 steps 2."""
    engine = an_engine(model_folder)
    report = Learner(engine, config=a_config(**ONE_UPDATE)).step(a_record(1, [random_group(0)]))
    report = dataclasses.replace(report, step=8, staleness_steps={1: 4, 2: 2, 5: 1})
    names = ("staleness_steps", "staleness_versions")
    before = [_histogram(name) for name in names]
    metrics.observe(report, publish_interval=3)
    steps, versions = (
        [b - a for a, b in zip(*pair, strict=True)] for pair in zip(before, map(_histogram, names), strict=True)
    )
    assert steps == [7, 4 * 1 + 2 * 2 + 5]
    assert versions == [7, 2 * 1 + 2]


def _histogram(name: str) -> tuple[float, float]:
    """Observations, and their sum."""
    count, total = (REGISTRY.get_sample_value(f"headrace_train_{name}_{part}") for part in ("count", "sum"))
    return count or 0.0, total or 0.0


def _logprobs(model: Any, prompt: list[int], answer: np.ndarray) -> torch.Tensor:
    tokens = torch.tensor([[*prompt, *answer.tolist()]])
    index = torch.arange(len(prompt) - 1, len(prompt) - 1 + len(answer))
    logprobs, _ = model(
        tokens=tokens,
        positions=torch.arange(tokens.shape[1])[None],
        predict_index=index,
        targets=torch.from_numpy(answer).long(),
        temperature=1.0,
    )
    return logprobs


@pytest.mark.parametrize("where", ["loss", "reward"])
def test_accumulation_equals_one_big_batch(model_folder: Path, where: str) -> None:
    record, reports, engines = a_record(1, [random_group(i) for i in range(6)]), [], []
    for capacity in (16, 10_000):
        config = a_config(micro_batch_tokens=capacity, kl=KlConfig(where=where, coefficient=0.3))
        engines.append(an_engine(model_folder, config))
        reports.append(Learner(engines[-1], config=config).step(record))
    assert_close(*engines, atol=2e-5)
    for name in ("loss", "grad_norm", "kl_per_response", "entropy", "correction_ess", "clip_fraction"):
        assert getattr(reports[0], name) == pytest.approx(getattr(reports[1], name), rel=1e-4), name


def test_two_ranks_train_what_one_trains(model_folder: Path) -> None:
    config = a_config(epochs=2, mini_batches=3, kl=KlConfig(where="reward", coefficient=0.3))
    records = [a_record(k, [random_group(5 * k + i) for i in range(5)]) for k in (1, 2)]
    alone = an_engine(model_folder, config)
    single = Learner(alone, config=config)
    expected = [single.step(record) for record in records]
    ranks: list[ThreadedRank] = []
    barrier = threading.Barrier(2, timeout=60)
    for _ in range(2):
        ThreadedRank(ranks, barrier, load_policy(model_folder, random_init=True, seed=1), optimizer=config.optimizer)
    reports: dict[int, list[Any]] = {}

    def run(rank: ThreadedRank) -> None:
        learner = Learner(rank, config=config)
        reports[rank.rank] = [learner.step(record) for record in records]

    threads = [threading.Thread(target=run, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ranks[0].forwards == ranks[1].forwards
    assert_close(ranks[0], ranks[1], atol=0)
    assert_close(ranks[0], alone, atol=2e-5)
    for mine, theirs, one in zip(reports[0], reports[1], expected, strict=True):
        same = dataclasses.replace(mine, seconds={})
        assert same == dataclasses.replace(theirs, seconds={})
        assert mine.loss == pytest.approx(one.loss, rel=1e-3, abs=1e-6)
        assert mine.kl_per_response == pytest.approx(one.kl_per_response, rel=1e-4)


def test_resume_from_state_is_bit_identical(model_folder: Path) -> None:
    config = a_config(attention_dropout=0.2, epochs=2)
    records = [a_record(k, [random_group(4 * k + i) for i in range(4)]) for k in (1, 2, 3, 4)]
    engine = an_engine(model_folder, config)
    learner = Learner(engine, config=config)
    cut: tuple[Any, str] = ({}, "")
    coefficients = []
    for record in records:
        if record.number == 3:
            cut = (engine.export_partition(), json.dumps(learner.state()))
        coefficients.append(learner.step(record).kl_coefficient)
    assert len(set(coefficients)) > 1  # else a forgotten controller would not show

    other = an_engine(model_folder, config)
    resumed = Learner(other, config=config)
    torch.rand(17)  # whatever the new process has drawn before
    other.import_partition(cut[0])
    resumed.load_state(json.loads(cut[1]))
    for record in records[2:]:
        resumed.step(record)
    ours, theirs = engine.export_partition(), other.export_partition()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert resumed.state() == learner.state()


def test_dropout_changes_training_and_not_the_proximal_pass(model_folder: Path) -> None:
    record = a_record(1, [random_group(i) for i in range(2)])
    reports, engines = [], []
    for dropout in (0.0, 0.3):
        config = a_config(attention_dropout=dropout)
        engines.append(an_engine(model_folder, config))
        reports.append(Learner(engines[-1], config=config).step(record))
    assert reports[0].kl_per_response == reports[1].kl_per_response
    assert reports[0].grad_norm != reports[1].grad_norm


def test_a_toy_bandit_learns(model_folder: Path) -> None:
    """One token an answer; 7 pays. The reward rises from chance to most of what there is."""
    config = a_config(kl=KlConfig(where="none"), optimizer=OptimizerConfig(learning_rate=0.02, warmup_steps=0))
    engine = an_engine(model_folder, config)
    learner, random, rewards = Learner(engine, config=config), np.random.default_rng(0), []
    for number in range(1, 26):
        groups, logprobs = [], _every_answer(engine, [1, 2])
        for i in range(4):
            tokens = random.choice(VOCABULARY, p=np.exp(logprobs) / np.exp(logprobs).sum(), size=16)
            completions = [
                a_completion(j, np.array([token]), logprobs[[token]], version=number - 1)
                for j, token in enumerate(tokens)
            ]
            groups.append(a_scored_group(i, [1, 2], completions, [float(token == 7) for token in tokens]))
        rewards.append(learner.step(a_record(number, groups)).reward_mean)
    assert np.mean(rewards[:3]) < 0.2
    assert np.mean(rewards[-3:]) > 0.8


def _every_answer(engine: PlainEngine, prompt: list[int]) -> np.ndarray:
    """Log-probs of all one-token answers, float64."""
    engine.module.eval()
    with torch.no_grad():
        logprobs, _ = engine.forward(
            tokens=torch.tensor([prompt]),
            positions=torch.arange(len(prompt))[None],
            predict_index=torch.full((VOCABULARY,), len(prompt) - 1),
            targets=torch.arange(VOCABULARY),
            temperature=1.0,
        )
    return logprobs.double().numpy()


def test_only_masked_tokens_are_trained(model_folder: Path) -> None:
    """Tokens that the policy did not sample may carry any log-prob, and change nothing but the context."""
    reports = []
    for garbage in (-1.0, float("nan")):
        group = random_group(0)
        first = group.group.completions[0]
        sampled = np.arange(len(first.tokens)) % 2 == 0
        behaviour = np.where(sampled, first.behaviour_logprobs, garbage).astype(np.float32)
        masked = dataclasses.replace(first, sampled=sampled, behaviour_logprobs=behaviour)
        completions = (masked, *group.group.completions[1:])
        record = a_record(
            1, [dataclasses.replace(group, group=dataclasses.replace(group.group, completions=completions))]
        )
        reports.append(dataclasses.replace(Learner(an_engine(model_folder), config=CONFIG).step(record), seconds={}))
        assert reports[-1].tokens_trained == sum(int(c.sampled.sum()) for c in completions)
    assert reports[0] == reports[1]


def test_mini_batches_without_trained_tokens_make_no_update(model_folder: Path) -> None:
    group = random_group(0)
    completions = tuple(
        dataclasses.replace(c, sampled=np.zeros(len(c.tokens), dtype=bool)) for c in group.group.completions
    )
    silent = dataclasses.replace(group, group=dataclasses.replace(group.group, completions=completions))
    learner = Learner(an_engine(model_folder), config=CONFIG)
    assert learner.step(a_record(1, [silent, random_group(1)])).updates == 1
    nothing = learner.step(a_record(2, [silent]))
    assert (nothing.updates, nothing.tokens_trained, nothing.loss) == (0, 0, 0.0)
    assert learner.state()["steps"] == 2


def test_controls_scale_what_they_name(model_folder: Path) -> None:
    controls = dataclasses.replace(CONTROLS, learning_rate_scale=0.5, kl_scale=2.0)
    report = Learner(an_engine(model_folder), config=CONFIG).step(a_record(1, [random_group(0)], controls=controls))
    assert report.learning_rate == pytest.approx(1e-3 * 0.5 / 2)  # first of two warm-up steps
    assert report.kl_coefficient == pytest.approx(0.1)


def test_staleness_and_the_gap_are_of_the_right_versions(model_folder: Path) -> None:
    completions = [
        a_completion(i, np.array([3, 4]), np.array([-3.0, -3.0]), version=v) for i, v in enumerate((2, 3, 3))
    ]
    learner = Learner(an_engine(model_folder), config=a_config(kl=KlConfig(where="none")))
    learner.load_state({"version": 1, "steps": 4, "kl": {"coefficient": 0.05}})
    report = learner.step(a_record(5, [a_scored_group(0, [1], completions, [0.0, 1.0, 2.0])]))
    assert (report.staleness_max, report.staleness_mean) == (2.0, pytest.approx(4 / 3))  # 4 − 2, 4 − 3, 4 − 3
    assert (report.logprob_gap_sequences, report.logprob_gap_staleness) == (2, 1)
    metrics.observe(report)
    assert metrics.STALENESS_MAX._value.get() == 2.0


def test_bad_input_is_named(model_folder: Path) -> None:
    learner = Learner(an_engine(model_folder), config=CONFIG)
    with pytest.raises(ValueError, match="batch 3 was given after step 0; 1 is next"):
        learner.step(a_record(3, [random_group(0)]))
    with pytest.raises(ValueError, match="no reference log-probs"):
        learner.step(a_record(1, [random_group(0, reference=False)]))
    broken = a_completion(0, np.array([1, 2]), np.array([-1.0, np.inf]))
    with pytest.raises(
        ValueError, match="group r/0/0, sample 0: behaviour log-probs of a sampled token are not finite"
    ):
        learner.step(a_record(1, [a_scored_group(0, [1], [broken], [0.0])]))
    with pytest.raises(ValueError, match="version 2, this one reads 1"):
        learner.load_state({"version": 2})


def test_a_loss_that_is_not_finite_names_the_step(model_folder: Path) -> None:
    engine = an_engine(model_folder)
    next(iter(engine.module.parameters())).data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 1: "):
        Learner(engine, config=CONFIG).step(a_record(1, [random_group(0)]))
