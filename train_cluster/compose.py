"""The composer: makes batch k of what has arrived, and commits it to the ledger."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np

from experience import wire
from experience.buffer import BufferLost, ExperienceBuffer, Snapshot
from experience.config import PacingConfig
from experience.ledger import Ledger
from experience.metrics import observe_settled
from experience.pacing import next_batch
from experience.recovery import account_problem, owed_attempts
from experience.schema import BatchRecord, Controls, Issue, ScoredGroup, Settlement
from train_cluster import metrics
from train_cluster.config import GrpoConfig, PpoConfig

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.02
"""Between two looks at the buffer's counters: it has no call that waits for an arrival."""
LOOK_AGAIN_S = 0.2
"""Between two looks at all issues when no counter moves: time-outs are noticed so late."""


class ComposeCancelled(RuntimeError):
    """The caller asked to stop before the batch was complete; nothing was written."""


class Composer:
    """Takes groups strictly in issue order, waits for all of a batch, gives records that are history.

    With `drop_after_s`, a group that holds up the batch for so long, while B others have arrived, is settled as dropped.
    The orchestrator issues its prompt anew, and no batch is committed before it has: the commit would end the
    settlement, which alone says that a next attempt is owed. So neither a death nor a restart loses a prompt.

    One composer lives at a time: the buffer's trainer epoch fences an older one, and the ledger decides between two.
    Between `hold` and `let_go` it commits nothing, so that others may change in the buffer what is issued and open.
    """

    def __init__(
        self,
        *,
        run_id: str,
        lineage: int,
        epoch: int,
        buffer: ExperienceBuffer,
        ledger: Ledger,
        pacing: PacingConfig,
        algorithm: PpoConfig | GrpoConfig,
        controls: Controls,
        seed: int,
        config_hash: str,
        timeout_s: float,
        drop_after_s: float | None = None,
        reached: Callable[[str, int], None] = lambda point, step: None,
    ) -> None:
        self._run_id = run_id
        self._lineage = lineage
        self._epoch = epoch
        self._buffer = buffer
        self._ledger = ledger
        self._batch_groups = pacing.batch_groups
        self._filter_uniform = isinstance(algorithm, GrpoConfig) and algorithm.filter_uniform
        self._controls = controls
        self._seed = seed
        self._config_hash = config_hash
        self._timeout_s = timeout_s
        self._drop_after_s = drop_after_s
        self._reached = reached
        self._pause = threading.Event()
        self._committing = threading.Lock()
        """Held from the last look at the buffer until the ledger has the batch."""
        self._account: tuple[int, Set[int], int] = (0, frozenset(), 0)
        """Newest batch, what it left open, how many were issued by then; nothing before batch 1."""
        self._repairing = 0
        """The batch for which a loss was logged."""

    def compose(self, number: int, cancelled: Callable[[], bool] = lambda: False) -> BatchRecord:
        """Batch `number`, from the ledger or new; when it returns, ledger and buffer both have it.

        Waits as long as it takes: a long step may rightly hold up admission, and to end a run that stalls is the
        watchdog's part. What is missing is logged each time nothing has moved for `timeout_s`. ComposeCancelled.
        """
        record = self._ledger.read(number)
        if record is None:
            record = self._commit(number, cancelled)
        self._acknowledge(record, cancelled)
        self._reached("batch.acknowledged", number)
        return record

    def hold(self) -> None:
        """Wait for the commit in hand, and begin none. What has arrived meanwhile is looked at anew after `let_go`."""
        self._committing.acquire()

    def let_go(self) -> None:
        self._committing.release()

    def _commit(self, number: int, cancelled: Callable[[], bool]) -> BatchRecord:
        """Batch `number` in the ledger, once the buffer gives an account that continues the ledger's."""
        open_before, issued_before = self._account_before(number)
        while True:
            try:
                groups = self._wait_for_groups(number, cancelled)
                with self._committing:
                    record = self._record(number, groups)
                    problem = account_problem(record, open_before=open_before, issued_before=issued_before)
                    if problem:
                        raise BufferLost(problem)
                    self._reached("batch.commit.before", number)
                    record = self._ledger.commit(record)
                self._reached("batch.commit.after", number)
                observe_settled(record.settled)
                extra = {"step": number, "groups": sorted(groups), "epoch": record.epoch}
                logger.info("batch committed", extra=extra)
                return record
            except BufferLost as error:
                self._wait_for_repair(number, error, cancelled)

    def _acknowledge(self, record: BatchRecord, cancelled: Callable[[], bool]) -> None:
        """Let the buffer forget what is history."""
        while True:
            try:
                self._buffer.commit(record)
                break
            except BufferLost as error:
                self._wait_for_repair(record.number, error, cancelled)
        self._account = record.number, frozenset(issue.sequence for issue in record.open), record.next_sequence

    def _wait_for_repair(self, number: int, error: BufferLost, cancelled: Callable[[], bool]) -> None:
        """The orchestrator notices the loss as well, and brings the buffer up to the ledger."""
        if number != self._repairing:
            logger.warning("the buffer has lost groups", extra={"step": number, "why": str(error)})
            self._repairing = number
        if cancelled():
            raise ComposeCancelled(f"batch {number} was given up on request") from error
        self._pause.wait(POLL_INTERVAL_S)

    def _account_before(self, number: int) -> tuple[Set[int], int]:
        """Sequences that batch `number - 1` left open, and how many were issued by then."""
        last, still_open, issued = self._account
        if last != number - 1:
            record = self._ledger.read(number - 1)
            if record is None:
                raise ValueError(f"batch {number - 1} is not in the ledger: batch {number} cannot continue it")
            still_open, issued = frozenset(issue.sequence for issue in record.open), record.next_sequence
        return still_open, issued

    def _wait_for_groups(self, number: int, cancelled: Callable[[], bool]) -> dict[int, bytes]:
        """The encoded groups of the batch by sequence, ascending. Ends when the lowest B unsettled have all arrived."""
        arrived: dict[int, bytes] = {}
        late: dict[int, float] = {}
        """Sequence -> since when it has held up the batch, on the monotonic clock."""
        progress: tuple[object, ...] = ()
        moved_at = time.monotonic()
        while not cancelled():
            snapshot = self._buffer.snapshot()  # first: what arrives after it ends the wait below
            wanted = next_batch([issue.sequence for issue in self._buffer.unsettled()], batch_groups=self._batch_groups)
            new = self._buffer.take([s for s in wanted or () if s not in arrived])
            arrived |= new
            uniform = [s for s, data in new.items() if self._filter_uniform and _is_uniform(data)]
            if uniform:
                self._buffer.settle(uniform, outcome="filtered", reason="all rewards of the group are equal")
                continue
            missing = [s for s in wanted or () if s not in arrived]
            if wanted is not None and not missing and not self._owed():
                return {s: arrived[s] for s in wanted}
            if self._drop_after_s is not None:
                late = self._drop(missing if snapshot.depths["experience"] >= self._batch_groups else (), late)
            if (seen := (len(arrived), wanted, snapshot)) != progress:
                progress, moved_at = seen, time.monotonic()
            elif time.monotonic() - moved_at > self._timeout_s:
                logger.warning(
                    "batch waits", extra={"step": number, "why": self._diagnosis(number, wanted, arrived, snapshot)}
                )
                moved_at = time.monotonic()
            self._wait_for_change(snapshot, cancelled)
        raise ComposeCancelled(f"batch {number} was given up on request")

    def _wait_for_change(self, seen: Snapshot, cancelled: Callable[[], bool]) -> None:
        """Until the buffer's counters differ from those seen: they are one short answer, all issues and groups are not."""
        deadline = time.monotonic() + LOOK_AGAIN_S
        while not cancelled() and time.monotonic() < deadline:
            self._pause.wait(POLL_INTERVAL_S)
            if self._buffer.snapshot() != seen:
                return

    def _drop(self, missing: Sequence[int], late: Mapping[int, float]) -> dict[int, float]:
        """Settle those of the missing that are late for too long; since when each of the others is."""
        assert self._drop_after_s is not None
        now = time.monotonic()
        since = {sequence: late.get(sequence, now) for sequence in missing}
        overdue = [sequence for sequence in missing if now - since[sequence] > self._drop_after_s]
        if overdue:
            self._buffer.settle(
                overdue, outcome="dropped", reason=f"held up a batch for more than {self._drop_after_s:g} s"
            )
            metrics.DROPPED.inc(len(overdue))
            logger.warning("groups dropped", extra={"groups": overdue})
        return {sequence: since[sequence] for sequence in missing if sequence not in overdue}

    def _owed(self) -> bool:
        """Prompts of dropped groups wait to be issued anew."""
        unsettled = self._buffer.unsettled()
        return bool(owed_attempts(unsettled=unsettled, settled=self._buffer.settled()))

    def _record(self, number: int, groups: Mapping[int, bytes]) -> BatchRecord:
        """The batch with a consistent account of all issues below its `next_sequence`: each open, or settled once.

        The orchestrator may issue, and workers may quarantine, between the reads, so their order matters. The
        snapshot comes first: what is issued later has a sequence beyond its `next_sequence` and is left to the next
        batch. `settled` is read after `unsettled`: a group settled in between shows up in both, and counts as settled;
        in the other order it would show up in neither, and be lost. None leaves `settled` but by a commit, which only
        this composer makes.
        """
        snapshot = self._buffer.snapshot()
        unsettled = self._buffer.unsettled()
        settled = {s.sequence: s for s in self._buffer.settled() if s.sequence < snapshot.next_sequence}
        issues = {i.sequence: i for i in unsettled if i.sequence < snapshot.next_sequence}
        if gone := sorted(groups.keys() - issues.keys()):
            raise BufferLost(f"sequence {gone[0]} has arrived, and is no longer unsettled")
        for sequence in groups:
            settled[sequence] = _trained(issues[sequence], number)
        return BatchRecord(
            run_id=self._run_id,
            lineage=self._lineage,
            number=number,
            epoch=self._epoch,
            groups=tuple(groups[sequence] for sequence in sorted(groups)),
            seed=batch_seed(self._seed, lineage=self._lineage, number=number),
            controls=self._controls,
            settled=tuple(settled[sequence] for sequence in sorted(settled)),
            open=tuple(issues[sequence] for sequence in sorted(issues.keys() - settled.keys())),
            cursor=snapshot.cursor,
            next_sequence=snapshot.next_sequence,
            config_hash=self._config_hash,
        )

    def _diagnosis(
        self, number: int, wanted: Sequence[int] | None, arrived: Mapping[int, bytes], snapshot: Snapshot
    ) -> str:
        depths = ", ".join(f"{name} {depth}" for name, depth in snapshot.depths.items())
        where = f"nothing moved for {self._timeout_s:g} s; {snapshot.live} groups live (entries: {depths})"
        if wanted is None:
            return (
                f"batch {number}: fewer than {self._batch_groups} groups are issued and unsettled, {where}; "
                "the orchestrator admits no prompts"
            )
        missing = [s for s in wanted if s not in arrived]
        if not missing:
            return f"batch {number}: has arrived, and waits for prompts of dropped groups to be issued anew, {where}"
        stage = next((name for name in ("completions", "prompts") if snapshot.depths.get(name)), "no stream")
        return f"batch {number}: waits for {len(missing)} groups, sequences {_some(missing)}, {where}; look at {stage}"


def batch_seed(seed: int, *, lineage: int, number: int) -> int:
    """The seed of a batch, 63 bits: a pure function of the run's seed, the lineage and the batch's number."""
    return int(np.random.SeedSequence([seed, lineage, number]).generate_state(1, np.uint64)[0] >> 1)


def _is_uniform(data: bytes) -> bool:
    return len({score.total for score in wire.decode(data, ScoredGroup).scores}) == 1


def _trained(issue: Issue, number: int) -> Settlement:
    return Settlement(
        sequence=issue.sequence,
        prompt_id=issue.prompt_id,
        attempt=issue.attempt,
        outcome="trained",
        reason=f"step {number}",
    )


def _some(sequences: Sequence[int], *, shown: int = 8) -> str:
    text = ", ".join(map(str, sequences[:shown]))
    return f"{text}, …" if len(sequences) > shown else text
