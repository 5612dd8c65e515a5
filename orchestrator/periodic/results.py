"""What a run's evaluations found: `evaluations.jsonl`, a line each, and which version of them is the best so far."""

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from orchestrator.folder import RunFolder

log = logging.getLogger(__name__)


class Results:
    """The lines of a run, those of earlier lives included; only lines of the same settings are compared.

    `settings` is a digest of what makes figures comparable: prompts, sampling, judge.
    """

    def __init__(self, folder: RunFolder, *, metric: str, settings: str) -> None:
        """`metric`: the figure of a line that ranks the versions; the higher the better."""
        self._folder, self._metric, self._settings = folder, metric, settings
        self._lines = [line for line in read(folder) if line.get("settings") == settings]

    def add(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Append a line; StoreError: it could not be written, and counts for this life all the same."""
        line = {**figures, "settings": self._settings}
        self._lines.append(line)
        self._folder.append(self._folder.evaluations, json.dumps(line))
        return line

    @property
    def last(self) -> dict[str, Any] | None:
        return self._lines[-1] if self._lines else None

    @property
    def last_step(self) -> int:
        """0: none."""
        return max((int(line["step"]) for line in self._lines), default=0)

    def ranked(self) -> list[dict[str, Any]]:
        """The best first, among equals the earlier; lines without a number for the metric are left out."""
        valued = [line for line in self._lines if self.value(line) is not None]
        return sorted(valued, key=lambda line: (-(self.value(line) or 0.0), line["step"]))

    @property
    def best(self) -> dict[str, Any] | None:
        return next(iter(self.ranked()), None)

    def value(self, line: Mapping[str, Any]) -> float | None:
        value = line.get(self._metric)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    def without_rise(self) -> int:
        """Steps from the best version to the last one that was evaluated."""
        best = self.best
        return self.last_step - int(best["step"]) if best else 0


def read(folder: RunFolder) -> list[dict[str, Any]]:
    """All lines that are whole; a damaged one is named in a warning and left out."""
    try:
        text = folder.evaluations.read_text(errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            found = json.loads(line)
            if not isinstance(found, dict) or not {"step", "version"} <= found.keys():
                raise ValueError("no evaluation")
        except ValueError as error:
            log.warning("%s, line %d is passed over: %s", folder.evaluations, number, error)
            continue
        lines.append(found)
    return lines


def evaluation_lines(status: Mapping[str, Any]) -> list[str]:
    """What `headrace status` says of the `evaluation` of a status.json."""
    if status["last"] is None:
        return [f"evaluation: none yet, now {status['doing']}"]
    lines = [f"evaluation: {summary(status['last'])}, now {status['doing']}"]
    if status["best"] is not None:
        lines.append(f"best by {status['metric']}: {summary(status['best'])}")
    return lines


def summary(line: Mapping[str, Any]) -> str:
    """One line for people."""
    parts = [f"step {line['step']}"]
    if line.get("win_rate") is not None:
        parts.append(f"win rate {line['win_rate']:.1%} [{line['win_rate_low']:.1%}, {line['win_rate_high']:.1%}]")
    shown = {"reward": "reward", "KL": "kl", "length": "length", "distinct 3-grams": "distinct_3"}
    parts += [f"{label} {line[key]:.3g}" for label, key in shown.items() if line.get(key) is not None]
    return "  ".join(parts)
