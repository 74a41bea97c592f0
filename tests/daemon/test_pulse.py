"""The sign of life: given while engine and intake move on, and not a moment longer."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoperfd.daemon.notify import Systemd
from autoperfd.daemon.pulse import IDLE_SECS, WORKING_SECS, Pulse
from tests.faults import Fired


class Other:
    """Something that may be stuck."""

    def __init__(self) -> None:
        self.why = ""

    def stuck(self) -> str:
        return self.why


class Hands:
    """A monotonic clock that is set by hand."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 500.0
        patch.setattr("autoperfd.daemon.pulse.time", self)

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    return Hands(monkeypatch)


@pytest.mark.fault("S1")
def test_an_idle_engine_must_beat(hands: Hands, fired: Fired) -> None:
    beating = Pulse(Systemd())
    assert beating.alive(500.0) and beating.alive(500.0 + IDLE_SECS - 0.1)
    assert not beating.alive(500.0 + IDLE_SECS)
    fired("S1", f"an engine silent for {IDLE_SECS} s")
    hands.now = 600.0
    beating.beat()
    assert beating.alive(600.0 + IDLE_SECS - 0.1) and not beating.alive(600.0 + IDLE_SECS)


def test_a_slow_commit_is_no_death(hands: Hands) -> None:
    beating = Pulse(Systemd())
    with beating.working():
        assert beating.alive(500.0 + WORKING_SECS - 0.1)
        assert not beating.alive(500.0 + WORKING_SECS)
        hands.now = 550.0
    assert beating.alive(550.0 + IDLE_SECS - 0.1) and not beating.alive(550.0 + IDLE_SECS)


def test_an_error_ends_the_work_as_well(hands: Hands) -> None:
    beating = Pulse(Systemd())
    with pytest.raises(KeyError), beating.working():
        raise KeyError
    assert not beating.alive(500.0 + IDLE_SECS)


def test_a_stuck_intake_is_a_death(hands: Hands) -> None:
    beating, intake = Pulse(Systemd()), Other()
    beating.watch(Other())
    beating.watch(intake)
    assert beating.alive(500.0)
    intake.why = "the intake has not moved for 130 s"
    assert not beating.alive(500.0)
    with beating.working():
        assert beating.alive(500.0)  # it may wait for the engine
    intake.why = ""
    assert beating.alive(500.0)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end of the notification socket; it watches us."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        monkeypatch.setenv("WATCHDOG_USEC", "30000")
        yield manager


def end(beating: Pulse) -> None:
    beating._pause.set()
    for thread in threading.enumerate():
        if thread.name == "pulse":
            thread.join(10)
    beating._systemd.close()


def test_systemd_is_pinged_while_all_is_well(systemd: socket.socket) -> None:
    beating = Pulse(Systemd())
    assert [systemd.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    end(beating)


@pytest.mark.fault("S1")
def test_systemd_is_not_pinged_while_something_is_stuck(systemd: socket.socket, fired: Fired) -> None:
    beating, asked, intake = Pulse(Systemd()), threading.Semaphore(0), Other()

    class Asked(Other):
        def stuck(self) -> str:
            asked.release()
            return intake.why

    intake.why = "stuck"
    beating.watch(Asked())
    deadline = time.monotonic() + 10
    assert asked.acquire(timeout=10)
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            systemd.recv(100)  # what came before
    for _ in range(3):
        assert asked.acquire(timeout=deadline - time.monotonic())
    fired("S1", "an intake that is stuck, looked at four times")
    with pytest.raises(BlockingIOError):
        systemd.recv(100)
    intake.why = ""
    systemd.settimeout(10)
    assert systemd.recv(100) == b"WATCHDOG=1"
    end(beating)


def test_without_a_watchdog_there_is_no_thread(hands: Hands) -> None:
    Pulse(Systemd())
    assert not [thread for thread in threading.enumerate() if thread.name == "pulse"]
