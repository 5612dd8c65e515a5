"""Two model folders compared on held-out prompts: did training raise the reward, and at what price?

Prompt p gets S answers from each folder. The reward of a folder at p is the mean over its S answers; the differences
of the P prompts are paired, and their standard error is clustered by prompt: sd over prompts / sqrt(P).
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from recipes.sampling import Answer, Request, draw

RECIPE = Path(__file__).with_name("smollm2.yaml")
PROMPTS = Path(__file__).with_name("smollm2_heldout.jsonl")
SIDE_BY_SIDE = 4
"""Prompts whose first answers are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """The difference of two folders' mean rewards over the same prompts."""

    before: float
    after: float
    difference: float
    standard_error: float
    """Clustered by prompt."""

    @property
    def ratio(self) -> float:
        """Difference in standard errors; above 2 it is no accident. 0 where the folders answered alike."""
        if self.standard_error:
            return self.difference / self.standard_error
        return math.copysign(math.inf, self.difference) if self.difference else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One scored answer."""

    prompt: str
    text: str
    reward: float
    components: dict[str, float]
    tokens: int


def paired(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> Paired:
    """Rewards [P][S] of both folders at the same prompts, P >= 2."""
    firsts, seconds = [statistics.fmean(row) for row in before], [statistics.fmean(row) for row in after]
    differences = [b - a for a, b in zip(firsts, seconds, strict=True)]
    return Paired(
        before=statistics.fmean(firsts),
        after=statistics.fmean(seconds),
        difference=statistics.fmean(differences),
        standard_error=statistics.stdev(differences) / math.sqrt(len(differences)),
    )


def distinct_ngrams(texts: Sequence[str], *, n: int) -> float:
    """Share of different word n-grams among all of all texts (Li et al. 2016): falls when answers become alike."""
    words = [text.lower().split() for text in texts]
    grams = [tuple(line[i : i + n]) for line in words for i in range(len(line) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def kl_nats(own: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """KL(own || other) per answer, nats: mean over own's answers of the sum over tokens of log own - log other (k1)."""
    return statistics.fmean(sum(a) - sum(b) for a, b in zip(own, other, strict=True))


def evaluate(
    before: Annotated[Path, typer.Argument(help="model folder before training")],
    after: Annotated[Path, typer.Argument(help="model folder after training")],
    prompts: Annotated[Path, typer.Option(help="held-out prompts, JSONL")] = PROMPTS,
    recipe: Annotated[Path, typer.Option(help="whose reward, temperature and length count")] = RECIPE,
    samples: Annotated[int, typer.Option(min=1, help="answers a prompt and folder")] = 4,
    seed: Annotated[int, typer.Option(help="of the sampling")] = 0,
    json_out: Annotated[Path | None, typer.Option("--json", help="write the figures and all answers here")] = None,
) -> None:
    """Sample both folders on held-out prompts with the recipe's settings, and print the paired comparison."""
    from orchestrator.recipe import load
    from score_cluster.judge import Judge

    settings = load(recipe)
    rows = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    texts = [row[settings.data.prompt_column] for row in rows]
    judge = Judge(settings.scoring, model_path=str(before))

    def request(folder: Path, score: list[Answer]) -> Request:
        return Request(
            folder=str(folder),
            prompts=texts,
            system_prompt=settings.data.system_prompt,
            samples=samples,
            temperature=settings.generation.temperature,
            max_tokens=settings.generation.max_tokens,
            seed=seed,
            score=score,
        )

    late, _ = draw(request(after, score=[]))
    early, late_under_before = draw(request(before, score=late))
    scored = {"before": scored_by(judge, rows, texts, early), "after": scored_by(judge, rows, texts, late)}
    comparison = paired(*(grouped(scored[side], samples) for side in ("before", "after")))
    kl = kl_nats([answer.logprobs for answer in late], late_under_before)
    typer.echo(report(comparison, scored, kl=kl, samples=samples))
    if json_out is not None:
        figures = {**asdict(comparison), "ratio": comparison.ratio, "kl_nats": kl, "samples": samples, "seed": seed}
        answers = {side: [asdict(sample) for sample in of_side] for side, of_side in scored.items()}
        json_out.write_text(json.dumps({**figures, "answers": answers}, indent=1, ensure_ascii=False))


def scored_by(judge: Any, rows: list[dict[str, Any]], texts: list[str], answers: list[Answer]) -> list[Sample]:
    """The answers with the recipe's own reward, each judged by itself."""
    import numpy as np

    from score_cluster.answers import Answers

    batch = [
        Answers(
            sequence=answer.prompt,
            prompt=texts[answer.prompt],
            prompt_tokens=np.zeros(0, dtype=np.int32),
            metadata=rows[answer.prompt],
            completions=(answer.text,),
            tokens=(np.asarray(answer.tokens, dtype=np.int32),),
            finished=(True,),
            max_tokens=len(answer.tokens),
        )
        for answer in answers
    ]
    scored = []
    for answer, judgement in zip(answers, judge.judge(batch), strict=True):
        if isinstance(judgement, Exception):
            raise judgement
        components = {name: values[0] for name, values in judgement.components.items()}
        text, tokens = answer.text, len(answer.tokens)
        reward = judgement.totals[0]
        scored.append(
            Sample(prompt=texts[answer.prompt], text=text, reward=reward, components=components, tokens=tokens)
        )
    return scored


def grouped(scored: Sequence[Sample], samples: int) -> list[list[float]]:
    """Rewards [P][S]; the answers of a prompt stand together."""
    return [[sample.reward for sample in scored[i : i + samples]] for i in range(0, len(scored), samples)]


def report(comparison: Paired, scored: dict[str, list[Sample]], *, kl: float, samples: int) -> str:
    """The comparison as text."""
    sides = (scored["before"], scored["after"])
    lines = [f"{len(sides[0]) // samples} prompts x {samples} samples", f"{'':22}{'before':>9}{'after':>9}"]
    lines.append(row("reward", comparison.before, comparison.after))
    for name in sides[0][0].components:
        lines.append(row(f"  {name}", *(statistics.fmean(s.components[name] for s in side) for side in sides)))
    for n in (1, 2, 4):
        lines.append(row(f"distinct {n}-grams", *(distinct_ngrams([s.text for s in side], n=n) for side in sides)))
    lines.append(row("tokens an answer", *(statistics.fmean(s.tokens for s in side) for side in sides)))
    lines.append(f"KL(after || before)   {kl:9.2f} nats an answer")
    lines.append(
        f"paired difference     {comparison.difference:+9.3f} +- {comparison.standard_error:.3f} "
        f"(standard error, clustered by prompt): {comparison.ratio:.1f} standard errors"
    )
    step = max(1, len(sides[0]) // (SIDE_BY_SIDE * samples)) * samples
    for first, second in list(zip(*sides, strict=True))[::step][:SIDE_BY_SIDE]:
        lines.append(f"\n{first.prompt}")
        lines += [
            f"  {side:6} {sample.reward:+.2f}  {' '.join(sample.text.split())}"
            for side, sample in (("before", first), ("after", second))
        ]
    return "\n".join(lines)


def row(name: str, before: float, after: float) -> str:
    return f"{name:22}{before:9.3f}{after:9.3f}"
