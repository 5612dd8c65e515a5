"""A page as Chromium lays it out: what does not fit into its place."""

import json
import re
import shutil
import subprocess
import tempfile
from html import unescape
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_S = 120.0
_MEASURE = """
<script>
const spills = [];
const names = (element) => `${element.tagName}.${element.getAttribute("class") || ""}: ${element.textContent.slice(0, 60)}`;
for (const element of document.querySelectorAll("body *")) {
  if (element.closest("details:not([open])") || element.closest("svg") || element.tagName === "SCRIPT") continue;
  const style = getComputedStyle(element);
  const clipped = style.overflowX !== "visible" || style.overflowY !== "visible";
  if (clipped && (element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 1))
    spills.push(names(element));
}
for (const text of document.querySelectorAll("svg text")) {
  const inner = text.getBoundingClientRect(), outer = text.closest("svg").getBoundingClientRect();
  if (inner.width && (inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.bottom > outer.bottom + 1))
    spills.push(names(text));
}
if (document.documentElement.scrollWidth > window.innerWidth + 1) spills.push("the page is wider than the window");
document.body.setAttribute("data-spills", JSON.stringify(spills));
</script>
"""


def chromium() -> str | None:
    return next((found for found in map(shutil.which, NAMES) if found), None)


def spills(page: Path, *, width: int = 1300) -> list[str]:
    """What is cut off or reaches out of its place, by element; nothing is best."""
    program = chromium()
    assert program, "no Chromium on PATH"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / page.name
        copy.write_text(page.read_text().replace("</body>", f"{_MEASURE}</body>"))
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
        command += [f"--window-size={width},2000", "--dump-dom", copy.as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout
    found = re.search(r'data-spills="([^"]*)"', dom)
    assert found, "the page did not load"
    return list(json.loads(unescape(found[1])))
