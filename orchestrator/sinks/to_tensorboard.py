"""Event files for TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoardSink:
    """One event file a life. Steps that come again after a restart are written again: they carry the same numbers."""

    def __init__(self, folder: Path, *, hyperparameters: Mapping[str, Any]) -> None:
        """`folder`: of this run alone."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # optional: the extra `tensorboard`

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder))
        self._step = 0
        self._text("recipe", "\n".join(f"    {key}: {value}" for key, value in hyperparameters.items()), step=0)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._step = max(step, self._step)
        values = [Summary.Value(tag=name, simple_value=number) for name, number in figures.items()]
        self._add(step, summary=Summary(value=values))
        self._writer.flush()

    def event(self, step: int, text: str) -> None:
        self._text("events", text, step=step)
        self._writer.flush()

    def close(self, state: str) -> None:
        self.event(self._step, state)
        self._writer.close()

    def _text(self, tag: str, text: str, *, step: int) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(step, summary=text_pb(tag, text))

    def _add(self, step: int, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, **content))
