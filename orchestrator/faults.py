"""Fault injection for tests: something happens to a process at a named point of the protocol, and a marker proves it.

    HEADRACE_FAULTS=rank.step@3:self,batch.commit.before@4:driver,gen.start@5:self:always,score.group@9:pause

    self      the process that reaches the point kills itself
    driver    it kills the driver, and does nothing more until its own end
    pause     it goes no further until `faults/<point>@<step>.go` exists: whoever sees the marker may meanwhile stop it, kill
              it or another, look at what the rest does, and let it go on
    always    each time, not only in the first process that gets there

The marker `faults/<point>@<step>` holds the process ids of those that were struck, one a line. Without the variable
every point costs one call of an empty function.

    epoch.claimed           an epoch is the driver's, and no store knows it yet          epoch
    issue.before, .after    prompts are issued: the server and the cursor, one script    first sequence
    gen.start, gen.group    a group starts; is complete and not yet handed on            sequence
    score.group             a group is scored and not yet handed on                      sequence
    batch.commit.before, .after, batch.acknowledged   the blob; what it frees in the server    step
    rank.step               an update of the step is done                                step
    stage.step              a step of fine-tuning is done and told                       step
    version.manifest.before, .after   shards are written; the version exists             step
    newest.before, .after   the word that a version is the newest                        step
    evaluation.asked, .fetched, .written, best.pinned   of a version, in this order; `fetched` in the evaluator    step
    cut.manifest.before, .after       files are written; the checkpoint exists           step
"""

import os
import re
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Reached = Callable[[str, int], None]
VARIABLE = "HEADRACE_FAULTS"
LOOK_S = 0.02
"""Between looks of a paused process whether it may go on; a file has no other way to tell."""
_FAULT = re.compile(r"(?P<point>[a-z._]+)@(?P<step>\d+):(?P<action>self|driver|pause)(?P<always>:always)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fault:
    action: str
    always: bool


def from_environment(environment: Mapping[str, str], *, markers: Path, driver_pid: int | None) -> Reached:
    """ValueError on a fault that cannot be read. `driver_pid`: None on another node than the driver's."""
    faults = dict(_parse(fault) for fault in environment.get(VARIABLE, "").split(",") if fault)
    if not faults:
        return lambda point, step: None

    def reached(point: str, step: int) -> None:
        fault, marker = faults.get((point, step)), markers / f"{point}@{step}"
        if fault is None or not _mark(marker, again=fault.always):
            return
        if fault.action == "pause":
            _pause(marker.with_name(f"{marker.name}.go"))
            return
        victim = os.getpid() if fault.action == "self" else driver_pid
        assert victim is not None, f"{VARIABLE}: {point}@{step} is reached on another node than the driver's"
        os.kill(victim, signal.SIGKILL)
        threading.Event().wait()  # Ray ends us within seconds of the driver: nothing may happen past this point

    return reached


def _parse(fault: str) -> tuple[tuple[str, int], _Fault]:
    parts = _FAULT.fullmatch(fault)
    if parts is None:
        raise ValueError(f"{VARIABLE} = {fault}: expected point@step:action, an action of self, driver, pause, then :always or nothing")  # fmt: skip
    return (parts["point"], int(parts["step"])), _Fault(action=parts["action"], always=bool(parts["always"]))


def _mark(marker: Path, *, again: bool) -> bool:
    """True for the one process that created the marker, or for each where a fault strikes again and again."""
    marker.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if again else os.O_EXCL)
    try:
        descriptor = os.open(marker, flags, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{os.getpid()}\n")
    return True


def _pause(go: Path) -> None:
    waiting = threading.Event()
    while not go.exists():
        waiting.wait(LOOK_S)
