"""`headrace top` on a terminal of its own: what it takes, what it answers, and that it leaves all as it was."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from watched_folder import watched

from orchestrator.folder import RunFolder

PATIENCE_S = 60.0
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
FRAME = "\x1b[?2026h"


class Terminal:
    """The other end of a pseudo-terminal of 80 columns and 24 lines on which the command runs."""

    def __init__(self, *arguments: str | Path, environment: dict[str, str]) -> None:
        self.master, self._slave = pty.openpty()
        self.size(80, 24)
        self.before = termios.tcgetattr(self._slave)
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from orchestrator.entry import main; main()", "top", *map(str, arguments)],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=os.environ | {"TERM": "xterm-256color"} | environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, text: str, *, times: int = 1) -> str:
        """All that was said, once it holds the text so often."""
        deadline = time.monotonic() + PATIENCE_S
        while self.said.count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.said[-3000:]!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                self.said += os.read(self.master, 65536).decode(errors="replace")
            else:
                assert self.process.poll() is None, f"{text!r} did not come: {self.said[-3000:]!r}"
        return self.said

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def ends(self) -> int:
        """Its exit code; what it said until then is in `said`."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None or select.select([self.master], [], [], 0)[0]:
            assert time.monotonic() < deadline, "it does not end"
            if select.select([self.master], [], [], 0.1)[0]:
                self.said += os.read(self.master, 65536).decode(errors="replace")
        return self.process.returncode

    def is_as_it_was(self) -> bool:
        """No echo lost, and the last that was said about the screen and the cursor is that they are back."""
        modes = re.findall(r"\x1b\[\?(?:25|1049)[hl]", self.said)
        return termios.tcgetattr(self._slave) == self.before and modes[-2:] == ["\x1b[?25h", "\x1b[?1049l"]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self._slave)


@contextmanager
def on_a_terminal(*arguments: str | Path, **environment: str) -> Iterator[Terminal]:
    terminal = Terminal(*arguments, environment=environment)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return watched(tmp_path)


def test_it_lives_follows_the_size_and_quits_by_q(run: RunFolder) -> None:
    with on_a_terminal(run.path) as terminal:
        said = terminal.until(FRAME)
        assert said.index(ENTER) < said.index(FRAME)
        terminal.until("q quits")
        assert terminal.said.count("\r\n") == 23, "24 lines"
        assert not termios.tcgetattr(terminal.master)[3] & termios.ECHO
        terminal.until(FRAME, times=2)  # it lives
        terminal.size(150, 50)
        terminal.until("─ generation ────")  # a box of 30 columns: in no frame of 80
        terminal.press("xq")
        assert terminal.ends() == 0
        assert terminal.is_as_it_was()


def test_ctrl_c_gives_the_terminal_back(run: RunFolder) -> None:
    with on_a_terminal(run.path) as terminal:
        terminal.until(FRAME)
        terminal.press("\x03")
        assert terminal.ends() == 130
        assert terminal.is_as_it_was()
        assert "Traceback" not in terminal.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_ctrl_z_gives_it_back_meanwhile_and_a_signal_for_good(run: RunFolder, number: int) -> None:
    with on_a_terminal(run.path) as terminal:
        terminal.until(FRAME)
        terminal.press("\x1a")
        terminal.until(LEAVE)
        assert os.waitpid(terminal.process.pid, os.WUNTRACED)[1] == signal.SIGSTOP << 8 | 0x7F
        assert termios.tcgetattr(terminal.master) == terminal.before
        terminal.process.send_signal(signal.SIGCONT)
        terminal.until(ENTER, times=2)
        terminal.process.send_signal(number)
        assert terminal.ends() == 128 + number
        assert terminal.is_as_it_was()
        assert "Traceback" not in terminal.said


def test_an_error_gives_the_terminal_back_and_is_read_there(run: RunFolder) -> None:
    with on_a_terminal(run.path) as terminal:
        terminal.until(FRAME)
        run.status.write_text("{")
        assert terminal.ends() == 2
        assert terminal.is_as_it_was()
        after = terminal.said.rpartition(LEAVE)[2]
        assert after.startswith("headrace: ")
        assert "is no JSON" in after


@pytest.mark.parametrize(("environment", "colour"), [({"TERM": "dumb"}, False), ({}, True)])
def test_once_leaves_the_screen_alone(run: RunFolder, environment: dict[str, str], colour: bool) -> None:
    arguments = [] if environment.get("TERM") == "dumb" else ["--once"]
    with on_a_terminal(run.path, *arguments, **environment) as terminal:
        assert terminal.ends() == 0
        assert ENTER not in terminal.said
        assert "its driver was killed" in terminal.said
        assert bool(re.search(r"\x1b\[[\d;]*3\dm", terminal.said)) is colour
