"""What a check found: how bad it is, why it matters, and what helps."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["ok", "note", "warning", "error"]
ORDER: tuple[Severity, ...] = ("error", "warning", "note", "ok")
"""The worst first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    severity: Severity
    """error = a run fails or loses data; warning = it may, or is slow; note = worth knowing, or could not be looked at."""
    check: str
    """What was looked at: the same words on every machine, for scripts."""
    found: str
    why: str = ""
    """Why it matters; empty where it is fine."""
    remedy: str = ""
    """A command where there is one; empty where nothing need be done."""
    node: str = ""
    """Of a Ray cluster; empty = this machine, or no machine at all."""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Finding":
        """What `as_dict` gave, on another machine say."""
        return cls(**content)


def ok(check: str, found: str) -> Finding:
    return Finding(severity="ok", check=check, found=found)


def note(check: str, found: str, why: str = "", remedy: str = "") -> Finding:
    return Finding(severity="note", check=check, found=found, why=why, remedy=remedy)


def warning(check: str, found: str, why: str, remedy: str) -> Finding:
    return Finding(severity="warning", check=check, found=found, why=why, remedy=remedy)


def error(check: str, found: str, why: str, remedy: str) -> Finding:
    return Finding(severity="error", check=check, found=found, why=why, remedy=remedy)


def of_line(severity: Severity, check: str, line: str) -> Finding:
    """A line `field = value: reason; remedy`, as the rest of headrace writes them."""
    found, _, remedy = line.rpartition("; ")
    return Finding(severity=severity, check=check, found=found or line, remedy=remedy if found else "")


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """By severity; among equals in the order in which they were found."""
    return sorted(findings, key=lambda one: ORDER.index(one.severity))


def exit_code(findings: Iterable[Finding], *, strict: bool) -> int:
    """1 with an error; 3 with a warning and `strict`, so that a script can tell the two; else 0."""
    severities = {one.severity for one in findings}
    if "error" in severities:
        return 1
    return 3 if strict and "warning" in severities else 0
