"""The flat figures of an evaluation: what `--gate` and `--json` name, for a policy alone and against the baseline."""

from collections.abc import Mapping, Sequence

import numpy as np

from orchestrator.evaluation import statistics as st
from orchestrator.evaluation.records import PolicyAnswers

PASS_KS = (1, 8, 64, 256)
NGRAMS = (1, 2, 3, 4)


def policy_figures(policy: PolicyAnswers, *, resamples: int, seed: int) -> dict[str, float]:
    """What there is to say of one policy."""
    rows = policy.scored
    flat = [one for row in rows for one in row]
    texts = [one.answer.text for one in flat]
    lengths = [float(len(one.answer.tokens)) for one in flat]
    median, p95 = st.quantiles(lengths, (0.5, 0.95))
    figures = {
        "prompts": float(len(rows)),
        "samples": float(len(rows[0])),
        "length": float(np.mean(lengths)),
        "length_p50": median,
        "length_p95": p95,
        "truncated": float(np.mean([one.answer.finish_reason == "length" for one in flat])),
        **{f"distinct_{n}": st.distinct_ngrams(texts, n=n) for n in NGRAMS},
    }
    if len(rows[0]) > 1:
        figures["unique"] = float(np.mean([st.unique_share([one.answer.text for one in row]) for row in rows]))
    if (scores := scores_of(policy)) is not None:
        by_prompt = st.mean_by_prompt(scores)
        low, high = st.bootstrap_interval(by_prompt, resamples=resamples, seed=seed)
        figures |= {"score": float(np.mean(by_prompt)), "score_low": low, "score_high": high}
        figures |= pass_figures(scores)
    if (rewards := rewards_of(policy)) is not None:
        figures["reward"] = float(np.mean(st.mean_by_prompt(rewards)))
        for name in flat[0].components:
            figures[f"reward.{name}"] = float(np.mean([one.components[name] for one in flat]))
    kls = [one.kl for one in flat if one.kl is not None]
    if kls:
        figures["kl"] = float(np.mean(kls))
    return figures


def pass_figures(scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """pass@k of a verifier's scores [P][S]; nothing where some score is neither 0 nor 1."""
    if any(score not in (0.0, 1.0) for row in scores for score in row):
        return {}
    samples = len(scores[0])
    right = [int(sum(row)) for row in scores]
    return {
        f"pass@{k}": float(np.mean([st.pass_at_k(samples, count, k) for count in right]))
        for k in PASS_KS
        if k <= samples
    }


def won_by_prompt(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], *, margin: float) -> list[float]:
    """[P] share of comparisons that the second wins at each prompt, ties half; scores [P][S] of both."""
    return [st.win_share(a, b, margin=margin) for a, b in zip(first, second, strict=True)]


def win_figures(won_P: Sequence[float], *, ties: float, resamples: int, seed: int) -> dict[str, float]:
    """Of the share won at each prompt."""
    low, high = st.bootstrap_interval(won_P, resamples=resamples, seed=seed)
    wins, losses = sum(won > 0.5 for won in won_P), sum(won < 0.5 for won in won_P)
    return {
        "win_rate": float(np.mean(won_P)),
        "win_rate_low": low,
        "win_rate_high": high,
        "p_value": st.sign_test(wins, losses),
        "ties": ties,
    }


def ratio_figures(baseline: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Price and gain of a policy, by the figures of both."""
    names = {"length": "length_ratio", **{f"distinct_{n}": f"distinct_{n}_ratio" for n in NGRAMS}}
    ratios = {to: other[of] / baseline[of] for of, to in names.items() if baseline[of]}
    gains = {f"{of}_gain": other[of] - baseline[of] for of in ("score", "reward") if of in baseline and of in other}
    return ratios | gains


def reward_figures(baseline: PolicyAnswers, other: PolicyAnswers, *, resamples: int, seed: int) -> dict[str, float]:
    """Who wins by the recipe's own total, and the interval of the gain; nothing without a recipe."""
    first, second = rewards_of(baseline), rewards_of(other)
    if first is None or second is None:
        return {}
    pairs = zip(st.mean_by_prompt(first), st.mean_by_prompt(second), strict=True)
    low, high = st.bootstrap_interval([b - a for a, b in pairs], resamples=resamples, seed=seed)
    won = float(np.mean(won_by_prompt(first, second, margin=0.0)))
    return {"reward_gain_low": low, "reward_gain_high": high, "reward_win_rate": won}


def category_figures(
    policy: PolicyAnswers, indices: Sequence[int], won_P: Sequence[float] | None, *, resamples: int, seed: int
) -> dict[str, float]:
    """Of the prompts of one category, by their indices."""
    rows = [policy.scored[index] for index in indices]
    figures = {
        "prompts": float(len(rows)),
        "length": float(np.mean([len(one.answer.tokens) for row in rows for one in row])),
    }
    if (scores := scores_of(policy)) is not None:
        figures["score"] = float(np.mean(st.mean_by_prompt([scores[index] for index in indices])))
    if won_P is not None:
        won = [won_P[index] for index in indices]
        low, high = st.bootstrap_interval(won, resamples=resamples, seed=seed)
        figures |= {"win_rate": float(np.mean(won)), "win_rate_low": low, "win_rate_high": high}
    return figures


def scores_of(policy: PolicyAnswers) -> list[list[float]] | None:
    """[P][S] of a judge that gives scores."""
    return _whole([[one.score for one in row] for row in policy.scored])


def rewards_of(policy: PolicyAnswers) -> list[list[float]] | None:
    """[P][S] the recipe's totals."""
    return _whole([[one.reward for one in row] for row in policy.scored])


def _whole(rows: Sequence[Sequence[float | None]]) -> list[list[float]] | None:
    """The rows, or None where there are no values: all have one, or none has."""
    kept = [[value for value in row if value is not None] for row in rows]
    return kept if all(kept) else None
