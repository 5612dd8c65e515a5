"""Curves and bars of characters."""

from collections.abc import Sequence

LEVELS = "▁▂▃▄▅▆▇█"
FULL, EMPTY = "█", "░"


def spark(values: Sequence[float]) -> str:
    """A character a value, from the lowest of them to the highest; all alike are in the middle."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if not finite:
        return " " * len(values)
    low, high = min(finite), max(finite)
    return "".join(_level(value, low, high) for value in values)


def _level(value: float, low: float, high: float) -> str:
    if not low <= value <= high:  # nan, or endless
        return " "
    share = (value - low) / (high - low) if high > low else 0.5
    return LEVELS[min(len(LEVELS) - 1, int(share * len(LEVELS)))]


def bar(share: float, width: int) -> str:
    filled = round(min(1.0, max(0.0, share)) * width)
    return FULL * filled + EMPTY * (width - filled)


def short(value: float) -> str:
    """Three digits that matter, thousands as k: 0.123, 12.3, 1.23 k, 12.3 M."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def span(seconds: float) -> str:
    """0.4 s, 12 s, 3:20, 1:02:03, 2 d 4 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
