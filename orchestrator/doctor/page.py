"""Findings as a person reads them: the worst first, what is fine only when asked for, one entry for nodes that agree."""

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.doctor.finding import ORDER, Finding, worst_first

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan", "ok": "green"}
_WORDS = {"error": ("error", "errors"), "warning": ("warning", "warnings"), "note": ("note", "notes"), "ok": ("fine", "fine")}  # fmt: skip
_INDENT = 9
"""Of what stands below a finding: as wide as the longest severity, and two spaces."""
_NODES_SHOWN = 4


def show(findings: Sequence[Finding], *, verbose: bool) -> None:
    """To standard output; on a terminal in colours and broken to its width, for a pipe one line each of found, why, remedy."""
    console = Console(highlight=False)
    chosen = [(one, nodes) for one, nodes in merged(findings) if verbose or one.severity != "ok"]
    for one, nodes in chosen:
        head, below = (
            _headline(one, nodes),
            [(label, text) for label, text in (("why", one.why), ("remedy", one.remedy)) if text],
        )
        if not console.is_terminal:
            print(
                f"{one.severity:<{_INDENT}}{head}",
                *(f"{'':<{_INDENT}}{label}: {text}" for label, text in below),
                sep="\n",
            )
            continue
        rows = Table.grid(padding=0)
        rows.add_column(width=_INDENT)
        rows.add_column()
        rows.add_row(Text(one.severity, _COLOURS[one.severity]), Text(head))
        for label, text in below:
            rows.add_row("", Text.assemble((f"{label}: ", "dim"), text))
        console.print(rows)
    console.print(summary(findings, verbose=verbose), soft_wrap=True)


def merged(findings: Iterable[Finding]) -> list[tuple[Finding, list[str]]]:
    """The worst first; a finding that several nodes share stands once, with their addresses."""
    nodes: dict[tuple[str, ...], list[str]] = {}
    first: dict[tuple[str, ...], Finding] = {}
    for one in worst_first(findings):
        key = (one.severity, one.check, one.found, one.why, one.remedy)
        first.setdefault(key, one)
        nodes.setdefault(key, []).extend([one.node] if one.node else [])
    return [(first[key], nodes[key]) for key in first]


def summary(findings: Sequence[Finding], *, verbose: bool) -> str:
    counts = Counter(one.severity for one in findings)
    parts = [f"{counts[kind]} {_WORDS[kind][counts[kind] != 1]}" for kind in ORDER if counts[kind] or kind == "ok"]
    return ", ".join(parts) + ("" if verbose or not counts["ok"] else " (-v shows them)")


def _headline(one: Finding, nodes: Sequence[str]) -> str:
    shown = ", ".join(nodes) if len(nodes) <= _NODES_SHOWN else f"{len(nodes)} nodes"
    return f"{one.check}{f' on {shown}' if nodes else ''}: {one.found}"
