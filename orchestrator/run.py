"""One life of a run: take it over, start its clusters, pace them until the last step is trained, and leave it resumable.

The loop is control only: it never touches a tensor, and what it decides is recorded in the ledger or has no influence
on the weights.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import ray

from experience.buffer import ExperienceBuffer, Snapshot
from experience.wall_clock import WallClock
from orchestrator import metrics
from orchestrator.admission import Admission
from orchestrator.config import Recipe
from orchestrator.console import Console
from orchestrator.disk import LowWater
from orchestrator.errors import RunFailed
from orchestrator.faults import Reached
from orchestrator.folder import RunFolder
from orchestrator.periodic.evaluation import PeriodicEvaluation
from orchestrator.report import Reporter
from orchestrator.run_report.early import keep_in_background
from orchestrator.server_loss import LossWatch
from orchestrator.sinks.sinks import NO_SINKS, Sinks
from orchestrator.supervise import Kind, Supervisor
from orchestrator.targets import Targets
from orchestrator.topology import Topology
from orchestrator.trainer import Trainer
from orchestrator.vitals import Vitals
from orchestrator.watchdog import PoisonBrake, Watchdog
from weightstore.blobs import BlobStore, FileBlobStore
from weightstore.manifest import WeightVersion
from weightstore.publish import record_newest

log = logging.getLogger(__name__)

POLL_S = 0.05
"""Longest wait of the loop for a finished call; admission and supervision look that often."""

Ending = Literal["completed", "stopped"]


class Run:
    """Everything is injected, opened and recovered by `orchestrator.life`; `drive` returns how the life ended."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        *,
        store: BlobStore,
        buffer: ExperienceBuffer,
        topology: Topology,
        admission: Admission,
        mend: Callable[[], None],
        lineage: int,
        epoch: int,
        committed: int,
        published: int,
        targets: Targets,
        console: Console,
        vitals: Vitals,
        wall: WallClock,
        evaluation: PeriodicEvaluation | None = None,
        sinks: Sinks = NO_SINKS,
        reached: Reached = lambda point, step: None,
    ) -> None:
        self._recipe, self._folder, self._store, self._buffer = recipe, folder, store, buffer
        self._admission, self._lineage, self._epoch = admission, lineage, epoch
        self._reached = reached
        self._vitals, self._wall = vitals, wall
        local = [store.root] if isinstance(store, FileBlobStore) else []
        local += [Path(recipe.store.scratch)] if recipe.store.scratch else []
        self._low_water = LowWater([folder.path, *local])
        self._shortage = ""
        """Why the run stops though nobody asked for it."""
        self._stop = threading.Event()
        self._tick = threading.Event()
        self._console = console
        self._reporter = Reporter(folder, recipe, epoch=epoch, console=console, targets=targets, sinks=sinks)
        counts: dict[Kind, int] = {"gen": recipe.generation.workers, "score": recipe.scoring.workers}
        self._supervisor = Supervisor(recipe.supervise, counts=counts, spawn=topology.worker)
        self._trainer = Trainer(
            recipe,
            spawn=topology.ranks,
            committed=committed,
            published=published,
            on_step=self._stepped,
            on_published=self._take_published,
        )
        self._evaluation = evaluation
        self._trained = False
        """A step, in this life."""
        self._losses = LossWatch(buffer, mend=self._mended)
        self._mend = mend
        self._watchdog = Watchdog(recipe.supervise, folder)
        self._brake = PoisonBrake(batch_groups=recipe.pacing.batch_groups)

    def drive(self) -> Ending:
        """Until the last step is trained, published, saved and evaluated, or a stop was asked for. RunFailed: cannot go on."""
        self._wall.enter("other")
        while True:
            now = time.monotonic()
            with self._wall.during("supervise"):
                self._supervisor.tick(now)  # first: engines take longest to start
                self._trainer.tick(now)
            self._mind_the_disk(now)
            with self._wall.during("admit"):
                snapshot = self._losses.snapshot(committed=self._trainer.committed)
                if not self._stop.is_set():
                    snapshot = self._losses.pacing(self._admit, snapshot)
                data = self._admission.cursors(snapshot)
            with self._wall.during("evaluate"):
                evaluated = self._evaluate(now)
            with self._wall.during("report"):
                self._report(now, snapshot, data)
            self._brake.tick(snapshot, self._buffer)
            if self._trainer.finished:
                if evaluated or self._stop.is_set():
                    return "completed"
            else:
                self._watchdog.tick(now, snapshot, self._trainer, self._supervisor)
            if self._stop.is_set() and (self._trainer.settled or not self._trainer.started):
                if self._shortage:
                    raise RunFailed(self._shortage)
                return "stopped"
            with self._wall.during("wait_events"):
                self._wait()

    def _report(self, now: float, snapshot: Snapshot, data: Mapping[str, Mapping[str, int]]) -> None:
        trainer, supervisor = self._trainer, self._supervisor
        self._vitals.tick(now, snapshot, trainer, supervisor, buffer=self._buffer)
        self._reporter.tick(
            now, snapshot, trainer, supervisor, data=data, evaluation=self._evaluation, vitals=self._vitals.status
        )

    def _admit(self, snapshot: Snapshot) -> None:
        self._admission.admit(snapshot, published=self._trainer.published)

    def _evaluate(self, now: float) -> bool:
        """False while the last version waits for its evaluation, which has a deadline of its own."""
        if self._evaluation is None:
            return True
        finished = self._trainer.finished
        self._evaluation.tick(now, trained=self._trained or finished, final=finished)
        return not finished or self._evaluation.settled(now)

    def _mended(self) -> None:
        """A batch committed meanwhile could train a group that is issued anew as lost."""
        with self._trainer.commits_held():
            self._mend()

    def request_stop(self) -> None:
        """Finish the operation in hand, publish, checkpoint, end."""
        log.info("stop requested")
        self._stop.set()
        self._trainer.final = True

    def _mind_the_disk(self, now: float) -> None:
        """While there is room to finish the step and to say why, rather than in the middle of a write."""
        if not self._stop.is_set() and (cause := self._low_water.low(now)):
            self._shortage = cause
            self._console.say(f"stopping: {cause}")
            self.request_stop()

    def close(self) -> None:
        """End all processes of this life: their state is in the stores."""
        evaluators = self._evaluation.members() if self._evaluation else []
        for member in (*self._supervisor.members(), *self._trainer.ranks, *evaluators):
            member.kill()

    def ended(self, state: str, *, cause: str) -> None:
        self._vitals.ended(state)
        self._reporter.ended(state, self._trainer, cause=cause, evaluation=self._evaluation)

    def _wait(self) -> None:
        """Until a call of the trainer finishes, or the poll interval has passed."""
        pending = self._trainer.pending_calls()
        if pending:
            ray.wait(pending, num_returns=1, timeout=POLL_S)
        else:
            self._tick.wait(POLL_S)

    def _stepped(self, report: Mapping[str, Any]) -> None:
        if not self._trained:
            keep_in_background(self._recipe, self._folder)
        self._trained = True
        self._supervisor.progressed()
        self._reporter.stepped(report)

    def _take_published(self, answer: Mapping[str, Any]) -> None:
        newest = self._published(answer)
        if self._evaluation is not None:
            self._evaluation.published(newest)

    def _published(self, answer: Mapping[str, Any]) -> WeightVersion:
        version = WeightVersion(lineage=self._lineage, epoch=int(answer["epoch"]), number=int(answer["number"]))
        self._reached("newest.before", version.number)
        newest = record_newest(self._store, version, run_epoch=self._epoch)
        self._reached("newest.after", version.number)
        metrics.PUBLISHED.set(version.number)
        said = {key: value for key, value in answer.items() if key not in ("number", "epoch")}
        log.info("published", extra={"step": version.number, "version": str(version), **said})
        return newest


class Stoppable(Protocol):
    def request_stop(self) -> None:
        """Finish the step in hand, checkpoint, end. Called from a signal handler, so it only asks."""


class Signals:
    """Ctrl-C and SIGTERM ask for a clean stop; a second one ends at once."""

    def __init__(self, run: Stoppable, console: Console) -> None:
        self._run, self._console, self._asked = run, console, False

    def __enter__(self) -> "Signals":
        self._old = {number: signal.signal(number, self._on) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _on(self, number: int, _: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        self._console.say("stopping: finishing the step in hand, then a checkpoint (again to stop at once)")
        self._run.request_stop()
