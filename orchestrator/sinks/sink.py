"""What a sink is, and the figures that it gets."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

_NOT_IN_NAMES = re.compile(r"[^\w./ -]")
"""MLflow takes no other characters in a name; the others take these as well."""
_NO_FIGURES = ("step",)
"""Is the axis."""


class Sink(Protocol):
    """Somebody else's place for figures, used by one thread; whatever it raises is counted, and ends no run.

    write(step, figures)   figures by name, as they stand after this step; steps may come again after a restart
    event(step, text)      what happened: a life's begin and end, a restart
    close(state)           completed, stopped or failed; nothing comes after
    """

    def write(self, step: int, figures: Mapping[str, float]) -> None: ...

    def event(self, step: int, text: str) -> None: ...

    def close(self, state: str) -> None: ...


def figures(line: Mapping[str, Any], *, prefix: str) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl or evaluations.jsonl; nested names are joined by /, behind the prefix."""
    return {
        _NOT_IN_NAMES.sub("_", f"{prefix}/{name}"): number
        for name, number in _numbers("", line)
        if name not in _NO_FIGURES
    }


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, bool):
        yield name, float(value)
    elif isinstance(value, int | float):
        yield name, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _numbers(f"{name}/{key}" if name else str(key), child)
