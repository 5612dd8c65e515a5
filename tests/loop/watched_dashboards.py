"""What the dashboards show of the watched run: which queries return nothing, and which of them may."""

import time

from grafana_panels import queries
from watched_run import NAME, Watched

from deploy.grafana.render.api import Prometheus
from deploy.grafana.render.draw import ask
from deploy.grafana.render.panel import Target
from deploy.grafana.render.window import window

NO_GPU = "no GPU here"
EMPTY = {
    ("overview", "Alerts firing"): "the server of this run has no alert rules",
    ("generation", "GPU memory in use"): NO_GPU,
    ("generation", "GPU busy"): NO_GPU,
    ("scoring", "GPU memory in use"): NO_GPU,
    ("scoring", "GPU busy"): NO_GPU,
    ("training", "GPU memory in use"): NO_GPU,
    ("training", "GPU busy"): NO_GPU,
    ("scoring", "Disagreement of the members"): "its reward is no ensemble",
    ("stores", "Silence before a second delivery"): "nothing dies in it",
    ("stores", "Requests sent again"): "its store is a folder, not a bucket",
}
"""(dashboard, panel) → why no query of it can return data here. What returns data after all is to be taken off this list."""


def panels_without_data(watched: Watched) -> set[tuple[str, str]]:
    """Each with a query that returned no number in the whole life of the run."""
    server = Prometheus(watched.prometheus.url)
    shown = window(server, run=NAME, last_s=None, now=time.time())
    return {
        (query.dashboard, query.panel)
        for query in queries()
        if not ask(
            Target(ref="A", query=query.expression, legend="", instant=query.instant, buckets=False), server, shown
        )
    }
