"""Fault injection for tests: kill a process at a named point of the protocol, once, and leave a marker that proves it.

`HEADRACE_FAULTS=rank.step@3:self,batch.commit.before@4:driver` reads: the first process that reaches `rank.step` of
step 3 kills itself; the one about to commit batch 4 kills the driver and waits for its own end. Without the variable
every point costs one call of an empty function.
"""

import os
import re
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

Reached = Callable[[str, int], None]
VARIABLE = "HEADRACE_FAULTS"
_FAULT = re.compile(r"(?P<point>[a-z._]+)@(?P<step>\d+):(?P<target>self|driver)")


def from_environment(environment: Mapping[str, str], *, markers: Path, driver_pid: int) -> Reached:
    """ValueError on a fault that cannot be read."""
    faults = dict(_parse(fault) for fault in environment.get(VARIABLE, "").split(",") if fault)
    if not faults:
        return lambda point, step: None

    def reached(point: str, step: int) -> None:
        target = faults.get((point, step))
        if target is None or not _mark(markers, f"{point}@{step}"):
            return
        os.kill(os.getpid() if target == "self" else driver_pid, signal.SIGKILL)
        threading.Event().wait()  # Ray ends us within seconds of the driver: nothing may happen past this point

    return reached


def _parse(fault: str) -> tuple[tuple[str, int], str]:
    parts = _FAULT.fullmatch(fault)
    if parts is None:
        raise ValueError(f"{VARIABLE} = {fault}: expected point@step:self or point@step:driver")
    return (parts["point"], int(parts["step"])), parts["target"]


def _mark(markers: Path, name: str) -> bool:
    """True for the one process that created the marker: a fault strikes once in a run's life."""
    markers.mkdir(parents=True, exist_ok=True)
    try:
        (markers / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
