"""Looks at machines for a few seconds, after something went wrong: who answers pings, SSH, and whom each one hears.

Promises to be back within EXAMINE_SECS whatever the network does, and never to raise: what could not be found out in
time is told as not known. A thread for each machine; whoever is stuck is left behind.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from autoperfd.core.plan import Machine
from autoperfd.errors import MachineAway, MachineError
from autoperfd.remote import answers, probe, restart
from autoperfd.remote.link import Line
from autoperfd.remote.shell import ShellBroken
from autoperfd.remote.tcp import resolve
from autoperfd.remote.threads import NO_THREADS, NoThread, begin
from autoperfd.remote.values import Examination

EXAMINE_SECS = 8.0
FREEING_SECS = 1.0  # of it, for what is stuck to come back
HEAR_SECS = 4.0
MOST_HEARD = 32  # other machines that one machine pings
SLICE_SECS = 0.1
NOT_IN_TIME = "SSH_HANG"


def all_of(lines: Mapping[str, Line], mode: str, cancelled: threading.Event) -> dict[str, Examination]:
    """Machine name -> how it stands. `mode`: how this controller pings, as in autoperfd.toml."""
    deadline = time.monotonic() + EXAMINE_SECS
    found = {name: Examination(None, NOT_IN_TIME) for name in lines}
    changed = threading.Condition()
    busy = set(lines)

    def tell(name: str, examination: Examination) -> None:
        with changed:
            if name in busy:
                found[name] = examination

    def look(line: Line) -> None:
        name = line.machine.name
        try:
            for examination in _one(line, mode, [other.machine for other in lines.values()]):
                tell(name, examination)
        finally:
            with changed:
                busy.discard(name)
                changed.notify()

    for line in lines.values():
        name = line.machine.name
        try:
            begin(partial(look, line), f"examine {name}")
        except NoThread:
            with changed:
                found[name] = Examination(None, NO_THREADS)
                busy.discard(name)
    freed = False
    with changed:
        while busy and time.monotonic() < deadline and not cancelled.is_set():
            changed.wait(SLICE_SECS)
            if not freed and time.monotonic() > deadline - FREEING_SECS:
                freed = True
                for name in busy:
                    lines[name].interrupt()
        return dict(found)


def _one(line: Line, mode: str, everyone: list[Machine]) -> Iterator[Examination]:
    """What is known of one machine, better each time."""
    machine = line.machine
    seen = Examination(_pinged(machine, mode), NOT_IN_TIME)
    yield seen
    try:
        seen = replace(seen, ssh="ok", boot_id=restart.boot_id(line))
    except MachineError as error:
        # Freed because time was up: whatever it was about to tell, it did not.
        yield replace(seen, ssh=NOT_IN_TIME if error.code == "ABANDONED" else error.code)
        return
    yield seen
    others = [other for other in everyone if other.name != machine.name][:MOST_HEARD]
    addresses = {other.name: address for other in others if (address := _address(other))}
    with contextlib.suppress(MachineError, ShellBroken):
        text = line.ask("hear", (), list(addresses.values()), secs=HEAR_SECS, tries=1) if addresses else ""
        yield replace(seen, hears=dict(zip(addresses, answers.heard(text, len(addresses)), strict=True)))


def _pinged(machine: Machine, mode: str) -> bool | None:
    try:
        probe.knock(machine, mode, probe.Checks())
    except MachineAway as error:
        return False if error.code == "PING" else None
    except MachineError:
        return None
    return True


def _address(machine: Machine) -> str:
    """Its address in numbers, so that no other resolver has a say; "" when there is none."""
    try:
        return str(resolve(machine.ip, 0, 1.0)[0][1][0])
    except OSError:
        return ""
