"""How long entries and leases have stood: the same of the memory buffer and of every server. 2 s beside the servers' starts."""

import time
from itertools import pairwise

import pytest
from experience_records import a_prompt, a_settlement
from prometheus_client import REGISTRY

from experience.metrics import observe_settled
from experience.redis_buffer import RedisBuffer

PAUSE_S = 0.06
LONG_S = 60.0
NONE_S = {"prompts": 0.0, "completions": 0.0, "experience": 0.0, "quarantine": 0.0}


def issue(buffer, first, count):
    buffer.issue([a_prompt(sequence) for sequence in range(first, first + count)], cursor=first + count)


def lease(buffer, stage, *, count, lease_s=LONG_S):
    return buffer.lease(stage, worker="w", count=count, lease_s=lease_s)


def pause():
    time.sleep(PAUSE_S)  # the passing of time is what is measured


def exported(name, **labels):
    return REGISTRY.get_sample_value(f"headrace_experience_{name}", labels)


def test_an_empty_buffer_has_no_ages(backend, buffer):
    for client in (buffer, backend.connect(0, 0)):  # who holds no epoch may look as well
        ages = client.ages()
        assert ages.oldest_s == NONE_S
        assert ages.leases == {"prompts": 0, "completions": 0}
        assert ages.oldest_lease_s == {"prompts": 0.0, "completions": 0.0}


def test_the_oldest_entry_of_each_stream_counts_whether_leased_or_not(buffer):
    began = time.monotonic()
    issue(buffer, 0, 2)
    pause()
    issue(buffer, 2, 1)
    first, second = lease(buffer, "prompts", count=2)
    ages = buffer.ages()
    lasted_s = time.monotonic() - began
    assert PAUSE_S * 0.9 <= ages.oldest_s["prompts"] <= lasted_s + 0.002  # ids have milliseconds
    assert {stream: age_s for stream, age_s in ages.oldest_s.items() if stream != "prompts"} == {
        "completions": 0.0,
        "experience": 0.0,
        "quarantine": 0.0,
    }
    buffer.advance([(first, b"c"), (second, b"c")])  # what remains in prompts is young, and what arrives is new
    young = buffer.ages().oldest_s
    assert young["prompts"] <= time.monotonic() - began - PAUSE_S + 0.002
    assert young["completions"] < lasted_s
    assert exported("oldest_seconds", stream="prompts") == young["prompts"]
    pause()
    assert buffer.ages().oldest_s["completions"] >= young["completions"] + PAUSE_S * 0.9
    buffer.advance([(held, b"s") for held in lease(buffer, "completions", count=2)])
    assert buffer.ages().oldest_s["completions"] == 0.0


def test_held_leases_are_counted_from_their_last_renewal(buffer):
    issue(buffer, 0, 3)
    held = lease(buffer, "prompts", count=3)
    pause()
    ages = buffer.ages()
    assert ages.leases == {"prompts": 3, "completions": 0}
    assert ages.oldest_lease_s["prompts"] >= PAUSE_S * 0.9
    renewed = time.monotonic()
    buffer.renew(held)
    ages = buffer.ages()
    assert ages.oldest_lease_s["prompts"] <= time.monotonic() - renewed + 0.002
    buffer.release(held[0], reason="failed")  # given back: nobody holds it
    assert buffer.ages().leases["prompts"] == 2
    buffer.advance([(held[1], b"c")])
    assert (buffer.ages().leases["prompts"], exported("leases", stage="prompts")) == (1, 1)
    lease(buffer, "completions", count=1)
    assert buffer.ages().leases == {"prompts": 1, "completions": 1}
    buffer.take_over()
    assert buffer.ages().leases == {"prompts": 0, "completions": 0}
    assert buffer.ages().oldest_lease_s == {"prompts": 0.0, "completions": 0.0}


def test_ages_do_not_touch_what_the_loop_watches_for(buffer):
    issue(buffer, 0, 1)
    seen = buffer.snapshot()
    ages = [buffer.ages().oldest_s["prompts"] for _ in range(3) if pause() is None]
    assert all(later > earlier for earlier, later in pairwise(ages))
    assert buffer.snapshot() == seen


def test_a_server_tells_of_itself_in_the_fields_that_are_read(backend, buffer):
    info = buffer.server_info()
    if not isinstance(buffer, RedisBuffer):
        assert info == {}
        return
    assert info["used_memory"] > 0
    assert {"maxmemory", "aof_enabled", "aof_last_write_status", "connected_clients"} <= info.keys()


@pytest.mark.parametrize(
    ("outcome", "reason", "label"),
    [
        ("trained", "step 7", "batch"),
        ("dropped", "held up a batch for more than 3 s", "late"),
        ("filtered", "all rewards of the group are equal", "equal_rewards"),
        ("quarantined", "prompts: failed 2 deliveries alone; last: not finished within 3 s", "generation"),
        ("quarantined", "completions: failed 2 deliveries alone; last: reward r: boom", "scoring"),
        ("quarantined", "by hand", "other"),
        ("lost", "not in the buffer after a restart", "server"),
        ("abandoned", "another lineage", "lineage"),
    ],
)
def test_settlements_are_counted_under_a_closed_set_of_reasons(outcome, reason, label):
    labels = {"outcome": outcome, "reason": label}
    before = exported("settled_groups_total", **labels) or 0.0
    observe_settled([a_settlement(1, outcome=outcome, reason=reason), a_settlement(2, outcome=outcome, reason=reason)])
    assert exported("settled_groups_total", **labels) == before + 2
