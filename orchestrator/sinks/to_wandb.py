"""A run at Weights & Biases."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.sinks.config import WandbConfig


class WandbSink:
    """All lives of a run go on with one run there, by its id. Of this machine it is told nothing but its name: no code, no
    git, no output, no requirements.
    """

    def __init__(
        self, config: WandbConfig, *, name: str, run_id: str, folder: Path, hyperparameters: Mapping[str, Any]
    ) -> None:
        """`run_id`: the same in all lives. `folder`: for its files."""
        import wandb  # optional: the extra of this name

        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            group=config.group,
            tags=list(config.tags) or None,
            name=name,
            id=run_id,
            resume="allow" if config.mode == "online" else None,  # offline there is nobody to ask; the id joins them
            mode=config.mode,
            dir=str(folder),
            config=dict(hyperparameters),
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        # Its own counter only rises, and would refuse steps that come again after a restart.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({"step": step, **figures})

    def event(self, step: int, text: str) -> None:
        self._run.log({"step": step, "event": text})

    def close(self, state: str) -> None:
        self._run.summary["state"] = state
        self._run.finish(exit_code=1 if state == "failed" else 0)


def abandon() -> None:
    """End the service that its library keeps beside this process, whose exit would else wait until all is sent, for days if
    need be. What was not sent stays in its files, from which `wandb sync` sends it. Private names, all of them here.
    """
    from wandb.sdk import wandb_setup

    connection = wandb_setup.singleton()._connection
    if connection is not None and connection._proc is not None:
        connection._cleanup()  # takes back its hook at the exit, which would complain of a service that is gone
        connection._proc._process.kill()
