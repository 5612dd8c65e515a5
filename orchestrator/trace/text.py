"""A trace for people: a line a span, with a bar that shows when."""

from collections.abc import Sequence
from datetime import datetime

from orchestrator.log_reader.text import printable
from orchestrator.trace.span import Attribute, Span, Trace

_WORK, _WAIT = "█", "░"
_NAME, _WORKER, _SECONDS = 28, 8, 10
"""Columns; what is left of the width is the bar's, and what stands behind it wraps as the terminal likes."""
_LEAST_BAR = 16


def lines(trace: Trace, *, width: int) -> list[str]:
    bar = max(_LEAST_BAR, width - _NAME - _WORKER - _SECONDS - 4)
    found = [
        f"group {trace.group_id}  prompt {printable(trace.prompt_id)}, attempt {trace.attempt}: {printable(trace.state)}"
    ]
    if trace.start is not None:
        when = datetime.fromtimestamp(trace.start)
        until = "until now" if trace.open else "in all"
        found.append(
            f"issued {when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000:03}, {duration(trace.seconds)} {until}"
        )
    for index, span in enumerate(trace.spans):
        branch = "└" if index == len(trace.spans) - 1 else "├"
        name = f"{branch} {span.name}"
        drawn = _bar(trace, span, width=bar)
        found.append(f"{name:{_NAME}} {span.worker:{_WORKER}} {duration(span.seconds):>{_SECONDS}}  {drawn}".rstrip())
        if span.attributes:
            stem = " " if branch == "└" else "│"
            found.append(f"{stem}     {', '.join(f'{key} {_value(value)}' for key, value in span.attributes.items())}")
    if trace.spans and trace.start is not None:
        waited = sum(span.seconds for span in trace.spans if span.waits)
        share = f" ({waited / trace.seconds:.0%} of the time)" if trace.seconds else ""
        found.append(f"{_WAIT} waited {duration(waited)}{share}, {_WORK} worked on {duration(trace.seconds - waited)}")
    return [*found, *(f"note: {printable(note)}" for note in trace.notes)]


def table(traces: Sequence[Trace], *, width: int) -> list[str]:
    """The groups of a batch, a line each: when each was worked on, from the first's issue to the last's end."""
    starts = [trace.start for trace in traces if trace.start is not None]
    ends = [trace.end for trace in traces if trace.end is not None]
    bar = max(_LEAST_BAR, width - 34)
    found = [f"{'sequence':>10} {'generated':>10} {'scored':>10}  from the first issue to the end"]
    for trace in traces:
        took = {span.name: span.seconds for span in trace.spans}
        cells = [" "] * bar
        for span in trace.spans:
            if starts and ends and span.start is not None:
                _fill(cells, span, start=min(starts), length=max(ends) - min(starts))
        spent = [duration(took[name]) if name in took else "-" for name in ("generated", "scored")]
        found.append(f"{trace.sequence:>10} {spent[0]:>10} {spent[1]:>10}  {''.join(cells)}".rstrip())
    return found


def _bar(trace: Trace, span: Span, *, width: int) -> str:
    cells = [" "] * width
    if trace.start is not None and span.start is not None and trace.seconds > 0:
        _fill(cells, span, start=trace.start, length=trace.seconds)
    return "".join(cells)


def _fill(cells: list[str], span: Span, *, start: float, length: float) -> None:
    """At least one cell, however short it was."""
    assert span.start is not None
    last = len(cells) - 1
    first = min(last, max(0, round((span.start - start) / max(length, 1e-9) * len(cells))))
    end = min(last, max(first, round((span.start + span.seconds - start) / max(length, 1e-9) * len(cells)) - 1))
    for index in range(first, end + 1):
        cells[index] = _WAIT if span.waits else _WORK


def duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    if seconds >= 100:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return (
        f"{seconds:.2f} s"
        if seconds >= 1
        else f"{seconds * 1000:.1f} ms"
        if seconds < 0.1
        else f"{seconds * 1000:.0f} ms"
    )


def _value(value: Attribute) -> str:
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))
