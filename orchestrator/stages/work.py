"""A stage of supervised training as the driver sees it: what it is made from, its folder, its end.

<run.root>/.<run.name>.<stage>/   stage.json      what it is made from, while it is unfinished
                                  checkpoints/    of its ranks, and epochs/ of their lives; gone once it is finished
                                  logs/  *.jsonl  stay
.<out>.partial -> <out>           the result appears whole, by a rename
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator import logs
from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.recipe import RecipeError

NOTE = "stage.json"


def folder_of(recipe: Recipe, name: str) -> RunFolder:
    return RunFolder(Path(recipe.run.root) / f".{recipe.run.name}.{name}")


def begun(recipe: Recipe, name: str) -> bool:
    """Whether there is an unfinished one."""
    return (folder_of(recipe, name).path / NOTE).exists()


def result_problems(out: Path, *, key: str, what: str) -> Iterator[str]:
    """Why a stage could not leave its result there, known before it has trained for hours. `what`: who writes what."""
    if os.path.lexists(out):
        yield f"{key} = {out}: exists, and {what} there; remove it, or set another {key}"
        return
    above = next(parent for parent in out.parents if parent.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        yield f"{key} = {out}: {above} is no folder that can be written to; set another {key}"


class StageWork:
    """One stage of a recipe; `made_from` is all that its result follows from, {the recipe's key: JSON value}."""

    def __init__(self, recipe: Recipe, name: str, *, out: Path, made_from: Mapping[str, Any]) -> None:
        self.name, self.out = name, out
        self.folder = folder_of(recipe, name)
        self.made_from = json.loads(json.dumps(made_from))
        self._began = self.folder.path / NOTE

    @property
    def identity(self) -> str:
        """SHA-256: checkpoints of another one are not gone on with."""
        return hashlib.sha256(json.dumps(self.made_from, sort_keys=True).encode()).hexdigest()

    @property
    def draft(self) -> Path:
        """Where the ranks write the result: a folder that is not there yet."""
        return self.out.with_name(f".{self.out.name}.partial")

    @contextmanager
    def opened(self, *, restart: bool) -> Iterator[None]:
        """Hold the folder. RecipeError: what is unfinished there is made from something else, and not to be discarded."""
        with self.folder.locked():
            if restart:
                self._discard()
            self._refuse_other()
            self.folder.create()
            logs.configure(self.folder.logs, run=self.folder.run_id, worker="driver")
            shutil.rmtree(self.draft, ignore_errors=True)  # of a life that ended between the two renames
            self.folder.write_json(self._began, self.made_from)
            yield

    def finish(self) -> None:
        """The draft becomes the result, and what was kept for a resume goes."""
        self.draft.rename(self.out)
        self._discard()

    def _discard(self) -> None:
        for name in (".scratch", "checkpoints", "epochs"):
            if (self.folder.path / name).exists():
                shutil.rmtree(self.folder.path / name)
        for path in self.folder.path.glob("*.safetensors"):
            path.unlink()
        self._began.unlink(missing_ok=True)  # last: until then it says what the checkpoints are of

    def _refuse_other(self) -> None:
        try:
            began = json.loads(self._began.read_text())
        except FileNotFoundError:
            return
        except ValueError:
            began = {}
        changed = sorted(
            key for key in began.keys() | self.made_from.keys() if began.get(key) != self.made_from.get(key)
        )
        if changed:
            raise RecipeError(
                f"{key} = {_short(self.made_from.get(key))}: an unfinished `headrace {self.name}` in {self.folder.path} "
                f"began with {_short(began.get(key))}; set it back, or discard what there is with --restart"
                for key in changed
            )


def _short(value: Any) -> str:
    """Of a hash the beginning tells enough."""
    text = str(value)
    return f"content {text[:12]}" if len(text) == 64 and " " not in text else text
