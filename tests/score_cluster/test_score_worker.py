"""The scoring worker on a real buffer: what it hands on, and that a failing group harms no other."""

import hashlib
import importlib
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_workers import arrived, exhaust, worker

from experience import wire
from experience.buffer import ExperienceBuffer, Fenced, Lease, Stage
from experience.schema import CompletionGroup
from score_cluster import metrics
from score_cluster.answers import RewardFailed, answers_of
from score_cluster.config import ReferenceConfig, ScoringConfig
from score_cluster.judge import Judge, Judgement
from score_cluster.noise_floor import ENOUGH_RESPONSES, NoiseFloor
from score_cluster.patience import LEFT_BEHIND_LIMIT
from score_cluster.reference import HfReference, Response
from score_cluster.reward_config import FunctionRewardConfig, LengthRewardConfig, OverlongRewardConfig, RewardConfig
from score_cluster.scoring import kl_of_version_zero
from score_cluster.worker import RewardsHang, ScoringWorker

Complete = Callable[..., None]


def exact(weight: float = 2.0) -> RewardConfig:
    return FunctionRewardConfig(name="right", function="score_cluster.functions:exact_match", weight=weight)


def component(function: str) -> RewardConfig:
    return FunctionRewardConfig(name="fragile", function=function)


def test_groups_arrive_with_raw_components_totals_and_hashes(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete
) -> None:
    complete([{"answer": "cba"}, {"answer": "xyz"}], ["cba", "abc", "xyz"])
    near = FunctionRewardConfig(name="near", function="score_cluster.functions:character_accuracy", weight=0.5)
    scorer = worker(buffer, policy_folder, exact(), near)
    assert scorer.step()
    groups = arrived(buffer)
    assert sorted(groups) == [0, 1]
    # answer cba: "cba" is right; "abc" has its middle letter right; "xyz" none. The end token is no part of the text.
    assert [score.components for score in groups[0].scores] == [
        {"right": 1.0, "near": 1.0},
        {"right": 0.0, "near": pytest.approx(1 / 3)},
        {"right": 0.0, "near": 0.0},
    ]
    assert [score.total for score in groups[0].scores] == pytest.approx([2 + 0.5, 0.5 / 3, 0.0])
    assert [score.components["right"] for score in groups[1].scores] == [0.0, 0.0, 1.0]
    assert groups[0].component_hashes == scorer._hashes
    assert all(len(value) == hashlib.sha256().digest_size * 2 for value in groups[0].component_hashes.values())
    assert groups[0].production.worker == "score-0"
    assert not scorer.step()
    status = scorer.status()
    assert status.pop("wall").keys() == set(metrics.PHASES)
    measures = groups[0].scores[0].measures
    assert measures["diversity.unique"] == 1.0
    assert measures["diversity.spread"] == pytest.approx(np.std([score.total for score in groups[0].scores]))
    assert all(score.measures == measures for score in groups[0].scores)
    assert status == {"groups": 2, "failures": 0, "last_failure": ""}


def test_reference_logprobs_stand_with_their_own_completion(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete
) -> None:
    complete([{"answer": "cba"}, {"answer": "b"}], ["cba", "a", "zzzzzz"])
    worker(buffer, policy_folder, exact(), reference=ReferenceConfig(precision="float32")).step()
    alone = HfReference(ReferenceConfig(precision="float32"), model_path=policy_folder, threads=1)
    for record in arrived(buffer).values():
        for completion, score in zip(record.group.completions, record.scores, strict=True):
            response = Response(prompt=record.group.prompt.tokens, tokens=completion.tokens, temperature=0.7)
            np.testing.assert_allclose(score.reference_logprobs["reference"], alone.logprobs([response])[0], atol=1e-5)


def test_without_a_reference_there_are_no_reference_logprobs(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete
) -> None:
    complete([{"answer": "cba"}], ["cba"])
    worker(buffer, policy_folder, exact()).step()
    assert arrived(buffer)[0].scores[0].reference_logprobs == {}


@pytest.mark.parametrize(("failure", "said"), [("raises", "RuntimeError: the judge is out"), ("nan", "returned nan")])
def test_a_failing_group_is_quarantined_and_all_others_arrive(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete, fragile: str, failure: str, said: str
) -> None:
    rows: list[dict[str, Any]] = [{}] * 16
    rows[5] = {"fails": failure}
    complete(rows, ["a", "ab"])
    before = metrics.FAILURES.labels("fragile")._value.get()
    scorer = worker(buffer, policy_folder, component(fragile))
    assert scorer.step()
    groups = arrived(buffer)
    assert list(groups) == [sequence for sequence in range(16) if sequence != 5]
    assert [score.total for score in groups[15].scores] == [1.0, 2.0]
    exhaust(scorer)
    (settlement,) = buffer.settled()
    assert (settlement.sequence, settlement.outcome) == (5, "quarantined")
    assert said in settlement.reason
    assert "reward 'fragile' failed on group 5" in settlement.reason
    assert 5 not in arrived(buffer)
    # once among the others, then twice alone
    assert scorer.status()["failures"] == 3
    assert metrics.FAILURES.labels("fragile")._value.get() - before == 3
    assert said in scorer.status()["last_failure"]


def test_suspects_wait_until_the_others_are_handed_on(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete
) -> None:
    complete([{"answer": "a"}] * 4, ["a"])
    first = buffer.lease("completions", worker="dead", count=2, lease_s=30)
    for lease in first:
        buffer.release(lease, reason="its worker died")
    order: list[tuple[int, int]] = []

    def reached(point: str, sequence: int) -> None:
        assert point == "score.group"
        order.append((sequence, len(arrived(buffer))))

    worker(buffer, policy_folder, exact(), reached=reached).step()
    # 2 and 3 together, before either is handed on; then the suspects, one by one
    assert order == [(2, 0), (3, 0), (0, 2), (1, 3)]


def test_a_token_that_the_reference_does_not_know_fails_its_group_only(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete
) -> None:
    def out_of_vocabulary(data: bytes) -> bytes:
        group = wire.decode(data, CompletionGroup)
        unknown = replace(group.completions[0], tokens=np.array([400, 2], dtype=np.int32))
        return wire.encode(replace(group, completions=(unknown,)))

    complete([{"answer": "a"}] * 3, ["a"], damage={0: out_of_vocabulary})
    exhaust(worker(buffer, policy_folder, exact(), reference=ReferenceConfig(precision="int8")))
    assert sorted(arrived(buffer)) == [1, 2]
    assert "token 400 is outside the reference's vocabulary" in buffer.settled()[0].reason


def test_a_record_that_cannot_be_read_is_quarantined(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete
) -> None:
    complete([{"answer": "a"}] * 3, ["a"], damage={0: lambda data: b"no record"})
    exhaust(worker(buffer, policy_folder, exact()))
    assert sorted(arrived(buffer)) == [1, 2]
    assert "group 0 cannot be read" in buffer.settled()[0].reason


def test_a_zombie_ends_without_writing(
    buffer: ExperienceBuffer, connect: Callable[[int], ExperienceBuffer], policy_folder: str, complete: Complete
) -> None:
    complete([{"answer": "a"}], ["a"])
    scorer = worker(buffer, policy_folder, exact(), reached=lambda point, step: buffer.raise_epoch(role="run", epoch=2))
    with pytest.raises(Fenced):
        scorer.step()
    assert arrived(connect(2)) == {}


def test_run_scores_until_it_is_stopped(buffer: ExperienceBuffer, policy_folder: str, complete: Complete) -> None:
    complete([{"answer": "a"}] * 8, ["a"])
    stop = threading.Event()
    scorer = worker(
        buffer,
        policy_folder,
        exact(),
        groups_per_pass=3,
        reached=lambda _, sequence: stop.set() if sequence == 7 else None,
    )
    thread = threading.Thread(target=scorer.run, args=(stop,))
    thread.start()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert len(arrived(buffer)) == 8


def test_a_slow_reward_keeps_its_leases(
    buffer: ExperienceBuffer,
    connect: Callable[[int], ExperienceBuffer],
    policy_folder: str,
    complete: Complete,
    fragile: str,
) -> None:
    complete([{"fails": "waits"}], ["a"])
    config = ScoringConfig(rewards=(component(fragile),), reference=None)
    scorer = ScoringWorker(config, name="slow", model_path=policy_folder, buffer=buffer, lease_s=1.5, alone_limit=2)
    scorer.setup()
    module = importlib.import_module(fragile.partition(":")[0])
    thread = threading.Thread(target=scorer.step)
    thread.start()
    assert module.WAITING.wait(timeout=20)
    assert connect(1).lease("completions", worker="thief", count=1, lease_s=1.5, wait_s=3.0) == []
    module.GO_ON.set()
    thread.join(timeout=20)
    assert list(arrived(buffer)) == [0]


def test_a_reward_that_never_returns_fails_its_group_and_holds_up_no_other(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete, fragile: str
) -> None:
    rows: list[dict[str, Any]] = [{"answer": "a"}] * 8
    rows[3] = {"answer": "a", "fails": "hangs"}
    complete(rows, ["a", "ab"])
    scorer = worker(buffer, policy_folder, exact(), component(fragile), reward_timeout_s=0.2)
    exhaust(scorer)
    assert sorted(arrived(buffer)) == [0, 1, 2, 4, 5, 6, 7]
    (settlement,) = buffer.settled()
    assert (settlement.sequence, settlement.outcome) == (3, "quarantined")
    assert settlement.reason.endswith("reward 'fragile' failed on group 3: did not return within 0.2 s")


def test_a_worker_full_of_rewards_that_never_return_makes_room_for_another(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete, fragile: str
) -> None:
    """With nothing in hand: its groups went back, for another try alone."""
    complete([{"fails": "hangs"}] * LEFT_BEHIND_LIMIT, ["a"])
    scorer = worker(buffer, policy_folder, component(fragile), reward_timeout_s=0.05)
    with pytest.raises(RewardsHang, match=r"8 groups' rewards never returned: .* did not return within 0.05 s"):
        scorer.step()
    again = buffer.lease("completions", worker="next", count=20, lease_s=30)
    assert [lease.deliveries for lease in again] == [2] * LEFT_BEHIND_LIMIT


def test_setup_refuses_what_the_recipe_gets_wrong(buffer: ExperienceBuffer, policy_folder: str) -> None:
    with pytest.raises(ValueError, match="it takes field"):
        worker(
            buffer, policy_folder, FunctionRewardConfig(name="x", function=exact().function, arguments={"feld": "y"})
        )
    with pytest.raises(ValueError, match="is no model folder"):
        worker(buffer, policy_folder, exact(), reference=ReferenceConfig(path="/nowhere"))


def test_the_noise_floor_is_the_k3_sum_over_version_zero(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete
) -> None:
    complete([{"answer": "a"}], ["a", "b"])
    scorer = worker(buffer, policy_folder, exact(), reference=ReferenceConfig(precision="float32"))
    assert "kl_noise_floor" not in scorer.status()
    scorer.step()
    record = arrived(buffer)[0]
    sums = []
    for score in record.scores:  # behaviour log-probs are -3 throughout
        difference = score.reference_logprobs["reference"].astype(float) + 3.0
        sums.append((np.exp(difference) - 1 - difference).sum())
    assert kl_of_version_zero([record]) == pytest.approx(sums, rel=1e-6)
    assert metrics.KL_NOISE_FLOOR._value.get() == pytest.approx(np.mean(sums), rel=1e-6)
    assert scorer.status()["kl_noise_floor"] == metrics.KL_NOISE_FLOOR._value.get()


def test_the_kl_to_another_model_is_no_noise(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete, tmp_path: Path
) -> None:
    complete([{"answer": "a"}], ["a", "b"])
    shutil.copytree(policy_folder, tmp_path / "other")
    elsewhere = ReferenceConfig(path=str(tmp_path / "other"), precision="float32")
    scorer = worker(buffer, policy_folder, exact(), reference=elsewhere)
    scorer.step()
    assert arrived(buffer)[0].scores[0].reference_logprobs
    assert "kl_noise_floor" not in scorer.status()


def test_a_total_that_is_no_number_fails_its_group(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete
) -> None:
    complete([{"answer": "cba"}, {"answer": "xyz"}], ["cba", "abc"])
    scorer = worker(buffer, policy_folder, exact(weight=1e39))  # finite, and infinite in float32
    scorer.step()
    assert sorted(arrived(buffer)) == [1]
    assert scorer.status()["last_failure"] == (
        "reward 'total' failed on group 0: the components of completion 0 combine to 1e+39"
    )


def test_a_failure_names_component_and_sequence() -> None:
    error = RewardFailed(component="right", sequence=3, problem="it broke")
    assert str(error) == "reward 'right' failed on group 3: it broke"


def test_length_and_overlong_count_tokens_and_weigh_raw_components(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete
) -> None:
    complete([{"answer": "a"}], ["abcd", "abcdefgh"])  # a token a letter and the end: 5 and 9
    length = LengthRewardConfig(kind="length", name="length", limit_tokens=4, per_token=0.5, weight=2.0)
    overlong = OverlongRewardConfig(kind="overlong", name="overlong", buffer_tokens=4)  # the prompt allows 8
    worker(buffer, policy_folder, length, overlong).step()
    (record,) = arrived(buffer).values()
    # length: -0.5 * 1 and -0.5 * 5; overlong: (8 - 4 - 5) / 4 and beyond 8
    assert [score.components for score in record.scores] == [
        {"length": -0.5, "overlong": -0.25},
        {"length": -2.5, "overlong": -1.0},
    ]
    assert [score.total for score in record.scores] == pytest.approx([2 * -0.5 - 0.25, 2 * -2.5 - 1.0])


def test_overlong_begins_a_fifth_before_the_end_by_default(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete
) -> None:
    complete([{}], ["abcdef"])  # 7 tokens
    worker(buffer, policy_folder, OverlongRewardConfig(kind="overlong", name="overlong", max_tokens=10)).step()
    assert [score.total for score in arrived(buffer)[0].scores] == [0.0]
    complete_again = OverlongRewardConfig(kind="overlong", name="overlong", max_tokens=8)  # a fifth of 8: 2
    judge = Judge(ScoringConfig(rewards=(complete_again,)), model_path="")
    (judgement,) = judge.judge([answers_of(arrived(buffer)[0].group, decode=str)])
    assert isinstance(judgement, Judgement)
    assert judgement.totals == (-0.5,)  # (8 - 2 - 7) / 2


def test_judges_are_told_which_answers_ended_by_themselves(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete
) -> None:
    complete([{"answer": "a"}], ["abc", "abcd"])
    worker(buffer, policy_folder, exact()).step()
    group = arrived(buffer)[0].group
    cut = replace(group.completions[1], finish_reason="length")
    asked = answers_of(replace(group, completions=(group.completions[0], cut)), decode=lambda tokens: str(len(tokens)))
    assert asked.finished == (True, False)
    assert asked.completions == ("4", "5")
    assert [len(tokens) for tokens in asked.tokens] == [4, 5]


def test_a_target_below_the_noise_floor_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    floor = NoiseFloor(target_nats=0.5)
    floor.add([2.0] * (ENOUGH_RESPONSES - 1))
    assert not caplog.records  # too few to tell
    floor.add([2.0])
    floor.add([2.0])
    assert [record.message.partition(":")[0] for record in caplog.records] == ["training.kl.target_nats = 0.5"]
    assert "already measure 2 nats a response" in caplog.text
    assert metrics.KL_BELOW_NOISE._value.get() == 1
    assert (floor.nats, floor.warning) == (2.0, caplog.records[0].message)
    NoiseFloor(target_nats=2.5).add([2.0] * ENOUGH_RESPONSES)
    NoiseFloor(target_nats=None).add([2.0] * ENOUGH_RESPONSES)
    assert len(caplog.records) == 1
    assert metrics.KL_BELOW_NOISE._value.get() == 0
    assert metrics.KL_NOISE_FLOOR._value.get() == 2.0


def test_phases_add_up_to_wall_time(
    buffer: ExperienceBuffer, policy_folder: str, fragile: str, complete: Callable[..., None]
) -> None:
    """From before the worker was made, and between two looks; waiting, rewards and the buffer each where they belong."""
    slow = FunctionRewardConfig(name="slow", function=fragile)
    began = time.monotonic() - 0.25
    scorer = worker(buffer, policy_folder, slow, began=began)
    stop = threading.Event()
    thread = threading.Thread(target=scorer.run, args=(stop,))
    thread.start()
    try:
        until(lambda: scorer.status()["wall"]["wait_completions"] > 0.1)
        first, first_before, first_after = scraped(began)
        complete([{"fails": "dawdles"}] * 2, ["cba", "abc"])
        until(lambda: scorer.status()["groups"] == 2)
        last, last_before, last_after = scraped(began)
    finally:
        stop.set()
        thread.join()
    assert first_before - 1e-6 <= sum(first.values()) <= first_after + 1e-6
    assert last_before - 1e-6 <= sum(last.values()) <= last_after + 1e-6
    assert first["start"] >= 0.25
    assert last["rewards"] >= 0.1  # 0.05 s an answer, of a prompt one after the other
    assert last["reference"] == 0.0
    assert last["exchange"] > 0


def test_only_a_scorer_that_found_nothing_waits_for_completions(
    buffer: ExperienceBuffer, policy_folder: str, complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a pass that found something it asks without waiting: the time that the answer takes is none of idleness."""
    scorer = worker(buffer, policy_folder, exact())
    waits: list[float] = []
    lease = buffer.lease

    def seen(stage: Stage, *, wait_s: float = 0.0, **named: Any) -> list[Lease]:
        if stage == "completions":
            waits.append(wait_s)
        return lease(stage, wait_s=wait_s, **named)

    monkeypatch.setattr(buffer, "lease", seen)
    assert not scorer.step()
    complete([{"answer": "cba"}], ["cba"])
    assert [scorer.step() for _ in range(3)] == [True, False, False]
    assert [wait_s > 0 for wait_s in waits] == [True, True, False, True]


def scraped(began: float) -> tuple[dict[str, float], float, float]:
    """Seconds by phase as one scrape has them, and the life's age just before and just after it."""
    before = time.monotonic() - began
    (family,) = metrics.WALL.collect()
    after = time.monotonic() - began
    return {sample.labels["phase"]: sample.value for sample in family.samples}, before, after


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
