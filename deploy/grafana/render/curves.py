"""Curves over time: lines or areas on top of one another, thresholds, and a legend with each curve's newest value."""

from collections.abc import Iterator, Sequence
from html import escape

from deploy.grafana.render.api import Series
from deploy.grafana.render.axes import Axes, grid, room_for, value_range, value_ticks
from deploy.grafana.render.names import colour, legend
from deploy.grafana.render.panel import Panel
from deploy.grafana.render.units import shown, unit_size

LEGEND_LETTER, LEGEND_MARK, LEGEND_LINE = 6.3, 30, 18
"""Pixels: of a letter, of what stands beside a name, of a line."""
LEGEND_LINES = 3
"""More names than fit here are only counted."""
Named = tuple[str, str, Series]
"""Name, colour, series."""


def curves(
    panel: Panel, found: Sequence[tuple[str, Series]], *, times: tuple[float, float], size: tuple[int, int]
) -> str:
    """found: (form of the legend, series); size: pixels of the panel's inside."""
    named = _named(panel, found)
    shown_names, lines = _legend(panel, named, size[0])
    height = size[1] - LEGEND_LINE * lines - 4
    if panel.stacked:
        named = _stacked(named)
    values = [value for _, _, series in named for _, value in series.points]
    low, high = value_range(values, panel.low, panel.high)
    decimals = None if panel.unit == "percentunit" else panel.decimals
    ticks = value_ticks(low, high, size=unit_size(high, panel.unit), decimals=decimals)
    left = room_for(ticks, panel.unit, panel.decimals)
    axes = Axes(width=size[0], height=height, times=times, values=(low, high), left=left)
    body = [*grid(axes, ticks, panel.unit, panel.decimals), *_limits(panel, axes), *_drawn(panel, axes, named)]
    return (
        f'<svg viewBox="0 0 {size[0]} {height}" role="img" aria-label="{escape(panel.title)}">{"".join(body)}</svg>'
        f'<div class="legend">{shown_names}</div>'
    )


def _named(panel: Panel, found: Sequence[tuple[str, Series]]) -> list[Named]:
    names = [legend(form, series) for form, series in found]
    return [(name, colour(panel, name, place), series) for place, (name, (_, series)) in enumerate(zip(names, found, strict=True))]  # fmt: skip


def _stacked(named: Sequence[Named]) -> list[Named]:
    """Each on top of those before it; where one has no value it adds nothing."""
    moments = sorted({when for _, _, series in named for when, _ in series.points})
    heights = dict.fromkeys(moments, 0.0)
    found = []
    for name, shade, series in named:
        here = dict(series.points)
        heights = {when: height + here.get(when, 0.0) for when, height in heights.items()}
        found.append((name, shade, Series(labels=series.labels, points=tuple(heights.items()))))
    return found


def _drawn(panel: Panel, axes: Axes, named: Sequence[Named]) -> Iterator[str]:
    if not panel.stacked:
        for name, shade, series in named:
            for part in _parts(series.points, panel.gap_s):
                yield _line(axes, part, name, shade)
        return
    below = None
    for name, shade, series in named:
        floor = below.points if below else [(when, axes.values[0]) for when, _ in series.points]
        for part in _parts(tuple(zip(series.points, floor, strict=True)), panel.gap_s):
            yield _area(axes, part, name, shade)
        below = series


def _parts(points: Sequence, gap_s: float) -> list[list]:
    """Cut where two neighbours are further apart than that. A point is (time, …) or a pair of such."""
    found: list[list] = []
    before = None
    for point in points:
        when = point[0][0] if isinstance(point[0], tuple) else point[0]
        if before is None or when - before > gap_s:
            found.append([])
        found[-1].append(point)
        before = when
    return found


def _line(axes: Axes, points: Sequence[tuple[float, float]], name: str, shade: str) -> str:
    title = f"<title>{escape(name)}</title>"
    if len(points) == 1:
        (when, value) = points[0]
        return f'<circle class="curve" cx="{axes.x(when):.1f}" cy="{axes.y(value):.1f}" r="2" fill="{shade}">{title}</circle>'
    path = " ".join(f"{axes.x(when):.1f},{axes.y(value):.1f}" for when, value in points)
    return f'<polyline class="curve" points="{path}" fill="none" stroke="{shade}" stroke-width="1.6">{title}</polyline>'


def _area(axes: Axes, pairs: Sequence, name: str, shade: str) -> str:
    tops = [f"{axes.x(when):.1f},{axes.y(value):.1f}" for (when, value), _ in pairs]
    floors = [f"{axes.x(when):.1f},{axes.y(value):.1f}" for _, (when, value) in reversed(pairs)]
    path = " ".join([*tops, *floors])
    return f'<polygon class="curve" points="{path}" fill="{shade}" fill-opacity="0.72"><title>{escape(name)}</title></polygon>'


def _limits(panel: Panel, axes: Axes) -> Iterator[str]:
    for limit, shade in panel.steps if panel.dashed else ():
        if limit is not None and axes.values[0] <= limit <= axes.values[1]:
            y = axes.y(limit)
            yield f'<line class="limit" x1="{axes.left:.1f}" x2="{axes.width - 4:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{shade}"/>'


def _legend(panel: Panel, named: Sequence[Named], width: int) -> tuple[str, int]:
    """(HTML, lines that it takes)"""
    entries: list[str] = []
    lines, used = 1, 0.0
    for place, (name, shade, series) in enumerate(named):
        value = shown(series.points[-1][1], panel.unit, panel.decimals) if series.points else "no data"
        room = LEGEND_MARK + LEGEND_LETTER * len(f"{name} {value}")
        if used and used + room > width:
            if lines == LEGEND_LINES:
                entries[-1] = f"<span>and {len(named) - place + 1} more</span>"
                break
            lines, used = lines + 1, 0.0
        used += room
        mark = f'<i style="background:{shade}"></i>'
        entries.append(f"<span>{mark}{escape(name)} <b>{escape(value)}</b></span>")
    return "".join(entries), lines
