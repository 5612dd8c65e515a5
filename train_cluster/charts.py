"""Small charts as SVG text, for pages that must open anywhere: no script, no font, no file from outside."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 340, 220
"""Of a chart, in its own units; the page scales it."""
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 10, 34
"""Room around the plot for ticks and labels."""
TICKS = 5

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Axes:
    """The ranges of both axes and what they measure."""

    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_label: str

    def at(self, x: float, y: float) -> Point:
        """Where a point lies in the picture."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def chart(
    title: str, axes: Axes, marks: Iterable[str], *, x_ticks: bool = True, legend: Mapping[str, str] | None = None
) -> str:
    """A figure: its frame, its ticks (across only where x is a number), and these marks upon them.

    legend: {label: kind} of its series, named below the title in their colours.
    """
    body = "".join([*_grid(axes, x_ticks=x_ticks), *marks])
    return (
        f"<figure><figcaption>{escape(title)}{keys(legend or {})}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg></figure>'
    )


def keys(legend: Mapping[str, str]) -> str:
    """What the colours mean: a patch and a name each; the page's style colours `key-{kind}`."""
    return "".join(
        f'<span class="entry"><i class="key key-{kind}"></i>{escape(label)}</span>' for label, kind in legend.items()
    )


def curve(axes: Axes, points: Sequence[tuple[float, float | None]], *, kind: str = "line") -> str:
    """A line with a gap where a value is missing or no number; a value between two gaps is a dot."""
    found = []
    for run in _runs(points):
        found.append(line(axes, run, kind=kind) if len(run) > 1 else dots(axes, run, kind=f"{kind} lone", radius=2))
    return "".join(found)


def band(axes: Axes, spans: Sequence[tuple[float, float | None, float | None]], *, kind: str = "band") -> str:
    """The area between a lower and an upper value at each x, with gaps where either is missing."""
    low = _runs([(x, under if over is not None else None) for x, under, over in spans])
    high = _runs([(x, over if under is not None else None) for x, under, over in spans])
    found = []
    for under, over in zip(low, high, strict=True):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (axes.at(*point) for point in [*under, *reversed(over)]))
        found.append(f'<polygon class="{kind}" points="{path}"/>')
    return "".join(found)


def reference(axes: Axes, y: float, text: str, *, kind: str = "limit", at_right: bool = False) -> str:
    """A level with its name at an end, above the line, or below it where there is no room; "" outside the range."""
    if not axes.y[0] <= y <= axes.y[1]:
        return ""
    (x0, at), (x1, _) = axes.at(axes.x[0], y), axes.at(axes.x[1], y)
    name_y = at - 3 if at - 3 > TOP + 8 else at + 9
    name_x, anchor = (x1 - 4, "end") if at_right else (x0 + 4, "start")
    return (
        f'<line class="{kind}" x1="{x0:.1f}" x2="{x1:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text class="{kind}" x="{name_x:.1f}" y="{name_y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def upright(axes: Axes, x: float, text: str = "", *, kind: str = "mark") -> str:
    """A line from bottom to top, with a note at its top."""
    (at, bottom), (_, top) = axes.at(x, axes.y[0]), axes.at(x, axes.y[1])
    note = f'<text class="{kind}" x="{at + 3:.1f}" y="{top + 8:.1f}">{escape(text)}</text>' if text else ""
    return f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom:.1f}" y2="{top:.1f}"/>{note}'


Thinned = tuple[float, float | None, float | None, float | None]
"""x, mean, least and greatest; three times None where no value is there."""


def thinned(points: Sequence[tuple[float, float | None]], *, most: int) -> list[Thinned]:
    """At most `most` neighbourhoods of equal count; of fewer points each by itself."""
    size = max(1, -(-len(points) // most))
    found: list[Thinned] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        x, values = part[len(part) // 2][0], [y for _, y in part if y is not None and math.isfinite(y)]
        summary = (math.fsum(values) / len(values), min(values), max(values)) if values else (None, None, None)
        found.append((x, *summary))
    return found


def _runs(points: Iterable[tuple[float, float | None]]) -> list[list[Point]]:
    """Unbroken stretches."""
    found: list[list[Point]] = [[]]
    for x, y in points:
        if y is None or not math.isfinite(y):
            found.append([])
        else:
            found[-1].append((x, y))
    return [run for run in found if run]


def line(axes: Axes, points: Sequence[Point], *, kind: str = "line") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (axes.at(*point) for point in points))
    return f'<polyline class="{kind}" points="{path}"/>'


def dots(axes: Axes, points: Iterable[Point], *, kind: str = "dot", radius: float = 2.0) -> str:
    placed = (axes.at(*point) for point in points)
    return "".join(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>' for x, y in placed)


def bars(axes: Axes, edges: Sequence[float], counts: Sequence[float], *, kind: str = "bar") -> str:
    """One bar between each two edges, from the bottom."""
    found = []
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        (x0, y0), (x1, y1) = axes.at(left, axes.y[0]), axes.at(right, count)
        found.append(f'<rect class="{kind}" x="{x0:.1f}" y="{y1:.1f}" width="{x1 - x0:.1f}" height="{y0 - y1:.1f}"/>')
    return "".join(found)


def whisker(axes: Axes, x: float, low: float, high: float) -> str:
    (x0, y0), (_, y1) = axes.at(x, low), axes.at(x, high)
    return f'<line class="whisker" x1="{x0:.1f}" x2="{x0:.1f}" y1="{y0:.1f}" y2="{y1:.1f}"/>'


def note(axes: Axes, x: float, y: float, text: str) -> str:
    at_x, at_y = axes.at(x, y)
    return f'<text class="note" x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="middle">{escape(text)}</text>'


def around(values: Iterable[float]) -> tuple[float, float]:
    """A range that holds these, with a little room."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room


def round_ticks(ends: tuple[float, float]) -> list[float]:
    """About TICKS round numbers within a range, at steps of 1, 2, 2.5 or 5 times a power of ten."""
    low, high = ends
    rough = (high - low) / (TICKS - 1)
    if not rough > 0 or not math.isfinite(rough):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [factor * power for factor in (1, 2, 2.5, 5, 10) if factor != 2.5 or power != 1]  # 2.5 of what is counted
    step = min(steps, key=lambda step: abs(step - rough))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _grid(axes: Axes, *, x_ticks: bool) -> Iterable[str]:
    left, bottom = axes.at(axes.x[0], axes.y[0])
    right, top = axes.at(axes.x[1], axes.y[1])
    for value in round_ticks(axes.y):
        y = axes.at(axes.x[0], value)[1]
        yield f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{left - 4}" y="{y + 3:.1f}" text-anchor="end">{tick(value, axes.y)}</text>'
    for value in round_ticks(axes.x) if x_ticks else ():
        x = axes.at(value, axes.y[0])[0]
        yield f'<text x="{x:.1f}" y="{bottom + 13:.1f}" text-anchor="middle">{tick(value, axes.x)}</text>'
    middle = (top + bottom) / 2
    yield f'<text class="label" x="{(left + right) / 2:.1f}" y="{HEIGHT - 5}" text-anchor="middle">{escape(axes.x_label)}</text>'
    yield (
        f'<text class="label" x="10" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 10 {middle:.1f})">'
        f"{escape(axes.y_label)}</text>"
    )


def tick(value: float, ends: tuple[float, float]) -> str:
    """A tick's number, no finer than tells it from its neighbours: 0.0072 between -1.8 and 1.8 is 0.01."""
    step = (ends[1] - ends[0]) / (TICKS - 1) or 1.0
    return f"{round(value, max(0, 1 - math.floor(math.log10(step)))) + 0.0:g}"
