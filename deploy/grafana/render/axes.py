"""Where values and times lie in a picture, and the lines that name them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from deploy.grafana.render.units import shown

TOP, BOTTOM = 8, 20
"""Pixels above the plot and, for the times, below it."""
LETTER = 6.8
"""Pixels that a letter of an axis takes, on average."""
VALUE_TICKS = 5
TICK_ROOM = 90
"""Pixels that a time and its distance to the next one take."""
_TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True, kw_only=True)
class Axes:
    """A plot of `width` by `height` pixels, its ticks included."""

    width: float
    height: float
    times: tuple[float, float]
    values: tuple[float, float]
    left: float
    """Pixels for the names of values."""

    def x(self, when: float) -> float:
        across = (when - self.times[0]) / ((self.times[1] - self.times[0]) or 1)
        return self.left + across * (self.width - self.left - 4)

    def y(self, value: float) -> float:
        up = (value - self.values[0]) / ((self.values[1] - self.values[0]) or 1)
        return self.height - BOTTOM - up * (self.height - TOP - BOTTOM)


def value_ticks(low: float, high: float, *, size: float = 1.0, decimals: int | None = None) -> list[float]:
    """Round numbers, some five, from at or above `low` to at or below `high`.

    size: of the unit in which they are to be round (1024 for KiB); decimals: with no more than so many places.
    """
    low, high = low / size, high / size
    rough = (high - low) / VALUE_TICKS or 1.0
    power = 10 ** math.floor(math.log10(rough))
    factors = (1, 2, 2.5, 5, 10) if decimals is None else (1, 2, 5, 10)
    step = next(power * factor for factor in factors if power * factor >= rough * 0.999)
    step = step if decimals is None else max(step, 10.0**-decimals)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step * size, 12) for number in range(first, last + 1)]


def value_range(values: list[float], low: float | None, high: float | None) -> tuple[float, float]:
    """Of the curves, with a little room, within what the panel fixes; never empty."""
    fixed = [bound for bound in (low, high) if bound is not None]
    least, most = min([*values, *fixed], default=0.0), max([*values, *fixed], default=1.0)
    room = 0.06 * (most - least) or 0.1 * abs(most) or 1.0
    bottom = least - room if low is None else min(low, least)
    top = most + room if high is None else max(high, most)
    return bottom, (top if top > bottom else bottom + 1.0)


def time_ticks(start: float, end: float, width: float) -> list[tuple[float, str]]:
    """(Unix time, its name in UTC), as many as the width has room for."""
    most = max(2, int(width / TICK_ROOM))
    step = next((each for each in _TIME_STEPS if (end - start) / each <= most), _TIME_STEPS[-1])
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 else "%m-%d"
    first = math.ceil(start / step)
    times = [number * step for number in range(first, math.floor(end / step) + 1)]
    return [(float(when), datetime.fromtimestamp(when, UTC).strftime(form)) for when in times]


def room_for(ticks: list[float], unit: str, decimals: int | None) -> float:
    return 10 + LETTER * max((len(shown(tick, unit, decimals)) for tick in ticks), default=1)


def grid(axes: Axes, ticks: list[float], unit: str, decimals: int | None) -> Iterator[str]:
    for tick in ticks:
        y = axes.y(tick)
        yield f'<line class="grid" x1="{axes.left:.1f}" x2="{axes.width - 4:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        name = escape(shown(tick, unit, decimals))
        yield f'<text class="tick" x="{axes.left - 6:.1f}" y="{y + 3.5:.1f}" text-anchor="end">{name}</text>'
    yield from times(axes)


def times(axes: Axes) -> Iterator[str]:
    for when, name in time_ticks(*axes.times, axes.width - axes.left):
        x, end = axes.x(when), axes.height - BOTTOM
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{end:.1f}"/>'
        if axes.left + 4 < x < axes.width - 26:
            yield f'<text class="tick" x="{x:.1f}" y="{axes.height - 5:.1f}" text-anchor="middle">{name}</text>'
