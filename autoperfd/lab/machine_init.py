"""The first process of one lab machine: keeps its command, adopts its orphans, ends them all at power off.

Standard library only; runs detached as the script `python3 machine_init.py FOLDER`, one thread. It is the
subreaper of everything the machine starts, so "all processes of this machine" are exactly its
descendants, however they detach. FOLDER/init.json says what to do:

  argv            what a machine is: an sshd, or a systemd-nspawn
  before, after   commands run once before the first start and after the last end
  up, down        commands run before every start and before every end
  cgroup          name of a cgroup below this process's own, made for the command; "": none
  reboot_status   the exit status of argv that means "start me again"; null: none
  boot_secs       how long the word `reboot` leaves the machine off
  owner           a pid; when it ends the machine stops as by the word `stop`; 0: none

Words arrive on the FIFO FOLDER/control, one a line: reboot, off, on, stop. FOLDER/state says `up`, `off` or
`booting`; FOLDER/boot_id changes with every start; FOLDER/init.pid has this process's pid and start time.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
END_SECS = 10.0


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def descendants(root: int) -> list[int]:
    """Pids of all living processes below `root`, nearest first."""
    children: dict[int, list[int]] = {}
    ended = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat_fields(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
            if fields[0] in "ZX":
                ended.add(int(entry))
    found: list[int] = []
    todo = [root]
    while todo:
        todo = [pid for parent in todo for pid in children.get(parent, [])]
        found += [pid for pid in todo if pid not in ended]
    return found


def cgroups(name: str) -> list[Path]:
    """The folder `name` below this process's own cgroup, in every mounted hierarchy (v1, hybrid or v2)."""
    mounted: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            mount = Path(fields.split()[4])
            mounted["" if kind == "cgroup2" else mount.name] = mount
            mounted.update({option: mount for option in options.split(",") if kind == "cgroup"})
    found = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, own = line.split(":", 2)
        if mount_point := mounted.get(controllers) or mounted.get(controllers.removeprefix("name=")):
            found.append(mount_point / own.lstrip("/") / name)
    return found


def make_cgroup(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for setting in ("cpuset.cpus", "cpuset.mems"):  # v1: a new cpuset is empty and takes no process
        if (folder / setting).exists():
            (folder / setting).write_text((folder.parent / setting).read_text(encoding="ascii"))


def remove_cgroup(folder: Path, deadline: float) -> None:
    """Removes a cgroup and what is below it; the kernel refuses until the last process is collected."""
    while folder.exists() and time.monotonic() < deadline:
        for path, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(path)
        time.sleep(0.005)


class Machine:
    """One machine: its folder, what it runs, its state."""

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        self.folder = folder
        self.spec = spec
        self.state = "off"
        self.command = 0  # pid of argv while it lives
        self.cgroups = cgroups(spec["cgroup"]) if spec["cgroup"] else []

    def write(self, name: str, text: str) -> None:
        partial = self.folder / f"{name}.partial"
        partial.write_text(text + "\n", encoding="ascii")
        partial.rename(self.folder / name)

    def become(self, state: str) -> None:
        self.state = state
        self.write("state", state)

    def up(self) -> None:
        self.run("up")
        for folder in self.cgroups:
            make_cgroup(folder)
        self.write("boot_id", str(uuid.uuid4()))
        self.command = os.fork()
        if self.command == 0:
            try:
                os.setsid()
                for folder in self.cgroups:
                    (folder / "cgroup.procs").write_text("0", encoding="ascii")
                for number in (signal.SIGCHLD, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
                os.execvp(self.spec["argv"][0], self.spec["argv"])
            finally:
                os._exit(127)
        self.become("up")

    def down(self) -> None:
        """Ends everything below this process; SIGKILL, as a power cut would."""
        self.command = 0
        self.run("down")
        deadline = time.monotonic() + END_SECS
        while (pids := descendants(os.getpid())) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
            self.reap()
        self.reap()
        for folder in self.cgroups:
            remove_cgroup(folder, deadline)

    def obey(self, word: str) -> bool:
        """Does what `word` says; False after `stop`."""
        if word in ("off", "stop"):
            self.down()
            self.become("off")
        elif word == "on" and self.state == "off":
            self.up()
        elif word == "reboot" and self.state == "up":
            self.become("booting")
            self.down()
            time.sleep(self.spec["boot_secs"])
            self.up()
        return word != "stop"

    def reap(self) -> None:
        """Collects every child that ended, adopted ones as well; answers a reboot from inside."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self.command:
                    self.ended(os.waitstatus_to_exitcode(status))

    def ended(self, status: int) -> None:
        if self.spec["reboot_status"] is None:
            return  # an sshd that was killed: the machine lives on without it
        self.down()
        self.become("off")
        print(f"machine_init: the machine ended with status {status}", flush=True)
        if status == self.spec["reboot_status"]:
            self.up()

    def run(self, step: str) -> bool:
        """Runs the commands of one of the lists; whether all of them succeeded."""
        statuses = [
            subprocess.run(argv, timeout=END_SECS, stdin=subprocess.DEVNULL, check=False).returncode
            for argv in self.spec[step]
        ]
        return not any(statuses)


def serve(machine: Machine, control: int) -> None:
    """Obeys the control FIFO until it says `stop` or the owner ends."""
    wake_out, wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: (os.write(control, b"stop\n"), None)[1])
    sources = [control, wake_out]
    if machine.spec["owner"]:
        try:
            sources.append(os.pidfd_open(machine.spec["owner"]))
        except ProcessLookupError:
            return
    pending = b""
    while True:
        machine.reap()
        ready, _, _ = select.select(sources, [], [])
        if wake_out in ready:
            os.read(wake_out, 4096)
        if control in ready:
            *lines, pending = (pending + os.read(control, 4096)).split(b"\n")
            # A word repeated while the machine was down (three `reboot`s in a row) counts once.
            for line in dict.fromkeys(lines):
                if not machine.obey(line.decode("ascii", "replace").strip()):
                    return
        elif set(ready) - {wake_out}:
            return


def main() -> int:
    folder = Path(sys.argv[1])
    ready_out, ready_in = os.pipe()
    if child := os.fork():
        os.close(ready_in)
        ok = os.read(ready_out, 1) == b"+"
        if not ok:
            os.waitpid(child, 0)
        return 0 if ok else 1
    os.setsid()
    os.chdir("/")
    os.close(ready_out)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        return 1
    machine = Machine(folder, json.loads((folder / "init.json").read_text(encoding="utf-8")))
    control = os.open(folder / "control", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    machine.write("init.pid", f"{os.getpid()} {stat_fields(os.getpid())[19]}")
    log = os.open(folder / "machine.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    if not machine.run("before"):
        return 1
    machine.up()
    os.write(ready_in, b"+")
    os.close(ready_in)
    try:
        serve(machine, control)
    finally:
        machine.obey("stop")
        machine.run("after")
    return 0


if __name__ == "__main__":
    sys.exit(main())
