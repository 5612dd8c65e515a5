"""The first dashboard to open: is it learning, is it healthy, where does its time go?"""

from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana import look
from deploy.grafana.layout import Section, page
from deploy.grafana.panels import counts, lines, listing, shares, should_be_none, stat, states
from deploy.grafana.promql import (
    WHOLE,
    WINDOW,
    average,
    busy,
    largest,
    of,
    or_zero,
    rate,
    share,
    smallest,
    steady,
    total,
)
from orchestrator.waited_for import BUSY_ENOUGH

WAITED = "headrace_run_waited_for_seconds_total"
SILENT: look.Limits = ((120.0, look.AMBER), (600.0, look.RED))
"""Seconds without progress: longer than most steps; as long as a step of a large model may take."""
TAKEN_UNITS = {"Value #B": "bytes", "Value #C": "none"}
WAITING = {"for generation": "prompts", "for scoring": "completions", "for training": "experience"}
WAITING_COLOURS = {f"for {stage}": colour for stage, colour in look.ROLES.items()}


def overview() -> Dashboard:
    sections = [
        Section(title="At a glance", panels=_glance()),
        Section(title="Is it learning?", panels=_learning()),
        Section(title="Is it healthy?", panels=_healthy()),
        Section(title="Where does the time go?", panels=_time()),
    ]
    return page("overview", "Is a run learning, is it healthy, where does its time go? Start here.", sections)


def bottleneck() -> str:
    """The series of one stage, by the rule of `orchestrator.waited_for.bottleneck`; none where the loop did not turn."""
    others = "generation|scoring|publication"
    spent = f"sum by (stage) (increase({of(WAITED, stage=f'~{others}|training')}[{WHOLE}]))"
    training = f"sum by (stage) (increase({of(WAITED, stage='training')}[{WHOLE}]))"
    largest_other = f"topk(1, sum by (stage) (increase({of(WAITED, stage=f'~{others}')}[{WHOLE}])))"
    return f"(({training} >= on () group_left () {BUSY_ENOUGH:g} * sum ({spent})) or on () {largest_other}) and on () sum ({spent}) > 0"


def _glance() -> list[Any]:
    done = f"{largest('headrace_run_step')} / {largest('headrace_run_steps_planned')}"
    silent = f"time() - {largest('headrace_run_last_progress_timestamp_seconds')}"
    alerts = or_zero(f"count({of('ALERTS', alertstate='firing')})")
    kl, reward = "headrace_train_kl_per_response_nats", "headrace_train_reward_mean"
    return [
        stat("Trained", done, unit="percentunit", decimals=0, curve=False),
        stat("Step", largest("headrace_run_step"), unit="none"),
        stat("Newest reward", largest(reward), unit="none", decimals=3),
        stat("Newest KL", largest(kl), unit="suffix: nats", decimals=2, limits=look.KL),
        stat("Win rate", largest("headrace_eval_win_ratio"), unit="percentunit", decimals=0, limits=look.WIN),
        stat("Bottleneck", bottleneck(), unit="none", name="{{stage}}"),
        stat("Last progress", silent, unit="s", decimals=0, limits=SILENT),
        should_be_none("Alerts", alerts),
    ]


def _learning() -> list[Any]:
    win = {
        "win rate": largest("headrace_eval_win_ratio"),
        "low end": largest("headrace_eval_win_low_ratio"),
        "high end": largest("headrace_eval_win_high_ratio"),
    }
    win_colours = {"win rate": look.GREEN, "low end": look.GREY, "high end": look.GREY}
    diversity = {
        "unique responses": average("headrace_score_unique_ratio"),
        "distinct 4-grams": average("headrace_score_distinct_ratio", n="4"),
    }
    entropy = {"per token": largest("headrace_train_entropy_nats")}
    return [
        lines("Reward", _held_out("reward_mean", "reward"), unit="none", colours=look.HELD_OUT),
        lines(
            "KL a response",
            _held_out("kl_per_response_nats"),
            limits=look.KL,
            colours=look.HELD_OUT,
            unit="suffix: nats",
            low=0,
        ),
        shares("Win rate against the start", win, limits=((0.5, look.AMBER),), colours=win_colours),
        lines("Length", _held_out("response_length_tokens"), unit="suffix: tokens", low=0, colours=look.HELD_OUT),
        shares("Diversity of a prompt's responses", diversity, limits=look.DIVERSE),
        lines("Entropy", entropy, unit="suffix: nats", low=0),
    ]


def _held_out(training: str, evaluation: str = "") -> dict[str, str]:
    return {
        "training": largest(f"headrace_train_{training}"),
        "held out": largest(f"headrace_eval_{evaluation or training}"),
    }


def _healthy() -> list[Any]:
    versions = {
        "trained": largest("headrace_run_step"),
        "published": largest("headrace_run_published_version"),
        "served by the slowest engine": smallest("headrace_gen_served_version"),
    }
    age = {
        "mean": largest("headrace_train_staleness_mean_steps"),
        "oldest": largest("headrace_train_staleness_max_steps"),
    }
    taken = {
        "up": total("up", by="worker, role"),
        "memory": largest("process_resident_memory_bytes", by="worker"),
        "cores": rate("process_cpu_seconds_total", by="worker"),
    }
    columns = {"worker": "Process", "Value #A": "Up", "Value #B": "Memory", "Value #C": "Cores"}
    firing = {"alertname": "Alert", "severity": "Severity", "worker": "Process"}
    up = {"1": ("up", look.GREEN), "0": ("down", look.RED)}
    alerts = {"alerts": of("ALERTS", alertstate="firing")}
    restarts = {"{{kind}}": largest("headrace_run_restarts", by="kind")}
    return [
        states("Processes", {"{{worker}}": of("up")}, values=up, width=8),
        counts("Versions", versions),
        lines("Age of what is trained", age, unit="suffix: steps", low=0, decimals=1),
        listing("Alerts firing", alerts, key="alertname", columns=firing, nothing="None fires", width=8),
        listing("What the processes take", taken, key="worker", columns=columns, units=TAKEN_UNITS, width=8),
        counts("Restarts", restarts),
    ]


def _time() -> list[Any]:
    waited = {"{{stage}}": share(WAITED, "stage")}
    at_work = {
        "generation": busy("headrace_gen_wall_seconds_total"),
        "scoring": busy("headrace_score_wall_seconds_total"),
        "training": busy("headrace_train_wall_seconds_total"),
    }
    throughput = {
        "generation": rate("headrace_gen_tokens_total"),
        "scoring": rate("headrace_score_tokens_total"),
        "training": rate("headrace_train_tokens_total"),
    }
    depth = {
        name: f"max ({steady('headrace_experience_depth_groups', stream=stream)})" for name, stream in WAITING.items()
    }
    oldest = {name: largest("headrace_experience_oldest_seconds", stream=stream) for name, stream in WAITING.items()}
    step = {"mean": f"1 / (max (deriv({of('headrace_run_step')}[{WINDOW}])) > 0)"}
    return [
        shares("The trainer: at work, or waiting for", waited, stacked=True, colours=look.STAGES, width=12),
        shares("Busy share of each cluster", at_work, colours=look.ROLES, width=12),
        counts("Groups that wait", depth, colours=WAITING_COLOURS, width=6),
        lines("Age of the oldest of them", oldest, unit="s", low=0, colours=WAITING_COLOURS, width=6),
        lines("Throughput", throughput, unit="si:tok/s", low=0, colours=look.ROLES, width=6),
        lines("Time of a step", step, unit="s", low=0, width=6),
    ]
