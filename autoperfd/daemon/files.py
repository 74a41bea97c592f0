"""Writes files so that a crash or a power cut leaves the old or the new content, never a mixture.

One way for all: write everything, fsync, rename, fsync the folder. An fsync that failed is never tried again on
the same descriptor (the kernel may forget the error and the data with it). Failures are DiskError. Any thread.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from autoperfd.errors import DiskError

TEMPORARY = ".autoperf-new-"  # begins the names of files that are not complete; see `remove_leftovers`


def write_all(fd: int, data: bytes) -> None:
    """Write every byte: one write() may take less than it was given. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def replace(path: Path, data: bytes | Iterable[bytes], mode: int = 0o640) -> None:
    """Give `path` this content, atomically and durably. Raises DiskError; the old content stays then."""
    try:
        folder = open_folder(path.parent)
    except OSError as error:
        raise DiskError.of(f"cannot write {path}", error) from error
    try:
        replace_in(folder, path.name, data, mode)
    finally:
        os.close(folder)


def replace_in(folder: int, name: str, data: bytes | Iterable[bytes], mode: int = 0o640) -> None:
    """The same in a folder given as descriptor, so that nobody can put another folder in its place meanwhile."""
    temporary = TEMPORARY + secrets.token_hex(8)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            for part in (data,) if isinstance(data, bytes) else data:
                write_all(fd, part)
            os.fchmod(fd, mode)  # the umask of the unit must not decide who may read it
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise DiskError.of(f"cannot write {name}", error) from error


def make_folder(path: Path, mode: int = 0o750, *, within: Path | None = None) -> None:
    """Make a folder and those above it, durably; fine where it is there. Raises DiskError.

    Those above may be made below `within` only, which must be there: if it is gone, nothing hides that.
    Each is durable before the next is made, so of those that are there only the last can be one that a process made
    which was killed before it had synced it.
    """
    missing, above = [], path
    try:
        while above != within and not above.is_dir():
            missing.append(above)
            above = above.parent
        sync_folder(above.parent)
        for folder in reversed(missing):
            folder.mkdir(mode, exist_ok=True)
            sync_folder(folder.parent)
    except OSError as error:
        raise DiskError.of(f"cannot make the folder {path}", error) from error


def move_in(source: int, name: str, target: int, new: str) -> None:
    """Rename a file from one folder to another, durably: it is never in neither. Raises OSError.

    Between file systems it is a copy, durable before the file goes; the copy is ours, whoever the file's owner was.
    """
    try:
        os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
        os.fsync(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_in(source, name, target, new)
        os.unlink(name, dir_fd=source)
    os.fsync(source)


def _copy_in(source: int, name: str, target: int, new: str) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EXDEV, "it lies on another file system and is no regular file")
        parts = iter(lambda: os.read(fd, 1 << 18), b"")
        try:
            replace_in(target, new, parts, stat.S_IMODE(found.st_mode))
        except DiskError as error:
            raise OSError(errno.EIO, error.sentence()) from error
    finally:
        os.close(fd)


def open_folder(path: Path) -> int:
    """A descriptor of a folder that really is one; a link in its place is refused. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable. Raises DiskError."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise DiskError.of(f"cannot make {path} durable", error) from error


def remove_leftovers(folder: int) -> None:
    """Remove what interrupted replacements left in a folder. Raises OSError where it cannot be read."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(TEMPORARY)]
    for name in names:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)


def remove_leftovers_of(path: Path) -> None:
    """The same by path; a folder that is not there or cannot be read has none."""
    with suppress(OSError):
        folder = open_folder(path)
        try:
            remove_leftovers(folder)
        finally:
            os.close(folder)
