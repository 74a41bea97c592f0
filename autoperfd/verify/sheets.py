"""`ess.csv` and `summary.csv` written anew from the memory's rows and compared byte for byte. Streams; one thread."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from autoperfd.core.ess import ESS_COLUMNS
from autoperfd.tools.judging import FIGURES
from autoperfd.verify.books import KEPT, Kept
from autoperfd.verify.findings import Findings
from autoperfd.verify.memory import parsed
from autoperfd.verify.space import Space

SHEETS = ("ess.csv", "summary.csv")
_FORMULA = "=+-@＝＋－＠"  # characters a spreadsheet could take for the start of a formula
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:/-")


def keep(folder: Path, into: Path) -> None:
    """Copy the sheets of a results folder as they are now; what cannot be copied is left out. Raises OSError."""
    for name in SHEETS:
        (into / name).unlink(missing_ok=True)
        try:
            fd = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            continue
        with open(fd, "rb") as file, (into / name).open("wb") as kept:  # noqa: PTH123 - a descriptor, no path
            shutil.copyfileobj(file, kept, 1 << 20)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One line as it must be, and as it was before its attempt ended."""

    line: bytes
    before: bytes = b""


def check(
    db: sqlite3.Connection, kept: Kept, space: Space | None, folder: Path, findings: Findings, *, live: bool
) -> None:
    """Compare both sheets in `folder` with what they must be. `live`: the daemon keeps them up to date."""
    if not live and db.execute("SELECT 1 FROM exports WHERE experiment = ?", (kept.id,)).fetchone() is None:
        findings.note("the sheets were not written yet; the daemon does it when it starts")
        return
    _compare(folder / "ess.csv", _ess(db, kept), findings, live=live)
    if space is not None:
        _compare(folder / "summary.csv", _summary(db, kept, space.columns), findings, live=live)


def _ess(db: sqlite3.Connection, kept: Kept) -> Iterator[_Wanted]:
    yield _Wanted(_line(ESS_COLUMNS))
    for row in _closed(db, kept):
        yield _Wanted(_ess_line(row, ended=True), _ess_line(row, ended=False))
    for row in db.execute("SELECT * FROM attempts WHERE experiment = ? AND status = 'running'", (kept.id,)):
        yield _Wanted(_ess_line(row, ended=False))


def _summary(db: sqlite3.Connection, kept: Kept, settings: Sequence[str]) -> Iterator[_Wanted]:
    first = ("test_name", "attempt_number", "end_status", "start_timestamp", "end_timestamp")
    spreads = [f"{name}_{what}" for name in FIGURES if name.startswith("sub_") for what in ("mean", "min", "max")]
    yield _Wanted(_line((*first, *settings, *FIGURES, *spreads, "archive")))
    for row in _closed(db, kept):
        if row["status"] in KEPT:
            own, figures = parsed(row["settings"]) or {}, parsed(row["figures"]) or {}
            values = [own.get(key) for key in settings] + [figures.get(name) for name in FIGURES]
            for name in FIGURES:
                if name.startswith("sub_"):
                    values += _spread(figures.get(name))
            when = _time(row["started"]), _time(row["ended"])
            yield _Wanted(_line((row["test"], row["number"], row["status"], *when, *values, row["archive"])))


def _spread(listed: Any) -> list[float | int | None]:
    """Mean, least and most of one value a subscriber, "1;2.5"; nothing where one is not known."""
    parts = str("" if listed is None else listed).split(";")
    try:
        values = sorted(map(float, parts))
    except ValueError:
        return [None, None, None]
    if not all(map(math.isfinite, values)):
        return [None, None, None]
    try:
        middle = math.fsum(values) / len(values)
    except OverflowError:  # of the sum: the mean itself is never more than the most
        middle = float(sum(map(Fraction, values)) / len(values))
    found = [round(value, 4) for value in (middle, values[0], values[-1])]
    return [int(value) if value == int(value) else value for value in found]


def _closed(db: sqlite3.Connection, kept: Kept) -> Iterator[sqlite3.Row]:
    return db.execute("SELECT * FROM attempts WHERE experiment = ? AND closed IS NOT NULL ORDER BY closed", (kept.id,))


def _compare(path: Path, lines: Iterator[_Wanted], findings: Findings, *, live: bool) -> None:
    name = path.name
    try:
        file = path.open("rb")
    except OSError:
        findings.problem(f"{name} is missing, or is no regular file", file=name)
        return
    number = 0
    with file:
        for number, wanted in enumerate(lines, 1):
            found = file.read(len(wanted.line))
            if found == wanted.line:
                findings.count("lines")
                continue
            file.seek(-len(found), os.SEEK_CUR)
            rest = file.read(max(len(wanted.line), len(wanted.before)) + 1)
            behind = wanted.line.startswith(rest) or wanted.before.startswith(rest)
            if not live and behind and next(lines, None) is None:
                findings.note(f"{name} ends in line {number}; the daemon completes it when it starts", file=name)
                return
            said = f"found {_shown(found)}, by the memory it is {_shown(wanted.line)}"
            findings.problem(f"{name}, line {number}: {said}", file=name)
            return
        if file.read(1):
            findings.problem(f"{name} goes on after line {number}, where by the memory it ends", file=name)


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace").rstrip("\n")
    return repr(text if len(text) <= 160 else f"{text[:157]}...") if text else "nothing"


# ---------------------------------------------------------------- lines


def _ess_line(row: sqlite3.Row, *, ended: bool) -> bytes:
    """An attempt's line of the ESS; as it was while it ran where not `ended`."""
    settings = ";".join(f"{key}={_number(value)}" for key, value in (parsed(row["settings"]) or {}).items())
    end: dict[str, Any] = {
        "end_timestamp": _time(row["ended"]),
        "end_status": row["status"],
        "blame": row["blame"],
        "machine": row["machine"],
        "reason": ": ".join(filter(None, (row["code"], row["reason"]))),
        "archive": row["archive"],
    }
    if not ended:
        end = {**dict.fromkeys(end, ""), "end_status": "running"}
    values: Mapping[str, Any] = {
        "start_timestamp": _time(row["started"]),
        "test_name": row["test"],
        "pings_count": row["pings"],
        "ssh_check_count": row["ssh_checks"],
        "attempt_number": row["number"],
        "qos_settings": settings,
        **end,
    }
    return _line([values[column] for column in ESS_COLUMNS])


def _line(values: Sequence[Any]) -> bytes:
    cells = [_text(value) if isinstance(value, str) else _number(value) for value in values]
    return f"{','.join(cells)}\n".encode("utf-8", "surrogateescape")


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def _text(text: str) -> str:
    """Text as it stands in a sheet: nothing in it may become a formula, whatever separator a program takes."""
    if set(text) <= _PLAIN and not text.startswith("-"):
        return text
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    parts = shown.split(";")
    shown = ";".join([parts[0], *(f"'{part}" if _hides_formula(part) else part for part in parts[1:])])
    if shown.startswith("'") or shown.lstrip()[:1] in tuple(_FORMULA):
        shown = f"'{shown}"
    return '"' + shown.replace('"', '""') + '"'


def _hides_formula(part: str) -> bool:
    """Whether what follows a semicolon could be taken for a formula by a program that splits there."""
    rest = part.lstrip(" \"'")
    return "'" in part[: len(part) - len(rest)] or rest[:1] in tuple(_FORMULA)


def _time(wall: float | None) -> str:
    if wall is None:
        return ""
    at = datetime.fromtimestamp(wall, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"
