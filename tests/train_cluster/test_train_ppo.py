"""PPO on real engines: a step worked by hand, identities, two ranks, bit-identical resume of both models, and that it learns."""

import copy
import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_records import (
    VOCABULARY,
    ThreadedRank,
    a_completion,
    a_record,
    a_scored_group,
    random_group,
    save_tiny_model,
)

from train_cluster import metrics
from train_cluster.config import CriticConfig, KlConfig, OptimizerConfig, PpoConfig, TrainingConfig
from train_cluster.learner import Learner
from train_cluster.model import load_policy
from train_cluster.plain import PlainEngine
from train_cluster.report import CriticReport, StepReport
from train_cluster.scalar import Head, load_scalar

PPO = PpoConfig(critic=CriticConfig(warmup_steps=0, learning_rate=3e-3))
CONFIG = TrainingConfig(
    algorithm=PPO,
    kl=KlConfig(coefficient=0.05, target_nats=0.1),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
    epochs=2,
    mini_batches=2,
    micro_batch_tokens=48,
    dtype="float32",
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def engines(
    folder: Path, config: TrainingConfig = CONFIG, *, head: Head = "fresh", make: Any = PlainEngine
) -> tuple[Any, Any]:
    """(policy, critic)"""
    dropout = {"random_init": True, "attention_dropout": config.attention_dropout}
    policy = load_policy(folder, seed=1, **dropout)
    critic = load_scalar(folder, seed=2, head=head, **dropout)
    return tuple(make(model, optimizer=config.optimizer) for model in (policy, critic))  # type: ignore[return-value]


def a_learner(folder: Path, config: TrainingConfig = CONFIG, **named: Any) -> Learner:
    policy, critic = engines(folder, config, **named)
    return Learner(policy, config=config, critic=critic)


def critic_of(report: StepReport) -> CriticReport:
    assert report.critic is not None
    return report.critic


def changed(**changes: Any) -> TrainingConfig:
    """CONFIG with changes; those of PpoConfig by their own names."""
    own = {name: changes.pop(name) for name in list(changes) if name in PpoConfig.model_fields}
    critic = {name: changes.pop(name) for name in list(changes) if name in CriticConfig.model_fields}
    algorithm = PPO.model_copy(update=own | {"critic": PPO.critic.model_copy(update=critic)})
    return CONFIG.model_copy(update={"algorithm": algorithm, **changes})


ONE_UPDATE: dict[str, Any] = {"epochs": 1, "mini_batches": 1, "kl": KlConfig(where="none")}


def test_a_step_worked_by_hand(model_folder: Path) -> None:
    """One update on policy: −mean(A · grad log pi) and ½ mean (V − R)², with A and R from the critic's own values."""
    config = changed(**ONE_UPDATE, whiten_advantages=False, gae_lambda=0.5)
    policy, critic = engines(model_folder, config)
    by_hand = copy.deepcopy((policy.module, critic.module))
    prompt, answer = [1, 2], np.array([3, 4])
    row: dict[str, Any] = {
        "tokens": torch.tensor([[1, 2, 3, 4]]),
        "positions": torch.arange(4)[None],
        "predict_index": torch.tensor([1, 2]),
    }
    logprobs, _ = by_hand[0](**row, targets=torch.tensor([3, 4]), temperature=1.0)
    values = by_hand[1](**row)
    group = a_scored_group(0, prompt, [a_completion(0, answer, logprobs.detach().numpy())], [1.0])
    report = Learner(policy, config=config, critic=critic).step(a_record(1, [group]))

    first, second = values.detach().double().tolist()
    late = 1.0 - second  # delta of the last token
    early = 0.0 + second - first + 0.5 * late
    advantages, returns = torch.tensor([early, late]), torch.tensor([early + first, late + second])
    (-(advantages * logprobs).sum() / 2).backward()
    (0.5 * (values - returns).square().mean()).backward()
    assert report.grad_norm == pytest.approx(norm_of(by_hand[0]), rel=1e-4)
    assert report.loss == pytest.approx(float(-advantages.mean()), rel=1e-4)  # every ratio and weight is 1
    found = critic_of(report)
    assert found.grad_norm == pytest.approx(norm_of(by_hand[1]), rel=1e-4)
    assert found.loss == pytest.approx(float(0.5 * advantages.square().mean()), rel=1e-4)
    assert found.value_mean == pytest.approx((first + second) / 2, rel=1e-5)
    assert found.return_mean == pytest.approx(float(returns.mean()), rel=1e-5)
    assert found.advantage_std == pytest.approx(abs(early - late) / 2, rel=1e-4)
    assert found.explained_variance == pytest.approx(1 - float(advantages.var() / returns.var()), rel=1e-3)
    metrics.observe(report)
    assert metrics.VALUE_MEAN._value.get() == found.value_mean


def norm_of(module: torch.nn.Module) -> float:
    return float(torch.stack([p.grad.square().sum() for p in module.parameters() if p.grad is not None]).sum().sqrt())


@pytest.mark.parametrize("where", ["loss", "reward", "none"])
def test_accumulation_equals_one_big_batch(model_folder: Path, where: Any) -> None:
    record, found = a_record(1, [random_group(i) for i in range(6)]), []
    for capacity in (16, 10_000):
        config = changed(micro_batch_tokens=capacity, kl=KlConfig(where=where, coefficient=0.3))
        policy, critic = engines(model_folder, config)
        report = Learner(policy, config=config, critic=critic).step(record)
        found.append((report, policy.export_partition(), critic.export_partition()))
    for name in ("loss", "grad_norm", "kl_per_response", "entropy", "clip_fraction"):
        assert getattr(found[0][0], name) == pytest.approx(getattr(found[1][0], name), rel=1e-4), name
    pairs = zip(*(dataclasses.asdict(critic_of(report)).items() for report, _, _ in found), strict=True)
    for (name, small), (_, big) in pairs:
        assert small == pytest.approx(big, rel=1e-4), name
    for model in (1, 2):
        for name, tensor in found[0][model].items():
            if "." not in name.rpartition("weight")[2]:  # masters; moments follow
                torch.testing.assert_close(tensor, found[1][model][name], atol=3e-5, rtol=0, msg=name)


def test_two_ranks_train_what_one_trains(model_folder: Path) -> None:
    config = changed(mini_batches=3)
    records = [a_record(k, [random_group(5 * k + i) for i in range(5)]) for k in (1, 2)]
    alone = a_learner(model_folder, config)
    expected = [alone.step(record) for record in records]
    peers: tuple[list[ThreadedRank], list[ThreadedRank]] = ([], [])
    barrier, reports = threading.Barrier(2, timeout=60), {}

    def run(rank: int, policy: ThreadedRank, critic: ThreadedRank) -> None:
        learner = Learner(policy, config=config, critic=critic)
        reports[rank] = [learner.step(record) for record in records]

    threads = []
    for rank in range(2):
        modules = (
            load_policy(model_folder, random_init=True, seed=1),
            load_scalar(model_folder, random_init=True, seed=2, head="fresh"),
        )
        pair = [
            ThreadedRank(group, barrier, module, optimizer=config.optimizer)
            for group, module in zip(peers, modules, strict=True)
        ]
        threads.append(threading.Thread(target=run, args=(rank, *pair)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for group in peers:
        assert group[0].forwards == group[1].forwards
        ours, theirs = (engine.export_partition() for engine in group)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for mine, theirs, one in zip(reports[0], reports[1], expected, strict=True):
        assert dataclasses.replace(mine, seconds={}) == dataclasses.replace(theirs, seconds={})
        assert mine.loss == pytest.approx(one.loss, rel=1e-3, abs=1e-5)
        for name in ("loss", "explained_variance", "advantage_std", "grad_norm"):
            assert getattr(critic_of(mine), name) == pytest.approx(getattr(critic_of(one), name), rel=1e-3), name


@pytest.mark.parametrize("first", [3, 6])
def test_resume_of_both_models_is_bit_identical(model_folder: Path, first: int) -> None:
    """From cuts inside the critic's warm-up and after it, with dropout, epochs and mini-batches and a coefficient that moves."""
    config = changed(attention_dropout=0.2, warmup_steps=3)
    records = [a_record(k, [random_group(4 * k + i) for i in range(4)]) for k in range(1, 7)]
    pair = engines(model_folder, config)
    learner = Learner(pair[0], config=config, critic=pair[1])
    cut: tuple[Any, str] = ([], "")
    coefficients = []
    for record in records:
        if record.number == first:
            cut = ([engine.export_partition() for engine in pair], json.dumps(learner.state()))
        coefficients.append(learner.step(record).kl_coefficient)
    assert len(set(coefficients)) > 1  # else a forgotten controller would not show
    assert len(set(coefficients[:4])) == 1  # it stands still while the policy does

    others = engines(model_folder, config, head="zeros")
    resumed = Learner(others[0], config=config, critic=others[1])
    torch.rand(17)  # whatever the new process has drawn before
    for engine, tensors in zip(others, cut[0], strict=True):
        engine.import_partition(tensors)
    resumed.load_state(json.loads(cut[1]))
    assert [resumed.step(record).kl_coefficient for record in records[first - 1 :]] == coefficients[first - 1 :]
    for engine, other in zip(pair, others, strict=True):
        ours, theirs = engine.export_partition(), other.export_partition()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert resumed.state() == learner.state()


def test_values_and_returns_know_no_dropout(model_folder: Path) -> None:
    reports = []
    for dropout in (0.0, 0.3):
        config = changed(attention_dropout=dropout)
        reports.append(
            critic_of(a_learner(model_folder, config).step(a_record(1, [random_group(i) for i in range(2)])))
        )
    assert reports[0].value_mean == reports[1].value_mean
    assert reports[0].return_mean == reports[1].return_mean
    assert reports[0].grad_norm != reports[1].grad_norm


def test_values_are_held_near_those_of_the_start_of_the_step(model_folder: Path) -> None:
    """With a clip of almost nothing, whatever moved towards its return in the first update is held in the second."""
    shares = []
    for clip in (1e-6, None):
        config = changed(epochs=2, mini_batches=1, value_clip=clip)
        report = a_learner(model_folder, config).step(a_record(1, [random_group(0)]))
        shares.append(critic_of(report).clip_fraction)
    assert 0.1 < shares[0] <= 0.5  # of the tokens of both updates
    assert shares[1] == 0


def test_in_the_warm_up_only_the_critic_moves(model_folder: Path) -> None:
    config = changed(warmup_steps=2)
    policy, critic = engines(model_folder, config)
    learner = Learner(policy, config=config, critic=critic)
    before = policy.export_partition(), critic.export_partition()
    reports = [learner.step(a_record(number, [random_group(4 * number + i) for i in range(4)])) for number in (1, 2)]
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in policy.export_partition().items())
    assert any(not torch.equal(tensor, before[1][name]) for name, tensor in critic.export_partition().items())
    assert [(report.updates, report.learning_rate, critic_of(report).updates) for report in reports] == [
        (0, 0.0, 4)
    ] * 2
    first = learner.step(a_record(3, [random_group(12 + i) for i in range(4)]))
    assert (first.updates, first.learning_rate) == (4, pytest.approx(1e-3 / 2))  # of two warm-up steps of its own


def test_whitening_takes_the_scale_of_rewards_out_of_the_policy(model_folder: Path) -> None:
    """Without KL and with a critic of zeros, rewards × 10 + 3 at equal lengths train the same policy."""
    norms = []
    for scale, shift in ((1.0, 0.0), (10.0, 3.0)):
        group = random_group(0, longest=1, size=8)
        scores = tuple(dataclasses.replace(s, total=scale * s.total + shift) for s in group.scores)
        learner = a_learner(model_folder, changed(**ONE_UPDATE), head="zeros")
        norms.append(learner.step(a_record(1, [dataclasses.replace(group, scores=scores)])).grad_norm)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_advantages_that_are_all_equal_move_no_policy(model_folder: Path) -> None:
    """Nothing but rounding is left of them when their mean is taken off, and whitening may not blow that up."""
    group = random_group(0, longest=1, size=7)
    equal = dataclasses.replace(group, scores=tuple(dataclasses.replace(s, total=5.3) for s in group.scores))
    config = changed(**ONE_UPDATE, micro_batch_tokens=1)  # each in a row of its own: the same value to the bit
    report = a_learner(model_folder, config).step(a_record(1, [equal]))
    assert critic_of(report).return_mean == pytest.approx(5.3)
    assert report.grad_norm < 1e-6


def test_penalties_are_taken_at_their_tokens(model_folder: Path) -> None:
    """With a critic of zeros and lambda 1 the mean return is that of totals less beta times the KL that is still to come."""
    group = random_group(3, size=3)
    config = changed(kl=KlConfig(coefficient=0.5), gae_lambda=1.0, epochs=1, mini_batches=1)
    report = a_learner(model_folder, config, head="zeros").step(a_record(1, [group]))
    policy = load_policy(model_folder, random_init=True, seed=1).eval()
    returns = []
    for completion, score in zip(group.group.completions, group.scores, strict=True):
        tokens = torch.from_numpy(np.concatenate([group.group.prompt.tokens, completion.tokens]).astype(np.int64))
        start = len(group.group.prompt.tokens) - 1
        logprobs, _ = policy(
            tokens=tokens[None],
            positions=torch.arange(len(tokens))[None],
            predict_index=torch.arange(start, len(tokens) - 1),
            targets=tokens[start + 1 :],
            temperature=1.0,
        )
        penalties = 0.5 * (logprobs.detach().double().numpy() - score.reference_logprobs["reference"])
        to_come = penalties[::-1].cumsum()[::-1]
        returns += (score.total - to_come).tolist()
    assert critic_of(report).return_mean == pytest.approx(float(np.mean(returns)), rel=1e-4)
    assert critic_of(report).explained_variance == pytest.approx(0.0, abs=1e-9)  # zeros explain nothing


def test_an_entropy_bonus_broadens_the_policy(model_folder: Path) -> None:
    """Rewards that are all equal leave the bonus alone to move it."""
    entropies = []
    for coefficient in (0.0, 0.5):
        config = changed(
            entropy_coefficient=coefficient,
            kl=KlConfig(where="none"),
            optimizer=OptimizerConfig(learning_rate=0.02, warmup_steps=0),
            whiten_advantages=False,
        )
        learner = a_learner(model_folder, config, head="zeros")
        group = random_group(0)
        equal = dataclasses.replace(group, scores=tuple(dataclasses.replace(s, total=0.0) for s in group.scores))
        reports = [learner.step(a_record(number, [equal, equal])) for number in (1, 2)]
        entropies.append([report.entropy for report in reports])
    assert entropies[0][1] == pytest.approx(entropies[0][0], abs=1e-6)
    assert entropies[1][1] > entropies[1][0] + 1e-4


def test_only_masked_tokens_are_trained(model_folder: Path) -> None:
    """A token that the policy did not sample is passed over: the value before the next trained one follows."""
    reports = []
    for garbage in (-1.0, float("nan")):
        group = random_group(0)
        first = group.group.completions[0]
        sampled = np.arange(len(first.tokens)) % 2 == 0
        behaviour = np.where(sampled, first.behaviour_logprobs, garbage).astype(np.float32)
        completions = (
            dataclasses.replace(first, sampled=sampled, behaviour_logprobs=behaviour),
            *group.group.completions[1:],
        )
        record = a_record(
            1, [dataclasses.replace(group, group=dataclasses.replace(group.group, completions=completions))]
        )
        reports.append(dataclasses.replace(a_learner(model_folder).step(record), seconds={}))
    assert reports[0] == reports[1]


def test_a_missing_critic_is_named(model_folder: Path) -> None:
    with pytest.raises(ValueError, match="needs a critic beside the policy"):
        Learner(engines(model_folder)[0], config=CONFIG)


def test_a_critic_that_is_not_finite_names_the_step(model_folder: Path) -> None:
    policy, critic = engines(model_folder)
    next(iter(critic.module.parameters())).data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"step 1: the gradient norm of the (policy|critic)"):
        Learner(policy, config=CONFIG, critic=critic).step(a_record(1, [random_group(0)]))


def test_a_toy_task_is_learned_and_its_returns_become_known(model_folder: Path) -> None:
    """Answers of two tokens: a 7 first pays 1, and after one of the two prompts a 9 second pays 1 more.

    The critic can know the prompt and the first token, so the variance that it explains rises from none to most of it, until the returns
    hardly vary.
    """
    config = changed(
        kl=KlConfig(where="none"),
        optimizer=OptimizerConfig(learning_rate=0.01, warmup_steps=0),
        learning_rate=0.01,
        warmup_steps=1,
        value_clip=None,
        epochs=2,
        mini_batches=4,
    )
    policy, critic = engines(model_folder, config, head="zeros")
    learner, random = Learner(policy, config=config, critic=critic), np.random.default_rng(0)
    reports = []
    for number in range(1, 17):
        groups = [a_played_group(policy, random, i, [1, 5] if i % 2 else [1, 2], number) for i in range(4)]
        reports.append(learner.step(a_record(number, groups)))
    rewards = [report.reward_mean for report in reports]
    known = [critic_of(report).explained_variance for report in reports]
    assert np.mean(rewards[:3]) < 0.3
    assert np.mean(rewards[-3:]) > 1.2  # of 1.5
    assert known[0] == pytest.approx(0.0, abs=1e-9)
    assert np.median(known[-5:]) > 0.6


def a_played_group(policy: PlainEngine, random: Any, sequence: int, prompt: list[int], number: int) -> Any:
    """16 answers of two tokens, sampled from the policy."""
    first = every_answer(policy, prompt)
    completions, rewards = [], []
    second_after: dict[int, np.ndarray] = {}
    for index in range(16):
        one = int(random.choice(VOCABULARY, p=np.exp(first) / np.exp(first).sum()))
        if one not in second_after:
            second_after[one] = every_answer(policy, [*prompt, one])
        second = second_after[one]
        two = int(random.choice(VOCABULARY, p=np.exp(second) / np.exp(second).sum()))
        logprobs = np.array([first[one], second[two]])
        completions.append(a_completion(index, np.array([one, two]), logprobs, version=number - 1))
        rewards.append(float(one == 7) + float(prompt[1] == 5 and two == 9))
    return a_scored_group(sequence, prompt, completions, rewards)


def every_answer(policy: PlainEngine, prompt: list[int]) -> np.ndarray:
    """Log-probs of all next tokens, float64."""
    policy.module.eval()
    with torch.no_grad():
        logprobs, _ = policy.forward(
            tokens=torch.tensor([prompt]),
            positions=torch.arange(len(prompt))[None],
            predict_index=torch.full((VOCABULARY,), len(prompt) - 1),
            targets=torch.arange(VOCABULARY),
            temperature=1.0,
        )
    return logprobs.double().numpy()
