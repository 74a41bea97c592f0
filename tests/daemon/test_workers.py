"""Orders become calls of the fleet, and what comes of them one event each: the ladder's rungs and ill machines."""

from __future__ import annotations

import errno
import json
import queue
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from autoperfd.core import messages as m
from autoperfd.core.plan import Machine, Plan
from autoperfd.core.settings import PowerSwitch
from autoperfd.daemon import workers as workers_module
from autoperfd.daemon.main import SystemClock
from autoperfd.daemon.work import Answer, Crash
from autoperfd.daemon.workers import Workers
from autoperfd.errors import MachineAway, MachineError, MachineImpossible
from autoperfd.remote.threads import NoThread
from autoperfd.remote.values import MachineReport, Validation
from autoperfd.tools import TOOLS
from tests.faults import Fired

PLUG = PowerSwitch("plug", command=("/bin/true",))
P1 = Machine("p1", "pub", "192.0.2.1", 22, "pi", "~/.ssh/id", "~/tool", power_cycle="plug")
P2 = Machine("p2", "sub", "192.0.2.2", 22, "pi", "~/.ssh/id", "~/tool")
P3 = Machine("p3", "sub", "192.0.2.3", 22, "pi", "~/.ssh/id", "~/tool", power_cycle="gone")


class Fleet:
    """Notes what it is asked and answers as it was told."""

    def __init__(self, error: MachineError | None = None) -> None:
        self.error = error
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def _answer(self, what: str, machines: Sequence[Machine], **rest: Any) -> Validation:
        rest.pop("cancelled")
        self.asked.append((what, rest))
        if self.error:
            raise self.error
        return Validation({machine.name: MachineReport(machine.name, "new", 1, 1) for machine in machines})

    def reboot(self, machines: Sequence[Machine], boot_ids: Mapping[str, str], **rest: Any) -> Validation:
        return self._answer("reboot", machines, **rest)

    def power_cycle(
        self, machines: Sequence[Machine], boot_ids: Mapping[str, str], switches: Any, **rest: Any
    ) -> Validation:
        return self._answer("power_cycle", machines, switches=switches, **rest)

    def validate(self, machines: Sequence[Machine], argv: Any, exits: Any, **rest: Any) -> Validation:
        return self._answer("validate", machines, **rest)


class Abandoned(Fleet):
    """Its links may be broken."""

    def abandon(self, machines: Sequence[Machine]) -> None:
        self.asked.append(("abandon", {}))


class Clock:
    """Monotonic time that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def answer(fleet: Fleet, order: m.Order, folder: Path = Path("/nowhere")) -> m.Event:
    inbox: queue.SimpleQueue[Answer | Crash] = queue.SimpleQueue()
    speeds = {"validation_secs": 1.0, "boot_budget_secs": 1.0, "grace_secs": 1.0}
    workers = Workers(fleet, TOOLS, inbox.put, SystemClock(), **speeds, connect_secs=2.0, power={"plug": PLUG})  # type: ignore[arg-type]
    workers.start(1, 5, order, folder, "perftest")
    found = inbox.get(timeout=5)
    assert isinstance(found, Answer) and (found.experiment, found.ticket) == (1, 5), found
    return found.event


@pytest.mark.parametrize(
    ("rung", "asked"),
    [("", {}), ("soft", {"force": False, "tell_secs": 6.0}), ("forced", {"force": True, "tell_secs": 6.0})],
)
def test_reboots(rung: str, asked: dict[str, Any]) -> None:
    fleet = Fleet()
    assert answer(fleet, m.Reboot((P1, P2), {"p1": "old"}, rung)) == m.Rebooted(boot_ids={"p1": "new", "p2": "new"})
    assert fleet.asked == [("reboot", asked)]


def test_power_is_cycled_by_the_switch_the_machine_names() -> None:
    fleet = Fleet()
    assert answer(fleet, m.PowerCycle((P1,), {"p1": "old"})) == m.Cycled(boot_ids={"p1": "new"})
    assert fleet.asked == [("power_cycle", {"switches": {"p1": PLUG}})]


@pytest.mark.parametrize(("machine", "why"), [(P2, "it has no power_cycle"), (P3, r"there is no [power.gone]")])
def test_no_machine_of_a_call_is_cycled_when_one_has_no_switch(machine: Machine, why: str) -> None:
    fleet = Fleet()
    event = answer(fleet, m.PowerCycle((P1, machine), {}))
    assert isinstance(event, m.NotCycled) and (event.machine, event.code) == (machine.name, "NO_SWITCH")
    assert why in event.reason and fleet.asked == []


REFUSED = MachineImpossible("p1", "pi may not reboot it", code="REBOOT_REFUSED")
GONE = MachineAway("p1", "it did not come back", code="MACHINE_GONE")


@pytest.mark.parametrize("error", [REFUSED, GONE])
@pytest.mark.parametrize("order", [m.Reboot((P1,), {}, "soft"), m.Reboot((P1,), {}, "forced"), m.PowerCycle((P1,), {})])
def test_a_rung_without_effect_is_told_whatever_it_was(order: m.Order, error: MachineError) -> None:
    event = answer(Fleet(error), order)
    assert event == m.NotCycled(machine="p1", reason=error.sentence(), code=error.code)


def test_a_reboot_that_the_policy_asks_for_needs_a_person_when_it_is_refused() -> None:
    assert isinstance(answer(Fleet(REFUSED), m.Reboot((P1,), {"p1": "old"})), m.Impossible)
    assert isinstance(answer(Fleet(GONE), m.Reboot((P1,), {"p1": "old"})), m.Unreachable)


def test_every_machine_that_is_not_fit_is_told_with_its_code() -> None:
    error = MachineAway("p2", "its shell does not answer", code="SHELL_HANG")
    other = MachineAway("p1", "192.0.2.1 does not answer pings", code="PING")
    error.pings, error.ssh_checks, other.pings, error.others = 2, 2, 4, (other,)
    event = answer(Fleet(error), m.Validate((P1, P2, P3), False, ""))
    assert isinstance(event, m.Unreachable) and (event.machine, event.code) == ("p2", "SHELL_HANG")
    assert event.ill == {"p1": "PING", "p2": "SHELL_HANG"} and (event.pings, event.ssh_checks) == (2, 2)
    stood = json.loads(event.evidence)["machines"]
    assert {name: (at["code"], at.get("pinged")) for name, at in stood.items()} == {
        "p1": ("PING", False),
        "p2": ("SHELL_HANG", True),
        "p3": ("ok", None),
    }


def test_an_order_that_finds_no_thread_waits_for_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, fleet, inbox = Clock(), Fleet(), queue.SimpleQueue[Answer | Crash]()
    speeds = {"validation_secs": 1.0, "boot_budget_secs": 1.0, "grace_secs": 1.0}
    workers = Workers(fleet, TOOLS, inbox.put, clock, **speeds)  # type: ignore[arg-type]

    def refuse(work: object, name: str) -> None:
        raise NoThread

    with monkeypatch.context() as patched:
        patched.setattr(workers_module, "begin", refuse)
        workers.start(1, 5, m.Reboot((P1,), {}, "soft"), Path("/nowhere"), "perftest")
        first = workers.next_overdue()
        assert first is not None and first - clock.now <= 1, "the engine is back soon"
        clock.now = first
        assert workers.give_up_overdue() == []
        again = workers.next_overdue()
        assert again is not None and first < again <= first + 1, "and never in a busy loop"
    assert fleet.asked == [] and len(caplog.records) == 1 and "NO_THREADS: Reboot-1 waits" in caplog.text
    clock.now = again
    assert workers.give_up_overdue() == []
    assert inbox.get(timeout=5) == Answer(1, 5, m.Rebooted(boot_ids={"p1": "new"}))


def test_an_order_that_never_finds_a_thread_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, answers = Clock(), list[Answer]()
    speeds = {"validation_secs": 1.0, "boot_budget_secs": 1.0, "grace_secs": 1.0}
    workers = Workers(Abandoned(), TOOLS, lambda told: None, clock, **speeds)  # type: ignore[arg-type]

    def refuse(work: object, name: str) -> None:
        raise NoThread

    monkeypatch.setattr(workers_module, "begin", refuse)
    workers.start(1, 5, m.Reboot((P1,), {}, "soft"), Path("/nowhere"), "perftest")
    for _ in range(10_000):
        due = workers.next_overdue()
        if due is None:
            break
        clock.now = due
        answers += workers.give_up_overdue()
    assert [(answer.experiment, answer.ticket) for answer in answers] == [(1, 5)]


@pytest.mark.fault("D15")
def test_results_that_go_away_as_an_attempt_begins_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fired: Fired
) -> None:
    """Right behind the look whether they are there: making them anew would hide it."""
    results, elsewhere = tmp_path / "results/a", tmp_path / "elsewhere"
    results.mkdir(parents=True)
    real = Path.is_dir

    def looked_at(path: Path) -> bool:
        found = real(path)
        if path == results and found:
            results.rename(elsewhere)
        return found

    monkeypatch.setattr(Path, "is_dir", looked_at)
    plan = Plan("perftest", "3SEC_100B", (), 1, 3, ())
    order = m.RunAttempt((P1,), uid="u", number=1, plan=plan, deadline_secs=1.0, confirmed=False, opened=1.0, facts={})
    event = answer(Fleet(), order, results)
    assert isinstance(event, m.LowDisk) and event.code == "RESULTS_MISSING", event
    assert not results.exists() and list(elsewhere.iterdir()) == []
    fired("D15", event.reason)


def test_whatever_cannot_be_opened_leaves_the_attempt_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr("os.scandir", refused)
    plan = Plan("perftest", "3SEC_100B", (), 1, 3, ())
    order = m.RunAttempt((P1,), uid="u", number=1, plan=plan, deadline_secs=1.0, confirmed=False, opened=1.0, facts={})
    event = answer(Fleet(), order, tmp_path)
    assert isinstance(event, m.LowDisk) and event.code == "NO_DESCRIPTORS", event
    assert "Too many open files. Raise LimitNOFILE=" in event.reason


@pytest.mark.parametrize("order", [m.Sweep((P1,)), m.SlowProbe((P1,), 0.0)])
def test_endless_work_that_hangs_is_begun_anew(monkeypatch: pytest.MonkeyPatch, order: m.Order) -> None:
    """Its answer is that of the order that was committed; nobody else would notice that it is stuck."""
    clock, fleet, told, begun = Clock(), Abandoned(), list[Answer | Crash](), list[Callable[[], None]]()
    speeds = {"validation_secs": 1.0, "boot_budget_secs": 1.0, "grace_secs": 1.0}
    workers = Workers(fleet, TOOLS, told.append, clock, **speeds)  # type: ignore[arg-type]
    monkeypatch.setattr(workers_module, "begin", lambda work, name: begun.append(work))
    workers.start(1, 5, order, Path("/nowhere"), "perftest")
    due = workers.next_overdue()
    assert due is not None and due - clock.now <= 5 * 3600
    clock.now = due
    assert workers.give_up_overdue() == [] and len(begun) == 2
    assert fleet.asked == [("abandon", {})], "what it hangs in is broken off"
    again = workers.next_overdue()
    assert again is not None and again > due, "and never in a busy loop"
    begun[0]()  # it comes back after all: nobody waits for that any more
    assert told == []
