"""The composer on the memory buffer and a ledger: issue order, filters, races, deadlines, crashes between writes."""

import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from train_records import CONTROLS, a_completion, a_scored_group

import train_cluster.compose
from experience import wire
from experience.buffer import Lease, Snapshot, Stage
from experience.config import PacingConfig
from experience.ledger import Ledger
from experience.memory import MemoryBuffer, MemoryServer
from experience.schema import BatchRecord, ScoredGroup, Settlement
from train_cluster.compose import ComposeCancelled, Composer, batch_seed
from train_cluster.config import GrpoConfig


class DictStore:
    """The ledger's BlobStore in a dictionary."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self.blobs.setdefault(key, data) is data

    def get(self, key: str) -> bytes:
        return self.blobs[key]

    def exists(self, key: str) -> bool:
        return key in self.blobs

    def list(self, prefix: str) -> list[str]:
        return [key for key in self.blobs if key.startswith(prefix)]

    def delete(self, key: str) -> None:
        self.blobs.pop(key, None)


def a_group(sequence: int, rewards: tuple[float, ...] = (0.0, 1.0)) -> ScoredGroup:
    completions = [a_completion(i, np.array([1, 2]), np.array([-1.0, -1.0])) for i in range(len(rewards))]
    return a_scored_group(sequence, [1], completions, rewards)


class Loop:
    """A buffer with an orchestrator and workers that do what the test says."""

    def __init__(self, buffer_type: type[MemoryBuffer] = MemoryBuffer) -> None:
        self.server = MemoryServer()
        self.buffer = buffer_type(self.server, run_epoch=1, trainer_epoch=1)
        self.buffer.raise_epoch(role="run", epoch=1)
        self.buffer.raise_epoch(role="trainer", epoch=1)
        self.buffer.open(fingerprint="f")
        self.store = DictStore()
        self.ledger = Ledger(self.store, 0)
        self.held: dict[Stage, list[Lease]] = {}
        """Leased and not finished."""

    def issue(self, count: int) -> None:
        start = self.buffer.snapshot().next_sequence
        prompts = [a_group(sequence).group.prompt for sequence in range(start, start + count)]
        self.buffer.issue(prompts, cursor=start + count)

    def finish(self, *sequences: int, rewards: tuple[float, ...] = (0.0, 1.0)) -> None:
        """Carry these groups through both stages."""
        stages: tuple[Stage, ...] = ("prompts", "completions")
        for stage in stages:
            held = [*self.held.get(stage, ()), *self.buffer.lease(stage, worker="w", count=1000, lease_s=1e9)]
            chosen = [lease for lease in held if lease.sequence in sequences]
            self.buffer.advance([(lease, wire.encode(a_group(lease.sequence, rewards))) for lease in chosen])
            self.held[stage] = [lease for lease in held if lease.sequence not in sequences]

    def composer(
        self,
        *,
        batch_groups: int = 2,
        filter_uniform: bool = False,
        timeout_s: float = 30.0,
        drop_after_s: float | None = None,
        epoch: int = 1,
        reached: Callable[[str, int], None] = lambda point, step: None,
    ) -> Composer:
        return Composer(
            run_id="r",
            lineage=0,
            epoch=epoch,
            buffer=self.buffer,
            ledger=self.ledger,
            pacing=PacingConfig(batch_groups=batch_groups),
            algorithm=GrpoConfig(filter_uniform=filter_uniform),
            controls=CONTROLS,
            seed=3,
            config_hash="c",
            timeout_s=timeout_s,
            drop_after_s=drop_after_s,
            reached=reached,
        )


def wait_until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def trained(record: BatchRecord) -> list[int]:
    return [wire.decode(data, ScoredGroup).group.prompt.sequence for data in record.groups]


def test_a_batch_takes_the_lowest_unsettled_whatever_arrived_first() -> None:
    loop = Loop()
    loop.issue(5)
    loop.finish(4, 3, 1)
    composer, records = loop.composer(), []
    thread = threading.Thread(target=lambda: records.append(composer.compose(1)))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()  # 0 has not arrived
    loop.finish(0)
    thread.join(10)
    (record,) = records
    assert trained(record) == [0, 1]
    assert [(s.sequence, s.outcome, s.reason) for s in record.settled] == [
        (0, "trained", "step 1"),
        (1, "trained", "step 1"),
    ]
    assert [issue.sequence for issue in record.open] == [2, 3, 4]
    assert (record.cursor, record.next_sequence, record.number, record.epoch) == (5, 5, 1, 1)
    assert loop.buffer.snapshot().committed == 1
    assert loop.buffer.snapshot().live == 3


def test_uniform_groups_are_filtered_and_recorded() -> None:
    loop = Loop()
    loop.issue(4)
    loop.finish(0, 2, rewards=(1.0, 1.0))
    loop.finish(1, 3)
    record = loop.composer(filter_uniform=True).compose(1)
    assert trained(record) == [1, 3]
    assert [(s.sequence, s.outcome) for s in record.settled] == [
        (0, "filtered"),
        (1, "trained"),
        (2, "filtered"),
        (3, "trained"),
    ]
    assert record.open == ()


def test_settled_elsewhere_are_passed_over_and_recorded_once() -> None:
    loop = Loop()
    loop.issue(4)
    loop.finish(1, 2, 3)
    loop.buffer.settle([0], outcome="quarantined", reason="deadline")
    composer = loop.composer(batch_groups=1)
    records = [composer.compose(number) for number in (1, 2)]
    assert [trained(record) for record in records] == [[1], [2]]
    assert [[s.sequence for s in record.settled] for record in records] == [[0, 1], [2]]


def test_a_committed_batch_is_read_and_the_buffer_catches_up() -> None:
    """A crash between the ledger's commit and the buffer's: the next life reads, and trains nothing else."""
    loop = Loop()
    loop.issue(3)
    loop.finish(0, 1, 2)

    def die(point: str, step: int) -> None:
        raise KeyboardInterrupt(f"{point} {step}")

    with pytest.raises(KeyboardInterrupt, match=r"batch\.commit\.before 1"):
        loop.composer(reached=die).compose(1)
    assert loop.ledger.newest() == 0

    def die_after(point: str, step: int) -> None:
        if point == "batch.commit.after":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.composer(reached=die_after).compose(1)
    assert (loop.ledger.newest(), loop.buffer.snapshot().committed) == (1, 0)
    points: list[tuple[str, int]] = []
    again = loop.composer(epoch=2, reached=lambda point, step: points.append((point, step)))
    record = again.compose(1)
    assert (record.epoch, trained(record), points) == (1, [0, 1], [("batch.acknowledged", 1)])
    assert (loop.buffer.snapshot().committed, loop.buffer.snapshot().live) == (1, 1)
    assert again.compose(1) == record


def test_the_winner_of_the_ledger_is_what_counts() -> None:
    loop = Loop()
    loop.issue(2)
    loop.finish(0, 1)
    won: list[BatchRecord] = []

    def overtaken(point: str, step: int) -> None:
        if point == "batch.commit.before":
            won.append(loop.composer(epoch=9).compose(step))

    record = loop.composer(reached=overtaken).compose(1)
    assert record.epoch == 9
    assert won[0].epoch == 9


def test_issues_and_settlements_between_the_reads_lose_nothing() -> None:
    """After every single read something else is issued and something is settled; the account stays whole."""

    class Busy(MemoryBuffer):
        def meddle(self) -> None:
            if loop.enabled:
                loop.enabled = False
                loop.issue(3)
                lively = [issue.sequence for issue in MemoryBuffer.unsettled(self)]
                self.settle(lively[4::3], outcome="quarantined", reason="meddling")
                loop.enabled = True

        def snapshot(self):  # type: ignore[no-untyped-def]
            snapshot = super().snapshot()
            self.meddle()
            return snapshot

        def unsettled(self):  # type: ignore[no-untyped-def]
            found = super().unsettled()
            self.meddle()
            return found

        def settled(self) -> list[Settlement]:
            found = super().settled()
            self.meddle()
            return found

    class BusyLoop(Loop):
        enabled = False

        def issue(self, count: int) -> None:
            start = self.server.next_sequence
            prompts = [a_group(sequence).group.prompt for sequence in range(start, start + count)]
            MemoryBuffer.issue(self.buffer, prompts, cursor=start + count)

    loop = BusyLoop(Busy)
    loop.issue(8)
    composer, open_before, settled_before = loop.composer(), set(), set()
    for number in (1, 2, 3):
        loop.finish(*[issue.sequence for issue in loop.buffer.unsettled()][:4])
        loop.enabled = True
        record = composer.compose(number)
        loop.enabled = False
        ended = {s.sequence for s in record.settled}
        still_open = {issue.sequence for issue in record.open}
        assert not ended & still_open
        assert not ended & settled_before
        settled_before |= ended
        assert settled_before | still_open == set(range(record.next_sequence))
        assert open_before <= still_open | ended
        assert record.cursor == record.next_sequence  # from one snapshot
        open_before = still_open
    assert len(settled_before) > 6  # more than the trained ones


def test_a_server_flushed_between_arrival_and_record_is_waited_for() -> None:
    """The composer holds all groups of its batch, and the server no longer knows of them."""

    class Flushed(MemoryBuffer):
        flushed = False

        def take(self, sequences: Iterable[int]) -> dict[int, bytes]:
            found = super().take(sequences)
            if len(found) == 2 and not self.flushed:
                self.flushed = True
                taken.set()
            return found

        def snapshot(self) -> Snapshot:
            if taken.is_set() and not repaired.is_set():
                loop.server.clear()
            return super().snapshot()

    taken, repaired = threading.Event(), threading.Event()
    loop, given_up = Loop(Flushed), threading.Event()
    loop.issue(2)
    loop.finish(0, 1)
    composer = loop.composer()
    ended: list[BaseException | None] = []

    def compose() -> None:
        try:
            composer.compose(1, given_up.is_set)
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=compose)
    thread.start()
    thread.join(0.5)
    assert ended == []
    repaired.set()
    loop.buffer.raise_epoch(role="run", epoch=1)
    loop.buffer.raise_epoch(role="trainer", epoch=1)
    loop.buffer.open(fingerprint="f")
    loop.issue(2)
    loop.finish(0, 1)
    thread.join(10)
    assert ended == [None]
    record = loop.ledger.read(1)
    assert record is not None
    assert trained(record) == [0, 1]


def test_while_it_is_held_nothing_is_committed_and_then_it_looks_anew() -> None:
    """A group that it has in hand is settled as lost meanwhile: its next attempt is trained, and it is not."""

    class Watched(MemoryBuffer):
        def take(self, sequences: Iterable[int]) -> dict[int, bytes]:
            found = super().take(sequences)
            if len(found) == 2:
                taken.set()
            return found

    taken = threading.Event()
    loop = Loop(Watched)
    loop.issue(3)
    loop.finish(0, 1)
    composer = loop.composer()
    records: list[BatchRecord] = []
    composer.hold()
    thread = threading.Thread(target=lambda: records.append(composer.compose(1)))
    thread.start()
    assert taken.wait(10)
    loop.buffer.settle([0], outcome="lost", reason="not in the buffer")
    loop.finish(2)
    thread.join(0.3)
    assert loop.ledger.newest() == 0
    composer.let_go()
    thread.join(10)
    assert trained(records[0]) == [1, 2]


def test_a_stalled_batch_is_diagnosed_and_awaited(caplog: pytest.LogCaptureFixture) -> None:
    def wait_in_vain() -> str:
        """The second diagnosis: the first may have been made before anything was looked at twice."""
        caplog.clear()
        with pytest.raises(ComposeCancelled):
            loop.composer(timeout_s=0.05).compose(1, lambda: len(caplog.records) >= 2)
        return caplog.records[-1].why

    loop = Loop()
    assert re.search(r"batch 1: fewer than 2 groups are issued .* the orchestrator admits no prompts", wait_in_vain())
    loop.issue(3)
    loop.finish(1)
    expected = r"batch 1: waits for 1 groups, sequences 0, nothing moved for 0\.05 s; 3 groups live .*look at prompts"
    assert re.search(expected, wait_in_vain())
    assert loop.ledger.newest() == 0


def test_an_arrival_just_after_the_groups_were_taken_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counters that the wait compares with are older than the look at the groups."""
    monkeypatch.setattr(train_cluster.compose, "LOOK_AGAIN_S", 3600.0)

    class LateBuffer(MemoryBuffer):
        looks = 0

        def take(self, sequences: Iterable[int]) -> dict[int, bytes]:
            found = super().take(sequences)
            self.looks += 1
            if self.looks == 1:
                loop.finish(0, 1)
            return found

    loop = Loop(LateBuffer)
    loop.issue(2)
    records: list[BatchRecord] = []
    thread = threading.Thread(target=lambda: records.append(loop.composer().compose(1)), daemon=True)
    thread.start()
    thread.join(30)
    assert [trained(record) for record in records] == [[0, 1]]


def test_a_late_group_is_dropped_once_enough_others_have_arrived_and_its_prompt_is_owed() -> None:
    loop = Loop()
    loop.issue(4)
    loop.finish(1)
    composer, records = loop.composer(drop_after_s=0.05), []
    thread = threading.Thread(target=lambda: records.append(composer.compose(1)))
    thread.start()
    thread.join(0.3)
    assert loop.buffer.settled() == []  # one other has arrived, a batch holds two
    loop.finish(2)
    wait_until(lambda: loop.buffer.settled() != [])
    assert [(end.sequence, end.outcome) for end in loop.buffer.settled()] == [(0, "dropped")]
    thread.join(0.3)
    assert thread.is_alive()  # batch 1 is there, and a commit would forget what is owed
    again = dataclasses.replace(a_group(4).group.prompt, prompt_id=a_group(0).group.prompt.prompt_id, attempt=1)
    loop.buffer.issue([again], cursor=4)
    thread.join(10)
    (record,) = records
    assert trained(record) == [1, 2]
    assert [(s.sequence, s.outcome) for s in record.settled] == [(0, "dropped"), (1, "trained"), (2, "trained")]
    assert [(i.sequence, i.attempt) for i in record.open] == [(3, 0), (4, 1)]


def test_without_the_setting_the_head_is_awaited() -> None:
    loop = Loop()
    loop.issue(4)
    loop.finish(1, 2, 3)
    thread = threading.Thread(target=loop.composer().compose, args=(1,), daemon=True)
    thread.start()
    thread.join(0.3)
    assert loop.buffer.settled() == []
    loop.finish(0)
    thread.join(10)
    assert loop.ledger.newest() == 1


def test_cancelling_writes_nothing() -> None:
    loop = Loop()
    with pytest.raises(ComposeCancelled, match="batch 1"):
        loop.composer().compose(1, lambda: True)
    assert loop.ledger.newest() == 0


def test_batch_seeds_differ_by_run_lineage_and_number() -> None:
    seeds = {batch_seed(s, lineage=x, number=k) for s in range(5) for x in range(5) for k in range(1, 20)}
    assert len(seeds) == 5 * 5 * 19
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert batch_seed(1, lineage=2, number=3) == batch_seed(1, lineage=2, number=3)
