"""The timeline as a picture, a lane a worker; and the sum of it, a bar a worker."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from orchestrator.run_report import palette
from orchestrator.run_report.time_use import TimeUse, is_wait, place_of
from train_cluster import charts

WIDTH, LEFT, RIGHT = 1040, 64, 10
TOP, LANE, GAP, FOOT = 34, 26, 7, 26
"""Room above the lanes for versions and marks; heights of a lane and of the space below it; room for the axis."""
_LEAST = 0.004
"""Share of a slice, or of a bar, below which a phase is not drawn."""
_NAMED = 0.05
"""Share of a bar from which on its percentage stands in it."""
_LETTER = 6.8
"""Width of a letter, about."""
IDLE = ("start", "other")
"""Phases that are neither work nor waiting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """Something that befell the run."""

    at_s: float
    kind: str
    """CSS class of its sign."""
    text: str


def lanes(use: TimeUse, marks: Sequence[Mark]) -> str:
    """Each lane is a stack of shares over time: solid is work, hatched is waiting."""
    workers = sorted({piece.worker for piece in use.slices}, key=place_of)
    height = TOP + len(workers) * (LANE + GAP) + FOOT
    body = [*_versions(use), *_axis(use, height)]
    for row, worker in enumerate(workers):
        body += _lane(use, worker, TOP + row * (LANE + GAP))
    body += [*_lives(use, height), *_marks(use, marks, height)]
    phases = palette.order({phase for phases in use.wall.values() for phase in phases if sum(phases.values()) > 0})
    legend = {palette.word(phase): palette.kind(phase) for phase in phases if _share(use, phase) > _LEAST}
    return (
        f'<figure class="lanes"><figcaption>{charts.keys(legend)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Who worked when">{"".join(body)}</svg></figure>'
    )


def bars(use: TimeUse) -> str:
    """Whom the loop waited for, and below it a bar of its whole time for each worker, by phase."""
    turned = sum(use.waited.values())
    pieces = [(palette.STAGES[stage], stage, use.waited.get(stage, 0.0)) for stage in palette.STAGES]
    told = f"trainer at work {use.waited.get('training', 0.0) / (turned or 1.0):.0%}"
    body = [*_bar("loop", pieces, told, top=0)] if turned else []
    for row, (worker, phases) in enumerate(use.wall.items(), start=len(body) > 0):
        pieces = [(palette.kind(phase), palette.word(phase), phases[phase]) for phase in palette.order(phases)]
        work = sum(value for phase, value in phases.items() if not is_wait(phase) and phase not in IDLE)
        total = sum(phases.values())
        told = f"at work {work / (total or 1.0):.0%} of {duration(total)}"
        body += _bar(worker, pieces, told, top=row * (LANE + GAP))
    height = (len(use.wall) + bool(turned)) * (LANE + GAP) + 4
    return f'<figure class="bars"><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Where the time went">{"".join(body)}</svg></figure>'


def duration(value: float) -> str:
    """Seconds as people say them."""
    if value < 120:
        return f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h" if value < 48 * 3600 else f"{value / 86400:.1f} d"


def _x(use: TimeUse, at_s: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * at_s / (use.total_s or 1.0)


def _share(use: TimeUse, phase: str) -> float:
    """The largest of any worker."""
    return max((phases.get(phase, 0.0) / (sum(phases.values()) or 1.0) for phases in use.wall.values()), default=0.0)


def _lane(use: TimeUse, worker: str, top: float) -> Iterator[str]:
    yield f'<text class="who" x="{LEFT - 8}" y="{top + LANE / 2 + 4:.1f}" text-anchor="end">{escape(worker)}</text>'
    yield f'<rect class="ground" x="{LEFT}" y="{top}" width="{WIDTH - LEFT - RIGHT}" height="{LANE}"/>'
    paths: dict[str, list[str]] = {}
    for piece in use.slices:
        if piece.worker != worker:
            continue
        bottom = top + LANE
        left, right = _x(use, piece.start_s), _x(use, piece.end_s)
        for phase in palette.order(piece.shares):
            tall = piece.shares[phase] * LANE
            bottom -= tall
            if piece.shares[phase] >= _LEAST:
                part = f"M{left:.1f} {bottom:.1f}H{right:.1f}v{tall:.1f}H{left:.1f}z"
                paths.setdefault(palette.kind(phase), []).append(part)
    yield from (f'<path class="{kind}" d="{"".join(parts)}"/>' for kind, parts in paths.items())


def _bar(worker: str, pieces: Sequence[tuple[str, str, float]], told: str, *, top: float) -> Iterator[str]:
    """pieces: (CSS class, name, seconds)."""
    total = sum(value for _, _, value in pieces) or 1.0
    middle = top + LANE / 2 + 4
    yield f'<text class="who" x="{LEFT - 8}" y="{middle:.1f}" text-anchor="end">{escape(worker)}</text>'
    left, room = float(LEFT), WIDTH - LEFT - RIGHT - 150
    for kind, name, value in pieces:
        share = value / total
        wide = share * room
        if share < _LEAST:
            continue
        title = f"{name} {share:.0%}"
        yield f'<rect class="{kind}" x="{left:.1f}" y="{top}" width="{wide:.1f}" height="{LANE}"><title>{escape(title)}</title></rect>'
        if share >= _NAMED:
            shade = "on-wait" if kind.startswith("ph-wait") or kind in ("ph-start", "ph-other") else "on-work"
            shown = title if wide > _LETTER * len(title) else f"{share:.0%}"
            yield f'<text class="{shade}" x="{left + wide / 2:.1f}" y="{middle:.1f}" text-anchor="middle">{escape(shown)}</text>'
        left += wide
    yield f'<text class="sum" x="{WIDTH - RIGHT - 140}" y="{middle:.1f}">{escape(told)}</text>'


def _versions(use: TimeUse) -> Iterator[str]:
    """A tick each; where they are as dense as the picture, they merge into a band."""
    yield f'<text class="who" x="{LEFT - 8}" y="{TOP - 8}" text-anchor="end">versions</text>'
    for x in sorted({round(_x(use, at_s)) for at_s in use.published}):
        yield f'<line class="version" x1="{x}" x2="{x}" y1="{TOP - 16}" y2="{TOP - 6}"/>'


def _axis(use: TimeUse, height: float) -> Iterator[str]:
    unit, name = next(
        (one for one in ((86400, "days"), (3600, "hours"), (60, "minutes")) if use.total_s > 3 * one[0]), (1, "seconds")
    )
    ends = (0.0, (use.total_s or 1.0) / unit)
    for value in charts.round_ticks(ends):
        x = _x(use, value * unit)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{height - FOOT}"/>'
        yield f'<text x="{x:.1f}" y="{height - FOOT + 12}" text-anchor="middle">{charts.tick(value, ends)}</text>'
    yield f'<text x="{WIDTH - RIGHT}" y="{height - 3}" text-anchor="end">{name} of all lives, end to end</text>'


def _lives(use: TimeUse, height: float) -> Iterator[str]:
    """Where one life ends and the next begins."""
    for number, life in enumerate(use.lives[1:], start=2):
        x = _x(use, life.start_s)
        yield f'<line class="life" x1="{x:.1f}" x2="{x:.1f}" y1="12" y2="{height - FOOT}"/>'
        yield f'<text class="life" x="{x + 3:.1f}" y="12">life {number}</text>'


def _marks(use: TimeUse, marks: Sequence[Mark], height: float) -> Iterator[str]:
    for mark in marks:
        x = _x(use, mark.at_s)
        title = f"<title>{escape(mark.text)}</title>"
        yield f'<line class="fall {mark.kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{height - FOOT}"/>'
        yield f'<path class="sign {mark.kind}" d="M{x:.1f} {TOP - 4}l-4.5 -8h9z">{title}</path>'
