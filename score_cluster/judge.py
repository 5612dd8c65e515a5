"""All sources of a recipe's reward and their combination: answers in, components, measures and totals out."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from score_cluster import combination, metrics
from score_cluster.answers import Answers, RewardFailed, RewardSource, Scores
from score_cluster.config import ScoringConfig
from score_cluster.patience import Patience
from score_cluster.sources import open_sources


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What is said of the G completions of one prompt."""

    components: Mapping[str, tuple[float, ...]]
    """{name: [G]} raw and unweighted."""
    measures: Mapping[str, tuple[float, ...]]
    """{component.measure: [G]}"""
    totals: tuple[float, ...]
    """[G] the combination, constraints taken off."""


class Judge:
    """judge(batch): the rewards of several prompts' completions; a prompt that one source fails on fails alone."""

    def __init__(self, config: ScoringConfig, *, model_path: str) -> None:
        """ValueError: what a source refuses. model_path: the policy's folder."""
        self.patience = Patience(config.reward_timeout_s)
        """With reward functions, which may hang."""
        self._config = config
        self._weights = {reward.name: reward.weight for reward in config.rewards}
        self._sources = open_sources(
            config.rewards, model_path=model_path, threads=config.threads, patience=self.patience
        )

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of what makes each component, by name."""
        return {source.name: source.hash for source in self._sources}

    def judge(self, batch: Sequence[Answers]) -> list[Judgement | RewardFailed]:
        """Each source is asked about the prompts that none before it has failed on; order kept."""
        failed: dict[int, RewardFailed] = {}
        given: list[dict[str, Scores]] = [{} for _ in batch]
        for source in self._sources:
            asked = [index for index in range(len(batch)) if index not in failed]
            began = time.perf_counter()
            answers = ask(source, [batch[index] for index in asked])
            metrics.COMPONENT_SECONDS.labels(source.name).inc(time.perf_counter() - began)
            for index, answer in zip(asked, answers, strict=True):
                if isinstance(answer, RewardFailed):
                    failed[index] = answer
                else:
                    given[index][source.name] = answer
        return [
            failed[index] if index in failed else self._combined(answers.sequence, scores)
            for index, (answers, scores) in enumerate(zip(batch, given, strict=True))
        ]

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def _combined(self, sequence: int, scores: Mapping[str, Scores]) -> Judgement | RewardFailed:
        components = {name: one.values for name, one in scores.items()}
        totals = combination.totals(
            components, weights=self._weights, combine=self._config.combine, constraints=self._config.constraints
        )
        if (problem := combination.too_large(totals)) is not None:
            return RewardFailed(component=combination.TOTAL, sequence=sequence, problem=problem)
        measures = {f"{name}.{what}": v for name, one in scores.items() for what, v in one.measures.items()}
        return Judgement(components=components, measures=measures, totals=tuple(totals))


def ask(source: RewardSource, batch: Sequence[Answers]) -> list[Scores | RewardFailed]:
    """source.score; where it raises, whose fault it is shows when each prompt is asked alone."""
    if not batch:
        return []
    try:
        return source.score(batch)
    except Exception as error:
        if len(batch) > 1:
            return [answer for one in batch for answer in ask(source, [one])]
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        failure = RewardFailed(component=source.name, sequence=batch[0].sequence, problem=problem)
        failure.__cause__ = error
        return [failure]
