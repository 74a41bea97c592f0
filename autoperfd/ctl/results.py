"""`autoperfctl results`: where an experiment's results lie, and its latest figures as a table. Reads files only."""

from __future__ import annotations

import csv
import os
import sqlite3
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from autoperfd.ctl import copies
from autoperfd.daemon.views import count, escaped
from autoperfd.errors import AutoperfError, DaemonDown

SHOWN = 20  # rows of the table: the latest
MOST_BYTES = 256 << 20

# (column of summary.csv, title, decimals)
FIGURES = (
    ("latency_mean_us", "MEAN us", 1),
    ("latency_99_us", "99 % us", 1),
    ("total_samples_per_s", "SAMPLES/s", 0),
    ("total_mbps", "MBIT/s", 2),
    ("total_lost_percent", "LOST %", 3),
)


@dataclass(frozen=True, slots=True)
class Results:
    """What lies in a results folder. `rows`: the latest of `kept` rows of summary.csv, as they stand there."""

    experiment: str
    folder: Path
    attempts: int  # rows of ess.csv
    kept: int
    rows: tuple[dict[str, str], ...]


def read(name: str, ask: copies.Ask, state: Path, scratch: Path) -> Results:
    """Find and read an experiment's results. Raises DaemonDown, AutoperfError."""
    known, folder = _place(name, ask, state, scratch)
    rows: deque[dict[str, str]] = deque(maxlen=SHOWN)
    kept = 0
    for row in _rows(folder / "summary.csv"):
        kept += 1
        rows.append(row)
    return Results(known, folder, sum(1 for _ in _rows(folder / "ess.csv")), kept, tuple(rows))


def report(results: Results) -> str:
    """The results as text for a person."""
    folder = results.folder
    lines = [
        f"{results.experiment}: {folder}",
        f"  ess.csv      {count(results.attempts, 'attempt')}",
        f"  summary.csv  {count(results.kept, 'test')} with complete data",
        "  data/        an archive an attempt: what was started, what was printed, what was measured",
    ]
    if results.rows:
        few = f", the latest {len(results.rows)}" if results.kept > len(results.rows) else ""
        table = [("TEST", *(title for _, title, _ in FIGURES))]
        table += [(row.get("test_name", ""), *(_figure(row, *figure) for figure in FIGURES)) for row in results.rows]
        widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
        lines += ["", f"Figures{few} (latency one way; throughput of all subscribers):"]
        for first, *others in table:
            cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
            lines.append("  ".join(cells).rstrip())
    return "".join(f"{escaped(line)}\n" for line in lines)


def facts(results: Results) -> dict[str, object]:
    """The same for a script."""
    return {
        "experiment": results.experiment,
        "folder": str(results.folder),
        "attempts": results.attempts,
        "kept": results.kept,
        "rows": [dict(row) for row in results.rows],
    }


def _place(name: str, ask: copies.Ask, state: Path, scratch: Path) -> tuple[str, Path]:
    """The experiment's name and its results folder."""
    try:
        data = ask("show", {"experiment": name}).get("data")
        shown = data if isinstance(data, dict) else {}
        return str(shown["experiment"]["name"]), Path(str(shown["folder"]))
    except DaemonDown as error:
        down = error
    copy = copies.take_from_folder(down, state, scratch)
    try:
        with closing(sqlite3.connect(copy.memory)) as db:
            known = db.execute("SELECT name, folder FROM experiments ORDER BY id").fetchall()
    except sqlite3.Error as error:
        raise AutoperfError(f"the memory cannot be read: {error}") from error
    for own, folder in known:
        if name in (own, folder):
            return own, copy.results / folder
    names = ", ".join(own for own, _ in known) or "none"
    raise AutoperfError(f"there is no experiment {name!r}", hint=f"Known are: {names}")


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
            os.close(fd)
            raise AutoperfError(f"{path} is no spreadsheet of ours", hint=_DOUBT)
        with open(fd, newline="", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - a descriptor, no path
            for row in csv.DictReader(file):
                yield {str(key): value for key, value in row.items() if isinstance(value, str)}
    except OSError as error:
        raise AutoperfError(f"cannot read {path}: {error.strerror}", hint=_DOUBT) from error
    except csv.Error as error:
        raise AutoperfError(f"{path} is damaged: {error}", hint=_DOUBT) from error


_DOUBT = "`autoperfctl verify` tells whether it is as it should be; results are readable for root and group autoperf"


def _figure(row: dict[str, str], column: str, title: str, decimals: int) -> str:
    try:
        return f"{float(row[column]):.{decimals}f}"
    except (ValueError, KeyError):
        return "-"
