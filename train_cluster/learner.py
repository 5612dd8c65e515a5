"""The learner: one step of reinforcement learning from one committed batch."""

import logging
import math
from collections import defaultdict
from typing import Any

import numpy as np
import torch

from experience.schema import BatchRecord
from train_cluster import batch as batches
from train_cluster import kl
from train_cluster.actor import Actor
from train_cluster.algorithm import Algorithm
from train_cluster.config import GrpoConfig, TrainingConfig
from train_cluster.engine import TrainEngine
from train_cluster.grpo import Grpo
from train_cluster.measures import OBSERVED, Stopwatch, Totals, make_report
from train_cluster.pieces import plan_updates
from train_cluster.ppo import Ppo
from train_cluster.report import StepReport
from train_cluster.schedule import warmed_up

logger = logging.getLogger(__name__)

STATE_VERSION = 1


class Learner:
    """Turns committed batches into optimizer updates; a pure function of its state, the engines' and the record.

    Knows neither queues nor processes. Every rank is given the same records; the engines add up what they find.
    """

    def __init__(self, engine: TrainEngine, *, config: TrainingConfig, critic: TrainEngine | None = None) -> None:
        """`critic`: for PPO, on the same ranks. ValueError: it is missing."""
        self._engine, self._config = engine, config
        self._actor = Actor(engine, config=config)
        self._algorithm = _algorithm(engine, critic, config)
        self._kl = config.kl_in_force
        self._steps = 0
        self._kl_coefficient = self._kl.coefficient
        if (self._kl.where, self._kl.estimator) == ("loss", "k1"):
            logger.warning(
                "k1 in the loss has no expected gradient: the reference will not hold the policy; use k2 or k3"
            )

    def step(self, record: BatchRecord) -> StepReport:
        """(collective) Train one batch.

        ValueError: the record does not follow the last one trained, or cannot be trained on. FloatingPointError: a
        loss or gradient that is not finite; the parameters are then undefined and must not be published.
        """
        if record.number != self._steps + 1:
            raise ValueError(f"batch {record.number} was given after step {self._steps}; {self._steps + 1} is next")
        watch, observed, made = Stopwatch(), Totals(), defaultdict[str, float](float)
        with watch.phase("unpack"):
            batch = batches.build(record)
            self._check_reference(batch)
            updates = plan_updates(batch, engine=self._engine, config=self._config)
            passes = updates * self._config.epochs_in_force
        seed_generators(record.seed, rank=self._engine.rank)
        policy_step = self._algorithm.policy_step(record.number)
        with watch.phase("proximal"):
            if self._actor.needs_proximal_pass(len(passes)) or policy_step < 1:
                self._actor.proximal_pass(updates, observed)
        coefficient = self._kl_coefficient * record.controls.kl_scale
        in_reward = coefficient if self._kl.where == "reward" else 0.0
        self._algorithm.credit(batch, updates, kl_coefficient=in_reward, watch=watch)
        learning_rate = self._learning_rate(policy_step, record)
        try:
            for update in passes:
                if policy_step >= 1:
                    with watch.phase("actor"):
                        self._actor.update(
                            update,
                            controls=record.controls,
                            kl_coefficient=coefficient,
                            learning_rate=learning_rate,
                            observed=observed,
                            made=made,
                        )
                self._algorithm.update(update, watch=watch)
        except FloatingPointError as error:
            raise FloatingPointError(f"step {record.number}: {error}") from error
        report = make_report(
            record,
            batch,
            observed=observed.reduced(self._engine, OBSERVED),
            updates=made,
            critic=self._algorithm.report(),
            kl_coefficient=coefficient,
            learning_rate=learning_rate,
            seconds=watch.seconds,
        )
        self._finish(report)
        return report

    def state(self) -> dict[str, Any]:
        """JSON: with the engines' tensors, all that a resume needs to go on bit for bit."""
        return {"version": STATE_VERSION, "steps": self._steps, "kl": {"coefficient": self._kl_coefficient}}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`. ValueError: a state of another version."""
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"learner state has version {state.get('version')}, this one reads {STATE_VERSION}")
        self._steps = int(state["steps"])
        self._kl_coefficient = float(state["kl"]["coefficient"])

    def _check_reference(self, batch: batches.TrainBatch) -> None:
        if self._kl.where != "none" and not batch.reference_logprobs:
            raise ValueError("kl.where: the batch has no reference log-probs; configure a reference, or set it to none")

    def _learning_rate(self, policy_step: int, record: BatchRecord) -> float:
        """Of the policy; 0 in the steps that train the critic alone."""
        optimizer = self._config.optimizer
        peak = optimizer.learning_rate * record.controls.learning_rate_scale
        return warmed_up(policy_step, peak=peak, warmup_steps=optimizer.warmup_steps) if policy_step >= 1 else 0.0

    def _finish(self, report: StepReport) -> None:
        for name, loss in (("loss", report.loss), ("critic's loss", report.critic.loss if report.critic else 0.0)):
            if not math.isfinite(loss):
                raise FloatingPointError(f"step {report.step}: the {name} is {loss}; nothing of this step is usable")
        if self._kl.adaptive and self._kl.where != "none" and report.updates:
            self._kl_coefficient = kl.next_coefficient(
                self._kl_coefficient,
                kl=report.kl_per_response,
                target=self._kl.target_nats,
                initial=self._kl.coefficient,
            )
        self._steps = report.step


def _algorithm(engine: TrainEngine, critic: TrainEngine | None, config: TrainingConfig) -> Algorithm:
    settings, estimator = config.algorithm, config.kl_in_force.estimator
    if isinstance(settings, GrpoConfig):
        return Grpo(engine, config=settings, estimator=estimator)
    if critic is None:
        raise ValueError("algorithm.kind = ppo: needs a critic beside the policy; give one, or set it to grpo")
    return Ppo(critic, config=settings, estimator=estimator)


def seed_generators(seed: int, *, rank: int) -> None:
    """Make this rank's randomness a function of (seed, rank) alone."""
    torch.manual_seed(int(np.random.SeedSequence([seed, rank]).generate_state(1, np.uint64)[0] >> 1))
