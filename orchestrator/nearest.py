"""Which key a user may have meant."""

import types
import typing
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

from pydantic import BaseModel


def nearest_key(
    key: str, value: Any, model: type[BaseModel], *, member: type[BaseModel] | None = None, way_to_member: str = ""
) -> str:
    """The real key most like `key`: a section if it was given a mapping, else a single setting.

    The last name counts fully, the way to it half: `training.batch_groups` means pacing.batch_groups. Below
    `way_to_member` (entries of lists written `*`), only the keys of `member` are real: the kind that was chosen there.
    """
    way, _, name = key.rpartition(".")

    def likeness(real: str) -> float:
        real_way, _, real_name = real.rpartition(".")
        return SequenceMatcher(None, name, real_name).ratio() + SequenceMatcher(None, way, real_way).ratio() / 2

    wanted_section = isinstance(value, dict)
    keys = list(keys_of(model))
    if member is not None:
        keys = [(path, is_section) for path, is_section in keys if not path.startswith(f"{way_to_member}.")]
        keys += keys_of(member, f"{way_to_member}.")
    candidates = [path for path, is_section in keys if is_section == wanted_section]
    best = max(candidates, key=likeness)
    number = next((part for part in key.split(".") if part.isdigit()), "0")
    return best.replace("*", number)


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Every dotted key of a config class and whether it is a section; entries of lists are written `*`."""
    for name, field in model.model_fields.items():
        path = prefix + name
        inner = list(_models(field.annotation))
        yield path, bool(inner) or typing.get_origin(field.annotation) is dict
        for child, repeated in inner:
            yield from keys_of(child, f"{path}.*." if repeated else f"{path}.")


def _models(annotation: Any, repeated: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    """The config classes that a field may hold, and whether it holds a list of them."""
    origin = typing.get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, repeated
    elif origin in (typing.Union, types.UnionType, tuple, list, typing.Annotated):
        for argument in typing.get_args(annotation):
            yield from _models(argument, repeated or origin in (tuple, list))
