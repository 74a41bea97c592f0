"""`autoperfctl report`: an experiment's results as one HTML file. Writes that file whole or not at all; one thread."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

from autoperfd.ctl import copies
from autoperfd.errors import AutoperfError
from autoperfd.results.gather import Gathered, gather

LOOKED_AT = 2048  # bytes in which a report says that it is one
EXTRA = "pip install 'autoperfd[report]', or matplotlib and jinja2 into the environment of autoperfctl"


def write(name: str, target: str, ask: copies.Ask, state: Path) -> Path:
    """Write the report of an experiment to `target`, "" for its usual name here. Raises DaemonDown, AutoperfError."""
    try:
        from autoperfd.report import page
    except ModuleNotFoundError as error:
        raise AutoperfError(f"reports need {error.name}, which is not installed", hint=EXTRA) from error
    with tempfile.TemporaryDirectory(prefix="autoperfctl-") as scratch:
        gathered = _read(name, ask, state, Path(scratch))
    path = Path(target or f"{gathered.folder}-report.html")
    _refuse_others(path, page.MARK)
    _replace(path, page.render(gathered, time.time()))
    return path


def _read(name: str, ask: copies.Ask, state: Path, scratch: Path) -> Gathered:
    copy = copies.take(ask, state, scratch)
    with closing(sqlite3.connect(copy.memory)) as db:
        db.row_factory = sqlite3.Row
        return gather(db, name)


def _refuse_others(path: Path, mark: str) -> None:
    """Only an earlier report is written over."""
    if not os.path.lexists(path):
        return
    try:
        if path.is_file():
            with path.open("rb") as file:
                if mark.encode() in file.read(LOOKED_AT):
                    return
    except OSError as error:
        raise AutoperfError(f"autoperfctl cannot look at {path}: {error.strerror}") from error
    raise AutoperfError(f"{path} is there, and it is no report", hint="Name another file: --output FILE")


def _replace(path: Path, pieces: Iterable[str]) -> None:
    try:
        fd, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        try:
            with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, no path
                file.writelines(pieces)
                os.fchmod(file.fileno(), 0o644)
            Path(partial).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(partial).unlink()
            raise
    except OSError as error:
        raise AutoperfError(f"autoperfctl cannot write {path}: {error.strerror}") from error
