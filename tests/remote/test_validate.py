"""Validation and reboots on real sshd machines: what is found before the first test, and how often was asked."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest

from autoperfd.core.guards import Guards
from autoperfd.core.plan import Machine
from autoperfd.core.survey import lasting
from autoperfd.errors import Cancelled, MachineAway, MachineError, MachineImpossible
from autoperfd.remote import Fleet, Timing, Validation, answers, probe
from autoperfd.remote.link import Line
from autoperfd.remote.ping import PingForbidden, icmp
from tests.bounds import SOON_SECS
from tests.faults import Fired
from tests.remote.support import QUICK, Background, Bench, make, relay, script, until

pytestmark = pytest.mark.lab


def validate(
    fleet: Fleet,
    machines: Sequence[Machine],
    argv: Sequence[str] = ("-c", "echo version 1"),
    exits: Collection[int] = (0,),
    *,
    wants_reboot: bool = False,
    uid_open: str = "",
    cancelled: threading.Event | None = None,
    patience: float = 0.0,
) -> Validation:
    return fleet.validate(
        machines,
        argv,
        exits,
        wants_reboot=wants_reboot,
        uid_open=uid_open,
        cancelled=cancelled or threading.Event(),
        patience_secs=patience,
    )


def impossible(bench: Bench, machine: Machine, *arguments: object, **keywords: object) -> MachineImpossible:
    with pytest.raises(MachineImpossible) as caught:
        validate(bench.fleet(), [machine], *arguments, **keywords)  # type: ignore[arg-type]
    return caught.value


def test_what_is_told_of_fit_machines(bench: Bench) -> None:
    found = validate(bench.fleet(), bench.machines, wants_reboot=True)
    assert found.boot_ids == {name: bench.lab.boot_id(name) for name in ("p1", "p2")}
    assert found.probes == {"p1": "version 1\n", "p2": "version 1\n"}
    assert (found.pings, found.ssh_checks) == (1, 1)
    report = found.machines["p1"]
    assert report.leftovers == () and report.host_key_fingerprint.startswith("SHA256:")
    assert {"kernel", "arch", "free_kb", "clock", "load", "cpus"} <= set(report.facts)
    assert abs(float(report.facts["clock_skew"])) < 5


def test_the_executable_is_started_once_a_connection_and_boot(bench: Bench) -> None:
    count = bench.folder / "starts"
    argv = ("-c", f"echo x >>'{count}'; echo out")
    fleet = bench.fleet()
    for _ in range(3):
        assert validate(fleet, [bench.p1], argv).probes == {"p1": "out\n"}
    assert count.read_text() == "x\n"
    bench.lab.reboot("p1")
    assert validate(fleet, [bench.p1], argv, patience=5).probes == {"p1": "out\n"}
    assert count.read_text() == "x\nx\n"
    with_open = validate(bench.fleet(), [bench.p1], argv, uid_open="0" * 32)
    assert count.read_text() == "x\nx\n" and with_open.probes == {"p1": ""}


def test_another_executable_is_started_and_told_of_before_the_next_attempt(bench: Bench) -> None:
    tool, starts = bench.home(bench.p1) / "tool", bench.folder / "tool-starts"
    machine = replace(bench.p1, exec_path="~/tool")

    def install(version: int) -> str:
        new = tool.with_name("new")
        new.write_text(f"#!/bin/sh\necho x >>'{starts}'\necho version {version}\n")
        new.chmod(0o755)
        new.replace(tool)
        return hashlib.sha256(tool.read_bytes()).hexdigest()

    fleet = bench.fleet()
    try:
        expected = install(1)
        for version, count in ((1, 1), (1, 1), (2, 2), (1, 3)):
            if count > 1:
                expected = install(version)
            found = validate(fleet, [machine]).machines["p1"]
            assert (found.facts["executable_sha256"], found.probe_output) == (expected, f"version {version}\n")
            assert starts.read_text() == "x\n" * count
        with tool.open("a") as file:  # the same file of the same age, but not the same any more
            file.write("# changed\n")
        os.utime(tool, (0, 0))
        changed = hashlib.sha256(tool.read_bytes()).hexdigest()
        assert validate(fleet, [machine]).machines["p1"].facts["executable_sha256"] == changed
        install(3)  # while an attempt runs there nothing is started
        assert "executable_sha256" not in validate(bench.fleet(), [machine], uid_open="0" * 32).machines["p1"].facts
        assert starts.read_text() == "x\n" * 4
    finally:
        tool.unlink()


def test_a_machine_is_described_anew_when_that_was_long_ago(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = bench.fleet()
    first = dict(validate(fleet, [bench.p1]).machines["p1"].facts)
    asked: list[list[object]] = []
    original = Line.ask

    def ask(line: Line, verb: str, tokens: Sequence[object] = (), *rest: Any, **more: Any) -> str:
        if verb == "probe":
            asked.append(list(tokens)[2:4])
        return original(line, verb, tokens, *rest, **more)

    monkeypatch.setattr(Line, "ask", ask)
    again = dict(validate(fleet, [bench.p1]).machines["p1"].facts)
    monkeypatch.setattr("autoperfd.remote.probe.SURVEY_SECS", 0.0)
    anew = dict(validate(fleet, [bench.p1]).machines["p1"].facts)
    validate(fleet, [bench.p1], uid_open="0" * 32)
    assert asked == [[0, 0], [0, 1], [0, 0]]  # (start, survey)
    assert lasting(first) == lasting(again) == lasting(anew)
    assert {"kernel", "os", "cpu", "clocksource", "executable_sha256"} <= set(anew)


def test_environment_and_hostile_output(bench: Bench) -> None:
    machine = replace(bench.p1, environment=(("GREETING", "$(id) 'quoted'"),))
    argv = ("-c", r'echo "$GREETING"; printf "\033]0;title\007\nexit 5\noutput\nboot x\n"; exit 3')
    output = validate(bench.fleet(), [machine], argv, (3,)).probes["p1"]
    assert output == "$(id) 'quoted'\n\\x1b]0;title\\x07\nexit 5\noutput\nboot x\n"


def test_endless_output_is_cut_and_a_program_that_hangs_is_ended(bench: Bench) -> None:
    found = validate(bench.fleet(), [bench.p1], ("-c", "head -c 3000000 /dev/zero | tr '\\0' y; exit 0"), (0, 141))
    assert len(found.probes["p1"]) == 65536
    fleet = bench.fleet(replace(QUICK, probe_secs=1))
    with pytest.raises(MachineImpossible, match="does not end"):
        validate(fleet, [bench.p1], ("-c", "sleep 60"))


@pytest.mark.fault("M13")
def test_missing_and_unfit_executables(bench: Bench, fired: Fired) -> None:
    assert impossible(bench, replace(bench.p1, exec_path="~/not_there")).code == "EXEC_MISSING"
    assert impossible(bench, replace(bench.p1, exec_path="/etc/passwd")).code == "EXEC_REFUSED"
    assert impossible(bench, replace(bench.p1, exec_path="/usr")).code == "EXEC_REFUSED"
    text = "echo perftest: error while loading shared libraries: libnddsc.so: cannot open >&2; exit 127"
    error = impossible(bench, bench.p1, ("-c", text))
    assert error.code == "WONT_START" and "error while loading shared libraries: libnddsc.so" in error.sentence()
    fired("M13", error.sentence())
    broken = bench.home(bench.p1) / "broken"
    broken.write_bytes(b"\x7fELF garbage")
    broken.chmod(0o755)
    assert impossible(bench, replace(bench.p1, exec_path="~/broken")).code == "WONT_START"


def test_all_sick_machines_are_told_at_once(bench: Bench) -> None:
    sick = [replace(machine, exec_path="~/not_there") for machine in bench.machines]
    with pytest.raises(MachineError) as caught:
        validate(bench.fleet(), sick)
    assert {caught.value.machine, *(error.machine for error in caught.value.others)} == {"p1", "p2"}


@pytest.mark.fault("M9")
def test_sudo_that_asks_is_found_before_the_first_reboot(bench: Bench, fired: Fired) -> None:
    bench.lab.set_sudo("p1", asks=True)
    try:
        error = impossible(bench, bench.p1, wants_reboot=True)
        assert error.code == "REBOOT_REFUSED" and "NOPASSWD" in error.sentence()
        fired("M9", error.sentence())
        validate(bench.fleet(), [bench.p1])
    finally:
        bench.lab.set_sudo("p1", asks=False)


@pytest.mark.fault("M13")
def test_two_names_for_one_machine(bench: Bench, fired: Fired) -> None:
    twin = replace(bench.p1, name="twin")
    with pytest.raises(MachineImpossible, match=r"p1|twin") as caught:
        validate(bench.fleet(), [bench.p1, twin])
    assert caught.value.code == "SAME_MACHINE"
    assert "p1" in caught.value.message and "twin" in caught.value.message
    fired("M13", caught.value.sentence())


def test_leftovers_are_told_but_not_the_open_attempt(bench: Bench) -> None:
    fleet = bench.fleet()
    order = bench.order(script("pub_0", bench.p1, "exit 0"))
    make(fleet, order)
    assert validate(fleet, [bench.p1]).machines["p1"].leftovers == (order.uid,)
    assert validate(fleet, [bench.p1], uid_open=order.uid).machines["p1"].leftovers == ()


def test_pings_and_checks_are_counted_until_it_answers(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    knocks: list[str] = []
    knock = probe.knock

    def counted(machine: Machine, mode: str, checks: probe.Checks) -> None:
        knock(machine, mode, checks)
        knocks.append(machine.name)

    monkeypatch.setattr(probe, "knock", counted)
    bench.lab.kill("p1")
    waiting = Background(lambda: validate(bench.fleet(), bench.machines, patience=15))
    until(lambda: knocks.count("p1") >= 3)  # some checks have to fail for there to be something to count
    bench.lab.boot("p1")
    found = waiting.join(20)
    assert isinstance(found, Validation)
    assert found.machines["p2"].ssh_checks == 1
    assert found.ssh_checks == found.machines["p1"].ssh_checks > 2
    assert found.pings == found.ssh_checks  # TCP pings: a refusal is an answer


class Hands:
    """A monotonic clock of validation that is set by hand."""

    time = staticmethod(time.time)

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 500.0
        for module in ("fleet", "probe"):
            patch.setattr(f"autoperfd.remote.{module}.time", self)

    def monotonic(self) -> float:
        return self.now


def test_patience_used_up_tells_the_counts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    hands, knock = Hands(monkeypatch), probe.knock

    def slowly(machine: Machine, mode: str, checks: probe.Checks) -> None:
        knock(machine, mode, checks)
        if machine.name == "p1":
            hands.now += 0.25

    monkeypatch.setattr(probe, "knock", slowly)
    bench.lab.kill("p1")
    try:
        with pytest.raises(MachineAway) as caught:
            validate(bench.fleet(), bench.machines, patience=1.5)
        assert hands.now == 501.25  # after another pause of 0.3 s its patience would be used up
        assert caught.value.code == "SSH_REFUSED" and caught.value.ssh_checks == caught.value.pings == 5
    finally:
        bench.lab.boot("p1")


def test_cancelled_validation_ends_soon(bench: Bench) -> None:
    bench.lab.kill("p1")
    try:
        cancelled = threading.Event()
        waiting = Background(lambda: validate(bench.fleet(), bench.machines, patience=60, cancelled=cancelled))
        cancelled.set()
        began = time.monotonic()
        with pytest.raises(Cancelled):
            waiting.join()
        assert time.monotonic() - began < SOON_SECS
    finally:
        bench.lab.boot("p1")


def test_forbidden_pings_name_the_sysctl(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(host: str, secs: float) -> bool:
        raise PingForbidden(1, "no")

    monkeypatch.setattr("autoperfd.remote.ping.icmp", forbidden)
    with pytest.raises(MachineImpossible, match="may not send pings") as caught:
        validate(bench.fleet(ping="icmp"), [bench.p1])
    assert "ping_group_range" in caught.value.hint
    found = validate(bench.fleet(ping="auto"), [bench.p1])
    assert "TCP" in found.machines["p1"].warnings[0]


def test_icmp_that_is_dropped_and_ssh_that_is_dropped_are_told_apart(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoperfd.remote.ping.icmp", lambda host, secs: False)
    with pytest.raises(MachineAway, match="does not answer pings, though its port") as caught:
        validate(bench.fleet(ping="icmp"), [bench.p1])
    assert (caught.value.code, caught.value.pings, caught.value.ssh_checks) == ("PING_LOST", 1, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_icmp_on_this_computer(host: str) -> None:
    try:
        assert icmp(host, 2.0)
    except PingForbidden:
        pytest.skip("ICMP sockets are forbidden here (net.ipv4.ping_group_range)")
    except OSError as error:
        pytest.skip(f"no such address family here: {error}")


def test_icmp_to_nobody() -> None:
    try:
        assert not icmp("240.0.0.1", 0.2)
    except PingForbidden:
        pytest.skip("ICMP sockets are forbidden here (net.ipv4.ping_group_range)")


def test_reboot_is_proven_by_the_boot_id_and_repeating_it_is_harmless(bench: Bench) -> None:
    fleet = bench.fleet()
    before = validate(fleet, bench.machines).boot_ids
    after = fleet.reboot(bench.machines, before, cancelled=threading.Event()).boot_ids
    assert after == {name: bench.lab.boot_id(name) for name in before}
    assert all(before[name] != after[name] for name in before)
    again = fleet.reboot(bench.machines, before, cancelled=threading.Event()).boot_ids
    assert again == after
    validate(fleet, bench.machines, patience=3)


@pytest.mark.fault("M10")
def test_refused_and_ignored_reboots(bench: Bench, fired: Fired) -> None:
    fleet = bench.fleet(replace(QUICK, boot_budget_secs=1))
    before = validate(fleet, [bench.p1]).boot_ids
    bench.lab.set_sudo("p1", asks=True)
    try:
        with pytest.raises(MachineImpossible) as refused:
            fleet.reboot([bench.p1], before, cancelled=threading.Event())
        assert refused.value.code == "REBOOT_REFUSED"
    finally:
        bench.lab.set_sudo("p1", asks=False)
    sudo = bench.lab.machine_folder("p1") / "bin" / "sudo"
    real = sudo.read_bytes()
    sudo.write_text("#!/bin/sh\nexit 0\n")
    try:
        with pytest.raises(MachineAway) as ignored:
            fleet.reboot([bench.p1], before, cancelled=threading.Event())
        assert ignored.value.code == "REBOOT_IGNORED"
        fired("M10", ignored.value.sentence())
    finally:
        sudo.write_bytes(real)


def test_machine_that_does_not_come_back_uses_up_its_budget(bench: Bench) -> None:
    fleet = bench.fleet(replace(QUICK, boot_budget_secs=1.5))
    before = validate(fleet, [bench.p1]).boot_ids
    bench.lab.kill("p1")
    try:
        with pytest.raises(MachineAway) as caught:
            fleet.reboot([bench.p1], before, cancelled=threading.Event())
        assert caught.value.code == "SSH_REFUSED"
    finally:
        bench.lab.boot("p1")


def test_half_open_connection_is_noticed(bench: Bench) -> None:
    """Needs packets to vanish, so it is tried where a firewall rule can be set; see the container tests."""
    timing = Timing()
    assert timing.link_loss_secs + 5 <= 20
    with relay(bench, bench.p1) as between:
        fleet, p1 = bench.fleet(replace(QUICK, answer_secs=1)), between.of(bench.p1)
        validate(fleet, [p1])
        between.silent = True
        with pytest.raises(MachineAway):
            fleet.sweep([p1])


def test_kill_user_processes_is_found(bench: Bench) -> None:
    found = answers.probed("boot abcd\nexecutable there\nlogind KillUserProcesses=yes\n")
    question = probe.Question("0" * 16, (), frozenset({0}), False, "", "tcp", Guards())
    with pytest.raises(MachineImpossible, match="KillUserProcesses"):
        probe._judge(bench.p1, found, question, started=True)
