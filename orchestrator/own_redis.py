"""What a run needs to know of a Redis of the user's own before it starts: files, password, and the server itself."""

import os
from collections.abc import Callable
from pathlib import Path

from orchestrator.config import Recipe
from orchestrator.recipe import RecipeError

FILES = ("password_file", "ca_file", "certificate_file", "key_file")
_SHARED_BITS = 0o077


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
    from experience.buffer import BufferRefused, BufferUnavailable
    from experience.own_server import examine  # needs the client's library
    from experience.redis_client import Address

    where = f"experience.url = {config.url}"
    password = config.password_file
    if password is not None and Path(password).stat().st_mode & _SHARED_BITS:
        warn(f"experience.password_file = {password}: others may read it; chmod 600 it")
    try:
        found = examine(Address.of(config), run_id=recipe.run.name, retry_s=config.retry_s if patient else 0.0)
    except BufferRefused as error:
        raise RecipeError([f"{where}: {error}"]) from error
    except (BufferUnavailable, OSError) as error:
        raise RecipeError([f"{where}: {error}; start it, or name another"]) from error
    for line in found:
        warn(f"{where}: {line}")
