"""The loop of supervised training: shuffled batches over packed rows, held-out evaluation, checkpoints, a clean stop.

What is trained on, and by which loss, is an `Objective`: examples in fine-tuning, pairs in a reward model.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from train_cluster import packing
from train_cluster.engine import TrainEngine
from train_cluster.learner import seed_generators
from train_cluster.schedule import total_steps, warmed_up
from train_cluster.supervised.config import StageConfig
from train_cluster.supervised.cuts import StageCuts

EVALUATED_AT_ONCE = 1024
"""Held-out units packed together: enough for full rows, few enough for the packing to take no time."""

U = TypeVar("U")
U_contra = TypeVar("U_contra", contravariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """What one packed row adds to a batch. The loop divides both by the weight of the batch over all ranks."""

    loss: torch.Tensor
    """[] with its gradient, nats."""
    measures: Mapping[str, torch.Tensor | float] = field(default_factory=dict)
    """{name: detached sum}, of exactly the objective's `measures`."""


class Objective(Protocol[U_contra]):
    """The loss over units: what a row is made of, and never splits.

    measures         names of what `sums` gives beside the loss ("accuracy", say), in one order on all ranks
    tokens(unit)     tokens that a forward pass is fed for it; at least 1
    weight(unit)     what it adds to the denominator of loss and measures: its trained tokens, or 1 for a pair; at least 1
    sums(engine, units)
                     (collective) exactly one call of `engine.forward`, on one packed row of these units. None make an
                     empty row, which still runs and weighs 0: under ZeRO-3 every rank must call forward equally often.
                     Called in training and, without gradient and in eval mode, on held-out units.
    """

    measures: tuple[str, ...]

    def tokens(self, unit: U_contra) -> int: ...

    def weight(self, unit: U_contra) -> int: ...

    def sums(self, engine: TrainEngine, units: Sequence[U_contra]) -> Sums: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StageReport:
    """One step; step 0 is the look at the held-out units before the first."""

    step: int
    total: int
    loss: float | None = None
    """Mean over the weight of the step's batch, before its update; None at step 0."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """The same of the objective's measures."""
    weight: int = 0
    """Trained tokens, or pairs."""
    learning_rate: float = 0.0
    grad_norm: float = 0.0
    """Before clipping."""
    held_out: Mapping[str, float] = field(default_factory=dict)
    """{"loss" and each measure: mean over the held-out weight}, after the step; empty where nobody looked."""

    def as_dict(self) -> dict[str, Any]:
        """JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    step: int
    """The last one trained."""
    total: int
    loss: float | None
    """Of that step; None: none was trained."""
    held_out: Mapping[str, float]
    """At the newest look; empty without held-out units."""
    held_out_before: Mapping[str, float]
    """Before the first step."""

    @property
    def finished(self) -> bool:
        """False: it was asked to stop, and a checkpoint of `step` is written."""
        return self.step == self.total

    def as_dict(self) -> dict[str, Any]:
        """JSON."""
        return asdict(self) | {"finished": self.finished}


Progress = Callable[[StageReport], None]


def members_of(step: int, *, units: int, batch_units: int, seed: int) -> list[int]:
    """Units of a step, which counts from 1: every epoch a shuffle of its own, a function of (seed, epoch)."""
    epoch, batch = divmod(step - 1, -(-units // batch_units))
    return _order(units, epoch, seed)[batch * batch_units : (batch + 1) * batch_units].tolist()


@lru_cache(maxsize=1)
def _order(units: int, epoch: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(units)


def train(
    engine: TrainEngine,
    objective: Objective[U],
    units: Sequence[U],
    *,
    held_out: Sequence[U] = (),
    config: StageConfig,
    batch_units: int,
    micro_batch_tokens: int,
    seed: int,
    cuts: StageCuts | None = None,
    progress: Progress = lambda report: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Outcome:
    """(collective) All steps after the newest cut of `cuts`, or all; ends early, with a cut, once `stopping` on any rank.

    progress: after each step, on every rank alike. FloatingPointError: a loss or gradient that is not finite; nothing of
    the engine is usable then. The weights are a function of the arguments but for cuts, progress and stopping, and of
    the world size and thread count.
    """
    loop = _Loop(engine, objective, units, held_out, micro_batch_tokens=micro_batch_tokens)
    total = total_steps(len(units), batch_units=batch_units, epochs=config.epochs)
    step, state = cuts.resume() if cuts else (0, {})
    if not state:
        before = loop.evaluate()
        progress(StageReport(step=0, total=total, held_out=before))
        state = {"loss": None, "held_out": before, "held_out_before": before}
    while step < total:
        step += 1
        members = members_of(step, units=len(units), batch_units=batch_units, seed=seed)
        if cuts:
            cuts.check()
        seed_generators(_step_seed(seed, step), rank=engine.rank)
        rate = warmed_up(step, peak=config.learning_rate, warmup_steps=config.warmup_steps)
        wishes = (stopping(), bool(cuts and cuts.overdue(config.checkpoint_s)))
        made, (stop, overdue) = loop.update(step, members, learning_rate=rate, wishes=wishes)
        looks = step == total or (config.eval_steps is not None and step % config.eval_steps == 0)
        found = loop.evaluate() if looks else {}
        state |= {"loss": made["loss"]} | ({"held_out": found} if found else {})
        progress(_report(step, total, made, learning_rate=rate, held_out=found))
        stop = stop and step < total
        if cuts and step < total and (stop or overdue or step % config.checkpoint_steps == 0):
            cuts.save(step, state)
        if stop:
            break
    if cuts:
        cuts.wait()
    return Outcome(step=step, total=total, **state)


class _Loop(Generic[U]):
    """Updates and evaluations of one objective on one engine."""

    def __init__(
        self,
        engine: TrainEngine,
        objective: Objective[U],
        units: Sequence[U],
        held_out: Sequence[U],
        *,
        micro_batch_tokens: int,
    ) -> None:
        self._engine, self._objective, self._capacity = engine, objective, micro_batch_tokens
        self._units, self._held_out = units, held_out
        self._tokens = [objective.tokens(unit) for unit in units]
        self._device = next(engine.module.parameters()).device
        self._names = ("loss", *objective.measures)

    def update(
        self, step: int, members: Sequence[int], *, learning_rate: float, wishes: tuple[bool, bool]
    ) -> tuple[dict[str, float], tuple[bool, bool]]:
        """(collective) One optimizer update: its means and facts, and which wishes any rank has."""
        weight = sum(self._objective.weight(self._units[i]) for i in members)
        self._engine.module.train()
        local = self._zeros(len(self._names) + len(wishes))
        for row in self._rows(self._units, self._tokens, members):
            sums = self._objective.sums(self._engine, row)
            self._engine.backward(sums.loss / weight)
            local[: len(self._names)] += self._vector(sums)
        local[len(self._names) :] = torch.tensor(wishes, dtype=torch.float64)
        *totals, first, second = self._engine.sum(local).tolist()
        norm = self._engine.step(learning_rate=learning_rate)
        means = {name: value / weight for name, value in zip(self._names, totals, strict=True)}
        if not (math.isfinite(means["loss"]) and math.isfinite(norm)):
            raise FloatingPointError(
                f"step {step}: loss {means['loss']}, gradient norm {norm}; lower the learning rate"
            )
        return means | {"grad_norm": norm, "weight": weight}, (first > 0, second > 0)

    def evaluate(self) -> dict[str, float]:
        """(collective) Means over the held-out units, as the weights are; nothing is drawn at random."""
        if not self._held_out:
            return {}
        self._engine.module.eval()
        local = self._zeros(len(self._names))
        with torch.no_grad():
            for start in range(0, len(self._held_out), EVALUATED_AT_ONCE):
                chunk = self._held_out[start : start + EVALUATED_AT_ONCE]
                tokens = [self._objective.tokens(unit) for unit in chunk]
                for row in self._rows(chunk, tokens, range(len(chunk))):
                    local += self._vector(self._objective.sums(self._engine, row))
        weight = sum(self._objective.weight(unit) for unit in self._held_out)
        return dict(zip(self._names, (self._engine.sum(local) / weight).tolist(), strict=True))

    def _rows(self, units: Sequence[U], tokens: Sequence[int], members: Sequence[int]) -> Iterator[list[U]]:
        """This rank's rows; every rank has equally many."""
        packed = packing.plan(members, tokens, world_size=self._engine.world_size, capacity=self._capacity)
        return ([units[i] for i in row] for row in packed.rows[self._engine.rank])

    def _vector(self, sums: Sums) -> torch.Tensor:
        values = (sums.loss.detach(), *(sums.measures[name] for name in self._names[1:]))
        return torch.stack([torch.as_tensor(v, dtype=torch.float64, device=self._device) for v in values])

    def _zeros(self, count: int) -> torch.Tensor:
        """Kept on the device: to ask for a number is to wait for it."""
        return torch.zeros(count, dtype=torch.float64, device=self._device)


def _report(
    step: int, total: int, made: Mapping[str, float], *, learning_rate: float, held_out: Mapping[str, float]
) -> StageReport:
    own = ("loss", "grad_norm", "weight")
    return StageReport(
        step=step,
        total=total,
        loss=made["loss"],
        measures={name: value for name, value in made.items() if name not in own},
        weight=int(made["weight"]),
        learning_rate=learning_rate,
        grad_norm=made["grad_norm"],
        held_out=held_out,
    )


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
