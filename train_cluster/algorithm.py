"""What differs from algorithm to algorithm; everything else of a step is the same for all (learner.py)."""

from typing import Protocol

from train_cluster.batch import TrainBatch
from train_cluster.measures import Stopwatch
from train_cluster.pieces import Update
from train_cluster.report import CriticReport


class Algorithm(Protocol):
    """credit ─▶ update, update … ─▶ report, in each step anew; all of them (collective)."""

    def policy_step(self, number: int) -> int:
        """Steps that the policy has been trained with and after this one; below 1 it is not trained in this step."""

    def credit(self, batch: TrainBatch, updates: list[Update], *, kl_coefficient: float, watch: Stopwatch) -> None:
        """Give every piece its advantages. `kl_coefficient`: of a penalty in the reward, 0 where there is none."""

    def update(self, update: Update, *, watch: Stopwatch) -> None:
        """Train what is trained beside the policy, on the same rows."""

    def report(self) -> CriticReport | None:
        """Of the step's critic."""
