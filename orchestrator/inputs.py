"""What a run reads beside its recipe, noted by hash at its begin: on other content a resume would go on as another run."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.modelfolder import safetensors_start
from orchestrator.recipe import RecipeError
from orchestrator.reward_checks import reward_models

SMALL_FILES = (".json", ".jinja", ".model", ".txt")
"""Configuration, tokenizer and chat template of a model folder, in all the forms that Hugging Face writes."""


def same_inputs(folder: RunFolder, recipe: Recipe, *, prompts: Mapping[str, str]) -> None:
    """Note the hash of each input that is not noted yet. RecipeError: one that is noted has changed since.

    `prompts`: {the recipe's key of a data set's path: SHA-256 of its files}.
    """
    sources = {f"{key}.path": source.path for key, source in recipe.data.each().items()}
    paths = {**sources, "model.path": recipe.model.path}
    found = {
        **prompts,
        "model.path": model_digest(Path(recipe.model.path), weights=not recipe.model.random_init),
    }
    reference = recipe.scoring.reference
    if reference is not None and reference.path is not None:
        paths["scoring.reference.path"] = reference.path
        found["scoring.reference.path"] = model_digest(Path(reference.path), weights=True)
    for key, path in reward_models(recipe.scoring).items():
        paths[key], found[key] = path, model_digest(Path(path), weights=True)
    noted = _noted(folder.inputs) if folder.inputs.exists() else {}
    changed = [key for key, digest in found.items() if noted.get(key, digest) != digest]
    if changed:
        raise RecipeError(
            f"{key} = {paths[key]}: its content has changed since the run began; "
            "restore it, or start another run under a new run.name"
            for key in changed
        )
    if found.keys() - noted.keys():
        folder.write_json(folder.inputs, noted | found)


def _noted(file: Path) -> dict[str, str]:
    try:
        noted = json.loads(file.read_text())
    except ValueError:
        noted = None
    if not isinstance(noted, dict):
        raise RecipeError(
            [
                f"{file}: is no JSON object; restore it from a copy, or delete it to go on unchecked with what the recipe names"
            ]
        )
    return noted


def model_digest(folder: Path, *, weights: bool) -> str:
    """SHA-256 over the small files and, where its weights are read, over the header and size of each safetensors file: to
    hash all their bytes would hold up every resume of a large model for minutes.
    """
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        if file.suffix in SMALL_FILES:
            content = file.read_bytes()
        elif weights and file.suffix == ".safetensors":
            content = safetensors_start(file)
        else:
            continue
        digest.update(f"{file.name} {len(content)} {file.stat().st_size}\n".encode() + content)
    return digest.hexdigest()
