"""The accounts of the throughput benchmarks: shares and seconds that must add up, tables, and a valid recipe. 1 s."""

import json
import random

import pytest

from benchmarks import loop, reward_race, section, uneven, vs_trl
from benchmarks.measured_run import Measured, Worker
from orchestrator.recipe import load


def measured(*workers: Worker) -> Measured:
    return Measured(
        start_s=25.0,
        wall_s=10.0,
        steps=5,
        tokens=50_000,
        mean_length=70.0,
        workers=workers,
        machine_busy_s=19.0,
        cores=2,
    )


GEN = Worker(name="gen-0", cpu_s=9.0, work_cpu_s=8.0, phases={"sampling": 8.5, "loading weights": 0.5})
SCORE = Worker(name="score-0", cpu_s=2.5, work_cpu_s=2.0, phases={"scoring": 2.5})
RANK = Worker(name="rank-0", cpu_s=7.0, work_cpu_s=6.0, phases={"training": 6.5})
DRIVER = Worker(name="driver", cpu_s=0.1, work_cpu_s=0.0, phases={})


def test_core_seconds_add_up_to_the_machine() -> None:
    """20 core-seconds: 16 useful, 2.6 of our own beside it, 0.4 of others, 1 idle."""
    result = measured(GEN, SCORE, RANK, DRIVER)
    assert result.useful == pytest.approx(16 / 20)
    assert result.tokens_per_s == 5000
    line = loop.core_seconds([({"max_staleness": 1, "setting": "s"}, result)]).splitlines()[-1]
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells == ["80.0%", "40.0%", "10.0%", "30.0%", "13.0%", "2.0%", "5.0%"]
    useful, *_, own, others, idle = (float(cell[:-1]) for cell in cells)
    assert useful + own + others + idle == pytest.approx(100)


def test_a_workers_wall_seconds_add_up_to_a_step() -> None:
    """A step of 2 s: sampling 1.7 and loading 0.1, so 0.2 of waiting."""
    lines = loop.wall_seconds([({"max_staleness": 0, "setting": "s"}, measured(GEN, DRIVER))]).splitlines()
    assert lines[2:] == ["| η = 0, gen-0 | sampling 1.70, loading weights 0.10 | 0.20 | 2.00 |"]


def test_throughput_is_shown_against_no_staleness() -> None:
    slow = measured(GEN, RANK)
    keys = ({"max_staleness": 0, "setting": "a"}, {"max_staleness": 1, "setting": "b"})
    lines = loop.throughput([(keys[0], slow), (keys[1], slow)]).splitlines()
    assert lines[-1] == "| η = 1, b | 5,000 | 2.00 | 1.00 | 280 |"


@pytest.mark.parametrize("setting", loop.SETTINGS.values(), ids=loop.SETTINGS)
def test_the_recipe_is_valid(setting: loop.Setting, tmp_path) -> None:
    made = loop.recipe(tmp_path, name="loop-1", staleness=1, setting=setting)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(made))
    assert load(path).training.ranks == setting.ranks


def test_prompts_are_the_same_every_time_and_no_answer_is_empty() -> None:
    assert list(uneven.rows(3)) == list(uneven.rows(3))
    assert {len(row["answer"]) for row in uneven.rows(5)} == {uneven.MAX_TOKENS}


def test_the_uneven_task_is_uneven() -> None:
    """Geometric with 1/98, cut at 128: mean (1 − (97/98)^128) · 98 = 71.6."""
    chance, generator = 1 / (len(uneven.CHARACTERS) + len(uneven.SPECIAL)), random.Random(0)
    lengths = [next((n for n in range(1, 128) if generator.random() < chance), 128) for _ in range(20_000)]
    assert sum(lengths) / len(lengths) == pytest.approx(71.6, rel=0.02)


def test_ratios_are_taken_turn_by_turn() -> None:
    """The machine slowed down in the second turn: 300/100 and 150/60, median 2.75."""
    ours = [{"who": "headrace", "how": "h", "tokens_per_s": v, "cpu_us_per_token": 300} for v in (300, 150)]
    theirs = [
        {
            "who": "TRL",
            "how": "t",
            "tokens_per_s": v,
            "cpu_us_per_token": 400,
            "processes": p.processes,
            "threads": p.threads,
        }
        for v in (100, 60)
        for p in vs_trl.PEERS
    ]
    lines = vs_trl.comparison([*ours, *theirs], ours).splitlines()
    assert lines[2] == "| headrace, η = 1, h | 225 | 300 | 1 |"
    assert lines[3].endswith("| 80 | 400 | 2.75 (2.50–3.00) |")


def test_time_to_reward_counts_from_the_first_step() -> None:
    """Mean of 3 steps ≥ 0.6 first at the fourth: (0.5 + 0.7 + 0.7) / 3."""
    curve = [(10.0, 0.1), (11.0, 0.5), (12.0, 0.7), (13.0, 0.7), (14.0, 0.9)]
    assert reward_race._row("x", curve) == ["x", "3", "4", "1.00", "77%"]
    assert reward_race._row("x", curve[:2])[1] == "not reached"


def test_a_table_is_markdown() -> None:
    assert section.table(["a", "b"], [["c", "d"]]) == "| a | b |\n| --- | ---: |\n| c | d |"
