"""What a panel's JSON says that a drawing of it must know."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NOTHING = "No data in this time"


@dataclass(frozen=True, kw_only=True)
class Target:
    ref: str
    query: str
    legend: str
    instant: bool
    buckets: bool
    """Its series are the cumulative buckets of a histogram, to be shown each by itself."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Places are in Grafana's grid of 24 columns."""

    kind: str
    title: str
    description: str
    width: int
    height: int
    unit: str
    decimals: int | None
    low: float | None
    high: float | None
    steps: Sequence[tuple[float | None, str]]
    """Of the thresholds: (from this value on, this colour); the first has None."""
    dashed: bool
    """Thresholds are drawn as lines."""
    stacked: bool
    sparkline: bool
    by_name: bool
    """Shows the legend in place of the value."""
    gap_s: float
    """Points further apart than this are not joined."""
    targets: Sequence[Target]
    nothing: str
    """What stands in its place while there is no data."""
    words: Mapping[str, tuple[str, str]]
    """Value → (word, colour), of a state timeline."""
    transformations: Mapping[str, Mapping[str, Any]]
    overrides: Mapping[str, Mapping[str, Any]]
    """Legend or column → property → value."""

    def colour(self, value: float) -> str:
        """By the thresholds."""
        return [colour for limit, colour in self.steps if limit is None or value >= limit][-1]


@dataclass(frozen=True, kw_only=True)
class Row:
    title: str
    closed: bool
    panels: list[Panel] = field(default_factory=list)


def rows(dashboard: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of a dashboard with the panels that lie in or below each."""
    row = None
    for each in dashboard["panels"]:
        if each["type"] != "row":
            assert row, "our dashboards begin with a row"
            row.panels.append(_panel(each))
            continue
        if row:
            yield row
        row = Row(title=each["title"], closed=each["collapsed"], panels=[_panel(panel) for panel in each["panels"]])
    if row:
        yield row


def _panel(found: Mapping[str, Any]) -> Panel:
    config = found.get("fieldConfig", {})
    defaults, options = config.get("defaults", {}), found.get("options", {})
    custom = defaults.get("custom", {})
    thresholds = defaults.get("thresholds", {}).get("steps", [{"value": None, "color": "#1f2733"}])
    mappings = [pair for mapping in defaults.get("mappings", []) for pair in mapping["options"].items()]
    return Panel(
        kind=found["type"],
        title=found["title"],
        description=found["description"],
        width=found["gridPos"]["w"],
        height=found["gridPos"]["h"],
        unit=defaults.get("unit", "none"),
        decimals=defaults.get("decimals"),
        low=defaults.get("min"),
        high=defaults.get("max"),
        steps=[(step.get("value"), step["color"]) for step in thresholds],
        dashed=custom.get("thresholdsStyle", {}).get("mode") == "dashed",
        stacked=custom.get("stacking", {}).get("mode") == "normal",
        sparkline=options.get("graphMode") == "area",
        by_name=options.get("textMode") == "name",
        gap_s=float(custom.get("spanNulls", 0)) / 1000,
        targets=[_target(target) for target in found["targets"]],
        nothing=defaults.get("noValue", NOTHING),
        words={value: (result["text"], result["color"]) for value, result in mappings},
        transformations={each["id"]: each["options"] for each in found.get("transformations", [])},
        overrides={
            each["matcher"]["options"]: {item["id"]: item["value"] for item in each["properties"]}
            for each in config.get("overrides", [])
        },
    )


def _target(found: Mapping[str, Any]) -> Target:
    return Target(
        ref=found["refId"],
        query=found["expr"],
        legend=found.get("legendFormat", ""),
        instant=bool(found.get("instant")),
        buckets=found.get("format") == "heatmap",
    )
