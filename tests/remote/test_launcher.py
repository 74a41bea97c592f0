"""The launcher alone, without SSH: under every shell that may be /bin/sh or a login shell where one is installed."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoperfd.remote import answers
from autoperfd.remote.shell import COMMAND, LAUNCHER, Shell
from tests.faults import Fired
from tests.remote.support import running, until

INSTALLATION = "00112233aabbccdd"
VALUES = ["a b", "", "$(id)", "line\nbreak", "'\"\\", "é\udcff", "~", "trailing\n"]


class Pipe:
    """A process' standard streams, as Shell uses a channel."""

    def __init__(self, argv: list[str], environment: dict[str, str], folder: Path) -> None:
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=folder, bufsize=0
        )
        self._timeout = 5.0
        self.in_buffer = self

    def set_event(self, event: threading.Event) -> None:
        event.set()  # whoever reads waits in `recv`

    def settimeout(self, secs: float) -> None:
        self._timeout = secs

    def sendall(self, data: bytes) -> None:
        assert self.process.stdin
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def recv(self, size: int) -> bytes:
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], self._timeout)[0]:
            raise TimeoutError
        return self.process.stdout.read(size)

    def recv_stderr_ready(self) -> bool:
        return False

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(5)
        self.process.stdout.close()


def found(*names: str) -> list[object]:
    return [
        pytest.param(name, marks=() if shutil.which(name) else pytest.mark.skip(f"{name} is not installed here"))
        for name in names
    ]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "boot_id").write_text("11111111-2222-3333-4444-555555555555\n")
    return folder


ROOTS = b"sys=/sys proc=/proc etc=/etc run=/run"  # as the survey names them


def conversation(monkeypatch: pytest.MonkeyPatch, argv: list[str], home: Path, path: str, shell: str) -> Shell:
    launcher = LAUNCHER.replace(b"/bin/sh", shell.encode())
    if (home / "system").is_dir():
        moved = " ".join(f"{name}={home}/system/{name}" for name in ("sys", "proc", "etc", "run"))
        assert ROOTS in launcher
        launcher = launcher.replace(ROOTS, moved.encode())
    monkeypatch.setattr("autoperfd.remote.shell.LAUNCHER", launcher)
    command = COMMAND.replace("/bin/sh", shell).replace(str(len(LAUNCHER)), str(len(launcher)))
    environment = {
        "HOME": str(home),
        "PATH": f"{home / 'bin'}:{path}",
        "AUTOPERF_BOOT_ID_FILE": str(home / "boot_id"),
    }
    return Shell(Pipe([*argv, "-c", command], environment, home), 5.0)  # type: ignore[arg-type]


@pytest.fixture(params=found("dash", "bash", "busybox", "mksh"))
def shell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Shell]:
    """A conversation with that shell as /bin/sh; with busybox nothing but busybox is on the PATH."""
    binary, path = str(shutil.which(request.param)), os.environ["PATH"]
    tools = home.parent / "tools"
    tools.mkdir()
    (tools / "sh").symlink_to(binary)
    if request.param == "busybox":
        for name in subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if name != "sh":
                (tools / name).symlink_to(binary)
        path = str(tools)
    shell = conversation(monkeypatch, [str(tools / "sh")], home, path, str(tools / "sh"))
    yield shell
    shell.ask("sweep", [INSTALLATION], (), 10)
    shell.close()


ETHTOOL = """#!/bin/sh
case $1 in
  -k) printf 'Features for eth0:\nrx-checksumming: on [fixed]\ntx-checksumming: off\n\ttx-checksum-ipv4: on\n'
      printf 'generic-receive-offload: on\nlarge-receive-offload: off [fixed]\n' ;;
  -c) printf 'Coalesce parameters for eth0:\nAdaptive RX: off  TX: off\nstats-block-usecs: 0\nrx-usecs: 57\n'
      printf 'rx-frames: n/a\n' ;;
esac
"""


@pytest.fixture
def raspberry(home: Path) -> None:
    """Asked for before `shell`: what it finds below / is what the kernel of a Raspberry Pi shows."""
    for name, text in SYSTEM.items():
        path = home / "system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (home / "system/sys/class/net/eth0/device/driver").symlink_to("/sys/bus/platform/drivers/bcmgenet")
    ethtool = home / "bin" / "ethtool"
    ethtool.parent.mkdir()
    ethtool.write_text(ETHTOOL)
    ethtool.chmod(0o755)


def prepared(shell: Shell, uid: str, *participants: list[str], deadline: int = 10) -> str:
    values: list[str] = []
    for at, argv in enumerate(participants):
        values += ["pub", f"out{at}", f"err{at}", "1", str(len(argv) + 1), "NAME=$(value) 'x'", *argv]
    tokens = [INSTALLATION, uid, deadline, 1, deadline + 2, 20, 4_000_000, "launcher.log"]
    return shell.ask("prepare", [*tokens, len(participants), len(values)], values, 5).strip()


@pytest.mark.parametrize("values", [VALUES, [value for value in VALUES if "\n" not in value]], ids=["nul", "lines"])
def test_a_whole_attempt(shell: Shell, home: Path, values: list[str]) -> None:
    uid, clock = uuid.uuid4().hex, time.time()
    place = [INSTALLATION, uid]
    text = 'printf "%s|" "$NAME" "$@"; echo err >&2; exit 3'
    argv = ["/bin/sh", "-c", text, "script", *values]
    assert prepared(shell, uid, argv, ["/bin/sh", "-c", "kill -9 $$"], ["/bin/sleep", "60"], deadline=4) == "parked"
    assert answers.found(shell.ask("state", place, (), 5)).state == "parked"
    assert shell.ask("go", place, (), 5).startswith("running ")
    assert shell.ask("go", place, (), 5).startswith("running ")
    state = answers.found(shell.ask("await", [*place, "all"], (), 15))
    while state.state == "running":
        state = answers.found(shell.ask("await", [*place, "all"], (), 15))
    assert (state.state, state.before, state.after) == ("done", state.boot, state.boot)
    assert state.boot == "11111111-2222-3333-4444-555555555555"
    assert [ending.status for ending in state.endings] == [3, 137, 143]
    assert [ending.why for ending in state.endings] == ["", "", "deadline"]
    assert state.started is not None and int(clock) <= state.started <= time.time()  # busybox tells whole seconds

    names = ["out0", "err0", "out1", "launcher.log", "absent"]
    shell.begin("fetch", [*place, 1000, 0, *names], (), time.monotonic() + 5)
    offered = answers.manifest(shell.answer(time.monotonic() + 5), set(names), 1000)
    sent = {file.name: b"".join(shell.stream(file.size, time.monotonic() + 5)) for file in offered}
    hashes = answers.hashes(shell.answer(time.monotonic() + 5))
    expected = "".join(f"{value}|" for value in ["$(value) 'x'", *values])
    assert sent["out0"] == expected.encode("utf-8", "surrogateescape")
    assert sent["err0"] == b"err\n" and sent["out1"] == b"" and "absent" not in sent
    assert sent["launcher.log"] == b""
    assert set(hashes) == set(sent)
    assert not (home / ".autoperf" / "busy").exists()


# Every other time it is started, the machine stands still before it tells.
STALLING = """#!/bin/sh
if [ -e "$0.stalled" ]; then rm "$0.stalled"; else : >"$0.stalled" && sleep 1; fi
exec {} "$@"
"""


def test_a_stall_between_two_looks_at_the_time_is_no_step_of_the_clock(shell: Shell, home: Path) -> None:
    date = home / "bin" / "date"
    date.parent.mkdir()
    date.write_text(STALLING.format(shutil.which("date")))
    date.chmod(0o755)
    uid = uuid.uuid4().hex
    place = [INSTALLATION, uid]
    assert prepared(shell, uid, ["/bin/sh", "-c", "exit 0"]) == "parked"
    assert shell.ask("go", place, (), 15).startswith("running ")
    state = answers.found(shell.ask("await", [*place, "all"], (), 15))
    assert state.state == "done" and state.started and state.released
    after = state.watch_after
    assert after and after.wall and after.uptime
    assert abs((after.wall - after.uptime) - (state.started - state.released)) < 0.2


def test_ended_without_a_launcher_a_late_record_is_waited_for(shell: Shell, home: Path) -> None:
    uid = uuid.uuid4().hex
    place = [INSTALLATION, uid]
    assert prepared(shell, uid, ["/bin/sleep", "60"]) == "parked"
    shell.ask("go", place, (), 5)
    launcher, participant = (
        int((home / ".autoperf" / INSTALLATION / uid / name).read_text().split()[0]) for name in ("launcher", "pid.0")
    )
    supervisor = int(Path(f"/proc/{participant}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(launcher, signal.SIGKILL)
    until(lambda: answers.found(shell.ask("state", place, (), 5)).state == "lost")
    os.kill(supervisor, signal.SIGSTOP)
    late = threading.Timer(0.5, os.kill, (supervisor, signal.SIGCONT))
    late.start()
    state = answers.found(shell.ask("end", [*place, "sweep", 0], (), 15))
    late.join()
    assert [(ending.status, ending.why) for ending in state.endings] == [(137, "sweep")]


def test_what_left_its_group_is_ended_by_its_mark(shell: Shell, home: Path) -> None:
    """Its environment says whose it is, after whatever else stands there."""
    place, pid = [INSTALLATION, uuid.uuid4().hex], home / "escaped"
    escapes = 'setsid sh -c \'echo $$ >"$1"; exec sleep 60\' sh "$1" & while ! [ -s "$1" ]; do sleep 0.1; done'
    assert prepared(shell, place[1], ["/bin/sh", "-c", escapes, "sh", str(pid)]) == "parked"
    shell.ask("go", place, (), 5)
    assert answers.found(shell.ask("await", [*place, "all"], (), 15)).state == "done"
    until(lambda: not running(int(pid.read_text())))


def test_second_start_is_refused_and_tells_what_is_there(shell: Shell) -> None:
    uid = uuid.uuid4().hex
    assert prepared(shell, uid, ["/bin/sleep", "60"]) == "parked"
    assert prepared(shell, uid, ["/bin/sleep", "60"]).startswith("found\nstate parked\n")
    shell.ask("go", [INSTALLATION, uid], (), 5)
    assert prepared(shell, uid, ["/bin/sleep", "60"]).startswith("found\nstate running\n")
    state = answers.found(shell.ask("end", [INSTALLATION, uid, "sweep", 1], (), 5))
    assert state.endings[0].why == "sweep"


def test_probe(shell: Shell) -> None:
    values = ["/bin/sh", "GREETING=hello", "-c", 'echo "$GREETING"; exit 4']
    probed = answers.probed(shell.ask("probe", [INSTALLATION, "-", 1, 1, 0, 5, 1], values, 10))
    assert (probed.output, probed.exit) == ("hello\n", 4)
    assert "needs" not in probed.lines and probed.first("executable") == "there"
    assert probed.first("free_kb").isdigit() and probed.first("boot")


SYSTEM = {
    "etc/os-release": 'ID=raspbian\nPRETTY_NAME="Raspbian GNU/Linux 11 (bullseye)"\n',
    "etc/systemd/system.conf": "[Manager]\n#RebootWatchdogSec=10min\n",
    "etc/systemd/system.conf.d/lab.conf": "[Manager]\nRebootWatchdogSec=2min\n",
    "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n\nmodel name\t: of another\n",
    "proc/meminfo": "MemTotal:         3884992 kB\nMemFree: 1 kB\n",
    "proc/cmdline": "root=PARTUUID=secret isolcpus=2,3 console=tty1 mitigations=off\n",
    "proc/net/dev": "Inter-|  Receive\n face |bytes    packets\n"
    + "".join(f"{name:>6}: 4711    12 0\n" for name in ("lo", "eth0", "wlan0", "veth12ab", "gone0")),
    "proc/sys/net/core/rmem_max": "2097152\n",
    "proc/sys/net/ipv4/ipfrag_high_thresh": "4194304\n",
    "sys/firmware/devicetree/base/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "ondemand\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_driver": "cpufreq-dt\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1800000\n",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpufreq/policy5/scaling_governor": "ondemand\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "arch_sys_counter\n",
    "run/systemd/timesync/synchronized": "",
    "sys/class/net/lo/operstate": "unknown\n",
    "sys/class/net/of_the_host/operstate": "up\n",
    "sys/class/net/of_the_host/device/uevent": "",
    "sys/class/net/of_the_host/mtu": "9000\n",
    "sys/class/net/eth0/operstate": "up\n",
    "sys/class/net/eth0/device/uevent": "",
    "sys/class/net/eth0/speed": "1000\n",
    "sys/class/net/eth0/duplex": "full\n",
    "sys/class/net/eth0/mtu": "1500\n",
    "sys/class/net/wlan0/operstate": "down\n",
    "sys/class/net/wlan0/device/uevent": "",
    "sys/class/net/veth12ab/operstate": "up\n",
}


@pytest.mark.usefixtures("raspberry")
def test_a_survey_of_a_machine(shell: Shell) -> None:
    tokens = [INSTALLATION, "-", 0, 1, 0, 5, 0]
    probed = answers.probed(shell.ask("probe", tokens, ["/bin/sh"], 10))
    facts = answers.surveyed(probed)
    for of_this_machine in ("hostname", "kernel", "arch", "cpus"):
        assert facts.pop(of_this_machine)
    assert facts == {
        "os": "Raspbian GNU/Linux 11 (bullseye)",
        "board": "Raspberry Pi 4 Model B Rev 1.4",
        "cpu": "implementer 0x41 part 0xd08",
        "governor": "ondemand performance",
        "cpu_driver": "cpufreq-dt",
        "cpu_max_khz": "1800000",
        "transparent_hugepage": "madvise",
        "memory_kb": "3884992",
        "boot_parameters": "isolcpus=2,3 mitigations=off",
        "net.core.rmem_max": "2097152",
        "net.ipv4.ipfrag_high_thresh": "4194304",
        "clocksource": "arch_sys_counter",
        "reboot_watchdog": "2min",
        "clock_sync": "systemd-timesyncd",
        "nic.eth0.driver": "bcmgenet",
        "nic.eth0.mbps": "1000",
        "nic.eth0.duplex": "full",
        "nic.eth0.mtu": "1500",
        "nic.eth0.offloads": "rx-checksumming generic-receive-offload",
        "nic.eth0.coalescing": "Adaptive RX: off  TX: off, rx-usecs: 57",
    }
    assert probed.first("stamp").count("-") >= 4 and probed.exit is None


@pytest.mark.fault("M15")
@pytest.mark.parametrize("login", found("dash", "bash", "tcsh", "fish", "mksh", "zsh"))
def test_every_login_shell_reads_the_command_alike(
    login: str, monkeypatch: pytest.MonkeyPatch, home: Path, fired: Fired
) -> None:
    shell = conversation(monkeypatch, [str(shutil.which(login))], home, os.environ["PATH"], "/bin/sh")
    assert shell.ask("boot", (), (), 5).strip() == "11111111-2222-3333-4444-555555555555"
    shell.close()
    fired("M15", login)


@pytest.mark.fault("M15")
def test_noise_of_a_login_shell_is_passed_over(monkeypatch: pytest.MonkeyPatch, home: Path, fired: Fired) -> None:
    noisy = home / "noisy"
    noisy.write_text('#!/bin/sh\nprintf "Welcome!\\nautoperf ready?\\nanswer 0 5\\n"\nexec /bin/sh "$@"\n')
    noisy.chmod(0o755)
    shell = conversation(monkeypatch, [str(noisy)], home, os.environ["PATH"], "/bin/sh")
    assert shell.ask("boot", (), (), 5).strip() == "11111111-2222-3333-4444-555555555555"
    shell.close()
    fired("M15", "a greeting and a false answer")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("~/rtiperftest/bin/perftest_cpp", "perftest_cpp"),
        ("exactly_fifteen", "exactly_fifteen"),
        ("/opt/a tool/of more than fifteen", "of more than fi"),
    ],
)
def test_processes_are_known_by_the_fifteen_bytes_the_kernel_keeps(path: str, name: str) -> None:
    script = 'eval "$AUTOPERF_SH"; comm_of "$2"; printf %s "$comm"'
    argv = ["/bin/sh", "-c", script, "sh", "none", path]
    environment = {**os.environ, "AUTOPERF_SH": LAUNCHER.decode()}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=10, check=True)
    assert done.stdout == name
