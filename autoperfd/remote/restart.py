"""Restarts one machine: by a reboot, by a forced one, or by its power switch; each proven, never assumed.

The proof is a boot id other than the one known before. Asking again is harmless: a machine that shows another boot id
already counts as restarted. Runs on a worker of a `Call`; every wait ends with the boot budget.
"""

from __future__ import annotations

import time

from autoperfd.core.settings import PowerSwitch
from autoperfd.core.text import safe
from autoperfd.errors import MachineAway, MachineError, MachineImpossible
from autoperfd.remote import answers, ping
from autoperfd.remote.crew import Call
from autoperfd.remote.link import Line
from autoperfd.remote.power import Press
from autoperfd.remote.shell import ShellBroken
from autoperfd.remote.values import Timing

POLL_SECS = 0.1
CONNECT_SECS = 1.0  # a machine that is down hangs a connect in ARP for seconds
ANSWER_SECS = 5.0
EFFECT_SECS = 60.0  # a machine that is still there so long after its switch was pressed kept its power
SOFT, FORCED = "systemctl reboot", "systemctl reboot --force --force"
NOT_FOUND = 127
AWHILE = ("AUTH_REFUSED",)  # what looks hopeless, but is usual while a machine boots


def reboot(line: Line, stored: str, timing: Timing, call: Call, *, force: bool, patience_secs: float) -> str:
    """The new boot id of a machine told to reboot, and proven to have done so within the boot budget.

    `stored`: the boot id before; "" where none is known, then the present one is. `patience_secs`: how long it may
    take until the machine can be told at all.
    """
    began = time.monotonic()
    deadline = began + timing.boot_budget_secs
    told, silent = False, False
    while True:
        call.check()
        try:
            boot = boot_id(line)
            if stored and boot != stored:
                return boot
            if told and not stored and silent:
                return boot  # nobody knew the old one, but it was away in between
            stored = boot
            if not told:
                told = _tell(line, force)
            problem: MachineError = MachineAway(
                line.machine.name,
                f"it was told to reboot and did not within {timing.boot_budget_secs:g} s",
                code="REBOOT_IGNORED",
                hint=f"Try `sudo {FORCED if force else SOFT}` there by hand",
            )
        except MachineAway as error:
            problem = error
            silent = silent or error.code in ("SSH_SILENT", "SSH_REFUSED")
            if error.code == "SHELL_HANG" and not told:
                told = _tell_past_the_shell(line, force)
        except MachineImpossible as error:
            if error.code not in AWHILE:
                raise
            problem = error
        now = time.monotonic()
        if problem.code == "ABANDONED" or (not told and now - began > patience_secs):
            raise problem
        if now > deadline:
            raise gone(line, problem, timing) if told else problem
        call.stopped.wait(POLL_SECS)


def cycle(line: Line, stored: str, switch: PowerSwitch, timing: Timing, call: Call) -> str:
    """The new boot id of a machine whose power was cut and given back.

    `stored`: the boot id before; "" where none is known, then a machine counts as cycled that was silent and answers.
    Raises MachineAway (POWER_FAILED: the switch said no; POWER_IGNORED: the machine kept its power; MACHINE_GONE: it
    did not come back).
    """
    name = line.machine.name
    call.check()
    try:
        boot = boot_id(line)
        if stored and boot != stored:
            return boot
        stored = boot
    except (MachineAway, MachineImpossible) as error:
        if error.code == "ABANDONED":
            raise
    press = Press(switch)
    began = time.monotonic()
    deadline = began + timing.boot_budget_secs
    silent = False
    problem: MachineError = MachineAway(name, "it has not been looked at yet")
    while True:
        call.check()
        if press.ended() and press.problem:
            raise MachineAway(
                name,
                f"its power switch {switch.name} failed: {press.problem}",
                code="POWER_FAILED",
                hint=f"Try it by hand; it is [power.{switch.name}] in autoperfd.toml",
            )
        # Silence is looked for by itself: a hung machine would keep a login waiting while its power is off and on.
        silent = silent or not _accepts(line)
        now = time.monotonic()
        if silent or (stored and press.ended()):
            try:
                boot = boot_id(line)
                if press.ended() and boot != stored and (stored or silent):
                    return boot
                problem = MachineAway(name, "it runs on as before", code="POWER_IGNORED")
            except (MachineAway, MachineImpossible) as error:
                if isinstance(error, MachineImpossible) and error.code not in AWHILE:
                    raise
                problem = error
        if problem.code == "ABANDONED":
            raise problem
        kept = not silent or problem.code == "POWER_IGNORED"
        if kept and press.ended() and now - began > min(EFFECT_SECS, timing.boot_budget_secs):
            raise MachineAway(
                name,
                f"its power switch {switch.name} said it worked, but the machine never lost its power",
                code="POWER_IGNORED",
                hint="Is it plugged into that switch?",
            )
        if now > deadline:
            raise gone(line, problem, timing)
        call.stopped.wait(POLL_SECS)


def boot_id(line: Line) -> str:
    """The machine's present boot id. Raises MachineAway, MachineImpossible."""
    line.connect(tcp_secs=CONNECT_SECS)
    text = line.ask("boot", secs=ANSWER_SECS, tries=1)
    try:
        return answers.boot_id(text.strip())
    except ShellBroken as broken:
        raise line.away("BAD_ANSWER", f"it does not tell its boot id ({safe(broken.detail, 100)})") from broken


def gone(line: Line, last: MachineError, timing: Timing) -> MachineError:
    """The error for a machine that did not come back within its boot budget."""
    if last.code in ("REBOOT_IGNORED", "POWER_IGNORED"):
        return last
    return line.away(
        "MACHINE_GONE",
        f"it did not come back within {timing.boot_budget_secs:g} s: {last.message.removeprefix(f'{last.machine}: ')}",
        hint="Look at its screen, its power and its network",
    )


def refused(line: Line, said: str, *, force: bool = False) -> MachineImpossible:
    """The error for a machine whose account may not reboot it."""
    account = line.machine.username
    return MachineImpossible(
        line.machine.name,
        f"{account} may not reboot it: {safe(said, 300) or 'sudo refuses'}",
        code="REBOOT_REFUSED",
        hint=f"Add to sudoers there: {account} ALL=(root) NOPASSWD: /usr/bin/{FORCED if force else SOFT}",
    )


def _tell(line: Line, force: bool) -> bool:
    """Whether it is on its way. Raises MachineImpossible when it refuses."""
    try:
        answer = line.ask("force_reboot" if force else "reboot", tries=1).strip()
    except MachineAway:
        return True  # it may go down before it can answer
    if answer == "accepted":
        return True
    raise refused(line, answer.removeprefix("refused"), force=force)


def _tell_past_the_shell(line: Line, force: bool) -> bool:
    """Whether a command of its own, on a channel of its own, was taken: for a machine whose shell hangs."""
    try:
        ended = line.execute(f"sudo -n {FORCED}" if force else f"sudo -n {SOFT}", ANSWER_SECS)
        if ended == NOT_FOUND:  # no sudo there: the account may be root itself
            ended = line.execute(FORCED if force else SOFT, ANSWER_SECS)
        return ended in (0, None)
    except MachineAway:
        return False


def _accepts(line: Line) -> bool:
    try:
        return ping.accepts(line.machine.ip, line.machine.port, CONNECT_SECS / 2)
    except OSError:  # its name cannot be resolved now: that is not the machine's silence
        return True
