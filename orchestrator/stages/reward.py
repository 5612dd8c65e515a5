"""Reward-model training on the trainer's own ranks; the result is a folder, or one of folders, that appears whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from orchestrator.config import Recipe
from orchestrator.console import Console
from orchestrator.errors import RunFailed
from orchestrator.ranks import RankCrew
from orchestrator.recipe import RecipeError
from orchestrator.run import Signals
from orchestrator.stages.reward_inputs import RewardInputs, examine
from orchestrator.stages.session import Session
from orchestrator.stages.stage import read_result
from orchestrator.stages.work import StageWork, begun

CARD = "reward_card.json"
NAME = "reward"
"""Of the stage."""


def stage_of(recipe: Recipe, inputs: RewardInputs) -> StageWork:
    return StageWork(recipe, NAME, out=Path(inputs.config.out), made_from=inputs.made_from)


def state_of(recipe: Recipe) -> Literal["new", "begun", "done"]:
    """Whether `reward.out` is there, made from what the recipe names. RecipeError: from something else, or from bad input."""
    assert recipe.reward is not None
    out = Path(recipe.reward.out)
    if not out.exists():
        return "begun" if begun(recipe, NAME) else "new"
    stage = stage_of(recipe, examine(recipe, afresh=False))
    if read_result(out / CARD).get("hashes", {}).get("config_sha256") != stage.identity:
        raise RecipeError(
            [
                f"reward.out = {out}: is there already, and was made from other pairs, settings or another base; remove it, or "
                "set another reward.out"
            ]
        )
    return "done"


def train_reward(
    recipe: Recipe, inputs: RewardInputs, *, console: Console, session: Session | None = None, restart: bool = False
) -> dict[str, Any]:
    """Train on the pairs and write `reward.out`, from where an earlier life was; or stop when asked to.

    restart: discard what there is of an earlier life. The answer says `finished`. RecipeError: what an earlier life left is
    made from something else. RunFailed: a rank failed; the same command goes on.
    """
    config, data = inputs.config, recipe.data
    stage = stage_of(recipe, inputs)
    with stage.opened(restart=restart):
        of = f", {config.members} members" if config.members > 1 else ""
        console.say(f"reward {recipe.run.name}: {config.base} -> {stage.out}, {inputs.steps} steps{of}")
        where = (str(stage.draft), str(stage.folder.path), stage.identity)
        arguments = (config.model_dump(mode="json"), *where, data.chat_template, data.system_prompt)
        try:
            with RankCrew(recipe, stage.folder, session=session, fine_tune=True) as crew, Signals(crew, console):
                answer = crew.carry_out("reward", *arguments, watch=lambda status: _show(console, status))[0]
        except RunFailed as error:
            raise RunFailed(f"{error}; the same command goes on from the newest checkpoint") from error
        if answer["finished"]:
            stage.finish()
    return dict(answer) | {"out": str(stage.out)}


def summary(answer: Mapping[str, Any]) -> str:
    """One line for people, of an answer that is finished."""
    low, high = answer["accuracy_95"]
    return (
        f"held-out accuracy {answer['accuracy']:.1%} ({low:.1%} to {high:.1%} on {answer['held_out_pairs']} pairs): "
        f"{answer['verdict']}"
    )


def _show(console: Console, status: Mapping[str, Any]) -> None:
    if "member" not in status:
        return
    notes = [] if status["loss"] is None else [f"loss {status['loss']:.3f}"]
    notes += [f"held-out {name} {value:.3f}" for name, value in status["held_out"].items()]
    console.progress("reward step", completed=status["step"], total=status["total"], note="  ".join(notes))
