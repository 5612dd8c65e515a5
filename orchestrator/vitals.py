"""What the driver measures of a life of a run, and notes in its timeline; it decides nothing by any of it."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from experience import metrics as experience_metrics
from experience.buffer import Ages, BufferLost, ExperienceBuffer, Snapshot
from experience.wall_clock import WallClock
from orchestrator import metrics
from orchestrator.admission import capacity_groups
from orchestrator.config import Recipe
from orchestrator.disk import disk_room
from orchestrator.folder import RunFolder
from orchestrator.redis_state import NOTHING, RedisState
from orchestrator.supervise import Supervisor
from orchestrator.timeline import Timeline, Workers
from orchestrator.waited_for import STAGES, waited_for

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks at ages and disks, and two lines of the timeline at most."""


class TrainerState(Protocol):
    """What is looked at of orchestrator.trainer.Trainer."""

    step: int
    committed: int
    published: int
    saved: int
    restarts: int
    final: bool
    ranks: Any

    @property
    def started(self) -> bool: ...
    @property
    def reached(self) -> int: ...
    @property
    def at_work(self) -> bool: ...


class Vitals:
    """Made as a life begins. tick(now, …) at every turn of the loop: cheap, and once a second what costs a little more.

    wall, waited: see new_clocks. disks: value of the label `path` -> a folder on that disk.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        *,
        epoch: int,
        wall: WallClock,
        waited: WallClock,
        disks: Mapping[str, Path],
    ) -> None:
        self._recipe, self._epoch = recipe, epoch
        self._wall, self._waited = wall, waited
        self._disks = dict(disks)
        self._redis = RedisState()
        self._timeline, self._workers = Timeline(folder), Workers()
        self._looked_at = -LOOK_S
        self._progress: tuple[int, int] | None = None
        self._oldest: Mapping[str, float] = {}
        self._seen: tuple[Snapshot, TrainerState, Supervisor] | None = None
        self._over = False
        metrics.STEPS_PLANNED.set(recipe.run.steps)
        metrics.MAX_STALENESS.set(recipe.pacing.max_staleness)
        metrics.STALL_LIMIT.set(recipe.supervise.stall_s)
        experience_metrics.CAPACITY.set(capacity_groups(recipe))
        self._timeline.add(self._first_line())

    def tick(
        self,
        now: float,
        snapshot: Snapshot,
        trainer: TrainerState,
        supervisor: Supervisor,
        *,
        buffer: ExperienceBuffer,
    ) -> None:
        members = {member.name: member.status for member in supervisor.members()}
        over = trainer.final or trainer.step >= self._recipe.run.steps
        self._waited.enter(
            waited_for(
                snapshot,
                started=trainer.started,
                at_work=trainer.at_work,
                over=over,
                batch_groups=self._recipe.pacing.batch_groups,
                workers=members,
            )
        )
        self._seen = snapshot, trainer, supervisor
        self._note_progress(trainer, snapshot)
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        self._look(now, buffer)
        if self._timeline.due(self._elapsed()):
            self._timeline.add(self._whole_line(snapshot, trainer, supervisor))

    def status(self) -> dict[str, Any]:
        """What status.json has of it."""
        return {
            "waited_for": self._waited.told(),
            "oldest_s": {stream: round(age_s, 3) for stream, age_s in self._oldest.items()},
            "redis": dict(self._redis.seen),
            "wall": self._wall.told(),
        }

    def ended(self, state: str) -> None:
        """The life's last line: what the last turn of the loop saw, with the time and the state of the end."""
        line = self._whole_line(*self._seen) if self._seen else self._first_line()
        self._timeline.add(line | self._moment(state))
        self._over = True

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Around a life: one that ends before its loop has begun, for want of a server say, has its last line too."""
        try:
            yield
        except BaseException as error:
            if not self._over:
                self.ended("stopped" if isinstance(error, KeyboardInterrupt) else "failed")
            raise

    def _note_progress(self, trainer: TrainerState, snapshot: Snapshot) -> None:
        progress = (trainer.reached, snapshot.committed)
        if progress != self._progress:
            self._progress = progress
            metrics.LAST_PROGRESS.set(time.time())

    def _look(self, now: float, buffer: ExperienceBuffer) -> None:
        try:
            ages: Ages = buffer.ages()
            self._oldest = ages.oldest_s
        except BufferLost as error:  # whoever paces meets it as well, and has it mended
            log.info("ages not read", extra={"why": str(error)})
        self._redis.tick(now, buffer.server_info)
        for label, (free, size) in disk_room(self._disks).items():
            metrics.DISK_FREE.labels(label).set(free)
            metrics.DISK_SIZE.labels(label).set(size)

    def _first_line(self) -> dict[str, Any]:
        return self._moment("starting") | {
            "step": -1,
            "committed": 0,
            "published": -1,
            "saved": -1,
            "issued": 0,
            "live": 0,
            "capacity": capacity_groups(self._recipe),
            "streams": {},
            "oldest_s": {},
            "waited_for": self._waited.told(),
            "restarts": {"trainer": 0, "workers": 0},
            "redis": dict(NOTHING),
            "workers": {"driver": {"wall": self._wall.told()}},
        }

    def _whole_line(self, snapshot: Snapshot, trainer: TrainerState, supervisor: Supervisor) -> dict[str, Any]:
        own = self.status()
        statuses = {member.name: member.status for member in (*trainer.ranks, *supervisor.members())}
        return {
            **self._moment("running" if trainer.started else "starting"),
            "step": trainer.reached,
            "committed": snapshot.committed,
            "published": trainer.published,
            "saved": trainer.saved,
            "issued": snapshot.next_sequence,
            "live": snapshot.live,
            "capacity": capacity_groups(self._recipe),
            "streams": dict(snapshot.depths),
            "oldest_s": own["oldest_s"],
            "waited_for": own["waited_for"],
            "restarts": {"trainer": trainer.restarts, "workers": supervisor.restarts},
            "redis": own["redis"],
            "workers": {"driver": {"wall": own["wall"]}, **self._workers.of(statuses)},
        }

    def _moment(self, state: str) -> dict[str, Any]:
        return {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "elapsed_s": round(self._elapsed(), 3),
            "epoch": self._epoch,
            "state": state,
        }

    def _elapsed(self) -> float:
        return time.monotonic() - self._wall.began


def new_clocks(*, began: float) -> tuple[WallClock, WallClock]:
    """(wall, waited for) of a life that began then, shown to Prometheus from now on."""
    metrics.STARTED.set(time.time() - (time.monotonic() - began))
    wall = metrics.WALL.shows(WallClock(metrics.PHASES, began=began))
    return wall, metrics.WAITED_FOR.shows(WallClock(STAGES, began=began))
