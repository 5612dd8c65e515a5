"""Which lines of the logs a person asks for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from orchestrator.log_reader.entry import LEVELS, Entry
from orchestrator.log_reader.text import render

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """True of a line that meets all of these; what is empty or None asks for nothing."""

    roles: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    """Found somewhere in the line as it is shown, traceback included."""
    level: str = "debug"
    """Of this one, or a graver one."""
    step: int | None = None
    group: int | None = None
    since: float | None = None
    """Unix seconds."""

    def __call__(self, entry: Entry) -> bool:
        return (
            (self.since is None or entry.at >= self.since)
            and LEVELS.index(entry.level) >= LEVELS.index(self.level)
            and (not self.roles or entry.role in self.roles)
            and (not self.workers or entry.worker in self.workers)
            and (self.step is None or entry.fields.get("step") == self.step)
            and (self.group is None or self.group in entry.groups)
            and (self.pattern is None or self.pattern.search(render(entry)) is not None)
        )


def choice(
    *,
    roles: Sequence[str],
    workers: Sequence[str],
    grep: str | None,
    level: str,
    step: int | None,
    group: int | None,
    since: str | None,
    now: float,
) -> Choice:
    """What a command line asks for. ValueError names the option that cannot be read."""
    try:
        pattern = re.compile(grep) if grep is not None else None
    except re.error as error:
        raise ValueError(f"--grep = {grep}: no regular expression ({error}); quote what is meant literally") from None
    return Choice(
        roles=tuple(roles),
        workers=tuple(workers),
        pattern=pattern,
        level=level,
        step=step,
        group=group,
        since=_moment(since, now=now) if since is not None else None,
    )


def _moment(text: str, *, now: float) -> float:
    """Unix seconds of an age (90s, 10m, 2h, 3d) before `now`, or of a date and time."""
    if age := re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhd])", text):
        return now - float(age[1]) * _UNITS[age[2]]
    try:
        return datetime.fromisoformat(text).timestamp()  # of this machine's time zone unless it names one
    except ValueError:
        raise ValueError(
            f"--since = {text}: neither an age nor a time; write 90s, 10m, 2h or 3d, or 2026-05-01T09:30"
        ) from None
