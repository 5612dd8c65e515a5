"""The terminal while the live view has it: another screen, no cursor, single keys; and all as it was, however it ends."""

import os
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The alternate screen, no cursor, no wrapping: a line that is too long for a terminal that has just shrunk is cut."""
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_BEGIN, _END = "\x1b[?2026h\x1b[H", "\x1b[J\x1b[?2026l"
"""Around a frame: terminals that know it show it at once; from the first line, and nothing below the last."""
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""A kill, a connection that has gone, Ctrl-\\."""


class Screen:
    """Inside `shown()`: draw(lines), and wait(seconds) for a key, a new size, or the time to pass."""

    def __init__(self) -> None:
        self._input = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._resized = False

    @contextmanager
    def shown(self) -> Iterator["Screen"]:
        """What ends a process ends it by SystemExit, Ctrl-C by KeyboardInterrupt, and Ctrl-Z gives the terminal back meanwhile."""
        saved = termios.tcgetattr(self._input) if self._input is not None else None
        self._woken, waker = socket.socketpair()
        self._woken.setblocking(False)
        waker.setblocking(False)
        handlers: dict[int, Callable[[int, FrameType | None], None]] = {
            **dict.fromkeys(_ENDING, self._terminate),
            signal.SIGWINCH: self._resize,
            signal.SIGTSTP: lambda *_: self._stop(saved),
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        wakeup = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        try:
            self._take()
            yield self
        finally:
            interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not stop what restores
            self._give_back(saved)
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.signal(signal.SIGINT, interrupt)
            self._woken.close()
            waker.close()

    def draw(self, lines: Sequence[str]) -> None:
        """Lines with their colours, as many as the terminal has at most."""
        _write(_BEGIN + "\x1b[K\n".join(lines) + "\x1b[K" + _END)

    def wait(self, seconds: float) -> str:
        """The keys that were pressed, "" for none."""
        watched = [self._woken] if self._input is None else [self._woken, self._input]
        ready = select.select(watched, [], [], seconds)[0]
        if self._woken in ready:
            self._woken.recv(4096)
        if self._input is None or self._input not in ready:
            return ""
        pressed = os.read(self._input, 64)
        if not pressed:  # its other end has gone
            raise SystemExit(0)
        return pressed.decode(errors="replace")

    def _take(self) -> None:
        if self._input is not None:
            # Keys at once and without an echo; Ctrl-C and Ctrl-Z still are signals. What was typed already counts.
            tty.setcbreak(self._input, termios.TCSADRAIN)
        _write(_ENTER)

    def _give_back(self, saved: list[object] | None) -> None:
        try:
            _write(_LEAVE)
        finally:
            if saved is not None and self._input is not None:
                termios.tcsetattr(self._input, termios.TCSADRAIN, saved)  # type: ignore[arg-type]

    def _terminate(self, number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)  # as a shell gives it

    def _resize(self, *_: object) -> None:
        """Its arrival has woken the wait."""

    def _stop(self, saved: list[object] | None) -> None:
        """Until somebody continues this process."""
        self._give_back(saved)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
