"""A timeline as SVG: one row a worker, one bar a part."""

from collections.abc import Sequence
from html import escape

WIDTH, LEFT, ROW, TOP = 960, 70, 34, 24
"""Pixels."""
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d")
CHARACTER = 6.2
"""Pixels of a letter, about: a name is written into a bar that it fits."""


def draw(rows: Sequence[tuple[str, str, float, float]]) -> str:
    """rows: (worker, part, begin, end), seconds."""
    workers = list(dict.fromkeys(worker for worker, *_ in rows))
    names = list(dict.fromkeys(name for _, name, *_ in rows))
    last = max(end for *_, end in rows)
    scale = (WIDTH - LEFT - 10) / last
    height = TOP + ROW * len(workers) + 10
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for second in range(0, int(last) + 1, max(1, int(last) // 10)):
        x = LEFT + second * scale
        out.append(f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{TOP - 6}" y2="{height - 6}" stroke="#ddd"/>')
        out.append(f'<text x="{x:.0f}" y="{TOP - 10}" text-anchor="middle" fill="#555">{second} s</text>')
    for index, worker in enumerate(workers):
        out.append(f'<text x="6" y="{TOP + ROW * index + 18}">{escape(worker)}</text>')
    for worker, name, begin, end in rows:
        x, y, width = LEFT + begin * scale, TOP + ROW * workers.index(worker) + 2, (end - begin) * scale
        colour = COLOURS[names.index(name) % len(COLOURS)]
        title = f"<title>{escape(name)}: {end - begin:.1f} s</title>"
        out.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 8}" fill="{colour}">{title}</rect>')
        if width > len(name) * CHARACTER + 6:
            out.append(f'<text x="{x + 3:.1f}" y="{y + 17}" fill="white">{escape(name)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"
