"""Lets the writes of a running process be short, for real: the kernel is told to write half of what was asked for.

strace can only lie about a result. This makes the third argument smaller where the call enters the kernel, so bytes and
result agree, as on a full disk, a signal or a quota. `python -m tests.e2e.shortening PID FOLDER [PATTERN]` says
`ready`, then a line for each short write to a file below the folder: call, asked, written, path. With a pattern the
process is killed right behind the first short write to a file whose path matches. When this ends, by whatever, the
process goes on untouched. `Shortener` runs it for a test. One thread each.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TextIO

from autoperfd.lab.machines import until

CONT_SYSCALL, GETREGSET, SETREGSET, SEIZE, INTERRUPT, LISTEN, SYSCALL_INFO = (
    24,
    0x4204,
    0x4205,
    0x4206,
    0x4207,
    0x4208,
    0x420E,
)
EVENT_STOP, SYSGOOD, TRACECLONE = 128, 1, 8
NT_PRSTATUS = 1
ENTRY, EXIT = 1, 2  # what PTRACE_GET_SYSCALL_INFO says of a stop
CALLS = {  # by machine: the calls that write, and which register (of 8 bytes) holds their third argument
    "x86_64": (
        {1: "write", 18: "pwrite64"},
        {20: "writev", 40: "sendfile", 296: "pwritev", 326: "copy_file_range"},
        12,
    ),
    "aarch64": (
        {64: "write", 68: "pwrite64"},
        {66: "writev", 71: "sendfile", 70: "pwritev", 285: "copy_file_range"},
        2,
    ),
}
HALVED, UNKNOWN, COUNT_REGISTER = CALLS.get(platform.machine(), ({}, {}, 0))


class _Info(ctypes.Structure):
    """struct ptrace_syscall_info: `values` are number and arguments at the entry, result and is_error at the exit."""

    _fields_ = [
        ("op", ctypes.c_uint8),
        ("arch", ctypes.c_uint32),
        ("pointers", ctypes.c_uint64 * 2),
        ("values", ctypes.c_int64 * 7),
    ]


class _Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, thread: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, thread, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace({request:#x}, {thread}): {os.strerror(number)}")


class Tracer:
    """All threads of a process, held at each of their system calls."""

    def __init__(self, pid: int, folder: str, kill_at: re.Pattern[str] | None, out: TextIO) -> None:
        self.pid, self.folder, self.kill_at, self.out = pid, f"{folder}/", kill_at, out
        self.asked: dict[int, tuple[str, int, str]] = {}  # thread -> (call, bytes, path) of a write on its way
        seized: set[int] = set()
        while fresh := {int(name) for name in os.listdir(f"/proc/{pid}/task")} - seized:
            for thread in fresh:
                with suppress(ProcessLookupError):
                    _ptrace(SEIZE, thread, 0, SYSGOOD | TRACECLONE)
                    _ptrace(INTERRUPT, thread)
            seized |= fresh

    def run(self) -> None:
        """Until no thread is left."""
        while True:
            try:
                thread, status = os.waitpid(-1, 0x40000000)  # __WALL: threads too
            except ChildProcessError:
                return
            if os.WIFSTOPPED(status):
                with suppress(ProcessLookupError):  # killed meanwhile
                    self._go_on(thread, status)

    def _go_on(self, thread: int, status: int) -> None:
        sign, event = os.WSTOPSIG(status), status >> 16
        if sign == signal.SIGTRAP | 0x80:
            self._look(thread)
            sign = 0
        elif event == EVENT_STOP and sign in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
            _ptrace(LISTEN, thread)
            return
        elif event:
            sign = 0
        _ptrace(CONT_SYSCALL, thread, 0, sign)

    def _look(self, thread: int) -> None:
        info = _Info()
        _ptrace(SYSCALL_INFO, thread, ctypes.sizeof(info), ctypes.addressof(info))
        if info.op == ENTRY:
            self._enter(thread, *info.values[:4])
        elif info.op == EXIT and thread in self.asked:
            call, asked, path = self.asked.pop(thread)
            if not 0 < info.values[0] < asked:
                return
            print(call, asked, info.values[0], path, file=self.out, flush=True)
            if self.kill_at and self.kill_at.search(path):
                os.kill(self.pid, signal.SIGKILL)
                self.kill_at = None

    def _enter(self, thread: int, number: int, fd: int, _: int, size: int) -> None:
        if number not in HALVED and number not in UNKNOWN:
            return
        with suppress(OSError):
            path = os.readlink(f"/proc/{self.pid}/fd/{fd & 0xFFFFFFFF}")
            if not path.startswith(self.folder):
                return
            if number in UNKNOWN:
                print(UNKNOWN[number], 0, 0, path, file=self.out, flush=True)
            elif size > 1:
                self._change(thread, size // 2)
                self.asked[thread] = HALVED[number], size, path

    def _change(self, thread: int, size: int) -> None:
        registers = (ctypes.c_uint64 * 64)()
        vector = _Vector(ctypes.addressof(registers), ctypes.sizeof(registers))
        _ptrace(GETREGSET, thread, NT_PRSTATUS, ctypes.addressof(vector))
        registers[COUNT_REGISTER] = size
        _ptrace(SETREGSET, thread, NT_PRSTATUS, ctypes.addressof(vector))


@dataclass(frozen=True, slots=True)
class Short:
    """One write that took less than it was given; asked = 0 for a call that cannot be made short here."""

    call: str
    asked: int
    written: int
    path: str


class Shortener:
    """Halves every write of a process to files below a folder, until `stop` or its end; to be closed by `with`."""

    def __init__(self, pid: int, folder: Path, kill_at: str = "") -> None:
        argv = [sys.executable, "-m", "tests.e2e.shortening", str(pid), str(folder), kill_at]
        self._folder = tempfile.TemporaryDirectory()
        self._said = Path(self._folder.name, "said")  # a pipe that nobody reads would hold up the process
        with self._said.open("w") as said:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said)
        until(lambda: self._lines()[:1] == ["ready"], "the process could not be traced", 20)

    def _lines(self) -> list[str]:
        return self._said.read_text().splitlines()

    def stop(self) -> list[Short]:
        """Let the process go on untouched, and tell what was short."""
        self._process.terminate()
        return self.wait()

    def wait(self) -> list[Short]:
        """The same once the process has ended by itself."""
        self._process.wait(10)
        found = [line.split(" ", 3) for line in self._lines()[1:]]
        return [Short(call, int(asked), int(written), path) for call, asked, written, path in found]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        self._folder.cleanup()


if __name__ == "__main__":
    tracer = Tracer(int(sys.argv[1]), sys.argv[2], re.compile(sys.argv[3]) if sys.argv[3] else None, sys.stdout)
    print("ready", flush=True)
    tracer.run()
