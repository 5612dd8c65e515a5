"""The scoring cluster: whether it keeps up, what it finds in the answers, and what fails."""

from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana import look
from deploy.grafana.gpus import gpus
from deploy.grafana.layout import Section, page
from deploy.grafana.panels import counts, lines, shares, should_be_none, stat
from deploy.grafana.promql import average, busy, largest, mean, or_zero, quantile, rate, share, total, useful

REWARD = "headrace_score_reward"
LATE, FAILED = "headrace_score_late_groups_total", "headrace_score_failures_total"


def scoring() -> Dashboard:
    sections = [
        Section(title="At a glance", panels=_glance()),
        Section(title="Does it keep up?", panels=_pace()),
        Section(title="What it finds", panels=_rewards()),
        Section(title="Can it be trusted?", panels=_trust()),
        Section(title="Ensembles of reward models", panels=_ensemble(), closed=True),
        Section(title="GPUs", panels=gpus("score"), closed=True),
    ]
    return page("scoring", "Whether scoring keeps up, what it finds in the answers, and what fails.", sections)


def _glance() -> list[Any]:
    late, failed = or_zero(total(LATE)), or_zero(total(FAILED))
    floor, target = largest("headrace_score_kl_noise_floor_nats"), "headrace_score_kl_target_below_noise"
    return [
        stat("Groups/s", rate("headrace_score_groups_total"), unit="suffix: groups/s", decimals=2),
        stat("Busy", busy("headrace_score_wall_seconds_total"), unit="percentunit", decimals=0),
        stat("Waiting", largest("headrace_experience_depth_groups", stream="completions"), unit="none"),
        stat(
            "Unique",
            average("headrace_score_unique_ratio"),
            unit="percentunit",
            decimals=0,
            limits=look.UNIQUE,
            below=look.RED,
        ),
        should_be_none("Failures", failed),
        should_be_none("Too late", late),
        stat("KL of rounding", floor, unit="suffix: nats", decimals=4, curve=False),
        should_be_none("KL too low", or_zero(total(target))),
    ]


def _pace() -> list[Any]:
    phases = {"{{phase}}": share("headrace_score_wall_seconds_total", "phase")}
    tokens = {"{{worker}}": rate("headrace_score_tokens_total", by="worker")}
    parts = {
        "whole pass": mean("headrace_score_pass_seconds"),
        "rewards": mean("headrace_score_rewards_seconds"),
        "reference": mean("headrace_score_reference_seconds"),
    }
    asked = {"{{component}}": share("headrace_score_component_seconds_total", "component")}
    samples = {"{{worker}}": rate("headrace_score_samples_total", by="worker")}
    cpu = {"{{worker}}": useful("headrace_score_work_cpu_seconds_total", role="score")}
    return [
        lines("Tokens by worker", tokens, unit="si:tok/s", low=0),
        shares("Where the workers' time goes", phases, stacked=True, colours=look.PHASES, width=16),
        lines("One pass", parts, unit="s", low=0),
        shares("Time by reward", asked, stacked=True),
        lines("Responses by worker", samples, unit="suffix: /s", low=0),
        shares("Processor time in passes", cpu),
    ]


def _rewards() -> list[Any]:
    spread = {
        "p10": quantile(0.1, REWARD, by="component"),
        "median": quantile(0.5, REWARD, by="component"),
        "p90": quantile(0.9, REWARD, by="component"),
    }
    within = {"spread": average("headrace_score_reward_spread")}
    equal = {"all equal": average("headrace_score_equal_groups_ratio")}
    grams = {"{{n}}-grams": average("headrace_score_distinct_ratio", by="n")}
    unique = {"unique": average("headrace_score_unique_ratio")}
    return [
        lines(
            "Reward by component", {"{{component}}": average("headrace_score_reward_mean", by="component")}, unit="none"
        ),
        lines(
            "Spread over answers", {f"{{{{component}}}}, {name}": query for name, query in spread.items()}, unit="none"
        ),
        lines("Spread within a group", within, unit="none", low=0),
        shares("Groups with equal rewards", equal),
        shares("Unique responses of a prompt", unique, limits=((0.5, look.RED),)),
        shares("Distinct n-grams of a prompt's responses", grams, limits=((0.6, look.AMBER),)),
    ]


def _trust() -> list[Any]:
    failures = {"{{component}}": or_zero(total(FAILED, by="component"), label="component")}
    late = {"{{worker}}": total(LATE, by="worker")}
    floor = {
        "noise floor": largest("headrace_score_kl_noise_floor_nats"),
        "KL of the policy": largest("headrace_train_kl_per_response_nats"),
    }
    return [
        counts("Failures by component", failures),
        counts("Scored after the lease had gone", late),
        lines("KL that rounding alone makes", floor, unit="suffix: nats", low=0),
    ]


def _ensemble() -> list[Any]:
    among = {"{{component}}": average("headrace_score_disagreement", by="component")}
    return [lines("Disagreement of the members", among, unit="none", low=0, width=24)]
