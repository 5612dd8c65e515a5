"""What `headrace eval` can be given: a model folder, a run, or one version of a run."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator import recipe as recipes
from orchestrator.folder import RunFolder
from orchestrator.modelfolder import ModelFolder, read_model
from orchestrator.published import NEWEST, find_version
from orchestrator.stores import open_store
from weightstore.manifest import WeightVersion

_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures")
"""Of a config.json: what says nothing of the architecture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    name: str
    """In tables and results."""
    model_path: str
    """Folder of its config and tokenizer, and of its weights where it is no version of a run."""
    run: RunFolder | None
    """The run that it is of."""
    version: WeightVersion | None
    """None: the weights are in `model_path`."""


def find_policies(texts: Sequence[str]) -> list[Policy]:
    """ValueError: one that is neither, or a name given twice."""
    found = [find_policy(text) for text in texts]
    names = [policy.name for policy in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"POLICY = {name}: is named twice; name policies that differ")
    return found


def find_policy(text: str) -> Policy:
    """`FOLDER`, `RUN` (its newest version), `RUN@STEP` or `RUN@best`. ValueError: there is no such."""
    name = text.rstrip("/")
    if os.path.isfile(Path(text) / "config.json"):
        return Policy(name=name, model_path=str(Path(text).resolve()), run=None, version=None)
    where, at, which = text.rpartition("@")
    run = _find_run(text) or (_find_run(where) if at else None)
    if run is None:
        raise ValueError(
            f"POLICY = {text}: no model folder (with a config.json) and no run there, and no run at {Path('runs') / text}; "
            "name a folder, a RUN, RUN@STEP or RUN@best"
        )
    if _find_run(text) is not None:
        which = ""
    recipe = recipes.load_dumped(run.recipe)
    version = _find_version(text, recipe=recipe, run=run, which=which)
    return Policy(name=name, model_path=recipe.model.path, run=run, version=version)


def read_models(policies: Sequence[Policy]) -> ModelFolder:
    """The first one's folder. ValueError: one that cannot be read, or whose tokens are others than the first one's."""
    models = [read_model(one.model_path, field="POLICY", random_init=one.version is not None) for one in policies]
    first = models[0]
    for policy, model in zip(policies, models, strict=True):
        if model.vocabulary != first.vocabulary:
            reason = f"its vocabulary has {model.vocabulary} tokens, that of {policies[0].name} has {first.vocabulary}"
        elif model.path != first.path and model.tokenizer.get_vocab() != first.tokenizer.get_vocab():
            reason = f"its tokenizer numbers tokens otherwise than that of {policies[0].name}"
        elif unknown := sorted(set(model.stop_token_ids) - set(first.stop_token_ids)):
            raise ValueError(
                f"POLICY = {policy.name}: its answers end at token {unknown[0]}, those of {policies[0].name} do not, and all are "
                "stopped as the first; name it first, or give both the same eos_token_id in generation_config.json"
            )
        else:
            continue
        raise ValueError(f"POLICY = {policy.name}: {reason}; compare policies of one family")
    return first


def by_architecture(policies: Sequence[Policy]) -> list[list[Policy]]:
    """Policies whose weights fit one engine, together; in the order in which they come."""
    groups: dict[str, list[Policy]] = {}
    for policy in policies:
        config = json.loads((Path(policy.model_path) / "config.json").read_text())
        key = json.dumps({name: value for name, value in config.items() if name not in _VOLATILE}, sort_keys=True)
        groups.setdefault(key, []).append(policy)
    return list(groups.values())


def _find_run(text: str) -> RunFolder | None:
    for candidate in (Path(text), Path("runs") / text):
        if text and os.path.isfile(candidate / "recipe.yaml"):
            return RunFolder(candidate)
    return None


def _find_version(text: str, *, recipe: recipes.Recipe, run: RunFolder, which: str) -> WeightVersion:
    try:
        return find_version(open_store(recipe, run), run, which or NEWEST)
    except ValueError as error:
        raise ValueError(f"POLICY = {text}: {error}") from error
