"""Small charts as SVG text, for pages that must open anywhere: no script, no font, no file from outside."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 340, 220
"""Of a chart, in its own units; the page scales it."""
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 34
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


def chart(title: str, axes: Axes, marks: Iterable[str], *, x_ticks: bool = True) -> str:
    """A figure: its frame, its ticks (across only where x is a number), and these marks upon them."""
    body = "".join([*_grid(axes, x_ticks=x_ticks), *marks])
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{body}</svg></figure>'
    )


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


def _grid(axes: Axes, *, x_ticks: bool) -> Iterable[str]:
    left, bottom = axes.at(axes.x[0], axes.y[0])
    right, top = axes.at(axes.x[1], axes.y[1])
    for k in range(TICKS):
        share = k / (TICKS - 1)
        y = bottom + share * (top - bottom)
        value = axes.y[0] + share * (axes.y[1] - axes.y[0])
        yield f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{left - 4}" y="{y + 3:.1f}" text-anchor="end">{tick(value, axes.y)}</text>'
        if x_ticks:
            x = left + share * (right - left)
            value = axes.x[0] + share * (axes.x[1] - axes.x[0])
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
