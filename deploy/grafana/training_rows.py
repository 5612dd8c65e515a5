"""The rows of the training dashboard that concern some runs alone: the evaluation during the run, and PPO's critic."""

from typing import Any

from deploy.grafana import look
from deploy.grafana.panels import counts, lines, shares, should_be_none, stat
from deploy.grafana.promql import largest, or_zero, rate, total


def evaluation() -> list[Any]:
    win = {
        "win rate": largest("headrace_eval_win_ratio"),
        "low end": largest("headrace_eval_win_low_ratio"),
        "high end": largest("headrace_eval_win_high_ratio"),
    }
    colours = {"win rate": look.GREEN, "low end": look.GREY, "high end": look.GREY}
    versions = {
        "trained": largest("headrace_run_step"),
        "evaluated": largest("headrace_eval_step"),
        "best": largest("headrace_eval_best_step"),
    }
    length = {"mean": largest("headrace_eval_response_length_tokens")}
    return [
        stat("Steps without a rise", largest("headrace_eval_without_rise_steps"), unit="none", width=8, curve=False),
        stat("Seconds of an evaluation", largest("headrace_eval_seconds"), unit="s", width=8),
        should_be_none("Evaluations that failed", or_zero(total("headrace_eval_failures_total")), width=8),
        shares("Win rate with its interval", win, limits=((0.5, look.AMBER),), colours=colours),
        lines("Held-out reward", {"total": largest("headrace_eval_reward")}, unit="none"),
        lines(
            "Held-out reward by component",
            {"{{component}}": largest("headrace_eval_reward_component", by="component")},
            unit="none",
        ),
        lines(
            "Held-out KL",
            {"per response": largest("headrace_eval_kl_per_response_nats")},
            unit="suffix: nats",
            low=0,
            limits=look.KL,
        ),
        lines("Held-out length", length, unit="suffix: tokens", low=0),
        shares("Distinct word n-grams", {"{{n}}": largest("headrace_eval_distinct_ratio", by="n")}),
        counts("Versions evaluated", versions, width=24),
    ]


def critic() -> list[Any]:
    of = {name: f"headrace_train_critic_{name}" for name in ("loss", "grad_norm", "advantage_std", "learning_rate")}
    values = {
        "values": largest("headrace_train_critic_value_mean"),
        "returns": largest("headrace_train_critic_return_mean"),
    }
    explained = {"explained variance": largest("headrace_train_critic_explained_variance_ratio")}
    return [
        lines("Loss of the critic", {"loss": largest(of["loss"])}, unit="none", low=0),
        lines("What it knew before", explained, unit="percentunit", high=1, limits=((0.0, look.AMBER),)),
        lines("Its values and the returns", values, unit="none"),
        lines("Advantages before whitening", {"deviation": largest(of["advantage_std"])}, unit="none", low=0),
        lines(
            "Values clipped", {"tokens": largest("headrace_train_critic_clip_ratio")}, unit="percentunit", low=0, high=1
        ),
        lines("Its gradient norm", {"norm": largest(of["grad_norm"])}, unit="none", low=0),
        lines("Its learning rate", {"in force": largest(of["learning_rate"])}, unit="sci", low=0, width=12),
        lines(
            "Its updates", {"updates": rate("headrace_train_critic_updates_total")}, unit="suffix: /s", low=0, width=12
        ),
    ]
