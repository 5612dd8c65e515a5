"""The wire form: round trips, versions, damage."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from experience_records import a_batch, a_completion, a_group, a_prompt, a_scored_group, a_settlement, an_issue
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from experience import wire
from experience.schema import BatchRecord, CompletionGroup, Issue, Prompt, ScoredGroup, Settlement

RECORDS = [
    a_prompt(),
    a_group(),
    a_scored_group(),
    a_batch(settled=(a_settlement(),), open=(an_issue(1),), groups=(b"\x00raw",)),
    a_settlement(),
    an_issue(),
]


def same(left: Any, right: Any) -> bool:
    """Equality that also compares dtype, shape and NaN of arrays."""
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if dataclasses.is_dataclass(left):
        return type(left) is type(right) and all(
            same(getattr(left, field.name), getattr(right, field.name)) for field in dataclasses.fields(left)
        )
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was(record):
    assert same(wire.decode(wire.encode(record), type(record)), record)


@given(
    hnp.arrays(
        dtype=st.sampled_from(["?", "i1", "u2", "<i4", ">i4", "i8", "u8", "f2", "<f4", ">f8", "c8"]),
        shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
def test_a_channel_keeps_dtype_shape_and_bits(array):
    completion = dataclasses.replace(
        a_completion(0), channels={"extra": array, "strided": array[..., ::2]} if array.ndim else {"extra": array}
    )
    group = dataclasses.replace(a_group(), completions=(completion,))
    channels = wire.decode(wire.encode(group), CompletionGroup).completions[0].channels
    for name, sent in completion.channels.items():
        assert same(channels[name], np.asarray(sent, dtype=sent.dtype.newbyteorder("<")))


@pytest.mark.parametrize("container", [bytes, bytearray, memoryview])
def test_arrays_are_read_only_and_aligned(container):
    group = wire.decode(container(wire.encode(a_group())), CompletionGroup)
    completion = group.completions[0]
    for array in (completion.tokens, completion.sampled, completion.behaviour_logprobs, *completion.channels.values()):
        assert array.flags.aligned
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_a_newer_schema_is_refused_with_both_versions():
    data = b"HR" + (wire.SCHEMA_VERSION + 1).to_bytes(2, "little") + wire.encode(an_issue())[4:]
    with pytest.raises(ValueError, match=r"schema 4.*reads up to 3"):
        wire.decode(data, Issue)


def test_the_schema_before_the_last_is_refused_with_a_remedy():
    data = b"HR\x01\x00" + wire.encode(an_issue())[4:]
    with pytest.raises(ValueError, match=r"schema 1, this headrace reads 3 and the one before: read it with an older"):
        wire.decode(data, Issue)


def as_schema_2(record: Any) -> bytes:
    """The frame that the schema before made of a record: productions had durations alone."""
    data = wire.encode(record)
    fields = msgspec.msgpack.decode(data[5:])
    for holder in (fields, fields.get("group", {})):
        for name in ("deliveries", "queued_at", "leased_at"):
            holder.get("production", {}).pop(name, None)
    return b"HR\x02\x00" + data[4:5] + msgspec.msgpack.encode(fields)


def without_stamps(record: Any) -> Any:
    if isinstance(record, ScoredGroup):
        record = dataclasses.replace(record, group=without_stamps(record.group))
    if not isinstance(record, CompletionGroup | ScoredGroup):
        return record
    unknown = dataclasses.replace(record.production, deliveries=0, queued_at=0.0, leased_at=0.0)
    return dataclasses.replace(record, production=unknown)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_the_schema_before_is_read(record):
    assert same(wire.decode(as_schema_2(record), type(record)), without_stamps(record))


def test_a_batch_of_the_schema_before_holds_readable_groups():
    batch = wire.decode(as_schema_2(a_batch(groups=(as_schema_2(a_scored_group()),))), BatchRecord)
    (group,) = (wire.decode(data, ScoredGroup) for data in batch.groups)
    assert (group.production.queued_at, group.group.production.worker) == (0.0, "w-0")


def test_a_literal_v2_production_is_read():
    """Fields as schema 2 wrote them, not as today's encoder would."""
    body = msgspec.msgpack.decode(wire.encode(a_group())[5:])
    body["production"] = {"worker": "gen-1", "waited_s": 0.5, "worked_s": 2.0}
    made = wire.decode(b"HR\x02\x00\x01" + msgspec.msgpack.encode(body), CompletionGroup).production
    assert (made.worker, made.waited_s, made.worked_s) == ("gen-1", 0.5, 2.0)
    assert (made.deliveries, made.queued_at, made.leased_at) == (0, 0.0, 0.0)


def test_another_kind_is_named():
    with pytest.raises(ValueError, match="expected a Settlement, found a Issue"):
        wire.decode(wire.encode(an_issue()), Settlement)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_every_truncation_is_one_clear_value_error(record):
    data = wire.encode(record)
    for end in range(len(data)):
        with pytest.raises(ValueError, match=type(record).__name__):
            wire.decode(data[:end], type(record))


@settings(deadline=None)  # a busy machine is no failure
@given(st.data())
def test_damage_raises_value_error_or_still_gives_the_type(data):
    damaged = bytearray(wire.encode(a_scored_group()))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        assert isinstance(wire.decode(bytes(damaged), ScoredGroup), ScoredGroup)


@pytest.mark.parametrize(
    "value", [object(), np.array([object()]), np.array(["text"])], ids=["object", "objects", "texts"]
)
def test_what_has_no_wire_form_is_refused(value):
    with pytest.raises(ValueError, match="Prompt has no wire form"):
        wire.encode(dataclasses.replace(a_prompt(), metadata={"bad": value}))


def test_special_floats_survive():
    prompt = dataclasses.replace(a_prompt(), metadata={"floats": [math.inf, -math.inf, math.nan]})
    floats = wire.decode(wire.encode(prompt), Prompt).metadata["floats"]
    assert floats[:2] == [math.inf, -math.inf]
    assert math.isnan(floats[2])


def test_a_group_of_512_tokens_costs_tens_of_microseconds():
    group = dataclasses.replace(a_group(), completions=(a_completion(0, length=512),))
    times = []
    for _ in range(300):
        start = time.perf_counter()
        wire.decode(wire.encode(group), CompletionGroup)
        times.append(time.perf_counter() - start)
    assert min(times) < 300e-6  # 25 us on an idle core; ten times that only catches a lost fast path


def test_batches_carry_their_groups_verbatim():
    groups = tuple(wire.encode(a_scored_group(sequence)) for sequence in range(3))
    assert wire.decode(wire.encode(a_batch(groups=groups)), BatchRecord).groups == groups
