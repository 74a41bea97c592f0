"""The refuge: a daemon that cannot use its memory stays up, says so, tells people once, and goes on by itself."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoperfd.core.settings import DaemonSettings
from autoperfd.daemon import place, refuge
from autoperfd.daemon.files import TEMPORARY
from autoperfd.daemon.refuge import Incident, code_of, failed_again, incident_of, read_note, write_note
from autoperfd.errors import DiskError, StoreError
from autoperfd.lab.recorder import Recorder
from tests.bounds import SOON_SECS
from tests.e2e.support import LiveDaemon
from tests.faults import Fired

# ---------------------------------------------------------------- codes and notes


def of_sqlite(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError(name)
    error.sqlite_errorcode = getattr(sqlite3, name)
    return error


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (OSError(errno.ENOSPC, "full"), "DISK_FULL"),
        (OSError(errno.EDQUOT, "quota"), "DISK_FULL"),
        (OSError(errno.EROFS, "read-only"), "DISK_READONLY"),
        (OSError(errno.EIO, "input/output"), "DISK_IO"),
        (OSError(errno.EACCES, "denied"), "STATE_UNREADABLE"),
        (of_sqlite("SQLITE_FULL"), "DISK_FULL"),
        (of_sqlite("SQLITE_READONLY"), "DISK_READONLY"),
        (of_sqlite("SQLITE_READONLY_DIRECTORY"), "DISK_READONLY"),
        (of_sqlite("SQLITE_IOERR_FSYNC"), "DISK_IO"),
        (of_sqlite("SQLITE_IOERR_WRITE"), "DISK_IO"),
        (of_sqlite("SQLITE_IOERR_READ"), "STATE_UNREADABLE"),
        (of_sqlite("SQLITE_IOERR_CORRUPTFS"), "STATE_UNREADABLE"),
        (of_sqlite("SQLITE_CORRUPT"), "STATE_UNREADABLE"),
        (of_sqlite("SQLITE_NOTADB"), "STATE_UNREADABLE"),
        (None, "STATE_UNREADABLE"),
    ],
)
def test_the_code_comes_from_the_error_below_the_sentence(
    tmp_path: Path, cause: BaseException | None, code: str
) -> None:
    error = StoreError("the memory is not to be had")
    error.__cause__ = DiskError("cannot write it")
    error.__cause__.__cause__ = cause
    assert code_of(error, tmp_path) == code
    incident = incident_of(error, DaemonSettings(state=tmp_path))
    assert incident.code == code and incident.todo.endswith(".")


def test_one_incident_is_one_and_a_relapse_is_known(tmp_path: Path) -> None:
    settings = DaemonSettings(state=tmp_path)
    first = incident_of(StoreError("one"), settings, b"{}")
    assert failed_again(tmp_path, first) is first
    write_note(tmp_path, first)
    assert read_note(tmp_path) == first
    again = failed_again(tmp_path, incident_of(StoreError("two"), settings))
    assert (again.halt_id, again.since, again.sentence, again.status) == (first.halt_id, first.since, "two", "{}")

    def after(**values: Any) -> Incident:
        write_note(tmp_path, Incident(**{**{n: getattr(first, n) for n in Incident.__slots__}, **values}))
        return failed_again(tmp_path, incident_of(StoreError("three"), settings))

    unheard = after(over_at=time.time() - 5)
    assert (unheard.halt_id, unheard.relapses, unheard.over_at) == (first.halt_id, 1, 0.0)
    told = after(over_at=time.time() - 5, is_announced=True, is_told=True, relapses=3)
    assert told.halt_id != first.halt_id and (told.relapses, told.is_told, told.is_announced) == (4, False, False)
    later = after(over_at=time.time() - refuge.AGAIN_SECS - 1, relapses=3)
    assert later.halt_id != first.halt_id and later.relapses == 0


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"since": 1}', "\0"])
def test_a_note_that_is_none_is_as_if_there_were_none(tmp_path: Path, text: str) -> None:
    (tmp_path / refuge.NOTE).write_text(text)
    assert read_note(tmp_path) is None


# ---------------------------------------------------------------- a real daemon


@pytest.fixture
def receiver() -> Iterator[Recorder]:
    recorder = Recorder("127.0.0.1")
    yield recorder
    recorder.stop()


@pytest.fixture
def daemon(tmp_path: Path, receiver: Recorder) -> Iterator[LiveDaemon]:
    """A daemon that has lived: a memory, a status; not running."""
    more = f'[results]\nmemory_probe_secs = 0.3\n[webhook]\nurl = "{receiver.url}/hook"\nallow_http = true\n'
    made = LiveDaemon(tmp_path, more=more)
    made.start()
    assert made.ask("halt")["ok"]
    assert made.stop() == 0
    yield made
    made.stop()


def said_refuge(daemon: LiveDaemon, code: str) -> dict[str, Any]:
    """The refuge's status, whose form is checked."""
    reply = daemon.ask("status")
    assert reply["ok"] and reply["exit"] == 1, reply
    told = reply["data"]["refuge"]
    assert told["code"] == code, told
    assert "IN REFUGE since" in reply["text"] and code in reply["text"] and "tried again every" in told["todo"]
    (sentence,) = reply["data"]["attention"]
    assert told["sentence"] in sentence and told["todo"] in sentence
    assert reply["data"]["hold"].startswith("held by"), "the last that was known"
    listing = daemon.ask("list")
    assert listing["ok"] and listing["data"]["experiments"] == []
    commands: dict[str, dict[str, Any]] = {
        "halt": {},
        "resume": {},
        "retry": {"failed": True},
        "scan": {"machines": []},
    }
    for command, args in commands.items():
        refused = daemon.ask(command, **args)
        assert not refused["ok"] and refused["exit"] == 1
        assert told["sentence"] in refused["error"] and "in refuge" in refused["error"] and refused["hint"]
    return dict(told)


def goes_on(daemon: LiveDaemon) -> dict[str, Any]:
    """The status of the daemon once it has left its refuge."""
    daemon.until(lambda: daemon.ask("status")["data"]["refuge"] is None, "it goes on", 10)
    assert daemon.ask("resume")["ok"]
    return dict(daemon.ask("status"))


def bodies(receiver: Recorder, count: int) -> list[dict[str, Any]]:
    return [request.json() for request in receiver.wait(count)]


def test_a_memory_that_cannot_be_read_is_waited_for(daemon: LiveDaemon, receiver: Recorder) -> None:
    memory = daemon.state / "autoperf.db"
    good = memory.read_bytes()
    bad = b"\0" * 100 + good[100:]
    memory.write_bytes(bad)
    before = {path: path.read_bytes() for path in daemon.state.iterdir() if path.is_file() and path.name != "lock"}
    daemon.start()
    process = daemon.process
    assert process is not None
    told = said_refuge(daemon, "STATE_UNREADABLE")
    assert str(memory) in told["sentence"] and "keep the file" in told["todo"]
    (halt,) = bodies(receiver, 1)
    assert (halt["kind"], halt["cause"], halt["code"]) == ("halt", "controller", "STATE_UNREADABLE")
    assert "every experiment halted" in halt["text"] and "To do:" in halt["text"]
    daemon.drop("later.toml", "nobody reads this")
    daemon.until(lambda: (note := read_note(daemon.runtime)) is not None and note.is_told, "it knows that it was heard")
    daemon.kill()  # a restart in the refuge is the same incident
    interrupted = daemon.state / f"{TEMPORARY}0123456789abcdef"  # as a probe leaves it that is struck there
    interrupted.write_bytes(bytes(1 << 20))
    daemon.start()
    assert said_refuge(daemon, "STATE_UNREADABLE")["since"] == told["since"]
    kept = {path: path.read_bytes() for path in before}
    new = {path.name for path in daemon.state.iterdir()} - {path.name for path in before}
    assert kept == before and all(name in ("lock", "results") or name.startswith(TEMPORARY) for name in new)
    assert (daemon.queue / "later.toml").exists()
    daemon.until(lambda: not interrupted.exists(), "what the kill interrupted is removed")
    process = daemon.process
    memory.write_bytes(good)
    status = goes_on(daemon)
    assert daemon.process is process and process is not None and process.poll() is None
    assert status["exit"] == 0 and "Note: From" in status["text"] and "STATE_UNREADABLE" in status["text"]
    assert [body["kind"] for body in bodies(receiver, 2)] == ["halt", "over"]
    daemon.until(lambda: not (daemon.queue / "later.toml").exists(), "the queue is looked at again")
    assert daemon.stop() == 0
    assert len(receiver.requests) == 2, "somebody was told twice"
    assert "Traceback" not in daemon.text()


def test_a_lost_memory_is_begun_anew_by_a_person_only(daemon: LiveDaemon) -> None:
    memory = daemon.state / "autoperf.db"
    memory.unlink()
    daemon.start()
    told = said_refuge(daemon, "STATE_UNREADABLE")
    assert "is missing" in told["sentence"] and f"sudo touch {daemon.state}/{place.BEGIN_ANEW}" in told["todo"]
    assert not memory.exists()
    (daemon.state / place.BEGIN_ANEW).touch()
    daemon.until(lambda: daemon.ask("status")["data"]["refuge"] is None, "it goes on", 10)
    assert memory.exists() and daemon.ask("status")["data"]["hold"] == ""
    assert daemon.stop() == 0


@pytest.mark.fault("D12")
def test_an_unfit_folder_is_told_and_waited_for(daemon: LiveDaemon, fired: Fired) -> None:
    aside = daemon.root / "aside"
    daemon.state.rename(aside)
    daemon.state.symlink_to(aside)
    daemon.start()
    told = daemon.ask("status")["data"]["refuge"]
    assert f"{daemon.state} is a symbolic link" in told["sentence"] and "[paths] state" in told["todo"]
    fired("D12", told["sentence"])
    daemon.state.unlink()
    aside.rename(daemon.state)
    goes_on(daemon)
    assert daemon.stop() == 0


def test_what_was_not_heard_in_the_refuge_is_told_afterwards(daemon: LiveDaemon, receiver: Recorder) -> None:
    url, port = receiver.url, int(receiver.url.rpartition(":")[2])
    receiver.stop()
    memory = daemon.state / "autoperf.db"
    good = memory.read_bytes()
    memory.write_bytes(b"no memory")
    daemon.start()
    said_refuge(daemon, "STATE_UNREADABLE")
    daemon.until(lambda: (note := read_note(daemon.runtime)) is not None and note.tries > 0, "it was tried")
    memory.write_bytes(good)
    goes_on(daemon)
    again = Recorder("127.0.0.1", port)
    try:
        assert again.url == url
        kinds = {body["kind"] for body in bodies(again, 2)}
        assert kinds == {"halt", "over"}
    finally:
        again.stop()
    assert daemon.stop() == 0


@pytest.mark.fault("P4")
def test_it_ends_in_order_from_the_refuge(daemon: LiveDaemon, fired: Fired) -> None:
    (daemon.state / "autoperf.db").write_bytes(b"no memory")
    daemon.start()
    said_refuge(daemon, "STATE_UNREADABLE")
    began = time.monotonic()
    assert daemon.stop() == 0
    fired("P4", f"ended within {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < SOON_SECS
    assert not (daemon.runtime / "control.sock").exists()


@pytest.mark.fault("P9")
def test_a_second_daemon_is_refused_in_the_refuge_too(daemon: LiveDaemon, fired: Fired) -> None:
    (daemon.state / "autoperf.db").write_bytes(b"no memory")
    daemon.start()
    assert daemon.process is not None
    argv = [sys.executable, "-m", "autoperfd.daemon.main", "--config", str(daemon.config)]
    second = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 3 and f"pid {daemon.process.pid} on" in second.stderr, second.stderr
    fired("P9", second.stderr)
    said_refuge(daemon, "STATE_UNREADABLE")


@pytest.mark.fault("S4")
def test_a_newer_memory_ends_the_daemon_with_both_versions(daemon: LiveDaemon, fired: Fired) -> None:
    memory = daemon.state / "autoperf.db"
    db = sqlite3.connect(memory, isolation_level=None)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    db.execute("UPDATE meta SET value = '99.1' WHERE key = 'version'")
    db.execute(f"PRAGMA user_version={version + 1}")
    db.close()
    before = memory.read_bytes()
    argv = [sys.executable, "-m", "autoperfd.daemon.main", "--config", str(daemon.config)]
    ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1 and "autoperfd 99.1" in ended.stderr and f"version {version + 1}" in ended.stderr
    assert "Traceback" not in ended.stderr and memory.read_bytes() == before
    fired("S4", ended.stderr)


def test_a_note_of_the_refuge_is_not_a_secret_nor_for_everybody(daemon: LiveDaemon) -> None:
    (daemon.state / "autoperf.db").write_bytes(b"no memory")
    daemon.start()
    said_refuge(daemon, "STATE_UNREADABLE")
    note = daemon.runtime / refuge.NOTE
    assert note.stat().st_mode & 0o777 == 0o640 and json.loads(note.read_text())["code"] == "STATE_UNREADABLE"
    assert "hook" not in note.read_text() and os.fspath(daemon.state) in note.read_text()
