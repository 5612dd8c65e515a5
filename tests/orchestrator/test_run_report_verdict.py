"""What the report says of figures, by hand-made cases; and how the figures come from steps."""

import inspect
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from orchestrator_recipes import a_recipe
from report_runs import BEGAN, a_healthy_run, a_line, a_reported_run, a_step, commit, iso, said

from orchestrator.config import flatten
from orchestrator.folder import RunFolder
from orchestrator.run_report import advice, rules_health, rules_learning, samples
from orchestrator.run_report.comparison import HOW, compare, differing, same
from orchestrator.run_report.figures import figures_of, rise_of, window
from orchestrator.run_report.record import read_run
from orchestrator.run_report.rules_health import critic, restarts
from orchestrator.run_report.rules_learning import length
from orchestrator.run_report.time_use import time_use
from orchestrator.run_report.verdict import Verdict, verdict
from orchestrator.run_report.write import write_report

HEALTHY = {
    "steps": 100.0,
    "steps_planned": 100.0,
    "reward_first": 0.2,
    "reward_last": 0.9,
    "reward_rise": 0.7,
    "reward_noise": 0.05,
    "kl_last": 5.0,
    "kl_highest": 6.0,
    "kl_jump": 0.5,
    "kl_alarm_steps": 0.0,
    "length_first": 100.0,
    "length_last": 110.0,
    "truncated_first": 0.01,
    "truncated_last": 0.02,
    "distinct_4_first": 0.9,
    "distinct_4_last": 0.85,
    "explained_variance_last": 0.6,
    "logprob_gap": 1e-6,
}


def judge(state: str = "completed", cause: str = "", **changes: float) -> Verdict:
    return verdict(HEALTHY | changes, state=state, cause=cause)


def subjects(found: Verdict, grade: str) -> list[str]:
    return [reason.subject for reason in found.reasons if reason.grade == grade]


def test_a_healthy_run_is_good() -> None:
    found = judge()
    assert found.grade == "good"
    assert found.headline == "Good: the reward rose from 0.2 to 0.9, and nothing speaks against it."
    assert {reason.grade for reason in found.reasons} == {"good"}


WON = {"win_rate": 0.7, "win_rate_low": 0.65, "win_rate_high": 0.75}
EVEN = {"win_rate": 0.5, "win_rate_low": 0.45, "win_rate_high": 0.55}


@pytest.mark.parametrize(
    ("changes", "grade", "subject"),
    [
        ({"reward_rise": 0.1}, "doubtful", "reward"),  # 2 standard errors of 0.05
        ({"reward_rise": 0.0, "reward_noise": 0.0}, "doubtful", "reward"),  # all the same for ever
        ({"reward_rise": -0.2, "reward_last": 0.0}, "bad", "reward"),
        ({"reward_highest": 1.7}, "doubtful", "reward"),  # of a gain of 1.5 it has lost 0.8
        ({"broken_steps": 2.0}, "bad", "loss"),
        (EVEN, "bad", "hacking"),  # the reward rose, and the judge sees nothing of it
        ({"win_rate": 0.4, "win_rate_low": 0.35, "win_rate_high": 0.45}, "bad", "win rate"),
        ({**WON, "win_rate_best": 0.8, "win_rate_best_step": 40.0}, "doubtful", "win rate"),
        ({"kl_last": 12.0}, "doubtful", "KL"),
        ({"kl_last": 16.0}, "bad", "KL"),
        ({"kl_last": 16.0}, "bad", "hacking"),
        ({"kl_alarm_steps": 50.0, "kl_highest": 20.0}, "bad", "KL"),
        ({"kl_jump": 6.0, "kl_last": 11.0}, "doubtful", "KL"),
        ({"kl_last": 0.1, "reward_rise": 0.01}, "doubtful", "KL"),  # has hardly moved
        ({"length_last": 160.0}, "doubtful", "length"),
        ({"length_last": 40.0}, "doubtful", "length"),
        ({"length_last": 160.0, "kl_last": 11.0}, "bad", "hacking"),
        ({"distinct_4_last": 0.5}, "doubtful", "diversity"),
        ({"distinct_4_last": 0.5, "length_last": 160.0}, "bad", "hacking"),
        ({"distinct_3_ratio": 0.5}, "doubtful", "diversity"),
        ({"distinct_3_ratio": 0.09, **WON}, "bad", "diversity"),  # whoever likes it
        ({"unique_first": 1.0, "unique_last": 0.4}, "doubtful", "diversity"),
        ({"length_last": 125.0, "length_reward_last": 0.3}, "doubtful", "length"),
        ({"truncated_last": 0.3}, "doubtful", "truncation"),
        ({"logprob_gap": 0.2}, "bad", "log-prob gap"),
        ({"effective_samples_last": 0.3, "staleness_last": 4.0}, "doubtful", "staleness"),
        ({"explained_variance_last": -0.1}, "doubtful", "critic"),
        ({"grad_clipped": 0.3}, "doubtful", "gradient"),
        ({"untrained_share": 0.1, "settled": 100.0}, "doubtful", "groups"),
        ({"untrained_share": 0.3, "settled": 100.0}, "bad", "groups"),
        ({"worker_restarts": 5.0}, "doubtful", "restarts"),
    ],
)
def test_each_thing_that_is_wrong_is_named_with_its_gravity(
    changes: dict[str, float], grade: str, subject: str
) -> None:
    found = judge(**changes)
    assert subject in subjects(found, grade)
    assert found.grade == ("bad" if subjects(found, "bad") else "doubtful")


@pytest.mark.parametrize(
    "changes",
    [
        {"kl_jump": 46.0},  # and came back
        {"worker_restarts": 2.0},
        {"entropy_first": 1.0, "entropy_last": 0.05},
        {"distinct_4_first": 0.5, "distinct_4_last": 0.5},  # how the task is
        {"kl_last": 1.0},
        {"equal_groups_last": 0.6},
        {"length_last": 125.0, "length_reward_last": 0.1},
        WON,
    ],
)
def test_what_is_only_worth_a_note_leaves_a_good_run_good(changes: dict[str, float]) -> None:
    assert judge(**changes).grade == "good"


def test_a_judge_outweighs_signs_of_hacking() -> None:
    hacked = {"kl_last": 16.0, "length_last": 160.0}
    assert "hacking" in subjects(judge(**hacked), "bad")
    found = judge(**hacked, **WON)
    assert found.grade == "doubtful"
    assert "hacking" in subjects(found, "doubtful")
    assert found.headline.startswith("Doubtful: Signs of reward hacking, though the judge still prefers it")


def test_the_trained_reward_is_no_judge_of_its_own_exploitation() -> None:
    found = judge(kl_last=16.0, length_last=160.0, own_judge=1.0, **WON)
    assert "hacking" in subjects(found, "bad")
    assert any("judged by the reward that it was trained on" in reason.text for reason in found.reasons)


@pytest.mark.parametrize(
    ("state", "cause", "grade", "words"),
    [
        ("failed", "no disk", "bad", "failed after 60 of 100 steps: no disk."),
        ("dead", "", "bad", "driver was killed after 60 of 100 steps"),
        ("stopped", "", "doubtful", "stopped after 60 of 100 steps"),
        ("running", "", "good", "Good so far"),
    ],
)
def test_a_run_that_was_cut_short_says_so_first(state: str, cause: str, grade: str, words: str) -> None:
    found = judge(state, cause, steps=60.0)
    assert found.grade == grade
    assert words in found.headline


def test_nothing_trained_is_doubtful_and_not_good() -> None:
    found = verdict({"steps": 0.0, "steps_planned": 10.0}, state="starting")
    assert found.grade == "doubtful"
    assert "too few" in found.headline


# -- figures ---------------------------------------------------------------------------------------------------------


def test_the_noise_of_a_rise_by_hand() -> None:
    """0 1 0 1 2 3 2 3, w = 3: rise (2+3+2... = 8/3) - 1/3; squared differences 1 1 1 1 1 1 1, sigma^2 = 1/2, error sqrt(1/2 * 2/3)."""
    rise, error = rise_of([0, 1, 0, 1, 2, 3, 2, 3])
    assert rise == pytest.approx(8 / 3 - 1 / 3)
    assert error == pytest.approx(math.sqrt(1 / 3))


def test_a_trend_is_not_taken_for_noise() -> None:
    rise, error = rise_of([0.01 * step for step in range(100)])
    assert rise == pytest.approx(0.9)
    assert rise / error > 100


@pytest.mark.parametrize(("steps", "size"), [(1, 1), (4, 2), (6, 3), (100, 10), (100_000, 50)])
def test_the_beginning_and_the_end_never_overlap(steps: int, size: int) -> None:
    assert window(steps) == size


def figures_by(run: RunFolder) -> dict[str, float]:
    return figures_of(read_run(run))


def test_figures_of_a_healthy_run(tmp_path: Any) -> None:
    figures = figures_by(a_healthy_run(tmp_path))
    assert figures["steps"] == figures["steps_planned"] == 40
    assert figures["length_first"] == figures["length_last"] == 30
    assert figures["kl_highest"] == pytest.approx(4.0)
    assert figures["tokens_per_s"] == pytest.approx(500)  # 1,000 in 2 s
    assert figures["steps_per_hour"] == pytest.approx(1800)
    assert figures["wall_s"] == pytest.approx(100)  # the last line of its timeline
    assert verdict(figures, state="completed").grade == "good"


def test_a_later_life_counts_for_the_steps_it_trained_again(tmp_path: Any) -> None:
    first = [a_step(step, reward_mean=0.0) for step in (1, 2, 3, 4)]
    second = [a_step(step, epoch=3, reward_mean=1.0) for step in (3, 4, 5)]
    run = read_run(a_reported_run(tmp_path, steps=[*first, *second]))
    assert [row["reward_mean"] for row in run.steps] == [0, 0, 1, 1, 1]
    assert run.lives == (3,)


def test_no_number_leaves_a_gap_and_is_counted(tmp_path: Any) -> None:
    steps = [a_step(step) for step in range(1, 11)]
    steps[4] |= {"loss": float("nan"), "reward_mean": None, "kl_per_response": "much"}
    figures = figures_by(a_reported_run(tmp_path, steps=steps))
    assert figures["broken_steps"] == 1
    assert figures["kl_highest"] == pytest.approx(1.0)


def test_a_run_that_diverged_is_told_by_its_last_numbers(tmp_path: Any) -> None:
    """Of 40 steps the first 5 and the last 5 are broken; windows are of 3 of the 30 that are left: 6 to 8, 33 to 35."""
    lost = dict.fromkeys(("reward_mean", "loss", "grad_norm", "truncated", "response_length_mean"), float("nan"))
    lost["reward_measures"] = {}  # type: ignore[assignment]
    steps = [a_step(step, reward_mean=step / 10) | (lost if not 5 < step <= 35 else {}) for step in range(1, 41)]
    run = a_reported_run(tmp_path, steps=steps)
    figures = figures_by(run)
    assert (figures["reward_first"], figures["reward_last"]) == (pytest.approx(0.7), pytest.approx(3.4))
    assert figures["reward_rise"] == pytest.approx(figures["reward_last"] - figures["reward_first"])
    assert figures["broken_steps"] == 10
    content = write_report(run, run.report)
    assert content["verdict"] == "bad"
    assert "In 10 steps loss, reward or gradient was no finite number." in content["headline"]


def test_a_reward_that_fell_from_its_height_is_not_good(tmp_path: Any) -> None:
    """Up by 0.1 a step to 2.0, then down to 0.5, which is still more than it began with."""
    rewards = [step / 10 for step in range(21)] + [2 - 0.075 * step for step in range(1, 21)]
    run = a_reported_run(tmp_path, steps=[a_step(step, reward_mean=reward) for step, reward in enumerate(rewards)])
    figures = figures_by(run)
    # Windows of 4: 0, .1, .2, .3 make 0.15; 0.725, .65, .575, .5 make 0.6125; 1.9, 2.0, 1.925, 1.85 make 1.91875.
    assert figures["reward_first"] == pytest.approx(0.15)
    assert figures["reward_last"] == pytest.approx(0.6125)
    assert figures["reward_highest"] == pytest.approx(1.91875)
    found = verdict(figures, state="completed")
    assert found.grade == "doubtful"
    assert "had been at 1.92: 74% of the gain is lost again" in found.headline


def test_steps_that_were_left_out_of_a_long_run_make_no_jump_and_count_for_a_stretch(tmp_path: Any) -> None:
    """Every 20th step was read: KL is 16 from step 40 to step 100, and rose by 10 in 20 steps, by 1 in one."""
    told = {1: 4.0, 2: 5.0, 20: 6.0, 40: 16.0, 60: 16.0, 80: 16.0, 100: 16.0, 120: 7.0}
    figures = figures_by(a_reported_run(tmp_path, steps=[a_step(at, kl_per_response=kl) for at, kl in told.items()]))
    assert figures["kl_jump"] == 1
    assert figures["kl_alarm_steps"] == 61


def test_wall_time_adds_up_lives_whose_clocks_do_not_fall(tmp_path: Any) -> None:
    """A life of 30 s, and one of which the first line is of 40 s."""
    lines = [a_line(10.0), a_line(30.0), a_line(40.0, epoch=3), a_line(50.0, epoch=3)]
    assert figures_by(a_reported_run(tmp_path, timeline=lines))["wall_s"] == pytest.approx(80)


def test_settlements_and_quarantines_make_the_share_that_was_not_trained(tmp_path: Any) -> None:
    run = a_healthy_run(tmp_path)
    commit(run, 1, outcomes=[("quarantined", "poison")])
    commit(run, 2, outcomes=[("dropped", "late")])
    figures = figures_by(run)
    assert (figures["settled"], figures["trained"]) == (6, 4)
    assert figures["untrained_share"] == pytest.approx(1 / 3)
    settled = read_run(run).settled
    assert settled is not None
    assert settled.reasons == {("quarantined", "poison"): 1, ("dropped", "late"): 1}


def test_a_stop_after_the_last_step_cuts_nothing_short() -> None:
    assert judge("stopped").grade == "good"
    assert subjects(judge("stopped", steps=99.0), "doubtful") == ["end"]


def test_a_pause_between_two_lives_is_nobodys_pace(tmp_path: Any) -> None:
    """Steps of 2 s and 1,000 tokens; 4 begins another life, an hour later."""
    later = {"epoch": 3, "time": iso(BEGAN + 3600)}
    steps = [*(a_step(step) for step in (1, 2, 3)), a_step(4) | later]
    assert figures_by(a_reported_run(tmp_path, steps=steps))["tokens_per_s"] == pytest.approx(500)


def test_a_gap_counts_at_equal_weights_alone(tmp_path: Any) -> None:
    drifted = {"logprob_gap": 0.9, "logprob_gap_staleness": 2}
    steps = [a_step(step, logprob_gap=0.02) | (drifted if step % 2 else {}) for step in range(1, 11)]
    assert figures_by(a_reported_run(tmp_path, steps=steps))["logprob_gap"] == pytest.approx(0.02)


def test_a_trained_reward_is_no_judge_and_an_answer_alone_has_no_variety(tmp_path: Any) -> None:
    evaluations = [{"step": 4, "win_rate": 0.7, "win_rate_low": 0.6, "win_rate_high": 0.8}]
    run = read_run(a_reported_run(tmp_path, steps=[a_step(step) for step in range(1, 5)], evaluations=evaluations))

    def of(**settings: Any) -> dict[str, float]:
        return figures_of(replace(run, settings={key.replace("__", "."): value for key, value in settings.items()}))

    assert of(evaluation__judge=None)["own_judge"] == 1
    assert "own_judge" not in of(evaluation__judge="another")
    alone = {"unique_first", "unique_last", "equal_groups_first", "equal_groups_last"}
    assert alone & set(of(generation__group_size=1)) == set()
    assert alone <= set(of(generation__group_size=2))


def test_of_a_ledger_no_more_is_read_than_its_budget(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "LEDGER_BYTES", 1)
    run = a_healthy_run(tmp_path)
    for number in (1, 2, 3):
        commit(run, number)
    settled = read_run(run).settled
    assert settled is not None
    assert (settled.first, settled.last) == (3, 3)


def test_a_life_whose_clock_goes_on_where_the_last_one_stopped_is_another(tmp_path: Any) -> None:
    lines = [a_line(10.0), a_line(30.0), a_line(40.0, epoch=3, began=BEGAN + 1000), a_line(50.0, epoch=3)]
    assert [life.start_s for life in time_use(lines).lives] == [0, 30]


def test_restarts_are_counted_from_the_log(tmp_path: Any) -> None:
    logs = [
        said("worker restarts", 30, member="gen-0", cause="its process died"),
        said("worker restarts", 40, member="gen-0", cause="no heartbeat"),
        said("all ranks restart", 50, cause="rank-0: its process died", step=13),
    ]
    figures = figures_by(a_healthy_run(tmp_path, logs=logs))
    assert (figures["worker_restarts"], figures["trainer_restarts"]) == (2, 1)


def test_a_driver_that_was_killed_is_missed_by_the_next_life(tmp_path: Any) -> None:
    """Three lives: the first was killed after its last line at 60 s, the second ended, the third is gone after 220 s."""
    logs = [
        said("life begins", 0, level="info", logger="orchestrator.life", epoch=1),
        said("life begins", 100, level="info", logger="orchestrator.life", epoch=3),
        said("life ends", 150, level="info", logger="orchestrator.life", state="stopped"),
        said("life begins", 200, level="info", logger="orchestrator.life", epoch=5),
    ]
    lines = [a_line(40.0), a_line(60.0), a_line(220.0, epoch=5)]
    run = read_run(a_reported_run(tmp_path, logs=logs, timeline=lines, state="running"))
    killed = [event.time_s - BEGAN for event in run.events if event.what == "the driver was killed"]
    assert killed == pytest.approx([60, 220])
    assert run.state == "dead"
    assert figures_of(run)["lives"] == 3


# -- two runs ------------------------------------------------------------------------------------------------------------


def compared(
    b: dict[str, float], *, grades: Any = ("good", "good"), same_reward: bool = True, same_judge: bool = True
) -> Any:
    return compare(
        HEALTHY, HEALTHY | b, names=("one", "two"), grades=grades, same_reward=same_reward, same_judge=same_judge
    )


def test_the_reward_decides_beyond_its_noise_only() -> None:
    assert compared({"reward_last": 1.0}).better == "neither"  # 2 standard errors of 0.05
    found = compared({"reward_last": 1.2})
    assert found.better == "B"
    assert "reward 0.9 against 1.2 at the end" in found.headline
    assert "no judge has compared them" in found.headline
    assert any("another seed" in line for line in found.sentences)


def test_a_hacked_reward_wins_nothing() -> None:
    found = compared({"reward_last": 2.0}, grades=("good", "bad"))
    assert found.better == "A"
    assert found.headline.startswith("one is the one to keep")


def test_one_judge_outweighs_the_reward() -> None:
    judged = {"win_rate": 0.7, "win_rate_low": 0.65, "win_rate_high": 0.75}
    other = {"win_rate": 0.5, "win_rate_low": 0.45, "win_rate_high": 0.55, "reward_last": 2.0}
    names = ("one", "two")
    found = compare(
        HEALTHY | judged, HEALTHY | other, names=names, grades=("good", "good"), same_reward=True, same_judge=True
    )
    assert found.better == "A"
    apart = compare(
        HEALTHY | judged, HEALTHY | other, names=names, grades=("good", "good"), same_reward=True, same_judge=False
    )
    assert apart.better == "B"


def test_different_rewards_are_not_compared() -> None:
    assert compared({"reward_last": 9.0}, same_reward=False, same_judge=False).headline.startswith("Not comparable")


def test_folders_that_were_copied_are_the_same_setting() -> None:
    first = {"scoring.rewards.0.path": "/a/judge", "pacing.max_staleness": 1, "run.name": "one"}
    second = {"scoring.rewards.0.path": "/b/judge", "pacing.max_staleness": 2, "run.name": "two"}
    assert same("scoring.rewards", first, second)
    assert not same("pacing", first, second)
    assert not same("evaluation", first, second)  # neither has one
    often, seldom = (
        {"evaluation.interval_steps": 5, "evaluation.limit": 8},
        {"evaluation.interval_steps": 9, "evaluation.limit": 8},
    )
    assert same("evaluation", often, seldom, apart_from=HOW)
    assert not same("evaluation", often, {"evaluation.limit": 9}, apart_from=HOW)
    assert not same("evaluation", {"evaluation": None}, {"evaluation": None}, apart_from=HOW)
    assert not same("eval", often, seldom)
    assert differing({"a": None}, {"b": 1}) == {"a": (None, "(absent)"), "b": ("(absent)", 1)}
    assert differing(first, second) == {"pacing.max_staleness": (1, 2)}


def test_keys_that_remedies_name_are_a_recipes() -> None:
    keys = flatten(a_recipe(evaluation={"path": "h.jsonl"}))
    sources = [inspect.getsource(module) for module in (advice, rules_health, rules_learning)]
    sections = "generation|scoring|pacing|store|training|evaluation"
    named = {key for source in sources for key in re.findall(rf"\b((?:{sections})(?:\.[a-z_]+)+)", source)}
    assert len(named) > 15
    assert {key for key in named if not any(one == key or one.startswith(f"{key}.") for one in keys)} == {
        "evaluation.verdict"  # a module
    }


def test_time_is_told_otherwise_of_a_run_that_failed_or_began_anew() -> None:
    waited = {"start": 60.0, "training": 30.0, "generation": 1.0}
    healthy = advice.advice(waited, {})
    assert "add ranks" in healthy[1]
    assert healthy[-1] == "Starting took 66% of the time: a longer run spreads it over more steps."
    failed = advice.advice(waited, {}, begun=6.0, failed=True)
    assert [line.split(",")[0].split(":")[0] for line in failed] == ["Bottleneck", "Starting took 66% of the time"]
    assert "begun anew 5 times: mend the cause" in failed[-1]


@pytest.mark.parametrize(
    ("changes", "grade", "said"),
    [
        ({"explained_variance_last": 0.01}, "note", "hardly more than a constant"),
        ({"explained_variance_last": 0.4}, "good", "explains 40%"),
        ({"lives": 2.0}, "note", "Begun anew: the driver 1 time;"),
        ({"lives": 3.0, "worker_restarts": 3.0}, "doubtful", "workers 3 times, the driver 2 times"),
    ],
)
def test_health_is_told_as_it_is(changes: Any, grade: str, said: str) -> None:
    found = [one for rule in (critic, restarts) for one in rule(changes)]
    assert [one.grade for one in found] == [grade]
    assert said in found[0].text


def test_answers_that_grew_did_not_hold_their_length() -> None:
    (found,) = length({"length_first": 18.0, "length_last": 26.0, "length_reward_last": 0.0})
    assert (found.grade, found.subject) == ("note", "length")
    assert "grew" in found.text
