"""The page in a real browser, where one is on PATH: its plots drew, inside their frames, and no label lies on another."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from report_runs import BEGAN, a_line, a_reported_run, a_step, iso, said

from orchestrator.run_report.write import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MEASURE = """<script>
const found = [];
for (const svg of document.querySelectorAll('figure svg')) {
  const frame = svg.getBoundingClientRect(), shapes = [], texts = [];
  for (const mark of svg.querySelectorAll('polyline, polygon, circle, path, rect:not(.ground)')) {
    const box = mark.getBoundingClientRect(), style = getComputedStyle(mark);
    shapes.push({ kind: mark.getAttribute('class'), wide: box.width, high: box.height, stroke: style.stroke, fill: style.fill,
      inside: box.left >= frame.left - 2 && box.right <= frame.right + 2 && box.top >= frame.top - 2 && box.bottom <= frame.bottom + 2 });
  }
  for (const text of svg.querySelectorAll('text:not(.limit):not(.aim):not(.life)')) {
    const box = text.getBoundingClientRect();
    if (box.width) texts.push([text.textContent, box.left, box.top, box.right, box.bottom]);
  }
  const overlaps = [];
  for (let a = 0; a < texts.length; a++) for (let b = a + 1; b < texts.length; b++) {
    const [x, y] = [texts[a], texts[b]];
    const wide = Math.min(x[3], y[3]) - Math.max(x[1], y[1]), high = Math.min(x[4], y[4]) - Math.max(x[2], y[2]);
    if (wide > 1 && high > 3) overlaps.push([x[0], y[0], wide, high]);
  }
  found.push({ label: svg.getAttribute('aria-label'), wide: frame.width, high: frame.height, shapes, overlaps });
}
const told = document.createElement('pre'); told.id = 'measured'; told.textContent = JSON.stringify(found); document.body.append(told);
</script></body>"""
"""Run by the test alone: the page itself has no script."""


def measured(page: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What the browser made of each plot, by its label."""
    probe = folder / "probe.html"
    probe.write_text(page.read_text(encoding="utf-8").replace("</body>", MEASURE), encoding="utf-8")
    assert BROWSER is not None
    profile = f"--user-data-dir={folder / 'profile'}"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1300,2400", profile, "--dump-dom"]
    done = subprocess.run([BROWSER, *options, probe.as_uri()], capture_output=True, text=True, timeout=240)
    told = re.search('<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL)
    assert told is not None, done.stderr[-2000:]
    return {plot["label"]: plot for plot in json.loads(html.unescape(told[1]))}


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH; the page's structure is tested without one")
def test_the_plots_draw_in_a_browser(tmp_path: Path) -> None:
    steps = [a_step(step) for step in range(1, 41)]
    steps += [a_step(step, epoch=3, time=iso(BEGAN + 5000 + step)) for step in range(38, 61)]
    lines = [a_line(float(at), step=at // 2) for at in range(0, 102, 2)]
    lines += [a_line(float(at), step=40 + at // 2, epoch=3, began=BEGAN + 5000) for at in range(0, 42, 2)]
    won = {"win_rate": 0.7, "win_rate_low": 0.62, "win_rate_high": 0.78, "version": "v", "settings": "x"}
    run = a_reported_run(
        tmp_path,
        steps=steps,
        timeline=lines,
        evaluations=[won | {"step": step} for step in (20, 40, 60)],
        logs=[said("worker restarts", 50, member="gen-0", cause="its process died")],
    )
    write_report(run, run.report)
    plots = measured(run.report, tmp_path)
    assert len(plots) >= 16
    for label, plot in plots.items():
        assert plot["wide"] > 200, label
        assert plot["high"] > 50, label
        assert all(shape["inside"] for shape in plot["shapes"]), label
        assert plot["overlaps"] == [], label
    lines_drawn = [
        shape for plot in plots.values() for shape in plot["shapes"] if shape["kind"] == "s0" and shape["wide"] > 100
    ]
    assert len(lines_drawn) >= 14  # a line a chart, from left to right
    assert {shape["stroke"] for shape in lines_drawn} == {"rgb(37, 99, 168)"}
    worked = {shape["kind"]: shape for shape in plots["Who worked when"]["shapes"]}
    assert {
        "ph-generate",
        "ph-rewards",
        "ph-train",
        "ph-wait_completions",
        "ph-wait_batch",
        "sign fell",
    } <= worked.keys()
    assert worked["ph-generate"]["wide"] > 900
    assert worked["ph-train"]["fill"] == "rgb(124, 79, 196)"
    assert "hatch-wait_batch" in worked["ph-wait_batch"]["fill"]
