"""The tables of the demo's page, from figures made by hand; under a second."""

from pathlib import Path

from benchmarks import demo_seeds, section
from orchestrator.recipe import load

FIGURES = {
    "win_rate": 0.91,
    "win_rate_low": 0.885,
    "win_rate_high": 0.934,
    "score": 2.5,
    "reward": 1.25,
    "distinct_3": 0.3,
    "distinct_3_ratio": 0.75,
    "length_ratio": 0.97,
    "kl": 3.34,
}
BEFORE = {"score": -1.0, "reward": 0.0, "distinct_3": 0.4, "kl": 0.0}


def outcome(*, passed: bool) -> demo_seeds.Outcome:
    answer = {"text": "the soup was rich .", "score": -1.5}
    return demo_seeds.Outcome(
        seed=1,
        before=BEFORE,
        after=FIGURES,
        gates=[{"gate": "win_rate>=0.7", "passed": True}, {"gate": "kl<=10", "passed": passed}],
        held_out={"accuracy": 0.7, "accuracy_95": [0.66, 0.74], "length": {"pearson": -0.05}},
        seconds={"sft": 30.2, "reward": 20.0, "run": 120.4, "export": 1.0, "eval": 25.0},
        by_step={"0": BEFORE, "12": FIGURES},
        answers=[{"prompt": "on monday we had the stew in town :", "answers": {"start": [answer], "demo": [answer]}}],
    )


def test_a_seed_passes_where_all_its_gates_do() -> None:
    assert outcome(passed=True).passed
    assert not outcome(passed=False).passed


def test_the_tables_hold_the_figures(tmp_path: Path) -> None:
    page = tmp_path / "demo.md"
    page.write_text("<!-- begin seeds -->\n<!-- end seeds -->\n")
    section.replace(page, "seeds", demo_seeds.results([outcome(passed=True), outcome(passed=False)]))
    lines = page.read_text().splitlines()
    assert "| win rate by gold | 91.0% | 91.0% |" in lines
    assert "| 95 % interval | 88.5% to 93.4% | 88.5% to 93.4% |" in lines
    assert "| all, s | 197 | 197 |" in lines  # 30.2 + 20 + 120.4 + 1 + 25 = 196.6
    assert "| gate | passed | **failed** |" in lines
    by_step = demo_seeds.steps_table({"seed 1": outcome(passed=True).by_step}).splitlines()
    assert "| seed 1 | 0 | – | -1.00 | 0.00 | 0.00 | 1.00 |" in by_step
    assert "| seed 1 | 12 | 91.0% | 2.50 | 1.25 | 3.34 | 0.75 |" in by_step  # 0.3 / 0.4
    assert "> after (-1.50): the soup was rich ." in demo_seeds.samples(outcome(passed=True))


def test_the_versions_judged_are_those_that_checkpoints_keep() -> None:
    last = demo_seeds.load_steps(demo_seeds.RECIPE)
    assert last % load(demo_seeds.RECIPE).training.checkpoint.interval_steps == 0  # else the last two are close
    assert demo_seeds.cut_steps(demo_seeds.RECIPE, last) == [12, 24, 36]
    assert demo_seeds.cut_steps(demo_seeds.RECIPE, demo_seeds.UNBOUND_STEPS) == [36, 48, 60]


def test_the_page_has_every_section() -> None:
    page = Path("docs/demo.md").read_text(encoding="utf-8")
    for name in ("seeds", "steps", "unbound", "samples"):
        assert page.count(f"<!-- begin {name} -->\n") == page.count(f"<!-- end {name} -->") == 1
