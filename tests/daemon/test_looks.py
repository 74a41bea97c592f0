"""What takes a look at the network: every machine is told of, in time or not, and none that is in use is touched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import pytest

from autoperfd.core.plan import Machine
from autoperfd.daemon import looks
from autoperfd.daemon.control import Reply, Who
from autoperfd.daemon.looks import Looks
from autoperfd.daemon.notify import Message, Outcome, Sender
from autoperfd.daemon.pins import PinBook
from autoperfd.errors import MachineAway
from autoperfd.remote.fleet import Fleet
from autoperfd.remote.values import Arrivals, Examination, MachineReport, Validation
from tests.daemon.support import toml

US = Who(0, 0, 1, "ann")
DOMAINS = range(5, 8)


class FakeFleet:
    """Machines that answer, but for 10.0.0.2, of which a test says what it does."""

    def __init__(self) -> None:
        self.second: Callable[[], None] = lambda: None
        self.validated: list[str] = []

    def validate(self, machines: Sequence[Machine], *_: Any, **more: Any) -> Validation:
        """One machine."""
        (machine,) = machines
        self.validated.append(machine.name)
        if machine.ip == "10.0.0.2":
            self.second()
        return Validation({machine.name: MachineReport(machine.name, "b", 1, 1, facts={"kernel": "6.1"})})

    def examine(self, machines: Sequence[Machine], **_: Any) -> Mapping[str, Examination]:
        """Everybody hears everybody."""
        names = [machine.name for machine in machines]
        return {
            name: Examination(True, "ok", hears={other: True for other in names if other != name}) for name in names
        }

    def udp(
        self, machines: Sequence[Machine], ports: Sequence[int], *, secs: float, **_: Any
    ) -> Mapping[str, Arrivals]:
        """Nobody's datagrams arrive."""
        self.ports = list(ports)
        assert 0 < secs <= looks.PROBE_SECS
        names = [machine.name for machine in machines]
        silent: dict[str, dict[str, bool | None]] = {
            name: {other: False for other in names if other != name} for name in names
        }
        return {name: Arrivals("10.0.0.9", ports[0], silent[name], silent[name]) for name in names}


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet()


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def looked(fleet: FakeFleet, users: Sequence[str] = ("", ""), **args: object) -> list[dict[str, Any]]:
    """The answer to a probe of two machines; `users`: who uses each."""

    def engine(command: str, given: Mapping[str, Any], who: Who) -> Reply:
        assert command == "in_use" and len(given["machines"]) == 2
        return Reply(data={"users": list(users), "domains": [5]})

    made = Looks(engine, cast(Fleet, fleet), cast(PinBook, None), (), None, DOMAINS)
    reply = made("probe", {"text": toml("A"), **args}, US)
    assert reply.ok, reply
    return cast(list[dict[str, Any]], reply.data["machines"])


def test_fit_machines(fleet: FakeFleet) -> None:
    one, two = looked(fleet, hear=True)
    assert (one["machine"], one["well"], one["facts"], one["hears"]) == ("p1", True, {"kernel": "6.1"}, {"p2": True})
    assert two["hears"] == {"p1": True} and "hears" not in looked(fleet)[0]


def test_whose_datagrams_arrive_at_a_port_of_a_domain_no_attempt_has(fleet: FakeFleet) -> None:
    one, two = looked(fleet, hear=True)
    assert fleet.ports == [7400 + 250 * 6 + 10, 7400 + 250 * 7 + 10]
    silent = {"address": "10.0.0.9", "port": 8910, "why": "", "multicast": False}
    assert one["udp"] == {**silent, "unicast": {"p2": False}, "group": {"p2": False}}
    assert two["udp"]["unicast"] == {"p1": False} and "udp" not in looked(fleet)[0]


def test_whether_tests_use_multicast_is_told(fleet: FakeFleet) -> None:
    def with_multicast(command: str, given: Mapping[str, Any], who: Who) -> Reply:
        return Reply(data={"users": ["", ""], "domains": []})

    text = toml("A").replace("use_multicast = [false]", "use_multicast = [false, true]")
    made = Looks(with_multicast, cast(Fleet, fleet), cast(PinBook, None), (), None, DOMAINS)
    reply = made("probe", {"text": text, "hear": True}, US)
    assert [one["udp"]["multicast"] for one in reply.data["machines"]] == [True, True], reply


def test_a_machine_that_is_ill(fleet: FakeFleet) -> None:
    def away() -> None:
        raise MachineAway("p2", "it does not answer", code="PING", hint="Look at it")

    fleet.second = away
    one, two = looked(fleet, hear=True)
    assert one["well"] and "hears" not in one  # there is nobody left to be heard
    assert (two["well"], two["hint"]) == (False, "Look at it") and "does not answer" in two["sentence"]


def test_a_machine_that_is_not_looked_at_in_time_is_told_of(
    fleet: FakeFleet, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "LOOK_SECS", 3.0)  # enough for the look at p1 on a computer that stalls
    fleet.second = lambda: cast(None, released.wait(30))
    one, two = looked(fleet)
    assert one["well"] is True
    assert (two["machine"], two["well"]) == ("p2", False) and "was not looked at within" in two["sentence"]


def test_a_machine_in_use_is_left_alone(fleet: FakeFleet) -> None:
    one, two = looked(fleet, users=("", "B"))
    assert one["well"] and two["well"] is None and two["sentence"] == "B uses it now"
    assert fleet.validated == ["p1"]


def test_what_is_no_experiment_file_is_refused(fleet: FakeFleet) -> None:
    made = Looks(lambda *_: Reply(), cast(Fleet, fleet), cast(PinBook, None), (), None, DOMAINS)
    assert not made("probe", {"text": "x ="}, US).ok and not made("probe", {}, US).ok
    assert made("status", {}, US).ok and fleet.validated == []


class FakeSender:
    """Hands an outcome over at once, or never."""

    def __init__(self, told: Callable[[Message, Outcome], None], outcome: Outcome | None) -> None:
        self.told, self.outcome, self.closed = told, outcome, False

    def start(self) -> None:
        """Nothing."""

    def submit(self, message: Message) -> None:
        """Tell."""
        assert message.kind == "test" and "whether messages arrive" in str(message.facts["sentence"])
        if self.outcome:
            self.told(message, self.outcome)

    def close(self) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("outcome", "result"), [(Outcome("sent"), "sent"), (Outcome("dead", "HTTP 404"), "dead"), (None, "failed")]
)
def test_a_test_message(
    outcome: Outcome | None, result: str, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "LOOK_SECS", 0.1)

    def sender(told: Callable[[Message, Outcome], None]) -> Sender:
        return cast(Sender, FakeSender(told, outcome))

    made = Looks(lambda *_: Reply(), cast(Fleet, fleet), cast(PinBook, None), (), sender, DOMAINS)
    assert made("test_message", {}, US).data["result"] == result
    silent = Looks(lambda *_: Reply(), cast(Fleet, fleet), cast(PinBook, None), (), None, DOMAINS)
    assert silent("test_message", {}, US).data["result"] == "none"
