"""Writes a version of a run's weights as an ordinary Hugging Face folder that transformers and vLLM load."""

import os
from pathlib import Path
from typing import Any

from orchestrator import logs
from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.published import NEWEST, find_version
from orchestrator.stores import LINEAGE, open_store
from weightstore.fetch import StoreWeightSource, VersionMissing


def export(recipe: Recipe, folder: RunFolder, out: Path, *, which: str = NEWEST) -> dict[str, Any]:
    """Every hash is verified on the way. `which`: see `find_version`. ValueError: no such version, or OUT exists."""
    if os.path.lexists(out):
        raise ValueError(f"OUT = {out}: exists already; remedy: name a folder that does not")
    store = open_store(recipe, folder)
    version = find_version(store, folder, which)
    if not Path(recipe.model.path).is_dir():
        raise ValueError(f"model.path = {recipe.model.path}: is gone, with config and tokenizer; remedy: put it back")
    source = StoreWeightSource(store, lineage=LINEAGE, run_epoch=version.epoch, threads=recipe.store.fetch_threads)
    try:
        fetched = source.fetch(version)
    except VersionMissing as error:
        raise ValueError(f"{folder.path}: {error}; remedy: restore it from a copy, or resume the run") from error

    logs.hush_libraries()
    from train_cluster.model import save_folder  # torch and transformers, once there is something to write

    try:
        save_folder(out, recipe.model.path, dict(fetched.tensors()))
    except OSError as error:
        raise ValueError(
            f"OUT = {out}: cannot be written ({error.strerror or error}); remedy: name another, or free space"
        ) from error
    return {"out": str(out), "version": str(version), "digest": fetched.manifest.digest()}
