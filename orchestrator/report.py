"""What a run says of itself while it lives: status.json, metrics.jsonl, scrape targets, a line or a bar on the console."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from experience.buffer import Snapshot
from orchestrator import metrics
from orchestrator.config import Recipe
from orchestrator.console import Console
from orchestrator.folder import RunFolder
from orchestrator.member import Member
from orchestrator.periodic.evaluation import PeriodicEvaluation
from orchestrator.sinks.sinks import NO_SINKS, Sinks
from orchestrator.supervise import Supervisor
from orchestrator.targets import Targets, endpoint
from orchestrator.trainer import Trainer
from orchestrator.watchdog import verdict

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
"""Between two writes of status.json: what people perceive as live."""


class Reporter:
    def __init__(
        self,
        folder: RunFolder,
        recipe: Recipe,
        *,
        epoch: int,
        console: Console,
        targets: Targets,
        sinks: Sinks = NO_SINKS,
    ) -> None:
        self._folder, self._recipe, self._epoch, self._console = folder, recipe, epoch, console
        self._started = time.time()
        self._written_before = int(folder.read_status().get("written_bytes", 0))
        self._written_at = -INTERVAL_S
        self._last_step: dict[str, Any] = {}
        self._noise_floor: dict[str, float] = {}
        """What the scorers measured on samples of version 0; kept, since later ones have none."""
        self._warned: set[str] = set()
        self._status: dict[str, Any] = {"run": recipe.run.name, "epoch": epoch, "steps": recipe.run.steps}
        self._targets, self._sinks = targets, sinks
        metrics.EPOCH.set(epoch)

    def stepped(self, report: Mapping[str, Any]) -> None:
        """One line in metrics.jsonl a step, replayed steps after a restart included (they carry the same numbers)."""
        self._last_step = {**report, **self._noise_floor}
        elapsed_s = round(time.time() - self._started, 3)
        line = {"time": _now(), "elapsed_s": elapsed_s, "epoch": self._epoch, **self._last_step}
        self._tell(lambda: self._folder.append(self._folder.metrics, json.dumps(line)))
        self._console.stepped(report, steps=self._recipe.run.steps)
        self._sinks.step(line)

    def tick(
        self,
        now: float,
        snapshot: Snapshot,
        trainer: Trainer,
        supervisor: Supervisor,
        *,
        data: Mapping[str, Mapping[str, int]],
        evaluation: PeriodicEvaluation | None = None,
        vitals: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        if now - self._written_at < INTERVAL_S:
            return
        self._written_at = now
        self._export(trainer, supervisor)
        self._tell_restarts({"trainer": trainer.restarts, "workers": supervisor.restarts})
        self._hear(supervisor.members())
        members = [*trainer.ranks, *supervisor.members(), *(evaluation.members() if evaluation else ())]
        self._status |= {
            "state": "running" if trainer.started else "starting",
            "pid": os.getpid(),
            **self._progress(trainer, evaluation),
            "live": snapshot.live,
            "streams": dict(snapshot.depths),
            "data": {name: dict(cursor) for name, cursor in data.items()},
            "waits": verdict(snapshot, trainer, supervisor),
            "restarts": {"trainer": trainer.restarts, "workers": supervisor.restarts},
            "workers": {member.name: member.status for member in members},
            **vitals(),
        }
        self._tell(lambda: self._folder.write_json(self._folder.status, self._status | {"updated": _now()}))
        self._show_targets(members)
        self._console.waiting(self._status)

    def _hear(self, workers: Sequence[Member]) -> None:
        """What scorers know and no step's report has: the KL that their precision alone makes, the largest of them; and
        a warning, once."""
        floors = [worker.status["kl_noise_floor"] for worker in workers if "kl_noise_floor" in worker.status]
        if floors:
            self._noise_floor = {"kl_noise_floor": max(floors)}
        for line in (worker.status.get("warning") for worker in workers):
            what = (line or "").partition(":")[0]  # the figures behind it differ from scorer to scorer
            if what and what not in self._warned:
                self._warned.add(what)
                self._console.say(f"warning: {line}")

    def ended(
        self, state: str, trainer: Trainer, *, cause: str = "", evaluation: PeriodicEvaluation | None = None
    ) -> None:
        """The last word: completed, stopped or failed, with the one-line cause."""
        self._sinks.event(f"{state}: {cause}" if cause else state)
        self._sinks.ended(state)
        self._status |= self._progress(trainer, evaluation) | {
            "state": state,
            "cause": cause,
            "workers": {},
            "waits": "",
        }
        try:
            self._folder.write_last(self._status | {"updated": _now()})
        except OSError as error:
            if state != "failed":
                raise
            log.warning("the cause could not be written", extra={"cause": cause, "error": str(error)})

    def _progress(self, trainer: Trainer, evaluation: PeriodicEvaluation | None) -> dict[str, Any]:
        return {
            "step": trainer.reached,
            "committed": trainer.committed,
            "published": trainer.published,
            "saved": trainer.saved,
            "trainer": trainer.doing(),
            "written_bytes": self._written_before + trainer.written_bytes,
            "last_step": self._last_step,
            **({"evaluation": evaluation.status()} if evaluation else {}),
        }

    def _tell(self, write: Callable[[], None]) -> None:
        """What people read ends no training: where it cannot be written they read an older one."""
        try:
            write()
        except OSError as error:
            log.warning("report not written", extra={"error": str(error)})

    def _show_targets(self, members: Sequence[Member]) -> None:
        """Those whose process has come up."""
        where = {member.name: member.status for member in members if "port" in member.status}
        config = self._recipe.metrics
        self._targets.show({name: endpoint(config, one["host"], one["port"]) for name, one in where.items()})

    def _tell_restarts(self, counts: Mapping[str, int]) -> None:
        for role, count in counts.items():
            if count > self._status.get("restarts", {}).get(role, 0):
                self._sinks.event(f"restarted: {role}, {count} in this life")

    def _export(self, trainer: Trainer, supervisor: Supervisor) -> None:
        metrics.STEP.set(trainer.reached)
        metrics.RESTARTS.labels(kind="trainer").set(trainer.restarts)
        metrics.RESTARTS.labels(kind="worker").set(supervisor.restarts)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
