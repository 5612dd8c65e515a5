"""Settings of the buffer and of the pacing rule."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

PASSWORD_VARIABLE = "HEADRACE_REDIS_PASSWORD"
"""Environment variable with the password of a server of the user's own, where no file names it."""


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

    url: str = "embedded"
    """embedded = a redis-server or valkey-server of our own under the run's folder; or an existing server:
    redis://host:port/db, rediss://host:port/db (TLS), unix:///path/of/socket."""
    username: str | None = Field(default=None, min_length=1)
    """ACL user of an existing server; null = its default user."""
    password_file: str | None = None
    """File that holds the password of an existing server, and nothing else; null = HEADRACE_REDIS_PASSWORD of the
    environment, or none. Never in the recipe, which is copied into every run's folder."""
    ca_file: str | None = None
    """PEM file of the authority that signed a rediss:// server's certificate; null = those that the system trusts."""
    certificate_file: str | None = None
    """PEM file of the client's certificate, for a server that asks for one."""
    key_file: str | None = None
    """PEM file of the client certificate's private key."""
    fsync: Literal["always", "everysec"] = "always"
    """Of the embedded server. everysec can lose acknowledged writes on a mere process kill while a slow fsync runs."""
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

    @field_validator("url")
    @classmethod
    def _names_a_server(cls, url: str) -> str:
        if url not in ("embedded", "memory"):
            _check_url(url)
        return url

    @property
    def external(self) -> bool:
        """The server is the user's own: neither started nor stopped by the run."""
        return self.url not in ("embedded", "memory")


def _check_url(url: str) -> None:
    """ValueError `reason; remedy`. What it says never repeats a password."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError(
            "it holds a user or a password, and a recipe is copied and logged; name the user in experience.username, and "
            f"the file that holds the password in experience.password_file (or set {PASSWORD_VARIABLE})"
        )
    if parts.query or parts.fragment:
        raise ValueError("it has options behind ? or #; leave them out, the keys of experience stand for them")
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError("a socket has an absolute path; write unix:///path/of/socket")
        return
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError("no kind of server; set experience.url to embedded, redis://…, rediss://… or unix:///…")
    try:
        named = parts.hostname is not None and parts.port != 0
    except ValueError:  # a port that is none
        named = False
    database = parts.path.removeprefix("/")
    if not named or (database and not (database.isascii() and database.isdecimal())):
        raise ValueError("not the address of a server; write redis://host:port or redis://host:port/database")
