"""Knows what the places and the unit of one of several daemons on a computer are called. Pure; any thread.

The first daemon has no name; another one, "north", is the unit autoperfd@north and has /etc/autoperf@north,
/var/lib/autoperf@north and /run/autoperf@north.
"""

from __future__ import annotations

import re
from pathlib import Path

from autoperfd.errors import AutoperfError

ENVIRONMENT = "AUTOPERF_INSTANCE"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}", re.ASCII)  # the account's and a socket's path stay short enough


def checked(name: str) -> str:
    """The name of an instance as it was given, "" for the first. AutoperfError when it is none."""
    if name and not _NAME.fullmatch(name):
        raise AutoperfError(
            f"{name!r} is not the name of an instance",
            hint="Up to 31 letters, digits, '_', '.' and '-', as in the unit's name: autoperfd@NAME",
        )
    return name


def place(path: Path, name: str) -> Path:
    """Where an instance has what the first daemon has at `path`, "/etc/autoperf/keys" for example."""
    return Path(re.sub(r"/autoperf(?=/|$)", lambda found: f"{found[0]}@{name}", str(path), count=1)) if name else path


def unit(name: str) -> str:
    """What systemctl and journalctl call it."""
    return f"autoperfd@{name}" if name else "autoperfd"
