"""Where a run keeps its immutable blobs: weights, checkpoints, ledger, epochs."""

from pydantic import BaseModel, ConfigDict, Field


class StoreConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = None
    """Folder that holds one folder a run; null = the run's own folder. Must be shared by all nodes."""
    shard_bytes: int = Field(default=2 * 1024**3, gt=0)
    """Largest shard of a published version; fixed, so that blobs do not depend on the trainer's world size."""
    fetch_threads: int = Field(default=4, ge=1)
    """Shards fetched and hashed at once."""
