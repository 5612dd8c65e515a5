"""Tables: one query's series as rows, or several joined over a label, with columns chosen, ordered and named."""

from collections.abc import Mapping, Sequence
from html import escape

from deploy.grafana.render.api import Series
from deploy.grafana.render.panel import Panel
from deploy.grafana.render.units import shown

Cells = dict[str, str | float]


def listing(panel: Panel, found: Mapping[str, Sequence[Series]]) -> str:
    """found: ref of the target → its series, each with one point."""
    chosen = panel.transformations["organize"]
    headings = {
        field: chosen["renameByName"].get(field, field)
        for field in sorted(chosen["indexByName"], key=chosen["indexByName"].__getitem__)
    }
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings.values())
    body = "".join(f"<tr>{_row(panel, cells, headings)}</tr>" for cells in _rows(panel, found))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _rows(panel: Panel, found: Mapping[str, Sequence[Series]]) -> list[Cells]:
    join = panel.transformations.get("joinByField")
    if not join:
        return [{**series.labels, "Value": series.points[-1][1]} for each in found.values() for series in each]
    rows: dict[str, Cells] = {}
    for ref, several in found.items():
        for series in several:
            cells = rows.setdefault(series.labels[join["byField"]], {})
            cells.update({label: value for label, value in series.labels.items() if label not in cells})
            cells[f"Value #{ref}"] = series.points[-1][1]
    return [rows[key] for key in sorted(rows)]


def _row(panel: Panel, cells: Cells, headings: Mapping[str, str]) -> str:
    return "".join(_cell(cells.get(field), str(panel.overrides.get(heading, {}).get("unit", "none"))) for field, heading in headings.items())  # fmt: skip


def _cell(value: str | float | None, unit: str) -> str:
    if value is None:
        return "<td></td>"
    return f"<td>{escape(value)}</td>" if isinstance(value, str) else f'<td class="n">{escape(shown(value, unit))}</td>'
