"""One figure with its course, bars, and bands of states over time."""

from collections.abc import Sequence
from html import escape

from deploy.grafana.render.api import Series
from deploy.grafana.render.axes import Axes, times
from deploy.grafana.render.names import legend
from deploy.grafana.render.panel import Panel
from deploy.grafana.render.units import shown

SPARK_SHARE = 0.38
"""Of a figure's height, for its course."""
BAND_MOST, BAND_GAP = 26, 6
"""Pixels."""
NAME_LETTER, NAME_MOST = 6.4, 150
"""Pixels of a letter of a band's name, and of the whole name."""


def figure(panel: Panel, found: Sequence[tuple[str, Series]], *, size: tuple[int, int]) -> str:
    """The newest value of the first series, or its name."""
    form, series = found[0]
    value = series.points[-1][1]
    text = legend(form, series) if panel.by_name else shown(value, panel.unit, panel.decimals)
    points = max(15, min(30, int(1.5 * (size[0] - 16) / max(1, len(text)))))
    shade = panel.colour(value)
    spark = _spark(series, size, shade) if panel.sparkline and len(series.points) > 1 else ""
    return f'<div class="figure" style="color:{shade};font-size:{points}px">{escape(text)}</div>{spark}'


def _spark(series: Series, size: tuple[int, int], shade: str) -> str:
    width, height = size[0], int(SPARK_SHARE * size[1])
    values = [value for _, value in series.points]
    low, high = min(values), max(values)
    start, end = series.points[0][0], series.points[-1][0]
    places = [
        (width * (when - start) / ((end - start) or 1), height - 2 - (height - 4) * (value - low) / ((high - low) or 1))
        for when, value in series.points
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    area = f'<polygon points="0,{height} {path} {width},{height}" fill="{shade}" fill-opacity="0.1"/>'
    line = f'<polyline class="curve" points="{path}" fill="none" stroke="{shade}" stroke-width="1.3"/>'
    return f'<svg class="spark" viewBox="0 0 {width} {height}" preserveAspectRatio="none">{area}{line}</svg>'


def bar_list(panel: Panel, found: Sequence[tuple[str, Series]]) -> str:
    """A bar a series, of the share that its newest value has of the panel's range."""
    values = [(legend(form, series), series.points[-1][1]) for form, series in found]
    low = panel.low or 0.0
    high = max(value for _, value in values) if panel.high is None else panel.high
    rows = []
    for name, value in values:
        share = 100 * min(1.0, max(0.0, (value - low) / ((high - low) or 1)))
        bar = f'<i class="curve" style="width:{share:.1f}%;background:{panel.colour(value)}"></i>'
        number = escape(shown(value, panel.unit, panel.decimals))
        rows.append(f'<div class="bar"><span>{escape(name)}</span><u>{bar}</u><b>{number}</b></div>')
    return f'<div class="bars">{"".join(rows)}</div>'


def bands(panel: Panel, found: Sequence[tuple[str, Series]], *, span: tuple[float, float], step_s: float, size: tuple[int, int]) -> str:  # fmt: skip
    """A band a series; equal neighbours are one piece, and where there is no value the band is open."""
    words = "".join(
        f'<span><i style="background:{shade}"></i>{escape(word)}</span>' for word, shade in panel.words.values()
    )
    height = size[1] - 22
    names = sorted((legend(form, series), series) for form, series in found)
    left = min(NAME_MOST, 14 + NAME_LETTER * max(len(name) for name, _ in names))
    axes = Axes(width=size[0], height=height, times=span, values=(0, 1), left=left)
    each = min(BAND_MOST + BAND_GAP, (height - 28) / len(names))
    body = [*times(axes)]
    for place, (name, series) in enumerate(names):
        y = 8 + place * each
        middle = y + (each - BAND_GAP) / 2 + 4
        body.append(f'<text class="tick" x="{left - 8:.1f}" y="{middle:.1f}" text-anchor="end">{escape(name)}</text>')
        for start, end, value in _pieces(series, step_s):
            word, shade = panel.words.get(f"{value:g}", (f"{value:g}", panel.colour(value)))
            width = max(1.0, axes.x(min(end, span[1])) - axes.x(start))
            body.append(f'<rect class="curve" x="{axes.x(start):.1f}" y="{y:.1f}" width="{width:.1f}" height="{each - BAND_GAP:.1f}" rx="2" fill="{shade}"><title>{escape(f"{name}: {word}")}</title></rect>')  # fmt: skip
    svg = f'<svg viewBox="0 0 {size[0]} {height}" role="img" aria-label="{escape(panel.title)}">{"".join(body)}</svg>'
    return f'{svg}<div class="legend">{words}</div>'


def _pieces(series: Series, step_s: float) -> list[tuple[float, float, float]]:
    """(from, to, value), each until the next point or one step."""
    found: list[tuple[float, float, float]] = []
    for when, value in series.points:
        if found and found[-1][2] == value and when - found[-1][1] < step_s * 0.5:
            found[-1] = (found[-1][0], when + step_s, value)
        else:
            found.append((when, when + step_s, value))
    return found
