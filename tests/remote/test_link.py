"""Links to real sshd machines: host keys, user keys, machines that are away in every way, freeing blocked calls."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from autoperfd.core.plan import Machine
from autoperfd.errors import MachineAway, MachineError, MachineImpossible
from autoperfd.remote import Fleet, probe
from autoperfd.remote.link import _Transport
from autoperfd.remote.shell import COMMAND
from tests.bounds import SOON_SECS
from tests.faults import Fired
from tests.remote.support import QUICK, Background, Bench, relay, until

pytestmark = pytest.mark.lab


def validate(fleet: Fleet, *machines: Machine, patience: float = 0.0) -> object:
    return fleet.validate(
        machines, ("-c", "exit 0"), (0,), wants_reboot=False, cancelled=threading.Event(), patience_secs=patience
    )


def refused(bench: Bench, machine: Machine, **settings: object) -> MachineError:
    with pytest.raises(MachineError) as caught:
        validate(bench.fleet(**settings), machine)  # type: ignore[arg-type]
    return caught.value


def fingerprint(line: str, folder: Path) -> str:
    (folder / "key.pub").write_text(line)
    done = subprocess.run(["ssh-keygen", "-lf", folder / "key.pub"], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


def test_unknown_host_key_names_the_command(bench: Bench) -> None:
    bench.trust.lines.clear()
    error = refused(bench, bench.p1)
    assert isinstance(error, MachineImpossible) and error.code == "HOST_KEY_UNKNOWN"
    assert "autoperfctl trust p1" in error.sentence()


def test_wrong_host_key_names_both_fingerprints(bench: Bench) -> None:
    mine, other = (bench.lab.machine(name).host_key_line for name in ("p1", "p2"))
    bench.trust.lines[bench.p1.ip, bench.p1.port] = [other]
    error = refused(bench, bench.p1)
    assert isinstance(error, MachineImpossible) and error.code == "HOST_KEY_MISMATCH"
    for part in (fingerprint(mine, bench.folder), fingerprint(other, bench.folder), "autoperfctl trust p1"):
        assert part in error.sentence()
    assert "duplicate IP or reinstalled machine" in error.sentence()


def test_pinned_key_of_another_type_is_refused_and_told(bench: Bench) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", bench.folder / "ecdsa"],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    line = " ".join((bench.folder / "ecdsa.pub").read_text().split()[:2])
    bench.trust.lines[bench.p1.ip, bench.p1.port] = [line]
    error = refused(bench, bench.p1)
    assert isinstance(error, MachineImpossible) and error.code == "HOST_KEY_MISMATCH"
    assert "autoperfctl trust p1" in error.sentence()
    assert fingerprint(line, bench.folder) in error.sentence()


def test_key_file_that_cannot_be_read_names_the_drop_in(bench: Bench) -> None:
    error = refused(bench, replace(bench.p1, ssh_key_path="~/nothing_here"))
    assert isinstance(error, MachineImpossible) and error.code == "KEY_UNREADABLE"
    assert f"LoadCredential=nothing_here:{bench.folder}/nothing_here" in error.sentence()


def test_key_with_a_passphrase_and_a_file_that_is_no_key(bench: Bench) -> None:
    locked = bench.folder / "locked"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", locked], check=True, stdin=subprocess.DEVNULL
    )
    assert "passphrase" in refused(bench, replace(bench.p1, ssh_key_path=str(locked))).sentence()
    (bench.folder / "text").write_text("not a key")
    assert "not a private key" in refused(bench, replace(bench.p1, ssh_key_path="~/text")).sentence()


def test_credential_of_the_same_name_wins(bench: Bench) -> None:
    credentials = bench.folder / "credentials"
    credentials.mkdir()
    good = Path(bench.p1.ssh_key_path)
    (credentials / "id").write_bytes(good.read_bytes())
    (bench.folder / "id").write_text("not a key")
    validate(bench.fleet(credentials=credentials), replace(bench.p1, ssh_key_path="~/id"))


def test_key_the_machine_refuses_is_told_after_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    knock = probe.knock

    def until_the_third(machine: Machine, mode: str, checks: probe.Checks) -> None:
        knock(machine, mode, checks)
        if checks.pings == 3:
            monkeypatch.setattr(probe, "AUTH_PATIENCE_SECS", 0.0)

    monkeypatch.setattr(probe, "AUTH_PATIENCE_SECS", 60.0)
    monkeypatch.setattr(probe, "knock", until_the_third)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", bench.folder / "new"],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    with pytest.raises(MachineImpossible) as caught:
        validate(bench.fleet(), replace(bench.p1, ssh_key_path="~/new"), patience=60)
    assert caught.value.code == "AUTH_REFUSED" and caught.value.ssh_checks == 3
    assert "authorized_keys" in caught.value.sentence()


def test_nobody_listens(bench: Bench) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        machine = replace(bench.p1, ip="127.0.0.1", port=closed.getsockname()[1])
        bench.trust.lines[machine.ip, machine.port] = [bench.lab.machines[0].host_key_line]
        assert refused(bench, machine).code == "SSH_REFUSED"


def test_accepted_but_no_banner(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        machine = replace(bench.p1, ip="127.0.0.1", port=mute.getsockname()[1])
        bench.trust.lines[machine.ip, machine.port] = [bench.lab.machines[0].host_key_line]
        began, threads = time.monotonic(), threading.active_count()
        error = refused(bench, machine, timing=replace(QUICK, connect_secs=0.5))
        assert (error.code, isinstance(error, MachineAway)) == ("SSH_NO_BANNER", True)
        assert time.monotonic() - began < SOON_SECS
        until(lambda: threading.active_count() <= threads)


@pytest.mark.fault("N6")
def test_name_that_cannot_be_resolved(bench: Bench, fired: Fired) -> None:
    machine = replace(bench.p1, ip="no-such-machine.invalid")
    error = refused(bench, machine)
    assert (error.code, isinstance(error, MachineAway)) == ("DNS", True)
    fired("N6", error.sentence())


def test_machine_hanging_behind_an_open_link(bench: Bench) -> None:
    fleet = bench.fleet()
    validate(fleet, bench.p1)
    bench.lab.hang_sshd("p1")
    fleet._lines([bench.p1])["p1"].link.timing = replace(QUICK, answer_secs=0.5, connect_secs=1)
    try:
        with pytest.raises(MachineAway) as caught:
            fleet.sweep([bench.p1])
        assert caught.value.code == "SHELL_HANG"
        with pytest.raises(MachineAway) as caught:
            fleet.sweep([bench.p1])
        assert caught.value.code == "SSH_NO_BANNER"
    finally:
        bench.lab.resume_sshd("p1")
    bench.fleet().sweep([bench.p1])


@pytest.mark.fault("C1")
def test_a_wall_clock_that_is_set_back_again_and_again_prolongs_no_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fired: Fired
) -> None:
    fleet = bench.fleet()
    validate(fleet, bench.p1)
    bench.lab.hang_sshd("p1")
    fleet._lines([bench.p1])["p1"].link.timing = replace(QUICK, answer_secs=0.5, connect_secs=1)
    steps = itertools.count(1)
    monkeypatch.setattr("time.time", lambda: 2e9 - 3600.0 * next(steps))
    outcome: list[str] = []

    def sweep() -> None:
        try:
            fleet.sweep([bench.p1])
        except MachineAway as error:
            outcome.append(error.code)

    thread = threading.Thread(target=sweep, daemon=True)
    try:
        thread.start()
        thread.join(15)
        fired("C1", f"{next(steps)} steps of an hour back")
        assert outcome == ["SHELL_HANG"]
    finally:
        bench.lab.resume_sshd("p1")


def test_a_shell_that_never_speaks_hangs_however_slowly_its_connection_closes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, close, opened = threading.Event(), _Transport.close, _Transport.open_session

    def slowly(transport: _Transport) -> None:
        close(transport)
        closed.wait(2)

    def late(transport: _Transport, timeout: float) -> object:
        closed.wait(0.3)  # so that the limit of the whole ends before the shell's own
        return opened(transport, timeout=timeout)

    head = bench.lab.machine_folder("p1") / "bin" / "head"
    head.write_text("#!/bin/sh\nexec sleep 600\n")
    head.chmod(0o755)
    try:
        monkeypatch.setattr(_Transport, "close", slowly)
        monkeypatch.setattr(_Transport, "open_session", late)
        assert refused(bench, bench.p1, timing=replace(QUICK, connect_secs=4)).code == "SHELL_HANG"
    finally:
        closed.set()
        head.unlink()


def test_failed_connects_leave_no_thread_and_no_descriptor(bench: Bench) -> None:
    fleet = bench.fleet()
    bench.trust.lines[bench.p1.ip, bench.p1.port] = [bench.lab.machines[1].host_key_line]
    before = (threading.active_count(), len(os.listdir("/proc/self/fd")))
    for _ in range(10):
        with pytest.raises(MachineImpossible):
            validate(fleet, bench.p1)
    until(lambda: (threading.active_count(), len(os.listdir("/proc/self/fd"))) <= before)


def test_one_connection_serves_many_calls_and_is_made_again_when_reset(bench: Bench) -> None:
    with relay(bench, bench.p1) as between:
        fleet, p1 = bench.fleet(), between.of(bench.p1)
        for _ in range(3):
            validate(fleet, p1)
            fleet.sweep([p1])
        link = fleet._lines([p1])["p1"].link
        assert link.connections == 1
        between.reset()
        fleet.sweep([p1])
        assert link.connections == 2


def test_abandon_frees_a_blocked_call_at_once(bench: Bench) -> None:
    with relay(bench, bench.p1) as between:
        fleet, p1 = bench.fleet(replace(QUICK, answer_secs=60)), between.of(bench.p1)
        validate(fleet, p1)
        between.silent = True
        blocked = Background(lambda: fleet.sweep([p1]))
        asking = fleet._lines([p1])["p1"].link.asking["control"]
        until(asking.locked)
        began = time.monotonic()
        fleet.abandon([p1])
        with pytest.raises(MachineAway) as caught:
            blocked.join()
        assert caught.value.code == "ABANDONED"
        assert time.monotonic() - began < SOON_SECS
        between.silent = False
        fleet.sweep([p1])


def test_closed_fleet_refuses(bench: Bench) -> None:
    fleet = bench.fleet()
    fleet.close()
    with pytest.raises(MachineAway):
        fleet.sweep([bench.p1])


def test_scan_tells_the_host_key_without_a_login(bench: Bench) -> None:
    bench.trust.lines.clear()
    assert bench.fleet().scan(bench.p1.ip, bench.p1.port) == [bench.lab.machines[0].host_key_line]
    with socket.socket() as closed, pytest.raises(MachineAway):
        closed.bind(("127.0.0.1", 0))
        bench.fleet().scan("127.0.0.1", closed.getsockname()[1])


def test_the_only_command_is_plain_for_every_login_shell() -> None:
    assert COMMAND.count("'") == 2 and "\\" not in COMMAND and "!" not in COMMAND and "\n" not in COMMAND
