"""Whether UDP arrives between machines, as DDS needs it: all send to all and listen at the same time for a few seconds.

A ping tells nothing of that: rules that let in pings and SSH alone are common. Promises to be back in time, to take no
port that is in use, and to say "cannot be told" rather than to raise an alarm nobody can trust. A thread a machine.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

from autoperfd.core.plan import Machine
from autoperfd.errors import MachineError
from autoperfd.remote import answers
from autoperfd.remote.crew import Call
from autoperfd.remote.link import Line
from autoperfd.remote.shell import ShellBroken
from autoperfd.remote.tcp import resolve
from autoperfd.remote.values import Arrivals

LISTEN_SECS = 3
SURE_SECS = 1.0  # for so long both ends must have been at it, else silence proves nothing
ROUND_SECS = 6.0  # of one port on all machines
MOST = 32  # machines that are looked at together
MOST_PORTS = 3  # that are tried where the first is in use
PROGRAMS = tuple(files("autoperfd.remote").joinpath(name).read_text() for name in ("udp_there.py", "udp_there.pl"))

NO_ADDRESS = "it has no IPv4 address"
IN_USE = "its UDP ports {} are in use"
UNABLE = "it has neither python3 nor perl to listen with"
NO_TIME = "there was no time left"
NO_PORT = "attempts use all DDS domains"
APART = "the machines could not be made to speak at the same time"


@dataclass(frozen=True, slots=True)
class Said:
    """What one machine answered, and when it was asked."""

    did: frozenset[str]  # "sends unicast", "hears group", "cannot unicast", …
    heard: frozenset[tuple[int, str]]  # (place of the other, kind)
    begun: float
    ended: float
    why: str = ""  # it did not answer


def port_of(domain: int) -> int:
    """The first unicast port of discovery in a DDS domain (RTPS 2.5, 9.6.2.3: PB + DG * domain + d1)."""
    return 7400 + 250 * domain + 10


def between(lines: Mapping[str, Line], ports: Sequence[int], secs: float, call: Call) -> dict[str, Arrivals]:
    """Machine name -> whose datagrams arrive there, at the first of `ports` nobody uses there. Raises Cancelled."""
    deadline = time.monotonic() + secs
    addresses = {name: _address(line.machine) for name, line in lines.items()}
    found = {name: Arrivals(why=NO_TIME if addresses[name] else NO_ADDRESS) for name in lines}
    if not ports:
        return {name: Arrivals(why=NO_PORT) for name in lines}
    known = [name for name in lines if addresses[name]][:MOST]
    tried: list[str] = []
    for port in ports[:MOST_PORTS]:
        in_use = IN_USE.format(", ".join(tried))
        left = [name for name in known if found[name].why in (NO_TIME, in_use)]
        if not left or time.monotonic() + ROUND_SECS > deadline:
            break
        tried.append(str(port))
        said = _round({name: lines[name] for name in known}, [addresses[name] for name in known], port, call)
        for name in left:
            found[name] = arrivals(name, said, port, IN_USE.format(", ".join(tried)))
    return {name: replace(at, address=addresses[name]) for name, at in found.items()}


def arrivals(name: str, said: Mapping[str, Said], port: int, in_use: str) -> Arrivals:
    """What is known of one machine. `said`: of all, in the order of their places."""
    own = said[name]
    if own.why:
        return Arrivals(why=own.why)
    if "hears unicast" not in own.did:
        return Arrivals(why=in_use if "cannot unicast" in own.did else UNABLE)
    kinds: dict[str, dict[str, bool | None]] = {"unicast": {}, "group": {}}
    apart = False
    for place, (other, at) in enumerate(said.items()):
        if other == name:
            continue
        together = sure_secs(own, at) >= SURE_SECS
        apart = apart or not (at.why or together)
        for kind, heard in kinds.items():
            able = f"hears {kind}" in own.did and f"sends {kind}" in at.did and together
            heard[other] = (place, kind) in own.heard or (False if able else None)
    silent = not any(heard is not None for heard in kinds["unicast"].values())
    return Arrivals("", port, kinds["unicast"], kinds["group"], APART if silent and apart else "")


def sure_secs(one: Said, other: Said) -> float:
    """For how long both were certainly at it: each was for LISTEN_SECS, somewhere between question and answer."""
    began = max(one.ended, other.ended) - LISTEN_SECS
    return min(one.begun, other.begun) + LISTEN_SECS - began


def _round(lines: Mapping[str, Line], addresses: Sequence[str], port: int, call: Call) -> dict[str, Said]:
    """All machines at once, at one port."""
    deadline = time.monotonic() + ROUND_SECS
    nonce = secrets.token_hex(8)
    places = {name: place for place, name in enumerate(lines)}

    def ask(machine: Machine) -> Said:
        values = [*PROGRAMS, nonce, str(port), str(LISTEN_SECS), str(places[machine.name]), *addresses]
        begun = time.monotonic()
        text = lines[machine.name].ask("udp", (), values, secs=deadline - begun, tries=1)
        ended = time.monotonic()
        try:
            did, heard = answers.arrived(text, len(addresses))
        except ShellBroken as broken:
            raise lines[machine.name].broken(broken) from broken
        return Said(frozenset(did), frozenset(heard), begun, ended)

    def free() -> None:
        if time.monotonic() > deadline:  # one that had to be connected to first, perhaps
            for line in lines.values():
                line.interrupt()

    machines = [line.machine for line in lines.values()]
    answered = call.each(machines, ask, workers=len(machines), meanwhile=free)
    return {
        name: Said(frozenset(), frozenset(), 0.0, 0.0, answer.message) if isinstance(answer, MachineError) else answer
        for name, answer in answered.items()
    }


def _address(machine: Machine) -> str:
    """Its IPv4 address in numbers, for DDS speaks to it there; "" when there is none."""
    try:
        found = resolve(machine.ip, 0, 1.0)
    except OSError:
        return ""
    return next((str(address[0]) for family, address in found if family == socket.AF_INET), "")
