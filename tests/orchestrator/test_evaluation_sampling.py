"""Whose answer is whose: sampling, pairs and the KL of an evaluation, on an engine and a reference that are no models.

A second, of which most are imports."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from evaluation_records import finished, plan, question

from experience.schema import Float32Array
from gen_cluster.engine import Finished
from orchestrator.evaluation import kl
from orchestrator.evaluation.evaluator import Evaluator
from orchestrator.evaluation.kl import ReferenceKl
from orchestrator.evaluation.records import Answer
from orchestrator.evaluation.sampling import BASELINE, CHALLENGER, PolicySampler
from orchestrator.periodic import examiner
from score_cluster.config import ScoringConfig
from score_cluster.reference import Response

QUESTIONS = [question("a"), question("b"), question("c")]


class Engine:
    """Two slots; the request added last ends first, and says its prompt, its seed and the weights."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.weights = ""
        self.waiting: list[tuple[str, str, int]] = []
        self.seeds: dict[str, list[int]] = {}

    def update(self, fetched: Any) -> None:
        self.weights = str(fetched)

    def add(self, request_id: str, *, tokens: np.ndarray, sampling: Any, seed: int) -> None:
        assert self.free_slots()
        self.waiting.append((request_id, chr(tokens[0]), seed))
        self.seeds.setdefault(self.weights, []).append(seed)

    def running(self) -> int:
        return len(self.waiting)

    def free_slots(self) -> int:
        return 2 - len(self.waiting)

    def step(self) -> list[Finished]:
        request_id, prompt, seed = self.waiting.pop()
        made = finished(f"{prompt} by {self.weights} from {seed}")
        return [
            Finished(
                request_id=request_id,
                tokens=made.tokens,
                logprobs=made.logprobs,
                spans=(),
                finish_reason=made.finish_reason,
            )
        ]

    def close(self) -> None: ...


def said(made: Any, rows: list[list[Finished]]) -> list[list[str]]:
    return [[made.text(one.tokens) for one in row] for row in rows]


def test_answers_stand_with_their_prompts_and_every_sample_has_a_seed_of_its_own() -> None:
    engine, made = Engine(), plan(QUESTIONS, samples=3)
    sampler = PolicySampler(engine)
    first = said(made, sampler.answers("old", made.questions, made.drawing, stream=BASELINE))
    other = said(made, sampler.answers("new", made.questions, made.drawing, stream=CHALLENGER))
    assert [[text[0] for text in row] for row in first] == [["a"] * 3, ["b"] * 3, ["c"] * 3]
    assert [[text.split()[2] for text in row] for row in other] == [["new"] * 3] * 3
    drawn = engine.seeds["old"] + engine.seeds["new"]
    assert len(set(drawn)) == 2 * 3 * 3, "the two sides draw independently, and so do the samples"
    assert said(made, sampler.answers("old", made.questions, made.drawing, stream=BASELINE)) == first


def test_all_versions_of_a_run_draw_alike_and_otherwise_than_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    scoring = ScoringConfig.model_validate({"rewards": [{"name": "short", "kind": "length", "limit_tokens": 1}]})
    made = plan(QUESTIONS, samples=2, scoring=scoring)
    monkeypatch.setitem(sys.modules, "gen_cluster.vllm_engine", SimpleNamespace(VllmEngine=Engine))
    monkeypatch.setattr(examiner, "read_folder", lambda folder, **_: "start")
    monkeypatch.setattr(examiner, "tied_names", lambda path: frozenset())
    found = examiner.VersionExaminer(made, baseline=Path("start"))
    found.prepare()
    figures: list[Mapping[str, float]] = [found.examine(version) for version in ("v1", "v2")]  # type: ignore[arg-type]
    seeds = found._sampler._engine.seeds  # type: ignore[attr-defined]
    assert seeds["v1"] == seeds["v2"]
    assert not set(seeds["start"]) & set(seeds["v1"])
    assert all("win_rate" in one for one in figures)
    found.close()


JUDGE = "def longer(*, prompt, first, second, metadata):\n    return len(first) - len(second)\n"


def test_a_judge_of_pairs_compares_sample_with_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pair_judge_of_lengths.py").write_text(JUDGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = plan(QUESTIONS[:2], samples=2, judge={"function": "pair_judge_of_lengths:longer"})
    evaluator = Evaluator(made)
    first = evaluator.score("old", [[finished("xx"), finished("xx")], [finished("xx"), finished("xx")]])
    second = evaluator.score("new", [[finished("xxx"), finished("x")], [finished("xxx"), finished("xx")]])
    comparison = evaluator.compare(first, [second])
    assert comparison.won["new"] == (0.5, 0.75)  # a win and a loss; a win and a tie
    figures = comparison.figures["new"]
    assert (figures["win_rate"], figures["ties"], figures["self_disagreement"]) == (0.625, 0.25, 0.0)
    (turned,) = evaluator.compare(second, [first]).won.values()
    assert turned == (0.5, 0.25)


class Reference:
    """Says of every token of an answer minus its answer's number of tokens."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def logprobs(self, responses: list[Response]) -> list[Float32Array]:
        return [np.full(len(one.tokens), -float(len(one.tokens)), np.float32) for one in responses]


def test_the_kl_stands_with_its_answer_and_of_many_samples_the_first_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("score_cluster.reference.HfReference", Reference)
    made = plan(QUESTIONS[:2], samples=3)
    rows = [
        [
            Answer(text="", tokens=np.zeros(n, np.int32), logprobs=np.full(n, -1.0, np.float32), finish_reason="stop")
            for n in row
        ]
        for row in ((1, 2, 3), (4, 5, 6))
    ]
    # n tokens of log-prob -1 against -n each: n (n - 1) nats
    exact = ReferenceKl(made)
    assert exact.per_answer(made.questions, rows, 1.0) == [[0.0, 2.0, 6.0], [12.0, 20.0, 30.0]]
    monkeypatch.setattr(kl, "MEASURED_ANSWERS", 4)  # of two prompts: two samples each
    assert exact.per_answer(made.questions, rows, 1.0) == [[0.0, 2.0, None], [12.0, 20.0, None]]
