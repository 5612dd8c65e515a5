"""Settings of the buffer and of the pacing rule."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PacingConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    max_staleness: int = Field(default=4, ge=0)
    """Steps between the oldest sampled token and the step that trains it; 0 = synchronous. 4 costs nothing in quality."""
    batch_groups: int = Field(default=16, ge=1)
    """B: groups in one batch; 16 groups of 8 are the 128 responses of the PPO default."""
    publish_interval_batches: int = Field(default=1, ge=1)
    """K: batches between published versions."""
    late: Literal["wait", "drop"] = "wait"
    """What becomes of a group that holds up a batch for longer than its deadline while enough others have arrived; drop
    = its prompt is issued anew, which favours short answers."""


class ExperienceConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Literal["embedded", "memory"] = "embedded"
    """embedded = a redis-server or valkey-server of our own under the run's folder."""
    fsync: Literal["always", "everysec"] = "always"
    """everysec can lose acknowledged writes on a mere process kill while a slow fsync runs."""
    capacity_groups: int | None = Field(default=None, ge=1)
    """Groups in flight, at most; null = (max_staleness + 1) * batch_groups."""
    memory_mib: int | None = Field(default=None, ge=8)
    """Memory of the embedded server, MiB; above it no prompt is issued, and what is in flight goes on. null = no limit."""
    lease_s: float = Field(default=30.0, gt=0)
    """A worker silent for so long loses its entries to the others; renewed at a third of it."""
    alone_limit: int = Field(default=2, ge=1)
    """Deliveries alone after which an entry that keeps failing is quarantined."""
    retry_s: float = Field(default=60.0, gt=0)
    """How long a client retries before it reports the server as gone."""
