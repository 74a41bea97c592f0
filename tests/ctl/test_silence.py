"""What `status` says when no daemon answers: down, starting, hung, upgraded, forbidden, never there."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest

from autoperfd.ctl.main import main
from autoperfd.daemon.store import SCHEMA_VERSION
from autoperfd.daemon.views import ExperimentView, MachineView, StatusView, snapshot

Capture = pytest.CaptureFixture[str]
OURS, NEWER = SCHEMA_VERSION, SCHEMA_VERSION + 1
NOW = 1_795_000_000.0
KNOWN = StatusView(
    NOW - 7200,
    "0.1.0",
    812,
    NOW - 9000,
    experiments=(
        ExperimentView(
            "PCG #1",
            "running",
            tests_done=3,
            tests_total=36,
            succeeded=3,
            machines=(MachineView("p1", "192.0.2.1:22", "ok", NOW - 7200),),
        ),
    ),
)
LAST = """
The last that is known:
PCG #1: running  [#...................]  3 of 36 tests (8 %), 3 ok
  machines  p1 ok
"""


@pytest.fixture
def state(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder of a daemon that was there two hours ago."""
    monkeypatch.setattr(time, "time", lambda: NOW)
    (lab / "state" / "status.json").write_bytes(snapshot(KNOWN))
    return lab / "state"


@pytest.fixture
def words(lab: Path) -> list[str]:
    return ["status", "--config", str(lab / "autoperfd.toml")]


@pytest.fixture
def holder(state: Path) -> Iterator[None]:
    """A process that holds the state folder."""
    path = state / "lock"
    path.write_text("pid 4711 on bench, computer 0011\n")
    fd = os.open(path, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield
    os.close(fd)


def remember(state: Path, version: int) -> None:
    """Leave a memory of that version behind."""
    with closing(sqlite3.connect(state / "autoperf.db")) as db:
        db.execute(f"PRAGMA user_version={version}")
        db.execute("CREATE TABLE x(y)")


def shown(text: str) -> str:
    return dedent(text).lstrip("\n")


@pytest.mark.usefixtures("state")
def test_down(words: list[str], capsys: Capture) -> None:
    assert main(words) == 3
    assert (
        capsys.readouterr().out
        == shown(
            """
        autoperfd is not running; it was last heard of 2 h ago (2026-11-18 09:06 UTC).
        Start it: `sudo systemctl start autoperfd`. Why it ended: `journalctl -u autoperfd -e`.
        """
        )
        + LAST
    )


@pytest.mark.usefixtures("holder")
def test_starting(words: list[str], capsys: Capture) -> None:
    assert main(words) == 3
    assert (
        capsys.readouterr().out
        == shown(
            """
        autoperfd (pid 4711) is starting or ending just now and does not answer yet; it was last heard of 2
        h ago (2026-11-18 09:06 UTC).
        Ask again in a few seconds. What it is at: `journalctl -u autoperfd -e`.
        """
        )
        + LAST
    )


@pytest.mark.usefixtures("holder")
def test_hung(words: list[str], lab: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoperfd.ctl.client.QUICK_SECS", 0.05)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(lab / "run" / "control.sock"))
        listener.listen()
        assert main(words) == 1
    assert (
        capsys.readouterr().out
        == shown(
            """
        autoperfd (pid 4711) does not answer in time; it was last heard of 2 h ago (2026-11-18 09:06 UTC).
        systemd restarts it when it stays silent for 30 s. Else: `sudo systemctl restart autoperfd`. No test
        is lost.
        """
        )
        + LAST
    )


def test_a_memory_of_a_newer_version(words: list[str], state: Path, capsys: Capture) -> None:
    remember(state, NEWER)
    assert main(words) == 3
    assert (
        capsys.readouterr().out
        == shown(
            f"""
        autoperfd is not running; it was last heard of 2 h ago (2026-11-18 09:06 UTC).
        It cannot start: a newer autoperfd has written its memory (version {NEWER}, this one knows up to {OURS}).
        Install the newer autoperfd again; nothing was changed.
        """
        )
        + LAST
    )


def test_a_memory_of_this_version_is_not_spoken_of(words: list[str], state: Path, capsys: Capture) -> None:
    remember(state, OURS)
    assert main(words) == 3
    assert "sudo systemctl start autoperfd" in capsys.readouterr().out
    (state / "autoperf.db").write_bytes(b"\xff" * 100)
    assert main(words) == 3
    assert "sudo systemctl start autoperfd" in capsys.readouterr().out


def test_never_there(words: list[str], lab: Path, capsys: Capture) -> None:
    assert main(words) == 3
    assert capsys.readouterr().err == (
        f"autoperfctl: autoperfd is not running: nothing answers at {lab}/run/control.sock\n"
        "  Start it: `sudo systemctl start autoperfd`. Why it ended: `journalctl -u autoperfd -e`. "
        f"There is no readable {lab}/state/status.json that tells what it did last.\n"
    )


def test_forbidden(words: list[str], lab: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object) -> dict[str, object]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("autoperfd.ctl.client.ask", ask)
    assert main(words) == 1
    assert capsys.readouterr().err == (
        f"autoperfctl: you may not speak to the daemon at {lab}/run/control.sock\n"
        "  Run it as root or as a member of group autoperf\n"
    )


@pytest.mark.usefixtures("holder")
def test_a_script_gets_the_same(words: list[str], capsys: Capture) -> None:
    assert main([*words, "--json"]) == 3
    data = json.loads(capsys.readouterr().out)
    assert data["running"] is False and data["written_at"] == "2026-11-18T09:06:40Z"
    assert data["status"]["experiments"][0]["tests_done"] == 3 and data["hint"].startswith("Ask again")
