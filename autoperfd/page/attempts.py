"""Knows what the page tells of attempts out of a copy of the memory: a page of the ESS, chosen, and who failed where.

Pure but for the connection it is given; any thread. Never more than MOST_ROWS rows at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autoperfd.core.ess import timestamp

MOST_ROWS = 100  # of a page
MOST_PAGES = 10_000
MOST_CHOICES = 20  # of a column, the most frequent
FILTERS = ("status", "blame", "machine", "code")  # columns whose values are chosen exactly
_SHOWN = "id, test, number, started, ended, status, blame, machine, code, reason, archive"
_FAILED = "experiment = ? AND status NOT IN ('success', 'running')"  # as in the index attempts_failed
_ENDED = "experiment = ? AND closed IS NOT NULL"  # as in the index attempts_by_close


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which attempts: `values`, column -> value; those whose test holds `test`; the page, from 1."""

    values: Mapping[str, str]
    test: str = ""
    page: int = 1


@dataclass(frozen=True, slots=True)
class Rows:
    """A page of attempts, the latest first."""

    total: int
    page: int
    pages: int
    attempts: Sequence[Mapping[str, Any]]


def number_of(db: sqlite3.Connection, name: str) -> int | None:
    """The experiment of that name, None where the copy is older than it. Raises sqlite3.Error."""
    row = db.execute("SELECT id FROM experiments WHERE name = ?", (name,)).fetchone()
    return int(row["id"]) if row else None


def rows(db: sqlite3.Connection, experiment: int, chosen: Chosen) -> Rows:
    """Those rows of the ESS: attempts that have ended. Raises sqlite3.Error."""
    assert set(chosen.values) <= set(FILTERS)
    status = chosen.values.get("status")
    failed = bool(chosen.values) and status != "success"
    # Of the three indices the one that fits: "+" keeps SQLite from another.
    where, order = (_FAILED, "id") if failed else (_ENDED, "closed")
    if chosen.test and not failed:
        where = "experiment = ? AND instr(test, ?) AND +closed IS NOT NULL"
    elif chosen.test:
        where += " AND instr(test, ?)"
    values: list[object] = [experiment, *([chosen.test] if chosen.test else []), *chosen.values.values()]
    where += "".join(f" AND {column} = ?" for column in chosen.values)
    if status == "success" and len(chosen.values) == 1 and not chosen.test:
        total = _succeeded(db, experiment)
    else:
        total = db.execute(f"SELECT COUNT(*) FROM attempts WHERE {where}", values).fetchone()[0]
    pages = max(1, min(MOST_PAGES, -(-total // MOST_ROWS)))
    page = min(chosen.page, pages)
    sql = f"SELECT {_SHOWN} FROM attempts WHERE {where} ORDER BY {order} DESC LIMIT {MOST_ROWS} OFFSET ?"
    found = db.execute(sql, [*values, (page - 1) * MOST_ROWS]).fetchall()
    return Rows(total, page, pages, [_row(each) for each in found])


def _succeeded(db: sqlite3.Connection, experiment: int) -> int:
    """How many attempts did, by indices alone."""
    ended = db.execute(f"SELECT COUNT(*) FROM attempts WHERE {_ENDED}", (experiment,)).fetchone()[0]
    return int(ended - db.execute(f"SELECT COUNT(*) FROM attempts WHERE {_FAILED}", (experiment,)).fetchone()[0])


def _row(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "test": row["test"],
        "attempt": row["number"],
        "start_timestamp": timestamp(row["started"]),
        "end_timestamp": "" if row["ended"] is None else timestamp(row["ended"]),
        "end_status": row["status"],
        "blame": row["blame"],
        "machine": row["machine"],
        "code": row["code"],
        "reason": row["reason"],
        "archive": row["archive"],
    }


def choices(db: sqlite3.Connection, experiment: int) -> dict[str, list[tuple[str, int]]]:
    """column -> (value, how many attempts), of what can be chosen, the most frequent first. Raises sqlite3.Error."""
    counts: dict[str, dict[str, int]] = {column: {} for column in FILTERS}
    sql = f"SELECT {', '.join(FILTERS)}, COUNT(*) n FROM attempts WHERE %s GROUP BY {', '.join(FILTERS)}"
    failed = db.execute(sql % _FAILED, (experiment,)).fetchall()
    for row in failed:
        for column in FILTERS:
            if row[column]:
                counts[column][row[column]] = counts[column].get(row[column], 0) + row["n"]
    counts["status"]["success"] = _succeeded(db, experiment)
    return {
        column: sorted(((v, n) for v, n in found.items() if n > 0), key=lambda pair: (-pair[1], pair[0]))[:MOST_CHOICES]
        for column, found in counts.items()
    }


def by_machine(db: sqlite3.Connection, experiment: int) -> list[dict[str, Any]]:
    """machine, end_status, blame, attempts: of failed attempts, the most frequent first. Raises sqlite3.Error."""
    sql = f"""SELECT machine, status, blame, COUNT(*) n FROM attempts
        WHERE {_FAILED} AND status NOT IN ('skipped', 'no-summary')
        GROUP BY machine, status, blame ORDER BY n DESC, machine LIMIT 100"""
    return [
        {"machine": row["machine"], "end_status": row["status"], "blame": row["blame"], "attempts": row["n"]}
        for row in db.execute(sql, (experiment,))
    ]


def to_data(found: Rows) -> dict[str, Any]:
    """For a script."""
    return asdict(found)
