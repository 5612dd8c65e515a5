"""The scoring worker: completions in, scored groups out; stateless, so it may vanish at any time."""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from experience import wire
from experience.buffer import ExperienceBuffer, Lease
from experience.leases import LeaseKeeper
from experience.production import produced
from experience.schema import CompletionGroup, Int32Array, ScoredGroup
from experience.wall_clock import WallClock
from score_cluster import metrics
from score_cluster.answers import RewardFailed, answers_of
from score_cluster.config import ScoringConfig
from score_cluster.diversity import diversity
from score_cluster.judge import Judge, Judgement
from score_cluster.noise_floor import NoiseFloor
from score_cluster.reference import HfReference, Reference
from score_cluster.scoring import ScoringFailed, kl_of_version_zero, reference_values, scored

logger = logging.getLogger(__name__)

Work = tuple[Lease, CompletionGroup, Judgement]


def _noop(point: str, step: int) -> None: ...


class RewardsHang(RuntimeError):
    """So many calls never returned that only a new process frees what they hold; the message has the last of them."""


class ScoringWorker:
    """Leases groups of completions, scores them, and hands them on.

    takes      up to `groups_per_pass` entries of the stage "completions"
    waits for  `poll_interval_s` when there is none
    gives      a ScoredGroup for each, acknowledged and put in one atomic step
    fails      a group goes back with a reason; on its next delivery it is run alone, until it counts as poison
    raises     Fenced (a newer run exists), BufferUnavailable (the server is gone), and RewardsHang (too many calls of
               rewards never returned): the host decides
    """

    def __init__(
        self,
        config: ScoringConfig,
        *,
        name: str,
        model_path: str,
        buffer: ExperienceBuffer,
        lease_s: float,
        alone_limit: int,
        kl_target_nats: float | None = None,
        reached: Callable[[str, int], None] = _noop,
        began: float | None = None,
    ) -> None:
        """model_path: the policy's folder, for its tokenizer and as the default reference.

        kl_target_nats: what the trainer steers the KL per response to, if it does; the noise floor is compared with it.
        began: monotonic seconds, the beginning of this worker's life; None = now.
        """
        self._config = config
        self._name = name
        self._model_path = model_path
        self._buffer = buffer
        self._lease_s = lease_s
        self._alone_limit = alone_limit
        self._reached = reached
        self._found = False
        """Something, when it looked last."""
        self._wall = metrics.WALL.shows(WallClock(metrics.PHASES, began=began))
        self._keeper = LeaseKeeper(buffer, lease_s)
        self._floor = NoiseFloor(target_nats=kl_target_nats)
        self._reference: Reference | None = None
        self._reference_is_start = False
        """The policy began with the same weights, so that what their KL measures is noise."""
        self._status: dict[str, Any] = {"groups": 0, "failures": 0, "last_failure": ""}

    def setup(self) -> dict[str, Any]:
        """Load rewards, tokenizer and reference. ValueError: what the recipe names is missing or does not fit."""
        from transformers import AutoTokenizer  # seconds to import

        self._judge = Judge(self._config, model_path=self._model_path)
        self._hashes = self._judge.hashes
        self._tokenizer: Any = AutoTokenizer.from_pretrained(self._model_path, local_files_only=True)
        if self._config.reference is not None:
            threads = self._config.threads
            self._reference = HfReference(self._config.reference, model_path=self._model_path, threads=threads)
            folders = {
                os.path.realpath(path) for path in (self._model_path, self._config.reference.path or self._model_path)
            }
            self._reference_is_start = len(folders) == 1
        return {"component_hashes": self._hashes}

    def run(self, stop: threading.Event) -> None:
        """Step until told to stop; what is being scored then is finished first."""
        while not stop.is_set():
            self.step()

    def step(self) -> bool:
        """One pass over what can be leased; False if there was nothing."""
        self._wall.enter("other")
        leases = self._lease()
        if not leases:
            return False
        leased_at = time.monotonic()
        with self._keeper:
            self._keeper.hold(leases)
            self._pass([lease for lease in leases if not lease.suspect], leased_at)
            for lease in leases:  # drained: a suspect that takes the process down takes nothing else with it
                if lease.suspect and self._may_run_alone(lease):
                    self._pass([lease], leased_at)
        patience = self._judge.patience
        if patience.exhausted:  # now that nothing is held
            raise RewardsHang(f"{patience.left_behind} groups' rewards never returned: {self._status['last_failure']}")
        return True

    def status(self) -> dict[str, Any]:
        """Counts and wall time since the start, for the heartbeat; `kl_noise_floor` (nats a response) and `warning` once there
        are such."""
        floor = {} if self._floor.nats is None else {"kl_noise_floor": self._floor.nats}
        warning = {"warning": self._floor.warning} if self._floor.warning else {}
        return {**self._status, "wall": self._wall.told(), **floor, **warning}

    def _lease(self) -> list[Lease]:
        """After a pass that found something without waiting, so that waiting counts as such alone."""
        phase, wait_s = ("exchange", 0.0) if self._found else ("wait_completions", self._config.poll_interval_s)
        with self._wall.during(phase):
            leases = self._buffer.lease(
                "completions",
                worker=self._name,
                count=self._config.groups_per_pass,
                lease_s=self._lease_s,
                wait_s=wait_s,
            )
        self._found = bool(leases)
        return leases

    def _may_run_alone(self, lease: Lease) -> bool:
        with self._wall.during("exchange"):
            return self._buffer.begin_alone(lease, limit=self._alone_limit)

    def _pass(self, leases: Sequence[Lease], leased_at: float) -> None:
        """Score these together, hand on what succeeded, give back what failed."""
        if not leases:
            return
        started, cpu_s = time.monotonic(), time.process_time()
        with self._wall.during("rewards"):
            work = self._rewarded(leases)
            differ = [diversity([c.tokens for c in group.completions], judged.totals) for _, group, judged in work]
        logprobs = self._referenced(work)
        metrics.WORK_CPU_SECONDS.inc(time.process_time() - cpu_s)
        finished = time.monotonic()
        outputs: list[tuple[Lease, ScoredGroup]] = []
        for (lease, group, judgement), varied, answer in zip(work, differ, logprobs, strict=True):
            if isinstance(answer, ScoringFailed):
                self._give_back(lease, answer)
                continue
            record = scored(
                group,
                judgement=judgement,
                diversity=varied,
                component_hashes=self._hashes,
                reference_logprobs=answer,
                production=produced(lease, leased_at=leased_at, started_at=started, finished_at=finished),
            )
            outputs.append((lease, record))
        self._hand_on(outputs)
        metrics.observe_diversity(differ)
        metrics.PASS_SECONDS.observe(time.monotonic() - started)

    def _rewarded(self, leases: Sequence[Lease]) -> list[Work]:
        read: list[tuple[Lease, CompletionGroup]] = []
        for lease in leases:
            try:
                read.append((lease, _decoded(lease)))
            except ScoringFailed as error:
                self._give_back(lease, error)
        with metrics.REWARDS_SECONDS.time():
            judgements = self._judge.judge([answers_of(group, decode=self._text) for _, group in read])
        work: list[Work] = []
        for (lease, group), judgement in zip(read, judgements, strict=True):
            if isinstance(judgement, RewardFailed):
                failure = ScoringFailed(judgement.component, str(judgement))
                failure.__cause__ = judgement
                self._give_back(lease, failure)
            else:
                work.append((lease, group, judgement))
        return work

    def _referenced(self, work: Sequence[Work]) -> Sequence[Any]:
        """For each group its log-probs, a ScoringFailed, or None without a reference."""
        if self._reference is None or not work:
            return [None] * len(work)
        with metrics.REFERENCE_SECONDS.time(), self._wall.during("reference"):
            return reference_values(self._reference, [group for _, group, _ in work])

    def _hand_on(self, outputs: Sequence[tuple[Lease, ScoredGroup]]) -> None:
        for lease, _ in outputs:
            self._reached("score.group", lease.sequence)
        encoded = [(lease, wire.encode(record)) for lease, record in outputs]
        with self._wall.during("exchange"):
            done = self._buffer.advance(encoded)
        self._keeper.drop([lease for lease, _ in outputs])
        metrics.LATE.inc(done.count(False))
        self._count([record for (_, record), ours in zip(outputs, done, strict=True) if ours])

    def _count(self, records: Sequence[ScoredGroup]) -> None:
        if not records:
            return
        logger.info("groups scored", extra={"groups": [record.group.prompt.sequence for record in records]})
        self._status["groups"] += len(records)
        metrics.GROUPS.inc(len(records))
        metrics.SAMPLES.inc(sum(len(record.scores) for record in records))
        metrics.TOKENS.inc(sum(len(c.tokens) for record in records for c in record.group.completions))
        metrics.observe_rewards([score for record in records for score in record.scores])
        if self._reference_is_start:
            self._floor.add(kl_of_version_zero(records))

    def _give_back(self, lease: Lease, error: ScoringFailed) -> None:
        self._keeper.drop([lease])
        with self._wall.during("exchange"):
            self._buffer.release(lease, reason=str(error))
        self._status["failures"] += 1
        self._status["last_failure"] = str(error)
        metrics.FAILURES.labels(error.component).inc()
        extra = {"group": lease.sequence, "component": error.component, "deliveries": lease.deliveries}
        logger.warning("group given back", extra={**extra, "reason": str(error)}, exc_info=error.__cause__)

    def _text(self, tokens: Int32Array) -> str:
        return str(self._tokenizer.decode(tokens.tolist(), skip_special_tokens=True))


def _decoded(lease: Lease) -> CompletionGroup:
    try:
        return wire.decode(lease.data, CompletionGroup)
    except ValueError as error:
        raise ScoringFailed("record", f"group {lease.sequence} cannot be read: {error}") from error
