"""Opens a run's two stores, in the driver and in every worker alike. Secrets are read from the run's folder, never passed."""

from pathlib import Path

from experience.ledger import Ledger
from experience.redis_buffer import RedisBuffer
from experience.server import EmbeddedServer
from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from weightstore.blobs import FileBlobStore

LINEAGE = 0
"""The only line of history until runs can branch."""


def open_store(recipe: Recipe, folder: RunFolder) -> FileBlobStore:
    """Weights, checkpoints, ledger and epochs of this run."""
    return FileBlobStore(Path(recipe.store.url) / folder.run_id if recipe.store.url else folder.path)


def open_ledger(recipe: Recipe, folder: RunFolder) -> Ledger:
    return Ledger(open_store(recipe, folder), lineage=LINEAGE)


def open_server(recipe: Recipe, folder: RunFolder) -> EmbeddedServer:
    """The embedded server of this run; `start()` adopts one that an earlier life left behind."""
    settings = recipe.experience
    return EmbeddedServer(folder.redis, fsync=settings.fsync, memory_mib=settings.memory_mib)


def open_buffer(recipe: Recipe, folder: RunFolder, *, run_epoch: int, trainer_epoch: int) -> RedisBuffer:
    return RedisBuffer(
        open_server(recipe, folder).client,
        run_id=folder.run_id,
        run_epoch=run_epoch,
        trainer_epoch=trainer_epoch,
        config=recipe.experience,
    )
