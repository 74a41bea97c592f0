"""Copies of the memory for others to read while the daemon holds the original. Engine thread makes, main tidies.

They lie in `copies/` of the state folder, readable for the daemon's group, the newest one only, and not for long.
A copy is made between two commits, so it is whole by itself.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from autoperfd.daemon import files
from autoperfd.daemon.store import Store
from autoperfd.errors import DiskError, Refused

KEPT_SECS = 600.0


def make(memory: Store, state: Path, reserve: int) -> Path:
    """A fresh copy; older ones go. `reserve`: bytes that must stay free. Raises Refused, DiskError, StoreError."""
    folder = state / "copies"
    files.make_folder(folder)
    clear(state)
    needed, free = memory.size() + reserve, shutil.disk_usage(folder).free
    if free < needed:
        raise Refused(
            f"a copy of the memory needs {needed >> 20} MB free in {state}, there are {free >> 20} MB",
            hint="Make room, or stop the daemon and ask again: then its memory is read where it is",
        )
    path = folder / f"memory-{secrets.token_hex(8)}.db"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        os.fchmod(fd, 0o640)
        os.close(fd)
        memory.copy_to(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise DiskError(f"cannot copy the memory to {path}: {error.strerror}", hint="look at the disk") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def clear(state: Path, older_than: float = 0.0) -> None:
    """Remove copies, those that are older than so many seconds (or of the future, where a clock was set back)."""
    now = time.time()
    for path in _copies(state):
        with contextlib.suppress(OSError):
            if not older_than or not 0.0 <= now - path.lstat().st_mtime <= older_than:
                path.unlink()


def _copies(state: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (state / "copies").iterdir()
