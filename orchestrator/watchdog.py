"""Follows progress, not liveness: when no batch is committed and no step trained, it says who waits for whom."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experience.buffer import ExperienceBuffer, Snapshot
from orchestrator.errors import RunFailed
from orchestrator.folder import RunFolder
from orchestrator.sections import SuperviseConfig
from orchestrator.supervise import Supervisor
from orchestrator.trainer import Trainer

log = logging.getLogger(__name__)

STACKS_S = 5.0
"""For all workers to write their stacks; one that is stopped never will."""
_LOOK_S = 0.1
"""Between two looks: a process that still writes does not rest for so long."""


class PoisonBrake:
    """tick() raises RunFailed when far more groups are quarantined than one bad prompt explains.

    A reward function or an engine that fails on everything would otherwise consume the prompts until the watchdog ends
    the run. What an earlier life quarantined does not count, since its cause may have been repaired: the first tick comes
    before anything of this life can fail.
    """

    def __init__(self, *, batch_groups: int) -> None:
        self._limit = 2 * batch_groups
        self._seen: int | None = None
        self._before: frozenset[int] = frozenset()

    def tick(self, snapshot: Snapshot, buffer: ExperienceBuffer) -> None:
        depth = snapshot.depths["quarantine"]
        if depth == self._seen:
            return
        ends = [end for end in buffer.settled() if end.outcome == "quarantined"]
        if self._seen is None:
            self._before = frozenset(end.sequence for end in ends)
        self._seen = depth
        poisoned = [end for end in ends if end.sequence not in self._before]
        if len(poisoned) >= self._limit:
            raise RunFailed(
                f"{len(poisoned)} groups were quarantined since batch {snapshot.committed} was committed, "
                f"the last because of: {poisoned[-1].reason}"
            )


class Watchdog:
    """tick() raises RunFailed after `stall_s` without progress, with the diagnosis written beside the logs."""

    def __init__(self, config: SuperviseConfig, folder: RunFolder) -> None:
        self._config, self._folder = config, folder
        self._seen: tuple[int, int] | None = None
        self._since = 0.0

    def tick(self, now: float, snapshot: Snapshot, trainer: Trainer, supervisor: Supervisor) -> None:
        progress = (trainer.step, snapshot.committed)
        if progress != self._seen:
            self._seen, self._since = progress, now
        elif now - self._since > self._config.stall_s:
            report = diagnose(snapshot, trainer, supervisor)
            self._folder.write_json(self._folder.diagnosis, report)
            self._dump_stacks(trainer, supervisor)
            raise RunFailed(
                f"no progress for {self._config.stall_s:.0f} s: {report['verdict']}; "
                f"see {self._folder.diagnosis} and the stacks in {self._folder.logs}"
            )

    def _dump_stacks(self, trainer: Trainer, supervisor: Supervisor) -> None:
        """Every worker writes its threads' stacks to its own file (on a node that does not share the folder, to one there)."""
        asked: dict[Path, int] = {}
        for member in (*trainer.ranks, *supervisor.members()):
            file = self._folder.logs / f"{member.name}.stacks"
            size = _size(file)
            if member.dump_stacks():
                asked[file] = size
            else:
                log.info("worker is gone", extra={"member": member.name})
        _wait_until_written(asked)


def _wait_until_written(asked: Mapping[Path, int]) -> None:
    """Until each file is larger than it was and has come to rest: the end of the run kills whoever still writes."""
    deadline, last = time.monotonic() + STACKS_S, asked
    while asked and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        sizes = {file: _size(file) for file in asked}
        if sizes == last and all(sizes[file] > asked[file] for file in asked):
            return
        last = sizes


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def verdict(snapshot: Snapshot, trainer: Trainer, supervisor: Supervisor) -> str:
    """Who waits for whom, as far as the counters tell: the one that all others wait for comes first."""
    depths = snapshot.depths
    if not trainer.started:
        return "the trainer's ranks have not started"
    if trainer.step < snapshot.committed:
        return f"the trainer has batch {trainer.step + 1} and does not finish it ({trainer.doing()})"
    if depths["prompts"] > 0:
        waits = f"generation holds {depths['prompts']} groups: the trainer and the scorers wait for it"
        refused = {member.name: member.status.get("refused") for member in supervisor.members()}
        return "; ".join([waits, *(f"{name} refuses a version: {why}" for name, why in refused.items() if why)])
    if depths["completions"] > 0:
        return f"scoring holds {depths['completions']} groups: the trainer waits for it"
    if snapshot.live == 0:
        return "nothing is in flight: admission waits for a newer version to be published"
    return f"{depths['experience']} groups have arrived and rank 0 does not commit them ({trainer.doing()})"


def diagnose(snapshot: Snapshot, trainer: Trainer, supervisor: Supervisor) -> dict[str, Any]:
    """The verdict, and the counters behind it."""
    members = (*trainer.ranks, *supervisor.members())
    return {
        "verdict": verdict(snapshot, trainer, supervisor),
        "step": trainer.step,
        "committed": snapshot.committed,
        "published": trainer.published,
        "live": snapshot.live,
        "streams": dict(snapshot.depths),
        "trainer": trainer.doing(),
        "workers": {member.name: member.status for member in members},
    }
