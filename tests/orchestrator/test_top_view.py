"""`headrace top`: the figures of a frame worked out by hand, its sentence, and its lines at any size."""

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner
from watched_folder import START, append, stamp, status_of, step_line, timeline_line, watched

from orchestrator import recipe as recipes
from orchestrator.cli import app
from orchestrator.folder import RunFolder
from orchestrator.top import window
from orchestrator.top.command import rendered
from orchestrator.top.frame import frame, plain
from orchestrator.top.sources import Sources
from orchestrator.top.spark import bar, short, span, spark
from orchestrator.top.view import View, binned, step_seconds, view


def seen(run: RunFolder, second: float, *, alive: bool = True) -> View:
    found = Sources(run).look(START + second)
    found.alive = alive
    return view(found, recipes.load_dumped(run.recipe))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return watched(tmp_path)


def test_rates_shares_and_the_time_that_is_left(run: RunFolder) -> None:
    found = seen(run, 41)
    generation, scoring, training = (found.clusters[name] for name in ("generation", "scoring", "training"))
    assert (found.state, found.step, found.steps, found.window_s) == ("running", 10, 100, 30)
    assert (found.step_s, found.eta_s) == (4.0, 360.0)
    assert generation.rates == {"tokens_per_s": 1000, "groups_per_s": 10}
    assert scoring.rates == {"groups_per_s": 5, "samples_per_s": 40}, "groups of 8"
    assert training.rates == {"steps_per_min": 15, "samples_per_s": 4}
    assert [round(cluster.busy or 0, 6) for cluster in (generation, scoring, training)] == [1, 0.9, 0.4]
    assert (training.workers, training.running) == (1, 1)
    assert {name: stream.groups for name, stream in found.streams.items()}["completions"] == 14
    assert (found.published, found.published_s, found.served) == (10, 1.0, {"gen-0": "0/1/9"})
    assert found.staleness == {"allowed": 4.0, "mean": 0.5, "max": 1.0}
    assert (found.silent_s, found.up_s) == (1.0, 41.0)


def test_who_is_waited_for_since_when_in_words(run: RunFolder) -> None:
    found = seen(run, 40).bottleneck
    assert (found.stage, found.since_s) == ("scoring", 40)
    assert found.shares["scoring"] == pytest.approx(0.6)
    assert found.text == "scoring is the bottleneck for 40 s: 14 groups wait for it, the trainer waits 60% of the time"


def test_a_bottleneck_that_moved_is_dated(run: RunFolder) -> None:
    """From second 40 on the loop waits for generation alone. Of the 30 s up to second 40 + x these are x, and scoring has
    0.6 · (30 − x) of them: generation leads from x = 11.25 on, which the line of second 52 is the first to show."""
    waited = {"start": 0.0, "scoring": 24.0, "training": 16.0}
    append(
        run.timeline, *(timeline_line(float(s), waited_for=waited | {"generation": s - 40.0}) for s in range(42, 71, 2))
    )
    found = seen(run, 70).bottleneck
    assert (found.stage, found.since_s) == ("generation", 70 - 52)


@pytest.mark.parametrize(
    ("waited", "said"),
    [
        ({"training": 40.0}, "training is the bottleneck for 40 s, it is at work 40% of the time"),
        (
            {"generation": 40.0},
            "generation is the bottleneck for 40 s: 8 groups wait for it or run there, the trainer waits 60%",
        ),
        ({"publication": 40.0}, "publication is the bottleneck for 40 s: engines and admission stand still"),
        ({"start": 40.0}, "starting: all 3 processes are up (train 11)"),
    ],
)
def test_each_stage_has_its_words(tmp_path: Path, waited: dict[str, float], said: str) -> None:
    run = watched(tmp_path)
    run.timeline.unlink()
    append(run.timeline, timeline_line(0.0, waited_for={}), timeline_line(40.0, waited_for=waited))
    assert seen(run, 40).bottleneck.text.startswith(said)


def test_a_start_names_who_is_still_to_come(tmp_path: Path) -> None:
    workers = {"gen-0": {"state": "starting"}, "rank-0": {"state": "running"}}
    run = watched(tmp_path, state="starting", workers=workers)
    assert seen(run, 40).bottleneck.text == "starting: 1 of 2 processes are up, gen-0 still to come"


@pytest.mark.parametrize(
    ("state", "alive", "shown", "said"),
    [
        ("running", False, "dead", "its driver was killed; `headrace resume` goes on; scoring was the bottleneck"),
        ("failed", False, "failed", "it failed: no room; scoring was"),
        ("completed", False, "completed", "it has trained its last step; scoring was"),
    ],
)
def test_a_run_that_is_over_shows_its_end(tmp_path: Path, state: str, alive: bool, shown: str, said: str) -> None:
    run = watched(tmp_path, state=state, cause="no room" if state == "failed" else "", workers={})
    found = seen(run, 4000, alive=alive)
    assert (found.state, found.eta_s, found.up_s, found.published_s) == (shown, None, 40, 0)
    assert found.bottleneck.text.startswith(said)
    assert [worker.name for worker in found.workers] == ["gen-0", "score-0", "rank-0"], "as last seen"
    assert [one.event for one in found.warnings] == ["worker restarts"], "of its last minutes, not of the last ones"


def test_a_restarted_workers_counters_begin_anew() -> None:
    lines = [
        timeline_line(second, workers={"gen-0": {"tokens": tokens, "wall": {"generate": tokens / 1000}}})
        for second, tokens in ((0, 5000), (10, 15000), (20, 4000))
    ]
    assert window.rate(lines, "gen", "tokens") == 700  # 10,000 + 4,000 in 20 s
    assert window.phases(lines, "gen-0") == {"generate": 14}


def test_many_workers_of_a_role_stand_as_their_sum() -> None:
    lines = [
        timeline_line(second, workers={"gen*": {"count": 20, "groups": 40 * second, "wall": {"generate": 15 * second, "wait_prompts": 5 * second}}})
        for second in (0.0, 10.0)
    ]  # fmt: skip
    assert window.rate(lines, "gen", "groups") == 40
    assert window.busy_of_role(lines, "gen") == 0.75


def test_a_new_life_begins_its_own_window(run: RunFolder) -> None:
    append(run.timeline, timeline_line(0.0, epoch=2), timeline_line(2.0, epoch=2))
    assert seen(run, 44).window_s == 2
    assert len(Sources(run).look(START + 44).timeline) == 2


def test_each_look_reads_what_is_new_alone(run: RunFolder) -> None:
    sources = Sources(run)
    before = sources.look(START + 40)
    counted = (len(before.timeline), len(before.steps), len(before.warnings))
    append(run.timeline, timeline_line(42.0))
    append(
        run.metrics, step_line(9, reward_mean=-1.0), step_line(10), step_line(11)
    )  # two of them again, after a restart
    append(run.evaluations, {"time": stamp(41), "step": 8, "version": "0/1/8", "win_rate": 0.625})
    append(run.logs / "driver.jsonl", {"time": stamp(41), "level": "error", "logger": "l", "worker": "driver", "event": "server died"})  # fmt: skip
    after = sources.look(START + 42)
    assert (len(after.timeline), len(after.steps), len(after.warnings)) == (counted[0] + 1, counted[1] + 1, 2)
    assert [line["reward_mean"] for line in after.steps][-3:] == [-1.0, 1.0, 1.1]
    assert view(after, recipes.load_dumped(run.recipe)).learning["win_rate"].last == 0.625


def test_a_look_at_a_long_run_costs_what_one_at_a_short_costs(run: RunFolder) -> None:
    """11 MB of steps: some 2 MB of them are read, at the first look alone."""
    line = json.dumps(step_line(1) | {"note": "x" * 3700}) + "\n"
    with run.metrics.open("a") as file:
        file.write(line * 3_000)
    sources = Sources(run)
    cpu = time.process_time()
    sources.look(START + 40)
    first = time.process_time() - cpu
    cpu = time.process_time()
    for _ in range(20):
        frame(view(sources.look(START + 41), recipes.load_dumped(run.recipe)), width=80, height=24)
    each = (time.process_time() - cpu) / 20
    assert first < 0.5  # 0.02 s on an idle core
    assert each < 0.05  # 2 ms


def test_damage_and_absence_hide_nothing_else(run: RunFolder) -> None:
    with run.timeline.open("a") as file:
        file.write('{"time": "2025\n[1]\n{"elapsed_s": 3}\n{"time": "2025-06-15T12:00:00"}\n')
    run.metrics.unlink()
    (run.logs / "driver.jsonl").unlink()
    found = seen(run, 41)
    assert (found.clusters["generation"].rates["tokens_per_s"], found.step_s, found.warnings) == (1000, None, [])
    for path in (run.timeline, run.status):
        path.unlink()
    assert seen(run, 41).state == "new"
    assert plain(frame(seen(run, 41), width=80, height=24))[1] == "it has not started"


# -- frames ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("width", "height"), [(80, 24), (78, 24), (77, 24), (120, 40), (300, 100), (40, 10), (20, 2), (1, 1)]
)
def test_a_frame_fits_any_terminal(run: RunFolder, width: int, height: int) -> None:
    lines = plain(frame(seen(run, 41), width=width, height=height))
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width


def test_80_columns_and_24_lines_show_it_all(run: RunFolder) -> None:
    append(run.evaluations, {"time": stamp(41), "step": 8, "version": "0/1/8", "win_rate": 0.625})
    text = "\n".join(plain(frame(seen(run, 41), width=80, height=23)))
    for piece in (
        "running  step 10/100 (10%) · 4 s/step · 6:00 left",
        "scoring is the bottleneck for 40 s: 14 groups wait for it, the trainer waits 60%\nof the time",
        "1 k tokens/s", "10 groups/s", "serves v9", "5 groups/s", "40 samples/s", "15 steps/min", "train 11",
        "prompts", "completions", "experience", "3.2 s", " 90%", " 40%", "100%",
        "weights: v10 published, 1.0 s old", "22/64 groups · Redis 2 MB of 4 MB · ledger 11 · checkpoint 8",
        "0.50 steps, 1 at most of 4 · restarts: 1 of workers",
        "reward", "▁", "█", "KL              2 nats", "length        8 tokens", "win rate         62.5%",
        "waits for scoring 60% at work 40% in 30 s", "worker restarts  member=gen-0",
    ):  # fmt: skip
        assert piece in text, f"{piece!r} is missing in\n{text}"


def test_a_driver_that_says_nothing_is_noticed(run: RunFolder) -> None:
    assert "silent for 60 s" in plain(frame(seen(run, 100), width=80, height=24))[0]
    assert "silent" not in plain(frame(seen(run, 41), width=80, height=24))[0]


def test_what_a_model_wrote_cannot_steer_the_terminal(run: RunFolder) -> None:
    bad = {
        "time": stamp(40),
        "level": "error",
        "logger": "l",
        "worker": "driver",
        "event": "\x1b[2J\x07",
        "reason": "a\nb\x9b",
    }
    append(run.logs / "driver.jsonl", bad)
    lines = plain(frame(seen(run, 41), width=80, height=24))
    assert any("\\x1b[2J\\x07  reason=a\\nb\\x9b" in line for line in lines)
    assert all(line.isprintable() for line in lines)


# -- the command -------------------------------------------------------------------------------------------------------
def test_json_has_every_figure(run: RunFolder) -> None:
    done = CliRunner().invoke(app, ["top", str(run.path), "--json", "--once"])
    found = json.loads(done.stdout)
    assert found["state"] == "dead", "nobody holds its lock"
    assert found["clusters"]["generation"]["rates"]["tokens_per_s"] == 1000
    assert found["learning"]["reward"]["series"][:2] == [[1, 0.1], [2, 0.2]]


def test_what_is_no_terminal_gets_one_plain_frame(run: RunFolder) -> None:
    done = CliRunner().invoke(app, ["top", str(run.path)])
    assert done.exit_code == 0
    assert "╭─ generation" in done.stdout
    assert "\x1b" not in done.stdout


def test_no_color_is_obeyed(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True, encoding="utf-8"))
    lines = frame(seen(run, 41), width=80, height=24)
    assert any("\x1b[36m" in line for line in rendered(lines, width=80))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any(re.search(r"\x1b\[[\d;]*3\dm", line) for line in rendered(lines, width=80))


def test_a_terminal_without_blocks_gets_plain_characters(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: False, encoding="ascii"))
    lines = rendered(frame(seen(run, 41), width=80, height=24), width=80)
    assert all(line.isascii() and "?" not in line for line in lines)
    assert any("+- generation --+" in line for line in lines)


def test_a_run_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["top", str(tmp_path / "none")])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)


# -- parts -------------------------------------------------------------------------------------------------------------
def test_sparks() -> None:
    assert spark([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert spark([3.0, 3.0]) == "▅▅"
    assert spark([0.0, float("nan"), 1.0, float("inf")]) == "▁ █ "
    assert spark([]) == ""


@pytest.mark.parametrize(("share", "drawn"), [(0, "░░░░"), (0.5, "██░░"), (1.0, "████"), (1.7, "████"), (-1, "░░░░")])
def test_bars(share: float, drawn: str) -> None:
    assert bar(share, 4) == drawn


@pytest.mark.parametrize(
    ("value", "text"), [(0.12345, "0.123"), (1234, "1.23 k"), (12.34e6, "12.3 M"), (-4321, "-4.32 k")]
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (12.4, "12 s"), (200, "3:20"), (3723, "1:02:03"), (187_200, "2 d 4 h")]
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_bins_are_means_with_their_last_step() -> None:
    assert binned([(step, float(step)) for step in range(1, 7)], 3) == [(2, 1.5), (4, 3.5), (6, 5.5)]
    assert binned([(1, 1.0)], 3) == [(1, 1.0)]


def test_a_step_takes_what_the_last_ones_took() -> None:
    lines = [{"step": step, "at": at, "epoch": 1} for step, at in ((1, 0.0), (2, 100.0), (3, 102.0))]
    assert step_seconds(lines) == 51.0
    assert step_seconds([*lines, {"step": 4, "at": 500.0, "epoch": 2}]) is None, "a new life"
    assert step_seconds([]) is None


def test_status_of_this_builder_is_what_a_driver_writes() -> None:
    """Keys that the view reads are those of orchestrator.report and orchestrator.vitals."""
    assert {"oldest_s", "redis", "restarts", "streams", "workers", "last_step", "updated"} <= status_of(40).keys()
