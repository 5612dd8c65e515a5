"""The names of the figures of an evaluation: what `--gate` and `--json` speak of."""

import re
from collections.abc import Mapping

KEYS: Mapping[str, str] = {
    "win_rate": "chance that an answer is better than one of the baseline to the same prompt, ties half",
    "win_rate_low": "lower end of its 95 % interval (bootstrap over prompts)",
    "win_rate_high": "upper end",
    "p_value": "exact two-sided sign test over prompts",
    "ties": "share of comparisons without a winner",
    "self_disagreement": "share of pairs of which a judge of pairs says the opposite when they change places; counted as ties",
    "score": "the judge's mean score, where it scores answers one by one",
    "score_low": "lower end of its 95 % interval (bootstrap over prompts)",
    "score_high": "upper end",
    "score_gain": "score less that of the baseline",
    "reward": "mean of the recipe's total",
    "reward.NAME": "mean of a component of it, unweighted",
    "reward_gain": "reward less that of the baseline",
    "reward_gain_low": "lower end of its 95 % interval (bootstrap over prompts)",
    "reward_gain_high": "upper end",
    "reward_win_rate": "as win_rate, judged by the recipe's total",
    "kl": "KL to the reference per answer, nats (k1: log pi - log pi_ref, summed over tokens)",
    "length": "mean tokens of an answer",
    "length_p50": "median",
    "length_p95": "95th percentile",
    "length_ratio": "length over that of the baseline",
    "truncated": "share of answers that ended at max_tokens",
    "distinct_N": "share of different word N-grams, N = 1 to 4",
    "distinct_N_ratio": "distinct_N over that of the baseline",
    "unique": "share of different texts among the answers to a prompt",
    "pass@K": "chance that one of K samples is right, K = 1, 8, 64, 256 as far as samples reach; for scores of 0 and 1",
    "prompts": "prompts answered",
    "samples": "answers a prompt",
}
"""Figure -> what it means. A figure that cannot be had is absent."""


def is_figure(key: str) -> bool:
    """Whether there can be a figure of this name."""
    return any(re.fullmatch(_pattern(name), key) for name in KEYS)


def _pattern(name: str) -> str:
    quoted = re.escape(name)
    return quoted.replace("NAME", ".+").replace("_N", "_[1-4]").replace("@K", "@(1|8|64|256)")
