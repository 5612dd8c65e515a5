"""What a fine-tuned model folder says of its making, and whether a recipe would make it otherwise."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.config import Recipe
from orchestrator.recipe import RecipeError
from orchestrator.stages.sft_inputs import SftInputs, settings_of
from orchestrator.stages.work import StageWork

CARD = "training_card.json"
"""In the model folder."""


def card_of(recipe: Recipe, inputs: SftInputs, stage: StageWork, answer: Mapping[str, Any]) -> dict[str, Any]:
    """What the model folder says of its making."""
    assert recipe.sft is not None
    return {
        "kind": "sft",
        "base": recipe.sft.base,
        "data": [one.as_dict() for one in inputs.files],
        "examples": len(inputs.trained),
        "held_out_examples": len(inputs.held_out),
        "tokens": sum(len(one.ids) for one in inputs.trained),
        "trained_tokens": sum(int(one.trained.sum()) for one in inputs.trained),
        "epochs": recipe.sft.epochs,
        "steps": answer["step"],
        "loss": answer["loss"],
        "held_out": answer["held_out"],
        "held_out_before": answer["held_out_before"],
        "ranks": recipe.training.ranks,
        "made_from": stage.made_from,
        "config_hash": stage.identity,
    }


def refuse_other_result(recipe: Recipe) -> None:
    """RecipeError: model.path was made by other settings of `sft`; the others may differ, since reinforcement has its own.

    A folder without a readable card was not made here, and passes.
    """
    out = Path(recipe.model.path)
    try:
        made = json.loads((out / CARD).read_text(encoding="utf-8"))["made_from"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    settings = json.loads(json.dumps(settings_of(recipe)))
    lines = [
        f"{key} = {value}: {out} was fine-tuned with {made.get(key)}; set it back, remove the folder, or set another model.path"
        for key, value in settings.items()
        if key.startswith("sft.") and made.get(key) != value
    ]
    if lines:
        raise RecipeError(lines)
