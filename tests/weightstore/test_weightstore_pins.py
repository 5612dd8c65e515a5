"""Pins on every store: the newest life's word counts, and what is pinned survives retention. Under a second each."""

import pytest
import torch

from weightstore.manifest import WeightVersion
from weightstore.pins import adopt_pins, pin, pins
from weightstore.publish import record_newest
from weightstore.retention import sweep

TINY = {"a": torch.zeros(2)}


def v(number, epoch=1):
    return WeightVersion(0, epoch, number)


def test_a_pin_points_at_what_it_was_last_given(store, reopen):
    assert pins(store, lineage=0) == {}
    pin(store, "best", v(3), run_epoch=1)
    pin(store, "last_clean", v(2), run_epoch=1)
    pin(store, "best", v(5), run_epoch=1)
    assert pins(reopen(), lineage=0) == {"best": v(5), "last_clean": v(2)}
    assert pins(store, lineage=1) == {}


def test_a_life_takes_the_pins_over_and_a_zombie_moves_them_no_more(store):
    pin(store, "best", v(3), run_epoch=2)
    assert adopt_pins(store, lineage=0, run_epoch=10) == {"best": v(3)}
    pin(store, "best", v(4), run_epoch=2)  # the zombie's, too late
    assert pins(store, lineage=0) == {"best": v(3)}
    pin(store, "best", v(6, epoch=10), run_epoch=10)
    assert pins(store, lineage=0) == {"best": v(6, epoch=10)}


def test_an_unreadable_pin_is_named_and_the_word_before_it_taken(store, caplog):
    pin(store, "best", v(3), run_epoch=1)
    pin(store, "best", v(4), run_epoch=2)
    store.replace("weights/0/pins/best/e2.json", b"{}")
    assert pins(store, lineage=0) == {"best": v(3)}
    assert "weights/0/pins/best/e2.json is malformed" in caplog.text


def test_a_name_that_could_lie_elsewhere_is_refused(store):
    with pytest.raises(AssertionError):
        pin(store, "../newest", v(1), run_epoch=1)


def test_what_is_pinned_survives_a_sweep_and_what_was_goes(store, publish, source):
    for number in range(8):
        publish(v(number), TINY)
    record_newest(store, v(7), run_epoch=1)
    settings = {"newest": 7, "max_staleness": 0, "cut_steps": (), "ranks_epoch": 1}
    pin(store, "best", v(2), run_epoch=1)
    assert sweep(store, 0, pinned=pins(store, lineage=0).values(), **settings) == [v(0), v(1), v(3), v(4), v(5)]
    source.fetch(v(2))
    pin(store, "best", v(6), run_epoch=1)
    assert sweep(store, 0, pinned=pins(store, lineage=0).values(), **settings) == [v(2)]
