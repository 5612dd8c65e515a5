"""Which run and which time are drawn, and what Grafana's variables come to in it."""

import re
from dataclasses import dataclass
from itertools import pairwise

from deploy.grafana.render.api import DAY, Prometheus, Refused

LOOKS_S = 180.0
"""For so long before the end it is looked when samples came: servers scrape at least once a minute."""
POINTS = 240
"""Along a picture: one each two pixels of a narrow panel."""
LOOK_S = 5
"""Between two looks for the first and the last sample of a run."""
SMOOTH_S = 5.0
"""Rates over less than four of these show single events of a small run, not its pace."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class Window:
    """Times are Unix seconds."""

    run: str
    start: float
    end: float
    scrape_s: float

    @property
    def step_s(self) -> float:
        """At least one scrape, and whole seconds."""
        return max(self.scrape_s, float(round((self.end - self.start) / POINTS)), 1.0)

    @property
    def rate_s(self) -> float:
        """Window of a rate, as Grafana chooses it for a data source that scrapes each `SMOOTH_S` or slower."""
        return max(self.step_s + self.scrape_s, 4 * max(self.scrape_s, SMOOTH_S))

    def fill(self, query: str) -> str:
        """With values in place of the variables, chosen as Grafana does."""
        values = {"run": self.run, "__rate_interval": f"{self.rate_s:.0f}s", "__range": f"{self.end - self.start:.0f}s"}
        return re.sub(r"\$(\w+)", lambda found: values[found[1]], query)


def window(server: Prometheus, *, run: str | None, last_s: float | None, now: float) -> Window:
    """Of this run, or of the one seen last: up to now or its last scrape; from its first one within a day, or for `last_s`.

    Refused: the server knows no such run.
    """
    ends = {series.labels["run"]: series.points[0][1] for series in _seen(server, "max", now)}
    if not ends or (run is not None and run not in ends):
        known = f"it knows {', '.join(sorted(ends))}" if ends else "it knows none"
        raise Refused(f"{server.url} has seen {f'no run {run}' if run else 'no run'} within a day: {known}")
    run = run or max(ends, key=lambda name: ends[name])
    starts = {series.labels["run"]: series.points[0][1] for series in _seen(server, "min", now)}
    start = starts[run] if last_s is None else ends[run] - last_s
    end = max(ends[run], start + LOOK_S)
    return Window(run=run, start=start, end=end, scrape_s=_scrape_s(server, run, end))


def duration_s(text: str) -> float:
    """10m, 90s, 2h, 1d. ValueError: something else."""
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if not found:
        raise ValueError(f"{text} is no duration such as 90s, 10m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]


def _scrape_s(server: Prometheus, run: str, end: float) -> float:
    """Between two scrapes of the run: the median distance of the moments of its newest samples."""
    looks = server.course(f'max (timestamp(headrace_run_step{{run="{run}"}}))', start=end - LOOKS_S, end=end, step_s=1)
    moments = sorted({value for series in looks for _, value in series.points})
    gaps = sorted(late - early for early, late in pairwise(moments))
    return max(1.0, float(round(gaps[len(gaps) // 2]))) if gaps else LOOKS_S


def _seen(server: Prometheus, which: str, now: float) -> list:
    return server.instant(
        f"{which} by (run) ({which}_over_time(timestamp(headrace_run_step)[{DAY}:{LOOK_S}s]))", at=now
    )
