"""Sections of a document that benchmarks rewrite: what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`."""

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path


def replace(document: Path, name: str, text: str) -> None:
    """Put the text, with a line on machine and date, between the markers. ValueError: the document lacks them."""
    whole = document.read_text(encoding="utf-8")
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise ValueError(f"{document}: needs the lines {begin.strip()} and {end} once each")
    before, _, rest = whole.partition(begin)
    _, _, after = rest.partition(end)
    document.write_text(f"{before}{begin}{text.rstrip()}\n\n{machine()}\n{end}{after}", encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """What the figures were taken on, in a line."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[2]
    day = datetime.now(UTC).date().isoformat()
    return (
        f"*{day}, {os.cpu_count()} cores of {cpu}, {memory:.0f} GiB, Python {platform.python_version()}; "
        f"load of the 15 minutes before: {load:.1f}.*"
    )
