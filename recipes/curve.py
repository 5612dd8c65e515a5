"""Draws a run's metrics.jsonl as one SVG: reward and KL by step.

python -m recipes.curve runs/smollm2/metrics.jsonl docs/smollm2.svg
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

WIDTH, HEIGHT, MARGIN = 720, 260, 48
"""Pixels of one panel; the margin holds the axis labels."""
PANELS = (
    ("reward_mean", "reward, mean over a batch"),
    ("kl_per_response", "KL to the initial policy, nats a response"),
)


def main(
    metrics: Annotated[Path, typer.Argument(help="a run's metrics.jsonl")],
    out: Annotated[Path, typer.Argument(help="SVG file to write")],
) -> None:
    """Later lives of a run repeat steps with equal numbers; the last line of a step counts."""
    rows = {row["step"]: row for row in map(json.loads, metrics.read_text().splitlines())}
    steps = sorted(rows)
    panels = [
        panel(steps, [rows[step][key] for step in steps], title=title, top=index * HEIGHT)
        for index, (key, title) in enumerate(PANELS)
    ]
    size = f'width="{WIDTH}" height="{HEIGHT * len(PANELS)}"'
    style = 'font-family="sans-serif" font-size="12" fill="#333"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    out.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{background}\n{"".join(panels)}</svg>\n')


def panel(xs: Sequence[float], ys: Sequence[float], *, title: str, top: int) -> str:
    """A line with its points, a baseline, and the extremes named on both axes."""
    low, high = min(ys), max(ys)
    width, height = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - xs[0]) / ((xs[-1] - xs[0]) or 1)
        up = (y - low) / ((high - low) or 1)
        return round(MARGIN + right * width, 1), round(top + HEIGHT - MARGIN - up * height, 1)

    points = [place(x, y) for x, y in zip(xs, ys, strict=True)]
    line = " ".join(f"{x},{y}" for x, y in points)
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="2.5" fill="#1f77b4"/>' for x, y in points)
    floor, ceiling = top + HEIGHT - MARGIN, top + MARGIN
    return (
        f'<text x="{MARGIN}" y="{top + MARGIN - 16}" font-weight="bold">{title}</text>\n'
        f'<path d="M{MARGIN},{ceiling}V{floor}H{WIDTH - MARGIN}" fill="none" stroke="#999"/>\n'
        f'<polyline points="{line}" fill="none" stroke="#1f77b4" stroke-width="1.5"/>\n{dots}\n'
        f'<text x="{MARGIN - 6}" y="{ceiling + 4}" text-anchor="end">{round(high, 3):.3g}</text>\n'
        f'<text x="{MARGIN - 6}" y="{floor + 4}" text-anchor="end">{round(low, 3):.3g}</text>\n'
        f'<text x="{MARGIN}" y="{floor + 18}" text-anchor="middle">{xs[0]:g}</text>\n'
        f'<text x="{WIDTH - MARGIN}" y="{floor + 18}" text-anchor="middle">step {xs[-1]:g}</text>\n'
    )


if __name__ == "__main__":
    typer.run(main)
