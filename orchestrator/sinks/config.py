"""Where a run's figures go besides its own files. Keys of the services come from their own environment variables alone."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator


class TensorBoardConfig(BaseModel):
    """Event files for TensorBoard; needs `pip install "headrace[tensorboard]"`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str | None = None
    """Folder that holds one folder a run; null = tensorboard/ in the run's own folder."""


class WandbConfig(BaseModel):
    """A run at Weights & Biases; needs `pip install "headrace[wandb]"`, and WANDB_API_KEY or a line in ~/.netrc."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str = Field(default="headrace", min_length=1)
    """Made where it does not exist."""
    entity: str | None = None
    """User or team; null = the one that the key belongs to."""
    group: str | None = None
    """Runs of one group are shown together."""
    tags: tuple[str, ...] = ()
    """Words to find the run by."""
    mode: Literal["online", "offline"] = "online"
    """offline = files below the run's folder, without a network and a key; `wandb sync` sends them later."""


class MlflowConfig(BaseModel):
    """A run of MLflow; needs `pip install "headrace[mlflow]"`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tracking_uri: str | None = None
    """http(s)://host:port of a tracking server, or what else MLflow takes; null = MLFLOW_TRACKING_URI of the environment.
    User and password stand in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."""
    experiment: str = Field(default="headrace", min_length=1)
    """Made where it does not exist."""

    @field_validator("tracking_uri")
    @classmethod
    def _holds_no_secret(cls, uri: str | None) -> str | None:
        if uri is not None and "@" in urlsplit(uri).netloc:
            raise ValueError(
                "it holds a user or a password, and a recipe is copied and logged; leave them to "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of the environment"
            )
        return uri


class SinksConfig(BaseModel):
    """Each one that is named gets every line of metrics.jsonl and evaluations.jsonl; none can slow or stop the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensorboard: TensorBoardConfig | None = None
    """`sinks.tensorboard={}` turns it on."""
    wandb: WandbConfig | None = None
    """`sinks.wandb={}`, or `sinks.wandb.project=NAME`."""
    mlflow: MlflowConfig | None = None
    """`sinks.mlflow={}`, or `sinks.mlflow.tracking_uri=http://host:port`."""
    queue_lines: int = Field(default=1000, ge=1)
    """Lines that wait for a slow sink, of each; one more is dropped. 1,000 steps outlast any hiccup of a service."""
    close_s: float = Field(default=30.0, gt=0)
    """At the end of a run, how long to wait for what is still queued, for all sinks together."""
