"""The bottleneck as the overview asks Prometheus for it, and as the loop itself names it: the same stage. One second."""

import json
from pathlib import Path

import pytest
from grafana_panels import queries
from prometheus_server import promtool

from deploy.grafana.render.window import Window
from orchestrator.waited_for import bottleneck

MINUTES = 10
CASES = {
    "training has nine tenths": {
        "start": 90.0,
        "generation": 4.0,
        "scoring": 3.0,
        "publication": 0.0,
        "training": 93.0,
    },
    "training has less": {"generation": 20.0, "scoring": 5.0, "publication": 3.0, "training": 60.0},
    "scoring is the largest of the others": {"generation": 5.0, "scoring": 40.0, "publication": 3.0, "training": 50.0},
    "publication alone": {"generation": 0.0, "scoring": 0.0, "publication": 7.0, "training": 0.0},
    "nothing yet": {"start": 50.0, "generation": 0.0, "scoring": 0.0, "publication": 0.0, "training": 0.0},
}
"""Seconds a minute, by whom the loop waited for."""


@pytest.mark.parametrize("case", CASES)
def test_overview_names_the_bottleneck_that_the_loop_names(case: str, tmp_path: Path) -> None:
    (query,) = (found.expression for found in queries() if found.panel == "Bottleneck")
    expression = Window(run="r", start=0.0, end=MINUTES * 60.0, scrape_s=15.0).fill(query)
    inputs = [
        {
            "series": f'headrace_run_waited_for_seconds_total{{run="r", stage="{stage}"}}',
            "values": f"0+{seconds}x{MINUTES}",
        }
        for stage, seconds in CASES[case].items()
    ]
    named = bottleneck(CASES[case])
    expected = [] if named is None else [{"labels": f'{{stage="{named}"}}', "value": CASES[case][named] * MINUTES}]
    asked = {"expr": expression, "eval_time": f"{MINUTES}m", "exp_samples": expected}
    test = {"tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": [asked]}]}
    (tmp_path / "test.yml").write_text(json.dumps(test))
    done = promtool("test", "rules", tmp_path / "test.yml")
    assert done.returncode == 0, done.stdout + done.stderr
