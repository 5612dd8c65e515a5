"""The contract of ExperienceBuffer, on every implementation."""

import threading
import time

import pytest
from experience_records import a_batch, a_prompt, a_settlement, an_issue

from experience.buffer import BufferRefused, Fenced, Lease
from experience.schema import Prompt
from experience.wire import decode

LONG_S, SHORT_S = 60.0, 0.05


def issue(buffer, count, *, first=0):
    buffer.issue([a_prompt(sequence) for sequence in range(first, first + count)], cursor=first + count)


def lease(buffer, stage="prompts", *, worker="w", count=10, lease_s=LONG_S, wait_s=0.0):
    return buffer.lease(stage, worker=worker, count=count, lease_s=lease_s, wait_s=wait_s)


def expire():
    time.sleep(SHORT_S * 1.5)  # the passing of time is what is tested


def arrive(buffer, count, *, first=0):
    """Groups that went all the way to the trainer."""
    issue(buffer, count, first=first)
    for stage in ("prompts", "completions"):
        leases = lease(buffer, stage, count=count)
        assert buffer.advance([(held, b"%d" % held.sequence) for held in leases]) == [True] * count


def depths(buffer):
    return tuple(buffer.snapshot().depths.values())


# -- the way of a group ------------------------------------------------------------------------------------------------
def test_a_group_goes_through_all_stages(buffer):
    issue(buffer, 3)
    assert depths(buffer) == (3, 0, 0, 0)
    prompts = lease(buffer)
    assert [held.sequence for held in prompts] == [0, 1, 2]
    assert decode(prompts[1].data, Prompt).prompt_id == "words:0:1"
    assert not prompts[0].suspect
    assert lease(buffer) == []
    assert buffer.advance([(prompts[0], b"c0"), (prompts[2], b"c2")]) == [True, True]
    assert depths(buffer) == (1, 2, 0, 0)
    completions = lease(buffer, "completions")
    assert [(held.sequence, held.data) for held in completions] == [(0, b"c0"), (2, b"c2")]
    assert buffer.advance([(held, b"scored") for held in completions]) == [True, True]
    assert buffer.take([0, 1, 2]) == {0: b"scored", 2: b"scored"}
    assert buffer.take([0]) == {0: b"scored"}  # left in place
    assert depths(buffer) == (1, 0, 2, 0)
    assert buffer.snapshot().live == 3


def test_a_group_in_flight_is_found_wherever_it_is(backend, buffer):
    outsider = backend.connect(0, 0)
    assert outsider.find(0) is None
    began = time.time() - 0.002  # ids have milliseconds
    issue(buffer, 2)
    found = outsider.find(1)
    assert (found.stream, found.worker, found.deliveries) == ("prompts", "", 0)
    assert decode(found.data, Prompt).sequence == 1
    assert began <= found.put_at <= time.time()
    assert 0 <= found.idle_s < LONG_S
    first, second = lease(buffer, worker="gen-0.e1.0")
    assert second.put_at == found.put_at
    found = outsider.find(1)
    assert (found.worker, found.deliveries) == ("gen-0.e1.0", 1)
    buffer.release(second, reason="why not")
    assert (outsider.find(1).worker, outsider.find(1).deliveries) == ("", 1)
    buffer.advance([(first, b"c0")])
    buffer.advance([(held, b"scored") for held in lease(buffer, "completions")])
    found = outsider.find(0)
    assert (found.stream, found.data, found.worker, found.deliveries) == ("experience", b"scored", "", 0)
    buffer.settle([0], outcome="dropped", reason="late")
    assert outsider.find(0) is None


def test_issue_continues_the_sequences_and_sets_the_cursor(buffer):
    issue(buffer, 2)
    buffer.issue([], cursor=9)
    snapshot = buffer.snapshot()
    assert (snapshot.next_sequence, snapshot.cursor, snapshot.live) == (2, 9, 2)
    with pytest.raises(ValueError, match="do not continue next_sequence 2"):
        issue(buffer, 1, first=3)
    with pytest.raises(ValueError, match="gaps"):
        buffer.issue([a_prompt(2), a_prompt(4)], cursor=0)
    assert buffer.unsettled() == [an_issue(0), an_issue(1)]


def test_issue_repeated_after_a_lost_reply_adds_nothing(buffer):
    issue(buffer, 2)
    issue(buffer, 2)
    assert depths(buffer) == (2, 0, 0, 0)
    with pytest.raises(ValueError, match="sequence 1 was issued before"):
        buffer.issue([a_prompt(1, attempt=1)], cursor=5)


# -- leases ------------------------------------------------------------------------------------------------------------
def test_an_expired_lease_is_served_first_and_as_a_suspect(buffer):
    issue(buffer, 3)
    lease(buffer, worker="dead", count=2)
    expire()
    served = lease(buffer, worker="alive", lease_s=SHORT_S)
    assert [(held.sequence, held.deliveries, held.suspect) for held in served] == [
        (0, 2, True),
        (1, 2, True),
        (2, 1, False),
    ]


def test_a_renewed_lease_does_not_expire(buffer):
    issue(buffer, 1)
    held = lease(buffer, count=1)
    deadline = time.monotonic() + 0.7
    while time.monotonic() < deadline:
        assert buffer.renew(held) == set()
        assert lease(buffer, worker="other", lease_s=0.5) == []
        time.sleep(0.02)
    assert buffer.advance([(held[0], b"c")]) == [True]


@pytest.mark.parametrize("name_of_the_next", ["other", "w"])
def test_a_zombie_finds_nothing_to_advance(buffer, name_of_the_next):
    issue(buffer, 1)
    (zombie,) = lease(buffer)
    expire()
    (heir,) = lease(buffer, worker=name_of_the_next, lease_s=SHORT_S)
    assert buffer.renew([zombie, heir]) == {zombie.entry_id}
    assert buffer.advance([(zombie, b"zombie")]) == [False]
    assert not buffer.begin_alone(zombie, limit=9)
    buffer.release(zombie, reason="too late")
    assert buffer.renew([heir]) == set()
    assert buffer.advance([(heir, b"heir")]) == [True]
    assert buffer.advance([(zombie, b"zombie")]) == [False]
    assert buffer.advance([(heir, b"again")]) == [False]
    assert depths(buffer) == (0, 1, 0, 0)
    assert lease(buffer, "completions")[0].data == b"heir"


def test_a_released_entry_is_served_at_once_as_a_suspect(buffer):
    issue(buffer, 2)
    first, second = lease(buffer)
    buffer.release(first, reason="engine restarts")
    assert buffer.renew([first, second]) == {first.entry_id}
    served = lease(buffer, worker="other")
    assert [(held.sequence, held.suspect) for held in served] == [(0, True)]
    assert buffer.advance([(second, b"c")]) == [True]


@pytest.mark.parametrize(("lease_s", "back_off_s", "waits_s"), [(LONG_S, 0.2, (0.2, 0.4)), (0.3, 50.0, (0.3, 0.3))])
def test_what_fails_is_served_again_after_a_back_off_that_doubles_up_to_a_lease(
    buffer, monkeypatch, lease_s, back_off_s, waits_s
):
    for module in ("memory", "redis_buffer"):
        monkeypatch.setattr(f"experience.{module}.BACK_OFF_S", back_off_s)
    issue(buffer, 1)
    (held,) = lease(buffer)
    for wait_s in waits_s:
        released_at = time.monotonic()
        buffer.release(held, reason="the service is down")
        assert lease(buffer, worker="other", lease_s=lease_s) == []
        (held,) = lease(buffer, worker="other", lease_s=lease_s, wait_s=20.0)
        assert time.monotonic() - released_at >= wait_s
        assert held.suspect
    assert held.deliveries == 3


def test_a_waiting_lease_wakes_for_a_new_entry(buffer):
    start = time.monotonic()
    assert lease(buffer, wait_s=0.1) == []
    assert time.monotonic() - start >= 0.1
    timer = threading.Timer(0.1, issue, args=(buffer, 1))
    timer.start()
    start = time.monotonic()
    assert [held.sequence for held in lease(buffer, wait_s=20.0)] == [0]
    assert time.monotonic() - start < 5.0
    timer.join()


def test_a_waiting_lease_finds_an_entry_that_expires_meanwhile(buffer):
    issue(buffer, 1)
    lease(buffer, worker="dead")
    (served,) = lease(buffer, worker="alive", lease_s=0.2, wait_s=20.0)
    assert served.deliveries == 2


def test_each_entry_is_served_to_one_of_many_workers(buffer):
    issue(buffer, 40)
    served: list[int] = []

    def work(name):
        while leases := lease(buffer, worker=name, count=3):
            served.extend(held.sequence for held in leases)
            assert all(buffer.advance([(held, b"c") for held in leases]))

    threads = [threading.Thread(target=work, args=(f"w{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(served) == list(range(40))
    assert depths(buffer) == (0, 40, 0, 0)


# -- quarantine --------------------------------------------------------------------------------------------------------
def test_only_deliveries_alone_lead_to_quarantine(buffer):
    issue(buffer, 2)
    for _ in range(4):  # dies among others, again and again
        lease(buffer)
        expire()
        assert len(lease(buffer, lease_s=SHORT_S)) == 2
        expire()
    poison, innocent = lease(buffer, lease_s=SHORT_S)
    assert buffer.begin_alone(innocent, limit=2)
    assert buffer.advance([(innocent, b"c")]) == [True]
    for reason in ("first", "second"):
        assert buffer.begin_alone(poison, limit=2)
        assert buffer.begin_alone(poison, limit=2)  # a repeated call is one delivery
        buffer.release(poison, reason=reason)
        (poison,) = lease(buffer)
    assert not buffer.begin_alone(poison, limit=2)
    assert depths(buffer) == (0, 1, 0, 1)
    (settlement,) = buffer.settled()
    assert (settlement.sequence, settlement.outcome) == (0, "quarantined")
    assert settlement.reason == "prompts: failed 2 deliveries alone; last: second"
    assert buffer.unsettled() == [an_issue(1)]
    assert buffer.advance([(poison, b"c")]) == [False]


def test_the_next_stage_counts_anew(buffer):
    issue(buffer, 1)
    (held,) = lease(buffer)
    assert buffer.begin_alone(held, limit=1)
    assert buffer.advance([(held, b"c")]) == [True]
    (held,) = lease(buffer, "completions")
    assert buffer.begin_alone(held, limit=1)
    buffer.release(held, reason="scorer raised")
    (held,) = lease(buffer, "completions")
    assert not buffer.begin_alone(held, limit=1)
    assert buffer.settled()[0].reason == "completions: failed 1 deliveries alone; last: scorer raised"


# -- settling and committing -------------------------------------------------------------------------------------------
def test_settling_ends_a_group_wherever_it_is_and_the_first_outcome_stands(buffer):
    arrive(buffer, 1)
    issue(buffer, 2, first=1)
    (held, _) = lease(buffer)
    buffer.settle([0, 1], outcome="filtered", reason="équal rewards")
    buffer.settle([1, 2], outcome="dropped", reason="deadline")
    assert [(s.sequence, s.prompt_id, s.attempt, s.outcome, s.reason) for s in buffer.settled()] == [
        (0, "words:0:0", 0, "filtered", "équal rewards"),
        (1, "words:0:1", 0, "filtered", "équal rewards"),
        (2, "words:0:2", 0, "dropped", "deadline"),
    ]
    assert (buffer.unsettled(), buffer.present(), buffer.take([0]), depths(buffer)) == ([], set(), {}, (0, 0, 0, 0))
    assert buffer.renew([held]) == {held.entry_id}
    assert buffer.advance([(held, b"c")]) == [False]
    assert buffer.snapshot().live == 0
    with pytest.raises(ValueError, match="sequence 3 was never issued"):
        buffer.settle([3], outcome="lost", reason="")


def test_commit_removes_what_the_ledger_has_and_is_idempotent(buffer):
    arrive(buffer, 4)
    buffer.settle([1], outcome="filtered", reason="r")
    record = a_batch(
        settled=(a_settlement(0), a_settlement(1, outcome="filtered", reason="r"), a_settlement(2)),
        open=(an_issue(3),),
        next_sequence=4,
        cursor=4,
    )
    for _ in range(2):
        buffer.commit(record)
        snapshot = buffer.snapshot()
        assert (snapshot.live, snapshot.committed, snapshot.next_sequence, snapshot.cursor) == (1, 1, 4, 4)
        assert buffer.settled() == []
        assert buffer.unsettled() == [an_issue(3)]
        assert buffer.take(range(4)) == {3: b"3"}
        assert depths(buffer) == (0, 0, 1, 0)
    buffer.settle([0], outcome="lost", reason="recorded long ago")
    assert buffer.settled() == []
    assert buffer.snapshot().live == 1


def test_commit_refuses_a_gap_and_never_lowers(buffer):
    issue(buffer, 5)
    with pytest.raises(ValueError, match="batch 2 does not follow batch 0"):
        buffer.commit(a_batch(2))
    buffer.commit(a_batch(1, cursor=2, next_sequence=3))
    buffer.commit(a_batch(2, cursor=2, next_sequence=3))
    buffer.commit(a_batch(1))
    snapshot = buffer.snapshot()
    assert (snapshot.committed, snapshot.cursor, snapshot.next_sequence) == (2, 5, 5)


# -- recovery ----------------------------------------------------------------------------------------------------------
def test_restore_fills_an_empty_server(buffer):
    record = a_batch(7, open=(an_issue(20), an_issue(22)), cursor=31, next_sequence=23)
    for _ in range(2):
        buffer.restore(record=record)
        snapshot = buffer.snapshot()
        assert (snapshot.live, snapshot.committed, snapshot.next_sequence, snapshot.cursor) == (2, 7, 23, 31)
        assert buffer.unsettled() == [an_issue(20), an_issue(22)]
        assert buffer.present() == set()
    buffer.settle([20, 22], outcome="lost", reason="server lost")
    issue(buffer, 1, first=23)
    buffer.commit(a_batch(8, settled=tuple(buffer.settled()), next_sequence=24))
    assert buffer.snapshot().committed == 8


def test_restore_brings_an_older_server_forward(buffer):
    arrive(buffer, 4)  # what the server has: it missed the batches 1 and 2, which trained 0 and 2, and the issue of 4
    buffer.settle([3], outcome="filtered", reason="r")
    buffer.restore(record=a_batch(2, open=(an_issue(1), an_issue(3), an_issue(4)), cursor=5, next_sequence=5))
    assert buffer.unsettled() == [an_issue(1), an_issue(4)]
    assert [settlement.sequence for settlement in buffer.settled()] == [3]
    assert buffer.take(range(5)) == {1: b"1"}
    assert buffer.present() == {1}
    snapshot = buffer.snapshot()
    assert (snapshot.live, snapshot.committed, snapshot.next_sequence) == (2, 2, 5)


def test_restore_leaves_a_server_that_is_ahead(buffer):
    issue(buffer, 3)
    buffer.commit(a_batch(1, settled=(a_settlement(0),), open=(an_issue(1),), next_sequence=2))
    before = (buffer.snapshot(), buffer.unsettled())
    buffer.restore(record=a_batch(1, settled=(a_settlement(0),), open=(an_issue(1),), next_sequence=2))
    assert (buffer.snapshot(), buffer.unsettled()) == before
    assert buffer.present() == {1, 2}


def test_present_names_all_that_stand_in_a_stream_leased_or_not(buffer):
    arrive(buffer, 1)
    issue(buffer, 3, first=1)
    lease(buffer, count=1)
    assert buffer.present() == {0, 1, 2, 3}


def test_take_over_gives_every_lease_back_without_suspicion(backend):
    old = backend.opened()
    issue(old, 3)
    _, ill, _ = lease(old)
    old.release(ill, reason="r")
    (ill,) = lease(old)
    assert old.begin_alone(ill, limit=1)
    new = backend.connect(2, 2)
    new.raise_epoch(role="run", epoch=2)
    new.take_over()
    served = lease(new)
    assert [(held.sequence, held.suspect) for held in served] == [(0, False), (1, False), (2, False)]
    with pytest.raises(Fenced):
        old.advance([(ill, b"c")])
    assert new.advance([(served[0], b"c")]) == [True]
    new.release(served[1], reason="again")
    (ill,) = lease(new)
    assert ill.suspect
    assert not new.begin_alone(ill, limit=1)  # the deliveries alone of all lives count


# -- opening and fencing -----------------------------------------------------------------------------------------------
def test_open_refuses_another_fingerprint_and_touches_nothing(backend):
    buffer = backend.opened()
    issue(buffer, 1)
    backend.connect(0, 0).open(fingerprint="f")
    with pytest.raises(BufferRefused, match=r"fingerprint = f, this run has g; .* another run.name"):
        backend.connect(2, 2).open(fingerprint="g")
    assert buffer.snapshot().live == 1


WRITES = {
    "issue": ("run", lambda buffer, held: issue(buffer, 1, first=1)),
    "lease": ("run", lambda buffer, held: lease(buffer)),
    "renew": ("run", lambda buffer, held: buffer.renew([held])),
    "begin_alone": ("run", lambda buffer, held: buffer.begin_alone(held, limit=1)),
    "advance": ("run", lambda buffer, held: buffer.advance([(held, b"c")])),
    "release": ("run", lambda buffer, held: buffer.release(held, reason="r")),
    "take_over": ("run", lambda buffer, held: buffer.take_over()),
    "restore": ("run", lambda buffer, held: buffer.restore(record=a_batch(1, next_sequence=1))),
    "settle": ("trainer", lambda buffer, held: buffer.settle([0], outcome="lost", reason="r")),
    "commit": ("trainer", lambda buffer, held: buffer.commit(a_batch(1, settled=(a_settlement(0),)))),
}


@pytest.mark.parametrize("write", WRITES)
def test_an_older_epoch_is_fenced_and_changes_nothing(backend, write):
    role, call = WRITES[write]
    zombie = backend.opened()
    issue(zombie, 1)
    (held,) = lease(zombie)
    newest = backend.connect(2, 2)
    newest.raise_epoch(role=role, epoch=2)
    newest.raise_epoch(role=role, epoch=1)  # never lowers
    before = newest.snapshot()
    with pytest.raises(Fenced, match=rf"{role} epoch 1, the newest is 2"):
        call(zombie, held)
    assert newest.snapshot() == before
    assert newest.settled() == []
    call(newest, held)


@pytest.mark.parametrize("write", WRITES)
def test_a_server_that_knows_no_epoch_refuses(backend, write):
    role, call = WRITES[write]
    buffer = backend.connect(1, 1)
    buffer.open(fingerprint="f")
    buffer.raise_epoch(role="trainer" if role == "run" else "run", epoch=1)
    stray = Lease(stage="prompts", entry_id="1-0", sequence=0, worker="w", deliveries=1, data=b"")
    with pytest.raises(Fenced, match="not set"):
        call(buffer, stray)


# -- removing ----------------------------------------------------------------------------------------------------------
def test_forgetting_leaves_nothing_and_refuses_whoever_still_writes(backend, buffer):
    arrive(buffer, 2)
    issue(buffer, 2, first=2)
    (held, _) = lease(buffer)
    with pytest.raises(BufferRefused, match="fingerprint = f, this run has g"):
        buffer.forget(fingerprint="g")
    assert buffer.snapshot().live == 4
    assert buffer.forget(fingerprint="f") > 0
    assert buffer.forget(fingerprint="f") == 0
    snapshot = buffer.snapshot()
    assert (snapshot.live, snapshot.next_sequence, snapshot.cursor, depths(buffer)) == (0, 0, 0, (0, 0, 0, 0))
    assert (buffer.unsettled(), buffer.settled(), buffer.present()) == ([], [], set())
    with pytest.raises(Fenced, match="not set"):
        buffer.advance([(held, b"c")])
    anew = backend.opened()
    issue(anew, 1)
    assert anew.snapshot().live == 1
