"""What it costs to be seen from outside: metrics, measures, logs, status, timeline and scrapes, as a share of the loop.

    python -m benchmarks.metrics                        two runs, some 3 minutes on two idle cores; a table
    python -m benchmarks.metrics --write docs/benchmarks.md

The real loop on the uneven task: long answers, whose steps take seconds, and answers of at most eight tokens, whose steps
take a fraction of one, so that what a step tells weighs most. Every process times the very calls by which it tells what
it does (benchmarks/meter.py), while a client reads the metrics of all of them once a second: fifteen times as often as
the Prometheus that ships.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from benchmarks import loop, meter, section, uneven

SCRAPE_S = 1.0
SHIPPED_SCRAPE_S = 15.0
"""Of deploy/prometheus/prometheus.yml."""
LIMIT_S = 900.0
"""Of a run; a minute on two idle cores."""
BEYOND = 2
"""Steps of a run after the measured ones: at its end generation has nothing left to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    name: str
    max_tokens: int
    steps: int


CASES = (
    Case(name="long answers", max_tokens=uneven.MAX_TOKENS, steps=8),
    Case(name="short answers", max_tokens=8, steps=40),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Of one process in the measured window, seconds."""

    process: str
    wall_s: float
    cpu_s: float
    spent: Mapping[str, Sequence[float]]
    """By kind: CPU seconds, wall seconds of the calling threads, calls."""

    def cpu_of(self, kinds: Sequence[str] = meter.KINDS) -> float:
        return sum(self.spent[kind][0] for kind in kinds)

    def wall_of(self) -> float:
        """Without scrapes, which no thread of the loop waits for."""
        return sum(figures[1] for kind, figures in self.spent.items() if kind != "scrapes")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--write", type=Path, help="page whose section to replace")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.drive:
        return drive(given.drive)
    results = []
    with tempfile.TemporaryDirectory(prefix="metrics-") as scratch:
        folder = Path(scratch)
        uneven.write_model(folder / "model")
        uneven.write_rows(folder / "prompts.jsonl", 4096)
        for case in CASES:
            loop.say(f"{case.name}: starting, then {case.steps} steps")
            results.append((case, run_case(folder, case)))
    text = written(results)
    print(text)
    if given.json:
        rows = [{"case": asdict(case), "accounts": [asdict(one) for one in found]} for case, found in results]
        given.json.write_text(json.dumps(rows, indent=1))
    if given.write:
        section.replace(given.write, "metrics", text)
    return None


def drive(path: Path) -> None:
    """The command's own steps, metered; a driver is a process of its own."""
    from orchestrator import commands

    meter.install("driver", "driver")
    commands.run(path, [], as_json=True, builder="benchmarks.meter:build")


def run_case(folder: Path, case: Case) -> list[Account]:
    name = case.name.replace(" ", "-")
    recipe = loop.recipe(folder, name=name, staleness=1, setting=loop.SETTINGS["one each"])
    recipe["run"]["steps"] = loop.WARM_STEPS + case.steps + BEYOND
    recipe["generation"]["max_tokens"] = case.max_tokens
    path, accounts = folder / f"{name}.yaml", folder / f"{name}.meter"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    accounts.mkdir()
    checkout = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {meter.VARIABLE: str(accounts), "PYTHONPATH": checkout}
    command = [sys.executable, "-m", "benchmarks.metrics", "--drive", str(path)]
    ended = threading.Event()
    client = threading.Thread(target=scrape, args=(folder / name / "targets.json", ended))
    client.start()
    try:
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
    finally:
        ended.set()
        client.join()
    if done.returncode:
        raise SystemExit(f"{case.name} failed:\n{done.stderr[-3000:]}")
    window = window_of(folder / name / "metrics.jsonl", first=loop.WARM_STEPS, last=loop.WARM_STEPS + case.steps)
    return [account(path, window) for path in sorted(accounts.glob("*.jsonl"))]


def scrape(targets: Path, ended: threading.Event) -> None:
    """Read the metrics of all that are listed, once a second."""
    while not ended.wait(SCRAPE_S):
        listed = json.loads(targets.read_text()) if targets.exists() else []
        for address in (address for entry in listed for address in entry["targets"]):
            try:
                with urllib.request.urlopen(f"http://{address}/metrics", timeout=SCRAPE_S) as answer:
                    answer.read()
            except OSError:  # it has just ended, or is not up yet: as a Prometheus would meet it
                continue


def window_of(metrics: Path, *, first: int, last: int) -> tuple[float, float]:
    """From the end of step `first` to that of step `last`, seconds since 1970."""
    lines = [json.loads(text) for text in metrics.read_text().splitlines()]
    ends = {line["step"]: datetime.fromisoformat(line["time"]).timestamp() for line in lines}
    return ends[first], ends[last]


def account(path: Path, window: tuple[float, float]) -> Account:
    """Between the lines next to the window's ends. ValueError: the process wrote none there."""
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    inside = [line for line in lines if window[0] <= line["at"] <= window[1]]
    if len(inside) < 2:
        raise ValueError(f"{path}: {len(inside)} lines in the measured window")
    before, after = inside[0], inside[-1]
    spent = {
        kind: [late - early for early, late in zip(before["spent"][kind], after["spent"][kind], strict=True)]
        for kind in meter.KINDS
    }
    wall_s, cpu_s = after["at"] - before["at"], after["cpu_s"] - before["cpu_s"]
    return Account(process=path.stem, wall_s=wall_s, cpu_s=cpu_s, spent=spent)


def written(results: Sequence[tuple[Case, Sequence[Account]]]) -> str:
    """The section's text: of each case what it comes to, and a row a process."""
    parts = []
    for case, accounts in results:
        whole = sum(one.cpu_s for one in accounts)
        told = sum(one.cpu_of() for one in accounts)
        shipped = told - (1 - SCRAPE_S / SHIPPED_SCRAPE_S) * sum(one.cpu_of(["scrapes"]) for one in accounts)
        slowest = max(accounts, key=lambda one: one.wall_of() / one.wall_s)
        wall_s = max(one.wall_s for one in accounts)
        parts.append(
            f"**{case.name}**, {wall_s / case.steps:.2f} s a step: {told / whole:.2%} of the loop's CPU, "
            f"{shipped / whole:.2%} with a scrape every {SHIPPED_SCRAPE_S:.0f} s; the thread that waits "
            f"longest for it is in {slowest.process}, for {slowest.wall_of() / slowest.wall_s:.2%} of the wall time.\n"
        )
        parts.append(section.table(HEAD, [row(one) for one in accounts] + [total(accounts)]) + "\n")
    return "\n".join(parts)


HEAD = ("process", "CPU, s", *(f"{kind}, %" for kind in meter.KINDS), "all, %", "wall, %")


def row(one: Account) -> list[str]:
    shares = [one.cpu_of([kind]) / one.cpu_s for kind in meter.KINDS]
    wall = one.wall_of() / one.wall_s
    return [one.process, f"{one.cpu_s:.1f}", *(f"{100 * share:.2f}" for share in (*shares, sum(shares), wall))]


def total(accounts: Sequence[Account]) -> list[str]:
    whole = sum(one.cpu_s for one in accounts)
    shares = [sum(one.cpu_of([kind]) for one in accounts) / whole for kind in meter.KINDS]
    return ["all", f"{whole:.1f}", *(f"{100 * share:.2f}" for share in (*shares, sum(shares))), ""]


if __name__ == "__main__":
    main()
