"""Freed memory stays with the process: seen in its page faults, in a process of its own. 1 s."""

import subprocess
import sys

PROGRAM = """
import resource, sys
import numpy as np
from orchestrator.malloc import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def use():
    [np.ones(12_000_000, dtype=np.uint8) for _ in range(4)]
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True).stdout)


def test_memory_freed_and_taken_again_faults_no_page() -> None:
    """5 × 48 MB of pages of 4 KiB, or a few large ones: thousands of faults, or hardly any."""
    assert faults("kept") * 5 < faults("as glibc likes")
