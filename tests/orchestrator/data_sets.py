"""Data sets in every form that is read, written on the spot."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from orchestrator_folders import write_rows

Row = Mapping[str, Any]


def parquet(path: Path, rows: Sequence[Row] | pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(rows), path, **options)
    return path


def stream(path: Path, rows: Sequence[Row] | pa.Table, *, batch_rows: int = 2) -> Path:
    """As the `datasets` library writes Arrow files."""
    return _ipc(path, rows, pa.ipc.new_stream, batch_rows)


def arrow_file(path: Path, rows: Sequence[Row] | pa.Table, *, batch_rows: int = 2) -> Path:
    """With a footer."""
    return _ipc(path, rows, pa.ipc.new_file, batch_rows)


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_rows(path, rows)


def saved(folder: Path, shards: Sequence[Sequence[Row]], *, split: str = "train") -> Path:
    """`Dataset.save_to_disk`."""
    names = [f"data-{number:05}-of-{len(shards):05}.arrow" for number in range(len(shards))]
    for name, rows in zip(names, shards, strict=True):
        stream(folder / name, rows)
    state = {"_data_files": [{"filename": name} for name in names], "_split": split, "_fingerprint": "0"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return folder


def table(rows: Sequence[Row] | pa.Table) -> pa.Table:
    return rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows))


def _ipc(path: Path, rows: Sequence[Row] | pa.Table, make: Any, batch_rows: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = table(rows)
    with make(str(path), content.schema) as writer:
        for batch in content.to_batches(max_chunksize=batch_rows):
            writer.write_batch(batch)
    return path
