"""What the launcher sees of a machine before and after an attempt, what validation makes of it, and looking closer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoperfd.core.guards import Guards, violations
from autoperfd.errors import MachineAway, MachineTaken
from autoperfd.remote import answers
from autoperfd.remote.shell import ShellBroken
from tests.bounds import SOON_SECS
from tests.faults import Fired
from tests.remote.support import QUICK, Background, Bench, make, relay, running, script, until
from tests.remote.test_validate import validate

WHO = """\
ann      pts/0        2026-11-25 09:00 (192.0.2.9)
bob      pts/1        2026-11-25 09:01 (bench.example via mosh [77])
carl     tty1         2026-11-25 09:02
dora     pts/2        2026-11-25 09:02 (:0)
emil     pts/3        2026-11-25 09:02 (tmux(4711).%0)
fritz    pts/4        2026-11-25 09:03 (:pts/0:S.1)
pi       sshd         2026-11-25 09:04 (192.0.2.1)
"""
EVIL = "evil\x1b[2J pts/9        2026-11-25 09:00 (2001:db8::1)"


def tool(bench: Bench, name: str, text: str, machine: str = "p1") -> Path:
    """A program of that name, first on the PATH of a machine."""
    path = bench.lab.machine_folder(machine) / "bin" / name
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def cleared(bench: Bench) -> Iterator[None]:
    yield
    for name in ("vcgencmd", "who", "ping"):
        (bench.lab.machine_folder("p1") / "bin" / name).unlink(missing_ok=True)


@pytest.fixture(params=["", "-of-a-long-name"])
def stranger(bench: Bench, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process, called as the benchmark on p1 is; the kernel keeps 15 bytes of its name."""
    program = bench.home(bench.p1) / f"bench-{os.getpid()}{request.param}"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "60"]) as process:
        yield process
        process.kill()
    program.unlink()


def test_what_who_tells_of_people() -> None:
    lines = {"user": [*WHO.splitlines(), EVIL, "", "who: cannot open"]}
    assert answers.watch(lines).users == (
        "ann pts/0 192.0.2.9",
        "bob pts/1 bench.example via mosh [77]",
        "evil\\x1b[2J pts/9 2001:db8::1",
    )
    assert len(answers.watch({"user": [WHO.splitlines()[0]] * 100}).users) == 20


@pytest.mark.parametrize(
    ("said", "bits"),
    [("throttled=0x50005", 0x50005), ("50000", 0x50000), ("0", 0), ("", None), ("VCHI initialization failed", None)],
)
def test_throttling_as_every_source_tells_it(said: str, bits: int | None) -> None:
    assert answers.watch({"throttled": [said]}).throttled == bits


@pytest.mark.parametrize(
    "lines", [{"foreign": ["x y"]}, {"millidegrees": ["hot"]}, {"link_errors": ["-1"]}, {"clock": ["now then"]}]
)
def test_looks_that_do_not_fit_are_refused(lines: dict[str, list[str]]) -> None:
    with pytest.raises(ShellBroken):
        answers.watch(lines)


def test_what_was_heard() -> None:
    assert answers.heard("1 0\n0 1\n2 2\n", 4) == [False, True, None, None]
    with pytest.raises(ShellBroken):
        answers.heard("7 0\n", 2)


@pytest.mark.lab
def test_an_attempt_is_looked_at_before_and_after(bench: Bench) -> None:
    order = bench.order(script("pub_0", bench.p1, "exit 0"), script("sub_0", bench.p2, "sleep 0.5", role="sub"))
    outcome = make(bench.fleet(), order)
    assert set(outcome.watch_before) == set(outcome.watch_after) == {"p1", "p2"}
    for machine in ("p1", "p2"):
        before, after = outcome.watch_before[machine], outcome.watch_after[machine]
        assert before.wall is not None and before.uptime is not None
        assert after.wall is not None and after.uptime is not None and after.free_kb
        assert abs((after.wall - after.uptime) - (before.wall - before.uptime)) < 0.2
        assert before.link_errors == after.link_errors is not None
    long = outcome.watch_after["p2"]
    assert (long.uptime or 0) - (outcome.watch_before["p2"].uptime or 0) >= 0.5
    undisturbed = Guards(foreign="record", users="record")
    assert violations(outcome.watch_before, outcome.watch_after, undisturbed) == []
    again = make(bench.fleet(), order, confirmed=True)
    assert (again.watch_before, {**again.watch_after}.keys()) == (outcome.watch_before, outcome.watch_after.keys())


@pytest.mark.lab
@pytest.mark.fault("M12")
@pytest.mark.usefixtures("cleared")
def test_throttling_in_mid_test_is_seen(bench: Bench, fired: Fired) -> None:
    tool(bench, "vcgencmd", f"#!/bin/sh\n[ -e '{bench.folder}/hot' ] && echo throttled=0x50005 || echo throttled=0x0\n")
    order = bench.order(script("pub_0", bench.p1, f"touch '{bench.folder}/hot'"))
    outcome = make(bench.fleet(), order)
    assert (outcome.watch_before["p1"].throttled, outcome.watch_after["p1"].throttled) == (0, 0x50005)
    (found,) = violations(outcome.watch_before, outcome.watch_after, Guards(foreign="record", users="record"))
    fired("M12", found.reason)
    assert (found.code, found.blame) == ("THROTTLED", "machine")
    with pytest.raises(MachineAway) as caught:
        validate(bench.fleet(guards=Guards(foreign="record", users="record")), [bench.p1])
    assert caught.value.code == "THROTTLED"


@pytest.mark.lab
@pytest.mark.fault("M14", "M16")
def test_a_stranger_s_benchmark_is_named_and_never_touched(
    bench: Bench, stranger: subprocess.Popen[bytes], fired: Fired
) -> None:
    path = Path(stranger.args[0])  # type: ignore[index,arg-type]
    named = f"{stranger.pid} {path.name[:15]}"
    until(lambda: Path(f"/proc/{stranger.pid}/comm").read_text().strip() == path.name[:15])
    machine = replace(bench.p1, exec_path=str(path))
    strict = bench.fleet(guards=Guards())
    with pytest.raises(MachineTaken) as caught:
        validate(strict, [machine], ("0",))
    assert caught.value.code == "FOREIGN_PROCESS" and named in caught.value.sentence()
    recorded = validate(bench.fleet(guards=Guards(foreign="record")), [machine], ("0",))
    assert any(named in warning for warning in recorded.machines["p1"].warnings)

    ours = replace(script("pub_0", bench.p1, ""), argv=(machine.exec_path, "0.5"))
    fleet, started = bench.fleet(), threading.Event()
    attempt = Background(lambda: make(fleet, bench.order(ours), on_started=started.set))
    assert started.wait(8)
    validate(strict, [bench.p1], uid_open="0" * 32)  # an attempt that runs is not turned away
    outcome = attempt.join()
    (found,) = violations(outcome.watch_before, outcome.watch_after, Guards())  # type: ignore[attr-defined]
    assert found.code == "FOREIGN_PROCESS" and found.reason.endswith(named)  # and not our own
    fired("M16", found.reason)
    fleet.sweep(bench.machines)
    assert stranger.poll() is None
    fired("M14", f"{named} lives on")


@pytest.mark.lab
@pytest.mark.fault("M11")
def test_a_disk_without_room_is_found_before_the_attempt(bench: Bench, fired: Fired) -> None:
    free = int(validate(bench.fleet(), [bench.p1]).machines["p1"].facts["free_kb"]) >> 10
    with pytest.raises(MachineAway) as caught:
        validate(bench.fleet(guards=Guards(foreign="record", users="record", min_free_mb=free * 2)), [bench.p1])
    assert caught.value.code == "REMOTE_DISK_FULL" and "MB are free" in caught.value.sentence()
    fired("M11", caught.value.sentence())


LEAVES = """
import os, pathlib, sys, time
if os.fork():
    while not pathlib.Path("daemon").exists(): time.sleep(0.01)
    sys.exit(0)
os.setsid()
if os.fork(): os._exit(0)
pathlib.Path("daemon").write_text(str(os.getpid()))
time.sleep(600)
"""


@pytest.mark.lab
@pytest.mark.fault("M14", "T9")
def test_a_double_fork_is_ended_even_when_its_folder_is_gone(bench: Bench, fired: Fired) -> None:
    program = bench.folder / "leaves.py"
    program.write_text(LEAVES)
    hold = "; while [ ! -e gate ]; do sleep 0.02; done"
    text = f"trap '' TERM; '{sys.executable}' '{program}'{hold}"
    order = bench.order(script("pub_0", bench.p1, text), script("sub_0", bench.p2, "sleep 60"))
    fleet, started = bench.fleet(), threading.Event()
    lost = Background(lambda: make(fleet, order, on_started=started.set))
    assert started.wait(8)
    folder = bench.attempt_folder(bench.p1, order.uid)
    daemon = folder / "files" / "daemon"
    until(lambda: daemon.exists() and daemon.read_text())
    pid = int(daemon.read_text())
    fleet.close()
    with pytest.raises(MachineAway):
        lost.join()
    assert running(pid) and os.getsid(pid) != os.getpid()
    fired("T9", f"pid {pid} outlived the link in a session of its own")
    folder.rename(bench.home(bench.p1) / "taken-away")
    strangers = subprocess.Popen(["sleep", "60"], env={"AUTOPERF_FOLDER": f"{bench.folder}/elsewhere"})
    try:
        bench.fleet().sweep(bench.machines)
        until(lambda: not running(pid))
        fired("M14", f"pid {pid} of {order.uid} was ended by its uid")
        assert strangers.poll() is None
    finally:
        strangers.kill()
        strangers.wait(5)
    assert not (bench.attempt_folder(bench.p2, order.uid)).exists()


@pytest.mark.lab
def test_a_sweep_spares_what_is_to_be_kept(bench: Bench) -> None:
    order = bench.order(script("pub_0", bench.p1, "while [ ! -e gate ]; do sleep 0.02; done"))
    fleet, started = bench.fleet(), threading.Event()
    attempt = Background(lambda: make(fleet, order, on_started=started.set))
    assert started.wait(8)
    bench.fleet().sweep(bench.machines, keep=[order.uid])
    (bench.attempt_folder(bench.p1, order.uid) / "files" / "gate").touch()
    assert [record.exit for record in attempt.join().records] == [0]  # type: ignore[attr-defined]


# ---------------------------------------------------------------- looking closer


@pytest.mark.lab
def test_machines_that_are_well(bench: Bench) -> None:
    seen = bench.fleet().examine(bench.machines, cancelled=threading.Event())
    assert {name: (at.pinged, at.ssh, at.boot_id) for name, at in seen.items()} == {
        name: (True, "ok", bench.lab.boot_id(name)) for name in ("p1", "p2")
    }
    assert {name: set(at.hears) for name, at in seen.items()} == {"p1": {"p2"}, "p2": {"p1"}}


@pytest.mark.lab
@pytest.mark.usefixtures("cleared")
@pytest.mark.parametrize(("status", "heard"), [(0, True), (1, False), (2, None)])
def test_whom_a_machine_hears(bench: Bench, status: int, heard: bool | None) -> None:
    tool(bench, "ping", f"#!/bin/sh\necho \"$@\" >'{bench.folder}/asked'\nexit {status}\n")
    seen = bench.fleet().examine(bench.machines, cancelled=threading.Event())
    assert seen["p1"].hears == {"p2": heard}
    assert (bench.folder / "asked").read_text() == f"-c 1 -W 1 {bench.p2.ip}\n"


@pytest.mark.lab
def test_machines_that_are_ill_are_told_within_seconds(bench: Bench) -> None:
    bench.lab.kill("p1")
    bench.lab.hang_sshd("p2")
    began = time.monotonic()
    try:
        seen = bench.fleet(replace(QUICK, connect_secs=60)).examine(bench.machines, cancelled=threading.Event())
    finally:
        bench.lab.resume_sshd("p2")
    assert time.monotonic() - began < SOON_SECS
    assert (seen["p1"].ssh, seen["p1"].hears) == ("SSH_REFUSED", {})
    assert seen["p2"].ssh == "SSH_HANG" and seen["p2"].boot_id == ""
    json.dumps({name: at.ssh for name, at in seen.items()})


@pytest.mark.lab
def test_looking_never_raises(bench: Bench) -> None:
    fleet = bench.fleet()
    cancelled = threading.Event()
    cancelled.set()
    assert set(fleet.examine(bench.machines, cancelled=cancelled)) == {"p1", "p2"}
    odd = replace(bench.p1, name="odd", ip="no-such-machine.invalid")
    unknown = replace(bench.p2, name="unknown", ssh_key_path="~/nothing")
    seen = fleet.examine([bench.p1, odd, unknown], cancelled=threading.Event())
    assert (seen["odd"].pinged, seen["odd"].ssh) == (None, "HOST_KEY_UNKNOWN")
    assert seen["p1"].hears.get("odd") is None
    fleet.close()
    assert {at.ssh for at in fleet.examine(bench.machines, cancelled=threading.Event()).values()} == {"ABANDONED"}


@pytest.mark.lab
@pytest.mark.fault("N6")
def test_a_name_is_looked_up_anew_and_a_slow_resolver_has_a_deadline(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fired: Fired
) -> None:
    real, table, slow = socket.getaddrinfo, {"pi.example": ""}, threading.Event()

    def resolver(host: str, *args: object) -> object:
        if host not in table or socket.AI_NUMERICHOST in args:
            return real(host, *args)  # type: ignore[arg-type]
        if not table[host]:
            slow.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(table[host], *args)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    machine = replace(bench.p1, ip="pi.example")
    bench.trust.lines["pi.example", machine.port] = bench.trust.lines[bench.p1.ip, bench.p1.port]
    fleet = bench.fleet()
    began = time.monotonic()
    with pytest.raises(MachineAway) as caught:
        validate(fleet, [machine])
    assert caught.value.code == "DNS" and time.monotonic() - began < SOON_SECS
    fired("N6", caught.value.sentence())
    slow.set()
    table["pi.example"] = bench.p1.ip
    assert validate(fleet, [machine]).boot_ids == {"p1": bench.lab.boot_id("p1")}


@pytest.mark.lab
@pytest.mark.fault("N7")
def test_a_link_that_flaps_leaves_nothing_behind(bench: Bench, fired: Fired) -> None:
    with relay(bench, bench.p1) as between:
        p1 = between.of(bench.p1)
        line = bench.fleet()._lines([p1])["p1"]
        line.ask("boot")
        before = (threading.active_count(), len(os.listdir("/proc/self/fd")))
        for _ in range(30):
            between.reset()
            line.ask("boot")
        assert between.connections > 25
        fired("N7", f"{between.connections} connections were made")
        until(lambda: (threading.active_count(), len(os.listdir("/proc/self/fd"))) <= before)


SMALL_DISK = """#!/bin/sh
echo Filesystem 1024-blocks Used Available Capacity Mounted on
case $2 in */.autoperf) echo disk 8000 1000 7000 13% /small ;; *) echo disk 8000000 1000 7999000 1% / ;; esac
"""


@pytest.mark.lab
def test_a_small_disk_where_attempts_lie_is_seen_before_one_is_lost_to_it(bench: Bench) -> None:
    (bench.home(bench.p1) / ".autoperf").mkdir(exist_ok=True)
    tool(bench, "df", SMALL_DISK)
    try:
        with pytest.raises(MachineAway) as caught:
            validate(bench.fleet(guards=Guards(foreign="record", users="record")), [bench.p1])
    finally:
        (bench.lab.machine_folder("p1") / "bin" / "df").unlink()
    assert caught.value.code == "REMOTE_DISK_FULL" and "6 MB are free" in caught.value.sentence()
