"""One stage of a pipeline, as the pipeline sees it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.stages.session import Session

State = Literal["new", "begun", "done"]


class Stopped(Exception):
    """A stage was asked to end before its time, and can be gone on with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of a recipe.

    state()      ValueError: there is a result, of another configuration
    check()      before anything starts, when what earlier stages make may not be there; ValueError
    carry_out(session, quiet)
                 do it or go on with it. Stopped; RunFailed, ValueError: it failed
    recall()     what came of it, from its result: JSON. {} where that says nothing
    """

    name: str
    makes: Path
    state: Callable[[], State]
    check: Callable[[], None]
    carry_out: Callable[[Session, bool], None]
    recall: Callable[[], Mapping[str, Any]]
    summary: Callable[[Mapping[str, Any]], str]
    """A few words for people, from what came of it."""


def read_result(path: Path) -> dict[str, Any]:
    """A JSON object beside or in a stage's result; {} where there is none that can be read."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
