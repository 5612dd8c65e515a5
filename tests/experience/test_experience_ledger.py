"""The ledger and what recovery makes of it and the buffer."""

import dataclasses
import threading

import pytest
from experience_records import a_batch, a_scored_group, a_settlement, an_issue

from experience.ledger import Ledger
from experience.recovery import check_restored, lost_issues, reissues
from experience.wire import encode


class MemoryBlobs:
    """The BlobStore Protocol in a dict."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._lock:
            return self.blobs.setdefault(key, data) is data

    def get(self, key: str) -> bytes:
        return self.blobs[key]

    def exists(self, key: str) -> bool:
        return key in self.blobs

    def list(self, prefix: str) -> list[str]:
        return [key for key in self.blobs if key.startswith(prefix + "/")]

    def delete(self, key: str) -> None:
        self.blobs.pop(key, None)


@pytest.fixture
def store():
    return MemoryBlobs()


@pytest.fixture
def ledger(store):
    return Ledger(store, 0)


def test_a_batch_is_read_as_it_was_committed(ledger, store):
    record = a_batch(
        groups=(encode(a_scored_group(0)),), settled=(a_settlement(0),), open=(an_issue(1),), next_sequence=2, cursor=5
    )
    assert ledger.newest() == 0
    assert ledger.read(1) is None
    assert ledger.commit(record) is record
    assert ledger.read(1) == record
    assert list(store.blobs) == ["ledger/0/00000001.batch"]
    assert (ledger.newest(), ledger.numbers()) == (1, [1])


def test_the_first_creator_wins_whatever_its_epoch(ledger):
    first = ledger.commit(a_batch(epoch=1))
    assert ledger.commit(a_batch(epoch=2)) == first
    assert ledger.read(1).epoch == 1


def test_of_many_committers_one_wins_and_all_agree(store):
    answers = []
    threads = [
        threading.Thread(target=lambda epoch=epoch: answers.append(Ledger(store, 0).commit(a_batch(epoch=epoch)).epoch))
        for epoch in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert set(answers) == {Ledger(store, 0).read(1).epoch}


def test_gaps_and_other_lineages_are_refused(ledger):
    for number in (0, 2):
        with pytest.raises(ValueError, match="does not follow the newest batch, 0"):
            ledger.commit(a_batch(number))
    with pytest.raises(ValueError, match="batch 1 is of lineage 3, this ledger is of 0"):
        ledger.commit(dataclasses.replace(a_batch(), lineage=3))
    assert ledger.numbers() == []


def test_lineages_stand_apart(store, ledger):
    ledger.commit(a_batch())
    assert Ledger(store, 1).newest() == 0
    assert Ledger(store, 10).newest() == 0


def test_prune_keeps_the_rest_contiguous_and_no_zombie_fills_it(ledger):
    for number in range(1, 7):
        ledger.commit(a_batch(number))
    ledger.prune(4)
    assert ledger.numbers() == [4, 5, 6]
    assert ledger.commit(a_batch(4, epoch=9)).epoch == 1  # a loser still reads the winner
    for number in (1, 2, 3):
        with pytest.raises(ValueError, match="does not follow"):
            ledger.commit(a_batch(number))
    ledger.prune(100)
    assert ledger.numbers() == [6]
    ledger.commit(a_batch(7))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign", "moved"])
def test_a_damaged_blob_is_named(ledger, store, damage):
    ledger.commit(a_batch())
    ledger.commit(a_batch(2))
    key = "ledger/0/00000002.batch"
    blob = store.blobs[key]
    store.blobs[key] = {
        "cut": blob[:-1],
        "flip": blob[:50] + bytes([blob[50] ^ 1]) + blob[51:],
        "empty": b"",
        "foreign": b"not a batch at all, but long enough to hold a checksum of something",
        "moved": store.blobs["ledger/0/00000001.batch"],
    }[damage]
    with pytest.raises(ValueError, match=key):
        ledger.read(2)
    assert ledger.read(1) is not None


# -- recovery ----------------------------------------------------------------------------------------------------------
def test_lost_is_what_is_neither_settled_nor_in_a_stream():
    unsettled = [an_issue(5), an_issue(3), an_issue(4)]
    assert lost_issues(unsettled, present={4}) == (an_issue(3), an_issue(5))
    assert lost_issues(unsettled, present={3, 4, 5}) == ()


def test_a_lost_group_is_issued_anew_once():
    lost = (an_issue(3), an_issue(5), an_issue(6))
    successor_live = dataclasses.replace(an_issue(3), sequence=9, attempt=1)
    successor_settled = dataclasses.replace(a_settlement(5, outcome="filtered"), sequence=10, attempt=1)
    assert reissues(lost, unsettled=[*lost, successor_live], settled=[successor_settled]) == (an_issue(6),)


def test_a_buffer_that_continues_the_ledger_passes():
    record = a_batch(2, open=(an_issue(3), an_issue(4)), next_sequence=5)
    check_restored(record, unsettled=[an_issue(3), an_issue(5)], settled=[a_settlement(4)], next_sequence=6)
    check_restored(None, unsettled=[an_issue(0)], settled=[], next_sequence=1)


@pytest.mark.parametrize(
    ("unsettled", "next_sequence", "message"),
    [
        ([3], 4, "next_sequence = 4 is below the ledger's 5"),
        ([3], 5, "sequence 4 was issued, and neither"),
        ([3, 4], 6, "sequence 5 was issued, and neither"),
        ([2, 3, 4], 5, "sequence 2 is live in the buffer and recorded"),
    ],
)
def test_a_buffer_of_another_history_is_refused(unsettled, next_sequence, message):
    record = a_batch(2, open=(an_issue(3), an_issue(4)), next_sequence=5)
    with pytest.raises(ValueError, match=message):
        check_restored(record, unsettled=map(an_issue, unsettled), settled=[], next_sequence=next_sequence)
