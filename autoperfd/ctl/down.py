"""Knows what can be said when no daemon answers: what it wrote down last, for how long it is silent, what to do."""

from __future__ import annotations

import time
from pathlib import Path

from autoperfd.ctl.terminal import complain, print_json, print_text
from autoperfd.daemon.views import StatusView, iso, read_snapshot, render_down, to_data

NOT_RUNNING = 3
START = "Start it: `sudo systemctl start autoperfd`. Why it ended: `journalctl -u autoperfd -e`."
_MOST = 16 * 1024 * 1024


def read_when_down(state: Path) -> StatusView | None:
    """The last status the daemon of this state folder wrote down; None when there is none to be read."""
    try:
        with (state / "status.json").open("rb") as file:
            return read_snapshot(file.read(_MOST))[0]
    except (OSError, ValueError):
        return None


def status_when_down(runtime: Path, state: Path, as_json: bool) -> int:
    """Print what is known without a daemon; returns the exit status for it."""
    view = read_when_down(state)
    if as_json:
        known = to_data(view) if view else None
        written_at = iso(view.now) if view else None
        print_json({"running": False, "written_at": written_at, "status": known, "hint": START})
    elif view is not None:
        print_text(render_down(view, view.now, time.time(), START))
    else:
        complain(
            f"autoperfd is not running: nothing answers at {runtime}/control.sock",
            f"{START} There is no readable {state}/status.json that tells what it did last.",
        )
    return NOT_RUNNING
