"""A stage's figures, one JSON object a step, in a file that a resumed stage goes on with."""

import json
from collections.abc import Callable
from pathlib import Path

from train_cluster.supervised.loop import StageReport


class Journal:
    """add(report): by one rank. What an earlier life wrote of steps that are trained again is replaced."""

    def __init__(self, path: Path, *, also: Callable[[StageReport], None] = lambda report: None) -> None:
        """`also`: who else is told."""
        self._path, self._also, self._begun = path, also, False

    def add(self, report: StageReport) -> None:
        if not self._begun:
            self._begun = True
            self._rewind(report.step)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(report.as_dict()) + "\n")
        self._also(report)

    def _rewind(self, step: int) -> None:
        """Keep what was said of the steps before; a line that a kill cut short ends the old ones."""
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else ():
            try:
                if json.loads(line)["step"] >= step:
                    break
            except ValueError:
                break
            kept.append(line + "\n")
        partial = self._path.with_name(f".{self._path.name}.partial")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(self._path)
