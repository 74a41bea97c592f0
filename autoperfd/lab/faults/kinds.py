"""The kinds of faults, one generator each: it strikes, says what was seen of it, and undoes itself.

A course yields "" while it waits and once the sentence that proves that the fault struck; when it is exhausted the
fault is over and its places are as before. It never blocks for longer than a look at a machine. `KINDS` is the deck
that storms are drawn from: name -> (what it needs for itself, its course). One thread, the storm's.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoperfd.errors import AutoperfError
from autoperfd.lab.container import CONTROLLER, ContainerMachine
from autoperfd.lab.faults.arena import NO_ATTEMPT, Arena
from autoperfd.lab.faults.wires import LOSS, Cut, both
from autoperfd.lab.machine_init import descendants, stat_fields

Course = Generator[str, None, None]
STRIKE_SECS = 60.0  # a fault that has not struck, or is not over, by then never will be
BOOT_SECS = 60.0
MOST_BALLAST = 1 << 28
NOTICE_SECS = 240.0  # an attempt ends, its gigabyte of noise comes over, and the machines are looked at again


@dataclass(frozen=True)
class Draw:
    """One fault as drawn: where it strikes and how long it lasts."""

    seed: int
    machine: ContainerMachine
    secs: float
    random: random.Random


def until(happened: Callable[[], object], what: str, secs: float = STRIKE_SECS) -> Course:
    """Yield "" until it has happened. Raises AutoperfError when it does not within `secs`."""
    deadline = time.monotonic() + secs
    while not happened():
        if time.monotonic() > deadline:
            raise AutoperfError(f"the storm: not within {secs:g} s: {what}")
        yield ""


def lasting(secs: float) -> Course:
    """Yield "" for so long."""
    deadline = time.monotonic() + secs
    while time.monotonic() < deadline:
        yield ""


# ---------------------------------------------------------------- the daemon and its controller


def _daemon_pid(arena: Arena) -> int:
    with contextlib.suppress(AutoperfError):
        return arena.daemon.pid()
    return 0


def daemon_killed(arena: Arena, draw: Draw) -> Course:
    """SIGKILL; systemd starts it again."""
    yield from until(lambda: _daemon_pid(arena), "a daemon runs that could be killed")
    pid = _daemon_pid(arena)
    os.kill(pid, signal.SIGKILL)
    yield from until(lambda: _gone(pid), f"the killed daemon {pid} is gone")
    yield f"the daemon {pid} was killed"
    yield from until(arena.daemon.answers, "the daemon answers after it was killed")


def daemon_restarted(arena: Arena, draw: Draw) -> Course:
    """Stopped properly, and started some time later."""
    yield from until(arena.daemon.answers, "a daemon runs that could be stopped")
    arena.daemon.systemctl("stop")
    yield from until(lambda: not _daemon_pid(arena), "the stopped daemon is gone")
    yield "the daemon was stopped"
    yield from lasting(draw.secs)
    arena.daemon.systemctl("start")
    yield from until(arena.daemon.answers, "the daemon answers after it was started")


def daemon_paused(arena: Arena, draw: Draw) -> Course:
    """SIGSTOP for a while, as by a scheduler that forgot it."""
    yield from until(lambda: _daemon_pid(arena), "a daemon runs that could be stopped")
    pid = _daemon_pid(arena)
    arena.deaf = True
    os.kill(pid, signal.SIGSTOP)
    try:
        yield from until(lambda: _state(pid) in ("T", ""), f"the daemon {pid} stands still")
        yield f"the daemon {pid} stood still"
        yield from lasting(draw.secs)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        arena.deaf = False
    yield from until(arena.daemon.answers, "the daemon answers after it stood still")


def controller_rebooted(arena: Arena, draw: Draw) -> Course:
    """The controller shuts down properly and boots."""
    controller = arena.lab.controller
    before = controller.boot_id()
    controller.run("systemctl reboot")
    yield from until(lambda: controller.boot_id() not in ("", before), "the controller reboots", BOOT_SECS)
    yield f"the controller rebooted: {before[:8]} became {controller.boot_id()[:8]}"
    yield from _controller_back(arena)


def controller_cut(arena: Arena, draw: Draw) -> Course:
    """The controller's power fails and returns."""
    controller = arena.lab.controller
    controller.first.tell("off")
    yield from until(lambda: controller.first.state() == "off", "the controller is off")
    yield "the controller lost its power"
    yield from lasting(draw.secs)
    controller.first.tell("on")
    yield from _controller_back(arena)


def _controller_back(arena: Arena) -> Course:
    yield from until(lambda: arena.up(arena.lab.controller), "the controller is up again", BOOT_SECS)

    def answers() -> bool:
        with contextlib.suppress(AutoperfError):
            arena.daemon.find_again()
            return arena.daemon.answers()
        return False

    yield from until(answers, "the daemon answers after its controller booted", BOOT_SECS)


# ---------------------------------------------------------------- a machine


def machine_off(arena: Arena, draw: Draw) -> Course:
    """Its power fails; somebody switches it on later."""
    first = draw.machine.first
    first.tell("off")
    yield from until(lambda: first.state() == "off", f"{draw.machine.name} is off")
    yield f"{draw.machine.name} lost its power"
    yield from lasting(draw.secs)
    first.tell("on")
    yield from until(draw.machine.answers, f"{draw.machine.name} answers after its power returned", BOOT_SECS)


def machine_cycled(arena: Arena, draw: Draw) -> Course:
    """Off and on at once."""
    yield from machine_off(arena, Draw(draw.seed, draw.machine, 0.0, draw.random))


def machine_rebooted(arena: Arena, draw: Draw) -> Course:
    """It reboots by itself."""
    machine, before = draw.machine, ""

    def told() -> bool:
        nonlocal before
        with contextlib.suppress(AutoperfError):  # the daemon may have it reboot just now
            before = machine.boot_id()
            return bool(before) and machine.run("systemctl reboot").returncode == 0
        return False

    yield from until(told, f"{machine.name} can be told to reboot")
    yield from until(lambda: machine.boot_id() not in ("", before), f"{machine.name} reboots", BOOT_SECS)
    yield f"{machine.name} rebooted: {before[:8]} became {machine.boot_id()[:8]}"
    yield from until(machine.answers, f"{machine.name} answers after its reboot", BOOT_SECS)


def sshd_hung(arena: Arena, draw: Draw) -> Course:
    """TCP connects, nobody answers."""
    machine = draw.machine  # which may be booting, or have its sshd restarted just now
    yield from until(lambda: machine.first.signal_sshd(signal.SIGSTOP), f"{machine.name} has an sshd")
    try:
        yield f"sshd of {machine.name} stood still"
        yield from lasting(draw.secs)
    finally:
        machine.first.signal_sshd(signal.SIGCONT)
    yield from until(machine.answers, f"sshd of {machine.name} answers again")


def sshd_hung_for_good(arena: Arena, draw: Draw) -> Course:
    """The same, and only the machine's power switch helps, which the daemon has to find out and use."""
    machine = draw.machine
    before = machine.boot_id()
    yield from until(lambda: machine.first.signal_sshd(signal.SIGSTOP), f"{machine.name} has an sshd")
    try:
        for _ in lasting(1.0):  # one that was just being forked stays behind
            machine.first.signal_sshd(signal.SIGSTOP)
            yield ""
        yield from until(lambda: machine.boot_id() not in ("", before), f"{machine.name} is power-cycled", NOTICE_SECS)
        yield f"sshd of {machine.name} hung until the daemon had the machine's power cycled"
    finally:
        machine.first.signal_sshd(signal.SIGCONT)
    yield from until(machine.answers, f"{machine.name} answers after its power was cycled", BOOT_SECS)


NEW_KEY = """rm -f /etc/ssh/new_key*
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/new_key && mv /etc/ssh/new_key /etc/ssh/ssh_host_ed25519_key
systemctl restart ssh
pkill -u pi -x sshd; pkill -f '[s]shd: pi'; true
"""


def host_key_changed(arena: Arena, draw: Draw) -> Course:
    """It shows another host key, so the daemon halts; a person looks and trusts it, and it goes on by itself."""
    name, machine = arena.of(draw.machine.name), draw.machine
    text, _ = arena.experiments[name]

    def changed() -> bool:
        with contextlib.suppress(AutoperfError):  # the daemon may have it reboot just now
            machine.run(NEW_KEY, check=True)
            return True
        return False

    yield from until(changed, f"{machine.name} gets a new host key")
    yield from until(machine.answers, f"sshd of {machine.name} answers with its new key")
    yield from until(lambda: _halted(arena, name, machine), f"{name} halts for the new host key of {machine.name}")
    yield f"{name} halted: {arena.states[name]['halted_reason'][:100]}"

    def trusted() -> bool:
        if arena.deaf:
            return False
        with contextlib.suppress(AutoperfError, AssertionError):
            arena.daemon.trust(text)
            return True
        return False

    yield from until(trusted, f"the new host key of {machine.name} is trusted")
    yield from until(lambda: arena.look() and not _halted(arena, name, machine), f"{name} goes on with the new key")


def _halted(arena: Arena, name: str, machine: ContainerMachine) -> bool:
    arena.look()
    reason = str(arena.states.get(name, {}).get("halted_reason", ""))
    return arena.states.get(name, {}).get("state") == "halted" and machine.name in reason and "host key" in reason


# ---------------------------------------------------------------- the network


def _cut(arena: Arena, draw: Draw, ways: tuple[tuple[str, str], ...], match: str, what: str) -> Course:
    cut = Cut(arena.lab.switch, f"storm{draw.seed}", ways, match)
    cut.make()
    try:
        end = time.monotonic() + draw.secs
        yield from until(cut.lost, f"a frame is lost ({what})")
        yield f"{what}: {cut.lost()} frames were lost at first"
        yield from lasting(end - time.monotonic())
    finally:
        cut.heal()


def cut_off(arena: Arena, draw: Draw) -> Course:
    """Nothing passes between the controller and a machine."""
    name = draw.machine.name
    yield from _cut(arena, draw, both(CONTROLLER, name), "", f"nothing passed between the controller and {name}")


def cut_one_way(arena: Arena, draw: Draw) -> Course:
    """A machine hears the controller, or is heard, but not both."""
    name = draw.machine.name
    way = draw.random.choice(both(CONTROLLER, name))
    yield from _cut(arena, draw, (way,), "", f"nothing passed from {way[0]} to {way[1]}")


def lossy(arena: Arena, draw: Draw) -> Course:
    """A fifth of what passes between the controller and a machine is lost."""
    name = draw.machine.name
    match = LOSS.format(percent=20)
    yield from _cut(arena, draw, both(CONTROLLER, name), match, f"a fifth was lost between the controller and {name}")


def apart(arena: Arena, draw: Draw) -> Course:
    """The two machines of an experiment do not hear each other while an attempt runs; the controller hears both."""
    one, other = draw.machine.name, arena.peer(draw.machine.name)
    name = arena.of(one)
    yield from until(lambda: arena.look() and arena.attempt(name) != NO_ATTEMPT, f"an attempt of {name} runs")
    before = arena.attempt(name)
    cut = Cut(arena.lab.switch, f"storm{draw.seed}", both(one, other))
    cut.make()
    try:
        yield from until(cut.lost, f"a frame between {one} and {other} is lost")
        yield f"{one} and {other} did not hear each other: {cut.lost()} frames were lost at first"
        ended = f"the attempt of {name} ends"
        yield from until(lambda: arena.look() and arena.attempt(name) != before, ended, NOTICE_SECS)
    finally:
        cut.heal()


# ---------------------------------------------------------------- the tool and other programs


def _misbehave(kind: str) -> Callable[[Arena, Draw], Course]:
    def course(arena: Arena, draw: Draw) -> Course:
        """The tool's next start on a machine goes wrong."""
        machine = draw.machine
        small = machine.name in arena.small_disks
        word = kind.format(mb=min(arena.flood_mb, 50) if small else arena.flood_mb)
        before: dict[str, str] = {}

        def told() -> bool:
            with contextlib.suppress(AutoperfError, OSError):
                before.update(arena.misbehaved(machine))
                arena.misbehave_next(machine, word)
                return True
            return False

        def did() -> str:
            with contextlib.suppress(AutoperfError, OSError):
                return next(iter(arena.misbehaved(machine).keys() - before.keys()), "")
            return ""

        yield from until(told, f"the tool on {machine.name} can be told to misbehave")
        yield from until(did, f"the tool on {machine.name} is started and misbehaves", NOTICE_SECS)
        yield f"the tool on {machine.name} did {word} in attempt {did()[:8]}"

    return course


STRANGER = """mkdir -p /home/pi/storm/stranger && cp /usr/bin/sleep /home/pi/storm/stranger/perftest_cpp || exit 1
exec /home/pi/storm/stranger/perftest_cpp {secs:g}
"""


def stranger(arena: Arena, draw: Draw) -> Course:
    """Somebody else's benchmark runs on a machine until the daemon notices."""
    machine = draw.machine
    line = STRANGER.format(secs=NOTICE_SECS + STRIKE_SECS)

    def argv() -> list[str]:
        return ["nsenter", "--target", str(machine.leader()), "--all", "--", "env", "-i", "/bin/sh", "-c", line]

    yield from _until_held_up(arena, machine, "FOREIGN_PROCESS", argv)
    yield f"a benchmark of somebody else on {machine.name} was noticed"


def person(arena: Arena, draw: Draw) -> Course:
    """A person works on a machine, over SSH and with a terminal, until the daemon notices."""
    machine = draw.machine
    argv = ["ip", "netns", "exec", arena.lab.switch.netns, "ssh", "-F", "none", "-tt", "-i", str(machine.key_path)]
    argv += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    argv += [f"{machine.username}@{machine.ip}", f"sleep {NOTICE_SECS + STRIKE_SECS:g}"]
    yield from _until_held_up(arena, machine, "USER_LOGGED_IN", lambda: argv)
    yield f"a person on {machine.name} was noticed"


def _until_held_up(arena: Arena, machine: ContainerMachine, code: str, argv: Callable[[], list[str]]) -> Course:
    """Keep a program running, through reboots of its machine too, until the daemon is held up by it."""
    null = subprocess.DEVNULL
    run: subprocess.Popen[bytes] | None = None
    deadline = time.monotonic() + NOTICE_SECS
    try:
        while not _held_up(arena, machine, code):
            if time.monotonic() > deadline:
                raise AutoperfError(f"the storm: not within {NOTICE_SECS:g} s: {code} on {machine.name} is noticed")
            if run is None or run.poll() is not None:
                with contextlib.suppress(AutoperfError):
                    run = subprocess.Popen(argv(), stdin=subprocess.PIPE, stdout=null, stderr=null)
            yield from lasting(0.2)
    finally:
        if run is not None:
            for pid in (*descendants(run.pid), run.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            run.communicate()


def _held_up(arena: Arena, machine: ContainerMachine, code: str) -> bool:
    """Whether the daemon holds a machine's experiment up, and names the machine and that code as the reason."""
    state = arena.states[arena.of(machine.name)] if arena.look() else {"state": ""}
    if state["state"] not in ("backing-off", "halted"):
        return False
    said = f"{state['sentence']} {state['halted_reason']}"
    return code in said and machine.name in said


def disk_full(arena: Arena, draw: Draw) -> Course:
    """Where attempts lie on a machine there is no room any more; somebody makes room when the daemon has noticed."""
    small = draw.machine.name in arena.small_disks
    machine = draw.machine if small else arena.lab.machine(arena.peer(draw.machine.name))
    taken = 0

    def noticed() -> bool:
        nonlocal taken
        with contextlib.suppress(AutoperfError, OSError):  # it reboots just now
            taken = _fill(arena.ballast(machine)) or taken
        return bool(taken) and _held_up(arena, machine, "REMOTE_DISK_FULL")

    try:
        yield from until(noticed, f"the full disk of {machine.name} is noticed", NOTICE_SECS)
        yield f"{taken >> 20} MB were taken, so the disk of {machine.name} was full"
    finally:
        with contextlib.suppress(AutoperfError, OSError):
            arena.ballast(machine).unlink()


def _fill(ballast: Path) -> int:
    """Take all the room of a small disk, and of no other; how many bytes were taken."""
    room = os.statvfs(ballast.parent)
    if room.f_blocks * room.f_frsize > MOST_BALLAST or ballast.exists():
        return 0  # the small disk is not mounted yet, or full already
    with ballast.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
        except OSError:
            ballast.unlink()  # somebody else has just taken some
            raise
    return room.f_bavail * room.f_frsize


def _gone(pid: int) -> bool:
    return _state(pid) in ("", "Z", "X")


def _state(pid: int) -> str:
    fields = stat_fields(pid)
    return fields[0] if fields else ""


# ---------------------------------------------------------------- the deck

Needs = Literal["controller", "machine", "machines", "tool"]
# "machines": what holds an experiment up until it is noticed stands alone there, for the daemon names one reason.
FATAL = (
    "crash=11",
    "crash-at-start=6",
    "exit=1",
    "early-exit",
    "hang=data",
    "no-file",
    "empty",
    "header-only",
    "truncated",
    "garbage",
)
"""What the tool may do that no attempt survives."""
HARMLESS = ("orphan=300", "flood={mb}", "noise")
"""What an attempt must survive."""

KINDS: Mapping[str, tuple[Needs, Callable[[Arena, Draw], Course]]] = {
    "daemon killed": ("controller", daemon_killed),
    "daemon killed again": ("controller", daemon_killed),
    "daemon restarted": ("controller", daemon_restarted),
    "daemon paused": ("controller", daemon_paused),
    "controller rebooted": ("controller", controller_rebooted),
    "controller's power cut": ("controller", controller_cut),
    "machine off": ("machine", machine_off),
    "machine power-cycled": ("machine", machine_cycled),
    "machine rebooted": ("machine", machine_rebooted),
    "sshd hung": ("machine", sshd_hung),
    "sshd hung for good": ("machines", sshd_hung_for_good),
    "host key changed": ("machines", host_key_changed),
    "cut off": ("machine", cut_off),
    "cut one way": ("machine", cut_one_way),
    "lossy": ("machine", lossy),
    "machines apart": ("machines", apart),
    "stranger's benchmark": ("machines", stranger),
    "person logged in": ("machines", person),
    "machine's disk full": ("machines", disk_full),
    **{f"tool: {kind}": ("tool", _misbehave(kind)) for kind in (*FATAL, *HARMLESS)},
}
