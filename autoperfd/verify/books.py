"""The rows of one experiment, added up anew: numbers, uids, verdicts, counters, queue, history. Reads; one thread."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from autoperfd.core.plan import END_STATUSES
from autoperfd.verify.findings import Findings, Unreadable
from autoperfd.verify.memory import parsed
from autoperfd.verify.space import Space, name_of, settings_of

KEPT = ("success", "no-summary")  # statuses with complete data
BLAMES = ("", "test", "machine", "network", "controller", "operator")
IMPORTED = "IMPORTED"  # code of an attempt that was read from the ESS of a copied folder
_UID = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Kept:
    """One experiment as the memory keeps it. `first`, `now`: its table as first accepted, as last dropped."""

    id: int
    name: str
    folder: str
    first: dict[str, Any]
    now: dict[str, Any]
    life: dict[str, Any]


def find(db: sqlite3.Connection, name: str) -> Kept:
    """The experiment of that name or folder. Raises Unreadable."""
    try:
        rows = db.execute("SELECT * FROM experiments ORDER BY id").fetchall()
        row = next((row for row in rows if name in (row["name"], row["folder"])), None)
        if row is None:
            known = ", ".join(str(row["name"]) for row in rows) or "none"
            raise Unreadable(f"there is no experiment {name!r}; known are: {known}")
        life = db.execute("SELECT life FROM lives WHERE experiment = ?", (row["id"],)).fetchone()
        first, now = (parsed(text) for text in json.loads(row["document"]))
        state = parsed(life["life"]) if life else None
        if state is None or first is None or now is None:
            raise ValueError("no life, or no documents")
        return Kept(row["id"], row["name"], row["folder"], first, now, state)
    except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
        raise Unreadable(f"the memory's rows of {name!r} cannot be read: {error}") from error


class Books:
    """One experiment's rows. `check` tells all that does not add up."""

    def __init__(self, db: sqlite3.Connection, kept: Kept, space: Space | None, findings: Findings) -> None:
        self._db, self._kept, self._space, self._findings = db, kept, space, findings
        self._life = kept.life

    def check(self) -> None:
        """All checks."""
        try:
            for test, rows in groupby(self._attempts(), key=lambda row: str(row["test"])):
                self._check_test(test, list(rows))
            self._check_verdicts()
            self._check_queue()
            self._check_life()
            self._check_closing()
            self._check_uids()
            self._check_surveys()
            self._check_history()
            self._check_space()
        except (sqlite3.Error, TypeError, ValueError, KeyError) as error:
            self._findings.problem(f"the memory's rows make no sense: {error!r}", file="autoperf.db")

    # ------------------------------------------------------------ reading

    def _attempts(self) -> Iterator[sqlite3.Row]:
        return self._db.execute("SELECT * FROM attempts WHERE experiment = ? ORDER BY test, number", (self._kept.id,))

    def _one(self, sql: str, *values: Any) -> Any:
        row = self._db.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def _problem(self, sentence: str, test: str = "", attempt: int = 0) -> None:
        self._findings.problem(sentence, file="autoperf.db", test=test, attempt=attempt)

    # ------------------------------------------------------------ one test

    def _check_test(self, test: str, rows: list[sqlite3.Row]) -> None:
        self._findings.count("tests")
        imported = any(row["code"] == IMPORTED for row in rows)
        numbers = [row["number"] for row in rows]
        if (numbers != list(range(1, len(rows) + 1))) if not imported else (min(numbers) < 1):
            self._problem(f"the attempts of {test} are numbered {_short(numbers)}", test)
        for row in rows:
            self._check_attempt(row)
        if self._space is not None and self._space.index(test) is None:
            self._problem(f"{test} has attempts, but is none of the experiment's tests", test)
        verdict = self._db.execute(
            "SELECT status, attempts FROM tests WHERE experiment = ? AND name = ?", (self._kept.id, test)
        ).fetchone()
        waits = self._waits(test)
        if verdict is None or verdict["status"] == "":
            if not waits and not imported:
                self._problem(f"{test} has {len(rows)} attempts, no verdict, and is not to be tried again", test)
            return
        if waits:
            self._problem(f"{test} has the verdict {verdict['status']} and is to be tried all the same", test)
        last = (rows[-1]["status"], rows[-1]["number"])
        ends = [(row["status"], row["number"]) for row in rows] if imported else [last]
        if (verdict["status"], verdict["attempts"]) not in ends:
            self._problem(
                f"{test} has the verdict {verdict['status']} after {verdict['attempts']} attempts, "
                f"but its last attempt is number {last[1]}: {last[0]}",
                test,
            )

    def _check_attempt(self, row: sqlite3.Row) -> None:
        self._findings.count("attempts")
        test, number, status = str(row["test"]), row["number"], row["status"]
        what = f"attempt {number} of {test}"
        running = status == "running"
        if not running and status not in END_STATUSES:
            self._problem(f"{what} has the unknown end status {status!r}", test, number)
        if running != (row["ended"] is None) or running != (row["closed"] is None):
            self._problem(f"{what} is {status}, but its row says otherwise of its end", test, number)
        if row["blame"] not in BLAMES or (status in (*KEPT, "running") and row["blame"]):
            self._problem(f"{what} is {status} and blamed on {row['blame']!r}", test, number)
        nameless = status == "skipped" or row["code"] == IMPORTED
        if not (_UID.fullmatch(row["uid"]) or (nameless and not row["uid"])):
            self._problem(f"{what} has the uid {row['uid']!r}", test, number)
        if bool(row["archive"]) != bool(row["sha256"]) or bool(row["archive"]) != (row["size"] > 0):
            self._problem(f"{what} does not say what its archive is", test, number)
        if status in KEPT and not row["archive"]:
            self._problem(f"{what} is a {status} without an archive", test, number)
        settings = parsed(row["settings"])
        if settings is None or settings != settings_of(test):
            self._problem(f"{what} has settings that its name does not spell", test, number)
        if parsed(row["figures"]) is None or parsed(row["evidence"]) is None:
            self._problem(f"{what} has figures or evidence that cannot be read", test, number)

    def _waits(self, test: str) -> bool:
        """Whether a test is under way or queued to be tried again."""
        if self._life.get("test") == test:
            return True
        queued = "SELECT 1 FROM requeued WHERE experiment = ? AND test = ?"
        return self._one(queued, self._kept.id, test) is not None

    # ------------------------------------------------------------ the whole experiment

    def _check_verdicts(self) -> None:
        rows = self._db.execute("SELECT * FROM tests WHERE experiment = ? ORDER BY place", (self._kept.id,))
        before = -1
        for row in rows:
            test, index = str(row["name"]), self._space.index(str(row["name"])) if self._space else None
            if self._space is not None and index is None:
                self._problem(f"{test} has a row among the tests, but is none of the experiment's tests", test)
            elif self._space is not None and self._space.ordered and row["place"] != index:
                self._problem(f"{test} is test {index} of the experiment, its row says {row['place']}", test)
            if row["place"] == before:
                self._problem(f"{test} has the place {before} of another test", test)
            before = row["place"]
            if row["status"] not in (*END_STATUSES, ""):
                self._problem(f"{test} has the unknown verdict {row['status']!r}", test)
            tried = "SELECT 1 FROM attempts WHERE experiment = ? AND test = ?"
            if self._one(tried, self._kept.id, test) is None:
                self._problem(f"{test} has a row among the tests, but was never tried", test)
            if row["status"] == "" and not self._waits(test):
                self._problem(f"{test} was put back and is not to be tried again", test)

    def _check_queue(self) -> None:
        seen: set[str] = set()
        for row in self._db.execute("SELECT * FROM requeued WHERE experiment = ? ORDER BY place", (self._kept.id,)):
            test = str(row["test"])
            if test in seen or test == self._life.get("test"):
                self._problem(f"{test} is queued twice, or queued while it is under way", test)
            seen.add(test)
            if self._space is not None and self._space.index(test) is None:
                self._problem(f"{test} is queued, but is none of the experiment's tests", test)
            self._check_budget(test, row["number"], row["charged"])

    def _check_budget(self, test: str, number: Any, charged: Any) -> None:
        where = "FROM attempts WHERE experiment = ? AND test = ?"
        last = self._one(f"SELECT MAX(number) {where}", self._kept.id, test) or 0
        guilty = self._one(f"SELECT COUNT(*) {where} AND blame = 'test'", self._kept.id, test)
        if number != last:
            self._problem(f"{test} goes on after attempt {number}, its last one is number {last}", test)
        if not 0 <= charged <= guilty:
            self._problem(f"{test} is charged {charged} attempts, {guilty} are blamed on it", test)

    def _check_life(self) -> None:
        life = self._life
        running = self._db.execute(
            "SELECT uid, test, number FROM attempts WHERE experiment = ? AND status = 'running'", (self._kept.id,)
        ).fetchall()
        known = [(life["uid"], life["test"], life["number"])] if life["uid"] else []
        if [tuple(row) for row in running] != known:
            found = ", ".join(f"{row['number']} of {row['test']}" for row in running[:3]) or "none"
            self._problem(f"of running attempts the rows show {found}, the experiment says {known or 'none'}")
        if life["test"]:
            self._check_budget(life["test"], life["number"], life["charged"])
        where = "SELECT COUNT(*) FROM tests WHERE experiment = ? AND "
        kept, skipped = ", ".join(f"'{status}'" for status in KEPT), "'skipped'"
        rows = {
            "succeeded": self._one(f"{where} status IN ({kept})", self._kept.id),
            "skipped": self._one(f"{where} status = {skipped}", self._kept.id),
            "failed": self._one(f"{where} status NOT IN ({kept}, {skipped}, '')", self._kept.id),
            "attempts": self._one(
                "SELECT COUNT(*) FROM attempts WHERE experiment = ? AND (uid <> '' OR code = ?)",
                self._kept.id,
                IMPORTED,
            ),
        }
        for word, number in rows.items():
            if life[word] != number:
                self._problem(f"the experiment counts {life[word]} {word}, its rows {number}")

    def _check_closing(self) -> None:
        count, different, last = self._db.execute(
            "SELECT COUNT(closed), COUNT(DISTINCT closed), MAX(closed) FROM attempts WHERE experiment = ?",
            (self._kept.id,),
        ).fetchone()
        if not count == different == (last or 0):
            self._problem(f"{count} attempts have ended, numbered up to {last}: the order of their ends has gaps")

    def _check_uids(self) -> None:
        twice = "SELECT uid, COUNT(*) FROM attempts WHERE uid <> '' GROUP BY uid HAVING COUNT(*) > 1"
        for uid, count in self._db.execute(twice):
            self._problem(f"{uid} is the uid of {count} attempts")

    def _check_surveys(self) -> None:
        """What was found of machines was found before an attempt, and is another thing each time."""
        rows = self._db.execute(
            """SELECT s.machine, s.attempt, s.facts, a.id FROM surveys s LEFT JOIN attempts a
            ON a.id = s.attempt AND a.experiment = s.experiment WHERE s.experiment = ? ORDER BY s.machine, s.attempt""",
            (self._kept.id,),
        )
        latest: dict[str, str] = {}
        for row in rows:
            what = f"the survey of {row['machine']} before attempt {row['attempt']} of the memory"
            if row["id"] is None:
                self._problem(f"{what} belongs to no attempt of the experiment")
            if parsed(row["facts"]) is None:
                self._problem(f"{what} cannot be read")
            if latest.get(row["machine"]) == row["facts"]:
                self._problem(f"{what} says what the one before says")
            latest[row["machine"]] = row["facts"]

    def _check_history(self) -> None:
        for before, after in pairwise(self._db.execute("SELECT id FROM history ORDER BY id")):
            if after["id"] != before["id"] + 1:
                self._problem(f"lines {before['id'] + 1} to {after['id'] - 1} of the history are missing")
        rows = self._db.execute(
            "SELECT id, wall, before, after FROM history WHERE experiment = ? ORDER BY id", (self._kept.id,)
        )
        state, step = None, None
        for row in rows:
            this = (row["wall"], row["before"], row["after"])  # a step may say something about several tests
            if state is not None and row["before"] != state and this != step:
                self._problem(f"line {row['id']} of the history begins {row['before']}, the one before ended {state}")
            state, step = row["after"], this
        if state is not None and state != self._life["state"]:
            self._problem(f"the history ends {state}, the experiment is {self._life['state']}")

    # ------------------------------------------------------------ every test, once

    def _check_space(self) -> None:
        """Every test from the first to be run up to the latest taken has one verdict, or is still to be tried."""
        life, space = self._life, self._space
        if space is None:
            return
        first, cursor = self._first(space), life["cursor"]
        finished = (life["state"], life["outcome"]) == ("idle", "finished")
        wanted = space.count(self._kept.now.get("rcg_test_count"))
        if wanted is not None and finished and cursor < wanted:
            self._problem(f"the experiment is finished, but stands at test {cursor} of {wanted}")
        if cursor > space.size:
            self._problem(f"the experiment stands at test {cursor} of {space.size}")
        if first is None:
            return
        between = "FROM tests WHERE experiment = ? AND place >= ? AND place < ?"
        places = self._one(f"SELECT COUNT(DISTINCT place) {between}", self._kept.id, first, cursor)
        placed, unplaced = self._waiting_places(space, first, cursor)
        missing = cursor - first - places - placed
        if missing > unplaced or (missing < 0 and not unplaced):
            self._problem(f"{missing} of the tests {first} to {cursor - 1} have no verdict and are not to be tried")
        if finished and (life["test"] or self._one("SELECT 1 FROM requeued WHERE experiment = ?", self._kept.id)):
            self._problem("the experiment is finished, but tests are still to be tried")

    def _waiting_places(self, space: Space, first: int, cursor: int) -> tuple[int, int]:
        """(tests to be tried that have a place below the cursor and no row among the tests, those of no known place)"""
        placed = unplaced = 0
        waiting = [str(row[0]) for row in self._db.execute(_WAITING, (self._kept.id, self._kept.id))]
        current = str(self._life["test"])
        known = "SELECT 1 FROM tests WHERE experiment = ? AND name = ?"
        if current and self._one(known, self._kept.id, current) is None:
            placed += first <= self._life["index"] < cursor
        for test in waiting:
            index = space.index(test)
            if not space.ordered:
                unplaced += 1
            elif index is not None and first <= index < cursor:
                placed += 1
        return placed, unplaced

    def _first(self, space: Space) -> int | None:
        """The place of the first test to be run; None where only the permutation would tell."""
        name = self._kept.first.get("resuming_test_name")
        if not name:
            return 0
        settings = settings_of(name) or {}
        written = name_of(settings)
        if space.ordered:
            return space.index(written)
        place = self._one("SELECT place FROM tests WHERE experiment = ? AND name = ?", self._kept.id, written)
        return place if isinstance(place, int) else None


_WAITING = """
    SELECT test FROM requeued WHERE experiment = ?
    AND test NOT IN (SELECT name FROM tests WHERE experiment = ?)
"""


def _short(numbers: list[Any]) -> str:
    shown = ", ".join(str(number) for number in numbers[:20])
    return f"{shown}, …" if len(numbers) > 20 else shown
