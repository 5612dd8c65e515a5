"""Small JSON records that show every flipped byte: `{"sha256": of the body's bytes, "body": ...}`."""

import hashlib
from typing import TypeVar

import msgspec

T = TypeVar("T")


class Sealed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sha256: str
    """Hex, of the body exactly as written."""
    body: msgspec.Raw


class _Versioned(msgspec.Struct):
    schema: int


def seal(record: msgspec.Struct) -> bytes:
    """The record as sealed JSON, a pure function of its content."""
    body = msgspec.json.encode(record)
    return msgspec.json.encode(Sealed(sha256=hashlib.sha256(body).hexdigest(), body=msgspec.Raw(body)))


def unseal(data: bytes, kind: type[T], *, name: str, schema: int) -> T:
    """The inverse. ValueError: names the record and what is wrong with it, down to the key."""
    try:
        sealed = msgspec.json.decode(data, type=Sealed)
        found = hashlib.sha256(sealed.body).hexdigest()
        if found != sealed.sha256:
            raise ValueError(f"expected sha256 {sealed.sha256}, found {found}")
        written = msgspec.json.decode(sealed.body, type=_Versioned).schema
        if written != schema:
            raise ValueError(f"schema {written} is not the schema {schema} that this version of headrace reads")
        return msgspec.json.decode(sealed.body, type=kind)
    except ValueError as error:  # what msgspec raises too
        raise ValueError(f"{name} is malformed: {error}") from error
