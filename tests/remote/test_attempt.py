"""Attempts on real sshd machines: values, records, starting once, going on after losses, ending."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoperfd.errors import (
    Cancelled,
    HalfStarted,
    MachineAway,
    MachineImpossible,
    MachineTaken,
    StartFailed,
)
from autoperfd.remote import Fleet, Order, Outcome, Timing
from autoperfd.remote.attempt import BANNER_SECS, RECONNECT_PAUSES, RECONNECT_SECS
from autoperfd.remote.crew import Call
from autoperfd.remote.heartbeat import READ_SECS, Heartbeat
from autoperfd.remote.link import Line, Link
from autoperfd.remote.tcp import KEEPALIVE_AGAIN_SECS, silence_secs
from tests.bounds import SOON_SECS
from tests.faults import Fired
from tests.remote.support import INSTALLATION, QUICK, Background, Bench, by_name, make, relay, running, script, until

pytestmark = pytest.mark.lab

HOSTILE = [
    "",
    " ",
    "a b",
    "'",
    '"',
    "'\"'\"'",
    "$(touch pwned)",
    "`touch pwned`",
    "${IFS}",
    "; touch pwned",
    "| touch pwned",
    "&& touch pwned &",
    "> pwned",
    "line\nbreak",
    "\n",
    "trailing\n\n",
    "tab\there",
    "back\\slash \\n \\0 \\x41 %s %b",
    "*",
    "?",
    "[a-z]",
    "~",
    "~root",
    "-rf",
    "--",
    "-n",
    "!history",
    "#comment",
    "a=b",
    "{}",
    "é ü 漢字 🎉",
    "\udcff\udc80 not UTF-8",
    "".join(chr(code) for code in range(1, 128)),
    "x" * 100_000,
]
HOLD = 'while [ ! -e "$1" ]; do sleep 0.02; done'  # a participant that runs until a file appears


def test_hostile_values_arrive_unchanged(bench: Bench) -> None:
    text = 'for value in "$@"; do printf "%s\\0" "$value"; done >arguments; cat /proc/self/environ >environment'
    environment = tuple((f"V{at}", value) for at, value in enumerate(HOSTILE) if len(value) < 5000)
    order = bench.order(
        script("pub_0", bench.p1, text, *HOSTILE, environment=environment, files=("arguments", "environment"))
    )
    outcome = make(bench.fleet(), order)

    assert by_name(outcome)["pub_0"].exit == 0
    expected = b"".join(value.encode("utf-8", "surrogateescape") + b"\0" for value in HOSTILE)
    assert (order.folder / "arguments").read_bytes() == expected
    seen = (order.folder / "environment").read_bytes().split(b"\0")
    for key, value in environment:
        assert f"{key}=".encode() + value.encode("utf-8", "surrogateescape") in seen
    assert f"AUTOPERF_UID={order.uid}".encode() in seen
    assert not any(entry.startswith(b"AUTOPERF_SH=") for entry in seen)
    assert not list(bench.home(bench.p1).rglob("pwned"))


def test_executable_below_home_and_one_with_an_equals_sign(bench: Bench) -> None:
    odd = bench.home(bench.p1) / "a=b $HOME"
    odd.write_text("#!/bin/sh\necho it is $0\n")
    odd.chmod(0o755)
    participant = replace(script("pub_0", bench.p1, ""), argv=("~/a=b $HOME", "~/stays"))
    order = bench.order(participant)
    make(bench.fleet(), order)
    assert (order.folder / "pub_0.stdout").read_text() == f"it is {odd}\n"


def test_records_say_how_each_participant_ended(bench: Bench) -> None:
    order = bench.order(
        script("pub_0", bench.p1, "exit 0"),
        script("pub_1", bench.p1, "exit 7"),
        script("pub_2", bench.p2, "kill -SEGV $$"),
        script("sub_0", bench.p2, "exit 255", role="sub"),
        script("sub_1", bench.p1, "trap '' TERM; sleep 30 & wait; wait; sleep 30", role="sub"),
        replace(script("sub_2", bench.p2, "", role="sub"), argv=("/nowhere/at all",)),
        script("sub_3", bench.p2, "sleep 30", role="sub"),
        deadline=4,
    )
    began, clock = time.monotonic(), time.time()
    records = by_name(make(bench.fleet(), order))
    assert time.monotonic() - began < SOON_SECS

    def how(name: str) -> tuple[int | None, int | None, str]:
        return records[name].exit, records[name].signal, records[name].ended_by

    assert how("pub_0") == (0, None, "self")
    assert how("pub_1") == (7, None, "self")
    assert how("pub_2") == (None, signal.SIGSEGV, "self")
    assert how("sub_0") == (255, None, "self")
    assert how("sub_1") == (None, signal.SIGKILL, "deadline")
    assert how("sub_2") == (127, None, "self")
    assert how("sub_3") == (None, signal.SIGTERM, "deadline")
    assert 3.99 <= (records["sub_3"].elapsed or 0) < SOON_SECS  # the machine counts hundredths
    assert (records["pub_0"].elapsed or 0) < (records["sub_3"].elapsed or 0)
    assert clock <= (records["pub_0"].started or 0) <= time.time()


def test_boot_ids_files_and_stagger_are_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    together, ask = threading.Barrier(2), Line.ask

    def met(line: Line, verb: str, *rest: Any, **more: Any) -> str:
        if verb == "go":
            together.wait(10)  # breaks where one machine is asked after the other
        return ask(line, verb, *rest, **more)

    monkeypatch.setattr(Line, "ask", met)
    order = bench.order(
        script("pub_0", bench.p1, "echo out; echo err >&2; echo data >pub_0.csv", files=("pub_0.csv", "never")),
        script("sub_0", bench.p2, "exit 0", role="sub"),
    )
    started: list[float] = []
    outcome = make(bench.fleet(), order, on_started=lambda: started.append(time.monotonic()))
    boots = {machine.name: bench.lab.boot_id(machine.name) for machine in bench.machines}
    assert outcome.boot_before == outcome.boot_after == boots
    assert outcome.how_found == "started" and len(started) == 1
    starts = [
        float((bench.attempt_folder(machine, order.uid) / "started").read_text().split()[0])
        - outcome.clock[machine.name]
        for machine in bench.machines
    ]
    assert outcome.stagger_secs == round(max(starts) - min(starts), 4)
    assert set(outcome.clock) == {"p1", "p2"}
    assert outcome.problems == {}
    sizes = {(file.machine, file.name): file.size for file in outcome.files}
    assert sizes == {
        ("p1", "pub_0.csv"): 5,
        ("p1", "pub_0.stdout"): 4,
        ("p1", "pub_0.stderr"): 4,
        ("p2", "sub_0.stdout"): 0,
        ("p2", "sub_0.stderr"): 0,
    }
    assert {path.name for path in order.folder.iterdir()} == {name for _, name in sizes}


def test_asked_again_it_is_found_finished_and_not_started_again(bench: Bench) -> None:
    mark = bench.folder / "starts"
    order = bench.order(script("pub_0", bench.p1, f"echo once >>'{mark}'"))
    assert make(bench.fleet(), order).how_found == "started"
    for confirmed in (True, False):
        outcome = make(bench.fleet(), order, confirmed=confirmed)
        assert outcome.how_found == "finished"
        assert by_name(outcome)["pub_0"].exit == 0
    assert mark.read_text() == "once\n"


def test_running_attempt_is_adopted_by_another_fleet(bench: Bench) -> None:
    gate = bench.folder / "gate"
    order = bench.order(script("pub_0", bench.p1, HOLD, str(gate)), script("sub_0", bench.p2, HOLD, str(gate)))
    first, started = bench.fleet(), threading.Event()
    lost = Background(lambda: make(first, order, on_started=started.set))
    assert started.wait(8)
    before = {machine.name: bench.pids(machine, order.uid) for machine in bench.machines}
    first.close()
    with pytest.raises(MachineAway):
        lost.join()

    again = threading.Event()
    adopted = Background(lambda: make(bench.fleet(), order, confirmed=True, on_started=again.set))
    assert again.wait(8)
    gate.touch()
    outcome = adopted.join()
    assert isinstance(outcome, Outcome) and outcome.how_found == "adopted"
    assert [record.exit for record in outcome.records] == [0, 0]
    assert {machine.name: bench.pids(machine, order.uid) for machine in bench.machines} == before


@pytest.mark.fault("N2")
def test_reset_connection_in_mid_test_is_opened_again(bench: Bench, fired: Fired) -> None:
    gate = bench.folder / "gate"
    with relay(bench, bench.p1) as between:
        p1 = between.of(bench.p1)
        order = replace(bench.order(script("pub_0", p1, HOLD, str(gate))), machines=(p1,))
        started = threading.Event()
        attempt = Background(lambda: make(bench.fleet(), order, on_started=started.set))
        assert started.wait(8)
        before = bench.pids(bench.p1, order.uid)
        between.reset()
        until(lambda: between.connections == 2)
        fired("N2", f"{between.connections} connections")
        gate.touch()
        outcome = attempt.join()
        assert isinstance(outcome, Outcome) and by_name(outcome)["pub_0"].exit == 0
        assert outcome.was_away == {"p1": "LINK_LOST"}
        assert bench.pids(bench.p1, order.uid) == before


def test_a_connection_that_is_lost_before_it_is_waited_on_was_lost_too(bench: Bench) -> None:
    """The next question opens another one by itself, without any error."""
    order = replace(bench.order(script("pub_0", bench.p1, "sleep 0.3")), machines=(bench.p1,))
    fleet = bench.fleet()

    def lose() -> None:
        (link,) = fleet._links.values()
        assert link._transport is not None
        link._transport.close()
        until(lambda: not (link._transport and link._transport.is_active()))

    outcome = Background(lambda: make(fleet, order, on_started=lose)).join()
    assert isinstance(outcome, Outcome) and by_name(outcome)["pub_0"].exit == 0
    assert outcome.was_away == {"p1": "LINK_LOST"}


def test_machine_that_stays_away_is_told_and_the_attempt_lives_on(bench: Bench) -> None:
    gate = bench.folder / "gate"
    with relay(bench, bench.p1) as between:
        p1 = between.of(bench.p1)
        order = replace(bench.order(script("pub_0", p1, HOLD, str(gate))), machines=(p1,))
        started = threading.Event()
        attempt = Background(lambda: make(bench.fleet(), order, on_started=started.set))
        assert started.wait(8)
        between.refusing = True
        between.reset()
        with pytest.raises(MachineAway):
            attempt.join()
    gate.touch()
    direct = replace(order, machines=(bench.p1,))
    outcome = make(bench.fleet(), direct, confirmed=True)
    assert by_name(outcome)["pub_0"].exit == 0


def waits_for_its_end(fleet: Fleet, bench: Bench) -> Link:
    """The link to p1, once the conversation stands in which its participants' end is waited for."""
    link = fleet._lines([bench.p1])["p1"].link
    until(lambda: "bulk" in link._shells)
    return link


@pytest.mark.fault("M2")
def test_ssh_server_that_hangs_in_mid_test_is_told_and_the_attempt_lives_on(bench: Bench, fired: Fired) -> None:
    """The kernel goes on acknowledging for it, so that TCP sees nothing wrong."""
    gate = bench.folder / "gate"
    timing = replace(QUICK, link_loss_secs=8.0)
    order = replace(bench.order(script("pub_0", bench.p1, HOLD, str(gate))), machines=(bench.p1,))
    started = threading.Event()
    fleet = bench.fleet(timing)
    attempt = Background(lambda: make(fleet, order, on_started=started.set))
    assert started.wait(8)
    link = waits_for_its_end(fleet, bench)
    bench.lab.hang_sshd("p1")
    link.timing = replace(timing, connect_secs=1.0)
    try:
        began = time.monotonic()
        with pytest.raises(MachineAway) as caught:
            attempt.join()
        assert caught.value.code == "SSH_NO_BANNER"
        assert time.monotonic() - began < timing.link_loss_secs + 5
        fired("M2", caught.value.sentence())
    finally:
        bench.lab.resume_sshd("p1")
    gate.touch()
    assert by_name(make(bench.fleet(), order, confirmed=True))["pub_0"].exit == 0


def test_ssh_server_that_hangs_for_a_while_is_found_again(bench: Bench) -> None:
    gate = bench.folder / "gate"
    order = replace(bench.order(script("pub_0", bench.p1, HOLD, str(gate))), machines=(bench.p1,))
    fleet, started = bench.fleet(replace(QUICK, link_loss_secs=8.0)), threading.Event()
    attempt = Background(lambda: make(fleet, order, on_started=started.set))
    assert started.wait(8)
    link = waits_for_its_end(fleet, bench)
    bench.lab.hang_sshd("p1")
    try:
        transport = link._transport
        until(lambda: transport and not transport.is_active(), 15)
    finally:
        bench.lab.resume_sshd("p1")
    gate.touch()
    outcome = attempt.join()
    assert isinstance(outcome, Outcome) and by_name(outcome)["pub_0"].exit == 0
    assert outcome.was_away == {"p1": "SSH_HANG"} and link.connections == 2


def test_a_long_silence_of_a_machine_that_is_well_costs_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = bench.folder / "gate"
    order = replace(bench.order(script("pub_0", bench.p1, HOLD, str(gate))), machines=(bench.p1,))
    said: list[str] = []
    silent = Heartbeat.silent

    def noted(heartbeat: Heartbeat) -> str:
        said.append(silent(heartbeat))
        return said[-1]

    monkeypatch.setattr(Heartbeat, "silent", noted)
    fleet, started = bench.fleet(replace(QUICK, link_loss_secs=8.0)), threading.Event()
    attempt = Background(lambda: make(fleet, order, on_started=started.set))
    assert started.wait(8)
    until(lambda: len(said) >= 2, 15)  # asked, and judged by the answer
    gate.touch()
    outcome = attempt.join()
    assert isinstance(outcome, Outcome) and by_name(outcome)["pub_0"].exit == 0
    assert not any(said) and outcome.was_away == {}
    assert fleet._lines([bench.p1])["p1"].link.connections == 1


def test_by_default_a_machine_that_is_away_in_mid_test_is_told_within_20_s() -> None:
    silence = silence_secs(Timing().link_loss_secs)
    cut_off = silence + KEEPALIVE_AGAIN_SECS + sum(RECONNECT_PAUSES) + len(RECONNECT_PAUSES) * RECONNECT_SECS
    hung = silence + READ_SECS + RECONNECT_PAUSES[0] + BANNER_SECS
    assert max(cut_off, hung) <= 19


def test_deadline_holds_without_a_controller(bench: Bench) -> None:
    order = bench.order(script("pub_0", bench.p1, "sleep 60"), deadline=1)
    fleet = bench.fleet()
    with pytest.raises(MachineAway):
        make(fleet, order, on_started=fleet.close)
    until(lambda: (bench.attempt_folder(bench.p1, order.uid) / "done").exists())
    outcome = make(bench.fleet(), order, confirmed=True)
    assert outcome.how_found == "finished"
    assert by_name(outcome)["pub_0"].ended_by == "deadline"


def test_killed_launcher_leaves_nothing_running(bench: Bench) -> None:
    order = bench.order(script("pub_0", bench.p1, "sleep 60"), deadline=5)
    fleet, started = bench.fleet(), threading.Event()
    attempt = Background(lambda: make(fleet, order, on_started=started.set))
    assert started.wait(8)
    pids = bench.pids(bench.p1, order.uid)
    os.kill(pids["launcher"], signal.SIGKILL)
    outcome = attempt.join()
    assert isinstance(outcome, Outcome)
    record = by_name(outcome)["pub_0"]
    assert record.signal == signal.SIGKILL
    assert record.ended_by in ("deadline", "sweep")  # by the guard, or by the controller when it noticed before
    assert outcome.problems == {"p1": "LAUNCHER_LOST"}
    assert not Path(f"/proc/{pids['pid.0']}").exists()


def test_only_one_machine_started_is_ended_and_told(bench: Bench) -> None:
    order = bench.order(script("pub_0", bench.p1, "sleep 60"), script("sub_0", bench.p2, "sleep 60"))
    fleet = bench.fleet()
    half = replace(order, machines=(bench.p1,), plan=replace(order.plan, participants=order.plan.participants[:1]))
    started = threading.Event()
    lost = Background(lambda: make(fleet, half, on_started=started.set))
    assert started.wait(8)
    fleet.close()
    with pytest.raises(MachineAway):
        lost.join()
    with pytest.raises(HalfStarted, match="on p1 but not on p2"):
        make(bench.fleet(), order)
    for machine in bench.machines:
        assert (bench.attempt_folder(machine, order.uid) / "done").exists()


def test_prepared_but_never_started_gives_up_and_can_be_made_ready_again(bench: Bench) -> None:
    order = bench.order(script("pub_0", bench.p1, "exit 0"), script("sub_0", bench.p2, "exit 0"))
    folders = [bench.attempt_folder(machine, order.uid) for machine in bench.machines]
    prepare_only(bench, order, secs=3)
    pids = [bench.pids(machine, order.uid) for machine in bench.machines]
    until(lambda: all((folder / "done").exists() for folder in folders))
    until(lambda: not any(running(pid) for each in pids for pid in each.values()))
    outcome = make(bench.fleet(), order)
    assert outcome.how_found == "started"
    assert [record.exit for record in outcome.records] == [0, 0]


def test_prepared_by_a_daemon_that_died_is_started(bench: Bench) -> None:
    order = bench.order(script("pub_0", bench.p1, "exit 0"), script("sub_0", bench.p2, "exit 0"))
    prepare_only(bench, order, secs=20)
    before = {machine.name: bench.pids(machine, order.uid) for machine in bench.machines}
    outcome = make(bench.fleet(), order)
    assert outcome.how_found == "started"
    assert {machine.name: bench.pids(machine, order.uid) for machine in bench.machines} == before


def prepare_only(bench: Bench, order: Order, secs: int) -> None:
    """Leaves the machines as a daemon does that dies between making ready and starting."""
    from autoperfd.remote.attempt import Attempt

    fleet = bench.fleet(replace(QUICK, prepared_secs=secs))
    lines = fleet._lines(order.machines)
    attempt = Attempt(order, lines, INSTALLATION, replace(QUICK, prepared_secs=secs), Call(None, lambda: None))
    attempt._prepare()
    fleet.close()


def test_folder_of_a_started_attempt_that_vanished_is_told(bench: Bench) -> None:
    order = bench.order(script("pub_0", bench.p1, "exit 0"), script("sub_0", bench.p2, "exit 0"))
    make(bench.fleet(), order)
    fleet = bench.fleet()
    fleet.sweep([bench.p1])
    outcome = make(fleet, order, confirmed=True)
    assert outcome.problems == {"p1": "RECORDS_LOST"}
    assert by_name(outcome)["pub_0"].ended_by == "unknown"
    assert by_name(outcome)["sub_0"].exit == 0
    assert outcome.boot_after["p1"] == bench.lab.boot_id("p1")


@pytest.mark.fault("M4")
def test_machine_that_rebooted_in_mid_test_shows_two_boot_ids(bench: Bench, fired: Fired) -> None:
    order = bench.order(script("pub_0", bench.p1, "sleep 60"), script("sub_0", bench.p2, "sleep 60"), deadline=60)
    fleet, started = bench.fleet(), threading.Event()
    before = bench.lab.boot_id("p1")
    attempt = Background(lambda: make(fleet, order, on_started=started.set))
    assert started.wait(8)
    bench.lab.reboot("p1")
    try:
        outcome = attempt.join()
    except MachineAway:  # a boot that takes longer than its link is tried for; the daemon asks again too
        outcome = make(bench.fleet(), order, confirmed=True)
    assert isinstance(outcome, Outcome)
    assert (outcome.boot_before["p1"], outcome.boot_after["p1"]) == (before, bench.lab.boot_id("p1"))
    assert before != bench.lab.boot_id("p1")
    fired("M4", str(outcome.problems))
    assert by_name(outcome)["pub_0"].ended_by == "unknown"
    assert outcome.problems == {"p1": "LAUNCHER_LOST"}
    assert by_name(outcome)["sub_0"].ended_by == "sweep"  # the attempt is lost, so the other does not use up its time


def test_sweep_ends_leftovers_and_nothing_else(bench: Bench) -> None:
    text = 'setsid sh -c "echo \\$\\$ >escaped; exec sleep 60" & sleep 60'
    order = bench.order(script("pub_0", bench.p1, text))
    fleet, started = bench.fleet(), threading.Event()
    lost = Background(lambda: make(fleet, order, on_started=started.set))
    assert started.wait(8)
    folder = bench.attempt_folder(bench.p1, order.uid)
    escaped = folder / "files" / "escaped"
    until(lambda: escaped.exists() and escaped.read_text())
    pids = [*bench.pids(bench.p1, order.uid).values(), int(escaped.read_text())]
    fleet.close()
    with pytest.raises(MachineAway):
        lost.join()
    sweeper = bench.fleet()
    sweeper.sweep([bench.p1], keep=[order.uid])
    assert folder.exists() and all(Path(f"/proc/{pid}").exists() for pid in pids)
    # A pid that now belongs to somebody else is left alone.
    (folder / "pid.0").write_text(f"{os.getpid()} 1\n")
    sweeper.sweep([bench.p1])
    assert not folder.exists()
    until(lambda: not any(running(pid) for pid in pids))


def test_escaped_processes_are_ended_with_the_attempt(bench: Bench) -> None:
    text = 'setsid sh -c "echo \\$\\$ >escaped; exec sleep 60" & while [ ! -s escaped ]; do sleep 0.02; done'
    order = bench.order(script("pub_0", bench.p1, text, files=("escaped",)))
    make(bench.fleet(), order)
    pid = int((order.folder / "escaped").read_text())
    until(lambda: not running(pid))


@pytest.mark.fault("M14")
def test_older_attempt_is_swept_before_the_next(bench: Bench, fired: Fired) -> None:
    older = bench.order(script("pub_0", bench.p1, "exit 0"))
    fleet = bench.fleet()
    make(fleet, older)
    assert bench.attempt_folder(bench.p1, older.uid).exists()
    fired("M14", f"{older.uid} was left")
    newer = bench.order(script("sub_0", bench.p2, "exit 0"))
    make(fleet, newer)
    assert not bench.attempt_folder(bench.p1, older.uid).exists()
    assert bench.attempt_folder(bench.p2, newer.uid).exists()


def test_subscribers_that_never_end_are_ended_by_grace(bench: Bench) -> None:
    order = bench.order(
        script("pub_0", bench.p1, "exit 0"),
        script("sub_0", bench.p1, "sleep 60", role="sub"),
        script("sub_1", bench.p2, "sleep 60", role="sub"),
        script("sub_2", bench.p2, "sleep 0.5", role="sub"),
        grace=True,
    )
    began = time.monotonic()
    records = by_name(make(bench.fleet(replace(QUICK, grace_secs=4)), order))
    assert time.monotonic() - began < SOON_SECS
    assert records["pub_0"].ended_by == records["sub_2"].ended_by == "self"
    assert records["sub_0"].ended_by == records["sub_1"].ended_by == "grace"
    assert records["sub_0"].signal == signal.SIGTERM
    assert (records["sub_0"].elapsed or 0) >= 3.99


def test_a_failed_publisher_gives_no_grace(bench: Bench) -> None:
    order = bench.order(
        script("pub_0", bench.p1, "exit 3"), script("sub_0", bench.p2, "sleep 60", role="sub"), grace=True, deadline=2
    )
    assert by_name(make(bench.fleet(), order))["sub_0"].ended_by == "deadline"


def test_another_installation_s_attempt_is_not_touched(bench: Bench) -> None:
    gate = bench.folder / "gate"
    theirs = bench.order(script("pub_0", bench.p1, HOLD, str(gate)))
    other, started = bench.fleet(installation="ffffffffffffffff"), threading.Event()
    running_there = Background(lambda: make(other, theirs, on_started=started.set))
    assert started.wait(8)
    ours = bench.order(script("pub_0", bench.p1, "exit 0"), script("sub_0", bench.p2, "exit 0"))
    fleet = bench.fleet()
    with pytest.raises(MachineTaken, match="ffffffffffffffff"):
        make(fleet, ours)
    with pytest.raises(MachineTaken, match="ffffffffffffffff"):
        fleet.validate([bench.p1], (), (), wants_reboot=False, cancelled=threading.Event(), patience_secs=0)
    fleet.sweep(bench.machines)
    gate.touch()
    assert isinstance(running_there.join(), Outcome)
    assert make(fleet, ours).how_found == "started"
    other.sweep(bench.machines)


def test_cancelled_call_ends_soon_and_leaves_the_attempt_alive_until_stopped(bench: Bench) -> None:
    order = bench.order(script("pub_0", bench.p1, "sleep 60"), script("sub_0", bench.p2, "sleep 60"))
    fleet, started, cancelled = bench.fleet(), threading.Event(), threading.Event()
    attempt = Background(lambda: make(fleet, order, on_started=started.set, cancelled=cancelled))
    assert started.wait(8)
    cancelled.set()
    with pytest.raises(Cancelled):
        attempt.join(SOON_SECS)
    assert not (bench.attempt_folder(bench.p1, order.uid) / "done").exists()
    fleet.stop(bench.machines, order.uid)
    outcome = make(fleet, order, confirmed=True)
    assert {record.ended_by for record in outcome.records} == {"sweep"}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"argv": ("a\0b",)}, MachineImpossible),
        ({"environment": (("BAD NAME", "x"),)}, MachineImpossible),
        ({"environment": (("AUTOPERF_UID", "x"),)}, MachineImpossible),
        ({"argv": ("/bin/echo", *["y" * 100_000] * 30)}, MachineImpossible),
        ({"stdout": "../escape"}, Exception),
        ({"stdout": "-rf"}, Exception),
        ({"stdout": "pub_0.stderr"}, Exception),
    ],
)
def test_what_cannot_be_carried_is_refused_before_anything_starts(
    bench: Bench, change: dict[str, object], error: type[Exception]
) -> None:
    participant = replace(script("pub_0", bench.p1, "exit 0"), **change)  # type: ignore[arg-type]
    order = bench.order(participant)
    with pytest.raises(error):
        make(bench.fleet(), order)
    assert not bench.attempt_folder(bench.p1, order.uid).exists()


def test_many_participants_start_together(bench: Bench) -> None:
    met = bench.folder / "met"
    met.mkdir()
    # Each waits for all the others, which only those that run at the same time can do; the deadline would end it.
    text = ': >"$1/$2"; folder=$1; while set -- "$folder"/*; [ "$#" -lt 60 ]; do sleep 0.2; done'
    participants = [script(f"pub_{at}", bench.machines[at % 2], text, str(met), str(at)) for at in range(60)]
    order = bench.order(*participants)
    outcome = make(bench.fleet(), order)
    assert [record.exit for record in outcome.records] == [0] * 60


@pytest.mark.fault("M11")
def test_home_that_cannot_be_written_is_a_failed_start(bench: Bench, fired: Fired) -> None:
    if os.geteuid() == 0:
        (bench.home(bench.p1) / ".autoperf").write_text("a file where a folder should be")
    else:
        bench.home(bench.p1).chmod(0o500)
    try:
        with pytest.raises(StartFailed, match="could not be set up"):
            make(bench.fleet(), bench.order(script("pub_0", bench.p1, "exit 0")))
        fired("M11", "the home could not be written")
    finally:
        bench.home(bench.p1).chmod(0o700)
        (bench.home(bench.p1) / ".autoperf").unlink(missing_ok=True)
