"""Writing a safetensors file, hashing it and each of its tensors in the same pass.

Format: 8 bytes little-endian header length N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then the data.
The file is a pure function of the tensors and their order. Imports torch only to type and to write.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from weightstore.blobs import reported
from weightstore.manifest import DTYPE_BYTES, BlobEntry, TensorEntry, TensorIdentity

if TYPE_CHECKING:
    import torch

SAFETENSORS_DTYPE: Mapping[str, str] = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
ALIGNMENT_BYTES = 8
"""Of the data's start; the widest element comes first, so that every tensor is aligned to its element."""


def write_safetensors(
    path: Path, *, blob: str, tensors: Mapping[str, "torch.Tensor"]
) -> tuple[BlobEntry, tuple[TensorEntry, ...]]:
    """Write `path`; entries come in the order of `tensors`. ValueError: a dtype that has no safetensors name.

    StoreError: the file could not be written, on a full disk say.
    """
    dtypes = {name: _dtype(tensor) for name, tensor in tensors.items()}
    for name, dtype in dtypes.items():
        if dtype not in SAFETENSORS_DTYPE:
            raise ValueError(f"tensor {name}: dtype {dtype} cannot be published, only {', '.join(SAFETENSORS_DTYPE)}")
    layout = sorted(tensors, key=lambda name: -DTYPE_BYTES[dtypes[name]])
    header = _header({name: tensors[name] for name in layout}, dtypes)

    whole = hashlib.sha256(header)
    entries = {}
    offset = len(header)
    with reported("write", path), path.open("wb") as file:
        file.write(header)
        for name in layout:
            data = _raw_bytes(tensors[name])
            file.write(data)
            whole.update(data)
            entries[name] = TensorEntry(
                name=name,
                shape=tuple(tensors[name].shape),
                dtype=dtypes[name],
                blob=blob,
                offset=offset,
                sha256=hashlib.sha256(data).hexdigest(),
            )
            offset += data.nbytes
    return BlobEntry(name=blob, size=offset, sha256=whole.hexdigest()), tuple(entries[name] for name in tensors)


def identity(name: str, tensor: "torch.Tensor") -> TensorIdentity:
    """What a tensor is equal by, published or not: the same as in its TensorEntry."""
    return name, _dtype(tensor), tuple(tensor.shape), hashlib.sha256(_raw_bytes(tensor)).hexdigest()


def _dtype(tensor: "torch.Tensor") -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _raw_bytes(tensor: "torch.Tensor") -> memoryview:
    """Row-major; no copy of a contiguous tensor in main memory."""
    import torch  # so that the orchestrator reads manifests without loading it

    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _header(tensors: Mapping[str, "torch.Tensor"], dtypes: Mapping[str, str]) -> bytes:
    table = {}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.numel() * DTYPE_BYTES[dtypes[name]]
        table[name] = {
            "dtype": SAFETENSORS_DTYPE[dtypes[name]],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = msgspec.json.encode(table)
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text
