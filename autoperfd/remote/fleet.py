"""The fleet: everything the daemon asks of machines. Owns all links; any worker thread may call; blocks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from autoperfd.core.plan import Machine
from autoperfd.core.text import safe
from autoperfd.errors import MachineAway, MachineError, MachineImpossible
from autoperfd.remote import answers, keys, probe
from autoperfd.remote.attempt import Attempt
from autoperfd.remote.crew import Call, whole
from autoperfd.remote.link import Line, Link, start_transport
from autoperfd.remote.shell import ShellBroken
from autoperfd.remote.values import MachineReport, Order, Outcome, Pins, Timing, Validation

REBOOT_POLL_SECS = 0.1
REBOOT_CONNECT_SECS = 1.0  # a host that is down hangs a connect in ARP for seconds
REBOOT_ANSWER_SECS = 5.0
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
    ) -> None:
        """`installation`: 16 hex digits; `credentials`: $CREDENTIALS_DIRECTORY; `home`: what "~" of a key
        means; `ping`: "icmp", "tcp" or "auto" (ICMP, by TCP connect where ICMP is forbidden)."""
        # It logs every refused connection with a traceback; errors here carry what matters.
        logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)
        self._installation = installation
        self._pins = pins
        self._timing = timing
        self._ping = ping
        self._ring = keys.KeyRing(credentials, home)
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
        self, machines: Sequence[Machine], boot_ids: Mapping[str, str], *, cancelled: threading.Event
    ) -> Validation:
        """Reboot every machine whose boot id is still the stored one, and wait until all answer with another.

        A machine whose boot id differs already counts as rebooted: asking again is harmless. Only the boot
        ids of the answer mean something.
        """
        lines = self._lines(machines)
        call = self._call(lines, cancelled)
        return Validation(whole(call.each(machines, lambda m: self._reboot(lines[m.name], boot_ids[m.name], call))))

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

    def _reboot(self, line: Line, stored: str, call: Call) -> MachineReport:
        deadline = time.monotonic() + self._timing.boot_budget_secs
        checks = 0
        told = False
        while True:
            call.check()
            checks += 1
            try:
                boot = self._boot_id(line)
                if boot != stored:
                    return MachineReport(line.machine.name, boot, checks, checks)
                if not told:
                    told = self._tell_to_reboot(line)
                problem: MachineError = MachineAway(
                    line.machine.name,
                    f"it was told to reboot and did not within {self._timing.boot_budget_secs:g} s",
                    code="REBOOT_IGNORED",
                    hint="Try `sudo systemctl reboot` there by hand",
                )
            except MachineAway as error:
                problem = error
            except MachineImpossible as error:
                if error.code != "AUTH_REFUSED":  # while it boots it refuses logins
                    raise
                problem = error
            if time.monotonic() > deadline or problem.code == "ABANDONED":
                raise problem
            call.stopped.wait(REBOOT_POLL_SECS)

    def _boot_id(self, line: Line) -> str:
        line.connect(tcp_secs=REBOOT_CONNECT_SECS)
        text = line.ask("boot", secs=REBOOT_ANSWER_SECS, tries=1)
        try:
            return answers.boot_id(text.strip())
        except ShellBroken as broken:
            raise line.away("BAD_ANSWER", f"it does not tell its boot id ({safe(broken.detail, 100)})") from broken

    def _tell_to_reboot(self, line: Line) -> bool:
        """Whether it is on its way. Raises MachineImpossible when it refuses."""
        try:
            answer = line.ask("reboot", tries=1).strip()
        except MachineAway:
            return True  # it may go down before it can answer
        if answer == "accepted":
            return True
        raise MachineImpossible(
            line.machine.name,
            f"{line.machine.username} may not reboot it: {safe(answer.removeprefix('refused'), 300)}",
            code="REBOOT_REFUSED",
            hint=f"Add to sudoers there: {line.machine.username} ALL=(root) NOPASSWD: /usr/bin/systemctl reboot",
        )


def _key(machine: Machine) -> _Key:
    return (machine.ip, machine.port, machine.username, machine.ssh_key_path)
