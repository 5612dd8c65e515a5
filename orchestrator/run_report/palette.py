"""The colours and words of phases: a stage has one colour everywhere, and what waits is hatched in the colour of whom it
waits for."""

from collections.abc import Iterable, Mapping

INK, SOFT, LINE = "#1f2733", "#667085", "#d7dce3"
GREEN, RED, AMBER, BLUE = "#207a4c", "#b42318", "#b45309", "#2563a8"
SERIES = (BLUE, AMBER, "#8b3fa8", GREEN, "#0e7490", RED, SOFT, "#a16207")
"""Of curves; a ninth begins anew."""
_GENERATION, _SCORING, _TRAINING, _WEIGHTS, _IDLE = BLUE, "#0f8a7e", "#7c4fc4", "#d98a1f", "#98a2b3"

WORK: Mapping[str, tuple[str, str]] = {
    "generate": (_GENERATION, "generates"),
    "rewards": (_SCORING, "rewards"),
    "reference": ("#6cc3b8", "reference"),
    "train": (_TRAINING, "trains"),
    "load_weights": (_WEIGHTS, "loads weights"),
    "publish": (_WEIGHTS, "publishes"),
    "checkpoint": ("#8a5a12", "checkpoints"),
    "admit": ("#5b8fc7", "admits prompts"),
    "supervise": ("#475467", "supervises"),
    "evaluate": ("#c2417c", "evaluates"),
    "report": ("#b0a3d4", "reports"),
    "exchange": ("#344054", "talks to Redis"),
    "start": ("#d0b49f", "starts"),
    "other": ("#c3c9d3", "other"),
}
"""Phase -> colour and word; work is solid."""
STAGES: Mapping[str, str] = {
    "training": "ph-train",
    "generation": "ph-generate",
    "scoring": "ph-rewards",
    "publication": "ph-publish",
    "start": "ph-start",
    "end": "ph-other",
}
"""Stage that the loop waits for -> CSS class."""
WAITS: Mapping[str, tuple[str, str]] = {
    "wait_prompts": (_IDLE, "waits for prompts"),
    "wait_completions": (_GENERATION, "waits for completions"),
    "wait_batch": (_SCORING, "waits for a batch"),
    "wait_version": (_TRAINING, "waits for a newer version"),
    "wait_weights": (_WEIGHTS, "waits for its first weights"),
    "wait_events": (_IDLE, "waits for events"),
}
"""Phase -> colour of whom it waits for, and words; waiting is hatched."""


def order(phases: Iterable[str]) -> list[str]:
    """Work first, waiting last: in a stack the solid part is the share at work."""
    known = [*WORK, *WAITS]
    return sorted(phases, key=lambda phase: known.index(phase) if phase in known else len(WORK) - 0.5)


def word(phase: str) -> str:
    return (WORK.get(phase) or WAITS.get(phase) or ("", phase.replace("_", " ")))[1]


def kind(phase: str) -> str:
    """The CSS class."""
    return f"ph-{phase}" if phase in WORK or phase in WAITS else "ph-other"


def style() -> str:
    """CSS of series, phases and the patches of their legends."""
    rules = [
        f".s{n} {{ stroke: {colour} }} .s{n}.lone {{ fill: {colour} }} .b{n} {{ fill: {colour}; fill-opacity: .14 }} .key-s{n} {{ background: {colour} }}"
        for n, colour in enumerate(SERIES)
    ]
    rules += [
        f".ph-{name} {{ fill: {colour} }} .key-ph-{name} {{ background: {colour} }}"
        for name, (colour, _) in WORK.items()
    ]
    rules += [
        f".ph-{name} {{ fill: url(#hatch-{name}) }} .key-ph-{name} {{ background: repeating-linear-gradient(135deg, {colour}66 0 1.5px, #fff 1.5px 4px); box-shadow: inset 0 0 0 1px {colour}66 }}"
        for name, (colour, _) in WAITS.items()
    ]
    return "\n".join(rules)


def hatches() -> str:
    """The patterns that `style` refers to; once a page."""
    patterns = "".join(
        f'<pattern id="hatch-{name}" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<rect width="4" height="4" fill="#fff"/><rect width="1.4" height="4" fill="{colour}" fill-opacity=".42"/></pattern>'
        for name, (colour, _) in WAITS.items()
    )
    return f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{patterns}</defs></svg>'
