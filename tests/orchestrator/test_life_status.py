"""What a life's status says before its first tick: that it starts, and why it ended if it got no further."""

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from orchestrator_recipes import a_recipe, an_issuer

from experience.buffer import Fenced
from experience.server import ServerFailed
from orchestrator import life
from orchestrator.console import Console
from orchestrator.errors import RunFailed
from orchestrator.folder import RunFolder

Begin = Callable[[BaseException], dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Of a run whose last life failed at step 3."""
    folder = RunFolder(tmp_path / "trial")
    folder.create()
    folder.write_json(folder.status, {"run": "trial", "state": "failed", "cause": "a scorer kept dying", "step": 3})
    return folder


@pytest.fixture
def begin(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """begin(error): live until the first thing that a life does, which raises; what the status said by then."""
    handlers, level, raising = logging.root.handlers[:], logging.root.level, logging.raiseExceptions
    on_term = signal.getsignal(signal.SIGTERM)

    def begin(error: BaseException) -> dict[str, Any]:
        said: dict[str, Any] = {}

        def first(*_: Any, **__: Any) -> NoReturn:
            said.update(json.loads(folder.status.read_text()))
            raise error

        monkeypatch.setattr(life, "claim_epoch", first)
        recipe = a_recipe()
        with pytest.raises((type(error), RunFailed)), Console(quiet=True) as console:
            life.live(recipe, folder, issuer=an_issuer(recipe), console=console)
        return said

    yield begin
    for handler in logging.root.handlers:
        handler.close()
    logging.root.handlers[:], logging.raiseExceptions = handlers, raising
    logging.root.setLevel(level)
    signal.signal(signal.SIGTERM, on_term)


def test_a_life_says_at_once_that_it_starts_and_nothing_of_the_one_before(begin: Begin) -> None:
    said = begin(OSError(5, "Input/output error"))
    assert (said["state"], said["cause"], said["pid"], said["steps"]) == ("starting", "", os.getpid(), 4)
    assert "step" not in said


@pytest.mark.parametrize(
    ("error", "state", "cause"),
    [
        (OSError(5, "cannot write /x: Input/output error"), "failed", "cannot write /x: Input/output error"),
        (ServerFailed("redis-server did not start"), "failed", "redis-server did not start"),
        (Fenced("run epoch 1, the newest is 2"), "failed", "run epoch 1, the newest is 2"),
        (ValueError("the ledger is of another run"), "failed", "the ledger is of another run"),
        (KeyboardInterrupt(), "stopped", ""),
    ],
)
def test_a_life_that_ends_before_its_first_tick_says_why(
    begin: Begin, folder: RunFolder, error: BaseException, state: str, cause: str
) -> None:
    begin(error)
    status = folder.read_status()
    assert status["state"] == state
    assert cause in status["cause"]
