"""The daemon's memory: one SQLite file, written by the engine thread only; every commit is durable when it returns.

Rows carry a checksum, the schema has numbered migrations (PRAGMA user_version), and a file written by a newer
autoperfd is refused unchanged. The rest of the daemon knows `open_store`, `Store.load`, `Store.commit` and a few
reads. Times are Unix seconds UTC.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import autoperfd
from autoperfd.core import messages as m
from autoperfd.core.plan import Plan
from autoperfd.core.survey import Survey, lasting
from autoperfd.daemon import files, place
from autoperfd.errors import AlreadyRunning, NewerMemory, StoreError

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL, sum TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE experiments(
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, folder TEXT NOT NULL UNIQUE, identity TEXT NOT NULL,
        document TEXT NOT NULL, seed INTEGER, owner INTEGER NOT NULL, accepted REAL NOT NULL,
        sum TEXT NOT NULL);
    CREATE TABLE lives(experiment INTEGER PRIMARY KEY, life TEXT NOT NULL, sum TEXT NOT NULL);
    CREATE TABLE exports(experiment INTEGER PRIMARY KEY, state TEXT NOT NULL, sum TEXT NOT NULL);
    CREATE TABLE tests(
        experiment INTEGER NOT NULL, name TEXT NOT NULL, place INTEGER NOT NULL, status TEXT NOT NULL,
        attempts INTEGER NOT NULL, decided REAL NOT NULL, sum TEXT NOT NULL,
        PRIMARY KEY(experiment, name)) WITHOUT ROWID;
    CREATE INDEX tests_by_place ON tests(experiment, place);
    CREATE TABLE attempts(
        id INTEGER PRIMARY KEY, experiment INTEGER NOT NULL, test TEXT NOT NULL, number INTEGER NOT NULL,
        uid TEXT NOT NULL, started REAL NOT NULL, ended REAL, status TEXT NOT NULL, blame TEXT NOT NULL,
        machine TEXT NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL, pings INTEGER NOT NULL,
        ssh_checks INTEGER NOT NULL, settings TEXT NOT NULL, archive TEXT NOT NULL, sha256 TEXT NOT NULL,
        size INTEGER NOT NULL, figures TEXT NOT NULL, evidence TEXT NOT NULL, plan TEXT NOT NULL,
        facts TEXT NOT NULL, closed INTEGER, sum TEXT NOT NULL);
    CREATE UNIQUE INDEX attempts_by_test ON attempts(experiment, test, number);
    CREATE UNIQUE INDEX attempts_by_close ON attempts(experiment, closed) WHERE closed IS NOT NULL;
    CREATE INDEX attempts_failed ON attempts(experiment, id) WHERE status NOT IN ('success', 'running');
    CREATE TABLE requeued(
        id INTEGER PRIMARY KEY, experiment INTEGER NOT NULL, place REAL NOT NULL, test TEXT NOT NULL,
        number INTEGER NOT NULL, charged INTEGER NOT NULL, sum TEXT NOT NULL);
    CREATE INDEX requeued_by_place ON requeued(experiment, place);
    CREATE INDEX requeued_by_test ON requeued(experiment, test);
    CREATE TABLE outbox(
        id TEXT PRIMARY KEY, created REAL NOT NULL, kind TEXT NOT NULL, facts TEXT NOT NULL,
        tries INTEGER NOT NULL, next_at REAL NOT NULL, state TEXT NOT NULL, why TEXT NOT NULL,
        sum TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX outbox_waiting ON outbox(next_at) WHERE state = 'waiting';
    CREATE TABLE pins(
        host TEXT NOT NULL, port INTEGER NOT NULL, key TEXT NOT NULL, who TEXT NOT NULL, pinned REAL NOT NULL,
        sum TEXT NOT NULL, PRIMARY KEY(host, port, key)) WITHOUT ROWID;
    CREATE TABLE history(
        id INTEGER PRIMARY KEY, wall REAL NOT NULL, experiment INTEGER NOT NULL, test TEXT NOT NULL,
        event TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL, note TEXT NOT NULL, sum TEXT NOT NULL);
    CREATE INDEX history_by_test ON history(experiment, test);
    """,
    """
    CREATE TABLE refunded(
        experiment INTEGER NOT NULL, test TEXT NOT NULL, sum TEXT NOT NULL,
        PRIMARY KEY(experiment, test)) WITHOUT ROWID;
    """,
    """
    CREATE TABLE surveys(
        experiment INTEGER NOT NULL, machine TEXT NOT NULL, attempt INTEGER NOT NULL, facts TEXT NOT NULL,
        sum TEXT NOT NULL, PRIMARY KEY(experiment, machine, attempt)) WITHOUT ROWID;
    """,
)
"""Migration k brings a file from user_version k to k + 1; released ones are never edited."""

SCHEMA_VERSION = len(MIGRATIONS)

UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What reading a memory raises: SQLite's message quotes what it found, which may be no text."""


def row_sum(*values: Any) -> str:
    """The checksum kept in a row's `sum` column, over the other columns in the order of the schema."""
    # SQLite gives 5 and True back as 5.0 and 1 where the column says so.
    alike = [int(v) if isinstance(v, bool | float) and v == v // 1 else v for v in values]
    text = json.dumps(alike, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


# ---------------------------------------------------------------- rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentRow:
    """An experiment as accepted. `document`: JSON of its one TOML table."""

    id: int
    name: str
    folder: str
    identity: str
    document: str
    seed: int | None
    owner: int
    accepted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One attempt: one row of the ESS."""

    id: int
    experiment: int
    test: str
    number: int
    uid: str
    started: float
    ended: float | None
    status: str  # an end_status, or "running"
    blame: str
    machine: str
    code: str
    reason: str
    pings: int
    ssh_checks: int
    settings: str  # JSON
    archive: str
    sha256: str
    size: int
    figures: str  # JSON
    evidence: str  # JSON
    plan: str  # JSON while it runs, then "" (the archive holds it)
    facts: str  # JSON while it runs: what validation learned of the machines; then "{}", see Store.surveys
    closed: int | None = None  # the how-manieth attempt of its experiment to end; None while it runs


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """One message that people are owed."""

    id: str
    created: float
    kind: str
    facts: str  # JSON
    tries: int
    next_at: float
    state: str  # waiting, sent or dead
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PinRow:
    """A host key somebody trusted: `key` is "<type> <base64>"."""

    host: str
    port: int
    key: str
    who: str
    pinned: float


@dataclass(slots=True)
class Loaded:
    """All that the daemon needs at start; its size does not grow with the number of attempts."""

    meta: dict[str, str] = field(default_factory=dict)
    experiments: list[ExperimentRow] = field(default_factory=list)
    lives: dict[int, str] = field(default_factory=dict)  # experiment id -> JSON, see Life.to_json
    open_attempts: dict[int, AttemptRow] = field(default_factory=dict)  # experiment id -> its open attempt
    requeued: dict[int, list[m.Requeued]] = field(default_factory=dict)
    exports: dict[int, str] = field(default_factory=dict)
    outbox: list[OutboxRow] = field(default_factory=list)
    pins: list[PinRow] = field(default_factory=list)


# ---------------------------------------------------------------- writes


@dataclass(frozen=True, slots=True)
class SaveLife:
    """Keep where an experiment's life stands."""

    experiment: int
    life: str


@dataclass(frozen=True, slots=True)
class Happened:
    """Keep what one step changed."""

    experiment: int
    change: m.Change


@dataclass(frozen=True, slots=True)
class SaveMeta:
    """Keep one named value."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class SaveExport:
    """Keep what the exported files of an experiment looked like when they were last written (JSON)."""

    experiment: int
    state: str


@dataclass(frozen=True, slots=True)
class SaveHistory:
    """Keep one line of the history."""

    wall: float
    experiment: int
    test: str
    event: str
    before: str
    after: str
    note: str


@dataclass(frozen=True, slots=True)
class ForgetPins:
    """Forget the host keys of an address."""

    host: str
    port: int


Write = (
    ForgetPins
    | SaveLife
    | Happened
    | SaveMeta
    | SaveExport
    | SaveHistory
    | ExperimentRow
    | OutboxRow
    | PinRow
    | AttemptRow
)

ATTEMPT_COLUMNS = AttemptRow.__slots__
_ATTEMPT_SELECT = f"SELECT {', '.join(ATTEMPT_COLUMNS)}, sum FROM attempts"


class Store:
    """The memory. Only the engine thread may call anything here."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    # ------------------------------------------------------------ load

    def load(self) -> Loaded:
        """Everything that is needed at start. Raises StoreError where a row fails its checksum."""
        loaded = Loaded()
        for key, value in self._rows("SELECT key, value, sum FROM meta"):
            loaded.meta[key] = value
        columns = ", ".join(ExperimentRow.__slots__)
        for row in self._rows(f"SELECT {columns}, sum FROM experiments ORDER BY id"):
            loaded.experiments.append(ExperimentRow(**dict(zip(ExperimentRow.__slots__, row, strict=True))))
        for exp, life in self._rows("SELECT experiment, life, sum FROM lives"):
            loaded.lives[exp] = life
            raw = json.loads(life)
            if raw.get("uid"):
                found = self.attempt(exp, raw["test"], raw["number"])
                if found is None:
                    raise StoreError(
                        f"the memory names an open attempt {raw['uid']}, but has no row of it", hint=_READ_HINT
                    )
                loaded.open_attempts[exp] = found
        refunded = set(self._rows("SELECT experiment, test, sum FROM refunded"))
        for exp, _, test, number, charged in self._rows(
            "SELECT experiment, place, test, number, charged, sum FROM requeued ORDER BY place"
        ):
            back = (exp, test) in refunded
            entry = m.Requeued(test=test, number=number, charged=charged, refunded=back)
            loaded.requeued.setdefault(exp, []).append(entry)
        for exp, state in self._rows("SELECT experiment, state, sum FROM exports"):
            loaded.exports[exp] = state
        loaded.outbox = self.waiting_messages()
        for row in self._rows(f"SELECT {', '.join(PinRow.__slots__)}, sum FROM pins"):
            loaded.pins.append(PinRow(**dict(zip(PinRow.__slots__, row, strict=True))))
        return loaded

    # ------------------------------------------------------------ reads

    def attempt(self, experiment: int, test: str, number: int) -> AttemptRow | None:
        """One attempt, or None."""
        rows = self._attempts(" WHERE experiment = ? AND test = ? AND number = ?", (experiment, test, number))
        return next(rows, None)

    def attempts(self, experiment: int, test: str) -> Iterator[AttemptRow]:
        """The attempts of one test, in order."""
        return self._attempts(" WHERE experiment = ? AND test = ? ORDER BY number", (experiment, test))

    def closed_after(self, experiment: int, place: int) -> Iterator[AttemptRow]:
        """The attempts that ended after the `place`-th to end, in the order they ended: the finished ESS rows."""
        return self._attempts(" WHERE experiment = ? AND closed > ? ORDER BY closed", (experiment, place))

    def latest(self, experiment: int, limit: int) -> list[AttemptRow]:
        """The attempts that ended last, newest first."""
        return list(
            self._attempts(" WHERE experiment = ? AND closed > 0 ORDER BY closed DESC LIMIT ?", (experiment, limit))
        )

    def closed(self, experiment: int) -> int:
        """How many attempts of an experiment have ended."""
        sql = "SELECT MAX(closed) FROM attempts WHERE experiment = ? AND closed IS NOT NULL"
        (place,) = self._db.execute(sql, (experiment,)).fetchone()
        return int(place or 0)

    def counted(self, experiment: int) -> list[tuple[str, str, int]]:
        """(end status, blame, how many) of the attempts that have ended; what it costs grows with the failed ones."""
        failed = "FROM attempts WHERE experiment = ? AND status NOT IN ('success', 'running')"
        found = self._db.execute(f"SELECT status, blame, COUNT(*) {failed} GROUP BY status, blame", (experiment,))
        rows = [(str(status), str(blame), int(count)) for status, blame, count in found]
        ended = "SELECT COUNT(*) FROM attempts WHERE experiment = ? AND closed IS NOT NULL"  # by an index alone
        (count,) = self._db.execute(ended, (experiment,)).fetchone()
        return [("success", "", int(count) - sum(row[2] for row in rows)), *rows]

    def latest_success(self, experiment: int) -> float | None:
        """When the latest successful attempt ended, None for never."""
        sql = "SELECT ended FROM attempts WHERE experiment = ? AND closed IS NOT NULL AND status = 'success'"
        row = self._db.execute(f"{sql} ORDER BY closed DESC LIMIT 1", (experiment,)).fetchone()
        return None if row is None else float(row[0])

    def failures(self, experiment: int, limit: int) -> list[AttemptRow]:
        """The latest attempts that did not succeed, newest first."""
        where = " WHERE experiment = ? AND status NOT IN ('success', 'running') ORDER BY id DESC LIMIT ?"
        return list(self._attempts(where, (experiment, limit)))

    def test_status(self, experiment: int, test: str) -> tuple[str, int] | None:
        """(final status or "", attempts made) of a test, or None where it was never decided."""
        row = next(self._tests("experiment = ? AND name = ?", (experiment, test)), None)
        return (row[3], row[4]) if row else None

    def failed_tests(self, experiment: int) -> list[tuple[str, int, str]]:
        """(name, attempts made, final status) of the tests that failed for good, in the order of the sweep."""
        where = "experiment = ? AND status NOT IN ('success', 'no-summary', 'skipped', '') ORDER BY place"
        return [(row[1], row[4], row[3]) for row in self._tests(where, (experiment,))]

    def decided_from(self, experiment: int, place: int) -> list[str]:
        """Names of decided tests at `place` of the sweep or later."""
        return [row[1] for row in self._tests("experiment = ? AND place >= ? AND status <> ''", (experiment, place))]

    def decided_lately(self, experiment: int, limit: int) -> list[tuple[str, float]]:
        """(name, when it was decided) of tests that are not skipped, the farthest of the sweep."""
        where = "experiment = ? AND status NOT IN ('', 'skipped') ORDER BY place DESC LIMIT ?"
        return [(row[1], row[5]) for row in self._tests(where, (experiment, limit))]

    def lately(self, experiment: int, limit: int) -> list[SaveHistory]:
        """Those of the latest lines of the whole history that are of one experiment, oldest first."""
        columns = ", ".join(SaveHistory.__slots__)
        where = "id > (SELECT COALESCE(MAX(id), 0) FROM history) - ? AND experiment = ? ORDER BY id"
        rows = self._rows(f"SELECT {columns}, sum FROM history WHERE {where}", (limit, experiment))
        return [SaveHistory(*row) for row in rows]

    def told(self) -> tuple[int, tuple[float, str, str] | None]:
        """(how many messages were delivered, (when it was made, kind, facts) of the latest of them)."""
        rows = list(self._rows(f"{_DELIVERED} ORDER BY created DESC LIMIT 1"))
        (count,) = self._db.execute("SELECT COUNT(*) FROM outbox WHERE state = 'sent'").fetchone()
        return int(count), (rows[0][1], rows[0][2], rows[0][3]) if rows else None

    def waiting_messages(self) -> list[OutboxRow]:
        """Messages that are neither sent nor given up, oldest first."""
        columns = ", ".join(OutboxRow.__slots__)
        rows = self._rows(f"SELECT {columns}, sum FROM outbox WHERE state = 'waiting' ORDER BY created")
        return [OutboxRow(**dict(zip(OutboxRow.__slots__, row, strict=True))) for row in rows]

    def message(self, number: str) -> OutboxRow | None:
        """One message, or None."""
        columns = ", ".join(OutboxRow.__slots__)
        row = next(self._rows(f"SELECT {columns}, sum FROM outbox WHERE id = ?", (number,)), None)
        return OutboxRow(**dict(zip(OutboxRow.__slots__, row, strict=True))) if row else None

    def history(self, experiment: int, test: str = "") -> list[SaveHistory]:
        """What happened to an experiment or one of its tests, oldest first."""
        columns, where = ", ".join(SaveHistory.__slots__), "experiment = ? AND test = ?" if test else "experiment = ?"
        values = (experiment, test) if test else (experiment,)
        rows = self._rows(f"SELECT {columns}, sum FROM history WHERE {where} ORDER BY id", values)
        return [SaveHistory(*row) for row in rows]

    def surveys(self, experiment: int, limit: int) -> list[Survey]:
        """The latest surveys of the machines of an experiment, in their order: one more each time one has changed."""
        sql = "SELECT experiment, machine, attempt, facts, sum FROM surveys WHERE experiment = ?"
        rows = list(self._rows(f"{sql} ORDER BY attempt DESC, machine DESC LIMIT ?", (experiment, limit)))
        opened = "SELECT started FROM attempts WHERE id = ?"
        walls = {row[2]: self._db.execute(opened, (row[2],)).fetchone() for row in rows}
        return [
            Survey(machine, attempt, walls[attempt][0], facts)
            for _, machine, attempt, facts in reversed(rows)
            if walls[attempt] is not None  # `verify` tells of one that belongs to no attempt
        ]

    # ------------------------------------------------------------ commit

    def commit(self, writes: Sequence[Write]) -> None:
        """Write all of it in one durable transaction, or raise StoreError and write nothing of it."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for write in writes:
                self._write(write)
            self._db.execute("COMMIT")
        except (sqlite3.Error, OSError, ValueError, OverflowError) as error:
            # ValueError, OverflowError: a text or a number that SQLite cannot take.
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise StoreError(
                f"the memory cannot be written: {error}", hint="look at the disk of the state folder"
            ) from error

    def size(self) -> int:
        """Bytes the memory takes."""
        return int(
            self._db.execute("PRAGMA page_count").fetchone()[0] * self._db.execute("PRAGMA page_size").fetchone()[0]
        )

    def copy_to(self, path: Path) -> None:
        """Copy the memory as it is into an empty file, which need not be durable. Raises StoreError.

        Opening the memory's own file a second time would let go of the lock on it, so SQLite has to do it.
        """
        try:
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as target:
                target.execute("PRAGMA synchronous=OFF")
                target.execute("PRAGMA journal_mode=OFF")
                self._db.backup(target)
        except UNREADABLE as error:
            raise StoreError(f"the memory cannot be copied to {path}: {error}", hint="look at the disk") from error

    def close(self) -> None:
        """Give the file back."""
        self._db.close()

    # ------------------------------------------------------------ parts

    def _write(self, write: Write) -> None:
        match write:
            case SaveLife(experiment, life):
                self._replace("lives", (experiment, life))
            case Happened(experiment, change):
                self._change(experiment, change)
            case SaveMeta(key, value):
                self._replace("meta", (key, value))
            case SaveExport(experiment, state):
                self._replace("exports", (experiment, state))
            case ForgetPins(host, port):
                self._db.execute("DELETE FROM pins WHERE host = ? AND port = ?", (host, port))
            case SaveHistory():
                values = tuple(getattr(write, name) for name in SaveHistory.__slots__)
                self._insert("history", SaveHistory.__slots__, values)
            case ExperimentRow() | OutboxRow() | PinRow():
                table = {ExperimentRow: "experiments", OutboxRow: "outbox", PinRow: "pins"}[type(write)]
                self._replace(table, tuple(getattr(write, name) for name in type(write).__slots__))
            case AttemptRow():
                self._insert("attempts", ATTEMPT_COLUMNS[1:], tuple(getattr(write, n) for n in ATTEMPT_COLUMNS[1:]))

    def _change(self, experiment: int, change: m.Change) -> None:
        match change:
            case m.AttemptOpened():
                self._save_attempt(opened_row(experiment, change), new=True)
                self._save_surveys(experiment, change)
            case m.AttemptClosed():
                old = self.attempt(experiment, change.test, change.number)
                self._save_attempt(closed_row(experiment, change, old, self.closed(experiment) + 1), new=old is None)
            case m.TestDecided():
                place = min(change.index, _FARTHEST)
                values = (experiment, change.test, place, change.status, change.attempts, change.wall)
                self._replace("tests", values)
            case m.Requeued():
                end = "MIN(place), 0) - 1" if change.first else "MAX(place), 0) + 1"
                sql = f"SELECT COALESCE({end} FROM requeued WHERE experiment = ?"
                (edge,) = self._db.execute(sql, (experiment,)).fetchone()
                row = (experiment, float(edge), change.test, change.number, change.charged)
                self._insert("requeued", ("experiment", "place", "test", "number", "charged"), row)
                if change.refunded:
                    self._replace("refunded", (experiment, change.test))
                else:
                    self._db.execute("DELETE FROM refunded WHERE experiment = ? AND test = ?", row[0:3:2])
                decided = next(self._tests("experiment = ? AND name = ?", (experiment, change.test)), None)
                if decided is not None:
                    self._replace("tests", (*decided[:3], "", *decided[4:]))
            case m.Unqueued():
                self._db.execute("DELETE FROM requeued WHERE experiment = ? AND test = ?", (experiment, change.test))
            case m.Notice():
                pass  # the engine turns notices into outbox rows

    def _save_surveys(self, experiment: int, change: m.AttemptOpened) -> None:
        where = "experiment = ? AND test = ? AND number = ?"
        (attempt,) = self._db.execute(
            f"SELECT id FROM attempts WHERE {where}", (experiment, change.test, change.number)
        ).fetchone()
        latest = "SELECT facts FROM surveys WHERE experiment = ? AND machine = ? ORDER BY attempt DESC LIMIT 1"
        for machine, facts in change.facts.items():
            known = self._db.execute(latest, (experiment, machine)).fetchone()
            now = lasting(facts)
            if known is None or known[0] != now:
                self._replace("surveys", (experiment, machine, attempt, now))

    def _save_attempt(self, row: AttemptRow, *, new: bool) -> None:
        values = tuple(getattr(row, name) for name in ATTEMPT_COLUMNS[1:])
        if new:
            self._insert("attempts", ATTEMPT_COLUMNS[1:], values)
        else:
            assignments = ", ".join(f"{name} = ?" for name in ATTEMPT_COLUMNS[1:])
            sql = f"UPDATE attempts SET {assignments}, sum = ? WHERE id = ?"
            self._db.execute(sql, (*values, row_sum(*values), row.id))

    def _insert(self, table: str, columns: Sequence[str], values: Sequence[Any]) -> None:
        places = ",".join("?" * (len(values) + 1))
        sql = f"INSERT INTO {table}({', '.join(columns)}, sum) VALUES({places})"
        self._db.execute(sql, (*values, row_sum(*values)))

    def _replace(self, table: str, values: Sequence[Any]) -> None:
        places = ",".join("?" * (len(values) + 1))
        self._db.execute(f"INSERT OR REPLACE INTO {table} VALUES({places})", (*values, row_sum(*values)))

    def _attempts(self, where: str, values: Sequence[Any]) -> Iterator[AttemptRow]:
        try:
            for row in self._db.execute(_ATTEMPT_SELECT + where, values):
                self._check("attempts", row[1:-1], row[-1])
                yield AttemptRow(**dict(zip(ATTEMPT_COLUMNS, row[:-1], strict=True)))
        except UNREADABLE as error:
            raise StoreError(f"the memory cannot be read: {error}", hint=_READ_HINT) from error

    def _tests(self, where: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        columns = "experiment, name, place, status, attempts, decided"
        return self._rows(f"SELECT {columns}, sum FROM tests WHERE {where}", values)

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            for row in self._db.execute(sql, values):
                self._check(sql.split(" FROM ")[1].split(" ")[0], row[:-1], row[-1])
                yield row[:-1]
        except UNREADABLE as error:
            raise StoreError(f"the memory cannot be read: {error}", hint=_READ_HINT) from error

    @staticmethod
    def _check(table: str, values: Sequence[Any], total: str) -> None:
        if any(isinstance(value, bytes) for value in values) or row_sum(*values) != total:  # no column holds bytes
            raise StoreError(f"a row of the memory's table {table} does not match its checksum", hint=_READ_HINT)


_DELIVERED = f"SELECT {', '.join(OutboxRow.__slots__)}, sum FROM outbox WHERE state = 'sent'"
_FARTHEST = 2**63 - 1  # SQLite's largest integer; a space may be larger, no experiment ever gets there
_READ_HINT = "Nothing was changed; keep the file, restore it from a backup or move it aside to begin anew"


def opened_row(experiment: int, change: m.AttemptOpened) -> AttemptRow:
    """The row of an attempt that was just opened."""
    return AttemptRow(
        id=0,
        experiment=experiment,
        test=change.test,
        number=change.number,
        uid=change.uid,
        started=change.started,
        ended=None,
        status="running",
        blame="",
        machine="",
        code="",
        reason="",
        pings=change.pings,
        ssh_checks=change.ssh_checks,
        settings=json.dumps(dict(change.plan.settings)),
        archive="",
        sha256="",
        size=0,
        figures="{}",
        evidence="{}",
        plan=change.plan.to_json(),
        facts=json.dumps({name: dict(facts) for name, facts in change.facts.items()}),
    )


def closed_row(experiment: int, change: m.AttemptClosed, old: AttemptRow | None, place: int) -> AttemptRow:
    """The row of an attempt that ended; `old` is None for a test that was skipped before it began."""
    result = change.result
    return AttemptRow(
        id=old.id if old else 0,
        experiment=experiment,
        test=change.test,
        number=change.number,
        uid=change.uid,
        started=old.started if old else change.ended,
        ended=change.ended,
        status=result.end_status,
        blame=result.blame,
        machine=result.machine,
        code=result.code,
        reason=result.reason,
        pings=old.pings if old else 0,
        ssh_checks=old.ssh_checks if old else 0,
        settings=old.settings if old else json.dumps(dict(change.settings)),
        archive=result.archive,
        sha256=result.sha256,
        size=result.size,
        figures=json.dumps(dict(result.figures)),
        evidence=result.evidence,
        plan="",
        facts="{}",
        closed=place,
    )


def plan_of(row: AttemptRow) -> Plan:
    """The plan kept with an open attempt."""
    return Plan.from_json(row.plan)


# ---------------------------------------------------------------- opening


def open_store(path: Path) -> Store:
    """Open, check and migrate the memory.

    A file of an older autoperfd is kept as `<name>.v<n>` before it is migrated. Raises NewerMemory where a newer one
    wrote it, StoreError where it cannot be read or written or where one that was there is missing, DiskError where
    the old file cannot be kept. An unreadable or lost file is never replaced by an empty one.
    """
    try:
        if not _exists(path):
            place.may_begin(path.parent)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.close(fd)
        version = _look(path)
        if 0 < version < SCHEMA_VERSION:
            _keep(path, version)
        db = _connect(path)
        try:
            _prepare(db, version)
        except BaseException:
            db.close()
            raise
    except (*UNREADABLE, OSError) as error:
        raise StoreError(f"the memory {path} cannot be opened: {error}", hint=_READ_HINT) from error
    return Store(db)


def _exists(path: Path) -> bool:
    """Whether there is something at `path` that can hold a memory; what SQLite has left of a first start is nothing."""
    try:
        return path.lstat().st_size > 0
    except FileNotFoundError:
        return False


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)
    try:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("PRAGMA synchronous=EXTRA")
    except BaseException:
        db.close()
        raise
    return db


def _look(path: Path) -> int:
    """The version of a memory, which is checked but not changed (what a killed commit left in it is undone)."""
    with contextlib.closing(_connect(path)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version < 0:
            raise StoreError(f"the memory {path} is damaged: its version is {version}", hint=_READ_HINT)
        if version > SCHEMA_VERSION:
            raise NewerMemory(
                f"the memory {path} was written by {_writer(db)} and has version {version},"
                f" this is autoperfd {autoperfd.__version__}, which knows versions up to {SCHEMA_VERSION}",
                hint="Install the newer autoperfd again; nothing was changed",
            )
        (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise StoreError(f"the memory {path} is damaged: {verdict}", hint=_READ_HINT)
        if _schema(db) != _expected_schema(MIGRATIONS[:version]):
            if version == 0:
                raise StoreError(f"the file {path} is no memory of autoperfd", hint=_READ_HINT)
            why = "its tables are not what they were made as"
            raise StoreError(f"the memory {path} is damaged: {why}", hint=_READ_HINT)
    return int(version)


def _writer(db: sqlite3.Connection) -> str:
    """Which autoperfd wrote a memory, as far as it can be told of a schema that is not known."""
    try:
        found = db.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
    except UNREADABLE:
        found = None
    return f"autoperfd {found[0]}" if found else "a newer autoperfd"


def _keep(path: Path, version: int) -> None:
    """Leave the file as it is beside its successor; nothing that was kept before is overwritten."""
    for count in itertools.count(1):
        kept = path.with_name(f"{path.name}.v{version}" + (f"-{count}" if count > 1 else ""))
        if not kept.exists():
            files.replace(kept, _pieces(path), 0o600)
            return
        if all(a == b for a, b in itertools.zip_longest(_pieces(path), _pieces(kept))):
            return


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def _prepare(db: sqlite3.Connection, version: int) -> None:
    db.execute("PRAGMA journal_mode=PERSIST")
    db.execute("PRAGMA journal_size_limit=1048576")
    db.execute("PRAGMA cache_size=-4096")
    if version < SCHEMA_VERSION:
        _migrate(db, MIGRATIONS, version)


def _migrate(db: sqlite3.Connection, migrations: Sequence[str], version: int) -> None:
    """Bring a database to the last of the migrations, whole or not at all. Raises sqlite3.Error."""
    db.create_function("row_sum", -1, row_sum, deterministic=True)  # for rows that a migration changes
    db.execute("BEGIN EXCLUSIVE")
    for migration in migrations[version:]:
        for statement in migration.split(";"):
            if statement.strip():
                db.execute(statement)
    db.execute(f"PRAGMA user_version={len(migrations)}")
    db.execute("COMMIT")


def _schema(db: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name").fetchall()


@cache
def _expected_schema(migrations: tuple[str, ...]) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        _migrate(fresh, migrations, 0)
        return _schema(fresh)


# ---------------------------------------------------------------- the lock


def take_lock(folder: Path) -> int:
    """Hold the state folder for the life of this process; the kernel lets go when it dies.

    Returns the descriptor to keep. Raises AlreadyRunning naming the holder, OSError where the file cannot be opened.
    On a network file system, where a lock may not reach the other computers, the computer that is named in the file
    holds the folder until its daemon ends in order.
    """
    path = folder / "lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)  # enough to hold it
    try:
        holder = os.pread(fd, 200, 0).decode("ascii", "replace").strip()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunning(
                f"another autoperfd ({holder or 'an unknown process'}) holds {folder}",
                hint="Stop it first: systemctl stop autoperfd, or autoperfd@NAME",
            ) from error
        if holder and not holder.endswith(f" {_computer()}") and place.file_system(folder) in place.SHARED:
            raise AlreadyRunning(
                f"the autoperfd of another computer ({holder}) holds {folder}",
                hint=f"Stop it there first. Where that computer is gone for good: `sudo rm {path}`",
            )
    except BaseException:
        os.close(fd)
        raise
    with contextlib.suppress(OSError):  # the disk is full or read-only: held all the same, only without a name
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"pid {os.getpid()} on {os.uname().nodename}, computer {_computer()}\n".encode(), 0)
    return fd


def release_lock(fd: int) -> None:
    """Give the folder back, at an end in order."""
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
    os.close(fd)


def _computer() -> str:
    """What tells this computer from others of the same name; its machine id itself is nobody's business."""
    try:
        found = Path("/etc/machine-id").read_bytes().strip()
    except OSError:
        found = b""
    return hashlib.blake2b(found or os.uname().nodename.encode(), digest_size=6, person=b"autoperfd").hexdigest()
