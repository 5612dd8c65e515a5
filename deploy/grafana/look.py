"""Colours and limits: what a value or a stage looks like on every dashboard."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold, ThresholdsMode

INK, GREY = "#1f2733", "#98a2b3"
GREEN, RED, AMBER, BLUE, VIOLET = "#207a4c", "#b42318", "#b45309", "#2563a8", "#6d4aa8"
STAGES = {
    "generation": BLUE,
    "scoring": VIOLET,
    "training": GREEN,
    "publication": AMBER,
    "start": GREY,
    "end": "#c8ced8",
}
"""A stage, and the role that does it, has its colour everywhere."""
PHASES = {
    "generate": BLUE,
    "load_weights": AMBER,
    "rewards": VIOLET,
    "reference": "#a48fd0",
    "train": GREEN,
    "publish": AMBER,
    "checkpoint": "#b4236b",
    "exchange": "#0e7490",
    "other": "#667085",
    "start": "#98a2b3",
    "wait_prompts": "#e4e7ec",
    "wait_completions": "#e4e7ec",
    "wait_batch": "#e4e7ec",
    "wait_version": "#d0d5dd",
    "wait_weights": "#f0e6d8",
}
"""Of all processes: work in colour, waiting pale."""
ROLES = {name: STAGES[name] for name in ("generation", "scoring", "training")}
HELD_OUT = {"training": GREEN, "held out": BLUE}
"""What is measured on the prompts of training, and by the evaluation during the run."""
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

Limits = Sequence[tuple[float, str]]
"""(from this value on, this colour), rising."""

KL: Limits = ((10.0, AMBER), (15.0, RED))
"""Nats per response: healthy are 3 to 10, and 15 for 50 steps is an alarm."""
WIN: Limits = ((0.55, AMBER), (0.65, GREEN))
"""Above 0.55 a win rate means something, above 0.65 much."""
DIVERSE: Limits = ((0.5, RED), (0.6, AMBER))
"""Unique responses of a prompt (0.5) and their distinct 4-grams (0.6): below its line, the policy repeats itself."""
UNIQUE: Limits = ((0.5, INK),)
"""The first of them as a figure: red below."""
CLIPPED: Limits = ((0.2, RED),)
"""Share of updates whose gradient was clipped."""
FIRST_TOKEN: Limits = ((1.0, RED),)
"""Seconds, 99th percentile."""
FAST_ENOUGH: Limits = ((40.0, INK),)
"""Tokens a second of one request: below it, in red, too many run at a time."""
SLOW_TOKEN: Limits = ((0.025, RED),)
"""Seconds of each token: the same limit."""
GIVEN_UP: Limits = ((0.05, RED),)
"""Share of groups that run out of time."""
GPU_MEMORY: Limits = ((0.92, RED),)
"""Share of a device's memory in use."""
FULL: Limits = ((0.8, AMBER), (0.9, RED))
"""Share of a disk, or of Redis's limit, in use."""
ANY: Limits = ((1.0, RED),)
"""Of what should not happen at all."""


def thresholds(limits: Limits, *, below: str) -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=None, color=below), *(Threshold(value=value, color=colour) for value, colour in limits)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
