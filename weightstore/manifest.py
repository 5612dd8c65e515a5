"""What a published version of the weights is: the manifest, its JSON form, and where its parts lie.

    weights/{lineage}/e{epoch}/v{number}/   shard-00000.safetensors  shard-00000.json  ...  manifest.json <- last

A version exists once its manifest does, and never changes. Imports neither torch nor numpy.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from weightstore.seal import seal, unseal

SCHEMA = 1
"""Of the manifest and of a shard's record; any other is refused."""

DTYPE_BYTES: Mapping[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Bytes of an element, by torch's name of the type."""

TensorIdentity = tuple[str, str, tuple[int, ...], str]
"""name, dtype, shape, SHA-256 of the bytes (hex)"""


class WeightVersion(msgspec.Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """Names a published set of weights; written `lineage/epoch/number`."""

    lineage: int
    epoch: int
    """Epoch of the ranks that published it."""
    number: int
    """The step it came after, 0 = the initial weights."""

    def __str__(self) -> str:
        return f"{self.lineage}/{self.epoch}/{self.number}"

    @staticmethod
    def parse(text: str) -> "WeightVersion":
        """ValueError: not three numbers."""
        if not re.fullmatch(r"\d+/\d+/\d+", text):
            raise ValueError(f"weight version {text!r}: must be lineage/epoch/number, such as 0/1/12")
        return WeightVersion(*map(int, text.split("/")))

    @property
    def folder(self) -> str:
        return f"{lineage_folder(self.lineage)}/e{self.epoch}/v{self.number}"

    @property
    def manifest_key(self) -> str:
        return f"{self.folder}/manifest.json"

    def shard_key(self, index: int) -> str:
        return f"{self.folder}/shard-{index:05d}.safetensors"

    def shard_record_key(self, index: int) -> str:
        """Where a shard's writer leaves word for whoever commits."""
        return f"{self.folder}/shard-{index:05d}.json"


class TensorEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor: its identity (name, shape, dtype, sha256) and where its bytes lie."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """torch's name without `torch.`: float32, bfloat16, ..."""
    blob: str
    """Name of the blob in the version's folder."""
    offset: int
    """First byte in the blob."""
    codec: Literal["raw"] = "raw"
    """raw = contiguous, row-major, little-endian."""
    sha256: str
    """Hex, of the decoded bytes."""

    @property
    def nbytes(self) -> int:
        """Of the decoded tensor."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


class BlobEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    size: int
    """Bytes."""
    sha256: str
    """Hex, of the whole blob."""


class ShardRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the writer of one shard tells the committer."""

    schema: int = SCHEMA
    blob: BlobEntry
    tensors: tuple[TensorEntry, ...]


class ProbeSequence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Log-probs by which a reader proves what it serves."""

    tokens: tuple[int, ...]
    """[T]"""
    logprobs: tuple[float, ...]
    """[T-1] of tokens 1 .. T-1 given those before, nats, at temperature 1."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A committed version: every blob and every tensor with its hash. Readers trust nothing else."""

    schema: int = SCHEMA
    kind: Literal["full", "delta", "adapter"]
    version: WeightVersion
    base: str
    """Version that a delta or an adapter applies to, as `lineage/epoch/number`; "" for full."""
    publication_id: str
    """Of the one attempt that committed it."""
    step: int
    """Training steps in these weights."""
    model_hash: str
    """Of the architecture's configuration."""
    tokenizer_hash: str
    hash_algorithm: Literal["sha256"] = "sha256"
    aliases: Mapping[str, str]
    """{alias: name in `tensors`} of tied tensors, which are stored once."""
    tensors: tuple[TensorEntry, ...]
    """In publication order."""
    blobs: tuple[BlobEntry, ...]
    probe: tuple[ProbeSequence, ...] = ()
    """Empty: nothing to prove against."""

    def __post_init__(self) -> None:
        if (self.base == "") != (self.kind == "full"):
            raise ValueError(f"base {self.base!r} does not fit kind {self.kind!r}: exactly a full version has none")
        if self.base:
            WeightVersion.parse(self.base)
        names = _unique("tensors", [tensor.name for tensor in self.tensors])
        sizes = {blob.name: blob.size for blob in self.blobs}
        _unique("blobs", [blob.name for blob in self.blobs])
        for alias, name in self.aliases.items():
            if name not in names or alias in names:
                raise ValueError(f"aliases: {alias!r} must not be, and {name!r} must be, the name of a stored tensor")
        for tensor in self.tensors:
            if tensor.dtype not in DTYPE_BYTES:
                raise ValueError(f"tensors: {tensor.name} has the unknown dtype {tensor.dtype!r}")
            if not 0 <= tensor.offset <= sizes.get(tensor.blob, -1) - tensor.nbytes:
                raise ValueError(f"tensors: {tensor.name} lies outside of the listed blobs")

    def digest(self) -> str:
        """SHA-256 over the sorted (name, dtype, shape, sha256) of all tensors.

        Equal weights <=> equal digest, whatever the sharding, the world size, the epoch and the attempt.
        """
        return weights_digest((tensor.name, tensor.dtype, tensor.shape, tensor.sha256) for tensor in self.tensors)

    def encode(self) -> bytes:
        return seal(self)

    @staticmethod
    def decode(data: bytes) -> "Manifest":
        """ValueError: a flipped byte, another schema, a malformed key (named)."""
        return unseal(data, Manifest, name="manifest", schema=SCHEMA)


def weights_digest(tensors: Iterable[TensorIdentity]) -> str:
    """`Manifest.digest` of weights that are not published; `shards.identity` gives the identity of a tensor."""
    return hashlib.sha256(msgspec.json.encode(sorted(tensors))).hexdigest()


def lineage_folder(lineage: int) -> str:
    return f"weights/{lineage}"


def _unique(what: str, names: list[str]) -> set[str]:
    unique = set(names)
    if len(unique) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{what}: {twice!r} is listed twice")
    return unique
