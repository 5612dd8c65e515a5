"""Where a run keeps its immutable blobs: weights, checkpoints, ledger, epochs."""

from pydantic import BaseModel, ConfigDict, Field, field_validator

from weightstore.address import parse_address


class StoreConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = None
    """Folder that holds one folder a run, shared by all nodes; or s3://bucket/prefix; null = the run's own folder.
    Endpoint, region and credentials of a bucket are those that boto3 finds."""
    shard_bytes: int = Field(default=2 * 1024**3, gt=0)
    """Largest shard of a published version; fixed, so that blobs do not depend on the trainer's world size."""
    fetch_threads: int = Field(default=4, ge=1)
    """Shards fetched and hashed at once; of a bucket also parts of files on their way at once."""
    retry_s: float = Field(default=120.0, gt=0)
    """How long a request to a bucket is sent again, from its first failure on, before the store counts as gone; throttling
    and a fail-over pass sooner. A folder is not asked again."""
    scratch: str | None = None
    """Folder on this machine's disk for files on their way to and from a bucket; null = a folder below TMPDIR."""

    @property
    def in_bucket(self) -> bool:
        return self.url is not None and "://" in self.url

    @field_validator("url")
    @classmethod
    def _is_a_place(cls, url: str | None) -> str | None:
        if url is not None and "://" in url:
            parse_address(url)
        return url
