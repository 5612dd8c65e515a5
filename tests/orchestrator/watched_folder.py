"""A run's folder as its driver writes it while it lives, with figures that are easily worked out by hand."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator_folders import a_run

from orchestrator.folder import RunFolder

START = 1_750_000_000.0
"""Unix seconds of the life's start."""


def stamp(second: float) -> str:
    return datetime.fromtimestamp(START + second, UTC).isoformat(timespec="milliseconds")


def timeline_line(second: float, *, epoch: int = 1, **changes: Any) -> dict[str, Any]:
    """Generation makes 1,000 tokens and 10 groups a second and works all the time; scoring takes 5 groups a second and
    works 0.9 of it; ranks wait 0.6 of it; the loop waits for scoring 0.6 of it, and 0.4 for training."""
    line: dict[str, Any] = {
        "time": stamp(second),
        "elapsed_s": second,
        "epoch": epoch,
        "state": "running",
        "step": int(second // 4),
        "published": int(second // 4),
        "capacity": 64,
        "streams": {"prompts": 8, "completions": 14, "experience": 0, "quarantine": 0},
        "oldest_s": {"prompts": 0.5, "completions": 3.25},
        "waited_for": {"start": 0.0, "generation": 0.0, "scoring": 0.6 * second, "training": 0.4 * second},
        "redis": {"used_bytes": 2_000_000, "limit_bytes": 4_000_000, "aof_ok": True},
        "workers": {
            "driver": {"wall": {"supervise": second}},
            "gen-0": {"state": "running", "served": "0/1/9", "wall": {"generate": second}, "tokens": 1000 * second, "groups": 10 * second},
            "score-0": {"state": "running", "wall": {"rewards": 0.9 * second, "wait_completions": 0.1 * second}, "groups": 5 * second},
            "rank-0": {"wall": {"train": 0.4 * second, "wait_batch": 0.6 * second}},
        },
    }  # fmt: skip
    return line | changes


def step_line(step: int, **changes: Any) -> dict[str, Any]:
    """One every 4 seconds, of 16 samples."""
    line = {"time": stamp(4 * step), "elapsed_s": 4.0 * step, "epoch": 1, "step": step, "sequences": 16}
    learned = {"reward_mean": step / 10, "kl_per_response": 2.0, "response_length_mean": 8.0, "entropy": 1.0}
    return line | learned | {"staleness_mean": 0.5, "staleness_max": 1.0} | changes


def status_of(second: float, **changes: Any) -> dict[str, Any]:
    step = int(second // 4)
    line = timeline_line(second)
    workers = {name: {"state": "running"} | entry for name, entry in line["workers"].items() if name != "driver"}
    return {
        "run": "r",
        "state": "running",
        "epoch": 1,
        "step": step,
        "steps": 100,
        "committed": step + 1,
        "published": step,
        "saved": 8,
        "trainer": f"train {step + 1}",
        "written_bytes": 5_000_000,
        "live": 22,
        "streams": line["streams"],
        "oldest_s": line["oldest_s"],
        "redis": line["redis"],
        "restarts": {"trainer": 0, "workers": 1},
        "workers": workers,
        "last_step": step_line(step),
        "updated": stamp(second),
        **changes,
    }


def append(path: Path, *lines: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def watched(folder: Path, *, seconds: int = 40, **status: Any) -> RunFolder:
    """A life of so many seconds, with a line of the timeline each 2."""
    run = a_run(folder, "r")
    append(run.timeline, *(timeline_line(float(second)) for second in range(0, seconds + 1, 2)))
    append(run.metrics, *(step_line(step) for step in range(1, seconds // 4 + 1)))
    append(
        run.logs / "driver.jsonl",
        {"time": stamp(1), "level": "info", "logger": "l", "worker": "driver", "event": "life begins"},
        {"time": stamp(seconds - 1), "level": "warning", "logger": "l", "worker": "driver", "event": "worker restarts", "member": "gen-0"},
    )  # fmt: skip
    run.write_json(run.status, status_of(seconds, **status))
    return run
