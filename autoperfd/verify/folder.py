"""Looks for files in a results folder that belong to no attempt. Follows no link; blocks; one thread."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path

from autoperfd.verify.books import Kept
from autoperfd.verify.findings import Findings

_ASIDE = re.compile(r"(?:ess|summary)\.edited-[0-9TZ-]+\.csv", re.ASCII)
_OF_ATTEMPT = re.compile(r"\.?attempt-([1-9][0-9]{0,8})(?:\.tar\.gz|\.partial|\.tar\.gz\.partial)", re.ASCII)
_EARLIER = re.compile(r"attempt-([1-9][0-9]{0,8})\.earlier(?:-[1-9][0-9]{0,8})?\.tar\.gz", re.ASCII)
_OWN = ("experiment.toml", "ess.csv", "summary.csv", "data")
_UNFINISHED = ".autoperf-new-"  # begins the names of files that were being written when the power went


def check(db: sqlite3.Connection, kept: Kept, folder: Path, findings: Findings) -> list[str]:
    """Tell of files that are nobody's. Returns the names (relative) of those that belong to no attempt."""
    strays: list[str] = []
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        findings.problem(f"the results folder {folder} cannot be read: {error.strerror}")
        return strays
    for name in names:
        if _ASIDE.fullmatch(name):
            findings.note(f"{name} is a sheet that somebody edited; it was kept aside", file=name)
        elif name.startswith(_UNFINISHED):
            findings.note(f"{name} is left of an interrupted write and may be removed", file=name)
        elif name not in _OWN:
            strays.append(name)
    data = folder / "data"
    if data.is_symlink() or (data.exists() and not data.is_dir()):
        findings.problem("data is no folder", file="data")
    elif data.is_dir():
        for test in sorted(os.listdir(data)):
            strays += _check_test(db, kept, data, test, findings)
    return strays


def _check_test(db: sqlite3.Connection, kept: Kept, data: Path, test: str, findings: Findings) -> list[str]:
    sql = "SELECT number, status, archive FROM attempts WHERE experiment = ? AND test = ?"
    rows = {row["number"]: row for row in db.execute(sql, (kept.id, os.fsencode(test).decode("utf-8", "replace")))}
    place = data / test
    if not rows or place.is_symlink() or not place.is_dir():
        return [f"data/{test}"]
    strays = []
    for name in sorted(os.listdir(place)):
        file = f"data/{test}/{name}"
        if (earlier := _EARLIER.fullmatch(name)) and int(earlier[1]) in rows:
            findings.note(f"{file} stood there before this memory made that attempt; it was kept aside", file=file)
            continue
        match = _OF_ATTEMPT.fullmatch(name)
        row = rows.get(int(match[1])) if match else None
        if row is None or (row["archive"] and file != row["archive"]):
            strays.append(file)
        elif not row["archive"] and row["status"] != "running":
            number = row["number"]
            ended = f"attempt {number}, which ended as {row['status']}; its result was not taken"
            findings.note(f"{file} is left of {ended}", file=file, test=test, attempt=number)
    return strays
