"""Reads a recipe: YAML, overrides, paths, rules; every problem is one line `field = value: reason; remedy`.

A relative path is relative to where it is written: in a recipe to the recipe's folder, on the command line (and in
the default of run.root) to the current directory. A loaded recipe holds absolute paths only.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined

from orchestrator import yamlfile
from orchestrator.config import Recipe
from orchestrator.location import kinds_at, locate
from orchestrator.nearest import nearest_key
from orchestrator.rules.every import violations

PATH_KEYS = (
    "run.root", "model.path", "data.path", "data.sources.*.path", "sft.base", "sft.path", "sft.held_out_path",
    "reward.base", "reward.path", "reward.held_out_path", "reward.out",
    "scoring.reference.path", "scoring.rewards.*.path", "scoring.rewards.*.paths.*",
    "scoring.rewards.*.token_file", "scoring.rewards.*.ca_file", "training.algorithm.critic.path", "store.url",
    "evaluation.path", "evaluation.reference", "evaluation.judge.model",
    "store.scratch", "sinks.tensorboard.folder",
    "experience.password_file", "experience.ca_file", "experience.certificate_file", "experience.key_file",
)  # fmt: skip
"""Keys that name a file or a folder; * = every entry of a list. A value with :// in it is an address and stays as it is."""


_SECRET = re.compile(r"://[^/\s]*@")
"""User and password of an address, which is refused and must not be repeated."""
_END = "...\n"
"""YAML's own mark for the end of a document."""
_SHOWN_CHARACTERS = 300
"""Of a value that is refused."""


class RecipeError(ValueError):
    """What is wrong with a recipe, or with what it points at: `lines`, one problem each."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a file with `key.path=value` overrides; touches nothing. Raises RecipeError with all problems."""
    file = Path(path)
    raw = _read(file)
    problems = _resolve_paths(raw, folder=file.parent)
    problems += _apply(raw, overrides)
    recipe, more = _validate(raw)
    if recipe is None or problems:
        raise RecipeError([*problems, *more])
    return recipe


def load_sections(overrides: Sequence[str], *, names: Sequence[str]) -> dict[str, Any]:
    """These sections by their defaults and overrides alone, where there is no recipe. RecipeError with all problems."""
    raw: dict[str, Any] = {}
    problems = _apply(raw, overrides)
    problems += [_line(key, raw[key], "needs a recipe", "name one with --recipe") for key in raw if key not in names]
    sections, more = _validate_sections({name: raw.get(name, {}) for name in names}, names)
    if problems or more:
        raise RecipeError([*problems, *more])
    return sections


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML, all defaults written out: `load` gives an equal one back. Recipes hold no secrets."""
    return yamlfile.render(recipe.model_dump(mode="json")) + _END


def load_dumped(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """`load` what `dump` wrote, and all of it: a recipe that lost its last lines is valid, with defaults in their place."""
    if not _text(path).endswith(_END):
        raise RecipeError(
            [f"{path}: is cut short; restore it from a copy (if nothing is missing, add a last line of three dots)"]
        )
    return load(path, overrides)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError([f"{file}: cannot be read ({error.strerror}); name a recipe, a YAML file"]) from None
    except UnicodeDecodeError as error:
        raise RecipeError([f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8"]) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        raw = yamlfile.parse(_text(file))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError([f"{file}{line}: not valid YAML: {_yaml_problem(error)}; correct this line"]) from None
    if not isinstance(raw, dict):
        raise RecipeError([f"{file}: holds no sections; write at least run, model, data and scoring"])
    return raw


def _yaml_problem(error: yaml.YAMLError) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())


def _apply(raw: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Set each `key.path=value` in the recipe; a line for each that cannot be."""
    problems = []
    for text in overrides:
        key, equals, value = text.partition("=")
        try:
            if not equals or not all(key.split(".")):
                raise ValueError("not an override; write key.path=value")
            resolved, unfit = _resolved(key, yamlfile.parse(value), folder=Path.cwd())
            if unfit:
                raise ValueError(unfit[0][2])
            _override(raw, key.split("."), resolved)
        except yaml.YAMLError as error:
            problems.append(f"{key} = {value}: not valid YAML ({_yaml_problem(error)}); quote the value")
        except ValueError as error:
            problems.append(f"{text}: {error}")
    return problems


def _override(tree: dict[str, Any], parts: Sequence[str], value: Any) -> None:
    """Set one leaf; a missing or null section on the way is created."""
    node: Any = tree
    for depth, part in enumerate(parts):
        key: Any = part
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                where = ".".join(parts[:depth])
                raise ValueError(f"{where} has entries 0 to {len(node) - 1} and no {part}; name one of these")
            key = int(part)
        if depth == len(parts) - 1:
            node[key] = value
            return
        child = node[key] if isinstance(node, list) else node.get(key)
        if not isinstance(child, dict | list):
            child = node[key] = {}
        node = child


def _resolve_paths(raw: dict[str, Any], *, folder: Path) -> list[str]:
    """In place; a line for each path that can be none."""
    problems = []
    for key, value in raw.items():
        raw[key], found = _resolved(key, value, folder=folder)
        for path_key, path, problem in found:
            reason, _, remedy = problem.partition("; ")
            problems.append(_line(path_key, path, reason, remedy))
    return problems


def _resolved(key: str, value: Any, *, folder: Path) -> tuple[Any, list[tuple[str, str, str]]]:
    """A value with its paths, at and below `key`, made absolute; and (key, path, problem) of each that can be none."""
    depth = key.count(".") + 1
    below = [pattern for pattern in PATH_KEYS if _matches(key, ".".join(pattern.split(".")[:depth]))]
    if isinstance(value, dict | list) and below:
        children = value.items() if isinstance(value, dict) else enumerate(value)
        made = {name: _resolved(f"{key}.{name}", child, folder=folder) for name, child in children}
        problems = [problem for _, found in made.values() for problem in found]
        inner = {name: child for name, (child, _) in made.items()}
        return (inner if isinstance(value, dict) else list(inner.values())), problems
    is_path = any(pattern.count(".") + 1 == depth for pattern in below)
    if not is_path or not isinstance(value, str) or not value or "://" in value:
        return value, []
    try:
        path = (folder / Path(value).expanduser()).resolve()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a ~user that is none, a null byte
        reason = (isinstance(error, OSError) and error.strerror) or str(error).rstrip(".")
        return value, [(key, value, f"cannot be a path ({reason}); name another")]
    return str(path), []


def _matches(key: str, pattern: str) -> bool:
    """`*` stands for the number of an entry."""
    parts, wanted = key.split("."), pattern.split(".")
    pairs = zip(parts, wanted, strict=False)
    return len(parts) == len(wanted) and all(part == one or (one == "*" and part.isdecimal()) for part, one in pairs)


def _validate(raw: Mapping[str, Any]) -> tuple[Recipe | None, list[str]]:
    """The recipe, or all that is wrong with it: section by section, then the rules between sections that are valid."""
    lines = [_unknown(key, raw[key]) for key in raw if key not in Recipe.model_fields]
    sections, wrong = _validate_sections(raw, Recipe.model_fields)
    lines += wrong
    if "run" in sections and "root" not in (raw.get("run") or {}):
        sections["run"] = sections["run"].model_copy(update={"root": str(Path(sections["run"].root).resolve())})
    lines += violations(sections)
    return (None, lines) if lines else (Recipe(**sections), [])


def _validate_sections(raw: Mapping[str, Any], names: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """The sections that are valid by themselves, and what is wrong with the others."""
    sections: dict[str, Any] = {}
    lines: list[str] = []
    for name in names:
        field = Recipe.model_fields[name]
        given = raw.get(name, {} if field.default is PydanticUndefined else field.default)
        if isinstance(given, BaseModel):
            sections[name] = given
            continue
        wrong = {
            f"{name}{path}": _line(f"{name}{path}", v, "not a finite number", "give one")
            for path, v in _infinite(given)
        }
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, field.annotation))
            sections[name] = adapter.validate_json(json.dumps(given, default=str), strict=True)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                if not _follows_from_another(problem):
                    path, line = _explain(name, field.annotation, problem)
                    wrong.setdefault(path, line)
        if wrong:
            sections.pop(name, None)
            lines += wrong.values()
    return sections, lines


def _infinite(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from _infinite(child, f"{path}.{name}")


def _line(field: str, value: Any, reason: str, remedy: str) -> str:
    plain = isinstance(value, str) and value.isprintable() and value
    shown = value if plain else json.dumps(value, default=str)
    shown = _SECRET.sub("://…@", shown)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"{shown[:_SHOWN_CHARACTERS]}…"
    named = field if field.isprintable() else json.dumps(field)
    return f"{named} = {shown}: {reason}; {remedy}"


def _unknown(key: str, value: Any, **kind: Any) -> str:
    return _line(key, value, "there is no such key", f"the nearest is {nearest_key(key, value, Recipe, **kind)}")


_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a section with keys of its own",
    "model_attributes_type": "a section with keys of its own",
    "union_tag_not_found": "a section with keys of its own",
}
_TAG_PROBLEMS = ("union_tag_invalid", "union_tag_not_found")
"""Of a union whose `kind` names no member."""
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _follows_from_another(problem: ErrorDetails) -> bool:
    """A list that is too short only because an entry of it is wrong."""
    return problem["type"] == "too_short" and len(problem["input"]) > problem["ctx"]["actual_length"]


def _explain(section: str, annotation: Any, problem: ErrorDetails) -> tuple[str, str]:
    """The key that is wrong, and the line about it."""
    where = locate(annotation, problem["loc"])
    field = ".".join(map(str, (section, *where.parts)))
    if problem["type"] == "extra_forbidden":
        way = ".".join("*" if isinstance(part, int) else part for part in (section, *where.parts[: where.member_depth]))
        return field, _unknown(field, problem["input"], member=where.member, way_to_member=way)
    if problem["type"] in _TAG_PROBLEMS and isinstance(problem["input"], dict):
        field = f"{field}.kind"
        return field, _wrong_kind(field, problem["input"], kinds_at(annotation, where.parts))
    return field, _explain_value(field, problem)


def _wrong_kind(field: str, given: Mapping[str, Any], kinds: Sequence[str]) -> str:
    choices = f"{', '.join(map(repr, kinds[:-1]))} or {kinds[-1]!r}"
    if "kind" not in given:
        return f"{field} = (missing): it says which keys stand beside it; set {field} to {choices}"
    return _line(field, given["kind"], "not one of the choices", f"set {field} to {choices}")


def _explain_value(field: str, problem: ErrorDetails) -> str:
    value, kind = problem["input"], problem["type"]
    context: Mapping[str, Any] = problem.get("ctx", {})
    if kind == "missing":
        return f"{field} = (missing): it has no default; set {field}"
    if kind == "value_error":
        reason, _, remedy = str(context["error"]).partition("; ")
        return _line(field, value, reason, remedy or f"correct {field}")
    if kind == "literal_error":
        return _line(field, value, "not one of the choices", f"set {field} to {context['expected']}")
    if kind == "too_short":
        return _line(field, value, f"at least {context['min_length']} needed", f"add an entry to {field}")
    if kind in _BOUNDS:
        word, limit = _BOUNDS[kind]
        bound = context[limit] if isinstance(context[limit], int) else f"{context[limit]:g}"
        return _line(field, value, "out of range", f"set {field} to {word} {bound}")
    if kind in _TYPES:
        quote = " (in quotes, if YAML reads it as something else)" if kind == "string_type" else ""
        return _line(field, value, f"must be {_TYPES[kind]}", f"set {field} to {_TYPES[kind]}{quote}")
    return _line(field, value, problem["msg"], f"correct {field}")
