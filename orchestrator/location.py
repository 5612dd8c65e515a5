"""Where in a recipe an error of pydantic lies: as keys that a user has written, and in which kind of a tagged union."""

import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    parts: tuple[str | int, ...]
    """Keys and numbers of entries; pydantic's names of union members left out."""
    member: type[BaseModel] | None
    """The kind of the innermost tagged union on the way, None without one."""
    member_depth: int
    """How many of `parts` lead to it."""


def locate(annotation: Any, loc: Sequence[str | int]) -> Location:
    """Follow an error's `loc` through the types of a config class."""
    parts: list[str | int] = []
    member, depth = None, 0
    for part in loc:
        kinds = {tag: model for model in models(annotation) for tag in tags(model)}
        if isinstance(part, str) and len(models(annotation)) > 1 and part in kinds and not _is_list(annotation):
            annotation = member = kinds[part]
            depth = len(parts)
            continue
        parts.append(part)
        annotation = _inside(annotation, part)
    return Location(parts=tuple(parts), member=member, member_depth=depth)


def kinds_at(annotation: Any, parts: Sequence[str | int]) -> list[str]:
    """What `kind` may be at a place that holds a tagged union."""
    for part in parts:
        annotation = _inside(annotation, part)
    return [tag for model in models(annotation) for tag in tags(model)]


def models(annotation: Any) -> list[type[BaseModel]]:
    """The config classes that a field may hold, alone, optional, in a list, or as kinds of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in models(argument)]


def tags(model: type[BaseModel]) -> tuple[str, ...]:
    """What `kind` may be in this class."""
    kind = model.model_fields.get("kind")
    return typing.get_args(kind.annotation) if kind is not None else ()


def _is_list(annotation: Any) -> bool:
    return any(typing.get_origin(one) in (tuple, list) for one in _alternatives(annotation))


def _inside(annotation: Any, part: str | int) -> Any:
    """The type of a field or an entry; None where the types say no more."""
    for one in _alternatives(annotation):
        if isinstance(part, int) and typing.get_origin(one) in (tuple, list):
            return typing.get_args(one)[0]
        if isinstance(one, type) and issubclass(one, BaseModel) and part in one.model_fields:
            return one.model_fields[str(part)].annotation
    return None


def _alternatives(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _alternatives(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _alternatives(argument)
    else:
        yield annotation
