"""Writes the generated part of docs/recipes.md: every key, what a resume may change, the reward functions that ship.

    python docs/generate_recipes.py

What stands above the marker in the page is written by hand and kept.
"""

import ast
import inspect
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from orchestrator.config import RESUMABLE_KEYS, Recipe
from orchestrator.location import models, tags
from orchestrator.recipe import PATH_KEYS
from score_cluster import functions
from score_cluster.rewards import GIVEN

PAGE = Path(__file__).with_name("recipes.md")
MARKER = "<!-- Below: python docs/generate_recipes.py -->\n"
TYPES = {int: "integer", float: "number", str: "text", bool: "true, false"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def page() -> str:
    """The whole page: the hand-written part as it is, then the generated one."""
    by_hand, marker, _ = PAGE.read_text().partition(MARKER)
    assert marker, f"{PAGE} has lost its marker"
    return by_hand + marker + "\n" + "\n".join([*_sections(), *_resume(), *_functions()])


def _sections() -> Iterator[str]:
    yield "## Every key\n"
    yield (
        "Keys without a default must be given. Paths are resolved for " + ", ".join(f"`{k}`" for k in PATH_KEYS) + ".\n"
    )
    notes = _meanings(Recipe)
    for name, field in Recipe.model_fields.items():
        yield from _section(name, field, note=notes.get(name, ""))


def _section(path: str, field: FieldInfo, *, note: str) -> Iterator[str]:
    """Of each kind that a section may be: a table of its plain keys, then the sections within it."""
    kinds = models(field.annotation)
    for model in kinds:
        title = f"{path}, kind: {tags(model)[0]}" if len(kinds) > 1 else path
        yield from _kind(title, path, model, note=note if model is kinds[0] else "")


def _kind(title: str, path: str, model: type[BaseModel], *, note: str) -> Iterator[str]:
    inner = {name: one for name, one in model.model_fields.items() if models(one.annotation)}
    meanings = _meanings(model)
    yield f"### {title}\n"
    about = " ".join(filter(None, (_one_line(model.__doc__ or ""), _one_line(note))))
    if about:
        yield f"{about}\n"
    yield "| key | default | values | meaning |\n|---|---|---|---|"
    for name, one in model.model_fields.items():
        if name not in inner:
            yield f"| `{name}` | {_default(one)} | {_values(one)} | {_cell(meanings[name])} |"
    yield ""
    for name, one in inner.items():
        listed = typing.get_origin(one.annotation) is tuple
        yield from _section(f"{path}.{name}.0" if listed else f"{path}.{name}", one, note=meanings.get(name, ""))


def _resume() -> Iterator[str]:
    yield "## What a resume may change\n"
    yield "A section stands for all its keys. Any other change is refused, with the value that the run was started with.\n"
    yield "| key | because |\n|---|---|"
    yield from (f"| `{key}` | {_cell(reason)} |" for key, reason in RESUMABLE_KEYS.items())
    yield ""


def _functions() -> Iterator[str]:
    yield "## Reward functions that ship\n"
    yield "In `score_cluster.functions`.\n"
    yield "| function | arguments | gives |\n|---|---|---|"
    for name, function in vars(functions).items():
        if inspect.isfunction(function) and function.__module__ == functions.__name__ and not name.startswith("_"):
            own = [p for p in inspect.signature(function).parameters.values() if p.name not in GIVEN]
            required = [f"`{p.name}`" if p.default is p.empty else f"`{p.name}: {_plain(p.default)}`" for p in own]
            yield f"| `{name}` | {', '.join(required)} | {_cell(inspect.getdoc(function) or '')} |"
    yield ""


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """The string under each field, also those of the class it extends; KeyError where a field has none."""
    inherited = [base for base in model.__bases__ if issubclass(base, BaseModel) and base is not BaseModel]
    return {name: text for base in inherited for name, text in _meanings(base).items()} | _own_meanings(model)


def _own_meanings(model: type[BaseModel]) -> dict[str, str]:
    body = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: text.value.value
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _default(field: FieldInfo) -> str:
    return "" if field.default is PydanticUndefined else f"`{_plain(field.default)}`"


def _values(field: FieldInfo) -> str:
    """Type, bounds, and whether null is allowed."""
    limits = [(limit, key) for limit in field.metadata for key in BOUNDS if hasattr(limit, key)]
    bounds = " and ".join(f"{BOUNDS[key]} {getattr(limit, key):g}" for limit, key in limits)
    kinds = [one for one in _alternatives(field.annotation) if one is not type(None)]
    nullable = ["or `null`"] if type(None) in _alternatives(field.annotation) else []
    return " ".join(filter(None, [", ".join(map(_type, kinds)), bounds, *nullable]))


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    united = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return typing.get_args(annotation) if united else (annotation,)


def _type(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        return f"list of {' or '.join(map(_type, _alternatives(typing.get_args(annotation)[0])))}"
    return TYPES.get(annotation, "mapping")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _cell(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(page())
