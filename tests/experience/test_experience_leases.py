"""The lease keeper, on both buffers."""

import threading
import time

import pytest
from experience_records import a_prompt

from experience.buffer import Fenced
from experience.leases import LeaseKeeper

LEASE_S = 0.9


def wait_until(condition, *, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


@pytest.fixture
def leased(buffer):
    buffer.issue([a_prompt(0), a_prompt(1)], cursor=2)
    return buffer.lease("prompts", worker="w", count=2, lease_s=LEASE_S)


def steal(buffer):
    return buffer.lease("prompts", worker="thief", count=2, lease_s=LEASE_S)


def test_held_leases_outlive_their_deadline(buffer, leased):
    with LeaseKeeper(buffer, LEASE_S) as keeper:
        keeper.hold(leased)
        deadline = time.monotonic() + 2 * LEASE_S
        while time.monotonic() < deadline:
            assert steal(buffer) == []
            time.sleep(0.02)
        assert keeper.lost() == set()
    wait_until(lambda: steal(buffer))  # nobody renews them any more


def test_dropped_leases_are_not_renewed(buffer, leased):
    with LeaseKeeper(buffer, LEASE_S) as keeper:
        keeper.hold(leased)
        keeper.drop(leased[:1])
        wait_until(lambda: [stolen.sequence for stolen in steal(buffer)] == [0])
        assert keeper.lost() == set()


def test_an_owner_that_hangs_loses_its_leases_to_others(buffer, leased):
    with LeaseKeeper(buffer, LEASE_S, silent_s=2 * LEASE_S) as keeper:
        keeper.hold(leased)
        heir = buffer.lease("prompts", worker="heir", count=10, lease_s=LEASE_S, wait_s=20.0)
        assert [lease.sequence for lease in heir] == [lease.sequence for lease in leased]
        deadline = time.monotonic() + 10
        while keeper.lost() != {lease.entry_id for lease in leased}:  # heard again, and told so
            assert time.monotonic() < deadline
            time.sleep(0.01)
        keeper.drop(leased)


def test_a_lost_lease_is_reported_until_dropped(buffer, leased):
    with LeaseKeeper(buffer, LEASE_S) as keeper:
        keeper.hold(leased)
        buffer.release(leased[1], reason="as if it had expired")
        wait_until(lambda: keeper.lost() == {leased[1].entry_id})
        keeper.drop(leased[1:])
        assert keeper.lost() == set()
        assert buffer.advance([(leased[0], b"c")]) == [True]


@pytest.mark.parametrize("call", [lambda k: k.hold([]), lambda k: k.drop([]), lambda k: k.lost()])
def test_an_error_of_the_thread_is_raised_in_the_owner(backend, call):
    buffer = backend.opened()
    buffer.issue([a_prompt(0)], cursor=1)
    keeper = LeaseKeeper(buffer, LEASE_S)
    with pytest.raises(Fenced), keeper:  # noqa: PT012
        keeper.hold(buffer.lease("prompts", worker="w", count=1, lease_s=LEASE_S))
        buffer.raise_epoch(role="run", epoch=2)
        wait_until(lambda: not any(thread.name == "lease-keeper" for thread in threading.enumerate()))
        call(keeper)
        pytest.fail("the error was swallowed")


def test_an_error_of_the_thread_is_raised_on_leaving(backend):
    buffer = backend.opened()
    buffer.issue([a_prompt(0)], cursor=1)
    with pytest.raises(Fenced), LeaseKeeper(buffer, LEASE_S) as keeper:  # noqa: PT012
        keeper.hold(buffer.lease("prompts", worker="w", count=1, lease_s=LEASE_S))
        buffer.raise_epoch(role="run", epoch=2)
        wait_until(lambda: not any(thread.name == "lease-keeper" for thread in threading.enumerate()))


def test_a_keeper_can_be_entered_again_and_leaves_no_thread(buffer, leased):
    keeper = LeaseKeeper(buffer, LEASE_S)
    for _ in range(2):
        with keeper:
            keeper.hold(leased)
    assert not any(thread.name == "lease-keeper" for thread in threading.enumerate())
