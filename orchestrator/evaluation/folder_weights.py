"""An ordinary model folder seen as a fetched version, so that an engine takes its weights like any other; no copy."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.modelfolder import safetensors_header
from weightstore.fetch import Bytes, FetchedVersion
from weightstore.manifest import BlobEntry, Manifest, TensorEntry, WeightVersion
from weightstore.shards import SAFETENSORS_DTYPE

_DTYPES = {short: name for name, short in SAFETENSORS_DTYPE.items()}
"""{safetensors' name of a type: torch's}"""
_HEADER_LENGTH_BYTES = 8


def read_folder(folder: Path, *, version: WeightVersion, aliases: frozenset[str] = frozenset()) -> FetchedVersion:
    """The weights of a folder under the name `version`, which must be its own: an engine's cache goes by it.

    aliases: names of tied tensors that the engine's model knows under another name; files of some tools hold both.
    ValueError: it has no weights, a file that is damaged, or a type that no engine takes.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"POLICY = {folder}: holds no weights (*.safetensors); name a folder that has them")
    blobs: dict[str, Bytes] = {}
    tensors: list[TensorEntry] = []
    entries: list[BlobEntry] = []
    for file in files:
        try:
            header = safetensors_header(file)
            data = np.memmap(file, dtype=np.uint8, mode="c")
        except (OSError, ValueError) as error:
            raise ValueError(f"POLICY = {folder}: {file.name} cannot be read ({error}); copy it again") from error
        start = _HEADER_LENGTH_BYTES + int.from_bytes(data[:_HEADER_LENGTH_BYTES].tobytes(), "little")
        blobs[file.name] = data
        entries.append(BlobEntry(name=file.name, size=len(data), sha256=hashlib.sha256(data.data).hexdigest()))
        tensors += [
            _entry(folder, file.name, name, told, data, start) for name, told in header.items() if name not in aliases
        ]
    manifest = Manifest(
        kind="full",
        version=version,
        base="",
        publication_id="folder",
        step=0,
        model_hash="",
        tokenizer_hash="",
        aliases={},
        tensors=tuple(tensors),
        blobs=tuple(entries),
    )
    return FetchedVersion(manifest=manifest, blobs=blobs)


def tied_names(model_path: str) -> frozenset[str]:
    """Further names of tied parameters of a folder's architecture: those that a publication leaves out."""
    import torch  # seconds to import, as is transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_path, local_files_only=True))
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return frozenset(every - {name for name, _ in model.named_parameters()})


def _entry(folder: Path, blob: str, name: str, told: dict[str, Any], data: Bytes, start: int) -> TensorEntry:
    if told["dtype"] not in _DTYPES:
        raise ValueError(
            f"POLICY = {folder}: {name} has the type {told['dtype']}; save its weights as float32 or bfloat16"
        )
    first, end = told["data_offsets"]
    return TensorEntry(
        name=name,
        shape=tuple(told["shape"]),
        dtype=_DTYPES[told["dtype"]],
        blob=blob,
        offset=start + first,
        sha256=hashlib.sha256(data[start + first : start + end].data).hexdigest(),
    )
