"""Every rung of the ladder on real sshd machines: what restarts a machine, what is no proof, and what is told."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoperfd.core.settings import PowerSwitch
from autoperfd.errors import Cancelled, MachineAway, MachineImpossible
from autoperfd.lab.loopback import answers
from autoperfd.lab.plug import Plug
from autoperfd.remote import Fleet, restart
from autoperfd.remote.link import Line
from tests.bounds import SOON_SECS
from tests.faults import Fired
from tests.remote.support import QUICK, Background, Bench, until
from tests.remote.test_validate import validate

pytestmark = pytest.mark.lab
NEVER = threading.Event()


@pytest.fixture
def plug(bench: Bench) -> Iterator[Plug]:
    plug = Plug(bench.lab, "127.0.0.1", off_secs=2)  # it is to be seen that it is off
    yield plug
    plug.stop()


@contextlib.contextmanager
def hung(bench: Bench, name: str = "p1") -> Iterator[None]:
    bench.lab.hang_sshd(name)
    try:
        yield
    finally:
        bench.lab.resume_sshd(name)


def switch(plug: Plug, name: str = "p1") -> PowerSwitch:
    return PowerSwitch(f"plug-{name}", url=plug.url(name), body="cycle")


def cycle(fleet: Fleet, bench: Bench, stored: str, with_switch: PowerSwitch) -> str:
    boots = {"p1": stored} if stored else {}
    return fleet.power_cycle([bench.p1], boots, {"p1": with_switch}, cancelled=NEVER).boot_ids["p1"]


def test_a_forced_reboot_and_asking_again(bench: Bench) -> None:
    fleet = bench.fleet()
    before = validate(fleet, bench.machines).boot_ids
    after = fleet.reboot(bench.machines, before, force=True, cancelled=NEVER).boot_ids
    assert after == {name: bench.lab.boot_id(name) for name in before}
    assert all(before[name] != after[name] for name in before)
    assert fleet.reboot(bench.machines, before, force=True, cancelled=NEVER).boot_ids == after


def test_a_machine_whose_boot_id_nobody_knew_is_rebooted_all_the_same(bench: Bench) -> None:
    before = bench.lab.boot_id("p1")
    found = bench.fleet().reboot([bench.p1], {}, cancelled=NEVER).boot_ids
    assert found["p1"] == bench.lab.boot_id("p1") != before


@pytest.mark.fault("M3")
def test_a_machine_whose_shell_hangs_is_rebooted_past_it(bench: Bench, fired: Fired) -> None:
    fleet = bench.fleet(replace(QUICK, connect_secs=4, boot_budget_secs=30))
    before = validate(fleet, [bench.p1]).boot_ids
    fleet.abandon([bench.p1])
    head = bench.lab.machine_folder("p1") / "bin" / "head"
    head.write_text("#!/bin/sh\nexec sleep 600\n")
    head.chmod(0o755)
    try:
        with pytest.raises(MachineAway) as caught:
            validate(fleet, [bench.p1])
        assert caught.value.code == "SHELL_HANG"
        fired("M3", caught.value.sentence())
        rebooting = Background(lambda: fleet.reboot([bench.p1], before, tell_secs=8, cancelled=NEVER))
        until(lambda: bench.lab.boot_id("p1") != before["p1"], 15)
    finally:
        head.unlink()
    rebooting.join()


def test_a_machine_that_cannot_even_be_told_is_given_up_soon(bench: Bench) -> None:
    fleet = bench.fleet(replace(QUICK, connect_secs=1, boot_budget_secs=60))
    before = validate(bench.fleet(), [bench.p1]).boot_ids
    began = time.monotonic()
    with hung(bench), pytest.raises(MachineAway) as caught:
        fleet.reboot([bench.p1], before, tell_secs=1, cancelled=NEVER)
    assert caught.value.code == "SSH_NO_BANNER"
    assert time.monotonic() - began < SOON_SECS


@pytest.mark.fault("M2")
def test_a_hung_machine_comes_back_by_its_plug(bench: Bench, plug: Plug, fired: Fired) -> None:
    fleet = bench.fleet(replace(QUICK, connect_secs=4, boot_budget_secs=30))
    before = validate(bench.fleet(), bench.machines).boot_ids
    with hung(bench):
        began = time.monotonic()
        with pytest.raises(MachineAway) as caught:
            validate(fleet, [bench.p1])
        assert caught.value.code == "SSH_NO_BANNER" and time.monotonic() - began < SOON_SECS
        fired("M2", caught.value.sentence())
        after = cycle(fleet, bench, before["p1"], switch(plug))
    assert after == bench.lab.boot_id("p1") != before["p1"]
    assert plug.presses == {"p1": 1} and plug.bodies == [b"cycle"]
    assert bench.lab.boot_id("p2") == before["p2"]
    assert cycle(fleet, bench, before["p1"], switch(plug)) == after  # asked again, it is not pressed again
    assert plug.presses == {"p1": 1}


def test_a_program_does_what_a_plug_does(bench: Bench, tmp_path: Path) -> None:
    fleet = bench.fleet()
    before = validate(fleet, [bench.p1]).boot_ids["p1"]
    control = bench.lab.machine_folder("p1") / "control"
    text = "import sys, time\nfor word in ('off', 'on'): print(word, file=open(sys.argv[1], 'w')); time.sleep(0.5)"
    program = PowerSwitch("plug", command=("/usr/bin/env", "python3", "-c", text, str(control)))
    assert cycle(fleet, bench, before, program) == bench.lab.boot_id("p1") != before


def test_a_machine_of_unknown_boot_id_must_have_been_silent(bench: Bench, plug: Plug) -> None:
    with hung(bench):
        after = cycle(bench.fleet(replace(QUICK, connect_secs=4, boot_budget_secs=30)), bench, "", switch(plug))
    assert after == bench.lab.boot_id("p1")
    assert plug.presses == {"p1": 1}


def test_a_machine_that_was_off_is_switched_on(bench: Bench, plug: Plug) -> None:
    fleet = bench.fleet()
    before = validate(fleet, [bench.p1]).boot_ids["p1"]
    bench.lab.kill("p1")
    assert cycle(fleet, bench, before, switch(plug)) == bench.lab.boot_id("p1") != before


def test_a_switch_that_says_no_is_told_in_its_own_words(bench: Bench, plug: Plug) -> None:
    plug.cuts, plug.status = False, 500
    with pytest.raises(MachineAway) as caught:
        cycle(bench.fleet(), bench, bench.lab.boot_id("p1"), switch(plug))
    assert caught.value.code == "POWER_FAILED"
    assert "HTTP 500, expected 200: relay is stuck" in caught.value.sentence()
    assert "[power.plug-p1]" in caught.value.sentence()


@pytest.mark.parametrize("hangs", [True, False])
def test_a_switch_without_effect_is_found_out(
    bench: Bench, plug: Plug, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr(restart, "EFFECT_SECS", 1.0)
    plug.cuts = False
    with hung(bench) if hangs else contextlib.nullcontext(), pytest.raises(MachineAway) as caught:
        cycle(bench.fleet(replace(QUICK, connect_secs=1)), bench, bench.lab.boot_id("p1"), switch(plug))
    assert caught.value.code == "POWER_IGNORED" and "never lost its power" in caught.value.sentence()
    assert plug.presses == {"p1": 1}


def test_a_machine_that_stays_off_after_its_plug_was_pressed_is_gone(bench: Bench, plug: Plug) -> None:
    fleet = bench.fleet(replace(QUICK, boot_budget_secs=1.5))
    before = validate(fleet, [bench.p1]).boot_ids["p1"]
    bench.lab.kill("p1")
    plug.cuts = False
    with pytest.raises(MachineAway) as caught:
        cycle(fleet, bench, before, switch(plug))
    assert caught.value.code == "MACHINE_GONE" and "refuses connections" in caught.value.sentence()


def test_cancelling_does_not_leave_a_machine_without_power(bench: Bench) -> None:
    fleet = bench.fleet()
    before = validate(fleet, [bench.p1]).boot_ids["p1"]
    cancelled = threading.Event()
    plug = Plug(bench.lab, "127.0.0.1", off_secs=30)
    try:
        cycling = Background(
            lambda: fleet.power_cycle([bench.p1], {"p1": before}, {"p1": switch(plug)}, cancelled=cancelled)
        )
        until(lambda: bench.lab.status()["p1"] == "off")
        cancelled.set()
        with pytest.raises(Cancelled):
            cycling.join(SOON_SECS)
        plug._stopping.set()  # its time without power is over
        until(lambda: answers(bench.lab.machine("p1")))
    finally:
        plug.stop()


@pytest.mark.fault("M8")
def test_a_machine_that_never_comes_back_uses_up_its_budget(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fired: Fired
) -> None:
    asked: list[float] = []
    boot_id = restart.boot_id

    def noted(line: Line) -> str:
        asked.append(time.monotonic())
        return boot_id(line)

    monkeypatch.setattr(restart, "boot_id", noted)
    fleet = bench.fleet(replace(QUICK, boot_budget_secs=4))
    before = validate(fleet, [bench.p1]).boot_ids
    sudo = bench.lab.machine_folder("p1") / "bin" / "sudo"
    real = sudo.read_bytes()
    sudo.write_text(f"#!/bin/sh\necho off >'{bench.lab.machine_folder('p1')}/control'\n")
    began = time.monotonic()
    try:
        with pytest.raises(MachineAway) as caught:
            fleet.reboot([bench.p1], before, cancelled=NEVER)
    finally:
        sudo.write_bytes(real)
    assert bench.lab.status()["p1"] == "off"
    fired("M8", caught.value.sentence())
    assert caught.value.code == "MACHINE_GONE" and "did not come back within 4 s" in caught.value.sentence()
    assert time.monotonic() - began >= 4
    assert sum(at > asked[0] + 4 for at in asked) <= 1  # the last look, at most, began when the budget was used up


@pytest.mark.fault("M9")
def test_a_refused_reboot_is_told_by_every_rung(bench: Bench, fired: Fired) -> None:
    fleet = bench.fleet()
    before = validate(fleet, [bench.p1]).boot_ids
    bench.lab.set_sudo("p1", asks=True)
    try:
        for force in (False, True):
            with pytest.raises(MachineImpossible) as caught:
                fleet.reboot([bench.p1], before, force=force, cancelled=NEVER)
            assert caught.value.code == "REBOOT_REFUSED"
            assert caught.value.hint.endswith("systemctl reboot --force --force" if force else "systemctl reboot")
        with pytest.raises(MachineImpossible) as caught:
            validate(fleet, [bench.p1], wants_reboot=True)
        fired("M9", caught.value.sentence())
        assert caught.value.code == "REBOOT_REFUSED"
    finally:
        bench.lab.set_sudo("p1", asks=False)
