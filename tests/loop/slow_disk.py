"""A server whose disk can be made slow: its binary on PATH is wrapped so that it loads our own fsync."""

import os
import subprocess
from pathlib import Path

from experience.server import find_binary


class SlowDisk:
    """`environment` for whoever starts the server; between `slow()` and `mend()` each sync takes half a second."""

    def __init__(self, folder: Path) -> None:
        self._flag = folder / "slow"
        binary, library = find_binary(), folder / "slow_fsync.so"
        source = Path(__file__).with_name("slow_fsync.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
        wrapper = folder / Path(binary).name
        wrapper.write_text(f'#!/bin/sh\nLD_PRELOAD={library} exec {binary} "$@"\n')
        wrapper.chmod(0o755)
        self.environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SLOW_FSYNC_WHILE": str(self._flag)}

    def slow(self) -> None:
        self._flag.touch()

    def mend(self) -> None:
        self._flag.unlink()

    @property
    def felt(self) -> bool:
        """The server has waited for a slow sync."""
        return self._flag.with_name("slow.felt").exists()
