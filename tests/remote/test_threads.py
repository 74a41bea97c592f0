"""Where the system has no thread left: what is begun by hand, and what is to be done on machines."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from autoperfd.core.plan import Machine
from autoperfd.core.settings import PowerSwitch
from autoperfd.errors import Cancelled, MachineAway
from autoperfd.remote import crew, link, tcp
from autoperfd.remote.crew import Call
from autoperfd.remote.power import Press
from autoperfd.remote.threads import NoThread, begin
from autoperfd.remote.values import Timing

MACHINES = [Machine(name, "pub", "192.0.2.1", 22, "pi", "~/.ssh/id", "~/tool") for name in ("p1", "p2", "p3")]


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """`left[0]` threads can still be begun; what follows are the numbers after each refusal."""
    numbers = [0]
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if numbers[0] <= 0:
            numbers[:] = [*numbers[1:], 0] if len(numbers) > 1 else numbers
            raise RuntimeError("can't start new thread")
        numbers[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    return numbers


def test_a_thread_that_is_not_to_be_had_is_told_in_words(left: list[int]) -> None:
    with pytest.raises(NoThread, match="the controller has no thread left"):
        begin(lambda: None, "nobody")
    with pytest.raises(OSError, match="no thread left"):
        tcp.resolve("a-name.invalid", 22, 1.0)
    assert "no thread left" in Press(PowerSwitch("plug", command=(str(Path("/bin/true")),))).problem


def test_a_call_waits_for_its_first_thread_and_makes_do_with_one(
    left: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(crew, "THREAD_SECS", 0.01)
    left[:] = [0, 0, 1]  # twice none, then one
    with caplog.at_level(logging.WARNING):
        answers = Call(None, lambda: None).each(MACHINES, lambda machine: machine.name)
    assert answers == {name: name for name in ("p1", "p2", "p3")}
    assert [record.message.split(":")[0] for record in caplog.records] == ["NO_THREADS"]


def test_a_call_that_waits_for_a_thread_can_be_cancelled(left: list[int]) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        Call(cancelled, lambda: None).each(MACHINES, lambda machine: machine.name)


def test_a_link_without_a_thread_counts_as_away(left: list[int]) -> None:
    machine = Machine("p1", "pub", "a-name.invalid", 22, "pi", "~/.ssh/id", "~/tool")
    with pytest.raises(MachineAway, match="p1: the controller has no thread left to speak with it") as found:
        link.start_transport(machine, (), Timing(), lambda sock: None)
    assert found.value.code == "NO_THREADS"
