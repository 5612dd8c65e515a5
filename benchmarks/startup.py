"""How long from the command to the first trained step, and where the time goes.

    python -m benchmarks.startup                          three starts of recipes/reverse.yaml, 2 minutes, tables
    python -m benchmarks.startup --write docs/benchmarks.md --svg docs/startup.svg

One start is `headrace run recipes/reverse.yaml run.steps=1`: one engine, one scorer, two ranks. Its parts are told by the
events in the run's own log, the CPU seconds of its processes by the kernel. The figures are of the start whose length is
the median; a first one, which reads libraries from disk, is not counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks import records, section, task, timeline

SAMPLE_S = 0.1
"""Between two looks at the CPU clocks: what a process uses after the last one is lost."""

PARTS: Mapping[str, Sequence[tuple[str, str]]] = {
    "driver": [
        ("life begins", "libraries, checks of the recipe"),
        ("ray started", "Ray"),
        ("server_started", "Redis"),
        ("published", "waits for the first version"),
    ],
    "gen": [
        ("process up", "process"),
        ("vllm imported", "libraries"),
        ("built", "engine"),
        ("version served", "first version"),
        ("groups generated", "first group"),
    ],
    "score": [
        ("process up", "process"),
        ("built", "libraries"),
        ("ready", "rewards, INT8 reference"),
        ("groups scored", "waits for groups, scores"),
    ],
    "rank": [
        ("process up", "process"),
        ("built", "libraries"),
        ("group joined", "meeting of the ranks"),
        ("engine built", "model, ZeRO-3"),
        ("ready", "checkpoint 0"),
        ("batch committed", "waits for the first batch"),
        ("step trained", "first step"),
    ],
}
"""By role: the event that ends a part, and the part's name, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    worker: str
    name: str
    begin_s: float
    """Since the command."""
    end_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    parts: tuple[Part, ...]
    cpu_s: Mapping[str, float]
    """Up to the first step, by worker; what is not a worker's is Ray's and Redis's."""

    @property
    def first_step_s(self) -> float:
        return max(part.end_s for part in self.parts if part.name == "first step")


def measure(folder: Path, name: str) -> Start:
    overrides = [
        f"model.path={folder / 'policy'}",
        f"data.path={folder / 'prompts.jsonl'}",
        f"run.root={folder / 'runs'}",
        f"run.name={name}",
        "run.steps=1",
    ]
    began = time.time()
    command = [sys.executable, "-m", "benchmarks.startup", "--headrace", "run", "recipes/reverse.yaml", *overrides]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as driver:
        clocks = watch(driver, folder / "runs" / name)
        errors = driver.communicate()[1]
    if driver.returncode:
        raise SystemExit(f"the start failed:\n{errors[-3000:]}")
    log = records.read(folder / "runs" / name)
    pids = {line["pid"]: line["worker"] for line in records.events(log, "process up")} | {driver.pid: "driver"}
    cpu: dict[str, float] = {}
    for pid, seconds in clocks.items():
        worker = pids.get(pid, "Ray, Redis")
        cpu[worker] = cpu.get(worker, 0.0) + seconds
    return Start(parts=tuple(parts(log, began)), cpu_s=cpu)


def watch(driver: "subprocess.Popen[str]", run: Path) -> dict[int, float]:
    """CPU seconds of the driver and all below it, by pid, until the first step is trained or the driver ends."""
    seconds: dict[int, float] = {}
    while driver.poll() is None and not (run / "metrics.jsonl").exists():
        for process in below(driver.pid):
            try:
                clock = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            seconds[process.pid] = clock.user + clock.system
        time.sleep(SAMPLE_S)
    return seconds


def below(pid: int) -> list[psutil.Process]:
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def parts(log: Sequence[records.Line], began: float) -> list[Part]:
    """From the first line of each event of each worker. A part that a worker skipped is left out."""
    asked = {line["member"]: line["at"] for line in records.events(log, "process asked for")}
    found = []
    for worker in sorted({line["worker"] for line in log}, key=lambda name: (name != "driver", name)):
        at = asked.get(worker, began)
        for event, name in PARTS[worker.partition("-")[0]]:
            line = next(iter(records.events(log, event, worker=worker)), None)
            if line is not None:
                found.append(Part(worker=worker, name=name, begin_s=at - began, end_s=max(at, line["at"]) - began))
                at = max(at, line["at"])
    return found


def tables(start: Start, lengths: Sequence[float]) -> str:
    others = ", ".join(f"{length:.1f}" for length in sorted(lengths))
    lines = [
        f"**{start.first_step_s:.1f} s** from the command to the first trained step (all starts: {others} s), and "
        f"{sum(start.cpu_s.values()):.1f} s of CPU in all processes.",
        "",
        "| process | CPU s | parts, with the seconds since the command at which each ends |",
        "|---|---|---|",
    ]
    for worker in dict.fromkeys([*(part.worker for part in start.parts), *start.cpu_s]):
        told = ", ".join(f"{part.name} {part.end_s:.1f}" for part in start.parts if part.worker == worker)
        lines.append(f"| {worker} | {start.cpu_s.get(worker, 0.0):.1f} | {told} |")
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--headrace"]:
        return headrace(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=3, help="counted ones (default: 3)")
    parser.add_argument("--write", type=Path, help="document whose section is replaced by the tables")
    parser.add_argument("--svg", type=Path, help="picture of the timeline to be written")
    parser.add_argument("--json", type=Path, help="file for all figures")
    given = parser.parse_args()
    starts = []
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        task.prepare(Path(folder))
        for number in range(given.starts + 1):
            starts.append(measure(Path(folder), f"start-{number}"))
            note = "" if number else " (not counted)"
            print(f"start {number}: {starts[-1].first_step_s:.1f} s{note}", file=sys.stderr)
    counted = sorted(starts[1:], key=lambda start: start.first_step_s)
    median = counted[len(counted) // 2]
    text = tables(median, [start.first_step_s for start in counted])
    print(text)
    if given.json:
        given.json.write_text(json.dumps([asdict(start) for start in starts], indent=1))
    if given.svg:
        rows = [(part.worker, part.name, part.begin_s, part.end_s) for part in median.parts]
        given.svg.write_text(timeline.draw(rows))
    if given.write:
        section.replace(given.write, "startup", text)
    return None


def headrace(arguments: list[str]) -> None:
    """The installed command, in this process: its pid is the driver's."""
    from orchestrator import cli

    sys.argv = ["headrace", *arguments]
    cli.main()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(Path.cwd()))
    main()
