"""One run of the real command, measured between the ends of two of its steps."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

REPOSITORY = Path(__file__).resolve().parent.parent
START_LIMIT_S = 240.0
"""From the command to the first trained step; 25 s on two idle cores."""
STEP_LIMIT_S = 120.0
POLL_S = 0.05
"""Between two looks at metrics.jsonl: it bounds how exactly the CPU times belong to the steps."""

WORK = (
    "headrace_gen_work_cpu_seconds_total",
    "headrace_score_work_cpu_seconds_total",
    "headrace_train_work_cpu_seconds_total",
)
PHASES = {
    "headrace_gen_step_seconds_sum": "sampling",
    "headrace_gen_update_seconds_sum": "loading weights",
    "headrace_score_pass_seconds_sum": "scoring",
    "headrace_train_phase_seconds_sum": "training",
}
"""Histograms whose sums are wall seconds of a worker, and what it does then."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Seconds of one process of the run in the measured window."""

    name: str
    cpu_s: float
    work_cpu_s: float
    """The part of cpu_s inside engine steps (gen), decoding, rewards and reference (score), or learner steps (rank)."""
    phases: Mapping[str, float]
    """Wall seconds by what it did; the rest of the window it waited."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What happened between the end of step `warm` and that of step `warm + steps`."""

    start_s: float
    """From the command to the end of the first step."""
    wall_s: float
    steps: int
    tokens: int
    """Completion tokens trained in these steps."""
    mean_length: float
    workers: tuple[Worker, ...]
    machine_busy_s: float
    """CPU seconds of the whole machine that were not idle, other programs' included."""
    cores: int

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.wall_s

    @property
    def useful(self) -> float:
        """Share of the machine's core-seconds that was useful work."""
        return sum(worker.work_cpu_s for worker in self.workers) / (self.cores * self.wall_s)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"tokens_per_s": self.tokens_per_s, "useful": self.useful}


def measure(
    recipe: Mapping[str, Any],
    folder: Path,
    *,
    warm: int,
    steps: int,
    phases: Mapping[str, str] = PHASES,
    look: Callable[[], None] = lambda: None,
) -> Measured:
    """Run `recipe` (its run.root must be `folder`), measure `steps` steps after the first `warm`, and stop it cleanly.

    `look` is called every POLL_S or so while it runs.
    """
    name = recipe["run"]["name"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    command = [str(Path(sys.executable).with_name("headrace")), "run", str(path), "--json"]
    with (folder / f"{name}.out").open("w") as out:
        began = time.monotonic()
        driver = psutil.Popen(command, stdout=out, stderr=out, env=environment())
        try:
            run = _Watched(driver, folder / name, out=Path(out.name), look=look)
            run.wait_for(1, limit_s=START_LIMIT_S)
            start_s = time.monotonic() - began
            run.wait_for(warm, limit_s=STEP_LIMIT_S * warm)
            before = run.snapshot()
            run.wait_for(warm + steps, limit_s=STEP_LIMIT_S * steps)
            after = run.snapshot()
            reports = run.reports()[warm : warm + steps]
        finally:
            _stop(driver)
    return Measured(
        start_s=start_s,
        wall_s=after.at - before.at,
        steps=steps,
        tokens=sum(report["tokens_trained"] for report in reports),
        mean_length=sum(report["response_length_mean"] for report in reports) / steps,
        workers=tuple(_difference(name, before, after, phases) for name in sorted(after.cpu_s)),
        machine_busy_s=after.machine_busy_s - before.machine_busy_s,
        cores=psutil.cpu_count() or 1,
    )


def environment() -> dict[str, str]:
    """Of a process that runs this checkout."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


@dataclass(frozen=True, kw_only=True)
class _Snapshot:
    at: float
    machine_busy_s: float
    cpu_s: Mapping[str, float]
    """By worker; `driver`, `redis` and `ray` (all else that the driver started) included."""
    samples: Mapping[str, Mapping[str, float]]
    """Prometheus samples by worker, summed over their labels."""


class _Watched:
    def __init__(self, driver: psutil.Popen, run: Path, *, out: Path, look: Callable[[], None]) -> None:
        self._driver, self._run, self._out, self._look = driver, run, out, look

    def reports(self) -> list[dict[str, Any]]:
        """The finished lines of metrics.jsonl, one a step."""
        path = self._run / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []

    def wait_for(self, step: int, *, limit_s: float) -> None:
        """RuntimeError: the run ended, or took too long."""
        deadline = time.monotonic() + limit_s
        while len(self.reports()) < step:
            if self._driver.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._run.name} did not reach step {step}:\n{self._out.read_text()[-2000:]}")
            self._look()
            time.sleep(POLL_S)

    def snapshot(self) -> _Snapshot:
        workers = json.loads((self._run / "status.json").read_text())["workers"]
        names = {worker["pid"]: name for name, worker in workers.items()} | {self._driver.pid: "driver"}
        cpu_s: dict[str, float] = {}
        for process in (self._driver, *self._driver.children(recursive=True)):
            try:
                times, program = process.cpu_times(), process.name()
            except psutil.NoSuchProcess:
                continue
            server = "redis" if program in ("redis-server", "valkey-server") else "ray"
            name = names.get(process.pid, server)
            cpu_s[name] = cpu_s.get(name, 0.0) + times.user + times.system
        machine = psutil.cpu_times()
        return _Snapshot(
            at=time.monotonic(),
            machine_busy_s=sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice,
            cpu_s=cpu_s,
            samples={name: _scrape(worker["port"]) for name, worker in workers.items()},
        )


def _scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return values


def _difference(name: str, before: _Snapshot, after: _Snapshot, phases: Mapping[str, str]) -> Worker:
    samples = after.samples.get(name, {})
    earlier = before.samples.get(name, {})
    return Worker(
        name=name,
        cpu_s=after.cpu_s[name] - before.cpu_s.get(name, 0.0),
        work_cpu_s=sum(samples.get(metric, 0.0) - earlier.get(metric, 0.0) for metric in WORK),
        phases={phase: samples[m] - earlier.get(m, 0.0) for m, phase in phases.items() if samples.get(m)},
    )


def _stop(driver: psutil.Popen) -> None:
    """A clean stop takes the embedded server and Ray down as well; what does not hear it is killed, with its children."""
    if driver.poll() is not None:
        return
    children = driver.children(recursive=True)
    driver.send_signal(signal.SIGTERM)
    try:
        driver.wait(timeout=STEP_LIMIT_S)
    except subprocess.TimeoutExpired:
        driver.kill()
    for child in children:
        if child.is_running():
            child.kill()
