"""The stages of a pipeline: for each, whether its result is there, what can be checked beforehand, and how it is carried
out. What a stage does is in the module of its own command; here is only when.
"""

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator import launch
from orchestrator.config import Recipe
from orchestrator.console import Console, summary
from orchestrator.folder import RunFolder
from orchestrator.stages.judgement import judgement
from orchestrator.stages.session import Session
from orchestrator.stages.stage import Stage, State, Stopped, read_result
from orchestrator.stages.work import begun
from score_cluster.reward_config import ModelRewardConfig
from train_cluster.config import PpoConfig


def stages_of(recipe: Recipe) -> list[Stage]:
    """Those that the recipe has sections for, in their order."""
    folder = RunFolder(Path(recipe.run.root) / recipe.run.name)
    stages = [_fine_tuning(recipe)] if recipe.sft else []
    stages += [_reward_training(recipe)] if recipe.reward else []
    stages += [_reinforcement(recipe, folder), _export(recipe, folder)]
    return [*stages, judgement(recipe, folder, before=before_stages(recipe))] if recipe.evaluation else stages


def before_stages(recipe: Recipe) -> Recipe:
    """The recipe for checks beforehand: without what stages still have to make, or with what they make it from."""
    if recipe.sft is not None and not Path(recipe.model.path).exists():
        model = recipe.model.model_copy(update={"path": recipe.sft.base, "random_init": recipe.sft.random_init})
        recipe = recipe.model_copy(update={"model": model})
    if recipe.reward is not None and not Path(recipe.reward.out).exists():
        recipe = _without_reward_models(recipe, Path(recipe.reward.out))
    return recipe


def _without_reward_models(recipe: Recipe, out: Path) -> Recipe:
    """Those of `out`; a critic then starts from the policy."""

    def is_made(path: str) -> bool:
        return Path(path).is_relative_to(out)

    left = tuple(
        one
        for one in recipe.scoring.rewards
        if not (isinstance(one, ModelRewardConfig) and any(map(is_made, one.folders)))
    )
    training = recipe.training
    if isinstance(training.algorithm, PpoConfig) and is_made(training.algorithm.critic.path or ""):
        critic = training.algorithm.critic.model_copy(update={"path": None})
        training = training.model_copy(update={"algorithm": training.algorithm.model_copy(update={"critic": critic})})
    return recipe.model_copy(
        update={"training": training, "scoring": recipe.scoring.model_copy(update={"rewards": left})}
    )


def _fine_tuning(recipe: Recipe) -> Stage:
    makes = Path(recipe.model.path)

    def state() -> State:
        from orchestrator.stages.sft_card import refuse_other_result

        if makes.exists():
            refuse_other_result(recipe)
            return "done"
        return "begun" if begun(recipe, "sft") else "new"

    examined: list[Any] = []  # tokenised once, for the check and for the ranks

    def check() -> None:
        from orchestrator.stages.sft_inputs import examine

        examined[:] = [examine(recipe)]

    def carry_out(session: Session, quiet: bool) -> None:
        from orchestrator.stages.sft import fine_tune

        if not examined:
            check()
        inputs = examined.pop()
        _warn(inputs.warnings)
        with Console(quiet=quiet) as console:
            made = fine_tune(recipe, inputs, console=console, session=session)
        if not made["finished"]:
            raise Stopped

    return Stage(
        name="sft",
        makes=makes,
        state=state,
        check=check,
        carry_out=carry_out,
        recall=lambda: read_result(makes / "training_card.json"),
        summary=lambda made: f"{made['steps']} steps, loss {made['loss']:.4f}",
    )


def _reward_training(recipe: Recipe) -> Stage:
    assert recipe.reward is not None
    makes = Path(recipe.reward.out)

    def state() -> State:
        from orchestrator.stages.reward import state_of

        return state_of(recipe)

    def check() -> None:
        from orchestrator.stages.reward_inputs import examine

        examine(before_stages(recipe))

    def carry_out(session: Session, quiet: bool) -> None:
        from orchestrator.stages.reward import train_reward
        from orchestrator.stages.reward_inputs import examine

        inputs = examine(recipe)
        _warn(inputs.warnings)
        with Console(quiet=quiet) as console:
            made = train_reward(recipe, inputs, console=console, session=session)
        if not made["finished"]:
            raise Stopped

    def summary(made: Mapping[str, Any]) -> str:
        low, high = made["held_out"]["accuracy_95"]
        verdict = made["held_out"]["verdict"]["word"]
        return f"held-out accuracy {made['held_out']['accuracy']:.1%} ({low:.1%} to {high:.1%}): {verdict}"

    return Stage(
        name="reward",
        makes=makes,
        state=state,
        check=check,
        carry_out=carry_out,
        recall=lambda: read_result(makes / "reward_card.json"),
        summary=summary,
    )


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"headrace: warning: {line}", file=sys.stderr)


def _reinforcement(recipe: Recipe, folder: RunFolder) -> Stage:
    def state() -> State:
        if not folder.recipe.exists():
            return "new"
        launch.check_resume(folder, recipe)
        status = folder.read_status()
        return "done" if (status.get("state"), status.get("steps")) == ("completed", recipe.run.steps) else "begun"

    def check() -> None:
        from orchestrator import preflight

        preflight.plan(before_stages(recipe))

    def carry_out(session: Session, quiet: bool) -> None:
        fresh = not folder.recipe.exists()
        if launch.start(recipe, folder, fresh=fresh, quiet=quiet, session=session) == "stopped":
            raise Stopped

    def recall() -> Mapping[str, Any]:
        status = folder.read_status()
        return {key: status[key] for key in ("step", "epoch", "restarts", "last_step") if key in status}

    return Stage(
        name="run",
        makes=folder.path,
        state=state,
        check=check,
        carry_out=carry_out,
        recall=recall,
        summary=lambda made: f"{made['step']} steps, {summary(made.get('last_step', {}))}",
    )


def _export(recipe: Recipe, folder: RunFolder) -> Stage:
    """The newest weights, again after a run that was prolonged."""
    note = folder.policy / "export.json"

    def state() -> State:
        from orchestrator.published import NEWEST, find_version
        from orchestrator.stores import open_store

        made = read_result(note).get("version")
        if made is None:
            return "new"
        return "done" if made == str(find_version(open_store(recipe, folder), folder, NEWEST)) else "begun"

    def carry_out(session: Session, quiet: bool) -> None:
        from orchestrator.export import export

        draft = folder.policy.with_name(f".{folder.policy.name}.partial")
        shutil.rmtree(draft, ignore_errors=True)  # of a life that ended before it was whole
        made = export(recipe, folder, draft) | {"out": str(folder.policy)}
        (draft / note.name).write_text(json.dumps(made, indent=1) + "\n")
        shutil.rmtree(folder.policy, ignore_errors=True)
        draft.rename(folder.policy)

    return Stage(
        name="export",
        makes=folder.policy,
        state=state,
        check=lambda: None,
        carry_out=carry_out,
        recall=lambda: read_result(note),
        summary=lambda made: f"version {made['version']}",
    )
