"""`autoperfctl report`: an experiment's results as one HTML file. Writes that file whole or not at all; one thread."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from autoperfd.ctl import copies, output
from autoperfd.errors import AutoperfError
from autoperfd.results.gather import Gathered, gather

EXTRA = "sudo make install EXTRAS=report, or pip install matplotlib jinja2 where autoperfctl is installed"


def write(name: str, target: str, ask: copies.Ask, state: Path) -> Path:
    """Write the report of an experiment to `target`, "" for its usual name here. Raises DaemonDown, AutoperfError."""
    try:
        from autoperfd.report import page
    except ModuleNotFoundError as error:
        raise AutoperfError(f"reports need {error.name}, which is not installed", hint=EXTRA) from error
    with tempfile.TemporaryDirectory(prefix="autoperfctl-") as scratch:
        gathered = _read(name, ask, state, Path(scratch))
    path = Path(target or f"{gathered.folder}-report.html")
    pieces = page.render(gathered, time.time())
    mark = page.MARK.encode()
    output.write(path, "report", lambda start: mark in start, lambda file: file.writelines(p.encode() for p in pieces))
    return path


def _read(name: str, ask: copies.Ask, state: Path, scratch: Path) -> Gathered:
    copy = copies.take(ask, state, scratch)
    with closing(sqlite3.connect(copy.memory)) as db:
        db.row_factory = sqlite3.Row
        return gather(db, name)
