"""The experience buffer in one process: for tests and single-process runs, with a clock that can be injected.

`MemoryServer` is what a Redis server would hold; each `MemoryBuffer` is a client of it with its own epochs, so that
zombies can be played.
"""

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experience.buffer import (
    BACK_OFF_S,
    Ages,
    BufferLost,
    BufferRefused,
    Entry,
    Fenced,
    Lease,
    Role,
    Snapshot,
    Stage,
    put_time,
)
from experience.metrics import LOST_LEASES, QUARANTINED, REDELIVERIES, observe, observe_ages
from experience.schema import BatchRecord, Issue, Outcome, Prompt, Settlement
from experience.wire import encode

_DOWNSTREAM: dict[Stage, str] = {"prompts": "completions", "completions": "experience"}
_STREAMS = ("prompts", "completions", "experience", "quarantine")


@dataclass
class _Entry:
    sequence: int
    data: bytes
    worker: str = ""
    """Holder; empty = never leased, or released."""
    deliveries: int = 0
    renewed_at: float = -math.inf
    """On the server's clock; the lease ends lease_s later, or the back-off where nobody holds it."""
    alone: int = 0
    """Deliveries run alone."""
    counted: int = 0
    """The last of them, by `deliveries`."""
    failure: str = "the worker died"
    put_at: float = 0.0
    """On the server's clock."""

    def free_at(self, lease_s: float) -> float:
        """When it may be leased, again or for the first time."""
        back_off_s = BACK_OFF_S * 2 ** (self.deliveries - 1)
        return self.renewed_at + (lease_s if self.worker else min(lease_s, back_off_s))


@dataclass
class MemoryServer:
    """The state that all clients share, guarded by `changed`."""

    clock: Callable[[], float] = time.monotonic
    changed: threading.Condition = field(default_factory=threading.Condition)
    fingerprint: str = ""
    epochs: dict[Role, int] = field(default_factory=dict)
    committed: int = 0
    next_sequence: int = 0
    cursor: int = 0
    issued: dict[int, Issue] = field(default_factory=dict)
    settled: dict[int, Settlement] = field(default_factory=dict)
    streams: dict[str, dict[str, _Entry]] = field(default_factory=lambda: {name: {} for name in _STREAMS})
    ids: Iterable[int] = field(default_factory=itertools.count)

    def clear(self) -> None:
        """Everything is gone, as if it had never been."""
        self.fingerprint = ""
        self.committed = self.next_sequence = self.cursor = 0
        self.epochs.clear()
        self.issued.clear()
        self.settled.clear()
        for stream in self.streams.values():
            stream.clear()

    def put(self, stream: str, entry: _Entry) -> None:
        entry.put_at = self.clock()
        self.streams[stream][f"{time.time_ns() // 1_000_000}-{next(iter(self.ids))}"] = entry
        self.changed.notify_all()

    def forget(self, sequence: int) -> None:
        """Drop what is left of a settled group; its settlement stays until a batch records it."""
        for name in ("prompts", "completions", "experience"):
            stream = self.streams[name]
            for entry_id in [entry_id for entry_id, entry in stream.items() if entry.sequence == sequence]:
                del stream[entry_id]

    def record(self, sequences: Iterable[int], record: BatchRecord) -> None:
        """Forget these issues for good, and raise the counters to the record's."""
        for sequence in sequences:
            self.forget(sequence)
            self.issued.pop(sequence, None)
            self.settled.pop(sequence, None)
        self.committed = max(self.committed, record.number)
        self.cursor = max(self.cursor, record.cursor)
        self.next_sequence = max(self.next_sequence, record.next_sequence)

    def end(self, sequence: int, outcome: Outcome, reason: str) -> None:
        """Settle once."""
        issue = self.issued.get(sequence)
        if issue is not None and sequence not in self.settled:
            self.settled[sequence] = Settlement(
                sequence=sequence, prompt_id=issue.prompt_id, attempt=issue.attempt, outcome=outcome, reason=reason
            )
            self.forget(sequence)


class MemoryBuffer:
    """One client; the Protocol of experience.buffer. Epoch 0 = this client holds none of that role."""

    def __init__(self, server: MemoryServer, *, run_epoch: int = 0, trainer_epoch: int = 0) -> None:
        self._server = server
        self._epochs: dict[Role, int] = {"run": run_epoch, "trainer": trainer_epoch}

    # -- the orchestrator ------------------------------------------------------------------------------------------
    def open(self, *, fingerprint: str) -> None:
        with self._server.changed:
            found = self._server.fingerprint or fingerprint
            if found != fingerprint:
                raise BufferRefused(
                    f"memory: fingerprint = {found}, this run has {fingerprint}; "
                    "resume with the recipe that the run was started with, or choose another run.name"
                )
            self._server.fingerprint = found

    def forget(self, *, fingerprint: str) -> int:
        server = self._server
        with server.changed:
            if not server.fingerprint:
                return 0
            if server.fingerprint != fingerprint:
                raise BufferRefused(f"memory: fingerprint = {server.fingerprint}, this run has {fingerprint}; it stays")
            server.clear()
            return 1

    def raise_epoch(self, *, role: Role, epoch: int) -> None:
        with self._server.changed:
            self._server.epochs[role] = max(epoch, self._server.epochs.get(role, 0))

    def issue(self, prompts: Sequence[Prompt], *, cursor: int) -> None:
        server = self._server
        with server.changed:
            self._check_epoch("run")
            sequences = [prompt.sequence for prompt in prompts]
            first = sequences[0] if sequences else server.next_sequence
            if sequences != list(range(first, first + len(sequences))):
                raise ValueError(f"sequences {sequences} have gaps")
            issues = [Issue(sequence=p.sequence, prompt_id=p.prompt_id, attempt=p.attempt) for p in prompts]
            if sequences and sequences[-1] < server.next_sequence:
                for issue in issues:
                    if server.issued.get(issue.sequence, issue) != issue:
                        raise ValueError(
                            f"sequence {issue.sequence} was issued before, to {server.issued[issue.sequence]}"
                        )
                return
            if first != server.next_sequence:
                kind = BufferLost if first > server.next_sequence else ValueError
                raise kind(f"sequences from {first} do not continue next_sequence {server.next_sequence}")
            for prompt, issue in zip(prompts, issues, strict=True):
                server.issued[issue.sequence] = issue
                server.put("prompts", _Entry(sequence=issue.sequence, data=encode(prompt)))
            server.next_sequence += len(sequences)
            server.cursor = cursor

    def snapshot(self) -> Snapshot:
        server = self._server
        with server.changed:
            snapshot = Snapshot(
                live=len(server.issued) - len(server.settled),
                committed=server.committed,
                next_sequence=server.next_sequence,
                cursor=server.cursor,
                depths={name: len(stream) for name, stream in server.streams.items()},
            )
        observe(snapshot)
        return snapshot

    def ages(self) -> Ages:
        server = self._server
        with server.changed:
            now = server.clock()
            held: dict[Stage, list[float]] = {
                stage: [now - entry.renewed_at for entry in server.streams[stage].values() if entry.worker]
                for stage in _DOWNSTREAM
            }
            put = {name: [entry.put_at for entry in stream.values()] for name, stream in server.streams.items()}
        ages = Ages(
            oldest_s={name: now - min(times, default=now) for name, times in put.items()},
            leases={stage: len(idle) for stage, idle in held.items()},
            oldest_lease_s={stage: max(idle, default=0.0) for stage, idle in held.items()},
        )
        observe_ages(ages)
        return ages

    def server_info(self) -> Mapping[str, Any]:
        return {}

    def restore(self, *, record: BatchRecord) -> None:
        server = self._server
        with server.changed:
            self._check_epoch("run")
            if record.number < server.committed:
                return
            still_open = {issue.sequence: issue for issue in record.open}
            server.issued = still_open | server.issued
            server.record([s for s in server.issued if s < record.next_sequence and s not in still_open], record)

    def take_over(self) -> None:
        with self._server.changed:
            self._check_epoch("run")
            for stage in _DOWNSTREAM:
                for entry in self._server.streams[stage].values():
                    entry.worker, entry.deliveries, entry.counted, entry.renewed_at = "", 0, 0, -math.inf
            self._server.changed.notify_all()

    def present(self) -> set[int]:
        with self._server.changed:
            return {
                entry.sequence
                for name in ("prompts", "completions", "experience")
                for entry in self._server.streams[name].values()
            }

    def find(self, sequence: int) -> Entry | None:
        server = self._server
        with server.changed:
            for stream in ("prompts", "completions", "experience"):
                for entry_id, entry in server.streams[stream].items():
                    if entry.sequence == sequence:
                        put_at = put_time(entry_id)
                        since = server.clock() - entry.renewed_at if entry.deliveries else time.time() - put_at
                        return Entry(
                            stream=stream,
                            put_at=put_at,
                            data=entry.data,
                            worker=entry.worker,
                            deliveries=entry.deliveries,
                            idle_s=max(0.0, since),
                        )
        return None

    # -- workers ---------------------------------------------------------------------------------------------------
    def lease(self, stage: Stage, *, worker: str, count: int, lease_s: float, wait_s: float = 0.0) -> list[Lease]:
        if count < 1:
            raise ValueError(f"count = {count}: lease at least 1")
        server = self._server
        deadline = server.clock() + wait_s
        with server.changed:
            while True:
                self._check_epoch("run")
                now = server.clock()
                free = [item for item in server.streams[stage].items() if now >= item[1].free_at(lease_s)]
                free.sort(key=lambda item: item[1].deliveries == 0)  # stable: expired ones first, each by age
                if free or now >= deadline:
                    break
                expiries = [entry.free_at(lease_s) for entry in server.streams[stage].values()]
                server.changed.wait(min([deadline, *expiries]) - now)
            leases = [self._deliver(stage, entry_id, entry, worker) for entry_id, entry in free[:count]]
        REDELIVERIES.labels(stage).inc(sum(lease.suspect for lease in leases))
        return leases

    def renew(self, leases: Iterable[Lease]) -> set[str]:
        lost = set()
        with self._server.changed:
            self._check_epoch("run")
            for lease in leases:
                entry = self._held(lease)
                if entry is None:
                    lost.add(lease.entry_id)
                else:
                    entry.renewed_at = self._server.clock()
        return lost

    def begin_alone(self, lease: Lease, *, limit: int) -> bool:
        server = self._server
        with server.changed:
            self._check_epoch("run")
            entry = self._held(lease)
            if entry is None:
                return False
            entry.alone += entry.counted != lease.deliveries
            entry.counted = lease.deliveries
            if entry.alone <= limit:
                return True
            reason = f"{lease.stage}: failed {limit} deliveries alone; last: {entry.failure}"
            server.put("quarantine", entry)
            server.end(lease.sequence, "quarantined", reason)
        QUARANTINED.labels(lease.stage).inc()
        return False

    def advance(self, outputs: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        server = self._server
        moved = []
        with server.changed:
            self._check_epoch("run")
            for lease, data in outputs:
                moved.append(self._held(lease) is not None)
                if moved[-1]:
                    del server.streams[lease.stage][lease.entry_id]
                    server.put(_DOWNSTREAM[lease.stage], _Entry(sequence=lease.sequence, data=data))
                else:
                    LOST_LEASES.labels(lease.stage).inc()
        return moved

    def release(self, lease: Lease, *, reason: str) -> None:
        with self._server.changed:
            self._check_epoch("run")
            entry = self._held(lease)
            if entry is not None:
                entry.worker, entry.renewed_at, entry.failure = "", self._server.clock(), reason
                self._server.changed.notify_all()

    # -- the trainer -----------------------------------------------------------------------------------------------
    def unsettled(self) -> list[Issue]:
        server = self._server
        with server.changed:
            return [server.issued[sequence] for sequence in sorted(server.issued.keys() - server.settled.keys())]

    def take(self, sequences: Iterable[int]) -> dict[int, bytes]:
        with self._server.changed:
            arrived = {entry.sequence: entry.data for entry in self._server.streams["experience"].values()}
        return {sequence: arrived[sequence] for sequence in sequences if sequence in arrived}

    def settle(self, sequences: Iterable[int], *, outcome: Outcome, reason: str) -> None:
        server = self._server
        ending = list(sequences)
        with server.changed:
            self._check_epoch("trainer")
            for sequence in ending:
                if sequence >= server.next_sequence:
                    raise BufferLost(f"sequence {sequence} was never issued, next_sequence is {server.next_sequence}")
            for sequence in ending:
                server.end(sequence, outcome, reason)

    def settled(self) -> list[Settlement]:
        with self._server.changed:
            return [self._server.settled[sequence] for sequence in sorted(self._server.settled)]

    def commit(self, record: BatchRecord) -> None:
        server = self._server
        with server.changed:
            self._check_epoch("trainer")
            if record.number > server.committed + 1:
                raise BufferLost(f"batch {record.number} does not follow batch {server.committed}")
            server.record([settlement.sequence for settlement in record.settled], record)

    def close(self) -> None:
        """Nothing to close: the state lives as long as its server."""

    def _check_epoch(self, role: Role) -> None:
        newest = self._server.epochs.get(role)
        if newest is None:
            raise BufferLost(f"{role} epoch {self._epochs[role]}, the newest is not set")
        if self._epochs[role] < newest:
            raise Fenced(
                f"{role} epoch {self._epochs[role]}, the newest is {newest}: this process belongs to an older life of the run"
            )

    def _held(self, lease: Lease) -> _Entry | None:
        """The entry, if this very delivery of it is still the newest."""
        entry = self._server.streams[lease.stage].get(lease.entry_id)
        if entry is None or (entry.worker, entry.deliveries) != (lease.worker, lease.deliveries):
            return None
        return entry

    def _deliver(self, stage: Stage, entry_id: str, entry: _Entry, worker: str) -> Lease:
        entry.worker, entry.renewed_at = worker, self._server.clock()
        entry.deliveries += 1
        return Lease(
            stage=stage,
            entry_id=entry_id,
            sequence=entry.sequence,
            worker=worker,
            deliveries=entry.deliveries,
            data=entry.data,
        )
