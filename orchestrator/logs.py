"""Structured logs: JSON lines, one file a process.

Lines of all processes are correlated by the keys that every call of any package uses for the same thing in its `extra`:

    step       of training; a batch and a checkpoint have the number of their step
    group      the sequence of one group; `groups`: a list of them
    version    of the weights, as text: lineage/epoch/number

`run` and `worker` are on every line.
"""

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.disk import append_whole

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, run, worker, event, and whatever `extra` the call gave."""

    def __init__(self, *, run: str, worker: str) -> None:
        super().__init__()
        self._run, self._worker = run, worker

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "run": self._run,
            "worker": self._worker,
            "event": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD and key[0] != "_"}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _WholeLines(logging.Handler):
    """Appends to a file; a line that it cannot write is left out whole."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("ab", buffering=0)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            append_whole(self._file, self.format(record).encode() + b"\n")
        except Exception:  # as logging's own handlers do
            self.handleError(record)

    def close(self) -> None:
        self._file.close()
        super().close()


def configure(folder: Path, *, run: str, worker: str, level: int = logging.INFO) -> Path:
    """Send this process's log to `<folder>/<worker>.jsonl` (appended: a worker's later lives follow its earlier ones)."""
    path = folder / f"{worker}.jsonl"
    handler = _WholeLines(path)
    handler.setFormatter(JsonLines(run=run, worker=worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.raiseExceptions = False  # a full disk refuses lines: no reason to end, nor for a traceback each
    return path


def hush_libraries() -> None:
    """Keep what torch, torchao and transformers say while they are imported off a person's terminal."""
    import torch.utils._pytree  # sets up torch's own handlers, which would undo a level set before  # noqa: F401
    from transformers.utils import logging as of_transformers

    of_transformers.disable_progress_bar()
    for name in ("torch", "torchao", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    import transformers.utils.logging  # which may have read the environment long before

    transformers.utils.logging.disable_progress_bar()
