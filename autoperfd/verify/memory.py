"""Reads a copy of the daemon's memory: is it whole, is every row what its checksum says. Read-only; one thread."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from autoperfd.daemon.store import MIGRATIONS, SCHEMA_VERSION
from autoperfd.verify.findings import Findings, Unreadable

KNOWN_VERSION: int = SCHEMA_VERSION

NUMBERED_BY_SQLITE = ("attempts", "requeued", "history")
"""Tables whose `id` SQLite gives; it has no part in a row's checksum."""

UNREADABLE = (sqlite3.Error, UnicodeDecodeError)  # SQLite's message quotes what it found, which may be no text
_MOST_DAMAGE = 20  # sentences of SQLite's own check


def open_copy(path: Path) -> sqlite3.Connection:
    """The copy, never to be written. Raises Unreadable where it is none of a memory this version knows."""
    db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
    db.row_factory = sqlite3.Row
    db.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
    except UNREADABLE as error:
        db.close()
        raise Unreadable(f"the memory cannot be read: {error}") from error
    if version != SCHEMA_VERSION:
        db.close()
        newer = "a newer autoperfd wrote it" if version > SCHEMA_VERSION else "the daemon brings it up to date at start"
        raise Unreadable(f"the memory is of version {version}, this program knows version {SCHEMA_VERSION}: {newer}")
    return db


def check(db: sqlite3.Connection, findings: Findings) -> None:
    """The file, its tables and every row's checksum."""
    wanted = sqlite3.connect(":memory:")
    try:
        for migration in MIGRATIONS:
            wanted.executescript(migration)
        for (sentence,) in db.execute(f"PRAGMA integrity_check({_MOST_DAMAGE})"):
            if sentence != "ok":
                findings.problem(f"the memory is damaged: {' '.join(str(sentence).split())}", file="autoperf.db")
        listed = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
        if [tuple(row) for row in db.execute(listed)] != wanted.execute(listed).fetchall():
            findings.problem("the memory's tables are not those of its version", file="autoperf.db")
        names = [name for (name,) in wanted.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {name: [row[1] for row in wanted.execute(f"PRAGMA table_info({name})")] for name in names}
    except UNREADABLE as error:
        findings.problem(f"the memory is damaged: {error}", file="autoperf.db")
        return
    finally:
        wanted.close()
    for name in names:
        try:
            _check_table(db, name, columns[name], findings)
        except UNREADABLE as error:
            findings.problem(f"the memory's table {name} cannot be read: {error}", file="autoperf.db")


def _check_table(db: sqlite3.Connection, table: str, columns: list[str], findings: Findings) -> None:
    summed = [c for c in columns if c != "sum" and not (c == "id" and table in NUMBERED_BY_SQLITE)]
    for row in db.execute(f"SELECT {', '.join(columns)} FROM {table} NOT INDEXED"):
        findings.count("rows")
        if _sum([row[column] for column in summed]) != row["sum"]:
            _blame_row(table, row, findings)


def _blame_row(table: str, row: sqlite3.Row, findings: Findings) -> None:
    keys = row.keys()
    test = str(row["test"]) if "test" in keys else str(row["name"]) if table == "tests" else ""
    number = row["number"] if table == "attempts" and isinstance(row["number"], int) else 0
    what = f"the row of attempt {number} of {test}" if number else f"a row of {test}" if test else f"row {row[0]!r}"
    findings.problem(
        f"the memory's table {table}: {what} does not match its checksum",
        file="autoperf.db",
        test=test,
        attempt=number,
    )


def _sum(values: list[Any]) -> str:
    """The checksum of a row: blake2b, 8 bytes, of its values as a compact JSON list, whole numbers as integers."""
    plain = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
    try:
        text = json.dumps(plain, separators=(",", ":"))
    except (TypeError, ValueError):  # bytes: SQLite gives them where a flipped bit made a text one
        return ""
    return hashlib.blake2b(text.encode("ascii"), digest_size=8).hexdigest()


def parsed(text: object) -> dict[str, Any] | None:
    """A JSON object of the memory or an archive; None where it is none."""
    try:
        value = json.loads(text) if isinstance(text, str | bytes) else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
