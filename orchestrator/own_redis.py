"""What a run needs to know of a Redis of the user's own before it starts: files, password, and the server itself."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.config import Recipe
from orchestrator.recipe import RecipeError

FILES = ("password_file", "ca_file", "certificate_file", "key_file")
_SHARED_BITS = 0o077
_LOOK_AGAIN_S = 0.5
"""Between two tries of a server that does not answer yet."""


def file_problems(recipe: Recipe) -> list[str]:
    """Files of the connection that cannot be read."""
    lines = []
    for name in FILES:
        path = getattr(recipe.experience, name)
        if path is not None and not (Path(path).is_file() and os.access(path, os.R_OK)):
            lines.append(f"experience.{name} = {path}: no file that can be read; name another, or change its mode")
    return lines


def check_server(recipe: Recipe, *, patient: bool, warn: Callable[[str], None]) -> None:
    """Ask the server whether the run may use it; RecipeError if not. `patient`: wait for it for experience.retry_s."""
    config = recipe.experience
    if not config.external:
        return
    from experience.buffer import BufferRefused, BufferUnavailable  # what is imported here needs the client's library

    where = f"experience.url = {config.url}"
    password = config.password_file
    if password is not None and Path(password).stat().st_mode & _SHARED_BITS:
        warn(f"experience.password_file = {password}: others may read it; chmod 600 it")
    try:
        for line in _examine(recipe, wait_s=config.retry_s if patient else 0.0, warn=warn):
            warn(f"{where}: {line}")
    except BufferRefused as error:
        raise RecipeError([f"{where}: {error}"]) from error
    except (BufferUnavailable, OSError) as error:
        raise RecipeError([f"{where}: {error}; start it, or name another"]) from error


def _examine(recipe: Recipe, *, wait_s: float, warn: Callable[[str], None]) -> tuple[str, ...]:
    """What experience.own_server says, asked again while the server does not answer."""
    from experience.buffer import BufferUnavailable
    from experience.own_server import examine
    from experience.redis_client import Address

    deadline, told = time.monotonic() + wait_s, False
    while True:
        try:
            return examine(Address.of(recipe.experience), run_id=recipe.run.name, retry_s=0.0)
        except BufferUnavailable as error:
            if time.monotonic() + _LOOK_AGAIN_S > deadline:
                raise
            if not told:
                warn(f"experience.url = {recipe.experience.url}: {error}; waiting for it for up to {wait_s:g} s")
            told = True
            time.sleep(_LOOK_AGAIN_S)  # nothing tells us when somebody has started it
