"""Settings of the metrics that every process of a run serves."""

import ipaddress

from pydantic import BaseModel, ConfigDict, Field, field_validator


class MetricsConfig(BaseModel):
    """Where the processes of a run serve their metrics; see docs/metrics.md."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bind: str | None = None
    """IP address that all processes listen on: who can reach it reads the metrics. null = 127.0.0.1 with a Ray of our own, each
    node's own address on a cluster; 0.0.0.0 = all, for a Prometheus elsewhere; targets then carry this machine's address."""
    port: int = Field(default=0, ge=0, le=65535)
    """Of the driver, which lists all targets under /sd; 0 = any free one, and targets.json says which. Fixed: a stable address for
    HTTP service discovery. Workers take free ones always."""

    @field_validator("bind")
    @classmethod
    def _is_an_address(cls, bind: str | None) -> str | None:
        if bind is not None:
            try:
                ipaddress.ip_address(bind)
            except ValueError:
                raise ValueError("no IP address; name one of this machine, 0.0.0.0 for all of them, or null") from None
        return bind

    @property
    def everywhere(self) -> bool:
        return self.bind is not None and ipaddress.ip_address(self.bind).is_unspecified
