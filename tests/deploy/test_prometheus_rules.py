"""The rules that ship: valid, each alert firing and not firing, of metrics that exist, with a runbook each.

All pretended runs stand in one promtool test under names of their own: so each alert is held against every run, and a run
made for one alert shows that it rings no other that looks at the same figures. 5 s of one core.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_cases import CASES, NO_ALERT, PROGRESS, Changes
from prometheus_series import END_S, TICK_S, exposed, healthy, metric_of
from prometheus_server import promtool

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = sorted((FOLDER / "rules").glob("*.yml"))
TARGET_LABELS = {"run", "role", "worker", "instance", "job", "discovery"}
"""Of the scrape; a metric's own label of the same name is renamed `exported_…`."""


def rules(kind: str) -> list[dict[str, Any]]:
    """All of a kind: `alert` or `record`."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


ALERTS = {rule["alert"]: rule for rule in rules("alert")}


RECORDS = {rule["record"]: rule["expr"] for rule in rules("record")}
SELECTOR = re.compile(r"(?<![\w:])(headrace[\w:]+|up)(?![\w:(])(?:{([^}]*)})?")
"""A series in an expression, and what stands in its braces."""


STARVED, NEARLY = "HeadraceTrainerStarved: of answers", "HeadraceTrainerStarved, not: much less"
RECORDED: dict[str, list[dict[str, Any]]] = {
    'headrace:busy:ratio{run="healthy"}': [
        {"labels": '{run="healthy",role="driver",worker="driver"}', "value": 250},
        {"labels": '{run="healthy",role="gen",worker="gen-0"}', "value": 600},
    ],
    'headrace:phase:ratio{run="healthy",phase="wait_version"}': [
        {"labels": '{run="healthy",role="gen",worker="gen-0",phase="wait_version"}', "value": 100}
    ],
    'headrace:bottleneck:ratio{run="healthy"}': [{"labels": '{run="healthy",stage="training"}', "value": 950}],
    f'headrace:bottleneck:ratio{{run="{STARVED}"}}': [
        {"labels": f'{{run="{STARVED}",stage="generation"}}', "value": 520}
    ],
    f'headrace:bottleneck:ratio{{run="{NEARLY}"}}': [
        {"labels": f'{{run="{NEARLY}",stage="generation"}}', "value": 120}
    ],
    'headrace:generated_tokens:rate1m{run="healthy"}': [
        {"labels": '{run="healthy",worker="gen-0"}', "value": 2_000_000}
    ],
    'headrace:length:growth100{run="HeadraceLengthGrowsWithReward, not: few steps"}': [],
    'headrace:reward:rise200{run="HeadraceRewardUpWinRateFlat, not: few steps"}': [],
    'headrace:overdue_groups:ratio{run="healthy"}': [{"labels": '{run="healthy"}', "value": 10}],
    'headrace:failed_scorings:ratio{run="healthy"}': [{"labels": '{run="healthy"}', "value": 0}],
}
"""Thousandths that recording rules give at the end; 0.6 of 1 s is work; 0.01 of 1.01 groups are overdue: 9.9."""


def metrics_of(expression: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """All that an expression looks at, through recording rules."""
    found = set()
    for name, _ in SELECTOR.findall(expression):
        if name not in seen:
            found |= metrics_of(RECORDS[name], seen | {name}) if name in RECORDS else {name}
    return found


def pretended_runs() -> Iterator[tuple[str, Changes, str]]:
    """(name, all its series, the alert that rings or ""): whole where none may ring, else with what the alert looks at."""
    for name, changes in NO_ALERT.items():
        yield name, {**healthy, **changes}, ""
    for alert, case in CASES.items():
        seen = {*metrics_of(ALERTS[alert]["expr"]), metric_of(PROGRESS)}
        needed = {key: values for key, values in healthy.items() if metric_of(key) in seen}
        for name, changes in case.fires.items():
            yield f"{alert}: {name}", {**needed, **case.base, **changes}, alert
        for name, changes in case.quiet.items():
            yield f"{alert}, not: {name}", {**needed, **case.base, **changes}, ""


def write_test(path: Path, rule_files: list[Path]) -> None:
    """A file for `promtool test rules`."""
    series, firing = [], {alert: [] for alert in ALERTS}
    for name, run, alert in pretended_runs():
        series += [{"series": exposed(name, key), "values": text} for key, text in run.items() if text is not None]
        if alert:
            firing[alert].append({"labels": f'{{run="{name}"}}', "value": 1})
    wanted = [
        {
            "expr": f'max by (run) (ALERTS{{alertname="{alert}",alertstate="firing"}})',
            "eval_time": f"{END_S}s",
            "exp_samples": samples,
        }
        for alert, samples in firing.items()
    ]
    wanted += [
        {"expr": f"round(1000 * {asked})", "eval_time": f"{END_S}s", "exp_samples": samples}
        for asked, samples in RECORDED.items()
    ]
    test = {"interval": f"{TICK_S}s", "input_series": series, "promql_expr_test": wanted}
    content = {"rule_files": list(map(str, rule_files)), "evaluation_interval": f"{TICK_S}s", "tests": [test]}
    path.write_text(yaml.safe_dump(content, sort_keys=False, width=10_000))


def test_configurations_and_rules_are_valid() -> None:
    checked = promtool("check", "config", *FOLDER.glob("*.yml"))
    assert checked.returncode == 0, checked.stderr
    assert "duplicate" not in checked.stdout


def test_every_alert_fires_where_it_should_and_nowhere_else(tmp_path: Path) -> None:
    write_test(tmp_path / "test.yml", RULES)
    tested = promtool("test", "rules", tmp_path / "test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_case_that_rings_and_one_that_does_not() -> None:
    assert set(CASES) == set(ALERTS)
    assert all(case.fires and case.quiet for case in CASES.values())


def test_every_alert_says_what_it_saw_and_has_a_runbook_and_every_runbook_an_alert() -> None:
    titles = re.findall(r"^### (.*)$", (ROOT / "docs" / "alerts.md").read_text(), re.MULTILINE)
    assert sorted(titles) == sorted(ALERTS)
    for name, rule in ALERTS.items():
        notes = rule["annotations"]
        assert notes["runbook_url"] == f"docs/alerts.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert "$labels.run" in notes["summary"]
        assert "$value" in notes["description"], name


def test_the_page_lists_what_is_recorded() -> None:
    section = (ROOT / "docs" / "alerts.md").read_text().partition("## Recorded figures")[2]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(headrace:[\w:]+)`", " ".join(rows))) == sorted(RECORDS)


def exported() -> dict[str, set[str]]:
    """{series in a scrape: its own labels}, by docs/metrics.md, which tests/test_docs.py holds against the code."""
    row = re.compile(r"^\| `(headrace_\w+)` \|([^|]*)\|", re.MULTILINE)
    found: dict[str, set[str]] = {"up": set()}
    for name, cell in row.findall((ROOT / "docs" / "metrics.md").read_text()):
        labels = set(re.findall(r"`(\w+)`", cell))
        found |= {name: labels, f"{name}_bucket": {*labels, "le"}, f"{name}_sum": labels, f"{name}_count": labels}
    return found


def test_rules_ask_only_for_series_and_labels_that_exist() -> None:
    known = exported()
    for rule in [*rules("alert"), *rules("record")]:
        named = re.sub(r'{__name__=~"(.*?)",?', "{", rule["expr"])
        for name, braces in SELECTOR.findall(named):
            asked = set(re.findall(r"(\w+)\s*[=!]~?\s*\"", braces))
            if name in RECORDS:
                assert asked <= {"stage", "phase", "run", "role", "worker"}, (rule, name)
            else:
                assert name in known, (rule, name)
                assert asked <= known[name] | TARGET_LABELS, (rule, name, asked)
    pattern = re.search(r'__name__=~"(.*?)"', RECORDS["headrace:phase:ratio"])
    assert pattern is not None
    assert len([name for name in known if re.fullmatch(pattern[1], name)]) == 4


def test_pretended_runs_are_made_of_series_that_exist() -> None:
    known = exported()
    for name, run, _ in pretended_runs():
        for key in run:
            labels = set(re.findall(r'(\w+)="', key)) - TARGET_LABELS
            assert {label.removeprefix("exported_") for label in labels} <= known[metric_of(key)] | {"role"}, (
                name,
                key,
            )


if __name__ == "__main__":
    write_test(Path(sys.argv[1]), RULES)
