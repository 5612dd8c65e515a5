"""A run's curves over its steps, or those of several runs on the same axes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from orchestrator.run_report.figures import KL_ALARM
from orchestrator.run_report.palette import SERIES
from orchestrator.run_report.reading import number, numbers, seconds
from orchestrator.run_report.record import RunRecord
from train_cluster import charts
from train_cluster.charts import Axes

MOST_POINTS = 240
"""Of a curve; of more steps neighbours are averaged, and their range is shaded."""
FAR = 4.0
"""Times the largest value: a reference line beyond it would press the curve to the ground."""
MOST_SERIES = 6
"""In one chart: further components have their numbers in metrics.jsonl."""

Row = Mapping[str, Any]
Value = Callable[[Row], float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    label: str
    kind: str
    points: tuple[tuple[float, float | None], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """What a chart shows of each step."""

    title: str
    unit: str
    values: Mapping[str, Value]
    """By label; with one label the run's name stands in its place where several are compared."""
    levels: tuple[tuple[float, str], ...] = ()
    """Reference lines; those far outside what the values reach are left out."""
    floor: float | None = None
    """Where the axis begins, unless a value lies below it."""


def curves(runs: Sequence[RunRecord]) -> Iterator[str]:
    """Charts of which at least one run has a value."""
    for plot in plots(runs):
        series = series_of(plot, runs)
        if any(value is not None for one in series for _, value in one.points):
            yield draw(plot, series, runs)
            if plot.title == REWARD:
                yield from _win_rates(runs)


REWARD, ALARM = "Reward", "alarm"


def plots(runs: Sequence[RunRecord]) -> Iterator[Plot]:
    yield Plot(title=REWARD, unit="mean over a batch", values={"total": _at("reward_mean")})
    components = _names(runs, "reward_components")
    if len(components) > 1:
        yield Plot(
            title="Components of the reward, unweighted",
            unit="mean over a batch",
            values={name: _at("reward_components", name) for name in components},
        )
    yield Plot(
        title="KL to the reference",
        unit="nats a response",
        values={"KL": _at("kl_per_response")},
        levels=_kl_levels(runs),
        floor=0,
    )
    yield Plot(title="Coefficient of KL", unit="in force", values={"coefficient": _at("kl_coefficient")}, floor=0)
    yield Plot(title="Length of answers", unit="tokens", values={"length": _at("response_length_mean")}, floor=0)
    yield Plot(title="Cut off at max_tokens", unit="share of answers", values={"truncated": _at("truncated")}, floor=0)
    yield Plot(
        title="Length against reward",
        unit="correlation in a batch",
        values={"correlation": _at("length_reward_correlation")},
        levels=((0.0, "none"),),
    )
    yield Plot(
        title="Variety of a prompt's answers",
        unit="share",
        values={
            "distinct 4-grams": _at("reward_measures", "diversity.distinct_4"),
            "unique answers": _at("reward_measures", "diversity.unique"),
            "groups of equal reward": _at("reward_measures", "diversity.equal"),
        },
        floor=0,
    )
    yield Plot(title="Entropy", unit="nats a token", values={"entropy": _at("entropy")}, floor=0)
    yield Plot(
        title="Disagreement of reward models",
        unit="standard deviation",
        values={
            name: _at("reward_measures", name)
            for name in _names(runs, "reward_measures")
            if name.endswith(".disagreement")
        },
        floor=0,
    )
    yield Plot(
        title="Tokens clipped",
        unit="share",
        values={"clipped": _at("clip_fraction"), "weights at their cap": _at("correction_capped")},
        floor=0,
    )
    yield Plot(
        title="Gradient norm",
        unit="before clipping",
        values={"policy": _at("grad_norm"), "critic": _at("critic", "grad_norm")},
        floor=0,
    )
    yield Plot(
        title="Staleness of tokens",
        unit="steps",
        values={"mean": _at("staleness_mean"), "oldest": _at("staleness_max")},
        levels=_bounds(runs),
        floor=0,
    )
    yield Plot(
        title="Engine against trainer",
        unit="log-prob gap, nats",
        values={"weights of the step": _gap(0), "older weights": _gap(None)},
        floor=0,
    )
    yield Plot(
        title="Critic: explained variance",
        unit="share",
        values={"explained": _at("critic", "explained_variance")},
        levels=((0.0, "a constant"),),
    )
    yield Plot(title="Loss of the policy", unit="mean over updates", values={"loss": _at("loss")})


def series_of(plot: Plot, runs: Sequence[RunRecord]) -> list[Series]:
    """Of one run its labels, of several a run each: then only what the first label shows."""
    if len(runs) == 1:
        chosen = list(plot.values.items())[:MOST_SERIES]
        drawn = [(label, value) for label, value in chosen if any(value(row) is not None for row in runs[0].steps)]
        return [_series(label, f"s{n}", runs[0].steps, value) for n, (label, value) in enumerate(drawn)]
    first = next(iter(plot.values.values()), None)
    return [_series(run.name, f"s{n % len(SERIES)}", run.steps, first) for n, run in enumerate(runs) if first]


def draw(plot: Plot, series: Sequence[Series], runs: Sequence[RunRecord]) -> str:
    values = [value for one in series for _, value in one.points if value is not None]
    levels = [(at, name) for at, name in plot.levels if _near(at, values)]
    low, high = charts.around([*values, *(at for at, _ in levels)])
    low = plot.floor if plot.floor is not None and min(values) >= plot.floor else low
    axes = Axes(x=_steps(runs), y=(low, high), x_label="step", y_label=plot.unit)
    marks: list[str] = []
    for one in series:
        thin = charts.thinned(one.points, most=MOST_POINTS)
        if len(thin) < len(one.points):
            marks.append(charts.band(axes, [(x, least, most) for x, _, least, most in thin], kind=f"b{one.kind[1:]}"))
        marks.append(charts.curve(axes, [(x, mean) for x, mean, _, _ in thin], kind=one.kind))
    marks += [
        charts.reference(axes, at, name, kind="limit" if name == ALARM else "aim", at_right=name == ALARM)
        for at, name in levels
    ]
    marks += _lives(axes, runs)
    legend = {one.label: one.kind for one in series}
    title = plot.title if len(runs) == 1 or len(plot.values) < 2 else f"{plot.title}: {next(iter(plot.values))}"
    return charts.chart(title, axes, marks, legend=legend if len(series) > 1 or len(runs) > 1 else None)


def throughput(runs: Sequence[RunRecord]) -> str:
    """Tokens trained a second, from the times of neighbouring steps of one life; "" where no two are known."""
    plot = Plot(title="Throughput", unit="tokens trained a second", values={"tokens/s": lambda row: None}, floor=0)
    series = [
        Series(label=run.name, kind=f"s{n % len(SERIES)}", points=tuple(_pace(run.steps))) for n, run in enumerate(runs)
    ]
    if not any(value is not None for one in series for _, value in one.points):
        return ""
    return draw(plot, series, runs)


def _series(label: str, kind: str, steps: Sequence[Row], value: Value) -> Series:
    return Series(label=label, kind=kind, points=tuple((number(row, "step") or 0.0, value(row)) for row in steps))


def _pace(steps: Sequence[Row]) -> Iterator[tuple[float, float | None]]:
    for before, row in pairwise(steps):
        start, end, tokens = seconds(before), seconds(row), number(row, "tokens_trained")
        count = (number(row, "step") or 0.0) - (number(before, "step") or 0.0)
        known = start is not None and end is not None and tokens is not None and row.get("epoch") == before.get("epoch")
        value = count * tokens / (end - start) if known and start and end and tokens and end > start else None
        yield number(row, "step") or 0.0, value


def _win_rates(runs: Sequence[RunRecord]) -> Iterator[str]:
    """Of the runs' own evaluations, with their intervals."""
    axes = Axes(x=_steps(runs), y=(0, 1), x_label="step", y_label="share of comparisons won")
    marks = [charts.reference(axes, 0.5, "as the first model", kind="aim")]
    legend = {}
    for n, run in enumerate(runs):
        rows = [row for row in run.evaluations if number(row, "win_rate") is not None]
        if not rows:
            continue
        kind = f"s{n % len(SERIES)}"
        at = [number(row, "step") or 0.0 for row in rows]
        spans = [
            (x, number(row, "win_rate_low"), number(row, "win_rate_high")) for x, row in zip(at, rows, strict=True)
        ]
        if len(rows) > 1:
            marks.append(charts.band(axes, spans, kind=f"b{kind[1:]}"))
        marks += [
            charts.whisker(axes, x, low, high)
            for x, low, high in spans
            if low is not None and high is not None and len(rows) == 1
        ]
        points = [(x, number(row, "win_rate")) for x, row in zip(at, rows, strict=True)]
        marks.append(charts.curve(axes, points, kind=kind))
        marks.append(charts.dots(axes, [(x, y) for x, y in points if y is not None], kind=f"{kind} lone", radius=2.2))
        legend[run.name] = kind
    if legend:
        marks += _lives(axes, runs)
        yield charts.chart(
            "Win rate on held-out prompts, 95 % interval", axes, marks, legend=legend if len(runs) > 1 else None
        )


def _steps(runs: Sequence[RunRecord]) -> tuple[float, float]:
    """From the first step to the last: a run of one step has an axis as well."""
    at = [number(row, "step") or 0.0 for run in runs for row in run.steps]
    last = max(at, default=1.0)
    return (0.0, max(1.0, last))


def _lives(axes: Axes, runs: Sequence[RunRecord]) -> list[str]:
    """Of one run alone: where its later lives go on."""
    if len(runs) > 1:
        return []
    return [charts.upright(axes, step - 0.5, f"life {n}", kind="life") for n, step in enumerate(runs[0].lives, start=2)]


def _kl_levels(runs: Sequence[RunRecord]) -> tuple[tuple[float, str], ...]:
    levels = [(KL_ALARM, ALARM)]
    for run in runs[:1]:
        target = number(run.settings, "training.kl.target_nats")
        if target is not None and run.settings.get("training.kl.adaptive") is not False:
            levels.append((target, "target"))
    return tuple(levels)


def _bounds(runs: Sequence[RunRecord]) -> tuple[tuple[float, str], ...]:
    bound = number(runs[0].settings, "pacing.max_staleness") if runs else None
    return () if bound is None else ((bound, "max_staleness"),)


def _near(level: float, values: Sequence[float]) -> bool:
    """Not so far above that the curve would lie flat on the ground."""
    return bool(values) and level <= FAR * max(max(values), 1e-9)


def _gap(staleness: float | None) -> Value:
    """At equal weights, or else at the others."""

    def value(row: Row) -> float | None:
        same = number(row, "logprob_gap_staleness") == 0
        if not number(row, "logprob_gap_sequences") or same != (staleness == 0):
            return None
        return number(row, "logprob_gap")

    return value


def _at(*names: str) -> Value:
    return lambda row: number(row, *names)


def _names(runs: Sequence[RunRecord], key: str) -> list[str]:
    """That any step has under this key, in the order of their first step."""
    found: dict[str, None] = {}
    for run in runs:
        for row in (*run.steps[:1], *run.steps[-1:]):
            found |= dict.fromkeys(numbers(row, key))
    return list(found)
