"""The container lab is a bench: real systemd and sshd, real reboots, a network that can fail, no leftovers."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoperfd.errors import AutoperfError
from autoperfd.lab import netns
from autoperfd.lab.container import RECORDS, ContainerLab, alive, cgroups, prefix, record_of
from autoperfd.lab.machines import start_time
from tests.bounds import SOON_SECS

pytestmark = pytest.mark.timeout(300)
PYPROJECT = """
[build-system]
requires = ["setuptools>=68"]
build-backend = "setuptools.build_meta"
[project]
name = "parcel"
version = "1.2.3"
dependencies = []
[tool.setuptools]
py-modules = ["parcel"]
"""


@pytest.fixture
def reachable(container_lab: ContainerLab) -> ContainerLab:
    """The lab with the user's key and the machines' host keys on the controller."""
    key = container_lab.machine("p1").key_path.read_bytes()
    container_lab.copy_to("controller", "/root/.ssh/id_ed25519", key, 0o600)
    container_lab.copy_to("controller", "/root/.ssh/known_hosts", container_lab.known_hosts(), 0o600)
    return container_lab


def from_controller(
    lab: ContainerLab, command: str, to: str = "p1", *, connect_secs: int = 15
) -> subprocess.CompletedProcess[str]:
    patience = f"ConnectTimeout={connect_secs}"  # for the banner as well
    words = ["ssh", "-o", "BatchMode=yes", "-o", patience, f"pi@{lab.machine(to).ip}", command]
    return lab.controller.run(words)


def pings(lab: ContainerLab, to: str = "p1") -> bool:
    return lab.controller.run(f"ping -q -c 1 -W 1 {lab.machine(to).ip}").returncode == 0


def until(happened: Callable[[], object], secs: float = 20.0) -> None:
    deadline = time.monotonic() + secs
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def traces(lab: ContainerLab, pids: list[int]) -> list[str]:
    """What a stopped lab must not leave: its processes, mounts, namespaces, cgroups and record."""
    own = prefix(lab.index)
    left = [f"process {pid}" for pid in pids if start_time(pid)]
    left += [line for line in Path("/proc/mounts").read_text().splitlines() if str(lab.folder) in line]
    left += [name for name in netns.names(own) if name == own or name.startswith(f"{own}-")]
    left += [str(path) for path in cgroups(f"{own}-*")]
    left += [str(path) for path in RECORDS.glob(f"{lab.index}.json")]
    return left


def pids_of(lab: ContainerLab) -> list[int]:
    return [pid for m in lab.everyone for pid in (m.first.pid(), *m.first.processes())]


def test_machines_are_real_ones(reachable: ContainerLab) -> None:
    for machine in reachable.everyone:
        state = machine.run("systemctl is-system-running --wait; cat /proc/1/comm; hostname")
        assert state.stdout.split() == ["running", "systemd", machine.name]
    assert len({m.boot_id() for m in reachable.everyone}) == len(reachable.everyone)
    assert from_controller(reachable, "whoami; pwd").stdout.split() == ["pi", "/home/pi"]


def test_the_account_may_reboot_and_nothing_else(reachable: ContainerLab) -> None:
    assert from_controller(reachable, "sudo -n -l /usr/bin/systemctl reboot").returncode == 0
    refused = from_controller(reachable, "sudo -n id")
    assert refused.returncode == 1 and "password is required" in refused.stderr


def test_a_reboot_is_real_and_keeps_the_disk(reachable: ContainerLab) -> None:
    machine = reachable.machine("p1")
    others = [m.boot_id() for m in reachable.everyone if m is not machine and m.name != "p1"]
    from_controller(reachable, "echo kept >file; setsid sleep 600 </dev/null >/dev/null 2>&1 &")
    before, said = machine.boot_id(), from_controller(reachable, "cat /proc/sys/kernel/random/boot_id")
    assert said.stdout.strip() == before

    from_controller(reachable, "sudo -n systemctl reboot")

    reachable.await_reboot("p1", before)
    after = from_controller(reachable, "cat /proc/sys/kernel/random/boot_id; cat file; pgrep -c sleep")
    assert after.stdout.split() == [machine.boot_id(), "kept", "0"]
    assert machine.boot_id() != before
    assert [m.boot_id() for m in reachable.everyone if m.name != "p1"] == others


def test_power(reachable: ContainerLab) -> None:
    machine = reachable.machine("p2")
    machine.run("echo kept >/root/file; sync", check=True)
    before, running = machine.boot_id(), machine.first.processes()
    reachable.kill("p2")
    assert not any(start_time(pid) for pid in running)
    assert not pings(reachable, "p2") and machine.boot_id() == ""
    with pytest.raises(AutoperfError, match="p2 is down"):
        machine.run("true")
    reachable.boot("p2")
    assert machine.boot_id() not in ("", before)
    assert machine.run("cat /root/file").stdout == "kept\n"


@pytest.mark.parametrize(
    ("match", "ping_works", "ssh_works"),
    [("", False, False), ("tcp dport 22", True, False), ("ip protocol icmp", False, True)],
)
def test_a_wire_loses_what_it_is_told_to(
    reachable: ContainerLab, match: str, ping_works: bool, ssh_works: bool
) -> None:
    reachable.drop("controller", "p1", match)
    assert pings(reachable) is ping_works
    said = from_controller(reachable, "true", connect_secs=15 if ssh_works else 2)
    assert (said.returncode == 0) is ssh_works
    assert pings(reachable, "p2") and from_controller(reachable, "true", "p2").returncode == 0
    reachable.heal()
    assert pings(reachable) and from_controller(reachable, "true").returncode == 0


def test_a_lossy_wire_loses_some(reachable: ContainerLab) -> None:
    reachable.drop_loss("p1", 40)
    said = reachable.controller.run("ping -q -i 0.01 -c 100 -W 1 p1").stdout
    received = int(said.split(" received")[0].rpartition(" ")[2])
    assert 10 < received < 70, said


def test_a_hung_sshd_still_answers_pings(reachable: ContainerLab) -> None:
    reachable.hang_sshd("p1")
    assert pings(reachable) and not reachable.machine("p1").answers()
    reachable.resume_sshd("p1")
    assert from_controller(reachable, "true").returncode == 0


def test_a_webhook_reaches_the_test_process(container_lab: ContainerLab) -> None:
    recorder = container_lab.recorder()
    post = 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], b\'{"text": "hello"}\').status)'
    said = container_lab.controller.run(["python3", "-c", post, f"{recorder.url}/hook"])
    assert said.stdout == "200\n"
    (request,) = recorder.wait(1)
    assert (request.method, request.path, request.json()) == ("POST", "/hook", {"text": "hello"})
    recorder.status = 503
    assert "503" in container_lab.controller.run(["python3", "-c", post, recorder.url]).stderr


def test_the_controller_can_run_a_hardened_unit(container_lab: ContainerLab) -> None:
    container_lab.copy_to("controller", "/etc/secret", "s3cret", 0o600)
    properties = """DynamicUser=yes NoNewPrivileges=yes CapabilityBoundingSet= ProtectSystem=strict ProtectHome=yes
        PrivateDevices=yes PrivateTmp=yes ProtectProc=invisible ProcSubset=pid MemoryDenyWriteExecute=yes
        RestrictNamespaces=yes SystemCallFilter=@system-service LoadCredential=key:/etc/secret
        StateDirectory=lab-test"""
    words = [f"--property={item}" for item in properties.split()]
    script = "cat $CREDENTIALS_DIRECTORY/key; echo; touch /etc/x || ls /proc/sys || ping -q -c 1 p1 | grep -c ' 0%'"
    said = container_lab.controller.run(["systemd-run", "--quiet", "--wait", "--pipe", *words, "sh", "-c", script])
    assert said.stdout.split() == ["s3cret", "1"], said
    container_lab.allow_ping("controller", allowed=False)
    said = container_lab.controller.run(["systemd-run", "--quiet", "--wait", "--pipe", *words, "sh", "-c", script])
    assert said.stdout.split() == ["s3cret", "0"], said


def test_both_tools_run_between_machines(container_lab: ContainerLab) -> None:
    publisher, subscriber = container_lab.machine("p1"), container_lab.machine("p2")
    assert publisher.run("~/perftest_cpp -help", user="pi").returncode == 0
    subscriber.run("setsid ddsperf -D 4 -i 7 sub >out 2>&1 &", user="pi")
    assert publisher.run("ddsperf -D 2 -i 7 pub 100Hz size 100", user="pi").returncode == 0
    until(lambda: re.search(r"size 100 total [1-9]\d+ lost 0", subscriber.run("cat out", user="pi").stdout))


def test_files_arrive_whole(container_lab: ContainerLab) -> None:
    data = bytes(range(256)) * 1000
    container_lab.copy_to("p1", "/home/pi/a folder/file", data, 0o640, owner="pi")
    said = container_lab.machine("p1").run("stat -c '%a %U' a*/file; sha256sum a*/file", user="pi")
    assert said.stdout.split()[:3] == ["640", "pi", hashlib.sha256(data).hexdigest()]


def test_commands_on_machines_have_a_deadline(container_lab: ContainerLab) -> None:
    started = time.monotonic()
    assert container_lab.machine("p1").run("sleep 600", timeout=1).returncode == -9
    assert time.monotonic() - started < SOON_SECS
    assert container_lab.machine("p1").run("pgrep sleep").stdout == ""


def test_a_reset_gives_new_disks(container_lab: ContainerLab) -> None:
    container_lab.machine("p1").run("touch /root/file", check=True)
    container_lab.kill("p2")
    container_lab.drop("p3")
    container_lab.reset()
    assert set(container_lab.status().values()) == {"up"}
    assert container_lab.machine("p1").run("ls /root/file").returncode == 2
    assert pings(container_lab, "p3")


@pytest.fixture
def second(tmp_path: Path, container_lab: ContainerLab) -> Iterator[ContainerLab]:
    """A lab beside the first one, not started."""
    lab = ContainerLab(tmp_path / "second", 1)
    yield lab
    lab.stop()


def test_two_labs_live_side_by_side_and_one_goes_without_a_trace(
    container_lab: ContainerLab, second: ContainerLab
) -> None:
    with second:
        assert second.index != container_lab.index
        assert second.machine("p1").ip != container_lab.machine("p1").ip
        pids = pids_of(second)
        assert len(pids) > 5 and len(traces(second, pids)) > len(pids)
    assert traces(second, pids) == []
    assert set(container_lab.status().values()) == {"up"}
    assert pings(container_lab)


def test_an_index_in_use_is_refused(container_lab: ContainerLab, tmp_path: Path) -> None:
    with pytest.raises(AutoperfError, match="belongs to the lab in"):
        ContainerLab(tmp_path, 1, index=container_lab.index).start()
    assert set(container_lab.status().values()) == {"up"}


def test_the_command_line_starts_and_stops(container_lab: ContainerLab, tmp_path: Path) -> None:
    def command(action: str) -> str:
        argv = [sys.executable, "-m", "autoperfd.lab", "container", action, str(tmp_path / "a"), "--machines", "1"]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout

    assert command("start").endswith("\tup\n")
    lab = ContainerLab(tmp_path / "a")  # another process finds it by its folder
    pids = pids_of(lab)
    assert lab.machine("p1").answers()
    assert command("stop").endswith("\tstopped\n")
    assert traces(lab, pids) == []


SCRIPT = """
import sys, time
from pathlib import Path
from autoperfd.lab.container import ContainerLab
from tests.bounds import SOON_SECS
with ContainerLab(Path(sys.argv[1]), 1) as lab:
    print(lab.index, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("first_too", [False, True])
def test_what_a_killed_lab_leaves_is_removed_by_the_next(
    container_lab: ContainerLab, second: ContainerLab, tmp_path: Path, first_too: bool
) -> None:
    argv = [sys.executable, "-c", SCRIPT, str(tmp_path / "killed")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        index = int(process.stdout.readline())
        killed = ContainerLab(tmp_path / "killed")
        pids = pids_of(killed)
        if first_too:  # the worst case: nobody is left who knows of the machine
            os.kill(killed.machine("p1").first.pid(), signal.SIGKILL)
        process.kill()
    if first_too:
        assert any(start_time(pid) for pid in pids)
    else:
        until(lambda: not any(start_time(pid) for pid in pids))  # the machine ends with its owner
    until(lambda: not alive(record_of(index)))  # a process that was killed takes a moment to be gone
    assert traces(killed, pids)

    second.start(owner=os.getpid())

    assert second.index == index
    assert [trace for trace in traces(killed, pids) if trace.startswith("process")] == []
    second.stop()
    assert traces(second, pids) == []


def test_a_project_is_installed_as_its_makefile_says(second: ContainerLab, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(PYPROJECT)
    (project / "parcel.py").write_text("print('hello')\n")
    (project / "Makefile").write_text(
        "install:\n\tpython3 -m venv /opt/parcel\n\t/opt/parcel/bin/pip install -q .\n\ttouch /etc/parcel\n"
    )
    subprocess.run(["git", "init", "-q", str(project)], check=True, timeout=20)
    second.with_controller = True
    second.install_controller(project)
    second.start(owner=os.getpid())
    said = second.controller.run("/opt/parcel/bin/python -m parcel; ls /etc/parcel")
    assert said.stdout.split() == ["hello", "/etc/parcel"]
    (project / "parcel.py").write_text("print('hello again')\n")
    second.install_controller(project)  # also while it runs
    assert second.controller.run("/opt/parcel/bin/python -m parcel").stdout == "hello again\n"
