"""Datagrams between machines: what runs there, by real launchers on loopback addresses, and what may be said of it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from autoperfd.core.plan import Machine
from autoperfd.errors import MachineAway
from autoperfd.remote import answers, udp
from autoperfd.remote.crew import Call
from autoperfd.remote.link import Line
from autoperfd.remote.shell import Shell, ShellBroken
from autoperfd.remote.udp import LISTEN_SECS, Said, arrivals
from tests.remote.support import Background
from tests.remote.test_launcher import conversation

ONE, OTHER = "127.0.0.131", "127.0.0.132"
NONCE = "0123456789abcdef"
REAL = {"python3": os.path.realpath(sys.executable), "perl": shutil.which("perl"), "bash": shutil.which("bash")}


def launcher(monkeypatch: pytest.MonkeyPatch, folder: Path, *programs: str) -> Shell:
    """A conversation with a machine that has nothing but busybox and these programs."""
    busybox, tools = str(shutil.which("busybox")), folder / "tools"
    (folder / "home").mkdir(parents=True)
    tools.mkdir()
    for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        (tools / name).symlink_to(busybox)
    for name in programs:
        (tools / name).write_text(f'#!/bin/sh\nexec {REAL[name]} "$@"\n')
        (tools / name).chmod(0o755)
    return conversation(monkeypatch, [str(tools / "sh")], folder / "home", str(tools), str(tools / "sh"))


def ear(address: str, port: int = 0) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind((address, port))
    one.settimeout(5)
    return one


@pytest.fixture
def port() -> int:
    """A port that nobody uses."""
    with ear("0.0.0.0") as one:
        return int(one.getsockname()[1])


@pytest.fixture
def other(port: int) -> Iterator[socket.socket]:
    """The other machine's ear."""
    with ear(OTHER, port) as one:
        yield one


def asked(shell: Shell, port: int, nonce: str = NONCE, secs: int = 1) -> Background:
    values = [*udp.PROGRAMS, nonce, str(port), str(secs), "0", ONE, OTHER]
    return Background(lambda: answers.arrived(shell.ask("udp", (), values, 8), 2))


@pytest.mark.parametrize("program", ["python3", "perl"])
def test_what_arrives(
    program: str, port: int, other: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shell = launcher(monkeypatch, tmp_path, program)
    answer = asked(shell, port)
    text, (_, sender) = other.recvfrom(200)
    assert text.decode() == f"{NONCE} 0 unicast" and sender != port  # else it opened its own firewall for answers
    strange = [b"", b"\xff\x00", f"{NONCE} 7 unicast".encode(), f"{NONCE} 1 else".encode(), b"x" * 9000]
    for hostile in (*strange, f"{NONCE[:-1]} 1 unicast".encode()):
        other.sendto(hostile, (ONE, port))
    assert answer.join() == ({f"{does} {kind}" for does in ("sends", "hears") for kind in ("unicast", "group")}, set())

    again = NONCE[::-1]
    answer = asked(shell, port, again, secs=3)
    while not other.recv(200).startswith(again.encode()):
        pass  # what the first one sent
    other.sendto(f"{again} 1 unicast".encode(), (ONE, port))
    other.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(OTHER))
    other.sendto(f"{again} 1 group".encode(), ("239.255.0.1", port))
    assert cast(Any, answer.join())[1] == {(1, "unicast"), (1, "group")}
    shell.close()


@pytest.mark.parametrize("program", ["python3", "perl"])
def test_a_port_that_is_in_use_is_left_alone(
    program: str, port: int, other: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with ear("0.0.0.0") as holder:
        taken = holder.getsockname()[1]
        shell = launcher(monkeypatch, tmp_path, program)
        did, heard = cast(Any, asked(shell, taken).join())
        assert "cannot unicast" in did and "sends unicast" in did and not heard
    shell.close()


def test_bash_alone_sends(port: int, other: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shell = launcher(monkeypatch, tmp_path, "bash")
    answer = asked(shell, port)
    assert other.recv(200).decode() == f"{NONCE} 0 unicast"
    assert answer.join() == ({"sends unicast"}, set())
    shell.close()


def test_a_program_that_is_too_old_gives_way_to_the_next(
    port: int, other: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shell = launcher(monkeypatch, tmp_path, "python3", "perl")
    (tmp_path / "tools" / "python3").write_text("#!/bin/sh\necho SyntaxError >&2\nexit 1\n")
    assert "hears unicast" in cast(Any, asked(shell, port).join())[0]
    shell.close()


@pytest.mark.parametrize(
    "text", ["heard 2 unicast", "heard x unicast", "heard 1 else", "boasts unicast", "sends", "\x07"]
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ShellBroken):
        answers.arrived(text, 2)


# ---------------------------------------------------------------- all together


class PipeLine:
    """A machine's line, whose launcher is a process here."""

    def __init__(self, name: str, ip: str, shell: Shell) -> None:
        self.machine = Machine(name, "all", ip, 22, "pi", "", "")
        self._shell = shell

    def ask(self, verb: str, tokens: Sequence[object], values: Sequence[str], *, secs: float, tries: int) -> str:
        return self._shell.ask(verb, tokens, values, secs)

    def broken(self, broken: ShellBroken) -> MachineAway:
        return MachineAway(self.machine.name, str(broken), code="BAD_ANSWER")

    def interrupt(self) -> None:
        self._shell.close()


def test_all_send_to_all(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three machines, one without any program; the first port is in use on one of them."""
    monkeypatch.setattr(udp, "LISTEN_SECS", 4)
    monkeypatch.setattr(udp, "ROUND_SECS", 12.0)
    lines = {
        name: PipeLine(name, ip, launcher(monkeypatch, tmp_path / name, *programs))
        for name, ip, programs in (("p1", ONE, ["python3"]), ("p2", OTHER, ["perl"]), ("p3", "127.0.0.133", []))
    }
    lines["p4"] = PipeLine("p4", "::1", lines["p3"]._shell)
    with ear(OTHER) as holder:
        taken = holder.getsockname()[1]
        found = udp.between(cast(dict[str, Line], lines), [taken, port], 40, Call(None, lambda: None))
        holder.settimeout(0)
        assert holder.recv(200).endswith(b" 0 unicast")  # what its owner has to throw away
    p1, p2 = found["p1"], found["p2"]
    assert (p1.address, p1.port, p1.unicast, p1.why) == (ONE, taken, {"p2": True, "p3": None}, "")
    assert (p2.port, p2.unicast, p2.group, p2.why) == (port, {"p1": True, "p3": None}, {"p1": True, "p3": None}, "")
    assert (found["p3"].why, found["p4"].why) == (udp.UNABLE, udp.NO_ADDRESS)
    for line in list(lines.values())[:3]:
        line.interrupt()


def test_without_time_nothing_is_begun() -> None:
    silent = cast(Line, PipeLine("p1", ONE, cast(Shell, None)))
    assert udp.between({"p1": silent}, [7660], 1, Call(None, lambda: None))["p1"].why == udp.NO_TIME
    assert udp.between({"p1": silent}, [], 20, Call(None, lambda: None))["p1"].why == udp.NO_PORT


# ---------------------------------------------------------------- what may be said of it


ABLE = frozenset({"sends unicast", "hears unicast", "sends group", "hears group"})
FIT = Said(ABLE, frozenset(), 100.0, 100.5 + LISTEN_SECS)


def judged(own: Said, other: Said) -> tuple[bool | None, bool | None, str]:
    found = arrivals("p1", {"p1": own, "p2": other}, 7660, "in use")
    return found.unicast.get("p2"), found.group.get("p2"), found.why


def test_silence_is_an_alarm_only_where_both_were_at_it_together() -> None:
    assert judged(FIT, FIT) == (False, False, "")
    late = replace(FIT, begun=102.5, ended=106.5)
    assert judged(FIT, late) == judged(late, FIT) == (None, None, udp.APART)
    slow = replace(FIT, ended=105.2)  # its three seconds may have begun at once, or after two
    assert judged(slow, FIT) == (None, None, udp.APART)
    assert judged(replace(slow, heard=frozenset({(1, "unicast")})), FIT) == (True, None, "")


def test_who_cannot_speak_is_not_said_to_be_unheard() -> None:
    assert judged(FIT, replace(FIT, did=frozenset({"sends unicast"}))) == (False, None, "")
    assert judged(FIT, replace(FIT, did=frozenset())) == (None, None, "")
    assert judged(FIT, Said(frozenset(), frozenset(), 0, 0, "it is away")) == (None, None, "")
    deaf = replace(FIT, did=ABLE - {"hears group"} | {"cannot group"})
    assert judged(deaf, FIT) == (False, None, "")


def test_who_cannot_hear_says_why() -> None:
    assert judged(replace(FIT, did=frozenset({"sends unicast"})), FIT) == (None, None, udp.UNABLE)
    assert judged(replace(FIT, did=frozenset({"cannot unicast"})), FIT) == (None, None, "in use")
    assert judged(Said(frozenset(), frozenset(), 0, 0, "it is away"), FIT) == (None, None, "it is away")
