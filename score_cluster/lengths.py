"""Penalties on the number of response tokens: pure functions, and the sources that apply them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from score_cluster.answers import Answers, RewardFailed, Scores
from score_cluster.reward_config import LengthRewardConfig, OverlongRewardConfig

BUFFER_SHARE = 0.2
"""Of max_tokens: DAPO's 4,096 of 20,480."""


def length_penalty(length: int, *, limit: int, per_token: float) -> float:
    """−per_token · max(0, length − limit)."""
    return -per_token * max(0, length - limit)


def overlong_penalty(length: int, *, maximum: int, buffer: int) -> float:
    """0 up to maximum − buffer, then ((maximum − buffer) − length) / buffer, and −1 beyond the maximum.

    DAPO (Yu et al. 2025), equation 13, with L_max = maximum and L_cache = buffer.
    """
    if length > maximum:
        return -1.0
    return min(0.0, (maximum - buffer - length) / buffer)


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthReward:
    """RewardSource of kind length."""

    config: LengthRewardConfig

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def hash(self) -> str:
        return _hash("length", self.config.limit_tokens, self.config.per_token)

    def score(self, batch: Sequence[Answers]) -> list[Scores | RewardFailed]:
        limit, per_token = self.config.limit_tokens, self.config.per_token
        return [
            Scores(values=tuple(length_penalty(len(t), limit=limit, per_token=per_token) for t in answers.tokens))
            for answers in batch
        ]

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlongReward:
    """RewardSource of kind overlong."""

    config: OverlongRewardConfig

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def hash(self) -> str:
        return _hash("overlong", self.config.max_tokens, self.config.buffer_tokens)

    def score(self, batch: Sequence[Answers]) -> list[Scores | RewardFailed]:
        return [self._score(answers) for answers in batch]

    def close(self) -> None:
        """Nothing is held."""

    def _score(self, answers: Answers) -> Scores:
        maximum = self.config.max_tokens or answers.max_tokens
        buffer = min(maximum, self.config.buffer_tokens or max(1, round(BUFFER_SHARE * maximum)))
        return Scores(
            values=tuple(overlong_penalty(len(t), maximum=maximum, buffer=buffer) for t in answers.tokens),
        )


def _hash(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
