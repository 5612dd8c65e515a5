"""The panels and queries of the dashboards' JSON files, as tests look at them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "deploy" / "grafana" / "dashboards"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
_METRIC = re.compile(r"\b(headrace_[a-z0-9_]+|process_[a-z_]+|up|ALERTS)\{([^}]*)\}")
_BY = re.compile(r"\bby \(([^)]*)\)")


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query of one panel."""

    dashboard: str
    panel: str
    expression: str
    instant: bool

    def metrics(self) -> dict[str, set[str]]:
        """Name → labels that are matched."""
        found: dict[str, set[str]] = {}
        for name, matchers in _METRIC.findall(self.expression):
            labels = {re.split(r"[=!]", matcher)[0].strip() for matcher in matchers.split(",")}
            found.setdefault(name, set()).update(labels)
        return found

    def grouped_by(self) -> set[str]:
        return {label.strip() for labels in _BY.findall(self.expression) for label in labels.split(",")}

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel}: {self.expression}"


def dashboard(name: str) -> dict[str, Any]:
    return dict(json.loads((FOLDER / f"{name}.json").read_text()))


def panels(name: str) -> Iterator[dict[str, Any]]:
    """Rows left out, panels of closed rows in."""
    for panel in dashboard(name)["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def queries() -> list[Query]:
    return [
        Query(dashboard=name, panel=panel["title"], expression=target["expr"], instant=bool(target.get("instant")))
        for name in NAMES
        for panel in panels(name)
        for target in panel["targets"]
    ]
