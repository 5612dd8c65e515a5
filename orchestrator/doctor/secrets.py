"""Secrets where they do not belong: in a recipe, which is copied, logged and sent to sinks, or in files that others may read."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config import Recipe, flatten
from orchestrator.doctor.finding import Finding, ok, warning

_SOUNDS_SECRET = re.compile(r"(password|passwd|secret|credential|api_?key|access_?key|token)$", re.IGNORECASE)
_FREE = (".arguments.",)
"""Within these a recipe takes any key; all others are known, and hold no secret."""
_FILES = re.compile(r"\.(token_file|key_file)$")
"""The password's is looked at with its server: orchestrator.own_redis."""
_SHARED_BITS = 0o077


def check_secrets(recipe: Recipe) -> Iterator[Finding]:
    found = list(judge(flatten(recipe)))
    yield from found or [ok("secrets", "none in the recipe, and files that hold some are their owner's alone")]


def judge(leaves: Mapping[str, Any]) -> Iterator[Finding]:
    """`leaves`: of a recipe, by dotted key. No value is shown."""
    for key, value in leaves.items():
        if isinstance(value, str) and value and any(part in key for part in _FREE) and _SOUNDS_SECRET.search(key):
            yield warning(
                "secrets",
                f"{key} seems to hold a secret",
                "a recipe is copied into the run's folder, and sent to sinks",
                "let the function read it from the environment, or from a file that an argument names",
            )
        if isinstance(value, str) and _FILES.search(key) and Path(value).is_file():
            mode = Path(value).stat().st_mode
            if mode & _SHARED_BITS:
                found = f"{key} = {value}: mode {mode & 0o777:04o}"
                yield warning("secrets", found, "others on this machine may read it", f"chmod 600 {value}")
