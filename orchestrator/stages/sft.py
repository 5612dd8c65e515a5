"""Supervised fine-tuning on the trainer's own ranks; the result is a model folder that appears whole."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.config import Recipe
from orchestrator.console import Console
from orchestrator.errors import RunFailed
from orchestrator.ranks import RankCrew
from orchestrator.run import Signals
from orchestrator.stages.session import Session
from orchestrator.stages.sft_card import CARD, card_of
from orchestrator.stages.sft_inputs import SftInputs
from orchestrator.stages.work import StageWork
from train_cluster.supervised import sft_data


def fine_tune(
    recipe: Recipe, inputs: SftInputs, *, console: Console, session: Session | None = None, restart: bool = False
) -> dict[str, Any]:
    """Train `sft.base` on the examples and write `model.path`, from where an earlier life was; or stop when asked to.

    restart: discard what there is of an earlier life. The answer says `finished`. RecipeError: what an earlier life left is
    made from something else. RunFailed: a rank failed; the same command goes on.
    """
    config = recipe.sft
    assert config is not None
    stage = StageWork(recipe, "sft", out=Path(recipe.model.path), made_from=inputs.made_from)
    with stage.opened(restart=restart):
        sft_data.save(stage.folder.path / sft_data.FILE, inputs.trained, inputs.held_out)
        console.say(f"sft {recipe.run.name}: {config.base} -> {stage.out}, {inputs.steps} steps")
        arguments = (config.model_dump(mode="json"), str(stage.draft), str(stage.folder.path), stage.identity)
        try:
            with (
                RankCrew(recipe, stage.folder, session=session, fine_tune=True) as crew,
                Signals(crew, console),
            ):
                answer = crew.carry_out("sft", *arguments, watch=lambda status: _show(console, status))[0]
        except RunFailed as error:
            raise RunFailed(f"{error}; the same command goes on from the newest checkpoint") from error
        if answer["finished"]:
            card = card_of(recipe, inputs, stage, answer)
            (stage.draft / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
            stage.finish()
    counts = {"examples": len(inputs.trained), "held_out_examples": len(inputs.held_out)}
    return dict(answer) | counts | {"steps": answer["step"], "out": str(stage.out)}


def _show(console: Console, status: Mapping[str, Any]) -> None:
    if "total" not in status:
        return
    notes = [] if status["loss"] is None else [f"loss {status['loss']:.3f}"]
    notes += [f"held-out {name} {value:.3f}" for name, value in status["held_out"].items()]
    console.progress("sft step", completed=status["step"], total=status["total"], note="  ".join(notes))
