"""Writes deploy/k8s/monitoring/rules.yaml: Prometheus's rule files as a PrometheusRule of its operator.

python -m deploy.k8s.generate_rules          a test says when it has to be done again
"""

from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[1]
TARGET = DEPLOY / "k8s" / "monitoring" / "rules.yaml"
HEADER = "# Made by `python -m deploy.k8s.generate_rules` from deploy/prometheus/rules; do not edit.\n"


def rendered() -> str:
    groups = [
        group
        for file in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
        for group in yaml.safe_load(file.read_text())["groups"]
    ]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "headrace", "namespace": "headrace", "labels": {"release": "prometheus"}},
        "spec": {"groups": groups},
    }
    return HEADER + yaml.safe_dump(rule, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    TARGET.write_text(rendered())
