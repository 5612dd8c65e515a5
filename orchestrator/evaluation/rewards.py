"""Scores of answers one by one, by the components of a recipe's reward or by one that judges."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import EvaluationFailed
from orchestrator.evaluation.records import Answers, Question
from score_cluster.config import RewardConfig
from score_cluster.rewards import Reward, RewardFailed, evaluate, load_all


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """Of one answer."""

    components: Mapping[str, float]
    """Raw, unweighted, by name."""
    total: float


class Rewards:
    """The components of a reward, loaded once."""

    def __init__(self, configs: Sequence[RewardConfig]) -> None:
        """ValueError: one that cannot be loaded."""
        self._rewards: tuple[Reward, ...] = load_all(configs)

    def values(
        self,
        questions: Sequence[Question],
        answers: Answers,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[list[Value]]:
        """[P][S]. EvaluationFailed: a component could not score an answer; a failure is never a score of zero."""
        found = []
        for index, (question, row) in enumerate(zip(questions, answers, strict=True)):
            found.append([self._value(index, question, answer.text) for answer in row])
            progress(index + 1, len(questions))
        return found

    def _value(self, index: int, question: Question, text: str) -> Value:
        try:
            value = evaluate(
                self._rewards, sequence=index, prompt=question.text, completion=text, metadata=question.metadata
            )
        except RewardFailed as error:
            raise EvaluationFailed(str(error)) from error
        return Value(components=value.components, total=value.total)
