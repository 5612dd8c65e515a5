"""Memory that a worker frees stays its own: the next forward pass asks for the same amounts again."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""

KEPT_BYTES = 2**30
"""Freed memory up to this much is not given back to the kernel, and smaller pieces are not mapped one by one."""


def keep_freed_memory() -> bool:
    """Tell glibc so; False where the C library has no such call, and nothing changes.

    By default it returns activations of some megabytes at each free, and the kernel zeroes the pages again at each
    allocation: a third of a small reference's CPU time. A process then stays as large as it once was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(parameter, KEPT_BYTES) == 1 for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))
