"""A view as lines of a terminal, of any width and height: the picture of the loop, what it learns, what went wrong.

header, bottleneck
prompts ─▶ generation ─▶ completions ─▶ scoring ─▶ experience ─▶ training      and back, by the weight store
stores
curves
who was waited for, workers, warnings: as many as there is room for
"""

import textwrap
from collections.abc import Callable, Sequence
from datetime import datetime

from rich.text import Text

from orchestrator.disk import size
from orchestrator.log_reader.text import printable
from orchestrator.top.picture import LEAST_WIDTH, brief, picture
from orchestrator.top.spark import bar, short, span, spark
from orchestrator.top.view import Curve, View, binned

_STATES = {"running": "bold green", "starting": "bold yellow", "completed": "bold green", "stopped": "bold yellow"}
_LABEL = 10
_LEVELS = {"warning": "yellow", "error": "red", "critical": "bold red"}
_SILENT_S = 10.0
"""A driver writes its status every second."""
_OF_TRAINER = {"start": "starting", "training": "at work"}
_STAGES = ("start", "generation", "scoring", "publication", "training")
_COLOURS = {"start": "white", "generation": "cyan", "scoring": "magenta", "publication": "yellow", "training": "green"}


def frame(view: View, *, width: int, height: int) -> list[Text]:
    """At most `height` lines of at most `width` columns; what matters least is left out first."""
    said = textwrap.wrap(printable(view.bottleneck.text), max(width, 1))
    lines = [_header(view), *(Text(line, style="bold") for line in [*said, ""][:2])]
    lines += picture(view, width=width) if width >= LEAST_WIDTH else brief(view)
    lines += [_stores(view), _settled(view), Text("")]
    lines += _curves(view, width=width)
    lines.append(Text(""))
    if view.bottleneck.shares:
        lines.append(_shares(view, width=width))
    room = height - len(lines)
    lines += _warnings(view, room=min(room, max(2, room // 2)))
    lines += _workers(view, width=width, room=height - len(lines))
    for line in lines:
        line.truncate(width)
    return lines[:height]


def _header(view: View) -> Text:
    share = f" ({view.step / view.steps:.0%})" if view.steps else ""
    parts = [f"step {view.step}/{view.steps}{share}"]
    if view.step_s is not None:
        parts.append(f"{short(view.step_s)} s/step")
    if view.eta_s is not None:
        parts.append(f"{span(view.eta_s)} left")
    if view.up_s:
        parts.append(f"up {span(view.up_s)}")
    if view.epoch > 1:
        parts.append(f"epoch {view.epoch}")
    state = (view.state, _STATES.get(view.state, "bold red"))
    silent = view.silent_s if view.alive and (view.silent_s or 0) > _SILENT_S else None
    warned = (f" silent for {span(silent)}", "bold red") if silent is not None else ""
    return Text.assemble((printable(view.run), "bold"), "  ", state, warned, "  ", " · ".join(parts))


def _stores(view: View) -> Text:
    parts = [f"{view.live}/{view.capacity} groups" if view.capacity else f"{view.live} groups"]
    used, limit = view.redis.get("used_bytes"), view.redis.get("limit_bytes")
    if used is not None:
        parts.append(f"Redis {size(used)}" + (f" of {size(limit)}" if limit else ""))
    text = Text.assemble((f"{'buffer':{_LABEL}}", "dim"), " · ".join(parts))
    if view.redis.get("aof_ok") is False:
        text.append(" · append-only file fails", style="bold red")
    if quarantined := view.streams["quarantine"].groups:
        text.append(f" · {quarantined} quarantined", style="yellow")
    kept = f" · checkpoint {view.saved}" if view.saved >= 0 else ""
    text.append(f" · ledger {view.committed}{kept}")
    return text


def _settled(view: View) -> Text:
    stale = view.staleness
    of_last = (
        f"{stale['mean']:.2f} steps, {stale['max']:.0f} at most of {stale['allowed']:.0f}" if "max" in stale else "-"
    )
    text = Text.assemble((f"{'staleness':{_LABEL}}", "dim"), of_last)
    again = ", ".join(f"{count} of {what}" for what, count in view.restarts.items() if count)
    text.append(f" · restarts: {again}" if again else " · no restarts", style="yellow" if again else "")
    if view.written_bytes:
        text.append(f" · {size(view.written_bytes)} written")
    if view.evaluation:
        text.append(f" · evaluation {view.evaluation}")
    return text


def _curves(view: View, *, width: int) -> list[Text]:
    """One under the other, or two side by side where there is room."""
    learning = view.learning
    asked: list[tuple[str, Curve, Callable[[float], str]]] = [
        ("reward", learning["reward"], short),
        ("KL", learning["kl"], lambda value: f"{short(value)} nats"),
        ("length", learning["length"], lambda value: f"{short(value)} tokens"),
        ("win rate", learning["win_rate"], lambda value: f"{value:.1%}"),
    ]
    columns = 2 if width >= 150 else 1
    each = width // columns - 2 * (columns - 1)
    drawn = [_curve(name, curve, write, width=each) for name, curve, write in asked]
    if columns == 1:
        return drawn
    for left in drawn[::2]:
        left.pad_right(max(0, each - left.cell_len))
    return [Text("    ").join(pair) for pair in zip(drawn[::2], drawn[1::2], strict=True)]


def _curve(name: str, curve: Curve, write: Callable[[float], str], *, width: int) -> Text:
    value = "-" if curve.last is None else write(curve.last)
    points = binned(curve.series, max(8, width - _LABEL - 26))
    where = f"  {points[0][0]}–{points[-1][0]}" if len(points) > 1 else ""
    text = Text.assemble((f"{name:{_LABEL}}", "dim"), (f"{value:>12} ", "bold"))
    text.append(spark([value for _, value in points]), style="cyan")
    text.append(where, style="dim")
    return text


def _shares(view: View, *, width: int) -> Text:
    """What the trainer did, at work or waiting and for whom, as one bar and its words."""
    text = Text.assemble((f"{'trainer':{_LABEL}}", "dim"))
    long = min(40, max(10, width - 70))
    for stage in _STAGES:
        cells = round(view.bottleneck.shares.get(stage, 0.0) * long)
        text.append("█" * cells, style=_COLOURS[stage])
    for stage in _STAGES:
        if (share := view.bottleneck.shares.get(stage, 0.0)) >= 0.005:
            text.append(f" {_OF_TRAINER.get(stage, f'waits for {stage}')} {share:.0%}", style=_COLOURS[stage])
    text.append(f" in {span(view.bottleneck.shares_s)}", style="dim")
    return text


def _warnings(view: View, *, room: int) -> list[Text]:
    if room <= 0 or not view.warnings:
        return []
    return [
        Text.assemble(
            (f"{datetime.fromtimestamp(one.at):%H:%M:%S} ", "dim"),
            (printable(one.event), _LEVELS.get(one.level, "")),
            f"  {printable(one.said)}",
        )
        for one in view.warnings[-room:]
    ]


def _workers(view: View, *, width: int, room: int) -> list[Text]:
    """With what room is left, in columns of fixed width."""
    each, count = 38, max(1, width // 38)
    if room < 2 or not view.workers:
        return []
    cells = [_worker(worker.name, worker.state, worker.busy, worker.served, width=each) for worker in view.workers]
    rows = [cells[index : index + count] for index in range(0, len(cells), count)]
    shown = [Text("").join(row) for row in rows[: room - 1]]
    hidden = len(cells) - sum(len(row) for row in rows[: room - 1])
    return [Text(f"workers{f', and {hidden} more' if hidden else ''}", style="dim"), *shown]


def _worker(name: str, state: str, busy: float | None, served: str, *, width: int) -> Text:
    share = f"{bar(busy, 6)} {busy:4.0%}" if busy is not None else " " * 11
    version = f" v{served.rpartition('/')[2]}" if served else ""
    text = Text(f"{name:9.9}{share} {printable(state)}{version}")
    text.truncate(width - 1, pad=True)
    text.append(" ")
    return text


def plain(lines: Sequence[Text]) -> list[str]:
    return [line.plain.rstrip() for line in lines]
