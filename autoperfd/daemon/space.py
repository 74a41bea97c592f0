"""Measures what the controller has left, and keeps a reserve file so that a halt for a full disk can be written down.

Any thread may measure; the reserve is the engine thread's.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

RESERVE_BYTES = 1 << 20
DESCRIPTORS = 16
FEW_INODES = 200  # an attempt needs a handful; the memory's journal and the exports need some more


@dataclass(frozen=True, slots=True)
class Space:
    """What is left on the disk, and of descriptors."""

    free: int  # bytes
    inodes: int | None = None  # how many files it can take; None where the file system sets no limit
    files: bool = True  # whether this process can open as many as the end of an attempt needs


def measure(folder: Path) -> Space:
    """The space an ordinary process may use. Raises OSError."""
    found = os.statvfs(folder)
    return Space(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None, _can_open())


def _can_open() -> bool:
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(DESCRIPTORS):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return False
    return True


class Reserve:
    """A file whose blocks are given up when nothing else is left."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "reserve"

    def keep(self) -> None:
        """Make the file where it is not there; a disk that cannot take it goes without."""
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if os.fstat(fd).st_size < RESERVE_BYTES:
                    os.posix_fallocate(fd, 0, RESERVE_BYTES)
            except OSError:
                os.ftruncate(fd, 0)
            finally:
                os.close(fd)

    def give_up(self) -> None:
        """Let its blocks go."""
        with contextlib.suppress(OSError):
            os.truncate(self._path, 0)
