"""Runs checks side by side: one that fails or hangs (a dead network filesystem, say) costs its own finding and no other."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from orchestrator.doctor.finding import Finding, note

Look = Callable[[], Iterable[Finding]]

TIMEOUT_S = 20.0
"""For one check: far above what a busy machine needs, below what a person waits for."""


def examine(checks: Mapping[str, Look], *, timeout_s: float = TIMEOUT_S) -> list[Finding]:
    """All that the checks find, in their order. What could not be looked at within `timeout_s` is a note."""
    answers: queue.SimpleQueue[tuple[str, Sequence[Finding]]] = queue.SimpleQueue()
    for name, look in checks.items():
        thread = threading.Thread(
            target=lambda *one: answers.put((one[0], found_by(*one))), args=(name, look), daemon=True
        )
        thread.start()  # a daemon: one that hangs in the kernel must not keep the process
    found: dict[str, Sequence[Finding]] = {}
    deadline = time.monotonic() + timeout_s
    while len(found) < len(checks):
        try:
            name, findings = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        found[name] = findings
    late = f"no answer within {timeout_s:g} s"
    return [one for name in checks for one in found.get(name, [note(name, late, "it could not be looked at")])]


def found_by(name: str, look: Look) -> list[Finding]:
    """What a check finds, in this thread; where it fails, what it had found until then, and why it went no further."""
    found: list[Finding] = []
    try:
        for one in look():
            found.append(one)
    except Exception as error:  # whatever it is, it is shown, and the other checks go on
        found.append(note(name, f"could not be looked at: {type(error).__name__}: {error}"))
    return found
