"""Which files a data set consists of: a file, or a folder as Hugging Face lays it out.

    words.jsonl                          a file
    folder/state.json                    `Dataset.save_to_disk`: Arrow streams, named in state.json
    folder/dataset_dict.json             `DatasetDict.save_to_disk`: one such folder a split
    folder/**/train-00000-of-00002.*     a repository of the hub: Parquet, Arrow or JSONL shards, a split by its name

What kind a file is, its first bytes say, not its name.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from orchestrator.recipe import RecipeError

Kind = Literal["jsonl", "parquet", "arrow"]
T = TypeVar("T")

SUFFIXES = (".parquet", ".arrow", ".jsonl", ".ndjson", ".json")
"""Of files in a folder that may hold rows."""
NO_ROWS = re.compile(r"(dataset_infos?|dataset_dict|state|package|config)\.json|(cache|tmp)-.*")
"""Files with such a suffix that hold none: what describes a data set, and what the `datasets` library computed from it."""
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})$")
_SIGNATURES: tuple[tuple[bytes, Kind], ...] = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),
)
_FOREIGN = (
    (b"version https://git-lfs", "is a Git LFS pointer and not the data", "fetch the data with `git lfs pull`"),
    (b"\x1f\x8b", "is compressed by gzip", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd", "unpack it"),
    (b"PK\x03\x04", "is a zip archive", "unpack it"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFiles:
    root: Path
    """What the recipe names."""
    kind: Kind
    files: tuple[Path, ...]
    """In the order of their rows."""

    def name(self, file: Path) -> str:
        """Relative to the folder that the recipe names."""
        return str(file.relative_to(self.root)) if file != self.root else file.name


def find_files(path: str, *, split: str | None, field: str) -> DataFiles:
    """RecipeError, on one line with `field` = the recipe's key of the path."""
    root = Path(path)
    where = f"{field} = {path}"
    if not root.is_dir():
        if split is not None:
            key = f"{field.rpartition('.')[0]}.split"
            raise RecipeError([f"{key} = {split}: {path} is no folder, and only these hold splits; set {key}=null"])
        return DataFiles(root=root, kind=_kind(root, root, where), files=(root,))
    files = _saved(root, split, field) or _shards(root, split, field)
    kinds = {file: _kind(file, root, where) for file in files}
    if len(set(kinds.values())) > 1:
        named = ", ".join(f"{file.relative_to(root)} ({kind})" for file, kind in kinds.items())
        raise RecipeError(
            [f"{where}: its files are of several kinds, {_cut(named)}; name one of them, or a folder of one kind"]
        )
    return DataFiles(root=root, kind=kinds[files[0]], files=tuple(files))


def called(file: Path, root: Path) -> str:
    """Where a line names the path already, nothing; else the file's name before what is said of it."""
    return "" if file == root else f"{file.name} "


def _kind(file: Path, root: Path, where: str) -> Kind:
    who = called(file, root)
    if (
        file.exists() and not file.is_file()
    ):  # a pipe would be read once, or waited for, and a run reads its prompts often
        raise RecipeError([f"{where}: {who}is a pipe or a device, which is read only once; write it to a file"])
    try:
        with file.open("rb") as stream:
            start = stream.read(32)
    except OSError as error:
        raise RecipeError([f"{where}: {who}cannot be read ({error.strerror}); give a file of prompts"]) from None
    for signature, problem, remedy in _FOREIGN:
        if start.startswith(signature):
            raise RecipeError([f"{where}: {who}{problem}; {remedy}"])
    for signature, kind in _SIGNATURES:
        if start.startswith(signature):
            return kind
    if file.suffix in (".parquet", ".arrow"):
        what = "Parquet" if file.suffix == ".parquet" else "Arrow"
        raise RecipeError([f"{where}: {who}is no {what} file, whatever its name says; download or write it again"])
    return "jsonl"


def _saved(root: Path, split: str | None, field: str) -> list[Path]:
    """The files of a folder that `save_to_disk` wrote; none if it is no such folder."""
    where = f"{field} = {root}"
    index, state = root / "dataset_dict.json", root / "state.json"
    if index.is_file():
        splits = _read(index, where, lambda content: [str(name) for name in content["splits"]])
        state = root / _chosen(split, splits, where, field) / "state.json"
    elif split is not None and state.is_file():
        _chosen(split, _read(state, where, lambda content: [str(content.get("_split") or split)]), where, field)
    if not state.is_file():
        return []
    if _read(state, where, lambda content: [content.get("_indices_data_files")])[0]:
        raise RecipeError([f"{where}: its rows were selected, but not written; save the result of flatten_indices()"])
    return _read(state, where, lambda content: [state.parent / entry["filename"] for entry in content["_data_files"]])


def _read(file: Path, where: str, take: Callable[[Any], list[T]]) -> list[T]:
    """What `take` makes of a file of JSON that a library wrote: anything at all, if it is damaged."""
    found: list[T] = []
    problem = "it names nothing"
    try:
        found = take(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        problem = _cut(f"{type(error).__name__}: {error}")
    if not found:
        raise RecipeError([f"{where}: {file.name} cannot be read ({problem}); save the data set again"])
    return found


def _shards(root: Path, split: str | None, field: str) -> list[Path]:
    """The files of one split, in one folder, whole."""
    where = f"{field} = {root}"
    found: dict[str, list[Path]] = {}
    for file in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
        if file.suffix in SUFFIXES and not NO_ROWS.fullmatch(file.name) and not hidden and not file.is_dir():
            found.setdefault(_split_of(file, root), []).append(file)
    if not found:
        raise RecipeError([f"{where}: holds no file of prompts ({', '.join(SUFFIXES)}); name the folder that does"])
    files = found[_chosen(split, sorted(found), where, field)]
    folders = sorted({str(file.parent.relative_to(root)) for file in files})
    if len(folders) > 1:
        raise RecipeError([f"{where}: has such files in {_cut(', '.join(folders))}; name one of these folders"])
    missing = _missing_shards(files)
    if missing:
        raise RecipeError([f"{where}: {missing} is missing; download it again, whole"])
    return files


def _split_of(file: Path, root: Path) -> str:
    """`train` of data/train-00000-of-00002.parquet, train.jsonl, gsm8k-train.arrow, train/0000.parquet, part.0.train.jsonl."""
    shard = _SHARD.match(file.stem)
    stem = shard["stem"] if shard else file.stem
    if not re.search("[A-Za-z]", stem) and file.parent != root:
        return file.parent.name
    known = re.findall(r"(?:^|[-_. ])(train|test|validation|valid|val|dev|eval)(?=$|[-_. ])", stem)
    return known[-1] if known else stem


def _chosen(split: str | None, splits: Sequence[str], where: str, field: str) -> str:
    key = f"{field.rpartition('.')[0]}.split"
    named = _cut(", ".join(splits))
    if split is not None and split not in splits:
        raise RecipeError([f"{key} = {split}: {where.partition(' = ')[2]} has {named}; set {key} to one of these"])
    if split is None and len(splits) != 1:
        preferred = "train" if "train" in splits else splits[0]
        raise RecipeError([f"{where}: holds several splits, {named}; set {key}={preferred}"])
    return split or splits[0]


def _missing_shards(files: Sequence[Path]) -> str:
    """The name of the first file that a run of shards lacks, or nothing."""
    names = {file.name for file in files}
    for file in files:
        shard = _SHARD.match(file.stem)
        if shard:
            count = shard["count"]
            for number in range(int(count)):
                name = f"{shard['stem']}-{number:0{len(count)}}-of-{count}{file.suffix}"
                if name not in names:
                    return name
    return ""


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 200 else f"{flat[:200]}…"
