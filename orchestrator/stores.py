"""Opens a run's two stores, in the driver and in every worker alike. Secrets are read from the run's folder, never passed."""

import secrets
from pathlib import Path

from experience.ledger import Ledger
from experience.redis_buffer import RedisBuffer
from experience.redis_client import Address
from experience.server import EmbeddedServer
from orchestrator.config import Recipe, fingerprint
from orchestrator.folder import RunFolder
from weightstore.blobs import FileBlobStore

_IDENTITY = "identity"
LINEAGE = 0
"""The only line of history until runs can branch."""


def open_store(recipe: Recipe, folder: RunFolder) -> FileBlobStore:
    """Weights, checkpoints, ledger and epochs of this run."""
    return FileBlobStore(Path(recipe.store.url) / folder.run_id if recipe.store.url else folder.path)


def open_ledger(recipe: Recipe, folder: RunFolder) -> Ledger:
    return Ledger(open_store(recipe, folder), lineage=LINEAGE)


def open_server(recipe: Recipe, folder: RunFolder) -> EmbeddedServer | None:
    """The embedded server of this run; `start()` adopts one that an earlier life left behind. None: it uses the user's."""
    settings = recipe.experience
    return (
        None
        if settings.external
        else EmbeddedServer(folder.redis, fsync=settings.fsync, memory_mib=settings.memory_mib)
    )


def open_buffer(recipe: Recipe, folder: RunFolder, *, run_epoch: int, trainer_epoch: int) -> RedisBuffer:
    server = open_server(recipe, folder)
    return RedisBuffer(
        server.client if server else Address.of(recipe.experience).connect,
        run_id=folder.run_id,
        run_epoch=run_epoch,
        trainer_epoch=trainer_epoch,
        config=recipe.experience,
    )


def claim_name(recipe: Recipe, folder: RunFolder) -> str:
    """What holds the run's keys on a server: its settings, and a random name of its own, drawn once for all its lives.

    Two runs of one name and one recipe, of two users say, are two holders.
    """
    store = open_store(recipe, folder)
    store.put_if_absent(_IDENTITY, secrets.token_hex(16).encode())
    return f"{fingerprint(recipe)}.{store.get(_IDENTITY).decode()}"


def forget_groups(recipe: Recipe, folder: RunFolder) -> int:
    """For a run that is to be removed, and does not live: end its embedded server, whose data are in its folder, or delete
    its keys, and its alone, on the user's own. How many keys that were. BufferUnavailable; BufferRefused: they are another's."""
    server = open_server(recipe, folder)
    if server is not None:
        server.stop()
        return 0
    buffer = open_buffer(recipe, folder, run_epoch=0, trainer_epoch=0)
    try:
        return buffer.forget(fingerprint=claim_name(recipe, folder))
    finally:
        buffer.close()
