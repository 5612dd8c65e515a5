"""What a worker's stamp says, by two clocks: one that people set, and one that nobody does. Milliseconds."""

import time

import pytest

from experience.buffer import Lease
from experience.production import produced


def test_a_production_says_when_it_was_leased_and_how_long_each_part_took(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease(entry_id="1750000000250-3", stage="prompts", data=b"", sequence=7, deliveries=2, worker="gen-0.e1.2")
    monkeypatch.setattr(time, "time", lambda: 1_750_000_010.0)
    monkeypatch.setattr(time, "monotonic", lambda: 105.5)
    made = produced(lease, leased_at=100.0, started_at=101.5, finished_at=105.0)
    assert (made.worker, made.deliveries) == ("gen-0.e1.2", 2)
    assert made.queued_at == 1_750_000_000.25  # the milliseconds that the id begins with
    assert made.leased_at == 1_750_000_004.5  # 105.5 - 100 s before now
    assert (made.waited_s, made.worked_s) == (1.5, 3.5)
