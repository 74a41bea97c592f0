"""Knows what can be said when no daemon answers: whether it is down, starts or hangs, what it did last, what to do."""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

from autoperfd.ctl.places import Places
from autoperfd.ctl.terminal import complain, print_json, print_text, wide
from autoperfd.daemon.screen import columns_of, render_silent
from autoperfd.daemon.views import StatusView, clock, duration, iso, read_snapshot, to_data

NOT_RUNNING = 3
_MOST = 16 * 1024 * 1024
_VERSION_AT = 60  # of the header of an SQLite file: what PRAGMA user_version gives, four bytes


def how_to_start(unit: str) -> str:
    """What to do about a daemon that is down; `unit` as systemctl calls it."""
    return f"Start it: `sudo systemctl start {unit}`. Why it ended: `journalctl -u {unit} -e`."


def read_when_down(state: Path) -> StatusView | None:
    """The last status the daemon of this state folder wrote down; None when there is none to be read."""
    try:
        with (state / "status.json").open("rb") as file:
            return read_snapshot(file.read(_MOST))[0]
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Silence:
    """What is said of a daemon that does not answer. `text`: the screen, "" where nothing is remembered."""

    exit: int
    text: str
    data: dict[str, object]
    message: str
    hint: str

    def tell(self, as_json: bool) -> int:
        """Print it; the exit status."""
        if as_json:
            print_json(self.data)
        elif self.text:
            print_text(self.text)
        else:
            complain(self.message, self.hint)
        return self.exit


def when_down(places: Places) -> Silence:
    """What is known where nothing listens at the socket."""
    state, unit = places.state, places.unit
    held, newer = _holder(state), _newer(state)
    if held:
        gone, hint = f"autoperfd ({held}) is starting or ending just now and does not answer yet", _starts(unit)
    elif newer:
        gone, hint = "autoperfd is not running", newer
    else:
        gone, hint = "autoperfd is not running", how_to_start(unit)
    return _silence(state, gone, hint, f"nothing answers at {places.runtime}/control.sock", NOT_RUNNING)


def when_hung(places: Places) -> Silence:
    """What is known where the daemon listens, but does not answer."""
    state, unit = places.state, places.unit
    held = _holder(state)
    hint = f"systemd restarts it when it stays silent for 30 s. Else: `sudo systemctl restart {unit}`. No test is lost."
    gone = f"autoperfd{f' ({held})' if held else ''} does not answer in time"
    return _silence(state, gone, hint, f"it listens at {places.runtime}/control.sock", 1)


def _starts(unit: str) -> str:
    return f"Ask again in a few seconds. What it is at: `journalctl -u {unit} -e`."


def _silence(state: Path, gone: str, hint: str, where: str, status: int) -> Silence:
    view = read_when_down(state)
    data: dict[str, object] = {
        "running": False,
        "written_at": iso(view.now) if view else None,
        "status": to_data(view) if view else None,
        "hint": hint,
    }
    text = ""
    if view is not None:
        ago = f"{duration(time.time() - view.now)} ago ({clock(view.now)})"
        text = render_silent(view, f"{gone}; it was last heard of {ago}.", hint, columns_of(wide()))
    nothing = f"There is no readable {state}/status.json that tells what it did last."
    return Silence(status, text, data, f"{gone}: {where}", f"{hint} {nothing}")


def _holder(state: Path) -> str:
    """The process that holds the state folder, "pid 812"; "" where none does, or where nobody may look."""
    try:
        fd = os.open(state / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.pread(fd, 200, 0).decode("ascii", "replace").split()
        return " ".join(words[:2]) if len(words) >= 2 and words[1].isdecimal() else "an unknown process"
    except OSError:  # a file system without locks
        return ""
    finally:
        os.close(fd)
    return ""


def _newer(state: Path) -> str:
    """What to do about a memory that a newer autoperfd has written; "" where that is not so, or cannot be seen."""
    from autoperfd.verify.memory import KNOWN_VERSION

    try:
        with (state / "autoperf.db").open("rb") as file:
            header = file.read(_VERSION_AT + 4)
    except OSError:
        return ""
    version = int.from_bytes(header[_VERSION_AT:])
    if not header.startswith(b"SQLite format 3\0") or version <= KNOWN_VERSION:
        return ""
    return (
        f"It cannot start: a newer autoperfd has written its memory (version {version}, this one knows up to "
        f"{KNOWN_VERSION}). Install the newer autoperfd again; nothing was changed."
    )
