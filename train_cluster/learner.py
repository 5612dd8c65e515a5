"""The learner: one step of reinforcement learning from one committed batch."""

from typing import Any

from experience.schema import BatchRecord
from train_cluster.config import TrainingConfig
from train_cluster.engine import TrainEngine
from train_cluster.report import StepReport


class Learner:
    """Turns committed batches into optimizer updates; what it does is a pure function of its state and the record."""

    def __init__(self, engine: TrainEngine, *, config: TrainingConfig) -> None:
        self._engine = engine
        self._config = config

    def step(self, record: BatchRecord) -> StepReport:
        """(collective) Train one batch."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """JSON: everything that a resume needs beside the engine's tensors."""
        raise NotImplementedError

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`. ValueError: a state of a newer version."""
        raise NotImplementedError
