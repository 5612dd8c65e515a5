"""A scoring worker on a test's buffer, and what it hands on."""

from typing import Any

from experience import wire
from experience.buffer import ExperienceBuffer
from experience.schema import ScoredGroup
from score_cluster.config import ScoringConfig
from score_cluster.reward_config import RewardConfig
from score_cluster.worker import ScoringWorker


def worker(buffer: ExperienceBuffer, policy_folder: str, *rewards: RewardConfig, **options: Any) -> ScoringWorker:
    reference = options.pop("reference", None)
    life = {key: options.pop(key) for key in ("reached", "began") if key in options}
    config = ScoringConfig(rewards=rewards, reference=reference, poll_interval_s=0.01, **options)
    scorer = ScoringWorker(
        config, name="score-0", model_path=policy_folder, buffer=buffer, lease_s=30.0, alone_limit=2, **life
    )
    scorer.setup()
    return scorer


def arrived(buffer: ExperienceBuffer, count: int = 20) -> dict[int, ScoredGroup]:
    return {sequence: wire.decode(data, ScoredGroup) for sequence, data in buffer.take(range(count)).items()}


def exhaust(scorer: ScoringWorker) -> None:
    for _ in range(50):
        if not scorer.step():
            return
    raise AssertionError("the worker never runs out of work")
