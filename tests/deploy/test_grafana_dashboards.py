"""The dashboards as files: they are what the code says, and ask only for metrics and labels that the code has. 2 seconds."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_panels import FOLDER, NAMES, dashboard, panels, queries

from deploy.grafana.generate import PAGE, described, documents

ROOT = Path(__file__).parents[2]
PACKAGES = ("experience", "gen_cluster", "orchestrator", "score_cluster", "train_cluster", "weightstore")
OF_TARGETS = {"run", "role", "worker"}
"""Of every scraped series."""
OF_OTHERS = {
    "up": set(),
    "ALERTS": {"alertstate"},
    "process_cpu_seconds_total": set(),
    "process_resident_memory_bytes": set(),
}


def declared() -> dict[str, set[str]]:
    """Series name → labels, of all metrics that any module of the packages declares."""
    found: dict[str, set[str]] = dict(OF_OTHERS)
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for call in filter(lambda node: isinstance(node, ast.Call), ast.walk(ast.parse(path.read_text()))):
                found |= _series(call)
    return found


def _series(call: Any) -> dict[str, set[str]]:
    """Of the making of a metric, such as Gauge("headrace_…", "…", ["label"])."""
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    if not (values and isinstance(values[0], ast.Constant) and str(values[0].value).startswith("headrace_")):
        return {}
    kind, name = getattr(call.func, "id", getattr(call.func, "attr", "")), str(values[0].value)
    labels = {
        item.value
        for value in values
        if isinstance(value, ast.List)
        for item in value.elts
        if isinstance(item, ast.Constant)
    }
    if kind == "Histogram":
        return {f"{name}_bucket": {*labels, "le"}, f"{name}_sum": labels, f"{name}_count": labels}
    return {name: labels}


def test_files_are_what_the_code_writes() -> None:
    written = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert written == documents(), "run `python -m deploy.grafana.generate`"
    assert described(PAGE.read_text()) == PAGE.read_text(), "run `python -m deploy.grafana.generate`"


def test_every_metric_and_label_of_every_query_exists() -> None:
    known = declared()
    for query in queries():
        metrics = query.metrics()
        assert metrics, f"no metric found in {query}"
        for name, labels in metrics.items():
            assert name in known, f"{name} is declared nowhere: {query}"
            assert labels <= known[name] | OF_TARGETS, (
                f"{name} has no label {labels - known[name] - OF_TARGETS}: {query}"
            )
        of_all = {"le"}.union(OF_TARGETS, *(known[name] for name in metrics))
        assert query.grouped_by() <= of_all, str(query)


def test_every_query_asks_for_one_run() -> None:
    for query in queries():
        assert all("run" in labels for labels in query.metrics().values()), str(query)


@pytest.mark.parametrize("name", NAMES)
def test_panels_explain_themselves_and_do_not_overlap(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    ids = set()
    for panel in panels(name):
        assert len(panel["description"]) >= 20, panel["title"]
        without = panel["type"] in ("table", "state-timeline")
        assert without or panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for cell in _cells(panel["gridPos"]):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]
        ids.add(panel["id"])
    assert len(ids) == len(list(panels(name)))


def test_dashboards_keep_run_and_time_when_one_leads_to_another() -> None:
    assert NAMES == ["generation", "overview", "scoring", "stores", "training"]
    for name in NAMES:
        found = dashboard(name)
        assert [variable["name"] for variable in found["templating"]["list"]] == ["datasource", "run"]
        assert [(link["includeVars"], link["keepTime"]) for link in found["links"]] == [(True, True)]
        assert found["uid"] == f"headrace-{name}"


@pytest.mark.parametrize("name", NAMES)
def test_remedies_name_keys_that_a_recipe_has(name: str) -> None:
    known = set(re.findall(r"^\| `(\w+)` \|", (PAGE.parent / "recipes.md").read_text(), re.MULTILINE))
    for panel in panels(name):
        for key in re.findall(r"`((?:[a-z_]+\.)+[a-z_]+)`", panel["description"]):
            assert key.rpartition(".")[2] in known or key.endswith(".jsonl"), f"{panel['title']}: {key}"


def test_grafana_finds_the_dashboards_where_the_page_says_that_they_are_mounted() -> None:
    folder = FOLDER.parent / "provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards" / "headrace.yaml").read_text())["providers"]
    assert f"deploy/grafana/dashboards/    → {provider['options']['path']}/" in PAGE.read_text()
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "${PROMETHEUS_URL}")
    assert "\nPROMETHEUS_URL=" in PAGE.read_text()


def _cells(place: dict[str, Any]) -> set[tuple[int, int]]:
    assert place["x"] + place["w"] <= 24
    return {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
