"""A bench for the tests of this folder: a loopback lab, plans of small shell scripts, and a cuttable relay."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from autoperfd.core.plan import Machine, Participant, ParticipantRecord, Plan, Role
from autoperfd.lab.loopback import LoopbackLab
from autoperfd.remote import Fleet, Order, Outcome, Timing

INSTALLATION = "00112233aabbccdd"
QUICK = Timing(
    connect_secs=10, answer_secs=6, probe_secs=3, prepared_secs=20, boot_budget_secs=10, stop_secs=1, grace_secs=1
)


def until(happened: Callable[[], object], secs: float = 8.0) -> None:
    """Waits until it happened; fails the test when it does not within `secs`."""
    deadline = time.monotonic() + secs
    pause = threading.Event()
    while not happened():
        assert time.monotonic() < deadline, f"did not happen within {secs} s: {happened}"
        pause.wait(0.01)


def running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Trust:
    """Host keys trusted, by (host, port)."""

    def __init__(self) -> None:
        self.lines: dict[tuple[str, int], list[str]] = {}

    def keys_for(self, host: str, port: int) -> list[str]:
        return self.lines.get((host, port), [])


class Bench:
    """The lab's machines as the fleet sees them, and everything a test does with them."""

    def __init__(self, lab: LoopbackLab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.trust = Trust()
        for m in lab.machines:
            self.trust.lines[m.ip, m.port] = [m.host_key_line]
        self.machines = tuple(
            Machine(m.name, "all", m.ip, m.port, m.username, str(m.key_path), "/bin/sh") for m in lab.machines
        )
        self.p1, self.p2 = self.machines[:2]
        self._fleets: list[Fleet] = []

    def fleet(self, timing: Timing = QUICK, installation: str = INSTALLATION, **settings: object) -> Fleet:
        defaults: dict[str, object] = {"credentials": None, "home": self.folder, "ping": "tcp"}
        fleet = Fleet(installation=installation, pins=self.trust, timing=timing, **{**defaults, **settings})  # type: ignore[arg-type]
        self._fleets.append(fleet)
        return fleet

    def close(self) -> None:
        for fleet in self._fleets:
            fleet.close()

    def order(self, *participants: Participant, deadline: int = 20, grace: bool = False, uid: str = "") -> Order:
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        plan = Plan("sh", "a_test", (), 1, 1, participants, grace)
        return Order(uid or uuid.uuid4().hex, plan, self.machines, folder, deadline)

    def home(self, machine: Machine) -> Path:
        return self.lab.machine(machine.name).home

    def attempt_folder(self, machine: Machine, uid: str, installation: str = INSTALLATION) -> Path:
        return self.home(machine) / ".autoperf" / installation / uid

    def started(self, machine: Machine, uid: str) -> bool:
        return (self.attempt_folder(machine, uid) / "started").exists()

    def pids(self, machine: Machine, uid: str) -> dict[str, int]:
        """Pids recorded there: "launcher" and "pid.N"."""
        files = [*self.attempt_folder(machine, uid).glob("pid.*"), self.attempt_folder(machine, uid) / "launcher"]
        return {file.name: int(file.read_text().split()[0]) for file in files}


def script(
    name: str,
    machine: Machine,
    text: str,
    *arguments: str,
    role: Role = "pub",
    environment: tuple[tuple[str, str], ...] = (),
    files: tuple[str, ...] = (),
) -> Participant:
    """A participant that is a shell script."""
    argv = ("/bin/sh", "-c", text, "script", *arguments)
    return Participant(name, role, 0, machine.name, argv, environment, f"{name}.stdout", f"{name}.stderr", files)


def make(
    fleet: Fleet,
    order: Order,
    *,
    confirmed: bool = False,
    on_started: Callable[[], None] = lambda: None,
    cancelled: threading.Event | None = None,
) -> Outcome:
    return fleet.attempt(order, confirmed=confirmed, on_started=on_started, cancelled=cancelled or threading.Event())


def by_name(outcome: Outcome) -> dict[str, ParticipantRecord]:
    return {record.name: record for record in outcome.records}


class Background:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self.result: object = None
        self._thread = threading.Thread(target=self._go, args=(call,), daemon=True)
        self._thread.start()

    def _go(self, call: Callable[[], object]) -> None:
        try:
            self.result = call()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.error = error

    def join(self, secs: float = 15.0) -> object:
        """The result; raises what the call raised."""
        self._thread.join(secs)
        assert not self._thread.is_alive(), f"still running after {secs} s"
        if self.error:
            raise self.error
        return self.result


class Relay:
    """A TCP relay in front of a machine, whose connections can be reset or silenced."""

    def __init__(self, ip: str, port: int) -> None:
        self._target = (ip, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.ip, self.port = self._listener.getsockname()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.connections = 0
        self.silent = False
        self.refusing = False
        self._wake_out, self._wake_in = os.pipe()
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def of(self, machine: Machine) -> Machine:
        return replace(machine, ip=self.ip, port=self.port)

    def reset(self) -> None:
        """Every connection ends with RST, on both sides."""
        for pair in list(self._pairs):
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RD)
        os.write(self._wake_in, b"x")

    def close(self) -> None:
        os.write(self._wake_in, b"q")
        self._thread.join(5)
        for pair in self._pairs:
            for end in pair:
                end.close()
        self._listener.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _pump(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_out, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._listener:
                        near = self._listener.accept()[0]
                        if self.refusing:
                            near.close()
                            continue
                        far = socket.create_connection(self._target)
                        self._pairs.append((near, far))
                        self.connections += 1
                        selector.register(near, selectors.EVENT_READ, far)
                        selector.register(far, selectors.EVENT_READ, near)
                    elif key.fileobj == self._wake_out:
                        if os.read(self._wake_out, 1) == b"q":
                            return
                    elif not self.silent or not key.fileobj:
                        self._pass(selector, key.fileobj, key.data)  # type: ignore[arg-type]
                    else:
                        selector.unregister(key.fileobj)

    def _pass(self, selector: selectors.BaseSelector, source: socket.socket, target: socket.socket) -> None:
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        if data:
            with contextlib.suppress(OSError):
                target.sendall(data)
                return
        self._pairs = [pair for pair in self._pairs if source not in pair]
        for end in (source, target):
            with contextlib.suppress(KeyError, ValueError):
                selector.unregister(end)
            end.close()


@contextlib.contextmanager
def relay(bench: Bench, machine: Machine) -> Iterator[Relay]:
    """A relay to the machine, trusted like it."""
    between = Relay(machine.ip, machine.port)
    bench.trust.lines[between.ip, between.port] = bench.trust.lines[machine.ip, machine.port]
    try:
        yield between
    finally:
        between.close()
