"""What can be said of the evaluation during a run before anything starts."""

from pathlib import Path

from orchestrator.config import Recipe
from orchestrator.recipe import RecipeError


def problems(recipe: Recipe) -> list[str]:
    """A line each; nothing where the run does not evaluate itself. Reads the held-out prompts."""
    config = recipe.evaluation
    if config is None or not recipe.evaluates_itself:
        return []
    from orchestrator.evaluation.judges import open_judge
    from orchestrator.evaluation.plan import plan_of  # only where there is something to look at

    lines: list[str] = []
    try:
        plan_of(recipe)
    except RecipeError as error:
        lines += error.lines
    folders = {"reference": config.reference, "judge.model": config.judge.model if config.judge else None}
    for key, path in folders.items():
        if path is not None and not Path(path).is_dir():
            lines.append(f"evaluation.{key} = {path}: there is no such folder; name a model's folder, or null")
    if config.judge is not None and config.judge.function is not None:
        try:
            open_judge(config.judge, model_path=recipe.model.path, threads=1, max_tokens=1)  # loads no model
        except ValueError as error:
            lines.append(f"evaluation.judge.function = {config.judge.function}: {' '.join(str(error).split())}")
    return lines
