"""All sinks of a run: each line of its figures goes to each of them."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.config import Recipe, flatten
from orchestrator.folder import RunFolder
from orchestrator.sinks.channel import Channel
from orchestrator.sinks.identities import Identities
from orchestrator.sinks.sink import Sink, figures


class Sinks:
    """step(line), evaluated(line), event(text), ended(state): none of them blocks or raises. Without sinks they do nothing."""

    def __init__(self, channels: Mapping[str, Channel], *, close_s: float = 0.0) -> None:
        self._channels, self._close_s = dict(channels), close_s
        self._step = 0
        self._state = "failed"

    def step(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        self._step = int(line["step"])
        self._write("train", line)

    def evaluated(self, line: Mapping[str, Any]) -> None:
        """A line of evaluations.jsonl."""
        self._write("eval", line)

    def event(self, text: str) -> None:
        for channel in self._channels.values():
            channel.event(self._step, text)

    def ended(self, state: str) -> None:
        """completed, stopped or failed; without it, failed."""
        self._state = state

    def close(self) -> None:
        """Return when all is written, or after close_s."""
        deadline = time.monotonic() + self._close_s
        for channel in self._channels.values():
            channel.end(self._state)
        for channel in self._channels.values():
            channel.finished(deadline)

    def _write(self, prefix: str, line: Mapping[str, Any]) -> None:
        if self._channels:
            named = figures(line, prefix=prefix)
            for channel in self._channels.values():
                channel.write(int(line["step"]), named)


NO_SINKS = Sinks({})


def _nothing() -> None:
    """To be done for a sink whose threads end with the process."""


def _abandon_wandb() -> None:
    from orchestrator.sinks.to_wandb import abandon

    abandon()


_ABANDON: Mapping[str, Callable[[], None]] = {"wandb": _abandon_wandb}
"""Of a sink that keeps more than threads."""


@contextmanager
def open_sinks(recipe: Recipe, folder: RunFolder, *, epoch: int, warn: Callable[[str], None]) -> Iterator[Sinks]:
    """Those that the recipe names. `warn`: of each at most once, from any thread."""
    config = recipe.sinks
    channels = {
        name: Channel(name, open_sink, lines=config.queue_lines, warn=warn, abandon=_ABANDON.get(name, _nothing))
        for name, open_sink in _makers(recipe, folder).items()
    }
    sinks = Sinks(channels, close_s=config.close_s)
    sinks.event(f"life {epoch} begins")
    try:
        yield sinks
    finally:
        sinks.close()


def _makers(recipe: Recipe, folder: RunFolder) -> dict[str, Callable[[], Sink]]:
    """By name; what they import is loaded when they are called."""
    from orchestrator.sinks.to_mlflow import MlflowSink
    from orchestrator.sinks.to_tensorboard import TensorBoardSink
    from orchestrator.sinks.to_wandb import WandbSink

    config, ids, name = recipe.sinks, Identities(folder), folder.run_id
    hyperparameters = flatten(recipe)  # of a recipe, which holds no secrets
    makers: dict[str, Callable[[], Sink]] = {}
    if config.tensorboard is not None:
        where = Path(config.tensorboard.folder) / name if config.tensorboard.folder else folder.path / "tensorboard"
        makers["tensorboard"] = partial(TensorBoardSink, where, hyperparameters=hyperparameters)
    if config.wandb is not None:
        drawn = ids.drawn("wandb")
        makers["wandb"] = partial(
            WandbSink, config.wandb, name=name, run_id=drawn, folder=folder.path, hyperparameters=hyperparameters
        )
    if config.mlflow is not None:
        makers["mlflow"] = partial(
            MlflowSink,
            config.mlflow,
            name=name,
            run_id=ids.known("mlflow"),
            keep=partial(ids.keep, "mlflow"),
            hyperparameters=hyperparameters,
        )
    return makers
