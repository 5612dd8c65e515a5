"""Scores of answers one by one, by the components of a recipe's reward or by one that judges."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import EvaluationFailed
from orchestrator.evaluation import records
from orchestrator.evaluation.records import Question
from score_cluster.answers import Answers, RewardFailed, Scores
from score_cluster.combination import TOTAL, too_large, totals
from score_cluster.judge import ask
from score_cluster.patience import Patience
from score_cluster.reward_config import ConstraintConfig, RewardConfig, SumConfig
from score_cluster.sources import open_sources

PROMPTS_PER_PASS = 64
"""Handed to a reward at a time: enough to fill its batches, few enough to see it go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """Of one answer."""

    components: Mapping[str, float]
    """Raw, unweighted, by name."""
    total: float
    """Weighted sum less constraints, whatever combines them in training: other combinations mean something only among the
    samples of one policy."""


class Rewards:
    """The components of a reward, loaded once."""

    def __init__(
        self,
        configs: Sequence[RewardConfig],
        *,
        constraints: Sequence[ConstraintConfig] = (),
        model_path: str,
        threads: int,
        timeout_s: float,
        max_tokens: int,
    ) -> None:
        """model_path: the policies' folder; timeout_s: for one prompt's answers. ValueError: one that cannot be loaded."""
        self._weights = {config.name: config.weight for config in configs}
        self._constraints, self._max_tokens = constraints, max_tokens
        self._sources = open_sources(configs, model_path=model_path, threads=threads, patience=Patience(timeout_s))

    def values(
        self,
        questions: Sequence[Question],
        answers: records.Answers,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[list[Value]]:
        """[P][S]. EvaluationFailed: a component could not score an answer; a failure is never a score of zero."""
        found: list[list[Value]] = []
        batch = [self._asked(index, *one) for index, one in enumerate(zip(questions, answers, strict=True))]
        for start in range(0, len(batch), PROMPTS_PER_PASS):
            part = batch[start : start + PROMPTS_PER_PASS]
            by_source = {source.name: _scores(ask(source, part)) for source in self._sources}
            found += [
                self._combined(one.sequence, {name: rows[at] for name, rows in by_source.items()})
                for at, one in enumerate(part)
            ]
            progress(len(found), len(batch))
        return found

    def _combined(self, sequence: int, components: Mapping[str, Sequence[float]]) -> list[Value]:
        """Of one prompt's answers."""
        total = totals(components, weights=self._weights, combine=SumConfig(), constraints=self._constraints)
        if (problem := too_large(total)) is not None:
            raise EvaluationFailed(str(RewardFailed(component=TOTAL, sequence=sequence, problem=problem)))
        rows = zip(*components.values(), strict=True)
        return [
            Value(components=dict(zip(components, row, strict=True)), total=one)
            for row, one in zip(rows, total, strict=True)
        ]

    def _asked(self, index: int, question: Question, row: Sequence[records.Answer]) -> Answers:
        return Answers(
            sequence=index,
            prompt=question.text,
            prompt_tokens=question.tokens,
            metadata=question.metadata,
            completions=tuple(answer.text for answer in row),
            tokens=tuple(answer.tokens for answer in row),
            finished=tuple(answer.finish_reason == "stop" for answer in row),
            max_tokens=self._max_tokens,
        )


def _scores(found: Sequence[Scores | RewardFailed]) -> list[tuple[float, ...]]:
    rows = []
    for one in found:
        if isinstance(one, RewardFailed):
            raise EvaluationFailed(str(one)) from one
        rows.append(one.values)
    return rows
