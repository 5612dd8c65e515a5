"""What a person sees while a run goes on: a bar on a terminal, plain lines anywhere else, nothing with --json."""

import os
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

_PACE_STEPS = 20
"""Enough to smooth checkpoints out, few enough to follow answers that grow longer."""


class _Screen(RichConsole):
    """A console whose reader may go away: Rich would end the process then."""

    def on_broken_pipe(self) -> None:
        """Nobody reads any more: what is said from here on goes nowhere."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)


class Console:
    """say(line), stepped(report), waiting(status); use as a context manager."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._rich = _Screen(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._live = self._rich.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[note]}"),
            console=self._rich,
            disable=not self._live,
        )
        self._task = self._progress.add_task("step", total=None, note="starting", left="")
        self._note = ""
        self._pace = Pace()
        self._tenth = ("", 0)

    def __enter__(self) -> "Console":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        self._rich.print(line, markup=False)

    def stepped(self, report: Mapping[str, Any], *, steps: int) -> None:
        note, left = summary(report), self._pace.left(int(report["step"]), steps, now=time.monotonic())
        if self._live:
            self._progress.update(self._task, completed=report["step"], total=steps, note=note, left=left)
        else:
            self.say(f"step {report['step']:.0f}/{steps}  {note}{'  ' * bool(left)}{left}")

    def progress(self, description: str, *, completed: int, total: int, note: str, unit: str = "step") -> None:
        """Other long work, whenever there is more of it; without a terminal a line for each tenth."""
        left = self._pace.left(completed, total, now=time.monotonic(), unit=unit)
        if self._live:
            self._progress.update(
                self._task, description=description, completed=completed, total=total, note=note, left=left
            )
        elif (tenth := (description, 10 * completed // max(total, 1))) != self._tenth:
            self._tenth = tenth
            self.say(f"{description} {completed}/{total}  {note}{'  ' * bool(left)}{left}")

    def waiting(self, status: Mapping[str, Any]) -> None:
        """Before the first step: which processes are up."""
        if status["last_step"]:
            return
        workers = status["workers"]
        missing = [name for name, worker in workers.items() if worker.get("state", "starting") != "running"]
        waits_for = f"; waiting for {', '.join(missing)}" if missing else "; the first batch is on its way"
        note = f"starting: {len(workers) - len(missing)} of {len(workers)} processes ready{waits_for}"
        if note != self._note:
            self._note = note
            if self._live:
                self._progress.update(self._task, total=status["steps"], note=note)
            else:
                self.say(note)


class Pace:
    """How fast steps come, over the last of them, and how long the rest takes at that rate."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, float]] = deque(maxlen=_PACE_STEPS)

    def left(self, step: int, steps: int, *, now: float, unit: str = "step") -> str:
        """After `step` of `steps`, at `now` seconds; "" while there is nothing to go by, or nothing left."""
        if self._seen and step <= self._seen[-1][0]:  # ranks that were restarted train some steps again
            self._seen.clear()
        self._seen.append((step, now))
        first, began = self._seen[0]
        trained = step - first
        if not trained or step >= steps:
            return ""
        per_step = (now - began) / trained
        return f"{per_step:.2g} s/{unit}, {_duration(per_step * (steps - step))} left"


def _duration(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """The first row is the header. On a terminal a table of its width, for a pipe plain columns, one line a row."""
    output = RichConsole(highlight=False)
    if output.is_terminal:
        table = Table(*rows[0], box=None, pad_edge=False)
        for row in rows[1:]:
            table.add_row(*map(escape, row))
        output.print(table)
    else:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def summary(report: Mapping[str, Any]) -> str:
    """The few figures that say whether it learns and whether it is healthy."""
    shown = {
        "reward": "reward_mean",
        "KL": "kl_per_response",
        "entropy": "entropy",
        "length": "response_length_mean",
        "staleness": "staleness_max",
    }
    parts = [f"{label} {report[key]:.3g}" for label, key in shown.items() if key in report]
    if report.get("critic"):
        parts.append(f"explained {report['critic']['explained_variance']:.2g}")
    return "  ".join(parts)
