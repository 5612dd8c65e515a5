"""The picture of docs/architecture.md, alive: three clusters, the streams between them, the weight store behind them."""

from rich.text import Text

from orchestrator.top.spark import bar, short, span
from orchestrator.top.view import Cluster, Stream, View

LEAST_WIDTH = 78
"""Below it the clusters stand under one another."""

_GAPS = ("prompts", "completions", "experience")
_GAP = (8, 11, 10)
"""Least columns of the streams before each cluster."""
_WIDEST_GAP = 20
_NARROW = 18
"""Columns of a box that has none left for space at its sides."""
_STYLES = {"generation": "cyan", "scoring": "magenta", "training": "green"}


def picture(view: View, *, width: int) -> list[Text]:
    gaps, box = _columns(width)
    boxes = [_box(name, lines, box, view) for name, lines in _contents(view).items()]
    streams = [_stream(name, view.streams[name], columns) for name, columns in zip(_GAPS, gaps, strict=True)]
    rows = [
        Text.assemble(*(part for pair in zip(streams, boxes, strict=True) for part in (pair[0][row], pair[1][row])))
        for row in range(len(boxes[0]))
    ]
    return [*rows, *_way_back(view, gaps, box)]


def brief(view: View) -> list[Text]:
    """A line each, for a terminal that is too narrow for the picture."""
    found = []
    for name, lines in _contents(view).items():
        busy = view.clusters[name].busy
        share = "" if busy is None else f"{busy:.0%} busy "
        found.append(Text.assemble((f"{name:11}", _STYLES[name]), share, ", ".join(line for line in lines if line)))
    depths = ", ".join(f"{name} {view.streams[name].groups}" for name in _GAPS)
    return [*found, Text(f"streams    {depths}"), Text(f"weights    {_version(view)}")]


def _columns(width: int) -> tuple[list[int], int]:
    """Of each gap and of a box; what a wider terminal has more goes to the boxes first."""
    spare = width - sum(_GAP)
    box = min(30, spare // 3)
    more = min(_WIDEST_GAP - max(_GAP), (width - sum(_GAP) - 3 * box) // 3)
    return [gap + more for gap in _GAP], box


def _contents(view: View) -> dict[str, list[str]]:
    """What stands in each box below its bar: rates, and what its workers hold."""
    generation, scoring, training = (view.clusters[name] for name in ("generation", "scoring", "training"))
    return {
        "generation": [
            _rate(generation, "tokens_per_s", "tokens/s"),
            _rate(generation, "groups_per_s", "groups/s"),
            _serves(view),
        ],
        "scoring": [_rate(scoring, "groups_per_s", "groups/s"), _rate(scoring, "samples_per_s", "samples/s"), ""],
        "training": [
            _rate(training, "steps_per_min", "steps/min"),
            _rate(training, "samples_per_s", "samples/s"),
            view.trainer,
        ],
    }


def _rate(cluster: Cluster, name: str, unit: str) -> str:
    rate = cluster.rates[name]
    return f"{'-' if rate is None else short(rate)} {unit}"


def _serves(view: View) -> str:
    """v57, or how many engines serve which."""
    numbers = sorted({int(version.rpartition("/")[2]) for version in view.served.values()})
    if not numbers:
        return "no version yet"
    return f"serves v{numbers[0]}" if len(numbers) == 1 else f"serves v{numbers[0]}–{numbers[-1]}"


def _box(name: str, lines: list[str], width: int, view: View) -> list[Text]:
    cluster = view.clusters[name]
    pad = " " * (width > _NARROW)
    inner = width - 2 - 2 * len(pad)
    style = f"bold {_STYLES[name]}" if view.bottleneck.stage == name else _STYLES[name]
    count = f" {cluster.running}/{cluster.workers}" if (cluster.running, cluster.workers) != (1, 1) else ""
    title = f" {name}{count} " if len(name + count) <= width - 5 else f"{name}{count}"[: width - 3]
    share = "" if cluster.busy is None else f"{bar(cluster.busy, max(3, inner - 5))} {cluster.busy:4.0%}"
    inside = [Text(share, style=_STYLES[name]), *map(Text, lines)]
    rows = [Text.assemble(("╭─" + title + "─" * (width - 3 - len(title)) + "╮", style))]
    for line in inside:
        line.truncate(inner, pad=True)
        rows.append(Text.assemble(("│" + pad, style), line, (pad + "│", style)))
    return [*rows, Text("╰" + "─" * (width - 2) + "╯", style=style)]


def _stream(name: str, stream: Stream, width: int) -> list[Text]:
    """As high as a box: name, depth, arrow, age of the oldest entry."""
    style = "bold" if stream.groups else "dim"
    arrow = "─" * (width - 2) + "▶ "
    age = span(stream.oldest_s) if stream.groups else ""
    parts = [("", ""), (name, "dim"), (str(stream.groups), style), (arrow, "dim"), (age, "dim"), ("", "")]
    return [Text(text.center(width) if text is not arrow else arrow.rjust(width), style=how) for text, how in parts]


def _way_back(view: View, gaps: list[int], box: int) -> list[Text]:
    """From the trainer by the weight store to the engines."""
    left = gaps[0] + box // 2
    right = sum(gaps) + 2 * box + box // 2
    said = f" weights: {_version(view)} "
    length = right - left - 1
    said = said if len(said) <= length - 2 else said[: length - 3] + " "
    line = said.center(length, "─")
    return [
        Text.assemble(" " * left, ("▲" + " " * length + "│", "dim")),
        Text.assemble(" " * left, (f"└{line}┘", "dim")),
    ]


def _version(view: View) -> str:
    if view.published < 0:
        return "none published yet"
    age = "" if view.published_s is None else f", {span(view.published_s)} old"
    behind = view.step - view.published
    late = f", {behind} behind the trainer" if behind > 0 else ""
    return f"v{view.published} published{age}{late}"
