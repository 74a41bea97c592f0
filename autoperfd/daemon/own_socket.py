"""Knows how a Unix socket of ours comes to lie at its path: whole, with its mode and group from the first moment on.

Any thread.
"""

from __future__ import annotations

import grp
import logging
import os
import socket
import stat
from pathlib import Path

OPERATORS = "autoperf"  # the group whose members may command, and look

Inode = tuple[int, int]
log = logging.getLogger(__name__)


def bound(path: Path, group: int | None, backlog: int) -> tuple[socket.socket, Inode | None]:
    """A socket that listens at `path`, mode 0660, and what tells it from others there. Raises OSError.

    It is bound beside the path and renamed over it. Where `group` is none of ours, only our own user may use it.
    """
    fresh = path.with_name(f".{path.name}")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(fresh))
        _give_to_group(fresh, group)
        fresh.chmod(0o660)
        listener.listen(backlog)
        found = inode(fresh)
        fresh.replace(path)
    except OSError:
        listener.close()
        raise
    return listener, found


def _give_to_group(fresh: Path, group: int | None) -> None:
    if group is None or fresh.stat().st_gid == group:
        return
    try:
        os.chown(fresh, -1, group)
    except PermissionError:
        log.warning("%s: only our own user can use it: we are not in group %d", fresh.parent, group)


def group_id(name: str) -> int | None:
    """The number of a group; None where there is none of that name."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def inode(path: Path) -> Inode | None:
    """What tells the socket at a path from another one; None where there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISSOCK(status.st_mode) else None
