"""Supervised fine-tuning on the trainer's own ranks; the result is a model folder that appears whole."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator import logs
from orchestrator.config import Recipe, fingerprint
from orchestrator.console import Console
from orchestrator.folder import RunFolder
from orchestrator.ranks import RankCrew
from orchestrator.session import Session


def fine_tune(recipe: Recipe, *, console: Console, session: Session | None = None) -> dict[str, Any]:
    """Train `sft.base` on `sft.path`, write `model.path`. RunFailed: a rank failed; nothing was written, start over."""
    assert recipe.sft is not None
    folder = RunFolder(Path(recipe.run.root) / f".{recipe.run.name}.sft")
    with folder.locked():
        folder.create()
        logs.configure(folder.logs, worker="driver")
        console.say(f"sft {recipe.run.name}: {recipe.sft.base} -> {recipe.model.path}")
        out = Path(recipe.model.path)
        draft = out.with_name(f".{out.name}.partial")
        shutil.rmtree(draft, ignore_errors=True)  # of a life that ended between its two renames
        with RankCrew(recipe, folder, session=session, fine_tune=True) as crew:
            settings = recipe.sft.model_dump(mode="json")
            data = recipe.data
            where = (str(draft), str(folder.path), fingerprint(recipe))
            arguments = (settings, *where, data.chat_template, data.system_prompt)
            answer = crew.carry_out("sft", *arguments, watch=lambda status: _show(console, status))[0]
        draft.rename(out)
        shutil.rmtree(folder.path / "checkpoints", ignore_errors=True)
    return dict(answer) | {"out": str(out)}


def _show(console: Console, status: Mapping[str, Any]) -> None:
    if status.get("loss") is not None:
        note = f"loss {status['loss']:.3f}"
        console.progress("sft step", completed=status["step"], total=status["total"], note=note)
