"""A dashboard as one HTML page that needs nothing else: no script, no font, no file from outside."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from deploy.grafana.render.api import Prometheus
from deploy.grafana.render.draw import panel_html
from deploy.grafana.render.panel import Row, rows
from deploy.grafana.render.units import shown
from deploy.grafana.render.window import Window

STYLE = Path(__file__).with_name("style.css")


def page(dashboard: Mapping[str, Any], server: Prometheus, window: Window, *, sisters: Sequence[str]) -> str:
    """sisters: names of all pages that are written, this one among them."""
    title = str(dashboard["title"])
    body = "".join(_row(row, server, window) for row in rows(dashboard))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}: {escape(window.run)}</title>'
        f"<style>{STYLE.read_text()}</style></head><body><header>{_head(title, dashboard, window, sisters)}</header>"
        f"<main>{body}</main></body></html>\n"
    )


def _head(title: str, dashboard: Mapping[str, Any], window: Window, sisters: Sequence[str]) -> str:
    start, end = (datetime.fromtimestamp(when, UTC) for when in (window.start, window.end))
    long = shown(window.end - window.start, "s")
    times = f"{start:%Y-%m-%d %H:%M:%S} to {end:%H:%M:%S} UTC, {long}; a point each {shown(window.step_s, 's')}"
    here = title.rpartition("/")[2].strip()
    links = "".join(
        f"<b>{escape(name)}</b>" if name == here else f'<a href="{escape(name)}.html">{escape(name)}</a>'
        for name in sisters
    )
    return (
        f"<h1>{escape(here)}</h1><p class='run'>run <b>{escape(window.run)}</b><br>{times}</p><nav>{links}</nav>"
        f"<p class='purpose'>{escape(dashboard['description'])}</p>"
    )


def _row(row: Row, server: Prometheus, window: Window) -> str:
    """A row that is closed at first in Grafana can be opened here too, and is open where it has something to show."""
    drawn = [panel_html(panel, server, window) for panel in row.panels]
    panels = f'<div class="grid">{"".join(html for html, _ in drawn)}</div>'
    if not row.closed:
        return f"<h2>{escape(row.title)}</h2>{panels}"
    if any(data for _, data in drawn):
        return f"<details open><summary>{escape(row.title)}</summary>{panels}</details>"
    return f"<details><summary>{escape(row.title)} <i>no data in this time</i></summary>{panels}</details>"
