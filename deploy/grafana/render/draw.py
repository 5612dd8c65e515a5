"""One panel from its JSON to HTML: ask its queries, draw what they say, or say that they say nothing."""

from collections.abc import Mapping
from html import escape

from deploy.grafana.render import tables
from deploy.grafana.render.api import Prometheus, Series
from deploy.grafana.render.curves import curves
from deploy.grafana.render.figures import bands, bar_list, figure
from deploy.grafana.render.panel import Panel, Target
from deploy.grafana.render.window import Window

PAGE = 1252
"""Pixels between the page's margins, as on a window of 1300."""
CELL, GAP = 30, 8
"""Pixels of a row of the grid, and between two."""
PADDING, TITLE = 10, 26


def panel_html(panel: Panel, server: Prometheus, window: Window) -> tuple[str, bool]:
    """(the panel, whether any of its queries returned data)"""
    found = {target.ref: ask(target, server, window) for target in panel.targets}
    any_data = any(found.values())
    inside = _inside(panel, found, window) if any_data else f'<div class="nothing">{escape(panel.nothing)}</div>'
    place = f"grid-column:span {panel.width};grid-row:span {panel.height}"
    note = f'<a class="why" title="{escape(panel.description)}">i</a>'
    title = f'<h3><span title="{escape(panel.title)}">{escape(panel.title)}</span>{note}</h3>'
    kind = f"panel {panel.kind}{'' if any_data else ' empty'}"
    return f'<section class="{kind}" style="{place}">{title}<div class="inside">{inside}</div></section>', any_data


def ask(target: Target, server: Prometheus, window: Window) -> list[Series]:
    """Without series of which no value is a number."""
    query = window.fill(target.query)
    if target.instant:
        found = server.instant(query, at=window.end)
    else:
        found = server.course(query, start=window.start, end=window.end, step_s=window.step_s)
    found = [series for series in found if series.points]
    return _each_bucket(found) if target.buckets else found


def _each_bucket(found: list[Series]) -> list[Series]:
    """From how many observations are at most `le`, how many lie between it and the one before."""
    before, alone = 0.0, []
    for series in sorted(found, key=lambda each: float(each.labels["le"])):
        when, value = series.points[-1]
        alone.append(Series(labels=series.labels, points=((when, value - before),)))
        before = value
    return alone


def _inside(panel: Panel, found: Mapping[str, list[Series]], window: Window) -> str:
    if panel.kind == "table":
        return tables.listing(panel, found)
    forms = {target.ref: target.legend for target in panel.targets}
    named = [(forms[ref], series) for ref, several in found.items() for series in several]
    span, size = (window.start, window.end), _size(panel)
    if panel.kind == "stat":
        return figure(panel, named, size=size)
    if panel.kind == "bargauge":
        return bar_list(panel, named)
    if panel.kind == "state-timeline":
        return bands(panel, named, span=span, step_s=window.step_s, size=size)
    if panel.kind == "timeseries":
        return curves(panel, named, times=span, size=size)
    raise ValueError(f"panel {panel.title}: kind {panel.kind} cannot be drawn")


def _size(panel: Panel) -> tuple[int, int]:
    """Pixels of its inside."""
    column = (PAGE + GAP) / 24
    width = column * panel.width - GAP - 2 * PADDING - 2
    return int(width), panel.height * (CELL + GAP) - GAP - TITLE - PADDING - 2
