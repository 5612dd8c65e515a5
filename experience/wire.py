"""The wire form of the records: msgpack with raw array buffers under a schema version; nothing is ever pickled.

    frame = b"HR" | schema u16 | kind u8 | msgpack body          (little-endian)
    array = msgpack ext, type = index in _DTYPES, payload = rank u8 | rank x u32 shape | C-order little-endian bytes

A body is the record as a map by field name, so that an older one can be upgraded field by field.
"""

import struct
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import numpy as np

from experience.schema import SCHEMA_VERSION, BatchRecord, CompletionGroup, Issue, Prompt, ScoredGroup, Settlement

Record = TypeVar("Record", Prompt, CompletionGroup, ScoredGroup, BatchRecord, Settlement, Issue)

_MAGIC = b"HR"
_HEADER = struct.Struct("<2sHB")
_KINDS: tuple[type, ...] = (Prompt, CompletionGroup, ScoredGroup, BatchRecord, Settlement, Issue)
"""A frame names its kind by index: append, never reorder."""
_DTYPES = tuple(
    np.dtype(name)
    for name in ("bool", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16")
)
"""An array names its dtype by index: append, never reorder."""
_DTYPE_INDEX = {dtype: index for index, dtype in enumerate(_DTYPES)}
_SHAPES = tuple(struct.Struct(f"<B{rank}I") for rank in range(65))
"""Rank and shape of an array, by rank (numpy ends at 64); compiled here since they are most of an array's cost."""


def encode(record: Prompt | CompletionGroup | ScoredGroup | BatchRecord | Settlement | Issue) -> bytes:
    """The record as bytes. ValueError for a value that has no wire form (an object array, a class)."""
    try:
        header = _HEADER.pack(_MAGIC, SCHEMA_VERSION, _KIND_INDEX[type(record)])
        return header + _ENCODER.encode(record)
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{type(record).__name__} has no wire form: {error}") from error


def decode(data: bytes, kind: type[Record]) -> Record:
    """The record that `encode` was given; arrays are read-only. ValueError: another kind, a newer schema, damage."""
    version, body = _open(data, kind)
    try:
        if version == SCHEMA_VERSION:
            return _DECODERS[kind].decode(body)
        fields = _FIELDS_DECODER.decode(body)
        return msgspec.convert(_UPGRADES[version](kind, fields), kind)
    except (msgspec.MsgspecError, struct.error, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"malformed {kind.__name__} of schema {version}, {len(data)} bytes: {error}") from error


def _open(data: bytes, kind: type) -> tuple[int, memoryview]:
    """Check the frame's header; its schema version and its body."""
    if len(data) < _HEADER.size or data[:2] != _MAGIC:
        raise ValueError(f"malformed {kind.__name__}: {len(data)} bytes that are no headrace record")
    _, version, index = _HEADER.unpack_from(data)
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{kind.__name__} has schema {version}, this headrace reads up to {SCHEMA_VERSION}: upgrade headrace"
        )
    if version < SCHEMA_VERSION and version not in _UPGRADES:
        raise ValueError(
            f"{kind.__name__} has schema {version}, this headrace reads {SCHEMA_VERSION} and the one before: "
            "read it with an older headrace"
        )
    if index != _KIND_INDEX[kind]:
        found = _KINDS[index].__name__ if index < len(_KINDS) else f"kind {index}"
        raise ValueError(f"expected a {kind.__name__}, found a {found}")
    return version, memoryview(data)[_HEADER.size :]


def _pack_array(value: Any) -> msgspec.msgpack.Ext:
    """msgspec's hook for types that it does not know: arrays only."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"no wire form for {type(value).__name__}")
    index = _DTYPE_INDEX.get(value.dtype)
    if index is None:  # rare: another byte order, or no number at all
        value = value.astype(value.dtype.newbyteorder("<"))
        index = _DTYPE_INDEX.get(value.dtype)
        if index is None:
            raise TypeError(f"no wire form for arrays of {value.dtype}")
    return msgspec.msgpack.Ext(index, _SHAPES[value.ndim].pack(value.ndim, *value.shape) + value.tobytes())


def _unpack_array(index: int, payload: memoryview) -> np.ndarray:
    """A read-only array over the message's own bytes, or over a copy where these are not aligned for its dtype."""
    if not 0 <= index < len(_DTYPES) or not payload or payload[0] >= len(_SHAPES):
        raise ValueError(f"unknown array of type {index}")
    header = _SHAPES[payload[0]]
    shape = header.unpack_from(payload)[1:]
    array: np.ndarray = np.ndarray(shape, _DTYPES[index], payload, header.size)
    if array.nbytes != len(payload) - header.size:
        raise ValueError(f"array of shape {shape} in {len(payload) - header.size} bytes")
    if not array.flags.aligned:
        array = array.copy()
    array.setflags(write=False)
    return array


def _from_2(kind: type, fields: dict[str, Any]) -> dict[str, Any]:
    """Schema 2: a production knew durations alone. A batch holds its groups in frames of their own."""
    unknown = {"deliveries": 0, "queued_at": 0.0, "leased_at": 0.0}
    if kind in (CompletionGroup, ScoredGroup):
        fields = {**fields, "production": unknown | fields["production"]}
    if kind is ScoredGroup:
        fields["group"] = _from_2(CompletionGroup, fields["group"])
    return fields


_UPGRADES: dict[int, Callable[[type, dict[str, Any]], dict[str, Any]]] = {2: _from_2}
"""By the version read: fields of that version -> fields of SCHEMA_VERSION. Holds the one before, no other."""

_KIND_INDEX = {kind: index for index, kind in enumerate(_KINDS)}
_ENCODER = msgspec.msgpack.Encoder(enc_hook=_pack_array)
_DECODERS: dict[type, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(kind, ext_hook=_unpack_array) for kind in _KINDS
}
_FIELDS_DECODER = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_unpack_array)
