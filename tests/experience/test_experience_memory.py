"""What only the memory buffer offers: a clock of one's own. And the metrics that both buffers keep."""

from experience_records import a_prompt
from prometheus_client import REGISTRY

from experience.memory import MemoryBuffer, MemoryServer


def opened(server):
    buffer = MemoryBuffer(server, run_epoch=1, trainer_epoch=1)
    buffer.raise_epoch(role="run", epoch=1)
    buffer.raise_epoch(role="trainer", epoch=1)
    return buffer


def test_a_lease_ends_at_its_deadline_and_not_before():
    now = [100.0]
    buffer = opened(MemoryServer(clock=lambda: now[0]))
    buffer.issue([a_prompt(0)], cursor=1)
    held = buffer.lease("prompts", worker="w", count=1, lease_s=30.0)
    now[0] = 120.0
    assert buffer.renew(held) == set()  # until 150
    now[0] = 149.9
    assert buffer.lease("prompts", worker="v", count=1, lease_s=30.0) == []
    now[0] = 150.0
    assert buffer.lease("prompts", worker="v", count=1, lease_s=30.0)[0].deliveries == 2


def value(name, **labels):
    return REGISTRY.get_sample_value(f"headrace_experience_{name}", labels) or 0.0


def test_the_metrics_follow_the_groups(backend):
    names = [(name, {"stage": "prompts"}) for name in ("redeliveries_total", "lost_leases_total", "quarantined_total")]
    before = [value(name, **labels) for name, labels in names]
    buffer = backend.opened()
    buffer.issue([a_prompt(0), a_prompt(1)], cursor=2)
    held = buffer.lease("prompts", worker="w", count=2, lease_s=60.0)
    assert buffer.advance([(held[0], b"c"), (held[0], b"again")]) == [True, False]
    buffer.release(held[1], reason="r")
    (suspect,) = buffer.lease("prompts", worker="w", count=1, lease_s=60.0)
    assert buffer.advance([(held[1], b"late")]) == [False]
    assert not buffer.begin_alone(suspect, limit=0)
    buffer.snapshot()
    assert (value("live_groups"), value("depth_groups", stream="completions")) == (1, 1)
    after = [value(name, **labels) for name, labels in names]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 2, 1]
