"""A meter on all calls by which a process of a run tells what it does: what they cost, in CPU and in wall time.

`build` is the builder that `orchestrator.life.live` is given: it puts the meter into a worker's process, and builds the
real worker. A nested call counts for itself and not for the one around it. The meter's own look at the clock, some
microseconds a call, is in what it finds: the figures are upper bounds.
"""

import functools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

VARIABLE = "HEADRACE_BENCH_METER"
"""Names the folder of the accounts, which the local Ray's processes inherit."""
TELL_S = 0.5
"""Between two lines of an account."""

KINDS = ("metrics", "measures", "logs", "status", "timeline", "scrapes")
CALLS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "": (
        ("metrics", "prometheus_client.metrics", "Counter.inc"),
        ("metrics", "prometheus_client.metrics", "Gauge.set"),
        ("metrics", "prometheus_client.metrics", "Histogram.observe"),
        ("metrics", "prometheus_client.metrics", "MetricWrapperBase.labels"),
        ("metrics", "experience.wall_clock", "WallClock.enter"),
        ("logs", "logging", "Logger.handle"),
        ("scrapes", "prometheus_client.exposition", "_SilentHandler.handle"),
    ),
    "driver": (
        ("status", "orchestrator.report", "Reporter.tick"),
        ("status", "orchestrator.report", "Reporter.stepped"),
        ("timeline", "orchestrator.vitals", "Vitals.tick"),
        ("scrapes", "orchestrator.metrics_server", "_Handler.handle"),
    ),
    "rank": (
        ("metrics", "train_cluster.metrics", "observe"),
        ("measures", "train_cluster.learner", "make_report"),
    ),
    "score": (
        ("metrics", "score_cluster.metrics", "observe_rewards"),
        ("metrics", "score_cluster.metrics", "observe_diversity"),
        ("measures", "score_cluster.worker", "diversity"),
    ),
}
"""(kind, module, what is called there), by kind of process; "" = in all."""


def build(spec: Mapping[str, Any]) -> Any:
    """The real worker of a process, metered."""
    from orchestrator import build as real

    install(spec["name"], spec["kind"])
    return real.build(spec)


def install(name: str, kind: str) -> None:
    """Meter this process, and write its account from now on."""
    meter = Meter()
    for what, module, call in (*CALLS[""], *CALLS.get(kind, ())):
        meter.put_on(import_module(module), call, what)
    path = Path(os.environ[VARIABLE]) / f"{name}.jsonl"
    threading.Thread(target=_tell, args=(meter, path), name="meter", daemon=True).start()
    logging.getLogger(__name__).info("metered")


def _tell(meter: "Meter", path: Path) -> None:
    with path.open("a", buffering=1) as file:
        while True:
            line = {"at": time.time(), "cpu_s": time.process_time(), "spent": meter.spent()}
            file.write(json.dumps(line) + "\n")
            time.sleep(TELL_S)


class Meter:
    def __init__(self) -> None:
        self._threads: list[dict[str, list[float]]] = []
        self._own = threading.local()

    def put_on(self, module: Any, call: str, kind: str) -> None:
        """`call`: a function of the module, or Class.method."""
        owner_name, _, name = call.rpartition(".")
        owner = getattr(module, owner_name) if owner_name else module
        setattr(owner, name, self.metered(getattr(owner, name), kind))

    def metered(self, call: Callable[..., Any], kind: str) -> Callable[..., Any]:
        @functools.wraps(call)
        def run(*arguments: Any, **named: Any) -> Any:
            outer = self._turn(kind)
            try:
                return call(*arguments, **named)
            finally:
                self._turn(outer)

        return run

    def spent(self) -> dict[str, list[float]]:
        """By kind: CPU seconds, wall seconds, and turns to it (a call, and each return from a nested one)."""
        found = {kind: [0.0, 0.0, 0.0] for kind in KINDS}
        for account in list(self._threads):
            for kind, figures in found.items():
                figures[:] = [one + other for one, other in zip(figures, account[kind], strict=True)]
        return found

    def _turn(self, kind: str) -> str:
        """From now on this thread's time goes to `kind` ("" = to nothing); returns what it went to."""
        own = self._own
        cpu_s, wall_s = time.thread_time(), time.perf_counter()
        if not hasattr(own, "account"):
            own.account = {kind: [0.0, 0.0, 0.0] for kind in KINDS}
            own.kind, own.cpu_s, own.wall_s = "", cpu_s, wall_s
            self._threads.append(own.account)
        before = own.kind
        if before:
            figures = own.account[before]
            figures[0] += cpu_s - own.cpu_s
            figures[1] += wall_s - own.wall_s
        if kind:
            own.account[kind][2] += 1
        own.kind, own.cpu_s, own.wall_s = kind, cpu_s, wall_s
        return str(before)
