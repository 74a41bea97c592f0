"""The memory: what is written is read back, damage and newer files are refused, and size costs nothing."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import autoperfd
from autoperfd.core import messages as m
from autoperfd.core.plan import Plan
from autoperfd.daemon import place, store
from autoperfd.daemon.store import (
    ATTEMPT_COLUMNS,
    SCHEMA_VERSION,
    AttemptRow,
    ExperimentRow,
    ForgetPins,
    Happened,
    OutboxRow,
    PinRow,
    SaveExport,
    SaveHistory,
    SaveLife,
    SaveMeta,
    Store,
    open_store,
    plan_of,
    release_lock,
    row_sum,
    take_lock,
)
from autoperfd.errors import AlreadyRunning, NewerMemory, StoreError
from autoperfd.tools import TOOLS
from tests.daemon import golden
from tests.daemon.support import Rig
from tests.faults import Fired
from tests.tools.support import PAIR, PERFTEST_TEST

PROJECT = Path(__file__).parents[2]
GOLDEN = PROJECT / "tests" / "data" / "memory-schema.sql"
PLAN: Plan = TOOLS["perftest"].plan("T1", PERFTEST_TEST, PAIR, 7, {})
EXPERIMENT = ExperimentRow(
    id=1, name="PCG #1", folder="PCG_1", identity="i", document="{}", seed=2**63 - 1, owner=1000, accepted=5.25
)
MESSAGE = OutboxRow(id="m1", created=1.0, kind="halt", facts="{}", tries=0, next_at=1.0, state="waiting", why="")
PIN = PinRow(host="10.0.0.1", port=22, key="ssh-ed25519 AAAA", who="ann", pinned=3.0)
OPENED = m.AttemptOpened(
    uid="u1",
    test="T1",
    index=4,
    number=1,
    started=10.5,
    pings=2,
    ssh_checks=3,
    plan=PLAN,
    facts={"p1": {"arch": "armv7l"}},
)
RESULT = m.AttemptResult(
    end_status="no-data",
    blame="test",
    machine="p2",
    code="NO_DATA",
    reason="nothing came",
    figures={"mbps": 1.5},
    archive="data/T1/attempt-1.tar.gz",
    sha256="ab" * 32,
    size=77,
    evidence='{"e":1}',
)
CLOSED = m.AttemptClosed(uid="u1", test="T1", number=1, ended=20.5, result=RESULT)
DECIDED = m.TestDecided(test="T1", index=4, status="no-data", attempts=1, wall=20.5)


def life(**values: Any) -> SaveLife:
    return SaveLife(1, json.dumps({"state": "idle", "uid": "", "test": "", "number": 0, **values}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "autoperf.db"


@pytest.fixture
def memory(path: Path) -> Iterator[Store]:
    opened = open_store(path)
    yield opened
    opened.close()


@pytest.fixture
def reopened(path: Path, memory: Store) -> Iterator[Any]:
    """A function that closes the memory and opens it again, as another process would find it."""
    stores = [memory]

    def again() -> Store:
        stores[-1].close()
        stores.append(open_store(path))
        return stores[-1]

    yield again
    stores[-1].close()


# ---------------------------------------------------------------- written and read back


def test_a_new_memory_is_empty_and_nobody_else_s(path: Path, memory: Store) -> None:
    assert memory.load() == store.Loaded()
    assert path.stat().st_mode & 0o777 == 0o600
    assert pragma(memory, "user_version") == SCHEMA_VERSION
    assert pragma(memory, "synchronous") == 3  # EXTRA
    assert (pragma(memory, "journal_mode"), pragma(memory, "locking_mode")) == ("persist", "exclusive")


def pragma(memory: Store, name: str) -> Any:
    return memory._db.execute(f"PRAGMA {name}").fetchone()[0]


def test_every_write_is_read_back(memory: Store, reopened: Any) -> None:
    memory.commit(
        [
            SaveMeta("hold", "held by ann"),
            EXPERIMENT,
            life(uid="u1", test="T1", number=1),
            Happened(1, OPENED),
            SaveExport(1, '{"ess":[]}'),
            SaveHistory(10.5, 1, "T1", "validated", "validating", "running", "näh—1"),
            MESSAGE,
            replace(MESSAGE, id="m0", created=0.5, state="sent"),
            replace(MESSAGE, id="m2", created=0.25, next_at=9.0, tries=3, why="refused"),
            PIN,
            replace(PIN, port=2222),
            Happened(1, m.Requeued(test="T2", number=1, charged=0, first=False)),
            Happened(1, m.Requeued(test="T3", number=2, charged=1)),
            Happened(1, m.Requeued(test="T4", number=0, charged=0, first=False)),
            Happened(1, m.Unqueued(test="T2")),
            Happened(1, m.Notice(kind="halt", facts={})),
        ]
    )
    loaded = reopened().load()
    assert loaded.meta == {"hold": "held by ann"}
    assert loaded.experiments == [EXPERIMENT]
    assert json.loads(loaded.lives[1])["uid"] == "u1"
    opened = loaded.open_attempts[1]
    assert (opened.uid, opened.test, opened.number, opened.started, opened.status) == ("u1", "T1", 1, 10.5, "running")
    assert (opened.pings, opened.ssh_checks, opened.ended, opened.closed) == (2, 3, None, None)
    assert plan_of(opened) == PLAN and json.loads(opened.settings) == dict(PLAN.settings)
    assert json.loads(opened.facts) == {"p1": {"arch": "armv7l"}}
    assert loaded.requeued == {
        1: [m.Requeued(test="T3", number=2, charged=1), m.Requeued(test="T4", number=0, charged=0)]
    }
    assert loaded.exports == {1: '{"ess":[]}'}
    assert [row.id for row in loaded.outbox] == ["m2", "m1"]
    assert loaded.outbox[0].why == "refused" and loaded.outbox[0].tries == 3
    assert sorted(row.port for row in loaded.pins) == [22, 2222] and PIN in loaded.pins


def test_a_machine_is_described_once_and_again_when_it_has_changed(memory: Store, reopened: Any) -> None:
    def opened(number: int, **facts: str) -> Happened:
        changed = replace(OPENED, number=number, uid=f"u{number}", started=10.0 * number, facts={"p1": facts, "p2": {}})
        return Happened(1, changed)

    memory.commit([opened(1, arch="armv7l", load="1"), opened(2, arch="armv7l", load="2"), opened(3, arch="x")])
    memory.commit([opened(4, arch="x")])
    assert [each.attempt for each in memory.surveys(1, 1)] == [3] and memory.surveys(2, 9) == []
    found = reopened().surveys(1, 100)
    assert [(each.machine, each.attempt, each.wall, json.loads(each.facts)) for each in found] == [
        ("p1", 1, 10.0, {"arch": "armv7l"}),
        ("p2", 1, 10.0, {}),
        ("p1", 3, 30.0, {"arch": "x"}),
    ]


def test_what_is_written_again_replaces_the_former(memory: Store, reopened: Any) -> None:
    memory.commit([EXPERIMENT, SaveMeta("k", "1"), life(), MESSAGE, PIN, SaveExport(1, "a"), Happened(1, DECIDED)])
    memory.commit(
        [
            replace(EXPERIMENT, document="{2}"),
            SaveMeta("k", "2"),
            life(ticket=2),
            replace(MESSAGE, state="dead", why="w"),
            ForgetPins("10.0.0.1", 22),
            SaveExport(1, "b"),
            Happened(1, replace(DECIDED, status="success", attempts=2)),
        ]
    )
    again = reopened()
    loaded = again.load()
    assert [row.document for row in loaded.experiments] == ["{2}"] and loaded.meta == {"k": "2"}
    assert json.loads(loaded.lives[1])["ticket"] == 2
    assert (loaded.outbox, loaded.pins, loaded.exports) == ([], [], {1: "b"})
    dead = again.message("m1")
    assert dead is not None and (dead.state, dead.why) == ("dead", "w") and again.message("m9") is None
    assert again.test_status(1, "T1") == ("success", 2)


def test_an_attempt_ends(memory: Store) -> None:
    memory.commit([Happened(1, OPENED)])
    opened = memory.attempt(1, "T1", 1)
    memory.commit([Happened(1, CLOSED)])
    closed = memory.attempt(1, "T1", 1)
    assert opened is not None and closed is not None
    told = {name: getattr(RESULT, name) for name in ("blame", "machine", "code", "reason", "archive", "sha256", "size")}
    assert closed == replace(
        opened,
        ended=20.5,
        status="no-data",
        figures='{"mbps": 1.5}',
        evidence='{"e":1}',
        plan="",
        facts="{}",
        closed=1,
        **told,
    )


def test_a_test_skipped_before_it_began_has_a_row(memory: Store) -> None:
    result = m.AttemptResult(end_status="skipped", blame="operator", reason="skipped by ann")
    skipped = m.AttemptClosed(uid="", test="T5", number=1, ended=9.0, result=result, settings={"pub_count": 1})
    memory.commit([Happened(1, skipped)])
    row = memory.attempt(1, "T5", 1)
    assert row is not None and (row.started, row.ended, row.closed, row.status) == (9.0, 9.0, 1, "skipped")
    assert json.loads(row.settings) == {"pub_count": 1} and row.uid == ""


def test_attempts_are_found_in_the_order_they_ended(memory: Store) -> None:
    for number in (1, 2, 3):
        memory.commit([Happened(1, replace(OPENED, uid=f"u{number}", number=number))])
        memory.commit([Happened(2, replace(OPENED, uid=f"v{number}", number=number))])
    statuses = {3: "no-data", 1: "success", 2: "timeout"}
    for number, status in statuses.items():
        closed = replace(CLOSED, number=number, result=replace(RESULT, end_status=status))
        memory.commit([Happened(1, closed)])
    assert memory.closed(1) == 3 and memory.closed(2) == 0 and memory.closed(3) == 0
    assert [(row.closed, row.number) for row in memory.closed_after(1, 0)] == [(1, 3), (2, 1), (3, 2)]
    assert [row.number for row in memory.closed_after(1, 2)] == [2]
    assert [row.number for row in memory.latest(1, 2)] == [2, 1]
    assert [row.number for row in memory.attempts(1, "T1")] == [1, 2, 3]
    assert [row.number for row in memory.failures(1, 10)] == [3, 2]
    assert memory.failures(2, 10) == [] and memory.latest(2, 10) == []
    assert memory.attempt(1, "T1", 9) is None


def test_tests_are_decided_and_put_back(memory: Store) -> None:
    writes = [
        Happened(1, m.TestDecided(test=name, index=place, status=status, attempts=place % 10, wall=1.0))
        for name, place, status in [
            ("A", 9, "no-data"),
            ("B", 2, "success"),
            ("C", 1, "crashed"),
            ("D", 5, "no-summary"),
            ("E", 7, "skipped"),
            ("F", 10**20, "timeout"),  # a space may have more tests than SQLite has numbers
        ]
    ]
    memory.commit(writes)
    assert memory.failed_tests(1) == [("C", 1, "crashed"), ("A", 9, "no-data"), ("F", 0, "timeout")]
    assert sorted(memory.decided_from(1, 5)) == ["A", "D", "E", "F"]
    memory.commit([Happened(1, m.Requeued(test="A", number=9, charged=0, first=False))])
    assert memory.test_status(1, "A") == ("", 9) and memory.test_status(1, "Z") is None
    assert sorted(memory.decided_from(1, 5)) == ["D", "E", "F"]
    assert memory.failed_tests(1) == [("C", 1, "crashed"), ("F", 0, "timeout")]
    assert memory.failed_tests(2) == [] and memory.decided_from(2, 0) == []


def test_numbers_may_be_written_as_python_has_them(memory: Store) -> None:
    """SQLite turns them into what the column is."""
    memory.commit(
        [replace(EXPERIMENT, accepted=5), replace(MESSAGE, created=True, next_at=2**40), replace(PIN, port=True)]
    )
    memory.commit([SaveHistory(7, 1, "T", "e", "a", "b", ""), replace(PIN, port=1, pinned=1e300, host="h")])
    loaded = memory.load()
    assert (loaded.experiments[0].accepted, loaded.outbox[0].next_at, len(loaded.pins)) == (5.0, 2.0**40, 2)
    assert memory.history(1)[0].wall == 7.0


def test_history(memory: Store) -> None:
    lines = [SaveHistory(float(i), i % 2, f"T{i % 3}", "e", "a", "b", "") for i in range(12)]
    memory.commit(lines)
    assert memory.history(1) == lines[1::2]
    assert memory.history(0, "T1") == [lines[4], lines[10]]


def test_imported_attempts_keep_their_places(memory: Store) -> None:
    memory.commit([Happened(1, OPENED), Happened(1, CLOSED)])
    row = memory.attempt(1, "T1", 1)
    assert row is not None
    memory.commit([replace(row, experiment=5, closed=1), replace(row, experiment=5, number=2, closed=2)])
    assert [(r.number, r.closed) for r in memory.closed_after(5, 0)] == [(1, 1), (2, 2)]


# ---------------------------------------------------------------- all or nothing


BAD_WRITES = {
    "a number twice": Happened(1, OPENED),
    "text that is none": SaveMeta("k", "\udcff"),
    "a number too large": replace(EXPERIMENT, id=2, name="b", folder="b", seed=2**63),
    "nothing where something must be": SaveMeta("k", None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("bad", BAD_WRITES.values(), ids=BAD_WRITES)
def test_a_commit_that_fails_writes_nothing(memory: Store, reopened: Any, bad: Any) -> None:
    memory.commit([EXPERIMENT, life(), Happened(1, OPENED), SaveMeta("k", "before")])
    with pytest.raises(StoreError, match="the memory cannot be written") as raised:
        memory.commit([SaveMeta("k", "after"), Happened(1, CLOSED), bad, SaveMeta("x", "y")])
    assert raised.value.hint
    for find in (lambda: memory, reopened):
        again = find()
        assert again.load().meta == {"k": "before"}
        row = again.attempt(1, "T1", 1)
        assert row is not None and row.status == "running"
    again.commit([SaveMeta("k", "later")])
    assert again.load().meta == {"k": "later"}


def test_a_full_disk_loses_nothing(memory: Store, reopened: Any) -> None:
    memory.commit([SaveMeta("k", "before")])
    memory._db.execute(f"PRAGMA max_page_count={pragma(memory, 'page_count')}")
    with pytest.raises(StoreError, match="full"):
        memory.commit([SaveMeta("k", "after"), SaveMeta("big", "x" * 100_000)])
    assert reopened().load().meta == {"k": "before"}


def test_a_killed_commit_is_undone(path: Path, memory: Store, reopened: Any) -> None:
    memory.commit([SaveMeta("k", "before")])
    memory.close()
    code = (
        "import os, sys; from pathlib import Path; from autoperfd.daemon.store import *\n"
        "s = open_store(Path(sys.argv[1])); s._db.execute('PRAGMA cache_size=1')\n"
        "s._db.execute('BEGIN IMMEDIATE')\n"
        "[s._write(SaveMeta(f'k{i}' if i else 'k', 'x' * 3000)) for i in range(100)]\n"
        "os._exit(9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60, cwd=PROJECT)
    assert ended.returncode == 9
    journal = path.with_name(path.name + "-journal")
    assert journal.stat().st_size > 0 and any(journal.read_bytes()[:8]), "the kill came after pages were written"
    assert reopened().load().meta == {"k": "before"}


# ---------------------------------------------------------------- damage is refused


def filled(memory: Store) -> None:
    requeued = Happened(1, m.Requeued(test="T9", number=1, charged=0))
    history = SaveHistory(1.0, 1, "T1", "e", "a", "b", "n")
    memory.commit([SaveMeta("k", "v"), EXPERIMENT, life(uid="u1", test="T1", number=1), SaveExport(1, "{}"), MESSAGE])
    memory.commit([PIN, Happened(1, OPENED), Happened(1, DECIDED), requeued, history])


def read_all(memory: Store) -> None:
    memory.load()
    memory.test_status(1, "T1")
    memory.decided_from(1, 0)
    memory.failed_tests(1)
    memory.history(1)
    memory.failures(1, 10)


def columns() -> list[tuple[str, str]]:
    blank = sqlite3.connect(":memory:")
    blank.executescript(store.MIGRATIONS[0])
    tables = [name for (name,) in blank.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
    found = [(t, row[1]) for t in tables for row in blank.execute(f"PRAGMA table_info({t})")]
    blank.close()
    numbers = {("attempts", "id"), ("requeued", "id"), ("history", "id")}  # of rows; they mean nothing of their own
    other = {("tests", "experiment"), ("tests", "name"), ("history", "experiment"), ("outbox", "state")}  # another row
    return [place for place in found if place not in numbers | other]


@pytest.mark.parametrize(("table", "column"), columns())
def test_a_changed_value_is_noticed(path: Path, memory: Store, table: str, column: str) -> None:
    filled(memory)
    read_all(memory)
    memory.close()
    db = sqlite3.connect(path, isolation_level=None)
    kind = next(row[2] for row in db.execute(f"PRAGMA table_info({table})") if row[1] == column)
    changed = "'x' || coalesce(" + column + ", '')" if kind == "TEXT" else f"coalesce({column}, 0) + 1"
    where = "WHERE key = 'k'" if table == "meta" else ""
    db.execute(f"UPDATE {table} SET {column} = {changed} {where}")
    db.close()
    again = open_store(path)
    try:
        with pytest.raises(StoreError, match=r"checksum|has no row of it"):
            read_all(again)
    finally:
        again.close()


def test_a_missing_open_attempt_is_noticed(memory: Store) -> None:
    memory.commit([EXPERIMENT, life(uid="u1", test="T1", number=1)])
    with pytest.raises(StoreError, match="names an open attempt u1, but has no row of it"):
        memory.load()


@pytest.mark.parametrize("damage", ["garbage", "header", "middle", "cut", "link", "folder"])
def test_a_file_that_is_no_memory_is_refused_and_left_alone(path: Path, damage: str) -> None:
    opened = open_store(path)
    opened.commit([EXPERIMENT, *(SaveMeta(f"k{i}", "v" * 500) for i in range(200))])
    opened.close()
    good = path.read_bytes()
    match damage:
        case "garbage":
            path.write_bytes(os.urandom(100_000))
        case "header":
            path.write_bytes(b"\0" * 100 + good[100:])
        case "middle":
            path.write_bytes(good[:8192] + os.urandom(8192) + good[16384:])
        case "cut":
            path.write_bytes(good[: len(good) // 2])
        case "link":
            path.rename(path.with_name("other"))
            path.symlink_to(path.with_name("other"))
        case "folder":
            path.unlink()
            path.mkdir()
    before = None if damage == "folder" else path.read_bytes()
    with pytest.raises(StoreError) as raised:
        open_store(path)
    assert str(path) in raised.value.message and "Nothing was changed" in raised.value.hint
    assert before is None or path.read_bytes() == before


@pytest.mark.fault("S4")
@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("writer", ["", "9.8.7"])
def test_a_newer_memory_is_refused_and_left_alone(path: Path, mode: str, writer: str, fired: Fired) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"PRAGMA journal_mode={mode}")
    db.execute("CREATE TABLE meta(key, value, more)")
    if writer:
        db.execute("INSERT INTO meta VALUES('version', ?, 1)", (writer,))
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(NewerMemory, match=f"version {SCHEMA_VERSION + 1}.*up to {SCHEMA_VERSION}") as raised:
        open_store(path)
    assert f"written by {f'autoperfd {writer}' if writer else 'a newer autoperfd'} and" in raised.value.message
    assert f"this is autoperfd {autoperfd.__version__}" in raised.value.message
    assert "newer autoperfd" in raised.value.hint
    assert path.read_bytes() == before and list(path.parent.glob("*.v*")) == []
    fired("S4", raised.value.message)


# ---------------------------------------------------------------- migrations


def versions() -> list[int]:
    return list(range(1, SCHEMA_VERSION + 1))


def golden_copy(folder: Path, version: int) -> Path:
    """A memory of that version, where an engine would find it."""
    path = folder / "autoperf.db"
    shutil.copyfile(golden.MEMORIES / f"v{version}.db", path)
    return path


@pytest.mark.parametrize("version", versions())
def test_there_is_a_golden_memory_of_every_version(version: int) -> None:
    path = golden.MEMORIES / f"v{version}.db"
    assert path.exists(), "make it with the code that writes this version: python -m tests.daemon.golden"
    assert json.loads(path.with_suffix(".json").read_text()) == golden.rows(path)


@pytest.mark.fault("S3")
@pytest.mark.parametrize("version", versions())
def test_the_memory_of_every_version_is_taken_over(tmp_path: Path, version: int, fired: Fired) -> None:
    path = golden_copy(tmp_path, version)
    before = path.read_bytes()
    rig = Rig(tmp_path, webhook=True)
    assert pragma(rig.memory, "user_version") == SCHEMA_VERSION
    kept = path.with_name(f"autoperf.db.v{version}")
    if version < SCHEMA_VERSION:
        assert kept.read_bytes() == before
    else:
        assert not kept.exists()
    first, second = rig.engine.entries.values()
    assert (first.row.name, first.life.state, first.life.succeeded, first.life.skipped) == ("PCG #1", "running", 1, 1)
    assert (
        first.life.uid
        and first.life.plan is not None
        and [r.test for r in first.life.requeued] == ["4SEC_200B_1PUB_1SUB_REL_UC_100LC"]
    )
    assert (second.row.name, second.life.state, second.life.cause) == ("drawn", "halted", "operator")
    assert [row.state for row in rig.engine._outbox.values()] == ["waiting"]
    assert len(rig.memory.load().pins) == 3
    read_all(rig.memory)
    rig.engine.restart(crashed=False)
    rig.succeed(1)
    assert first.life.succeeded == 2
    rig.stop()
    now = golden.rows(path)
    for table, rows in json.loads((golden.MEMORIES / f"v{version}.json").read_text()).items():
        if table in ("attempts", "history", "pins"):  # which the life after it only adds to, but for the open one
            found = [{key: row[key] for key in rows[0] if key != "sum"} for row in now[table]]
            wanted = [{key: value for key, value in row.items() if key != "sum"} for row in rows]
            assert all(row in found for row in wanted if row.get("status") != "running"), table
    fired("S3", f"version {version} became {SCHEMA_VERSION}")


KILLER = """
import os, sqlite3, sys
from pathlib import Path
from autoperfd.daemon import store

class Counted(sqlite3.Connection):
    count = 0
    def execute(self, sql, *args):
        Counted.count += 1
        if Counted.count == AT:
            os._exit(9)
        return super().execute(sql, *args)

connect, AT = sqlite3.connect, 0
sqlite3.connect = lambda *args, **more: connect(*args, factory=Counted, **more)
good, path = Path(sys.argv[1]), Path(sys.argv[2])
data = good.read_bytes()
store.MIGRATIONS = (*store.MIGRATIONS, "CREATE TABLE a(b); INSERT INTO a VALUES(1); INSERT INTO a SELECT 2 FROM a; "
    "ALTER TABLE pins ADD COLUMN why TEXT NOT NULL DEFAULT ''; CREATE INDEX c ON a(b)")
store.SCHEMA_VERSION = len(store.MIGRATIONS)
killed = 0
while True:
    for file in path.parent.iterdir():
        file.unlink()
    path.write_bytes(data)
    child = os.fork()
    if child == 0:
        AT, Counted.count = killed + 1, 0
        store.open_store(path).close()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), status
    copy = path.parent / "copy"  # what the next one finds, looked at without changing it
    copy.mkdir()
    for file in path.parent.glob("autoperf.db*"):
        (copy / file.name).write_bytes(file.read_bytes())
    db = connect(copy / path.name)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    columns = [row[1] for row in db.execute("PRAGMA table_info(pins)")]
    is_new = version == store.SCHEMA_VERSION
    assert is_new or version == int(sys.argv[3]), version
    assert [is_new] * 3 == ["a" in tables, "c" in tables, "why" in columns], (version, tables, columns)
    if is_new:
        assert db.execute("SELECT b FROM a ORDER BY b").fetchall() == [(1,), (2,)]
    db.close()
    for file in copy.iterdir():
        file.unlink()
    copy.rmdir()
    store.open_store(path).close()
    kept = sorted(path.parent.glob("autoperf.db.v*"))
    assert [file.read_bytes() for file in kept] == [data], kept
    if status == 0:
        break
    killed += 1
print(killed)
"""


@pytest.mark.fault("S3")
@pytest.mark.parametrize("version", versions())
def test_a_migration_that_is_killed_at_any_statement_is_whole(tmp_path: Path, version: int, fired: Fired) -> None:
    """A real process, killed before each of its statements in turn: what it leaves is the old memory or the new one."""
    (tmp_path / "state").mkdir()
    files = golden.MEMORIES / f"v{version}.db", tmp_path / "state/autoperf.db"
    argv = [sys.executable, "-c", KILLER, *map(str, files), str(version)]
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 12
    fired("S3", f"killed before each of {done.stdout.strip()} statements")


def test_what_was_kept_of_an_old_memory_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = max(versions())
    monkeypatch.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, "CREATE TABLE a(b)"))
    monkeypatch.setattr(store, "SCHEMA_VERSION", newest + 1)
    (tmp_path / f"autoperf.db.v{newest}").write_bytes(b"of another time")
    path = golden_copy(tmp_path, newest)
    before = path.read_bytes()
    open_store(path).close()
    assert (tmp_path / f"autoperf.db.v{newest}").read_bytes() == b"of another time"
    kept = tmp_path / f"autoperf.db.v{newest}-2"
    assert kept.read_bytes() == before and kept.stat().st_mode & 0o777 == 0o600


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_store(path)
    opened.commit([SaveMeta("k", "v")])
    opened.close()
    more = (*store.MIGRATIONS, "CREATE TABLE a(b); INSERT INTO nowhere VALUES(1)")
    monkeypatch.setattr(store, "MIGRATIONS", more)
    monkeypatch.setattr(store, "SCHEMA_VERSION", len(more))
    with pytest.raises(StoreError, match="nowhere"):
        open_store(path)
    good = (*more[:-1], "CREATE TABLE a(b); INSERT INTO a VALUES(1)")
    monkeypatch.setattr(store, "MIGRATIONS", good)
    opened = open_store(path)
    assert opened.load().meta == {"k": "v"} and pragma(opened, "user_version") == len(good)
    assert opened._db.execute("SELECT b FROM a").fetchall() == [(1,)]
    opened.close()


# ---------------------------------------------------------------- a memory that was lost

LOST = {
    "results": lambda state: (state / "results" / "PCG_1").mkdir(parents=True),
    "its sign": lambda state: place.remember(state, "0011"),
    "an old memory": lambda state: (state / "autoperf.db.v1").touch(),
    "results and an empty file": lambda state: (
        (state / "results" / "PCG_1").mkdir(parents=True),
        (state / "autoperf.db").touch(),
    ),
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
def test_a_lost_memory_is_not_begun_anew_without_a_word(tmp_path: Path, lose: Any) -> None:
    lose(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=r"is missing, though .* tells of an earlier life") as raised:
        open_store(tmp_path / "autoperf.db")
    assert f"sudo touch {tmp_path}/begin-anew" in raised.value.hint and sorted(tmp_path.rglob("*")) == before
    (tmp_path / "begin-anew").touch()
    opened = open_store(tmp_path / "autoperf.db")
    assert opened.load() == store.Loaded() and not (tmp_path / "begin-anew").exists()
    opened.close()
    place.remember(tmp_path, "2233")
    (tmp_path / "autoperf.db").unlink()
    with pytest.raises(StoreError, match="earlier life"):
        open_store(tmp_path / "autoperf.db")  # the word held once


def test_a_database_of_others_is_no_memory(path: Path) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("CREATE TABLE things(a)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is no memory of autoperfd"):
        open_store(path)
    assert path.read_bytes() == before


def test_the_schema_is_the_released_one(memory: Store) -> None:
    """A change of the schema is a new migration; this file changes only while no version is released."""
    sql = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
    text = "".join(" ".join(statement.split()) + ";\n" for (statement,) in memory._db.execute(sql))
    assert text == GOLDEN.read_text()


def test_the_rows_name_the_columns_of_their_tables(memory: Store) -> None:
    kinds = {"experiments": ExperimentRow, "outbox": OutboxRow, "pins": PinRow, "attempts": AttemptRow}
    for table, kind in kinds.items():
        found = [row[1] for row in memory._db.execute(f"PRAGMA table_info({table})")]
        assert found == [*(field.name for field in fields(kind)), "sum"]


# ---------------------------------------------------------------- the lock


@pytest.mark.fault("P9")
def test_one_daemon_holds_the_folder(tmp_path: Path, fired: Fired) -> None:
    held = take_lock(tmp_path)
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()} on ") as raised:
        take_lock(tmp_path)
    fired("P9", raised.value.message)
    release_lock(held)
    assert (tmp_path / "lock").read_text() == ""
    release_lock(take_lock(tmp_path))


@pytest.mark.fault("P9")
def test_over_a_network_the_other_computer_s_daemon_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fired: Fired
) -> None:
    lock = tmp_path / "lock"
    theirs = "pid 7 on other, computer 0123456789ab\n"
    lock.write_text(theirs)
    monkeypatch.setattr(place, "file_system", lambda folder: "nfs4")
    with pytest.raises(
        AlreadyRunning, match=r"of another computer \(pid 7 on other, computer 0123456789ab\)"
    ) as raised:
        take_lock(tmp_path)
    assert raised.value.hint.endswith(f"`sudo rm {lock}`") and lock.read_text() == theirs
    fired("P9", raised.value.message)
    lock.unlink()
    os.close(take_lock(tmp_path))  # as a kill leaves it
    os.close(take_lock(tmp_path))
    lock.write_text(theirs)
    monkeypatch.setattr(place, "file_system", lambda folder: "ext4")  # there the kernel knows better
    os.close(take_lock(tmp_path))


def test_a_dead_daemon_holds_nothing(tmp_path: Path) -> None:
    code = "import sys, os; from pathlib import Path; from autoperfd.daemon.store import take_lock\n"
    code += "take_lock(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60, cwd=PROJECT)
    assert ended.returncode == -9
    assert (tmp_path / "lock").read_text().startswith("pid ")
    os.close(take_lock(tmp_path))


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        take_lock(tmp_path)
    assert (tmp_path / "elsewhere").read_text() == "kept"


# ---------------------------------------------------------------- size costs nothing

FEW, MANY = 100, 100_000


def bulk(path: Path, count: int) -> Store:
    """A memory of so many ended attempts, a tenth of them failures, and one that runs."""
    opened = open_store(path)
    opened.commit([EXPERIMENT, life(uid="u1", test="T1", number=1), Happened(1, OPENED)])
    opened.commit([Happened(1, replace(OPENED, uid="s", test="S", number=1))])
    opened.commit([Happened(1, replace(CLOSED, uid="s", test="S"))])
    sample = opened.attempt(1, "S", 1)
    assert sample is not None
    values = {name: getattr(sample, name) for name in ATTEMPT_COLUMNS[1:]}

    def attempt(i: int) -> tuple[Any, ...]:
        status = "no-data" if i % 10 == 0 else "success"
        row = tuple({**values, "test": f"T_{i}", "uid": f"{i:032x}", "status": status, "closed": i + 2}.values())
        return (*row, row_sum(*row))

    def decided(i: int) -> tuple[Any, ...]:
        row = (1, f"T_{i}", i, "no-data" if i % 10 == 0 else "success", 1, 1.0)
        return (*row, row_sum(*row))

    def happened(i: int) -> tuple[Any, ...]:
        row = (1.0, 1, f"T_{i}", "succeeded", "running", "validating", "")
        return (*row, row_sum(*row))

    marks = ",".join("?" * (len(ATTEMPT_COLUMNS)))
    names = f"{', '.join(ATTEMPT_COLUMNS[1:])}, sum"
    opened._db.execute("BEGIN")
    opened._db.executemany(f"INSERT INTO attempts({names}) VALUES({marks})", (attempt(i) for i in range(count)))
    opened._db.executemany("INSERT INTO tests VALUES(?,?,?,?,?,?,?)", (decided(i) for i in range(count)))
    columns = ", ".join(SaveHistory.__slots__)
    history = f"INSERT INTO history({columns}, sum) VALUES(?,?,?,?,?,?,?,?)"
    opened._db.executemany(history, (happened(i) for i in range(count)))
    opened._db.execute("COMMIT")
    return opened


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Store]]:
    folder = tmp_path_factory.mktemp("sizes")
    stores = {count: bulk(folder / f"{count}.db", count) for count in (FEW, MANY)}
    yield stores
    for opened in stores.values():
        opened.close()


USES = {
    "load": lambda s, n: s.load(),
    "attempt": lambda s, n: s.attempt(1, f"T_{n // 2}", 1),
    "attempts": lambda s, n: list(s.attempts(1, f"T_{n // 2}")),
    "closed": lambda s, n: s.closed(1),
    "closed_after": lambda s, n: list(s.closed_after(1, n)),
    "latest": lambda s, n: s.latest(1, 20),
    "failures": lambda s, n: s.failures(1, 5),
    "test_status": lambda s, n: s.test_status(1, f"T_{n // 2}"),
    "decided_from": lambda s, n: s.decided_from(1, n - 2),
    "history": lambda s, n: s.history(1, f"T_{n // 2}"),
    "begin an attempt": lambda s, n: s.commit([life(ticket=n), Happened(1, replace(OPENED, test="N", uid="n"))]),
    "end an attempt": lambda s, n: s.commit([life(), Happened(1, replace(CLOSED, test="N", uid="n"))]),
    "decide a test": lambda s, n: s.commit([Happened(1, replace(DECIDED, test="N", index=n))]),
    "put a test back": lambda s, n: s.commit([Happened(1, m.Requeued(test="N", number=1, charged=0))]),
    "take a test up": lambda s, n: s.commit([Happened(1, m.Unqueued(test="N"))]),
    "remember": lambda s, n: s.commit([SaveHistory(1.0, 1, "N", "e", "a", "b", "")]),
}


def steps_and_statements(memory: Store, use: Any, count: int) -> tuple[int, list[str]]:
    """How many steps SQLite's machine takes for a use, and the statements of it."""
    steps = 0
    statements: list[str] = []

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    memory._db.set_progress_handler(step, 1)
    memory._db.set_trace_callback(statements.append)
    try:
        use(memory, count)
    finally:
        memory._db.set_progress_handler(None, 0)
        memory._db.set_trace_callback(None)
    return steps, statements


@pytest.mark.parametrize("name", USES)
def test_it_costs_the_same_at_row_100_000(sizes: dict[int, Store], name: str) -> None:
    few, _ = steps_and_statements(sizes[FEW], USES[name], FEW)
    many, statements = steps_and_statements(sizes[MANY], USES[name], MANY)
    assert 0 < many <= few * 1.1 + 10
    for statement in statements:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            plan = " ".join(row[3] for row in sizes[MANY]._db.execute(f"EXPLAIN QUERY PLAN {statement}"))
            for table in ("attempts", "tests", "history", "requeued"):
                assert f"SCAN {table}" not in plan or (name, table) == ("load", "requeued"), statement
