"""A dashboard over one run: its variables, its links to the others, and its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardLinkType,
    RowPanel,
    VariableRefresh,
    VariableSort,
)

from deploy.grafana.look import SOURCE

TAG = "headrace"
REFRESH = "10s"
SPAN = "now-30m"
WORDS = Path(__file__).with_name("words")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A row of panels; closed at first where it concerns some runs alone."""

    title: str
    panels: Sequence[Any]
    """Builders of panels, without their descriptions."""
    closed: bool = False


def page(name: str, purpose: str, sections: Sequence[Section]) -> dashboard.Dashboard:
    """The dashboard of these rows, each panel with what `words/{name}.yaml` says of it. Its links keep run and time.

    KeyError: a panel of which nothing is said. ValueError: words for a panel that there is not.
    """
    others = dashboard.DashboardLink("Other dashboards").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    others = others.as_dropdown(True).include_vars(True).keep_time(True)
    found = dashboard.Dashboard(f"headrace / {name}").uid(f"headrace-{name}").description(purpose).tags([TAG])
    found = found.link(others).refresh(REFRESH).time(SPAN, "now").timezone("browser").editable()
    found = found.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    found = found.with_variable(_run())
    words = yaml.safe_load((WORDS / f"{name}.yaml").read_text())
    for section in sections:
        found = _with_section(found, section, words)
    if words:
        raise ValueError(f"words/{name}.yaml speaks of panels that there are not: {', '.join(words)}")
    return found


def numbered(built: Dashboard) -> Dashboard:
    """Each panel and row with an id of its own, in their order: links to a panel name it."""
    ids = count(1)
    for panel in built.panels or ():
        panel.id_val = next(ids)
        for inner in panel.panels if isinstance(panel, RowPanel) else ():
            inner.id_val = next(ids)
    return built


def _with_section(found: dashboard.Dashboard, section: Section, words: dict[str, str]) -> dashboard.Dashboard:
    """Takes the words of the section's panels. Panels of a closed row lie in the row, others follow it."""
    row = dashboard.Row(section.title)
    panels = [panel.description(words.pop(panel.build().title)) for panel in section.panels]
    if section.closed:
        for panel in panels:
            row = row.with_panel(panel)
        return found.with_row(row)
    found = found.with_row(row)
    for panel in panels:
        found = found.with_panel(panel)
    return found


def _run() -> dashboard.QueryVariable:
    """Any run that the server knows in the time shown, the newest name last."""
    runs = dashboard.QueryVariable("run").label("Run").datasource(SOURCE).query("label_values(headrace_run_step, run)")
    return runs.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC).multi(False)
