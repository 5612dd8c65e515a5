"""Sinks: what reaches them, through the real libraries where these are installed, and that none can hurt a run. 10 s.

TensorBoard is part of the pinned stack. wandb and mlflow-skinny are not (their closures would move pinned packages): where
they are absent, their tests say so.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from orchestrator_recipes import a_recipe

from orchestrator import preflight
from orchestrator.folder import RunFolder
from orchestrator.recipe import RecipeError
from orchestrator.sinks import check
from orchestrator.sinks.channel import Channel, describe
from orchestrator.sinks.config import SinksConfig
from orchestrator.sinks.identities import Identities
from orchestrator.sinks.metrics import DROPPED
from orchestrator.sinks.sink import figures
from orchestrator.sinks.sinks import Sinks, open_sinks
from weightstore.blobs import StoreError

PATIENCE_S = 60.0
AT_ONCE_S = 2.0
"""A call that only queues, on a busy machine."""


def dropped(name: str) -> float:
    return float(DROPPED.labels(name)._value.get())


class Recorder:
    """Keeps what it gets; raises at the steps in `refuses`, and waits for `gate` first."""

    def __init__(self, *, refuses: tuple[int, ...] = (), gate: threading.Event | None = None) -> None:
        self.refuses, self.gate = refuses, gate
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.events: list[tuple[int, str]] = []
        self.state = ""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        if self.gate is not None:
            self.gate.wait()
        if step in self.refuses:
            raise ConnectionError("https://user:secret@host refused")
        self.lines.append((step, dict(figures)))

    def event(self, step: int, text: str) -> None:
        self.events.append((step, text))

    def close(self, state: str) -> None:
        self.state = state


def sinks_of(close_s: float = PATIENCE_S, **recorders: Any) -> tuple[Sinks, list[str]]:
    told: list[str] = []
    channels = {
        name: Channel(name, one if callable(one) else lambda one=one: one, lines=4, warn=told.append)
        for name, one in recorders.items()
    }
    return Sinks(channels, close_s=close_s), told


# -- what reaches a sink --------------------------------------------------------------------------------------------
def test_a_line_becomes_numbers_by_name():
    line = {
        "time": "2026-01-01", "step": 3, "loss": 0.5, "clipped": True, "critic": {"loss": 2}, "worst": None,
        "reward_components": {"exact:match": 0.25}, "lengths": [1, 2],
    }  # fmt: skip
    assert figures(line, prefix="train") == {
        "train/loss": 0.5,
        "train/clipped": 1.0,
        "train/critic/loss": 2,
        "train/reward_components/exact_match": 0.25,
    }


def test_every_sink_gets_every_line_and_event_in_order_and_the_last_word():
    one, other = Recorder(), Recorder()
    sinks, told = sinks_of(one=one, other=other)
    sinks.event("life 1 begins")
    sinks.step({"step": 1, "loss": 2.0})
    sinks.evaluated({"step": 1, "win_rate": 0.5})
    sinks.event("restarted: trainer, 1 in this life")
    sinks.ended("completed")
    sinks.close()
    for recorder in (one, other):
        assert recorder.lines == [(1, {"train/loss": 2.0}), (1, {"eval/win_rate": 0.5})]
        assert recorder.events == [(0, "life 1 begins"), (1, "restarted: trainer, 1 in this life")]
        assert recorder.state == "completed"
    assert told == []


# -- faults ---------------------------------------------------------------------------------------------------------
def test_one_that_raises_loses_that_line_alone_and_is_told_of_once_without_its_words():
    before, broken, sound = dropped("broken"), Recorder(refuses=(1, 2)), Recorder()
    sinks, told = sinks_of(broken=broken, sound=sound)
    for step in (1, 2, 3):
        sinks.step({"step": step, "loss": 1.0})
    sinks.close()
    assert [step for step, _ in broken.lines] == [3], "the next one is tried again"
    assert [step for step, _ in sound.lines] == [1, 2, 3], "the others get all"
    assert dropped("broken") - before == 2
    (line,) = told
    assert line.startswith("sinks.broken: ConnectionError; figures are missing there, the run goes on")
    assert "secret" not in line
    assert broken.state == "failed", "nobody said how it ended"


def test_one_that_hangs_or_is_slow_never_holds_the_run_up():
    never, before, sound = threading.Event(), dropped("hung"), Recorder()
    hung = Recorder(gate=never)
    sinks, told = sinks_of(close_s=0.3, hung=hung, sound=sound)
    began = time.monotonic()
    for step in range(50):
        sinks.step({"step": step, "loss": 1.0})
        if step % 4 == 3:
            wait_for(lambda step=step: len(sound.lines) == step + 1)
    sinks.ended("completed")
    assert time.monotonic() - began < AT_ONCE_S * 13
    began = time.monotonic()
    sinks.close()
    assert time.monotonic() - began < AT_ONCE_S + 0.3
    assert len(sound.lines) == 50
    assert dropped("hung") - before >= 45, "four wait in the queue, one is in hand"
    (line,) = told
    assert "its queue is full (sinks.queue_lines)" in line
    never.set()


def wait_for(true: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_one_that_cannot_be_opened_takes_nothing_and_says_why_once():
    def refuses() -> Recorder:
        try:
            raise OSError("key 1234")
        except OSError as error:
            raise RuntimeError("no") from error

    before = dropped("closed")
    sinks, told = sinks_of(closed=refuses)
    sinks.step({"step": 1, "loss": 1.0})
    sinks.close()
    assert dropped("closed") - before == 1
    assert told == [
        "sinks.closed: RuntimeError after OSError; figures are missing there, the run goes on (metrics.jsonl has all)"
    ]
    assert describe(ValueError("x")) == "ValueError"


# -- before a run starts --------------------------------------------------------------------------------------------
def test_a_missing_package_or_key_is_refused_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = SinksConfig.model_validate({"tensorboard": {}, "wandb": {"mode": "offline"}, "mlflow": {}})
    lines = check.problems(config, {})
    assert [line.partition(";")[2].partition(",")[0].strip() for line in lines] == [
        f'pip install "headrace[{name}]"' for name in ("tensorboard", "wandb", "mlflow")
    ]
    with pytest.raises(RecipeError, match=r"sinks.wandb = on: the package wandb is not installed; pip install"):
        preflight.plan(a_recipe(sinks__wandb__mode="offline"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    online = SinksConfig.model_validate({"wandb": {}})
    nowhere = {"NETRC": str(tmp_path / "netrc")}
    (line,) = check.problems(online, nowhere)
    assert line.startswith("sinks.wandb.mode = online: there is no key")
    assert check.problems(online, {**nowhere, "WANDB_API_KEY": "k"}) == []
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password k\n")
    (tmp_path / "netrc").chmod(0o600)
    assert check.problems(online, nowhere) == []
    assert len(check.problems(online, {**nowhere, "WANDB_BASE_URL": "https://elsewhere"})) == 1


def test_a_password_in_the_address_is_refused():
    with pytest.raises(ValueError, match="a recipe is copied and logged"):
        SinksConfig.model_validate({"mlflow": {"tracking_uri": "https://joe:sesame@host"}})


def test_ids_are_kept_from_life_to_life(tmp_path):
    folder = RunFolder(tmp_path)
    first = Identities(folder).drawn("wandb")
    Identities(folder).keep("mlflow", "abc")
    assert Identities(folder).drawn("wandb") == first
    assert json.loads(folder.sinks.read_text()) == {"wandb": first, "mlflow": "abc"}
    folder.sinks.write_text("[")
    assert Identities(folder).known("mlflow") == ""


def test_an_id_that_cannot_be_kept_ends_no_run(tmp_path, monkeypatch, caplog):
    folder = RunFolder(tmp_path)
    ids = Identities(folder)
    with monkeypatch.context() as full:
        full.setattr(RunFolder, "write", _no_room)
        drawn = ids.drawn("wandb")
    assert ids.drawn("wandb") == drawn
    assert Identities(folder).known("wandb") == ""
    assert "was not kept" in caplog.text


def _no_room(*_: object) -> None:
    raise StoreError(28, "cannot write sinks.json: No space left on device")


# -- the real libraries ---------------------------------------------------------------------------------------------
def two_lives(folder: RunFolder, **sinks: Any) -> list[str]:
    """Steps 1 to 3 with an evaluation, then, in a second life, 3 and 4; what was warned of."""
    folder.create()
    told: list[str] = []
    recipe = a_recipe(**{f"sinks__{name}": value for name, value in sinks.items()}, sinks__close_s=PATIENCE_S)
    for epoch, steps in ((1, (1, 2, 3)), (2, (3, 4))):
        with open_sinks(recipe, folder, epoch=epoch, warn=told.append) as opened:
            for step in steps:
                opened.step({"step": step, "loss": 10.0 * epoch + step, "critic": {"loss": 1.0}})
            opened.evaluated({"step": steps[-1], "win_rate": 0.5 + epoch / 10})
            opened.ended("stopped" if epoch == 1 else "completed")
    return told


def test_tensorboard_shows_both_lives(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert two_lives(RunFolder(tmp_path / "trial"), tensorboard={}) == []
    shown = EventAccumulator(str(tmp_path / "trial" / "tensorboard")).Reload()
    values = {name: [(one.step, one.value) for one in shown.Scalars(name)] for name in shown.Tags()["scalars"]}
    assert sorted(values["train/loss"]) == [(1, 11.0), (2, 12.0), (3, 13.0), (3, 23.0), (4, 24.0)]
    assert values["train/critic/loss"][0] == (1, 1.0)
    assert sorted(values["eval/win_rate"]) == [(3, pytest.approx(0.6)), (4, pytest.approx(0.7))]
    recipe = shown.Tensors("recipe")[0].tensor_proto.string_val[0].decode()
    assert "run.steps: 4" in recipe


def test_wandb_keeps_both_lives_offline_under_one_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not part of the pinned stack")
    for name, folder in (("WANDB_CACHE_DIR", "cache"), ("WANDB_CONFIG_DIR", "config"), ("WANDB_DATA_DIR", "data")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("WANDB_API_KEY", "canary" * 8)
    folder = RunFolder(tmp_path / "trial")
    assert two_lives(folder, wandb={"mode": "offline"}) == []
    identity = json.loads(folder.sinks.read_text())["wandb"]
    files = sorted((folder.path / "wandb").glob("offline-run-*/*.wandb"))
    assert [file.name for file in files] == [f"run-{identity}.wandb"] * 2
    for file in files:  # its own process writes on after the last call has returned
        wait_for(
            lambda file=file: b"eval/win_rate" in (content := file.read_bytes()) and b"train/critic/loss" in content
        )
    for file in folder.path.rglob("*"):
        assert file.is_dir() or b"canarycanary" not in file.read_bytes(), file


HANGING = """
import sys
from pathlib import Path
from orchestrator.folder import RunFolder
from orchestrator.sinks.sinks import open_sinks
from orchestrator_recipes import a_recipe
folder = RunFolder(Path(sys.argv[1]))
folder.create()
with open_sinks(a_recipe(sinks__wandb={}, sinks__close_s=5.0), folder, epoch=1, warn=print) as sinks:
    sinks.step({"step": 1, "loss": 1.0})
    sinks.ended("completed")
"""


def test_a_wandb_server_that_never_answers_does_not_keep_the_command_at_its_exit(tmp_path):
    """Its library would wait at the exit until all is sent."""
    pytest.importorskip("wandb", reason="wandb is not part of the pinned stack")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and answers none
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "a" * 40, "PYTHONPATH": paths}
        environment |= {f"WANDB_{name}_DIR": str(tmp_path / name) for name in ("CACHE", "CONFIG", "DATA")}
        command = [sys.executable, "-c", HANGING, str(tmp_path / "trial")]
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sinks.wandb: it did not end in time (sinks.close_s); figures are missing there")
    assert "Traceback" not in done.stderr


def test_mlflow_goes_on_with_the_run_that_the_first_life_began(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not part of the pinned stack")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    folder = RunFolder(tmp_path / "trial")
    assert two_lives(folder, mlflow={"tracking_uri": uri, "experiment": "tests"}) == []
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tests")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == json.loads(folder.sinks.read_text())["mlflow"]
    assert (run.info.run_name, run.info.status) == ("trial", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((one.step, one.value) for one in history) == [(1, 11.0), (2, 12.0), (3, 13.0), (3, 23.0), (4, 24.0)]
    assert run.data.params["run.steps"] == "4"


def test_tensorboards_folder_may_hold_several_runs(tmp_path):
    two_lives(RunFolder(tmp_path / "trial"), tensorboard={"folder": str(tmp_path / "all")})
    assert [path.name for path in Path(tmp_path / "all").iterdir()] == ["trial"]
