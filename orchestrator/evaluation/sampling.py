"""Answers of policies to held-out prompts, by the engine that generates during training; one engine, any number of weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experience.schema import Sampling
from gen_cluster.config import EngineConfig
from gen_cluster.engine import Engine, Finished
from orchestrator.evaluation.records import Question
from orchestrator.prompts import sampling_seed
from weightstore.fetch import FetchedVersion

BASELINE, CHALLENGER = 0, 1
"""Streams of seeds: the two sides of a comparison draw independently, or a win rate would measure how alike they draw;
all challengers share theirs, so that they differ by their weights alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """How answers are drawn."""

    samples: int
    temperature: float
    max_tokens: int
    stop_token_ids: tuple[int, ...]
    seed: int


class PolicySampler:
    """Draws answers from whatever weights it is given, on one open engine.

        sampler = PolicySampler(VllmEngine(engine_config(config, questions, drawing), model_path=...))
        answers = sampler.answers(fetched_version, questions, drawing, stream=CHALLENGER)

    An answer is a pure function of weights, prompt, drawing and stream, as far as the engine's batching leaves it so.
    """

    def __init__(self, engine: Engine) -> None:
        """Takes over the engine: nobody else may add requests to it."""
        self._engine = engine

    def answers(
        self,
        weights: FetchedVersion,
        questions: Sequence[Question],
        drawing: Drawing,
        *,
        stream: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[list[Finished]]:
        """[P][S]; `progress(done, total)` counts answers. WeightsRefused, OSError, EngineLost: as `Engine.update`."""
        self._engine.update(weights)
        waiting = [(q, s) for q in range(len(questions)) for s in range(drawing.samples)]
        total, done = len(waiting), 0
        waiting.reverse()
        found: dict[str, Finished] = {}
        while waiting or self._engine.running():
            for _ in range(min(self._engine.free_slots(), len(waiting))):
                question, sample = waiting.pop()
                seed = sampling_seed(drawing.seed, stream, question)
                sampling = Sampling(
                    temperature=drawing.temperature,
                    max_tokens=drawing.max_tokens,
                    stop_token_ids=drawing.stop_token_ids,
                    seed=seed,
                )
                self._engine.add(
                    f"{question}/{sample}", tokens=questions[question].tokens, sampling=sampling, seed=seed + sample
                )
            for one in self._engine.step():
                found[one.request_id] = one
            if len(found) > done:
                done = len(found)
                progress(done, total)
        return [[found[f"{q}/{s}"] for s in range(drawing.samples)] for q in range(len(questions))]

    def close(self) -> None:
        self._engine.close()


def engine_config(config: EngineConfig, questions: Sequence[Question], drawing: Drawing) -> EngineConfig:
    """The engine with a context no longer than these prompts need: its cache holds more answers at once so."""
    longest = max(len(question.tokens) for question in questions) + drawing.max_tokens
    return config.model_copy(update={"max_model_tokens": min(longest, config.max_model_tokens or longest)})
