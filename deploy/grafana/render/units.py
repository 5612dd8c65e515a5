"""Values as Grafana writes them, by the names of its units."""

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_TIMES = ((86400.0, "day"), (3600.0, "hour"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def shown(value: float, unit: str, decimals: int | None = None) -> str:
    """unit: none, percentunit (0 to 1), s, bytes, binBps, cps, sci, bool_yes_no, `suffix: x`, `si:x`. ValueError: another."""
    if unit == "bool_yes_no":
        return "Yes" if value else "No"
    if unit == "percentunit":
        return f"{_plain(100 * value, decimals)}%"
    if unit == "s":
        return _scaled(value, _TIMES, decimals) if value else "0 s"
    if unit in ("bytes", "binBps"):
        return _scaled(value, _BINARY, decimals, "B") + ("/s" if unit == "binBps" else "")
    if unit == "sci":
        return f"{value:.2e}" if value else "0"
    return f"{_number(value, unit, decimals)}{_name(unit)}"


def unit_size(value: float, unit: str) -> float:
    """Of the unit that `value` is written in: 60 for minutes, 1024 for KiB, 1 where there is but one."""
    scales = {"s": _TIMES, "bytes": _BINARY, "binBps": _BINARY}.get(unit, ())
    return next((float(size) for size, _ in scales if abs(value) >= size), 1.0)


def _number(value: float, unit: str, decimals: int | None) -> str:
    if unit.startswith("si:"):
        size, letter = next(((size, letter) for size, letter in _SCALES if abs(value) >= size), (1.0, ""))
        return f"{_plain(value / size, decimals)} {letter}"
    return _plain(value, decimals)


def _name(unit: str) -> str:
    if unit in ("none", "short"):
        return ""
    if unit == "cps":
        return " c/s"
    kind, _, name = unit.partition(":")
    if kind not in ("si", "suffix"):
        raise ValueError(f"unit {unit} cannot be written")
    return name.strip() if kind == "si" or name.strip().startswith("/") else f" {name.strip()}"


def _scaled(value: float, scales: tuple[tuple[float, str], ...], decimals: int | None, least: str = "") -> str:
    """With the largest unit that the value is at least one of, else with the smallest."""
    size, name = next(
        ((size, name) for size, name in scales if abs(value) >= size), (1.0, least) if least else scales[-1]
    )
    return f"{_plain(value / size, decimals)} {name}"


def _plain(value: float, decimals: int | None) -> str:
    """To three significant digits where nothing else is asked for; whole numbers stay whole."""
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if value == round(value) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.1e}"
