"""Every error this project raises on purpose, as one tree; each says who, cannot what, why, what to do.

AutoperfError
  ├─ ConfigError            a file a person wrote cannot be used; carries every problem at once
  ├─ StoreError             the daemon's memory (SQLite) cannot be opened, read or written
  │    └─ NewerMemory       written by a newer autoperfd
  ├─ AlreadyRunning         another daemon holds the lock
  ├─ DaemonDown             autoperfctl found no daemon at the control socket
  ├─ DaemonHangs            a daemon listens there and does not answer in time
  ├─ Refused                a command was understood and refused, with the reason
  ├─ DiskError              results cannot be written
  ├─ Cancelled              the caller asked a blocking call to stop, and it did
  ├─ HalfStarted            a restart found only some machines of an attempt started; all were ended
  └─ MachineError           something about one machine; carries its name
       ├─ MachineAway       it does not answer (ping, TCP, SSH or in mid-command): may pass by itself
       ├─ MachineImpossible every test would fail there until a person changes something
       ├─ MachineTaken      another installation's attempt runs there
       ├─ StartFailed       an attempt could not be started there, though it answers
       └─ FetchFailed       a result file could not be brought over whole
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

DISK_CODES = {
    errno.ENOSPC: "DISK_FULL",
    errno.EDQUOT: "DISK_FULL",
    errno.EIO: "DISK_IO",
    errno.EROFS: "DISK_READONLY",
    errno.EMFILE: "NO_DESCRIPTORS",
    errno.ENFILE: "NO_DESCRIPTORS",
}
"""What the system said, and the code people are told."""


class AutoperfError(Exception):
    """Base of all errors raised on purpose. `hint` says what to do, in one sentence."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def sentence(self) -> str:
        """The message and, where there is one, the hint, as one line for a person."""
        return f"{self.message}. {self.hint}" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a file a person wrote."""

    file: str
    line: int  # 1-based; 0: not known
    key: str  # dotted, e.g. experiments[0].qos_settings.datalen_bytes
    found: str
    expected: str
    suggestion: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        text = f"{where}: {self.key}: found {self.found}, expected {self.expected}"
        return f"{text}; {self.suggestion}" if self.suggestion else text


class ConfigError(AutoperfError):
    """A file a person wrote cannot be used; `problems` holds all of them, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class StoreError(AutoperfError):
    """The daemon's memory cannot be opened, read or written."""


class NewerMemory(StoreError):
    """The memory was written by a newer autoperfd; nothing is changed."""


class OlderMemory(StoreError):
    """The results tell of attempts that the memory knows nothing of; nothing is changed."""


class AlreadyRunning(AutoperfError):
    """Another daemon holds the lock of the state folder."""


class DaemonDown(AutoperfError):
    """There is no daemon behind the control socket."""


class DaemonHangs(AutoperfError):
    """A daemon listens at the control socket and does not answer in time."""


class Refused(AutoperfError):
    """A command was understood and refused."""


class DiskError(AutoperfError):
    """Results or exports cannot be written. `code`: one of DISK_CODES, RESULTS_MISSING or CANNOT_WRITE."""

    def __init__(self, message: str, *, hint: str = "", code: str = "CANNOT_WRITE") -> None:
        super().__init__(message, hint=hint)
        self.code = code

    @classmethod
    def of(cls, what: str, error: OSError) -> DiskError:
        """The error for something that the system refused, with a code and a hint of its kind."""
        code = DISK_CODES.get(error.errno or 0, "CANNOT_WRITE")
        hints = {
            "DISK_FULL": "Make room on that disk",
            "DISK_READONLY": "Mount it read-write again",
            "NO_DESCRIPTORS": "Raise LimitNOFILE= of autoperfd.service, or end what holds so many files open",
        }
        return cls(f"{what}: {error.strerror or error}", hint=hints.get(code, "Look at the disk"), code=code)


class Cancelled(AutoperfError):
    """The caller asked a blocking call to stop, and it did."""


class HalfStarted(AutoperfError):
    """Only some machines of an attempt had been started when it was found again; all of it was ended."""


class MachineError(AutoperfError):
    """Something about one machine. `machine` is its name in the experiment, `code` a stable short reason."""

    pings: int = 0  # sent so far when a validation gave up; 0 elsewhere
    ssh_checks: int = 0
    others: tuple[MachineError, ...] = ()  # what went wrong on further machines in the same call

    def __init__(self, machine: str, message: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(f"{machine}: {message}", hint=hint)
        self.machine = machine
        self.code = code


class MachineAway(MachineError):
    """The machine does not answer; it may come back by itself."""


class MachineImpossible(MachineError):
    """Every test would fail on this machine until a person changes something."""


class MachineTaken(MachineError):
    """An attempt of another installation runs on this machine."""


class StartFailed(MachineError):
    """An attempt could not be started on a machine that answers."""


class FetchFailed(MachineError):
    """A result file could not be brought over whole, though the machine answers."""
