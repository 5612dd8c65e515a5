"""Questions and answers of one character a token, for tests that need no engine."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gen_cluster.config import EngineConfig
from gen_cluster.engine import Finished
from orchestrator.evaluation.config import EvaluationConfig
from orchestrator.evaluation.plan import Plan
from orchestrator.evaluation.records import Answer, PolicyAnswers, Question, Scored
from orchestrator.evaluation.sampling import Drawing
from score_cluster.config import ScoringConfig


class Characters:
    """A tokenizer of Unicode code points; 0 is special."""

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        return "".join(chr(token) for token in tokens if token)


def tokens(text: str) -> np.ndarray:
    return np.array([ord(one) for one in text], np.int32)


def question(text: str, *, category: str = "", metadata: Mapping[str, Any] | None = None) -> Question:
    return Question(text=text, tokens=tokens(text), category=category, metadata={"prompt": text, **(metadata or {})})


def finished(text: str, *, cut: bool = False) -> Finished:
    ids = tokens(text) if cut else np.append(tokens(text), np.int32(0))
    logprobs = np.full(len(ids), -1.0, np.float32)
    return Finished(request_id="", tokens=ids, logprobs=logprobs, spans=(), finish_reason="length" if cut else "stop")


def plan(
    questions: Sequence[Question], *, samples: int = 1, scoring: ScoringConfig | None = None, **config: Any
) -> Plan:
    return Plan(
        config=EvaluationConfig(path="held.jsonl", samples=samples, resamples=200, **config),
        questions=tuple(questions),
        drawing=Drawing(samples=samples, temperature=1.0, max_tokens=16, stop_token_ids=(0,), seed=0),
        engine=EngineConfig(),
        model_path="",
        tokenizer=Characters(),
        scoring=scoring,
        reference=None,
        threads=1,
    )


def policy(name: str, rows: Sequence[Sequence[tuple[str, float]]]) -> PolicyAnswers:
    """[P][S] of (text, score)."""
    return PolicyAnswers(
        name=name,
        scored=tuple(
            tuple(
                Scored(
                    answer=Answer(
                        text=text, tokens=tokens(text), logprobs=np.zeros(len(text), np.float32), finish_reason="stop"
                    ),
                    reward=None,
                    components={},
                    score=score,
                    kl=None,
                )
                for text, score in row
            )
            for row in rows
        ),
    )
