"""The real command in its own process, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HEADRACE = str(Path(sys.executable).with_name("headrace"))
TIMEOUT_S = 240.0
"""Of one command: a cold start on two busy cores, and some steps."""


def headrace(*arguments: str | Path, faults: str = "", cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"HEADRACE_FAULTS": faults} if faults else {})
    return subprocess.run(
        [HEADRACE, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def succeeded(*arguments: str | Path, faults: str = "", cwd: Path) -> str:
    done = headrace(*arguments, faults=faults, cwd=cwd)
    assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def as_json(*arguments: str | Path, cwd: Path) -> dict[str, Any]:
    return dict(json.loads(succeeded(*arguments, "--json", cwd=cwd)))
