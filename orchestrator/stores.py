"""Opens a run's two stores, in the driver and in every worker alike. Secrets are read from the run's folder, never passed."""

import secrets
from pathlib import Path

from experience.buffer import BufferRefused
from experience.ledger import Ledger
from experience.redis_buffer import RedisBuffer
from experience.redis_client import Address
from experience.server import EmbeddedServer, ServerFailed
from orchestrator.config import Recipe, fingerprint
from orchestrator.folder import RunFolder
from weightstore.address import parse_address
from weightstore.blobs import BlobStore, FileBlobStore, StoreError
from weightstore.config import StoreConfig
from weightstore.epochs import newest_epoch
from weightstore.s3 import S3BlobStore

_IDENTITY = "identity"
LINEAGE = 0
"""The only line of history until runs can branch."""

FIRST_LOOK_S = 10.0
"""For a store that does not answer before anything has begun: a start is soon repeated, and the address may be wrong."""


def open_store(recipe: Recipe, folder: RunFolder) -> BlobStore:
    """Weights, checkpoints, ledger and epochs of this run."""
    config = recipe.store
    if config.in_bucket:
        return _open_bucket(config, folder, retry_s=config.retry_s)
    return FileBlobStore(Path(config.url) / folder.run_id if config.url else folder.path)


def check_store(recipe: Recipe, folder: RunFolder, *, fresh: bool) -> None:
    """Before a life writes anything: that a store elsewhere holds no run of the name of a fresh one, which would fence it
    and go on with its ledger; and that a bucket is there, open to us, and commits. ValueError: one line says what not."""
    config = recipe.store
    if config.url is None:
        return
    try:
        if config.in_bucket:
            store: BlobStore = (bucket := _open_bucket(config, folder, retry_s=min(config.retry_s, FIRST_LOOK_S)))
            bucket.prove_conditional_puts()
        else:
            store = open_store(recipe, folder)
        taken = fresh and newest_epoch(store) > 0
    except (StoreError, ValueError) as error:
        raise ValueError(f"store.url = {config.url}: {error}") from error
    if taken:
        held = f"{config.url.rstrip('/')}/{folder.run_id}"
        raise ValueError(
            f"run.name = {folder.run_id}: {held} holds a run already, whose folder is not {folder.path}; take another "
            "run.name, resume that run from its own folder, or delete what is there if nobody needs it"
        )


def _open_bucket(config: StoreConfig, folder: RunFolder, *, retry_s: float) -> S3BlobStore:
    assert config.url is not None
    return S3BlobStore(
        parse_address(config.url).below(folder.run_id),
        threads=config.fetch_threads,
        retry_s=retry_s,
        scratch_folder=Path(config.scratch) if config.scratch else None,
    )


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
        explain=server.last_error if server else _nothing_more,
    )


def _nothing_more() -> str:
    return ""


def claim_name(recipe: Recipe, folder: RunFolder) -> str:
    """What holds the run's keys on a server: its settings, and a random name of its own, drawn once for all its lives.

    Two runs of one name and one recipe, of two users say, are two holders.
    """
    return f"{fingerprint(recipe)}.{identity(recipe, folder)}"


def identity(recipe: Recipe, folder: RunFolder) -> str:
    """The run's random name, which tells it from others of its name on a server or a cluster."""
    store = open_store(recipe, folder)
    store.put_if_absent(_IDENTITY, secrets.token_hex(16).encode())
    return store.get(_IDENTITY).decode()


def forget_groups(recipe: Recipe, folder: RunFolder) -> int:
    """For a run that is to be removed, and does not live: end its embedded server, whose data are in its folder, or delete
    its keys, and its alone, on the user's own. How many keys that were. BufferUnavailable; BufferRefused: they are another's."""
    server = open_server(recipe, folder)
    if server is not None:
        try:
            server.stop()
        except ServerFailed as error:
            raise BufferRefused(str(error)) from error
        return 0
    buffer = open_buffer(recipe, folder, run_epoch=0, trainer_epoch=0)
    try:
        return buffer.forget(fingerprint=claim_name(recipe, folder))
    finally:
        buffer.close()
