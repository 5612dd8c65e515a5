"""One run as an outsider sees it: while it lives, and what is left of it afterwards.

The run starts once for the whole file, and so does the Prometheus that scrapes it (`watched_run.py`). To add a test, append
it to its half and ask for the fixture of that half:

    live     the run is at work, or done with its steps and waiting; all its processes were scraped at least once. It waits
             for this half of the tests with its last evaluation: look at it, change nothing
    ended    the command has ended by itself with exit code 0; the server still answers for all that was scraped

Both give a `Watched`: `.run` is the run's folder, `.life` its process, `.prometheus.query(…)` an instant vector,
`.prometheus.url` the server's address, `.started` a Unix time before the start. The halves stand in this order in the
file and pytest keeps it; a test that is run alone gets what it asks for all the same.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from html import unescape
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

import canary
import psutil
import pytest
from page_in_chromium import chromium, spills
from prometheus_server import running
from prometheus_shipped import configuration
from typer.testing import CliRunner
from watched_dashboards import EMPTY, panels_without_data
from watched_run import JUDGE_S, LIVE_STEP, NAME, STEPS, Watched, watching

from deploy.grafana.render.__main__ import render
from orchestrator import recipe as recipes
from orchestrator.cli import app
from orchestrator.doctor.command import diagnose
from orchestrator.run_report.reading import read_lines
from orchestrator.waited_for import STAGES, bottleneck

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def watched(workplace: Path) -> Iterator[Watched]:
    with watching(workplace) as seen:
        yield seen


@pytest.fixture
def live(watched: Watched) -> Watched:
    assert watched.is_live(), "tests of the second half stand before this one"
    watched.wait_until_at_work()
    return watched


@pytest.fixture
def ended(watched: Watched) -> Watched:
    watched.wait_for_the_end()
    return watched


# While it lives.


def test_every_process_of_a_living_run_is_scraped(live: Watched) -> None:
    up = {sample["metric"]["worker"]: sample["value"][1] for sample in live.prometheus.query('up{run="watched"}')}
    assert up == dict.fromkeys(("driver", "eval-0", "gen-0", "rank-0", "rank-1", "score-0"), "1")


def test_no_secret_is_seen_while_it_lives_and_every_socket_is_on_loopback(live: Watched) -> None:
    """Not in a command line, on a page of metrics or below the run's folder; though the processes have them all."""
    driver = psutil.Process(live.life.process.pid)
    processes = [driver, *driver.children(recursive=True), psutil.Process(live.life.server_pid())]
    own = (live.run / "redis" / "password").read_text()
    given = (Path("/proc") / str(driver.pid) / "environ").read_bytes()
    assert len(canary.seen_in(given, "environment")) == len(canary.SECRETS), (
        "they were given, so that they could be seen"
    )
    assert canary.seen_in_command_lines(processes, own) == []
    assert canary.seen_below(live.run, own) == []
    targets = json.loads((live.run / "targets.json").read_text())
    (first,) = [target["targets"][0] for target in targets if target["labels"]["worker"] == "driver"]
    for url in (*(f"http://{target['targets'][0]}/metrics" for target in targets), f"http://{first}/sd"):
        with urllib.request.urlopen(url, timeout=30) as answer:
            assert canary.seen_in(answer.read() + str(answer.headers).encode(), url, own) == []
    for name in canary.OWN:
        assert (live.run / "redis" / name).stat().st_mode & 0o077 == 0, "for its owner alone"
    listening = {
        socket.laddr
        for process in processes
        for socket in process.net_connections(kind="inet")
        if socket.status == psutil.CONN_LISTEN
    }
    assert len(listening) > len(targets), "of Ray as well"
    outer = [at for at in listening if not ip_address(at.ip.removeprefix("::ffff:")).is_loopback]
    assert outer == []
    assert not {at.port for at in listening} & {8265, 8076}, "no dashboard, which would take jobs"


def test_the_ray_of_a_run_answers_nobody_without_its_token(live: Watched) -> None:
    words = [word for one in psutil.Process(live.life.process.pid).children(recursive=True) for word in one.cmdline()]
    (address,) = {word.partition("=")[2] for word in words if word.startswith("--gcs-address=")}
    ask = (
        f"from ray._raylet import GcsClient; print(GcsClient(address='{address}').internal_kv_keys(b'', None) != None)"
    )
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    token = {"RAY_AUTH_TOKEN": canary.SECRETS["RAY_AUTH_TOKEN"]}
    for environment, answered in (
        ({"RAY_AUTH_MODE": "token", **token}, True),
        ({"RAY_AUTH_MODE": "disabled"}, False),
    ):
        command = [sys.executable, "-c", ask]
        done = subprocess.run(command, env=mine | environment, capture_output=True, text=True, check=False)
        assert (done.stdout.strip() == "True") == answered, done.stderr
        assert "nauthenticated" in done.stderr or answered


def said(*arguments: str | Path) -> str:
    """What a command prints, run in this process."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_top_knows_what_a_living_run_does(live: Watched) -> None:
    found = json.loads(said("top", live.run, "--once", "--json"))
    assert (found["state"], found["alive"], found["steps"]) == ("running", True, STEPS)
    assert 0 < found["step"] <= STEPS
    assert found["step_s"] > 0
    assert found["silent_s"] < 30
    rates = {name: cluster["rates"] for name, cluster in found["clusters"].items()}
    assert min(rates["generation"]["tokens_per_s"], rates["scoring"]["samples_per_s"]) > 0
    assert 60 / found["step_s"] == pytest.approx(rates["training"]["steps_per_min"])
    assert all(0 <= cluster["busy"] <= 1 for cluster in found["clusters"].values())
    assert [cluster["running"] for cluster in found["clusters"].values()] == [1, 1, 2]
    assert sum(found["bottleneck"]["shares"].values()) == pytest.approx(1)
    assert found["bottleneck"]["stage"] in STAGES
    assert found["bottleneck"]["text"].startswith(found["bottleneck"]["stage"])
    assert 0 < found["live"] <= found["capacity"]
    assert found["served"].keys() == {"gen-0"}
    assert len(found["learning"]["reward"]["series"]) >= LIVE_STEP - 1
    assert "╭─ generation" in said("top", live.run)


def test_the_logs_of_a_living_run_tell_the_way_of_a_group(live: Watched) -> None:
    lines = [json.loads(line) for line in said("logs", live.run, "--group", "3", "--json").splitlines()]
    way = [
        ("driver", "prompts issued"),
        ("gen-0", "groups generated"),
        ("score-0", "groups scored"),
        ("rank-0", "batch committed"),
    ]
    assert [(line["worker"], line["event"]) for line in lines] == way
    assert {line["run"] for line in lines} == {NAME}


def test_a_group_in_flight_is_found_where_it_is(live: Watched) -> None:
    """The newest that was issued; a busy machine may have it trained before it is asked for."""
    for _ in range(20):
        (newest,) = said("logs", live.run, "--grep", "prompts issued", "-n", "1", "--json").splitlines()
        found = json.loads(said("trace", live.run, str(json.loads(newest)["groups"][-1]), "--json"))
        if found["open"]:
            break
    assert found["state"].startswith("in flight")
    assert found["spans"][-1]["end"] == pytest.approx(time.time(), abs=30)


def test_prometheus_finds_every_process_by_file_and_over_http(live: Watched, workplace: Path) -> None:
    """With the configurations that ship, in a server of its own: the other one counts no process twice."""
    wanted = {name: name.partition("-")[0] for name in ("driver", "eval-0", "gen-0", "rank-0", "rank-1", "score-0")}
    listed = json.loads((live.run / "targets.json").read_text())
    (driver,) = [one["targets"][0] for one in listed if one["labels"]["worker"] == "driver"]
    with running(configuration(workplace / "discovery.yml", root=live.run.parent, driver=driver)) as prometheus:

        def found(job: str) -> dict[str, str]:
            labels = [s["metric"] for s in prometheus.query(f'up{{job="{job}",run="watched"}} == 1')]
            return {label["worker"]: label["role"] for label in labels}

        prometheus.until("all up", lambda: found("headrace") == wanted == found("headrace-http"))


# After its end.


def test_the_run_that_was_watched_ended_well(ended: Watched) -> None:
    status = ended.life.status()
    assert (status["state"], status["step"]) == ("completed", STEPS)


def test_no_secret_is_left_behind_and_the_doctor_shows_none(ended: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """In what the run wrote and said, in Ray's own logs, and in what the doctor finds with all of them at hand."""
    for name, value in canary.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    own = (ended.run / "redis" / "password").read_text()
    assert canary.seen_below(ended.run, own) == []
    assert canary.seen_in("".join(ended.said).encode(), "output", own) == []
    sessions = [
        path for path in Path(tempfile.gettempdir(), "ray").glob("session_2*") if path.stat().st_mtime > ended.started
    ]
    assert sessions, "Ray wrote its logs somewhere else"
    assert [leak for session in sessions for leak in canary.seen_below(session, own)] == []
    findings = diagnose(recipes.load(ended.run / "recipe.yaml"))
    assert {"recipe", "store", "ray", "memory"} <= {finding.check for finding in findings}
    assert canary.seen_in(str(findings).encode(), "doctor", own) == []
    (events,) = (ended.run / "tensorboard").iterdir()
    assert events.stat().st_size > 1000, "the sink that the run names was fed"


def test_the_run_has_left_a_report_of_itself(ended: Watched) -> None:
    page = (ended.run / "report.html").read_text(encoding="utf-8")
    assert f"{STEPS} of {STEPS} steps" in page
    assert '<div class="verdict ' in page
    assert "<script" not in page
    assert "Bottleneck: " in page
    for worker in ("loop", "driver", "gen-0", "score-0", "rank-0", "rank-1"):
        assert f">{worker}</text>" in page  # a bar, and a lane
    for told in ("Who worked when", "Win rate on held-out prompts", "Answers in training, early and late", ">step 1<"):
        assert told in page
    assert "Not all of this run could be read" not in page


def test_every_query_of_every_dashboard_found_data(ended: Watched) -> None:
    assert panels_without_data(ended) == set(EMPTY)


def test_dashboards_are_drawn_without_grafana(ended: Watched, tmp_path: Path) -> None:
    pages = render(ended.prometheus.url, tmp_path, run="watched")
    assert [page.stem for page in pages] == ["overview", "generation", "scoring", "training", "stores"]
    for page in pages:
        html = page.read_text()
        empty = re.findall(r'class="panel [^"]* empty".*?<span title="([^"]*)"', html)
        assert {(page.stem, unescape(title)) for title in empty} == {panel for panel in EMPTY if panel[0] == page.stem}
        assert html.count('class="curve"') > 25, "curves and bars"
        assert not re.search(r"<script|https?://|<link|@import", html), "a page needs nothing from outside"


def test_dashboards_fit_into_a_window_of_a_laptop(ended: Watched, tmp_path: Path) -> None:
    if not chromium():
        pytest.skip("no Chromium on PATH")
    for page in render(ended.prometheus.url, tmp_path, run="watched"):
        assert spills(page, width=1300) == [], page.stem


WALL = "headrace_(run|gen|score|train)_wall_seconds_total"


def test_every_processs_phases_add_up_to_its_wall_time(ended: Watched) -> None:
    """Within 5 %: between the first scrape and the last, and from the beginning of its life to the last."""
    totals: dict[str, dict[float, float]] = {}
    for series in ended.prometheus.query(f'{{__name__=~"{WALL}",run="watched"}}[1h]'):
        of_worker = totals.setdefault(series["metric"]["worker"], {})
        for at, seconds in series["values"]:
            of_worker[at] = of_worker.get(at, 0.0) + float(seconds)
    assert totals.keys() == {"driver", "gen-0", "rank-0", "rank-1", "score-0"}
    for worker, by_time in totals.items():
        first, last = min(by_time), max(by_time)
        assert last - first > 10.0, worker
        assert by_time[last] - by_time[first] == pytest.approx(last - first, rel=0.05), worker
        with (ended.run / "logs" / f"{worker}.jsonl").open() as lines:
            began = datetime.fromisoformat(json.loads(lines.readline())["time"]).timestamp()
        assert by_time[last] == pytest.approx(last - began, rel=0.05), worker


def test_the_timeline_of_a_run_tells_its_way(ended: Watched) -> None:
    lines = read_lines(ended.run / "timeline.jsonl", budget_bytes=2**30).rows
    assert [line["state"] for line in (lines[0], lines[-1])] == ["starting", "completed"]
    assert lines[-1]["step"] == STEPS == lines[-1]["published"]
    assert all(early["elapsed_s"] < late["elapsed_s"] for early, late in pairwise(lines))
    for line in lines:
        assert sum(line["waited_for"].values()) == pytest.approx(line["elapsed_s"], abs=0.5)
        for worker, entry in line["workers"].items():
            assert sum(entry.get("wall", {}).values()) <= line["elapsed_s"] + 0.5, worker
    waited = lines[-1]["waited_for"]
    assert waited["training"] > 0
    assert bottleneck(waited) in STAGES
    assert lines[-1]["redis"]["aof_ok"]


def test_the_way_of_a_trained_group_is_whole(ended: Watched) -> None:
    found = json.loads(said("trace", ended.run, "19", "--json"))
    assert (found["group"], found["step"], found["open"], found["notes"]) == (f"{NAME}/0/19", 3, False, [])
    spans = {span["name"]: span for span in found["spans"]}
    parts = {"waited for generation", "generated", "waited for scoring", "scored", "waited for its batch", "trained", "version published"}  # fmt: skip
    assert parts <= spans.keys()
    assert found["start"] > ended.started
    assert sum(span["seconds"] for span in found["spans"]) == pytest.approx(found["seconds"], abs=1e-3)
    assert all(one["end"] == pytest.approx(other["start"], abs=1e-3) for one, other in pairwise(found["spans"]))
    assert min(span["seconds"] for span in found["spans"]) >= 0
    assert spans["generated"]["attributes"]["samples"] == 8
    batch = json.loads(said("trace", ended.run, "step:3", "--json"))["groups"]
    assert [one["sequence"] for one in batch] == list(range(16, 24))
    assert {one["spans"][-1]["end"] for one in batch} == {found["end"]}


def test_no_alert_rang_in_a_run_that_was_well_and_its_targets_are_gone(ended: Watched) -> None:
    server = ended.prometheus
    span = {"start": ended.started, "end": time.time(), "step_s": JUDGE_S}
    rang = server.query_range('ALERTS{alertstate="firing",run="watched"}', **span)
    assert {one["metric"]["alertname"] for one in rang} == set()
    judged = server.query_range('headrace:busy:ratio{run="watched"}', **span)
    assert {one["metric"]["worker"] for one in judged} >= {"driver", "gen-0", "rank-0", "rank-1", "score-0"}
    server.until("the end of all targets", lambda: server.targets() == [])
