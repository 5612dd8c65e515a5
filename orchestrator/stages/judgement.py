"""The last stage of a pipeline: what the run has made of the policy that it began with, on held-out prompts."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.config import Recipe, flatten, resumable
from orchestrator.console import Console
from orchestrator.folder import RunFolder
from orchestrator.stages.session import Session
from orchestrator.stages.stage import Stage, State, read_result
from weightstore.manifest import WeightVersion
from weightstore.pins import BEST, pins

BASELINE = "start"
"""The policy that the run began with, in the tables."""


def judgement(recipe: Recipe, folder: RunFolder, *, before: Recipe) -> Stage:
    """The run's newest policy, and its best where that is another, against the one that it began with.

    `before`: the recipe for checks before the first stage.
    """

    def state() -> State:
        made_from = read_result(folder.evaluation).get("made_from")
        return "done" if made_from is not None and made_from == _identity(recipe, folder) else "new"

    def check() -> None:
        from orchestrator.evaluation.check import refuse
        from orchestrator.evaluation.plan import plan_of

        plan = plan_of(before)
        if not _judge_is_to_be_made(recipe):
            refuse(plan, policies=2)

    def carry_out(session: Session, quiet: bool) -> None:
        from orchestrator.evaluation import command, report
        from orchestrator.evaluation.outcome import conclude
        from orchestrator.evaluation.page import render

        policies = _policies(recipe, folder)
        plan = command.plan_for(policies, recipe)
        with Console(quiet=quiet) as console:
            outcome = conclude(command.evaluate(plan, policies, console=console), plan, recipe=recipe)
        content = report.content(outcome, answers=True) | {"made_from": _identity(recipe, folder)}
        folder.write(folder.evaluation.with_suffix(".html"), render(outcome))
        folder.write_json(folder.evaluation, content)  # last: then all is there
        if not quiet:
            print("\n".join(report.lines(outcome)))  # of which a reader who has gone can cost nothing

    return Stage(
        name="eval",
        makes=folder.evaluation,
        state=state,
        check=check,
        carry_out=carry_out,
        recall=lambda: _recall(folder),
        summary=_summary,
    )


def _judge_is_to_be_made(recipe: Recipe) -> bool:
    """It is the reward model of a stage before."""
    judge = recipe.evaluation.judge if recipe.evaluation else None
    model = Path(judge.model) if judge and judge.model else None
    return (
        model is not None
        and recipe.reward is not None
        and model.is_relative_to(recipe.reward.out)
        and not model.exists()
    )


def _policies(recipe: Recipe, folder: RunFolder) -> list[Any]:
    from orchestrator.evaluation.policies import find_policy

    found = [
        replace(find_policy(recipe.model.path), name=BASELINE),
        replace(find_policy(str(folder.path)), name=folder.run_id),
    ]
    newest, best = _versions(recipe, folder)
    if best is not None and best != newest:
        found.append(replace(find_policy(f"{folder.path}@best"), name=f"{folder.run_id}@best"))
    return found


def _versions(recipe: Recipe, folder: RunFolder) -> tuple[WeightVersion, WeightVersion | None]:
    """The newest, and the best by the run's own evaluation where it has any."""
    from orchestrator.published import NEWEST, find_version
    from orchestrator.stores import LINEAGE, open_store

    store = open_store(recipe, folder)
    return find_version(store, folder, NEWEST), pins(store, lineage=LINEAGE).get(BEST)


def _identity(recipe: Recipe, folder: RunFolder) -> str:
    """Of all that the figures follow from, but for the content of files, packages and the machine."""
    settings = {
        key: value
        for key, value in flatten(recipe).items()
        if (section := key.partition(".")[0]) == "evaluation"
        or (section in ("scoring", "generation", "data") and not resumable(key))
    }
    content = [settings, *map(str, _versions(recipe, folder))]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _recall(folder: RunFolder) -> dict[str, Any]:
    """All but the answers themselves."""
    return {key: value for key, value in read_result(folder.evaluation).items() if key != "answers"}


def _summary(made: Mapping[str, Any]) -> str:
    verdicts = "; ".join(f"{name}: {words}" for name, words in made["verdicts"].items())
    failed = [f"{gate['policy']}: {gate['gate']} ({gate['value']:.4g})" for gate in made["gates"] if not gate["passed"]]
    return verdicts + (f"; FAILED {', '.join(failed)}" if failed else "")
