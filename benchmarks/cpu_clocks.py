"""The CPU clocks of a run's workers, looked at again and again: who computes while the ranks train?"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import psutil

from benchmarks.step_account import Interval

Look = tuple[float, Mapping[str, float]]
"""Seconds since 1970, and CPU seconds so far by worker."""


@dataclass(kw_only=True, slots=True)
class CpuClocks:
    """look() costs less than a millisecond."""

    run: Path
    looks: list[Look] = field(default_factory=list)

    def look(self) -> None:
        """Note the clock of each worker that has told status.json its pid."""
        status = self.run / "status.json"
        workers = json.loads(status.read_text()).get("workers", {}) if status.exists() else {}
        clocks = {}
        pids = {name: worker["pid"] for name, worker in workers.items() if "pid" in worker}
        for name, pid in pids.items():
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.NoSuchProcess:
                continue
            clocks[name] = times.user + times.system
        self.looks.append((time.time(), clocks))


def inside(looks: Sequence[Look], intervals: Sequence[Interval], *, span: Interval) -> dict[str, float]:
    """By worker, the share of its CPU seconds in `span` that fell into the intervals.

    Between two looks a worker counts as equally busy throughout.
    """
    within: dict[str, float] = {}
    whole: dict[str, float] = {}
    for (begin, earlier), (end, later) in pairwise(looks):
        if begin < span[0] or end > span[1]:
            continue
        share = sum(max(0.0, min(end, stop) - max(begin, start)) for start, stop in intervals) / (end - begin)
        for name in later.keys() & earlier.keys():
            used = later[name] - earlier[name]
            whole[name] = whole.get(name, 0.0) + used
            within[name] = within.get(name, 0.0) + used * share
    return {name: within[name] / used for name, used in whole.items() if used > 0}
