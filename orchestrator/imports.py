"""Importing heavy libraries: what every process of a run spends most of its start on."""

import gc
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BUILDER = "orchestrator.build:build"
"""Makes the worker of a process, as `resolve` reads it; benchmarks name another, which puts in stand-ins."""
LOADER = "orchestrator.build:load"
"""Imports what the worker of a process needs, ahead of its building."""


@contextmanager
def collector_off() -> Iterator[None]:
    """No garbage collection inside, and none ever of what was made inside.

    An import makes objects by the hundred thousand and hardly any garbage: looking for it is a fifth of its CPU time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()


def resolve(name: str) -> Callable[..., Any]:
    """The function that `module:function` names."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
