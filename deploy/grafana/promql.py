"""The few forms of queries that the panels are made of. `$run` and the windows are Grafana's variables."""

WINDOW = "$__rate_interval"
"""Four scrapes or one step of the picture, whichever is longer: below that a rate has gaps."""
LONG = "5m"
"""For what comes in lumps, such as processor time that is counted once a step."""
DRIVEN = {
    "headrace_experience_live_groups",
    "headrace_experience_capacity_groups",
    "headrace_experience_committed_batches",
    "headrace_experience_depth_groups",
    "headrace_experience_oldest_seconds",
    "headrace_experience_leases",
    "headrace_experience_oldest_lease_seconds",
    "headrace_weights_newest_version",
}
WHOLE = "$__range"
"""All that the dashboard shows."""


def of(metric: str, **labels: str) -> str:
    """A metric of the run; a label's value that begins with `~` or `!~` is a pattern, with `!` an exclusion.

    Where several roles export a metric, only its owner is asked: generation workers for engines, though the evaluation
    has one too; the driver for what it sees of the stores, since others leave the gauges at 0.
    """
    own = {"role": "gen"} if metric.startswith("headrace_gen_") else {"role": "driver"} if metric in DRIVEN else {}
    found = ['run="$run"', *(_matcher(name, value) for name, value in (own | labels).items())]
    return f"{metric}{{{', '.join(found)}}}"


def steady(metric: str, **labels: str) -> str:
    """A gauge that jumps from scrape to scrape, as its mean over a window."""
    return f"avg_over_time({of(metric, **labels)}[{WINDOW}])"


def rate(metric: str, *, by: str = "", window: str = WINDOW, **labels: str) -> str:
    """Per second, summed over what `by` does not name."""
    return f"sum{_by(by)} (rate({of(metric, **labels)}[{window}]))"


def largest(metric: str, *, by: str = "", **labels: str) -> str:
    return f"max{_by(by)} ({of(metric, **labels)})"


def smallest(metric: str, *, by: str = "", **labels: str) -> str:
    return f"min{_by(by)} ({of(metric, **labels)})"


def average(metric: str, *, by: str = "", **labels: str) -> str:
    """Over processes and over the window."""
    return f"avg{_by(by)} ({steady(metric, **labels)})"


def total(metric: str, *, by: str = "", **labels: str) -> str:
    return f"sum{_by(by)} ({of(metric, **labels)})"


def quantile(share: float, histogram: str, *, by: str = "", window: str = WINDOW) -> str:
    """Of a histogram's observations in the window; nothing where there were none."""
    inner = rate(f"{histogram}_bucket", by=f"{by}, le".removeprefix(", "), window=window)
    return f"histogram_quantile({share:g}, {inner})"


def mean(histogram: str, *, by: str = "", window: str = WINDOW) -> str:
    """Of a histogram's observations in the window."""
    return f"{rate(f'{histogram}_sum', by=by, window=window)} / {rate(f'{histogram}_count', by=by, window=window)}"


def share(counter: str, label: str, *, window: str = WINDOW) -> str:
    """How much of the sum over `label` each of its values has, 0 to 1."""
    whole = rate(counter, window=window)
    return f"{rate(counter, by=label, window=window)} / ignoring({label}) group_left () {whole}"


def busy(counter: str, *, by: str = "", window: str = WINDOW) -> str:
    """Share of the wall time of processes in which they were in a phase that is work, 0 to 1."""
    working = rate(counter, by=by, window=window, phase="!~wait_.*")
    return f"{working} / {rate(counter, by=by, window=window)}"


def useful(cpu_seconds: str, *, role: str) -> str:
    """Share of each process's processor time that a cluster counts as work, 0 to 1."""
    whole = rate("process_cpu_seconds_total", by="worker", window=LONG, role=role)
    return f"{rate(cpu_seconds, by='worker', window=LONG)} / {whole}"


def or_zero(query: str, *, label: str = "") -> str:
    """0 where there is no series yet, of a thing that has not happened; under the name `any` of a label."""
    zero = f'label_replace(vector(0), "{label}", "any", "", "")' if label else "vector(0)"
    return f"({query} or on () {zero})"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def _matcher(name: str, value: str) -> str:
    for operator, prefix in (("!~", "!~"), ("=~", "~"), ("!=", "!")):
        if value.startswith(prefix):
            return f'{name}{operator}"{value.removeprefix(prefix)}"'
    return f'{name}="{value}"'
