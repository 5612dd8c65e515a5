"""The experience buffer: what stands between the clusters, as one Protocol.

Lifecycle of a group, each arrow one atomic operation:

    issue ──▶ prompts ──lease/advance──▶ completions ──lease/advance──▶ experience ──commit──▶ gone (the ledger has it)
                 └──────────────── quarantine (settled, recorded by the next batch) ◀──┘

Capacity is guarded by admission alone (experience.pacing): putting an admitted group never blocks, or the loop would
deadlock. Every write carries the writer's fencing epoch and raises `Fenced` when a newer epoch of that role exists, and
`BufferLost` when the server knows none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from experience.schema import BatchRecord, Issue, Outcome, Prompt, Settlement

Stage = Literal["prompts", "completions"]
"""Stages that workers lease from; `advance` moves prompts -> completions -> experience."""

Role = Literal["run", "trainer"]
"""Who holds an epoch: the run (orchestrator, generation, scoring) or the trainer's ranks."""


BACK_OFF_S = 0.5
"""From a failure of a group to its next delivery, doubled with each: so long that what fails for a while (a service, a
disk) is not tried as often as it can fail, and short beside a step. Never longer than a lease."""


class BufferRefused(ValueError):
    """The buffer holds something that this run must not touch; the message names it and the remedy."""


class Fenced(RuntimeError):
    """A newer epoch exists: this process is a zombie and must end without writing."""


class BufferLost(Fenced, ValueError):
    """The server has lost what it had acknowledged: it knows no epoch of this run, or less than was issued or committed.

    Nothing was written. The orchestrator brings it up to the ledger (see experience.recovery); others wait for that, or end.
    """


class BufferUnavailable(ConnectionError):
    """The server did not answer within the retry budget."""


class BufferFull(BufferUnavailable):
    """The server's memory is full, so that nothing was written: try again once groups have left it."""


def put_time(entry_id: str) -> float:
    """Unix seconds: ids begin with the milliseconds."""
    return int(entry_id.partition("-")[0]) / 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """One entry that a worker holds until its deadline, renewable."""

    stage: Stage
    entry_id: str
    sequence: int
    worker: str
    deliveries: int
    """1 on first delivery; from 2 on the entry is a suspect: drain first, then `begin_alone`, then run it alone."""
    data: bytes
    """Encoded Prompt or CompletionGroup."""

    @property
    def suspect(self) -> bool:
        return self.deliveries > 1

    @property
    def put_at(self) -> float:
        """Unix seconds by the buffer's clock when the entry was put into its stream."""
        return put_time(self.entry_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Where a group is, and who has it."""

    stream: str
    """prompts, completions or experience."""
    put_at: float
    """Unix seconds by the buffer's clock."""
    data: bytes
    """Encoded Prompt, CompletionGroup or ScoredGroup, by stream."""
    worker: str
    """Who holds its lease; "" = nobody."""
    deliveries: int
    """To its present holder, or the last one; 0 = nobody has had it."""
    idle_s: float
    """Since it was put, leased, renewed or given back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The buffer's counters, read atomically."""

    live: int
    """Issued and not settled."""
    committed: int
    """Batches committed (v of the pacing rule)."""
    next_sequence: int
    cursor: int
    depths: Mapping[str, int]
    """Entries by stream: prompts, completions, experience, quarantine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ages:
    """How long entries have stood, for people: apart from `Snapshot`, which only moves when something happens."""

    oldest_s: Mapping[str, float]
    """Age of the oldest entry, seconds, by stream; 0 = it is empty."""
    leases: Mapping[Stage, int]
    """Entries that workers hold."""
    oldest_lease_s: Mapping[Stage, float]
    """Longest time since one of them was renewed; 0 = none is held."""


class ExperienceBuffer(Protocol):
    """One run's groups in flight."""

    # -- the orchestrator ------------------------------------------------------------------------------------------
    def open(self, *, fingerprint: str) -> None:
        """Take the run's prefix. BufferRefused: another fingerprint or schema, or a policy that may evict."""

    def forget(self, *, fingerprint: str) -> int:
        """Delete all that the buffer holds of this run, groups in flight among it; how many keys that were, 0 if nothing was
        there. BufferRefused, with nothing deleted: another fingerprint holds the prefix. Other runs' keys are not looked at."""

    def raise_epoch(self, *, role: Role, epoch: int) -> None:
        """From now on writes of lower epochs of this role raise Fenced. Never lowers."""

    def issue(self, prompts: Sequence[Prompt], *, cursor: int) -> None:
        """Append prompts; their sequences continue `next_sequence` without a gap. Sets the cursor in the same step.

        BufferFull, at once and with nothing written. No other call raises it, nor does this one where all prompts are
        issued anew: full memory holds up the admission of new ones alone.
        """

    def snapshot(self) -> Snapshot: ...

    def ages(self) -> Ages: ...

    def server_info(self) -> Mapping[str, Any]:
        """What the server tells of its memory, persistence and clients (fields of Redis's INFO), asked once, without patience;
        empty where there is no server. redis.RedisError."""

    def restore(self, *, record: BatchRecord) -> None:
        """Bring the counters up to the newest committed batch after a loss of the server (never lowers them)."""

    def take_over(self) -> None:
        """Give back every lease, as if never delivered. For a new life, after raise_epoch and before its workers start:
        whoever holds one is fenced, so nobody need wait for its deadline."""

    def present(self) -> set[int]:
        """Unsettled sequences whose entry really stands in a stream, leased or not; see experience.recovery."""

    def find(self, sequence: int) -> Entry | None:
        """The entry of a group in flight, for whoever asks: no epoch is needed, nothing changes. None: it was settled, or was
        never issued."""

    # -- workers ---------------------------------------------------------------------------------------------------
    def lease(self, stage: Stage, *, worker: str, count: int, lease_s: float, wait_s: float = 0.0) -> list[Lease]:
        """Expired leases of any worker first, then new entries; waits up to wait_s when there is none.

        Expired: not renewed for lease_s, so all callers must pass the same; or given back, and its back-off is over. A worker name belongs to one life of a worker.
        """

    def renew(self, leases: Iterable[Lease]) -> set[str]:
        """Restart the deadline of those still owned; returns the entry_ids that are no longer ours."""

    def begin_alone(self, lease: Lease, *, limit: int) -> bool:
        """Count a delivery alone. False: do not run it; `limit` such deliveries failed and it went to quarantine, or it is
        no longer ours."""

    def advance(self, outputs: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        """Acknowledge and put downstream, atomically per entry; False where the lease was no longer live."""

    def release(self, lease: Lease, *, reason: str) -> None:
        """Give the entry back, for redelivery as a suspect after BACK_OFF_S · 2^(deliveries − 1), or lease_s if shorter."""

    # -- the trainer -----------------------------------------------------------------------------------------------
    def unsettled(self) -> list[Issue]:
        """Issued and not settled, by sequence."""

    def take(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """The encoded ScoredGroup of those sequences that have arrived; leaves them in place."""

    def settle(self, sequences: Iterable[int], *, outcome: Outcome, reason: str) -> None:
        """End groups without training them; the next batch records it. Settling twice keeps the first.

        Their entries leave the streams at once, so whoever works on one finds its lease lost.
        """

    def settled(self) -> list[Settlement]:
        """Settled and not yet recorded by a batch, by sequence."""

    def commit(self, record: BatchRecord) -> None:
        """Acknowledge and delete what the ledger has recorded; doing it twice is harmless."""

    def close(self) -> None: ...
