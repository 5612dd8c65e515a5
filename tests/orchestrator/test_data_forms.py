"""The same rows from every form of file and folder, which files are taken, and what is said where none can be."""

import json
import os
from pathlib import Path

import pytest
from data_sets import arrow_file, jsonl, parquet, saved, stream

from orchestrator.data.config import DataConfig
from orchestrator.data.files import find_files
from orchestrator.data.source import open_sources
from orchestrator.recipe import RecipeError

ROWS = [{"prompt": f"word {n}", "answer": str(n), "level": n} for n in range(5)]


def opened(path: Path, **data):
    (source,) = open_sources(DataConfig(path=str(path), **data))
    return source


def line_of(path: Path, **data) -> str:
    with pytest.raises(RecipeError) as caught:
        opened(path, **data)
    (line,) = caught.value.lines
    assert "\n" not in line
    assert "; " in line
    return line


def hub(folder: Path) -> Path:
    (folder / "README.md").parent.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / ".cache").mkdir(exist_ok=True)
    parquet(folder / ".cache" / "train-00000-of-00001.parquet", [{"x": 1}])
    parquet(folder / "data" / "train-00000-of-00002.parquet", ROWS[:3])
    parquet(folder / "data" / "train-00001-of-00002.parquet", ROWS[3:])
    return folder


def hub_jsonl(folder: Path) -> Path:
    jsonl(folder / "train-00000-of-00002.jsonl", ROWS[:2])
    jsonl(folder / "train-00001-of-00002.jsonl", ROWS[2:])
    return folder


def cached(folder: Path) -> Path:
    """As `load_dataset` leaves it in its cache, what it computed beside it."""
    stream(folder / "words-train.arrow", ROWS)
    stream(folder / "cache-0123.arrow", ROWS[:1])
    (folder / "dataset_info.json").write_text("{}")
    return folder


FORMS = {
    "jsonl": lambda root: jsonl(root / "words.jsonl", ROWS),
    "no suffix": lambda root: jsonl(root / "words", ROWS),
    "byte order mark, CRLF": lambda root: _written(
        root / "words.jsonl", b"\xef\xbb\xbf" + b"\r\n\r\n".join(json.dumps(row).encode() for row in ROWS)
    ),
    "parquet": lambda root: parquet(root / "words.parquet", ROWS),
    "parquet, small row groups": lambda root: parquet(root / "words.parquet", ROWS, row_group_size=2),
    "parquet, wrong suffix": lambda root: parquet(root / "words.bin", ROWS),
    "arrow stream": lambda root: stream(root / "words.arrow", ROWS),
    "arrow file": lambda root: arrow_file(root / "words.arrow", ROWS),
    "save_to_disk": lambda root: saved(root / "words", [ROWS[:2], ROWS[2:]]),
    "hub": lambda root: hub(root / "words"),
    "hub of jsonl": lambda root: hub_jsonl(root / "words"),
    "cache of load_dataset": lambda root: cached(root / "words"),
    "folder of a split": lambda root: parquet(root / "words" / "train" / "0000.parquet", ROWS).parents[1],
}


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(form, tmp_path):
    source = opened(FORMS[form](tmp_path))
    assert (len(source), source.name, source.bad_rows) == (5, "words", 0)
    assert [source.at(index).metadata for index in range(5)] == ROWS
    assert [source.at(index).text for index in range(5)] == [row["prompt"] for row in ROWS]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "arrow file", "hub", "save_to_disk"])
def test_a_row_is_named_by_file_and_number(form, tmp_path):
    where = opened(FORMS[form](tmp_path)).rows.where(3)
    assert (
        where
        == {
            "jsonl": "line 4",
            "parquet": "row 4",
            "arrow file": "row 4",
            "hub": "row 1 of data/train-00001-of-00002.parquet",
            "save_to_disk": "row 2 of data-00001-of-00002.arrow",
        }[form]
    )


def test_the_digest_names_files_and_content(tmp_path):
    one, same = opened(hub(tmp_path / "a" / "words")), opened(hub(tmp_path / "b" / "words"))
    assert one.digest == same.digest
    (tmp_path / "b" / "words" / "README.md").write_text("other")
    assert opened(tmp_path / "b" / "words").digest == one.digest
    parquet(tmp_path / "b" / "words" / "data" / "train-00001-of-00002.parquet", [*ROWS[3:4], ROWS[0]])
    assert opened(tmp_path / "b" / "words").digest != one.digest


# -- splits


def two_splits(folder: Path) -> Path:
    for split, rows in (("train", ROWS), ("test", ROWS[:1])):
        parquet(folder / "data" / f"{split}-00000-of-00001.parquet", rows)
    return folder


def saved_dict(folder: Path) -> Path:
    saved(folder / "train", [ROWS])
    saved(folder / "test", [ROWS[:1]], split="test")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return folder


@pytest.mark.parametrize("make", [two_splits, saved_dict])
def test_of_several_splits_one_must_be_named(make, tmp_path):
    folder = make(tmp_path / "words")
    assert len(opened(folder, split="train")) == 5
    assert len(opened(folder, split="test")) == 1
    assert f"data.path = {folder}: holds several splits" in line_of(folder)
    assert "; set data.split=train" in line_of(folder)
    assert line_of(folder, split="tset").startswith(f"data.split = tset: {folder} has ")


def test_a_split_of_a_file_or_of_another_saved_one(tmp_path):
    file = jsonl(tmp_path / "words.jsonl", ROWS)
    assert "is no folder, and only these hold splits; set data.split=null" in line_of(file, split="train")
    assert "has train; set data.split" in line_of(saved(tmp_path / "one", [ROWS]), split="test")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"),
        ("validation.parquet", "validation"),
        ("my_dev_set.parquet", "dev"),
        ("words-test.arrow", "test"),
        ("test/0000.parquet", "test"),
        ("trainer.parquet", "trainer"),
    ],
)
def test_the_split_of_a_file_is_in_its_name(tmp_path, name, split):
    write = stream if name.endswith("arrow") else parquet
    write(tmp_path / "words" / name, ROWS)
    assert find_files(str(tmp_path / "words"), split=split, field="data.path").files == (tmp_path / "words" / name,)


def test_a_folder_is_no_file_whatever_its_name(tmp_path):
    jsonl(tmp_path / "words" / "train.jsonl", ROWS)
    (tmp_path / "words" / "older.parquet").mkdir()
    assert len(opened(tmp_path / "words")) == len(ROWS)


# -- what can be none


def test_folders_that_are_not_whole_or_not_clear(tmp_path):
    (hub(tmp_path / "gap") / "data" / "train-00000-of-00002.parquet").unlink()
    assert "train-00000-of-00002.parquet is missing; download it again" in line_of(tmp_path / "gap")
    for config in ("main", "socratic"):
        parquet(tmp_path / "two" / config / "train-00000-of-00001.parquet", ROWS)
    assert "has such files in main, socratic; name one of these folders" in line_of(tmp_path / "two")
    jsonl(tmp_path / "mixed" / "train-00000-of-00002.jsonl", ROWS)
    parquet(tmp_path / "mixed" / "train-00001-of-00002.jsonl", ROWS)
    assert "of several kinds" in line_of(tmp_path / "mixed")
    (tmp_path / "none").mkdir()
    assert "holds no file of prompts" in line_of(tmp_path / "none")
    assert "cannot be read (No such file or directory)" in line_of(tmp_path / "gone")


def test_a_saved_folder_that_is_damaged_or_only_a_selection(tmp_path):
    folder = saved(tmp_path / "words", [ROWS])
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{"filename": "i.arrow"}]}))
    assert "flatten_indices()" in line_of(folder)
    for text in ("{", "[]", '{"_data_files": null}', '{"_data_files": [{"name": "x"}]}', '{"_data_files": ["x"]}'):
        (folder / "state.json").write_text(text)
        assert "state.json cannot be read" in line_of(folder)
    for text in ("[]", '{"splits": 5}', '{"splits": []}'):
        (folder / "dataset_dict.json").write_text(text)
        assert "dataset_dict.json cannot be read" in line_of(folder)
    for key in ("_split", "_indices_data_files"):
        (folder / "dataset_dict.json").unlink(missing_ok=True)
        (folder / "state.json").write_text(json.dumps(state | {key: None}))
        assert len(opened(folder, split="train")) == len(ROWS)


@pytest.mark.parametrize(
    ("start", "reason", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer", "git lfs pull"),
        (b"\x1f\x8b\x08rest", "compressed by gzip", "unpack it"),
        (b"\x28\xb5\x2f\xfdrest", "compressed by zstd", "unpack it"),
        (b"PK\x03\x04rest", "zip archive", "unpack it"),
        (b"", "no Parquet file", "download or write it again"),
        (b"PAR1 and no footer", "cannot be read", "download or write it again"),
    ],
)
def test_a_file_that_is_something_else_is_named_for_what_it_is(tmp_path, start, reason, remedy):
    file = _written(tmp_path / "words.parquet", start)
    line = line_of(file)
    assert line.startswith(f"data.path = {file}: ")
    explained, _, advice = line.partition("; ")
    assert reason in explained
    assert remedy in advice


@pytest.mark.parametrize("text", ['[{"prompt": "a"}]', '[\n {"prompt": "a"},\n {"prompt": "b"}\n]\n'])
def test_a_json_array_is_named_for_what_it_is(tmp_path, text):
    assert "one JSON array" in line_of(_written(tmp_path / "words.json", text.encode()))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "words.jsonl")
    assert "is a pipe or a device" in line_of(tmp_path / "words.jsonl")


def test_files_that_are_cut_short(tmp_path):
    for file in (parquet(tmp_path / "a.parquet", ROWS), arrow_file(tmp_path / "b.arrow", ROWS)):
        file.write_bytes(file.read_bytes()[:-20])
        assert "cannot be read" in line_of(file)
    file = stream(tmp_path / "c.arrow", ROWS)
    file.write_bytes(file.read_bytes()[:600])
    assert "cannot be read" in line_of(file)


@pytest.mark.parametrize("make", [parquet, stream])
def test_no_rows(tmp_path, make):
    import pyarrow as pa

    empty = pa.table({"prompt": pa.array([], pa.string())})
    assert "the file is empty; give one with rows" in line_of(make(tmp_path / "words.arrow", empty))
