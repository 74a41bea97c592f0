"""The loopback lab: machines that are real sshd processes on 127.0.0.x; no root needed.

Knows how to make, start, reboot, power off and remove them; promises that stopping leaves no process, and
that each machine has its own HOME, host key and boot id. Called from any one thread; every wait is bounded.

A machine is a folder and a detached first process (machine_init.py) which is the subreaper of all
that runs "on" it. `sudo -n systemctl reboot` on a machine tells that process to end everything, write a new
boot id and start sshd again. All machines share one kernel, network namespace and account.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

from autoperfd.errors import AutoperfError
from autoperfd.lab.machines import (
    ASSETS,
    STANDIN,
    START_SECS,
    FirstProcess,
    LabMachine,
    copy_executable,
    machines_toml,
    make_key,
    start_time,
    until,
)

FIRST_ADDRESS = 11  # 127.0.0.11, .12, …
PORTS = range(20_000, 32_000)  # below the ephemeral range, so no client connection takes one
# A program of its own, because the login of ForceCommand cannot start the one inside sshd.
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")
SSHD_CONFIG = """\
ListenAddress {ip}:{port}
HostKey {host_key}
AuthorizedKeysFile {authorized_keys}
SetEnv {environment}
ForceCommand {login}
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PidFile none
UseDNS no
PrintMotd no
PrintLastLog no
MaxStartups 200:30:400
MaxSessions 200
MaxAuthTries 20
Subsystem sftp {sftp_server}
"""


class LoopbackLab:
    """Some machines below `folder`, which may be new, or a lab started earlier (by another process).

    `with LoopbackLab(folder, 2) as lab:` starts and stops it, and it ends with this process, however that
    ends. Raises AutoperfError where the computer lacks sshd or a machine does not come up in time.
    """

    def __init__(self, folder: Path, machines: int = 2, *, boot_secs: float = 1.0) -> None:
        self.folder = folder.absolute()
        self.boot_secs = boot_secs
        self.count = machines
        self.machines: list[LabMachine] = []
        if (self.folder / "lab.json").exists():
            self._load()

    def __enter__(self) -> Self:
        self.start(owner=os.getpid())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Life of the lab

    def start(self, *, owner: int = 0) -> None:
        """Creates what is missing and starts every machine that is not up; returns when all answer.

        owner: a pid with which the lab ends; 0: it runs until it is stopped.
        """
        sshd = find_sshd()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd as root refuses to start without it
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            if not self.machines:
                self._create()
            for machine in self.machines:
                first = self.first(machine.name)
                if first.state() == "off":
                    first.tell("on")
                elif first.state() == "stopped":
                    self._end_orphans(machine.name)
                    config = str(first.folder / "sshd_config")
                    argv = [sshd, "-D", "-e", "-f", config]
                    first.start({"argv": argv, "boot_secs": self.boot_secs, "owner": owner})
        for machine in self.machines:
            await_answer(machine)

    def stop(self) -> None:
        """Ends every process of every machine; files stay. Safe to call at any time, also twice."""
        with contextlib.suppress(FileNotFoundError), self._locked():
            for machine in self.machines:
                self.first(machine.name).ask_to_stop()
            for machine in self.machines:
                self.first(machine.name).await_end()
                self._end_orphans(machine.name)

    def status(self) -> dict[str, str]:
        """For each machine: "up", "booting", "off", or "stopped" when it has no first process."""
        return {machine.name: self.first(machine.name).state() for machine in self.machines}

    # What happens to machines

    def machine(self, name: str) -> LabMachine:
        return next(machine for machine in self.machines if machine.name == name)

    def boot_id(self, name: str) -> str:
        return self.first(name).boot_id()

    def reboot(self, name: str, *, wait: bool = True) -> None:
        """Reboots it as `sudo systemctl reboot` there would; waits until it answers with a new boot id."""
        before = self.boot_id(name)
        self.first(name).tell("reboot")
        if wait:
            self.await_reboot(name, before)

    def await_reboot(self, name: str, before: str, patience_secs: float = START_SECS) -> None:
        """Waits until the machine answers with a boot id other than `before`."""
        machine = self.machine(name)
        until(
            lambda: self.boot_id(name) != before and answers(machine),
            f"{name} did not come back from its reboot",
            self.boot_secs + patience_secs,
        )

    def kill(self, name: str) -> None:
        """Switches it off: every process of it is gone when this returns."""
        self.first(name).tell("off")
        self.first(name).await_state("off")

    def boot(self, name: str) -> None:
        """Switches it on again, with a new boot id; waits until it answers."""
        self.first(name).tell("on")
        self.first(name).await_state("up")
        await_answer(self.machine(name))

    def hang_sshd(self, name: str) -> None:
        """Stops (SIGSTOP) every sshd process of it: TCP still connects, nobody answers."""
        self.first(name).signal_sshd(signal.SIGSTOP)

    def resume_sshd(self, name: str) -> None:
        self.first(name).signal_sshd(signal.SIGCONT)

    def set_sudo(self, name: str, *, asks: bool) -> None:
        """Makes the machine's sudo ask for a password, or stop doing so."""
        marker = self.machine_folder(name) / "sudo_asks"
        if asks:
            marker.touch()
        else:
            marker.unlink(missing_ok=True)

    def processes(self, name: str) -> list[int]:
        """Pids of everything that runs on it, its sshd included."""
        return self.first(name).processes()

    # What a test or an experiment needs

    def experiment_machines(self, allocations: Sequence[str], exec_path: str = "~/perftest_cpp") -> str:
        """TOML blocks of the first machines, see `machines_toml`."""
        return machines_toml(self.machines, allocations, exec_path)

    def known_hosts(self) -> str:
        return "".join(f"{machine.known_hosts_line}\n" for machine in self.machines)

    def machine_folder(self, name: str) -> Path:
        return self.folder / "machines" / name

    def first(self, name: str) -> FirstProcess:
        """The machine's first process, which outlives its reboots."""
        return FirstProcess(name, self.machine_folder(name))

    # Inside

    def _create(self) -> None:
        key = self.folder / "user_key"
        make_key(key)
        shutil.copyfile(key.with_suffix(".pub"), self.folder / "authorized_keys")
        copy_executable(ASSETS / "login.sh", self.folder / "login")
        username = pwd.getpwuid(os.geteuid()).pw_name
        for number in range(self.count):
            name, ip = f"p{number + 1}", f"127.0.0.{FIRST_ADDRESS + number}"
            folder = self.machine_folder(name)
            home = folder / "home"
            (folder / "bin").mkdir(parents=True, exist_ok=True)
            home.mkdir(exist_ok=True)
            copy_executable(ASSETS / "sudo.sh", folder / "bin" / "sudo")
            if STANDIN.exists():
                copy_executable(STANDIN, home / "perftest_cpp")
            host_key = make_key(folder / "host_key")
            port = free_port(ip)
            (folder / "sshd_config").write_text(self._config(folder, ip, port), encoding="utf-8")
            self.machines.append(LabMachine(name, ip, port, username, key, home, host_key))
        (self.folder / "known_hosts").write_text(self.known_hosts(), encoding="ascii")
        record = {"boot_secs": self.boot_secs, "machines": [asdict(machine) for machine in self.machines]}
        (self.folder / "lab.json").write_text(json.dumps(record, default=str, indent=1), encoding="utf-8")

    def _config(self, folder: Path, ip: str, port: int) -> str:
        environment = {
            "HOME": folder / "home",
            "PATH": f"{folder}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "AUTOPERF_BOOT_ID_FILE": folder / "boot_id",
            "AUTOPERF_LAB_MACHINE": folder,
        }
        text = SSHD_CONFIG.format(
            ip=ip,
            port=port,
            host_key=quoted(folder / "host_key"),
            authorized_keys=quoted(self.folder / "authorized_keys"),
            # sshd honours the first SetEnv line only, so all of them stand in it.
            environment=" ".join(quoted(f"{key}={value}") for key, value in environment.items()),
            login=shell_path(self.folder / "login"),
            sftp_server=next(filter(os.path.exists, SFTP_SERVERS), "internal-sftp"),
        )
        if openssh_version() >= (9, 8):
            text += "PerSourcePenalties no\n"  # a test that is refused on purpose must not lock out the rest
        return text

    def _load(self) -> None:
        record = json.loads((self.folder / "lab.json").read_text(encoding="utf-8"))
        self.boot_secs = record["boot_secs"]
        self.machines = [
            LabMachine(**{**m, "key_path": Path(m["key_path"]), "home": Path(m["home"])}) for m in record["machines"]
        ]
        self.count = len(self.machines)

    def _end_orphans(self, name: str) -> None:
        """Ends what a first process left that was itself killed: known by environment or sshd's config.

        Returns when it is gone, for the next sshd wants its port.
        """
        folder = str(self.machine_folder(name))
        variable = f"AUTOPERF_LAB_MACHINE={folder}".encode()
        config = f"{folder}/sshd_config".encode()
        ended: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                ours = config in (entry / "cmdline").read_bytes()
                if ours or variable in (entry / "environ").read_bytes().split(b"\0"):
                    started = start_time(int(entry.name))
                    os.kill(int(entry.name), signal.SIGKILL)
                    ended[int(entry.name)] = started
        until(
            lambda: not any(started and start_time(pid) == started for pid, started in ended.items()),
            f"what was left of {name} did not end",
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def find_sshd() -> str:
    """The absolute path of sshd. Raises AutoperfError with the line that installs it."""
    path = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")
    if not path:
        raise AutoperfError(
            "the loopback lab cannot start: there is no sshd on this computer",
            hint="Install it with: sudo apt-get install openssh-server",
        )
    return path


def openssh_version() -> tuple[int, int]:
    """Version of the installed OpenSSH, (0, 0) when it cannot be told."""
    done = subprocess.run(["ssh", "-V"], capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", done.stderr)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def free_port(ip: str) -> int:
    """A TCP port nobody listens on at `ip`."""
    for _ in range(100):
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((ip, port))
            return port
    raise AutoperfError(f"the loopback lab found no free port at {ip}")


def answers(machine: LabMachine) -> bool:
    """Whether sshd of the machine sends its banner."""
    try:
        with socket.create_connection((machine.ip, machine.port), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def await_answer(machine: LabMachine) -> None:
    until(lambda: answers(machine), f"{machine.name} does not answer at {machine.ip}:{machine.port}")


def quoted(value: object) -> str:
    """A value as one word of sshd_config."""
    text = str(value)
    if '"' in text or "\n" in text:
        raise AutoperfError(f"the loopback lab cannot live in a folder with a quote in its name: {text}")
    return f'"{text}"'


def shell_path(path: Path) -> str:
    """A path for ForceCommand, which the account's shell reads."""
    return "'" + str(path).replace("'", "'\\''") + "'"
