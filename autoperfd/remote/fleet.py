"""The fleet: everything the daemon asks of machines. Owns all links; any worker thread may call; blocks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from autoperfd.core.guards import Guards
from autoperfd.core.plan import Machine
from autoperfd.core.settings import PowerSwitch
from autoperfd.core.text import safe
from autoperfd.errors import MachineAway, MachineImpossible
from autoperfd.remote import examine, keys, probe, restart, udp
from autoperfd.remote.attempt import Attempt
from autoperfd.remote.crew import Call, whole
from autoperfd.remote.link import Line, Link, start_transport
from autoperfd.remote.values import Arrivals, Examination, MachineReport, Order, Outcome, Pins, Timing, Validation

UNGUARDED = Guards(foreign="record", users="record", throttled="record", min_free_mb=0)
_Key = tuple[str, int, str, str]


class Fleet:
    """All machines, one persistent link each. Thread-safe; one a daemon; `close` when done.

    Errors of every method: MachineAway (may pass), MachineTaken (another installation's attempt is there),
    MachineImpossible (a person must act), Cancelled.
    Where several machines fail, the gravest is raised and the rest are its `others`.
    """

    def __init__(
        self,
        *,
        installation: str,
        pins: Pins,
        timing: Timing,
        credentials: Path | None,
        home: Path,
        ping: str = "icmp",
        guards: Guards = UNGUARDED,
        instance: str = "",
    ) -> None:
        """`installation`: 16 hex digits; `credentials`: $CREDENTIALS_DIRECTORY; `home`: what "~" of a key
        means; `ping`: "icmp", "tcp" or "auto" (ICMP, by TCP connect where ICMP is forbidden); `guards`: a machine that
        would make every attempt invalid is refused in validation; `instance`: which of several daemons this is."""
        # It logs every refused connection with a traceback; errors here carry what matters.
        logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)
        self._installation = installation
        self._pins = pins
        self._timing = timing
        self._ping = ping
        self._guards = guards
        self._ring = keys.KeyRing(credentials, home, instance)
        self._lock = threading.Lock()
        self._links: dict[_Key, Link] = {}
        self._known: dict[_Key, probe.Known] = {}
        self._closed = False

    def validate(
        self,
        machines: Sequence[Machine],
        probe_argv: Sequence[str],
        probe_exits: Collection[int],
        *,
        wants_reboot: bool,
        uid_open: str = "",
        cancelled: threading.Event,
        patience_secs: float,
    ) -> Validation:
        """Ping, log in and probe all machines in parallel, each again until it answers or patience is used up.

        `uid_open`: the attempt that may be running there, not a leftover; the executable is not started then.
        It is started once a connection and boot; later probes are light and repeat its output.
        """
        question = probe.Question(
            self._installation,
            tuple(probe_argv),
            probe.exits(probe_exits),
            wants_reboot,
            uid_open,
            self._ping,
            self._guards,
        )
        lines = self._lines(machines)
        call = self._call(lines, cancelled)
        hopeless = threading.Event()  # one machine needs a person: the others are not waited for
        began = time.monotonic()

        def check(machine: Machine) -> MachineReport:
            line, key = lines[machine.name], _key(machine)
            patience = patience_secs - (time.monotonic() - began)
            try:
                report, known = probe.fit(line, self._timing, call, question, self._known.get(key), patience, hopeless)
            except MachineImpossible:
                hopeless.set()
                raise
            with self._lock:
                if known:
                    self._known[key] = known
                else:
                    self._known.pop(key, None)
            return report

        reports = whole(call.each(machines, check))
        same = probe.same_machine(list(reports.values()))
        if same:
            raise same
        return Validation(reports)

    def reboot(
        self,
        machines: Sequence[Machine],
        boot_ids: Mapping[str, str],
        *,
        force: bool = False,
        tell_secs: float | None = None,
        cancelled: threading.Event,
    ) -> Validation:
        """Reboot every machine whose boot id is still the stored one, and wait until all answer with another.

        A machine whose boot id differs already counts as rebooted: asking again is harmless. One that is missing in
        `boot_ids` is rebooted whatever it has. `force`: without systemd. `tell_secs`: give up on a machine that could
        not even be told for so long; None: the boot budget. Only the boot ids of the answer mean something.
        """
        patience = self._timing.boot_budget_secs if tell_secs is None else tell_secs

        def one(line: Line, call: Call) -> str:
            stored = boot_ids.get(line.machine.name, "")
            return restart.reboot(line, stored, self._timing, call, force=force, patience_secs=patience)

        return self._restart(machines, one, cancelled)

    def power_cycle(
        self,
        machines: Sequence[Machine],
        boot_ids: Mapping[str, str],
        switches: Mapping[str, PowerSwitch],
        *,
        cancelled: threading.Event,
    ) -> Validation:
        """Cut the power of every machine and give it back; returns when all answer with another boot id.

        `switches`: machine name -> its switch. See restart.cycle. Only the boot ids of the answer mean something.
        """

        def one(line: Line, call: Call) -> str:
            name = line.machine.name
            return restart.cycle(line, boot_ids.get(name, ""), switches[name], self._timing, call)

        return self._restart(machines, one, cancelled)

    def examine(self, machines: Sequence[Machine], *, cancelled: threading.Event) -> Mapping[str, Examination]:
        """How each machine stands, within EXAMINE_SECS; never raises. Used where something has just gone wrong."""
        try:
            lines = self._lines(machines)
        except MachineAway as error:
            return {machine.name: Examination(None, error.code) for machine in machines}
        return examine.all_of(lines, self._ping, cancelled)

    def udp(
        self, machines: Sequence[Machine], ports: Sequence[int], *, secs: float, cancelled: threading.Event
    ) -> Mapping[str, Arrivals]:
        """Whose datagrams arrive at each machine, at the first of `ports` nobody uses there, within `secs`.

        Raises nothing but Cancelled. Meanwhile no attempt begins there, for it needs the same conversations.
        """
        try:
            lines = self._lines(machines)
        except MachineAway as error:
            return {machine.name: Arrivals(why=error.message) for machine in machines}
        return udp.between(lines, ports, secs, self._call(lines, cancelled))

    def attempt(
        self,
        order: Order,
        *,
        confirmed: bool,
        on_started: Callable[[], None],
        cancelled: threading.Event,
    ) -> Outcome:
        """Make the attempt of that uid, or go on with it where it stands; returns when its files are here.

        Sweeps older attempts, prepares all machines, starts all together, calls `on_started` (once every
        launcher confirmed; also when adopted), waits, fetches. `confirmed`: an earlier call got as far as
        `on_started`, so it is never started again. `cancelled`: raises Cancelled soon and leaves the attempt
        alive (see `stop`). The attempt's folders stay on the machines until the next sweep or attempt.

        Also raises HalfStarted, StartFailed, FetchFailed, DiskError.
        """
        lines = self._lines(order.machines)
        call = self._call(lines, cancelled)
        return Attempt(order, lines, self._installation, self._timing, call).make(confirmed, on_started)

    def sweep(self, machines: Sequence[Machine], keep: Collection[str] = ()) -> None:
        """End and remove all attempts of this installation on these machines but those in `keep`."""
        lines = self._lines(machines)

        def one(machine: Machine) -> None:
            answer = lines[machine.name].ask("sweep", [self._installation, *sorted(keep)])
            left = answer.strip().removeprefix("swept").strip()
            if left:
                raise MachineAway(
                    machine.name,
                    f"processes of earlier attempts do not end ({safe(left, 200)})",
                    code="ORPHAN",
                    hint="Reboot the machine",
                )

        whole(self._call(lines, None).each(machines, one))

    def stop(self, machines: Sequence[Machine], uid: str) -> None:
        """End the participants of one attempt; its records and files stay until the next sweep."""
        lines = self._lines(machines)
        secs = self._timing.answer_secs + self._timing.stop_secs
        tokens = [self._installation, uid, "sweep", 1]
        whole(self._call(lines, None).each(machines, lambda machine: lines[machine.name].ask("end", tokens, secs=secs)))

    def scan(self, host: str, port: int) -> list[str]:
        """The host keys a machine offers, "ssh-ed25519 AAAA…", one a type, without logging in.

        Raises MachineAway when it offers none.
        """
        machine = Machine(host, "all", host, port, "", "", "")
        lines: list[str] = []
        for kind in keys.HOST_KEY_TYPES:
            try:
                transport = start_transport(machine, keys.algorithms([kind]), self._timing, lambda _: None)
            except MachineImpossible:  # it has no key of this type
                continue
            try:
                lines.append(keys.key_line(transport.get_remote_server_key()))
            finally:
                transport.close()
        if not lines:
            raise MachineAway(host, f"port {port} offers no host key autoperfd could use", code="SSH_INCOMPATIBLE")
        return lines

    def abandon(self, machines: Sequence[Machine]) -> None:
        """Close the links of these machines now; blocked calls raise MachineAway. Returns at once."""
        with self._lock:
            links = [self._links.get(_key(machine)) for machine in machines]
        for link in links:
            if link:
                link.hang_up()

    def close(self) -> None:
        """Close all links. Blocked calls raise MachineAway."""
        with self._lock:
            self._closed = True
            links = list(self._links.values())
        for link in links:
            link.hang_up()

    # Inside

    def _lines(self, machines: Sequence[Machine]) -> dict[str, Line]:
        with self._lock:
            if self._closed:
                raise MachineAway(machines[0].name, "the fleet is closed", code="ABANDONED")
            found = {}
            for machine in machines:
                link = self._links.get(_key(machine))
                if link is None:
                    link = self._links[_key(machine)] = Link(machine, self._pins, self._ring, self._timing)
                link.machine = machine
                found[machine.name] = Line(link)
            return found

    def _call(self, lines: Mapping[str, Line], cancelled: threading.Event | None) -> Call:
        def interrupt() -> None:
            for line in lines.values():
                line.interrupt()

        return Call(cancelled, interrupt)

    def _restart(
        self, machines: Sequence[Machine], one: Callable[[Line, Call], str], cancelled: threading.Event
    ) -> Validation:
        lines = self._lines(machines)
        call = self._call(lines, cancelled)
        boots = whole(call.each(machines, lambda machine: one(lines[machine.name], call), workers=len(machines)))
        return Validation({name: MachineReport(name, boot, 1, 1) for name, boot in boots.items()})


def _key(machine: Machine) -> _Key:
    return (machine.ip, machine.port, machine.username, machine.ssh_key_path)
