"""What is wrong inside files: named by file and number, tolerated up to the recipe's budget, and always the same rows."""

import datetime
import decimal

import msgspec
import pyarrow as pa
import pytest
from data_sets import jsonl, parquet, stream

from orchestrator.data.config import DataConfig
from orchestrator.data.rows import MAX_PROBLEMS
from orchestrator.data.source import open_sources
from orchestrator.recipe import RecipeError


def opened(path, **data):
    (source,) = open_sources(DataConfig(path=str(path), **data))
    return source


def lines_of(path, **data):
    with pytest.raises(RecipeError) as caught:
        opened(path, **data)
    assert not any("\n" in line for line in caught.value.lines)
    return list(caught.value.lines)


def invalid_utf8(*texts: bytes) -> pa.Array:
    return pa.array(texts, pa.binary()).view(pa.string())


BAD_ROWS = ["{", {"prompt": "a"}, {"prompt": None}, {"prompt": "b"}, {"prompt": 1}]


# -- the budget


def test_bad_rows_are_left_out_up_to_the_budget_and_prompt_ids_keep_the_file_s_numbers(tmp_path):
    source = opened(jsonl(tmp_path / "d.jsonl", BAD_ROWS), max_bad_rows=3)
    assert (len(source), source.bad_rows, source.good.tolist()) == (2, 3, [1, 3])
    assert [source.at(int(index)).text for index in source.good] == ["a", "b"]
    assert "line 1 is not JSON" in source.bad[0]


def test_more_than_the_budget_are_all_named(tmp_path):
    lines = lines_of(jsonl(tmp_path / "d.jsonl", BAD_ROWS), max_bad_rows=2)
    assert len(lines) == 4
    assert lines[-1] == "data.max_bad_rows = 2: 3 rows are bad; correct them, or set data.max_bad_rows=3"
    many = lines_of(jsonl(tmp_path / "e.jsonl", ["{"] * 30), max_bad_rows=2)
    assert len(many) == MAX_PROBLEMS + 2
    assert many[-2] == "… and 10 more lines like these"


def test_the_budget_is_of_all_data_sets_together_and_leaves_some_row_of_each(tmp_path):
    paths = [jsonl(tmp_path / f"{name}.jsonl", ["{", {"prompt": "a"}]) for name in "de"]

    def mixed(budget):
        sources = [{"path": str(path)} for path in paths]
        return open_sources(DataConfig.model_validate({"sources": sources, "max_bad_rows": budget}))

    assert [source.bad_rows for source in mixed(2)] == [1, 1]
    with pytest.raises(RecipeError, match="2 rows are bad"):
        mixed(1)
    assert "all its rows are bad" in lines_of(jsonl(tmp_path / "f.jsonl", ["{"]), max_bad_rows=1)[0]


# -- JSON lines


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a", "prompt": "b"}', "has the name prompt twice"),
        ('{"prompt": "a", "x": {"y": 1, "y": 2}}', "has the name y twice"),
        ('{"prompt": "a", "x": Infinity}', "holds Infinity, which is not JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"prompt": [{"role": "user", "content": "a"}]}', "not text; set data.messages_column=prompt"),
    ],
)
def test_a_line_that_json_or_the_recipe_does_not_allow(tmp_path, line, reason):
    (found,) = lines_of(jsonl(tmp_path / "d.jsonl", [{"prompt": "ok"}, line]))
    assert "line 2 " in found
    assert reason in found


@pytest.mark.parametrize("text", ["", '{"prompt": "a"}\n{"prompt": "b', '{"prompt": "a"}\n[["prompt",1234]]\n'])
def test_a_file_that_changes_while_it_is_in_use_is_an_error_and_not_the_end_of_the_process(tmp_path, text):
    file = jsonl(tmp_path / "d.jsonl", [{"prompt": "a"}, {"prompt": "bcdef"}])
    source = opened(file)
    file.write_text(text)
    with pytest.raises(OSError, match=r"d\.jsonl.*; restore"):
        source.at(1)


# -- columns of Parquet and Arrow


@pytest.mark.parametrize("write", [parquet, stream])
def test_nulls_and_invalid_text_are_bad_rows(tmp_path, write):
    table = pa.table(
        {"prompt": invalid_utf8(b"a", b"\xff", b"c", b"d"), "answer": invalid_utf8(b"1", b"2", b"3", b"\xfe")}
    )
    table = table.append_column("note", pa.array([None, "x", None, "y"]))
    assert [line.partition("; ")[0].rpartition(": ")[2] for line in lines_of(write(tmp_path / "d", table))] == [
        "row 2 is not UTF-8",
        "row 4 is not UTF-8",
    ]
    source = opened(write(tmp_path / "e", [{"prompt": "a"}, {"prompt": None}, {"prompt": "c"}]), max_bad_rows=1)
    assert source.good.tolist() == [0, 2]
    assert "row 2 holds null in prompt, not text" in source.bad[0]


def test_what_json_cannot_carry_is_left_out_and_named(tmp_path):
    rows = {
        "prompt": ["a", "b"],
        "when": [datetime.datetime(2026, 1, 1), None],
        "image": [b"\x00", b"\x01"],
        "price": [decimal.Decimal("1.5"), None],
        "tags": [["x"], None],
        "facts": [{"n": 1, "ok": True}, None],
        "shots": [[{"image": b"\x00"}], []],
    }
    source = opened(parquet(tmp_path / "d.parquet", pa.table(rows)))
    assert source.at(0).metadata == {"prompt": "a", "tags": ["x"], "facts": {"n": 1, "ok": True}}
    assert source.at(1).metadata == {"prompt": "b", "tags": None, "facts": None}
    assert list(source.rows.left_out) == ["when", "image", "price", "shots"]
    assert source.rows.left_out["when"].startswith("timestamp")
    (line,) = lines_of(tmp_path / "d.parquet", metadata={"time": "when"})
    assert line.startswith("data.metadata.time = when: ")
    assert "which JSON cannot carry; store it as text" in line
    msgspec.msgpack.encode(source.at(0).metadata)


def test_what_is_no_number_becomes_null(tmp_path):
    rows = [{"prompt": "a", "x": float("nan"), "y": [1.5, float("inf")]}, {"prompt": "b", "x": 2.5, "y": []}]
    source = opened(parquet(tmp_path / "d.parquet", rows))
    assert source.at(0).metadata == {"prompt": "a", "x": None, "y": [1.5, None]}
    assert source.at(1).metadata == {"prompt": "b", "x": 2.5, "y": []}


def test_text_in_all_of_arrow_s_ways(tmp_path):
    texts = ["a", "b", "a"]
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        table = pa.table({"prompt": pa.array(texts, pa.string()).cast(kind)})
        for write in (parquet, stream):
            source = opened(write(tmp_path / "d", table))
            assert [source.at(index).text for index in range(3)] == texts


def test_a_column_that_is_missing_double_or_of_another_type(tmp_path):
    file = parquet(tmp_path / "d.parquet", [{"prompts": "a", "id": 1}])
    (line,) = lines_of(file)
    assert line == (
        f"data.prompt_column = prompt: {file} has no such column, only prompts, id; "
        "set data.prompt_column=prompts or add the column"
    )
    (line,) = lines_of(file, prompt_column="id")
    assert line == f"data.prompt_column = id: {file} holds int64 there, not text; name a column of text"
    (line,) = lines_of(file, prompt_column="prompts", metadata={"answer": "ids"})
    assert line.startswith("data.metadata.answer = ids: ")
    double = stream(tmp_path / "e.arrow", pa.table([["a"], ["b"]], names=["prompt", "prompt"]))
    assert "has more than one column prompt" in lines_of(double)[0]
    turns = parquet(tmp_path / "f.parquet", [{"prompt": [{"role": "user", "content": "a"}]}])
    assert "; set data.messages_column=prompt" in lines_of(turns)[0]


def test_shards_have_one_schema_but_null_is_like_any_type(tmp_path):
    def shards(one, other):
        for number, rows in enumerate((one, other)):
            parquet(tmp_path / "d" / f"train-{number:05}-of-00002.parquet", rows)
        return tmp_path / "d"

    alike = shards([{"prompt": "a", "x": None}], [{"x": "b", "prompt": "c", "more": 1}])
    assert opened(alike).at(1).metadata == {"prompt": "c", "x": "b"}
    (line,) = lines_of(shards([{"prompt": "a", "x": 1}], [{"prompt": "b", "x": "1"}]))
    assert "column x holds string in train-00001-of-00002.parquet and int64 in train-00000" in line
    (line,) = lines_of(shards([{"prompt": "a", "x": 1}], [{"prompt": "b"}]))
    assert "train-00001-of-00002.parquet has no column x" in line


# -- chat turns


TURNS = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]


@pytest.mark.parametrize("write", [jsonl, parquet, stream])
def test_turns_end_before_the_assistant_s_last(tmp_path, write):
    answered = [*TURNS, {"role": "assistant", "content": "hello"}]
    source = opened(write(tmp_path / "d", [{"messages": TURNS}, {"messages": answered}]), messages_column="messages")
    assert [list(source.at(index).turns) for index in range(2)] == [TURNS, TURNS]
    assert source.at(1).metadata == {"messages": answered, "prompt": "hi"}


@pytest.mark.parametrize("write", [jsonl, parquet, stream])
def test_turns_that_are_none_are_bad_rows(tmp_path, write):
    rows = [{"messages": turns} for turns in (TURNS, [], None, [{"role": "user", "content": None}], [*TURNS])]
    source = opened(write(tmp_path / "d", rows), messages_column="messages", max_bad_rows=3)
    assert source.good.tolist() == [0, 4]
    assert all("{role, content}" in line for line in source.bad)


def test_a_column_of_other_turns_is_refused(tmp_path):
    file = parquet(tmp_path / "d.parquet", [{"conversations": [{"from": "human", "value": "a"}]}])
    assert "not lists of {role, content}" in lines_of(file, messages_column="conversations")[0]


# -- metadata


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_metadata_are_chosen_and_renamed(tmp_path, write):
    file = write(tmp_path / "d", [{"question": "a", "solution": "1", "id": 7}])
    source = opened(file, prompt_column="question", metadata={"answer": "solution"})
    assert source.at(0).metadata == {"answer": "1", "prompt": "a"}
    assert opened(file, prompt_column="question", metadata={}).at(0).metadata == {"prompt": "a"}
    assert lines_of(file, prompt_column="question", metadata={"answer": "solutions"})[0].startswith(
        "data.metadata.answer = solutions: "
    )
