"""A new life makes buffer and ledger agree: what is committed is caught up, what was lost is issued anew, once."""

from pathlib import Path
from typing import Any

import pytest
from orchestrator_recipes import a_recipe, an_issuer

from experience.config import PacingConfig
from experience.ledger import Ledger
from experience.memory import MemoryBuffer, MemoryServer
from experience.schema import BatchRecord, CompletionGroup, Controls, Production, Prompt, ScoredGroup
from experience.wire import decode, encode
from orchestrator.admission import Admission
from orchestrator.audit import audit
from orchestrator.errors import RunFailed
from orchestrator.folder import RunFolder
from orchestrator.life import recover
from train_cluster.compose import Composer
from train_cluster.config import GrpoConfig
from weightstore.blobs import FileBlobStore

GROUPS = 2
RECIPE = a_recipe(run__steps=10, pacing={"batch_groups": GROUPS, "max_staleness": 2})
CONTROLS = Controls(learning_rate_scale=1.0, kl_scale=1.0, clip_low=0.2, clip_high=0.28, temperature=1.0)
PRODUCTION = Production(worker="w", deliveries=1, queued_at=0.0, leased_at=0.0, waited_s=0.0, worked_s=0.0)


class Life:
    """One driver's life over a server and a ledger that outlive it."""

    def __init__(self, server: MemoryServer, path: Path, *, epoch: int = 1) -> None:
        self.server, self.path, self.epoch = server, path, epoch
        self.buffer = MemoryBuffer(server, run_epoch=epoch, trainer_epoch=epoch)
        self.buffer.raise_epoch(role="run", epoch=epoch)
        self.buffer.raise_epoch(role="trainer", epoch=epoch)
        self.ledger = Ledger(FileBlobStore(path), 0)
        self.admission = Admission(RECIPE, buffer=self.buffer, issuer=an_issuer(RECIPE))

    def recover(self) -> int:
        return recover(self.buffer, self.ledger, self.admission)

    def next(self, *, server: MemoryServer | None = None) -> "Life":
        return Life(server or self.server, self.path, epoch=self.epoch + 1)

    def admit(self, *, published: int = 0) -> int:
        return self.admission.admit(self.buffer.snapshot(), published=published)

    def arrive(self) -> None:
        """Generate and score all that waits; the tokens are of no matter here."""
        for lease in self.buffer.lease("prompts", worker="gen", count=100, lease_s=1.0):
            group = CompletionGroup(prompt=decode(lease.data, Prompt), completions=(), production=PRODUCTION)
            self.buffer.advance([(lease, encode(group))])
        for lease in self.buffer.lease("completions", worker="score", count=100, lease_s=1.0):
            group = decode(lease.data, CompletionGroup)
            scored = ScoredGroup(group=group, scores=(), component_hashes={}, production=PRODUCTION)
            self.buffer.advance([(lease, encode(scored))])

    def compose(self, number: int, reached: Any = lambda point, step: None) -> BatchRecord:
        composer = Composer(
            run_id="trial",
            lineage=0,
            epoch=self.epoch,
            buffer=self.buffer,
            ledger=self.ledger,
            pacing=PacingConfig(batch_groups=GROUPS),
            algorithm=GrpoConfig(),
            controls=CONTROLS,
            seed=1,
            config_hash="h",
            timeout_s=5.0,
            reached=reached,
        )
        return composer.compose(number)

    def lose(self, *sequences: int) -> None:
        """The server came back without these entries, though the ledger of issues has them."""
        for sequence in sequences:
            self.server.forget(sequence)

    def live(self) -> list[tuple[int, str, int]]:
        return [(issue.sequence, issue.prompt_id, issue.attempt) for issue in self.buffer.unsettled()]

    def problems(self) -> list[str]:
        return audit(RECIPE, RunFolder(self.path)).problems


@pytest.fixture
def life(tmp_path):
    return Life(MemoryServer(), tmp_path / "trial")


class Died(Exception):
    """The driver was killed here."""


def test_a_run_that_never_began_has_nothing_to_recover(life):
    assert life.recover() == 0
    assert life.buffer.snapshot().next_sequence == 0


def test_what_is_still_in_the_streams_goes_on(life):
    life.admit()
    life.arrive()
    life.compose(1)
    before = life.live()
    again = life.next()
    assert again.recover() == 1
    assert again.live() == before
    assert again.buffer.settled() == []


def test_leases_of_the_life_before_are_given_back(life):
    life.admit()
    held = life.buffer.lease("prompts", worker="gen-0.e1.0", count=3, lease_s=1000.0)
    again = life.next()
    again.recover()
    leases = again.buffer.lease("prompts", worker="gen-0.e2.0", count=3, lease_s=1000.0)
    assert [lease.sequence for lease in leases] == [lease.sequence for lease in held]
    assert not any(lease.suspect for lease in leases)


def test_lost_groups_are_issued_anew_and_settled_lost(life):
    life.admit()
    life.lose(1, 4)
    again = life.next()
    assert again.recover() == 0
    assert again.live() == [
        (0, "words:0:0", 0),
        (2, "words:0:2", 0),
        (3, "words:0:3", 0),
        (5, "words:0:5", 0),
        (6, "words:0:1", 1),
        (7, "words:0:4", 1),
    ]
    assert [(s.sequence, s.prompt_id, s.outcome, s.reason) for s in again.buffer.settled()] == [
        (1, "words:0:1", "lost", "not in the buffer after a restart"),
        (4, "words:0:4", "lost", "not in the buffer after a restart"),
    ]
    assert again.buffer.present() == {0, 2, 3, 5, 6, 7}
    assert again.buffer.snapshot().live == 6  # as many as before: the pace holds
    assert again.buffer.snapshot().cursor == 6
    assert again.next().recover() == 0
    assert len(again.live()) == 6  # once
    assert again.buffer.snapshot().next_sequence == 8


@pytest.mark.parametrize("after", ["issue", "nothing"])
def test_a_death_between_issuing_anew_and_settling_loses_and_doubles_nothing(life, monkeypatch, after):
    life.admit()
    life.lose(1, 4)
    second = life.next()
    original = second.buffer.settle if after == "issue" else second.buffer.issue

    def die(*arguments: Any, **named: Any) -> None:
        raise Died

    monkeypatch.setattr(second.buffer, original.__name__, die)
    with pytest.raises(Died):
        second.recover()
    third = second.next()
    third.recover()
    assert [issue[1:] for issue in third.live() if issue[0] > 5] == [("words:0:1", 1), ("words:0:4", 1)]
    assert [settlement.sequence for settlement in third.buffer.settled()] == [1, 4]
    assert third.buffer.snapshot().next_sequence == 8


def test_a_group_lost_again_gets_yet_another_attempt(life):
    life.admit()
    life.lose(1)
    second = life.next()
    second.recover()
    second.lose(6)
    third = second.next()
    third.recover()
    assert third.live()[-1] == (7, "words:0:1", 2)
    assert [(s.sequence, s.attempt) for s in third.buffer.settled()] == [(1, 0), (6, 1)]


def test_a_server_that_lost_everything_is_rebuilt_from_the_ledger(life):
    """Four groups stood open after batch 1; the ledger names them, so they are issued anew and none is forgotten."""
    life.admit()
    life.arrive()
    record = life.compose(1)
    assert [issue.sequence for issue in record.open] == [2, 3, 4, 5]
    again = life.next(server=MemoryServer())
    assert again.recover() == 1
    assert again.live() == [(6 + i, f"words:0:{2 + i}", 1) for i in range(4)]
    assert [(s.sequence, s.outcome) for s in again.buffer.settled()] == [(2, "lost"), (3, "lost"), (4, "lost"), (5, "lost")]  # fmt: skip
    snapshot = again.buffer.snapshot()
    assert (snapshot.committed, snapshot.cursor, snapshot.next_sequence, snapshot.live) == (1, 6, 10, 4)
    again.arrive()
    assert [s.outcome for s in again.compose(2).settled] == ["lost"] * 4 + ["trained"] * 2


def test_a_committed_batch_that_the_buffer_does_not_know_is_caught_up(life):
    def die(point: str, step: int) -> None:
        if (point, step) == ("batch.commit.after", 2):
            raise Died

    life.admit()
    life.arrive()
    life.compose(1)
    with pytest.raises(Died):
        life.compose(2, die)
    assert life.buffer.snapshot().committed == 1
    again = life.next()
    assert again.recover() == 2
    snapshot = again.buffer.snapshot()
    assert (snapshot.committed, snapshot.live, snapshot.depths["experience"]) == (2, 2, 2)
    assert again.buffer.settled() == []
    assert [issue[0] for issue in again.live()] == [4, 5]


def test_a_batch_that_was_not_committed_is_composed_again(life):
    def die(point: str, step: int) -> None:
        if point == "batch.commit.before":
            raise Died

    life.admit()
    life.arrive()
    with pytest.raises(Died):
        life.compose(1, die)
    again = life.next()
    assert again.recover() == 0
    assert len(again.compose(1).groups) == GROUPS
    assert again.problems() == []


def test_the_books_balance_after_every_kind_of_loss(life):
    life.admit()
    life.arrive()
    life.compose(1)
    life.lose(3)
    second = life.next()
    second.recover()
    second.admit(published=1)
    second.arrive()
    second.compose(2)
    third = second.next(server=MemoryServer())
    third.recover()
    third.admit(published=2)
    third.arrive()
    for number in (3, 4, 5):
        third.compose(number)
        third.admit(published=number)
        third.arrive()
    assert third.ledger.newest() == 5
    assert third.problems() == []


def test_a_buffer_of_another_run_is_refused_and_left_alone(life, tmp_path):
    life.admit()
    life.arrive()
    life.compose(1)
    stranger = Life(life.server, tmp_path / "another")
    before = life.buffer.snapshot()
    with pytest.raises(RunFailed, match="sequence 0 was issued, and neither the buffer nor the ledger knows its end"):
        stranger.recover()
    assert life.buffer.snapshot() == before


def test_a_buffer_that_is_ahead_of_a_restored_ledger_is_refused(life):
    """The ledger was put back to an older copy: batch 2's groups have their end nowhere."""
    life.admit()
    life.arrive()
    life.compose(1)
    life.compose(2)
    (life.path / "ledger/0/00000002.batch").unlink()
    with pytest.raises(RunFailed, match="this buffer does not belong to this ledger"):
        life.next().recover()


def test_what_is_issued_anew_waits_for_the_version_of_the_last_batch(life):
    """Whatever the newest whole version is by now: the lost group was admitted under one up to that."""
    life.admit()
    life.arrive()
    life.compose(1)
    life.admit(published=1)
    life.lose(6)
    again = life.next()
    again.recover()
    prompts = [decode(entry.data, Prompt) for entry in again.server.streams["prompts"].values()]
    assert {p.sequence: p.min_version for p in prompts} == {7: 1, 8: 1}
