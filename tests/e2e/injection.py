"""Faults in the system calls of a running daemon, by strace; each tells what it did. Test thread; blocks.

strace counts a call's `when` for each thread by itself, so one injector may strike in several threads; it is taken away
after the first. A fault that found no call to strike is told as such and does not count.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event

CALLS = {  # what one attempt's cycle does to the controller's files, and how often its busiest thread does it
    "pwrite64": 60,
    "fdatasync": 16,
    "fsync": 4,
    "renameat": 3,
    "rename": 1,
    "mkdir": 2,
    "ftruncate": 3,
    "unlinkat": 6,
    "write": 10,
    "openat": 15,
}
SLOW_SECS = 20  # of a call with the fault SLOW
FAULTS = ("SIGKILL", "ENOSPC", "EIO", "EROFS", "EDQUOT")


@dataclass(frozen=True)
class Point:
    """One fault: the `when`-th call of that name, in whichever thread comes to it first."""

    call: str
    when: int
    fault: str

    @property
    def expression(self) -> str:
        """What strace is told."""
        how = {"SIGKILL": "signal=SIGKILL", "SLOW": f"delay_enter={SLOW_SECS * 1_000_000}"}
        return f"inject={self.call}:{how.get(self.fault, f'error={self.fault}')}:when={self.when}"


def every_point() -> list[Point]:
    """All points, in an order that is random and always the same."""
    points = [
        Point(call, when, fault) for call, most in CALLS.items() for when in range(1, most + 1) for fault in FAULTS
    ]
    random.Random(83).shuffle(points)
    return points


class Injector:
    """strace on a process, until the fault has struck or `stop`."""

    def __init__(self, pid: int, point: Point) -> None:
        self.pid, self.point = pid, point
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name, "log")
        argv = ["strace", "-f", "-p", str(pid), "-o", str(self._log), "-e", f"trace={point.call}"]
        self._strace = subprocess.Popen(
            [*argv, "-e", point.expression], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def struck(self, secs: float) -> str:
        """The line of the call that was struck, "" where none was within so many seconds."""
        deadline, pause = time.monotonic() + secs, Event()
        while time.monotonic() < deadline:
            if line := self._found():
                return line
            if self._strace.poll() is not None:
                return self._found()
            pause.wait(0.02)
        return self._found()

    def _found(self) -> str:
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        if self.point.fault == "SIGKILL":
            found = re.search(r"^.*\+\+\+ killed by SIGKILL \+\+\+$", text, re.MULTILINE)
            return f"{self.point.call} number {self.point.when}: {found[0]}" if found and _gone(self.pid) else ""
        found = re.search(r"^.*\((INJECTED|DELAYED)\)$", text, re.MULTILINE)
        return found[0] if found else ""

    def stop(self) -> None:
        """Let the process go."""
        if self._strace.poll() is None:
            self._strace.send_signal(signal.SIGTERM)
        try:
            self._strace.wait(10)
        except subprocess.TimeoutExpired:
            self._strace.kill()
            self._strace.wait(10)
        self._folder.cleanup()


def _gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return True
