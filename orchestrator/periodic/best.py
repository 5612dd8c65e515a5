"""`<run>/best`: the best version as an ordinary model folder, replaced whole.

    best -> .best/0-1-12          a link, since only that can be replaced in one step

A reader that opened the one before keeps what it has; whoever opens the folder finds either.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from weightstore.manifest import WeightVersion

_HOME = ".best"


def exported(best: Path) -> WeightVersion | None:
    """The version that lies there; None: nothing, or what no run has written."""
    try:
        name = Path(os.readlink(best)).name
        return WeightVersion.parse(name.replace("-", "/"))
    except (OSError, ValueError):
        return None


def replace_best(best: Path, version: WeightVersion, write: Callable[[Path], None]) -> None:
    """Have `best` lead to a folder that `write` makes, whole or not at all; then the one before goes.

    OSError: nothing has changed; also where `best` is a folder of somebody else's.
    """
    home = best.with_name(_HOME)
    home.mkdir(exist_ok=True)
    out = home / str(version).replace("/", "-")
    if not out.exists():
        write(out)
    link = home / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(_HOME) / out.name)
    link.replace(best)
    for other in home.iterdir():
        if other != out:
            shutil.rmtree(other)
