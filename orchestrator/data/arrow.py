"""Rows of Parquet and Arrow files, as columns: Arrow files stay on disk, mapped; of Parquet the used columns are in memory.

pyarrow is imported where files are read: it takes a third of a second.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.data.config import SourceConfig
from orchestrator.data.files import DataFiles, called
from orchestrator.data.rows import BadRow, located, missing_column, required_columns
from orchestrator.recipe import RecipeError


class ArrowRows:
    """Record batches of the used columns, one after the other."""

    left_out: Mapping[str, str]

    def __init__(self, data: DataFiles, config: SourceConfig, *, key: str) -> None:
        """key: the recipe's section that holds `config`. RecipeError: a file cannot be read, or its columns do not do."""
        self._data, self._config, self._key = data, config, key
        self._where = f"{key}.path = {data.root}"
        schemas = [self._schema(file) for file in data.files]
        self._columns = self._used(schemas)
        self.left_out = {
            field.name: str(field.type) for field in schemas[0] if config.metadata is None and not _kind(field.type)
        }
        self._batches: list[Any] = []
        self._files: list[int] = []
        """Of each batch."""
        for number, file in enumerate(data.files):
            for batch in self._read(file):
                if batch.num_rows:
                    self._batches.append(batch)
                    self._files.append(number)
        self._starts = [0]
        for batch in self._batches:
            self._starts.append(self._starts[-1] + batch.num_rows)
        self._inexact = {field.name for field in schemas[0] if "number" in _kind(field.type)}

    def __len__(self) -> int:
        return self._starts[-1]

    def row(self, index: int) -> Mapping[str, Any]:
        number, within = self._locate(index)
        batch = self._batches[number]
        row = {name: batch.column(name)[within].as_py() for name in self._columns}
        return {name: _finite(value) if name in self._inexact else value for name, value in row.items()}

    def where(self, index: int) -> str:
        number, _ = self._locate(index)
        file = self._files[number]
        first = self._starts[self._files.index(file)]
        return located("row", index - first + 1, self._data, file)

    def bad(self) -> Iterator[BadRow]:
        texts = [name for name in self._columns if "text" in _kind(self._batches[0].schema.field(name).type)]
        for number, batch in enumerate(self._batches):
            start = self._starts[number]
            unreadable = {row for name in texts for row in _not_utf8(batch.column(name))}
            for row in sorted(unreadable):
                yield self._bad(start + row, "is not UTF-8")
            if self._config.messages_column is None:
                column = self._config.prompt_column
                rows, problem = _nulls(batch.column(column)), f"holds null in {column}, not text"
            else:
                column = self._config.messages_column
                rows, problem = _no_turns(batch.column(column)), f"holds no list of {{role, content}} in {column}"
            for row in rows:
                if row not in unreadable:
                    yield self._bad(start + row, problem)

    def _bad(self, index: int, problem: str) -> BadRow:
        return BadRow(index=index, line=f"{self._where}: {self.where(index)} {problem}; correct the row")

    def _locate(self, index: int) -> tuple[int, int]:
        number = bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]

    # -- columns
    def _used(self, schemas: Sequence[Any]) -> list[str]:
        """Names of the columns that every file has and that are read, in the first file's order."""
        for file, schema in zip(self._data.files, schemas, strict=True):
            self._refuse_unfit(file, schema)
        first = schemas[0]
        required = set(required_columns(self._config, key=self._key).values())
        if self._config.metadata is None:
            used = [field.name for field in first if field.name in required or _kind(field.type)]
        else:
            used = [field.name for field in first if field.name in required]
        for file, schema in zip(self._data.files[1:], schemas[1:], strict=True):
            self._refuse_unlike(file, schema, first, used)
        return used

    def _refuse_unfit(self, file: Path, schema: Any) -> None:
        double = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if double:
            problem = f"has more than one column {double[0]}"
            raise RecipeError([f"{self._where}: {called(file, self._data.root)}{problem}; give each a name of its own"])
        lines = []
        for key, column in required_columns(self._config, key=self._key).items():
            at = f"{key} = {column}: {file}"
            if column not in schema.names:
                lines.append(f"{at} {missing_column(key, column, schema.names)}")
                continue
            problem = self._type_problem(key, schema.field(column).type, column)
            if problem:
                lines.append(f"{at} {problem}")
        if lines:
            raise RecipeError(lines)

    def _type_problem(self, key: str, kind: Any, column: str) -> str:
        is_turns = _is_turns(kind)
        if key == f"{self._key}.prompt_column" and _kind(kind) not in ("text", "null"):
            remedy = f"set {self._key}.messages_column={column}" if is_turns else "name a column of text"
            return f"holds {kind} there, not text; {remedy}"
        if key == f"{self._key}.messages_column" and not is_turns:
            return f"holds {kind} there, not lists of {{role, content}}, both text; name a column of chat turns"
        if not _kind(kind):
            return f"holds {kind} there, which JSON cannot carry; store it as text or numbers, or leave it out"
        return ""

    def _refuse_unlike(self, file: Path, schema: Any, first: Any, used: Sequence[str]) -> None:
        """Shards of one data set have one schema; only null, the type of a column without values, is like any other."""
        one = self._data.files[0].name
        for name in used:
            if name not in schema.names:
                problem = f"{file.name} has no column {name}, and {one} has"
            else:
                kinds = [_kind(schema.field(name).type), _kind(first.field(name).type)]
                if "null" in kinds or kinds[0] == kinds[1]:
                    continue
                types = schema.field(name).type, first.field(name).type
                problem = f"column {name} holds {types[0]} in {file.name} and {types[1]} in {one}"
            raise RecipeError([f"{self._where}: {problem}; write all its files with one schema"])

    # -- files
    def _schema(self, file: Path) -> Any:
        import pyarrow.parquet as pq

        def schema() -> Any:
            if self._data.kind == "parquet":
                return pq.read_schema(file, memory_map=True)
            return _open_ipc(file).schema

        return self._readable(file, schema)

    def _read(self, file: Path) -> list[Any]:
        import pyarrow.parquet as pq

        def read() -> list[Any]:
            if self._data.kind == "parquet":
                return list(pq.read_table(file, columns=self._columns, memory_map=True, partitioning=None).to_batches())
            return [batch.select(self._columns) for batch in _ipc_batches(_open_ipc(file))]

        return self._readable(file, read)

    def _readable(self, file: Path, read: Any) -> Any:
        import pyarrow as pa

        try:
            return read()
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise RecipeError(
                [f"{self._where}: {called(file, self._data.root)}cannot be read ({reason}); download or write it again"]
            ) from None


def _open_ipc(file: Path) -> Any:
    import pyarrow as pa

    source = pa.memory_map(str(file))
    with file.open("rb") as stream:
        whole = stream.read(6) == b"ARROW1"
    return pa.ipc.open_file(source) if whole else pa.ipc.open_stream(source)


def _ipc_batches(reader: Any) -> Iterator[Any]:
    if hasattr(reader, "num_record_batches"):
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from reader


def _kind(kind: Any) -> str:
    """Of a column's type, what JSON calls it: shards must agree in it. Empty: JSON cannot carry it."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _kind(kind.value_type)
    if types.is_struct(kind):
        inner = {field.name: _kind(field.type) for field in kind}
        fields = ", ".join(f"{name}: {value}" for name, value in inner.items())
        return f"{{{fields}}}" if len(inner) == kind.num_fields and all(inner.values()) else ""
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inside = _kind(kind.value_type)
        return f"[{inside}]" if inside else ""
    named = {
        "null": types.is_null,
        "true or false": types.is_boolean,
        "integer": types.is_integer,
        "number": types.is_floating,
        "text": lambda one: types.is_string(one) or types.is_large_string(one) or types.is_string_view(one),
    }
    return next((name for name, holds in named.items() if holds(kind)), "")


def _is_turns(kind: Any) -> bool:
    from pyarrow import types

    if not (types.is_list(kind) or types.is_large_list(kind)) or not types.is_struct(kind.value_type):
        return False
    fields = {field.name: _kind(field.type) for field in kind.value_type}
    return fields.get("role") == fields.get("content") == "text"


def _nulls(column: Any) -> list[int]:
    import pyarrow.compute as pc

    rows: list[int] = pc.indices_nonzero(pc.is_null(column)).to_pylist() if column.null_count else []
    return rows


def _no_turns(column: Any) -> list[int]:
    """Rows without turns, or with one that lacks its role or content."""
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(column), 0)
    rows = set(pc.indices_nonzero(pc.equal(lengths, 0)).to_pylist())
    turns = pc.list_flatten(column)
    lacks = pc.or_(pc.is_null(pc.struct_field(turns, "role")), pc.is_null(pc.struct_field(turns, "content")))
    rows.update(pc.list_parent_indices(column).filter(lacks).to_pylist())
    return sorted(rows)


def _not_utf8(column: Any) -> list[int]:
    import pyarrow as pa

    def valid(part: Any) -> bool:
        try:
            part.validate(full=True)
        except pa.ArrowInvalid:
            return False
        return True

    def within(start: int, stop: int) -> Iterator[int]:
        if valid(column.slice(start, stop - start)):
            return
        if stop - start == 1:
            yield start
            return
        middle = (start + stop) // 2
        yield from within(start, middle)
        yield from within(middle, stop)

    return list(within(0, len(column)))


def _finite(value: Any) -> Any:
    """What is no number becomes null: so pandas writes a missing one, and JSON has no other word for it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return value
