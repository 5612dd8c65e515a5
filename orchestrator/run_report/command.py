"""`headrace report`."""

import json
from pathlib import Path
from typing import Any

from orchestrator.commands import find
from orchestrator.folder import RunFolder
from orchestrator.run_report.write import write_comparison, write_report


def run(path: Path, other: Path | None, *, out: Path | None, as_json: bool) -> None:
    first = find(path)
    if out is not None and out.exists() and not out.is_file():  # as root one would replace /dev/null
        raise ValueError(f"--out = {out}: is no file; remedy: name one, or one that does not exist yet")
    try:
        content = _compared(first, find(other), out) if other else write_report(first, out or first.report)
    except OSError as error:
        raise ValueError(f"--out = {out or first.path}: {error}; remedy: name a file that can be written") from error
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        print(f"{content['headline']}\nreport: {content['report']}")


def _compared(first: RunFolder, second: RunFolder, out: Path | None) -> dict[str, Any]:
    if first.path == second.path:
        raise ValueError(f"B = {second.path}: is the first run itself; remedy: name another")
    return write_comparison(first, second, out or first.path / f"report-against-{second.run_id}.html")
