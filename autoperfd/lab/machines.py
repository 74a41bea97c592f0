"""What both labs share: a machine's data, its first process, and small helpers; the remote end is a real sshd.

Knows machine_init.py and how to talk to it; promises that nothing is signalled but by a recorded pid
whose start time still agrees. Called from any one thread; every wait has a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoperfd.errors import AutoperfError
from autoperfd.lab import machine_init
from autoperfd.lab.machine_init import descendants, stat_fields

ASSETS = Path(__file__).parent / "assets"
STANDIN = Path(__file__).parent / "perftest_standin.py"
NO_SPEC: dict[str, Any] = {
    "before": [],
    "after": [],
    "up": [],
    "down": [],
    "cgroup": "",
    "reboot_status": None,
    "boot_secs": 1,
    "owner": 0,
}
START_SECS = 20.0  # for anything a machine is told to do; a healthy one needs far less


@dataclass(frozen=True)
class LabMachine:
    """One machine of a lab, as an experiment file and a test need it."""

    name: str
    ip: str
    port: int
    username: str
    key_path: Path  # private key of the user, no passphrase
    home: Path  # the machine account's home, as the machine sees it
    host_key_line: str  # "ssh-ed25519 AAAA…"

    @property
    def known_hosts_line(self) -> str:
        where = self.ip if self.port == 22 else f"[{self.ip}]:{self.port}"
        return f"{where} {self.host_key_line}"


def machines_toml(
    machines: Sequence[LabMachine], allocations: Sequence[str], exec_path: str, key_path: str = ""
) -> str:
    """The `[[experiments.slave_machines]]` blocks of the first len(allocations) machines.

    allocations: "pub", "sub" or "all" each; `key_path` overrides where the controller finds the key.
    """
    blocks = []
    for machine, allocation in zip(machines[: len(allocations)], allocations, strict=True):
        values = {
            "machine_name": machine.name,
            "participant_allocation": allocation,
            "ip": machine.ip,
            "port": machine.port,
            "username": machine.username,
            "ssh_key_path": key_path or str(machine.key_path),
            "perftest_exec_path": exec_path,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        blocks.append("\n".join(["[[experiments.slave_machines]]", *lines]) + "\n")
    return "\n".join(blocks)


@dataclass(frozen=True)
class FirstProcess:
    """The detached first process of one machine (machine_init.py), found by the machine's folder."""

    name: str
    folder: Path

    def start(self, spec: dict[str, Any], *, wrapper: Sequence[str] = ()) -> None:
        """Starts it (through the command `wrapper`) with the settings `spec`; it and its command then run."""
        whole = NO_SPEC | spec
        (self.folder / "init.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
        (self.folder / "control").unlink(missing_ok=True)
        os.mkfifo(self.folder / "control", 0o600)
        argv = [*wrapper, sys.executable, "-I", machine_init.__file__, str(self.folder)]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=START_SECS, check=False)
        if done.returncode:
            raise AutoperfError(
                f"the lab cannot start {self.name}: {done.stderr.decode(errors='replace').strip()}",
                hint=f"See {self.folder}/machine.log",
            )

    def pid(self) -> int:
        """Its pid, 0 when it is gone."""
        try:
            pid, start = self.read("init.pid").split()
        except (OSError, ValueError):
            return 0
        return int(pid) if start_time(int(pid)) == start else 0

    def state(self) -> str:
        """The machine's: "up", "booting", "off", or "stopped" when there is no first process."""
        return self.read("state") if self.pid() else "stopped"

    def boot_id(self) -> str:
        """Changes with every start of the machine; for the loopback lab it is *the* boot id."""
        return self.read("boot_id")

    def processes(self) -> list[int]:
        """Pids of everything that runs on the machine."""
        pid = self.pid()
        return descendants(pid) if pid else []

    def tell(self, word: str) -> None:
        """Sends `reboot`, `off`, `on` or `stop`; does not wait."""
        try:
            control = os.open(self.folder / "control", os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            raise AutoperfError(
                f"the lab cannot tell {self.name} to {word}: its first process is gone ({error})",
                hint="Start the lab again",
            ) from error
        with os.fdopen(control, "wb", buffering=0) as pipe:
            pipe.write(word.encode("ascii") + b"\n")

    def await_state(self, state: str) -> None:
        until(lambda: self.state() == state, f"{self.name} did not get to be {state}")

    def ask_to_stop(self) -> None:
        """Sends `stop` where there is someone to hear it."""
        if self.pid():
            with contextlib.suppress(AutoperfError):
                self.tell("stop")

    def await_end(self) -> None:
        """After `ask_to_stop`: waits for the end, and ends what is left by force."""
        deadline = time.monotonic() + START_SECS
        while (pid := self.pid()) and time.monotonic() < deadline:
            time.sleep(0.005)
        for left in (*descendants(pid), pid) if pid else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        (self.folder / "init.pid").unlink(missing_ok=True)

    def signal_sshd(self, number: signal.Signals) -> int:
        """Sends a signal to every sshd process of the machine; how many there were."""
        count = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").startswith("sshd"):
                    os.kill(pid, number)
                    count += 1
        return count

    def read(self, what: str) -> str:
        return (self.folder / what).read_text(encoding="ascii").strip()


def until(happened: Callable[[], object], what_if_not: str, secs: float = START_SECS) -> None:
    """Polls until `happened()` is true. Raises AutoperfError saying `what_if_not` after `secs`."""
    deadline = time.monotonic() + secs
    while not happened():
        if time.monotonic() > deadline:
            raise AutoperfError(
                f"the lab: {what_if_not} within {secs:g} s", hint="See machines/*/machine.log in its folder"
            )
        time.sleep(0.01)


def make_key(path: Path) -> str:
    """An ed25519 key pair at `path` and `path`.pub, unless it is there; "ssh-ed25519 AAAA…"."""
    if not path.exists():
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "autoperf-lab", "-f", str(path)]
        subprocess.run(argv, check=True, timeout=20, stdin=subprocess.DEVNULL)
    return " ".join(path.with_suffix(".pub").read_text(encoding="ascii").split()[:2])


def copy_executable(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o755)


def start_time(pid: int) -> str:
    """Start of a living process in clock ticks since boot; "" when it is gone (a zombie is gone)."""
    fields = stat_fields(pid)
    return fields[19] if fields and fields[0] not in "ZX" else ""
