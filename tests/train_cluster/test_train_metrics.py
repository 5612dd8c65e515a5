"""Every number that a step reports reaches Prometheus. Half a second beside the imports."""

import dataclasses
import typing

from prometheus_client import REGISTRY

from train_cluster import metrics
from train_cluster.report import CriticReport, StepReport

COUNTED = {"staleness_steps": {3: 2}, "finish_reasons": {"stop": 2}}
"""Counts: a histogram shows the first, the scrape of generation the second."""
MAPPINGS = {"reward_components": "helpful", "reward_measures": "helpful.disagreement", "seconds": "unpack"}


def numbered(record: type, start: int, **more: typing.Any) -> typing.Any:
    """A number of its own for each number of the record, from `start` on."""
    values: dict[str, typing.Any] = dict(more)
    for place, field in enumerate(dataclasses.fields(record)):
        if field.name in MAPPINGS:
            values[field.name] = {MAPPINGS[field.name]: float(start + place)}
        elif field.name in COUNTED:
            values[field.name] = COUNTED[field.name]
        elif field.name not in values:
            values[field.name] = start + place if field.type in (int, "int") else float(start + place)
    return record(**values)


def exported() -> dict[tuple[str, str], float]:
    """{(name, labels): value}"""
    samples = (sample for family in REGISTRY.collect() for sample in family.samples)
    return {(one.name, str(sorted(one.labels.items()))): one.value for one in samples}


def numbers(report: StepReport) -> dict[str, float]:
    """{field: number}, those of the critic and of mappings among them."""
    flat = {}
    for name, value in dataclasses.asdict(report).items():
        if name in COUNTED:
            continue
        found = value if isinstance(value, dict) else {"": value}
        flat |= {f"{name}.{key}".rstrip("."): number for key, number in found.items()}
    return flat


def test_every_number_of_a_report_is_a_metric() -> None:
    report = numbered(StepReport, 70_000, critic=numbered(CriticReport, 80_000))
    before = exported()
    metrics.observe(report)
    after = exported()
    changed = {value - before.get(key, 0.0) for key, value in after.items()} | set(after.values())
    missing = [name for name, number in numbers(report).items() if number not in changed]
    assert missing == []
    assert (
        after["headrace_train_reward_measure", "[('measure', 'helpful.disagreement')]"]
        == numbers(report)["reward_measures.helpful.disagreement"]
    )


def test_a_report_without_a_critic_leaves_the_critics_metrics() -> None:
    metrics.observe(numbered(StepReport, 70_000, critic=numbered(CriticReport, 80_000)))
    before = exported()["headrace_train_critic_explained_variance_ratio", "[]"]
    metrics.observe(numbered(StepReport, 90_000, critic=None))
    assert exported()["headrace_train_critic_explained_variance_ratio", "[]"] == before
