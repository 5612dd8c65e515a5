"""What a series is called, and its colour."""

import re

from deploy.grafana.render.api import Series
from deploy.grafana.render.panel import Panel

PALETTE = ("#2563a8", "#b45309", "#207a4c", "#6d4aa8", "#b4236b", "#0e7490", "#8a6d1a", "#475467", "#c2410c", "#4d7c0f")


def legend(form: str, series: Series) -> str:
    """`{{label}}` replaced; where nothing is left, the labels that tell it apart."""
    name = re.sub(r"\{\{(\w+)\}\}", lambda found: series.labels.get(found[1], ""), form).strip(" ,")
    return (
        name
        or ", ".join(f"{label} {value}" for label, value in series.labels.items() if label != "__name__")
        or "value"
    )


def colour(panel: Panel, name: str, place: int) -> str:
    """What the panel says of this name, else the next of the palette."""
    fixed = panel.overrides.get(name, {}).get("color", {}).get("fixedColor")
    return str(fixed or PALETTE[place % len(PALETTE)])
