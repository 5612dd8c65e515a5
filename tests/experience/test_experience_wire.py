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
    with pytest.raises(ValueError, match=r"schema 2.*reads up to 1"):
        wire.decode(data, Issue)


def without_attempt(fields: Any) -> Any:
    """The v0 form of a record's fields: prompts had no attempt."""
    if isinstance(fields, dict):
        return {key: without_attempt(value) for key, value in fields.items() if key != "attempt"}
    return [without_attempt(value) for value in fields] if isinstance(fields, list) else fields


@pytest.mark.parametrize("record", [a_prompt(), a_group(), a_scored_group()], ids=lambda record: type(record).__name__)
def test_the_schema_before_is_read(record):
    data = wire.encode(record)
    fields = without_attempt(msgspec.msgpack.decode(data[5:]))
    old = b"HR\x00\x00" + data[4:5] + msgspec.msgpack.encode(fields)
    assert same(wire.decode(old, type(record)), record)


def test_a_literal_v0_prompt_is_read():
    body = (
        b"\x8a\xa6run_id\xa1r\xa7lineage\x00\xa8sequence\x04\xa9prompt_id\xa3d:0\xa6tokens\xc7\x09\x03\x01\x01\x00\x00\x00"
        b"\x2a\x00\x00\x00\xa8metadata\x80\xaagroup_size\x01\xa8sampling\x84\xabtemperature\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00"
        b"\xaamax_tokens\x08\xaestop_token_ids\x90\xa4seed\x00\xabmin_version\x00\xaadeadline_s\xcb\x40\x00\x00\x00\x00\x00\x00\x00"
    )
    prompt = wire.decode(b"HR\x00\x00\x00" + body, Prompt)
    assert (prompt.sequence, prompt.attempt, prompt.tokens.tolist(), prompt.deadline_s) == (4, 0, [42], 2.0)


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


@pytest.mark.parametrize("value", [object(), np.array([object()]), np.array(["text"])], ids=repr)
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
