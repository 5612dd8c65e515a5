"""The experience buffer on Redis or Valkey: the Protocol of experience.buffer, each method one atomic script."""

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import redis

from experience.buffer import BACK_OFF_S, Ages, BufferRefused, Entry, Lease, Snapshot, Stage, put_time
from experience.config import ExperienceConfig
from experience.metrics import LOST_LEASES, QUARANTINED, REDELIVERIES, REDELIVERY_SECONDS, observe, observe_ages
from experience.redis_client import RedisClient
from experience.schema import SCHEMA_VERSION, BatchRecord, Issue, Outcome, Prompt, Settlement
from experience.wire import encode

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.5
"""A waiting lease looks for expired and released entries this often; new ones wake it at once."""


class RedisBuffer:
    """One client of one run's groups in flight; thread-safe. Epoch 0 = this client holds none of that role.

    `connect` is `Address.connect` or `EmbeddedServer.client`: the password passes through neither arguments nor logs.
    """

    def __init__(
        self,
        connect: Callable[[], redis.Redis],
        *,
        run_id: str,
        config: ExperienceConfig,
        run_epoch: int = 0,
        trainer_epoch: int = 0,
        explain: Callable[[], str] = lambda: "",
    ) -> None:
        """explain: what else is known when the server is given up, for the message."""
        self._client = RedisClient(connect, run_id=run_id, retry_s=config.retry_s, explain=explain)
        self._run_epoch = run_epoch
        self._trainer_epoch = trainer_epoch

    def __repr__(self) -> str:
        return f"RedisBuffer({self._client!r}, run_epoch={self._run_epoch}, trainer_epoch={self._trainer_epoch})"

    # -- the orchestrator ------------------------------------------------------------------------------------------
    def open(self, *, fingerprint: str) -> None:
        where = f"{self._client.url}, {self._client.prefix}"
        policy = self._client.eviction_policy()
        if policy != "noeviction":
            raise BufferRefused(
                f"{self._client.url}: maxmemory-policy = {policy} may evict groups; set it to noeviction"
            )
        found, schema = (value.decode() for value in self._client.run("open", fingerprint, SCHEMA_VERSION))
        if found != fingerprint:
            raise BufferRefused(
                f"{where}meta: fingerprint = {found or 'missing, beside other keys'}, this run has {fingerprint}; "
                "it is another run of this name, or another recipe: choose another run.name, or resume with the recipe that "
                "the run was started with"
            )
        if schema != str(SCHEMA_VERSION):
            raise BufferRefused(
                f"{where}meta: schema = {schema}, this headrace writes {SCHEMA_VERSION}; "
                "finish the run with the headrace that started it, or choose another run id"
            )

    def forget(self, *, fingerprint: str) -> int:
        where = f"{self._client.url}, {self._client.prefix}"
        count, found = self._client.run("forget", fingerprint)
        if count < 0:
            raise BufferRefused(
                f"{where}meta: fingerprint = {found.decode()}, this run has {fingerprint}; "
                "these keys are those of another run of this name, and stay"
            )
        return int(count)

    def raise_epoch(self, *, role: str, epoch: int) -> None:
        self._client.run("raise_epoch", role, epoch)

    def issue(self, prompts: Sequence[Prompt], *, cursor: int) -> None:
        sequences = [prompt.sequence for prompt in prompts]
        first = sequences[0] if sequences else 0
        if sequences != list(range(first, first + len(sequences))):
            raise ValueError(f"sequences {sequences} have gaps")
        pairs = [part for prompt in prompts for part in (_issue_text(prompt), encode(prompt))]
        anew = all(prompt.attempt > 0 for prompt in prompts)
        self._client.run("issue" if anew else "issue_new", self._run_epoch, cursor, first, *pairs)

    def snapshot(self) -> Snapshot:
        live, committed, next_sequence, cursor, *depths = self._client.run("snapshot")
        snapshot = Snapshot(
            live=live,
            committed=committed,
            next_sequence=next_sequence,
            cursor=cursor,
            depths=dict(zip(("prompts", "completions", "experience", "quarantine"), depths, strict=True)),
        )
        observe(snapshot)
        return snapshot

    def ages(self) -> Ages:
        prompts, completions, experience, quarantine, *leases = self._client.run("ages", int(time.time() * 1000))
        ages = Ages(
            oldest_s={
                "prompts": prompts / 1000,
                "completions": completions / 1000,
                "experience": experience / 1000,
                "quarantine": quarantine / 1000,
            },
            leases={"prompts": leases[0], "completions": leases[2]},
            oldest_lease_s={"prompts": leases[1] / 1000, "completions": leases[3] / 1000},
        )
        observe_ages(ages)
        return ages

    def server_info(self) -> Mapping[str, Any]:
        return self._client.info()

    def restore(self, *, record: BatchRecord) -> None:
        pairs = [part for issue in record.open for part in (issue.sequence, _issue_text(issue))]
        self._client.run("restore", self._run_epoch, record.number, record.cursor, record.next_sequence, *pairs)

    def take_over(self) -> None:
        self._client.run("take_over", self._run_epoch)

    def present(self) -> set[int]:
        return {int(sequence) for sequence in self._client.run("present")}

    def find(self, sequence: int) -> Entry | None:
        found = self._client.run("find", sequence)
        if not found:
            return None
        stream, entry_id, data, worker, deliveries, idle_ms = found
        put_at = put_time(entry_id.decode())
        return Entry(
            stream=stream.decode(),
            put_at=put_at,
            data=data,
            worker=worker.decode(),
            deliveries=deliveries,
            idle_s=idle_ms / 1000 if idle_ms >= 0 else max(0.0, time.time() - put_at),
        )

    # -- workers ---------------------------------------------------------------------------------------------------
    def lease(self, stage: Stage, *, worker: str, count: int, lease_s: float, wait_s: float = 0.0) -> list[Lease]:
        if count < 1:
            raise ValueError(f"count = {count}: lease at least 1")
        lease_ms = max(1, round(lease_s * 1000))
        back_off_ms = round(BACK_OFF_S * 1000)
        deadline = time.monotonic() + wait_s
        while True:
            last, entries = self._client.run("lease", self._run_epoch, stage, worker, count, lease_ms, back_off_ms)
            remaining_s = deadline - time.monotonic()
            if entries or remaining_s <= 0:
                break
            self._client.wait_for_entry(stage, after=last.decode(), timeout_s=min(remaining_s, _LOOK_AGAIN_S))
        leases = [
            Lease(
                stage=stage,
                entry_id=entry_id.decode(),
                sequence=int(sequence),
                worker=worker,
                deliveries=deliveries,
                data=data,
            )
            for entry_id, sequence, data, deliveries, _ in entries
        ]
        again = {
            lease.sequence: idle_ms / 1000
            for lease, (*_, idle_ms) in zip(leases, entries, strict=True)
            if lease.suspect
        }
        REDELIVERIES.labels(stage).inc(len(again))
        for idle_s in again.values():
            REDELIVERY_SECONDS.labels(stage).observe(idle_s)
        if again:
            log.info(
                "entries redelivered", extra={"stage": stage, "groups": list(again), "idle_s": list(again.values())}
            )
        return leases

    def renew(self, leases: Iterable[Lease]) -> set[str]:
        held = [part for lease in leases for part in _holding(lease)]
        return {entry_id.decode() for entry_id in self._client.run("renew", self._run_epoch, *held)}

    def begin_alone(self, lease: Lease, *, limit: int) -> bool:
        answer = self._client.run("begin_alone", self._run_epoch, limit, *_holding(lease), lease.sequence)
        if answer == 0:
            QUARANTINED.labels(lease.stage).inc()
            log.error("group_quarantined", extra={"group": lease.sequence, "stage": lease.stage, "limit": limit})
        return bool(answer == 1)

    def advance(self, outputs: Sequence[tuple[Lease, bytes]]) -> list[bool]:
        nonce = secrets.token_hex(8)  # one for all tries of this call: tells its own work from another's
        parts = [part for lease, data in outputs for part in (*_holding(lease), lease.sequence, data)]
        moved = [bool(answer) for answer in self._client.run("advance", self._run_epoch, nonce, *parts)]
        for (lease, _), done in zip(outputs, moved, strict=True):
            if not done:
                LOST_LEASES.labels(lease.stage).inc()
        return moved

    def release(self, lease: Lease, *, reason: str) -> None:
        self._client.run("release", self._run_epoch, reason, *_holding(lease), lease.sequence)

    # -- the trainer -----------------------------------------------------------------------------------------------
    def unsettled(self) -> list[Issue]:
        issued, settled = self._ends()
        return [issued[sequence] for sequence in sorted(issued.keys() - settled.keys())]

    def take(self, sequences: Iterable[int]) -> dict[int, bytes]:
        flat = self._client.run("take", *sequences)
        return {int(sequence): data for sequence, data in zip(flat[::2], flat[1::2], strict=True)}

    def settle(self, sequences: Iterable[int], *, outcome: Outcome, reason: str) -> None:
        self._client.run("settle", self._trainer_epoch, json.dumps([outcome, reason]), *sequences)

    def settled(self) -> list[Settlement]:
        issued, settled = self._ends()
        return [
            Settlement(
                sequence=sequence,
                prompt_id=issued[sequence].prompt_id,
                attempt=issued[sequence].attempt,
                outcome=settled[sequence][0],
                reason=settled[sequence][1],
            )
            for sequence in sorted(settled)
        ]

    def commit(self, record: BatchRecord) -> None:
        sequences = [settlement.sequence for settlement in record.settled]
        self._client.run("commit", self._trainer_epoch, record.number, record.cursor, record.next_sequence, *sequences)

    def close(self) -> None:
        self._client.close()

    def _ends(self) -> tuple[dict[int, Issue], dict[int, tuple[Outcome, str]]]:
        """What is issued and what is settled, both unrecorded, of one moment."""
        issued, settled = self._client.run("ends")
        issues = {}
        for sequence, text in zip(issued[::2], issued[1::2], strict=True):
            attempt, _, prompt_id = text.decode().partition(":")
            issues[int(sequence)] = Issue(sequence=int(sequence), prompt_id=prompt_id, attempt=int(attempt))
        ends = {int(sequence): json.loads(text) for sequence, text in zip(settled[::2], settled[1::2], strict=True)}
        return issues, {sequence: (outcome, reason) for sequence, (outcome, reason) in ends.items()}


def _issue_text(issued: Prompt | Issue) -> str:
    return f"{issued.attempt}:{issued.prompt_id}"


def _holding(lease: Lease) -> tuple[str, str, str, int]:
    """What makes a lease: scripts/common.lua compares it with what the server holds."""
    return lease.stage, lease.entry_id, lease.worker, lease.deliveries
