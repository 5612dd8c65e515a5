"""The scoring worker: completions in, scored groups out; stateless, so it may vanish at any time."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from experience import wire
from experience.buffer import ExperienceBuffer, Lease
from experience.leases import LeaseKeeper
from experience.schema import CompletionGroup, Int32Array, Production, ScoredGroup
from score_cluster import metrics
from score_cluster.config import ScoringConfig
from score_cluster.patience import Patience
from score_cluster.reference import HfReference, Reference
from score_cluster.rewards import Reward, RewardValue, load_all
from score_cluster.scoring import ScoringFailed, kl_of_version_zero, reference_values, reward_values, scored

logger = logging.getLogger(__name__)

Work = tuple[Lease, CompletionGroup, list[RewardValue]]


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
        reached: Callable[[str, int], None] = _noop,
    ) -> None:
        """model_path: the policy's folder, for its tokenizer and as the default reference."""
        self._config = config
        self._name = name
        self._model_path = model_path
        self._buffer = buffer
        self._lease_s = lease_s
        self._alone_limit = alone_limit
        self._reached = reached
        self._keeper = LeaseKeeper(buffer, lease_s)
        self._patience = Patience(config.reward_timeout_s)
        self._rewards: tuple[Reward, ...] = ()
        self._reference: Reference | None = None
        self._tokenizer: Any = None
        self._status: dict[str, Any] = {"groups": 0, "failures": 0, "last_failure": ""}

    def setup(self) -> dict[str, Any]:
        """Load rewards, tokenizer and reference. ValueError: what the recipe names is missing or does not fit."""
        from transformers import AutoTokenizer  # seconds to import

        self._rewards = load_all(self._config.rewards)
        self._tokenizer = AutoTokenizer.from_pretrained(self._model_path, local_files_only=True)
        if self._config.reference is not None:
            threads = self._config.threads
            self._reference = HfReference(self._config.reference, model_path=self._model_path, threads=threads)
        return {"component_hashes": {reward.name: reward.hash for reward in self._rewards}}

    def run(self, stop: threading.Event) -> None:
        """Step until told to stop; what is being scored then is finished first."""
        while not stop.is_set():
            self.step()

    def step(self) -> bool:
        """One pass over what can be leased; False if there was nothing."""
        leases = self._buffer.lease(
            "completions",
            worker=self._name,
            count=self._config.groups_per_pass,
            lease_s=self._lease_s,
            wait_s=self._config.poll_interval_s,
        )
        if not leases:
            return False
        leased_at = time.monotonic()
        with self._keeper:
            self._keeper.hold(leases)
            self._pass([lease for lease in leases if not lease.suspect], leased_at)
            for lease in leases:  # drained: a suspect that takes the process down takes nothing else with it
                if lease.suspect and self._buffer.begin_alone(lease, limit=self._alone_limit):
                    self._pass([lease], leased_at)
        if self._patience.exhausted:  # now that nothing is held
            raise RewardsHang(
                f"{self._patience.left_behind} groups' rewards never returned: {self._status['last_failure']}"
            )
        return True

    def status(self) -> dict[str, Any]:
        """Counts since the start, for the heartbeat."""
        return dict(self._status)

    def _pass(self, leases: Sequence[Lease], leased_at: float) -> None:
        """Score these together, hand on what succeeded, give back what failed."""
        if not leases:
            return
        started, cpu_s = time.monotonic(), time.process_time()
        work = self._rewarded(leases)
        logprobs = self._referenced(work)
        metrics.WORK_CPU_SECONDS.inc(time.process_time() - cpu_s)
        production = Production(worker=self._name, waited_s=started - leased_at, worked_s=time.monotonic() - started)
        outputs: list[tuple[Lease, ScoredGroup]] = []
        for (lease, group, values), answer in zip(work, logprobs, strict=True):
            if isinstance(answer, ScoringFailed):
                self._give_back(lease, answer)
                continue
            record = scored(
                group, rewards=self._rewards, values=values, reference_logprobs=answer, production=production
            )
            outputs.append((lease, record))
        self._hand_on(outputs)
        metrics.PASS_SECONDS.observe(time.monotonic() - started)

    def _rewarded(self, leases: Sequence[Lease]) -> list[Work]:
        work: list[Work] = []
        for lease in leases:
            try:
                group = _decoded(lease)
                work.append(
                    (lease, group, reward_values(self._rewards, group, decode=self._text, patience=self._patience))
                )
            except ScoringFailed as error:
                self._give_back(lease, error)
        return work

    def _referenced(self, work: Sequence[Work]) -> Sequence[Any]:
        """For each group its log-probs, a ScoringFailed, or None without a reference."""
        if self._reference is None or not work:
            return [None] * len(work)
        with metrics.REFERENCE_SECONDS.time():
            return reference_values(self._reference, [group for _, group, _ in work])

    def _hand_on(self, outputs: Sequence[tuple[Lease, ScoredGroup]]) -> None:
        for lease, _ in outputs:
            self._reached("score.group", lease.sequence)
        done = self._buffer.advance([(lease, wire.encode(record)) for lease, record in outputs])
        self._keeper.drop([lease for lease, _ in outputs])
        metrics.LATE.inc(done.count(False))
        self._count([record for (_, record), ours in zip(outputs, done, strict=True) if ours])

    def _count(self, records: Sequence[ScoredGroup]) -> None:
        if records and not self._status["groups"]:
            logger.info("first groups scored", extra={"groups": len(records)})
        self._status["groups"] += len(records)
        metrics.GROUPS.inc(len(records))
        metrics.SAMPLES.inc(sum(len(record.scores) for record in records))
        metrics.TOKENS.inc(sum(len(c.tokens) for record in records for c in record.group.completions))
        for reward in self._rewards:
            values = [score.components[reward.name] for record in records for score in record.scores]
            for value in values:
                metrics.REWARD.labels(reward.name).observe(value)
            if values:
                metrics.REWARD_MEAN.labels(reward.name).set(sum(values) / len(values))
        if (floor := kl_of_version_zero(records)) is not None:
            metrics.KL_NOISE_FLOOR.set(floor)

    def _give_back(self, lease: Lease, error: ScoringFailed) -> None:
        self._keeper.drop([lease])
        self._buffer.release(lease, reason=str(error))
        self._status["failures"] += 1
        self._status["last_failure"] = str(error)
        metrics.FAILURES.labels(error.component).inc()
        extra = {"sequence": lease.sequence, "component": error.component, "deliveries": lease.deliveries}
        logger.warning("group given back", extra={**extra, "reason": str(error)}, exc_info=error.__cause__)

    def _text(self, tokens: Int32Array) -> str:
        return str(self._tokenizer.decode(tokens.tolist(), skip_special_tokens=True))


def _decoded(lease: Lease) -> CompletionGroup:
    try:
        return wire.decode(lease.data, CompletionGroup)
    except ValueError as error:
        raise ScoringFailed("record", f"group {lease.sequence} cannot be read: {error}") from error
