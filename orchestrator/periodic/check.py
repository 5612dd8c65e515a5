"""What can be said of the evaluation during a run before anything starts."""

from pathlib import Path

from orchestrator.config import Recipe
from orchestrator.recipe import RecipeError


def paths(recipe: Recipe) -> dict[str, str]:
    """{key: what the evaluator of a run reads beside the model}; nothing where the run does not evaluate itself."""
    config = recipe.evaluation
    if config is None or not recipe.evaluates_itself:
        return {}
    judge = config.judge.model if config.judge else None
    found = {"evaluation.path": config.path, "evaluation.reference": config.reference, "evaluation.judge.model": judge}
    return {key: path for key, path in found.items() if path is not None}


def problems(recipe: Recipe) -> list[str]:
    """A line each; nothing where the run does not evaluate itself. Reads the held-out prompts."""
    config = recipe.evaluation
    if config is None or not recipe.evaluates_itself:
        return []
    from orchestrator.evaluation.check import judge_problems
    from orchestrator.evaluation.judges import open_judge
    from orchestrator.evaluation.plan import plan_of  # only where there is something to look at

    lines: list[str] = []
    model = config.judge.model if config.judge else None
    try:
        plan = plan_of(recipe)
        if config.judge is None or (model is not None and Path(model).is_dir()):
            lines += judge_problems(plan, policies=2)
    except RecipeError as error:
        lines += error.lines
    for key, path in paths(recipe).items():
        if key != "evaluation.path" and not Path(path).is_dir():
            lines.append(f"{key} = {path}: there is no such folder; name a model's folder")
    if config.judge is not None and config.judge.function is not None:
        try:
            open_judge(config.judge, model_path=recipe.model.path, threads=1, max_tokens=1)  # loads no model
        except ValueError as error:
            lines.append(f"evaluation.judge.function = {config.judge.function}: {' '.join(str(error).split())}")
    return lines
