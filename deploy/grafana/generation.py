"""The generation cluster: how fast it samples, what holds it up, and how its groups end."""

from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana import look
from deploy.grafana.gpus import gpus
from deploy.grafana.layout import Section, page
from deploy.grafana.panels import bars, counts, lines, shares, stat
from deploy.grafana.promql import busy, largest, mean, or_zero, quantile, rate, share, smallest, steady, total, useful

TOKENS = "headrace_gen_tokens_total"
FIRST, EACH = "headrace_gen_time_to_first_token_seconds", "headrace_gen_time_per_output_token_seconds"


def generation() -> Dashboard:
    sections = [
        Section(title="At a glance", panels=_glance()),
        Section(title="Throughput, and what holds it up", panels=_throughput()),
        Section(title="Latency", panels=_latency()),
        Section(title="How groups and requests end", panels=_ends()),
        Section(title="Weights", panels=_weights()),
        Section(title="GPUs", panels=gpus("gen"), closed=True),
    ]
    return page("generation", "How fast the engines sample, what holds them up, and how their groups end.", sections)


def _glance() -> list[Any]:
    each = f"1 / ({mean(EACH)})"
    overdue = f"{or_zero(rate('headrace_gen_groups_total', result='overdue'))} / {rate('headrace_gen_groups_total')}"
    first, reading = quantile(0.99, FIRST), "headrace_gen_kv_cache_ratio"
    return [
        stat("Tokens/s", rate(TOKENS), unit="si:tok/s"),
        stat("Busy", busy("headrace_gen_wall_seconds_total"), unit="percentunit", decimals=0),
        stat("Running", f"sum ({steady('headrace_gen_running')})", unit="none", decimals=0),
        stat("First token", first, unit="s", limits=look.FIRST_TOKEN),
        stat("Token speed", each, unit="si:tok/s", limits=look.FAST_ENOUGH, below=look.RED),
        stat("Out of time", overdue, unit="percentunit", decimals=1, limits=look.GIVEN_UP),
        stat("KV cache", largest(reading), unit="percentunit", decimals=1),
        stat("Served", smallest("headrace_gen_served_version"), unit="none"),
    ]


def _throughput() -> list[Any]:
    tokens = {"{{worker}}": rate(TOKENS, by="worker")}
    phases = {"{{phase}}": share("headrace_gen_wall_seconds_total", "phase")}
    requests = {
        "running": f"sum ({steady('headrace_gen_running')})",
        "room": total("headrace_gen_max_sequences"),
        "groups leased, not started": total("headrace_gen_waiting"),
    }
    cache = {"{{worker}}": f"max by (worker) ({steady('headrace_gen_kv_cache_ratio')})"}
    step = _quantiles("headrace_gen_step_seconds")
    cpu = {"{{worker}}": useful("headrace_gen_work_cpu_seconds_total", role="gen")}
    return [
        lines("Tokens by worker", tokens, unit="si:tok/s", low=0),
        shares("Where the workers' time goes", phases, stacked=True, colours=look.PHASES, width=16),
        counts("Requests", requests),
        lines("KV cache in use", cache, unit="percentunit", low=0),
        shares("Processor time in engine steps", cpu),
        lines("One engine step", step, unit="s", low=0, width=12),
        lines(
            "Preemptions",
            {"{{worker}}": rate("headrace_gen_preemptions_total", by="worker")},
            unit="cps",
            low=0,
            width=12,
        ),
    ]


def _quantiles(histogram: str) -> dict[str, str]:
    return {"median": quantile(0.5, histogram), "p99": quantile(0.99, histogram)}


def _latency() -> list[Any]:
    return [
        lines("Time to the first token", _quantiles(FIRST), unit="s", low=0, limits=look.FIRST_TOKEN),
        lines("Time of each further token", _quantiles(EACH), unit="s", low=0, limits=look.SLOW_TOKEN),
        lines("Time of a group", _quantiles("headrace_gen_group_seconds"), unit="s", low=0),
    ]


def _ends() -> list[Any]:
    groups = {"{{result}}": rate("headrace_gen_groups_total", by="result")}
    reasons = {"{{reason}}": share("headrace_gen_finished_total", "reason")}
    given_up = {"{{le}}": total("headrace_gen_given_up_tokens_bucket", by="le")}
    return [
        lines("Groups by result", groups, unit="suffix: groups/s", low=0),
        shares("Requests by end", reasons, stacked=True),
        bars("Tokens of groups given up, at most", given_up, unit="none", buckets=True),
    ]


def _weights() -> list[Any]:
    versions = {
        "published": largest("headrace_run_published_version"),
        "{{worker}}": largest("headrace_gen_served_version", by="worker"),
    }
    loads = {
        "fetching": mean("headrace_weights_fetch_seconds"),
        "checking and loading": mean("headrace_gen_update_seconds"),
    }
    refused = {"{{worker}}": total("headrace_gen_refused_versions_total", by="worker")}
    return [
        counts("Version published and served", versions),
        lines("Time of an update", loads, unit="s", low=0),
        counts("Versions refused", refused, limits=look.ANY),
    ]
