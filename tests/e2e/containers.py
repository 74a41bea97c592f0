"""The installed daemon under its real unit, in the controller of the container lab: start, stop, ask, and kill by aim.

`InstalledDaemon` reads the controller's files through the kernel (/proc/PID/root), as root of this computer.
`Marksman` stops the daemon for an instant (SIGSTOP), finds out where exactly it stands from its memory and from the
machines' disks, and kills it there (SIGKILL) or lets it go on: so each kill's place is known, not guessed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoperfd.daemon import archive
from autoperfd.errors import AutoperfError
from autoperfd.lab.container import ContainerLab, ContainerMachine
from autoperfd.lab.machine_init import stat_fields
from autoperfd.lab.machines import machines_toml
from tests.e2e.support import Daemon, experiment_toml

SPEEDS: Mapping[str, Mapping[str, Any]] = {
    "machines": {
        "validation_secs": 4,
        "patience_secs": 30,
        "backoff_first_secs": 0.2,
        "backoff_cap_secs": 1,
        "boot_budget_secs": 30,
        "probe_secs": 0.5,
        "grace_secs": 2,
        "stop_secs": 1,
        "connect_secs": 3,
        "link_loss_secs": 5,
    },
    "queue": {"settle_secs": 0.05, "rescan_secs": 5},
}
"""What a lab needs of autoperfd.toml to be quick; everything else is as shipped."""

KEY = "~/.ssh/id_lab"
QUICK_RESTARTS = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=100ms\n"


class InstalledDaemon(Daemon):
    """autoperfd as it was installed in the lab's controller; `instance`: one of several, autoperfd@instance."""

    def __init__(self, lab: ContainerLab, instance: str = "") -> None:
        self.lab = lab
        self.controller = lab.controller
        self.instance, at = instance, f"@{instance}" if instance else ""
        self.unit, self.folder = f"autoperfd{at}", f"autoperf{at}"
        self._host_pid = 0
        self._look()

    def _look(self) -> None:
        """Find the controller's files; again after it was rebooted."""
        root = root_of(self.controller)
        self.state, self.runtime = root / "var/lib" / self.folder, root / "run" / self.folder

    # ------------------------------------------------------------ what an administrator does

    def start(self, **tables: Mapping[str, Any]) -> None:
        """Hand over the SSH key and the settings (a keyword each table, over the lab's speeds) and start it."""
        key = self.lab.machines[0].key_path.read_bytes()
        self.lab.copy_to("controller", f"/etc/{self.folder}/keys/{Path(KEY).name}", key, 0o600)
        lines = []
        for name in sorted({*SPEEDS, *tables}):
            values = {**SPEEDS.get(name, {}), **tables.get(name, {})}
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        self.lab.copy_to("controller", f"/etc/{self.folder}/autoperfd.toml", "\n".join([*lines, ""]))
        self.systemctl("start")

    def systemctl(self, verb: str) -> None:
        """`systemctl VERB` of its unit, which must succeed."""
        self.controller.run(["systemctl", verb, self.unit], timeout=60, check=True)

    def property(self, name: str) -> str:
        """One property of the unit."""
        return self.controller.run(["systemctl", "show", "--value", f"-p{name}", self.unit], check=True).stdout.strip()

    def drop_in(self, text: str) -> None:
        """Give the unit a drop-in."""
        self.lab.copy_to("controller", f"/etc/systemd/system/{self.unit}.service.d/test.conf", text)
        self.controller.run("systemctl daemon-reload", check=True)

    def user(self, name: str, *groups: str) -> None:
        """Make an ordinary account on the controller."""
        self.controller.run(["useradd", "--create-home", f"--groups={','.join(groups)}", name], check=True)

    def reboot(self) -> None:
        """Reboot the controller, for real."""
        self.lab.reboot("controller")
        self._look()
        self.until(self.answers, "the daemon answers after the reboot of its controller")

    # ------------------------------------------------------------ what a user does

    def ctl(self, *words: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        """`autoperfctl WORDS` on the controller."""
        which = ["--instance", self.instance] if self.instance else []
        return self.controller.run(["autoperfctl", *which, *words], user=user, timeout=60)

    def trust(self, *texts: str) -> None:
        """`autoperfctl trust` for the machines of experiment files."""
        for number, text in enumerate(texts):
            self.lab.copy_to("controller", f"/root/trust-{number}.toml", text)
            said = self.ctl("trust", f"/root/trust-{number}.toml", "--yes")
            assert said.returncode == 0, said

    def drop(self, name: str, text: str) -> None:
        """Copy an experiment file into the queue."""
        self.lab.copy_to("controller", f"/etc/{self.folder}/queue/{name}", text)

    def run(self, *texts: str) -> None:
        """Trust the machines of experiment files and drop the files."""
        self.trust(*texts)
        for number, text in enumerate(texts):
            self.drop(f"experiment-{number}.toml", text)

    # ------------------------------------------------------------ what can be seen

    def text(self) -> str:
        """The end of what it logged, and what its unit looks like."""
        with contextlib.suppress(AutoperfError):
            script = (
                f"systemctl status {self.unit} -n0; journalctl -u {self.unit} -o short-precise --no-pager | tail -n 60"
            )
            return self.controller.run(script).stdout
        return "the controller is down"

    def log(self) -> str:
        """All that it logged."""
        return self.controller.run(f"journalctl -u {self.unit} -o cat --no-pager", check=True).stdout

    def answers(self) -> bool:
        """Whether it answers at its socket."""
        try:
            return bool(self.ask("status")["ok"])
        except (OSError, ValueError):
            return False

    def listens(self) -> bool:
        """Whether somebody listens at its socket; the file itself outlives the daemon that made it."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(1)
            try:
                sock.connect(str(self.runtime / "control.sock"))
            except OSError:
                return False
        return True

    def pid(self) -> int:
        """The daemon's pid as this computer knows it; 0 when there is none."""
        leader = self.controller.leader()
        if self._host_pid and not _is_daemon(self._host_pid, leader):
            self._host_pid = 0
        if not self._host_pid:
            everyone = (int(name) for name in os.listdir("/proc") if name.isdecimal())
            self._host_pid = next((pid for pid in everyone if _is_daemon(pid, leader)), 0)
        return self._host_pid

    def archive(self, folder: str, row: Mapping[str, str]) -> Archive:
        """The archive that a row of the ESS names."""
        return Archive(self.state / "results" / folder / row["archive"])


@dataclass(frozen=True)
class Archive:
    """One attempt's archive, read where it lies."""

    path: Path

    def problems(self) -> list[str]:
        """What is wrong with it."""
        return archive.problems(self.path)

    def json(self, member: str) -> Any:
        """One of its JSON members."""
        return json.loads(archive.read_text(self.path, member) or b"null")


# ---------------------------------------------------------------- experiments


def experiment(
    name: str,
    settings: str,
    machines: Sequence[ContainerMachine],
    allocations: str,
    *,
    exec_path: str = "~/perftest_cpp",
    environment: Mapping[str, str] | None = None,
    **keys: Any,
) -> str:
    """An experiment file for machines of the lab. `allocations`: a word a machine, "pub sub"."""
    text = machines_toml(machines, allocations.split(), exec_path, KEY)
    given = {"STANDIN_FAST": "1"} if environment is None else environment
    table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in given.items())
    text = text.replace("perftest_exec_path", f"environment = {{ {table} }}\nperftest_exec_path")
    return experiment_toml(name, settings, text, **{"buffer_secs": 6, **keys})


ONE_AT_A_TIME = """#!/bin/sh
# A tool that refuses to run twice at once on this machine, and notes each of its starts.
case " $* " in *" -help "*) exec "$HOME/perftest_cpp" "$@" ;; esac
echo "$AUTOPERF_UID" >>"$HOME/starts"
exec flock --nonblock --no-fork --conflict-exit-code 99 "$HOME/only-one" "$HOME/perftest_cpp" "$@"
"""


def guard(lab: ContainerLab) -> str:
    """Put a tool on all machines that ends with 99 where one runs already; returns its path."""
    for machine in lab.machines:
        lab.copy_to(machine.name, "/home/pi/one_at_a_time", ONE_AT_A_TIME, 0o755, "pi")
    return "~/one_at_a_time"


def starts(machine: ContainerMachine) -> Counter[str]:
    """How often the guarded tool was started on a machine, by the attempt's uid."""
    return Counter((root_of(machine) / "home/pi/starts").read_text().split())


# ---------------------------------------------------------------- killing by aim


@dataclass(frozen=True)
class Place:
    """Where one experiment stood at some instant."""

    experiment: str
    state: str
    step: str  # of its open attempt: intent, preparing, starting, waiting, fetching, archived; "" without one
    uid: str
    test: str
    number: int
    folders: tuple[Path, ...] = ()  # of the open attempt on its machines
    archive: Path = Path()  # where its archive will lie, in the daemon's state folder
    inode: int = 0  # of the archive, once it lies there
    launchers: tuple[str, ...] = ()  # pid and start time of each one that lives

    @property
    def name(self) -> str:
        """What a kill here counts as."""
        return self.step or self.state


class Marksman:
    """Kills the daemon where it is told to. `machines`: experiment -> the machines with its participants."""

    def __init__(self, daemon: InstalledDaemon, machines: Mapping[str, Sequence[ContainerMachine]], seed: int) -> None:
        self.daemon, self.machines = daemon, machines
        self.hits: list[Mapping[str, Place]] = []
        self.starts_hit = 0
        self._killed = 0
        self._seen: set[str] = set()  # attempts that `await_new` was told of
        self.adopted: list[Place] = []  # places of attempts that ran on across an interruption
        self._latest: Mapping[str, Place] = {}
        self._roots: dict[str, Path] = {}
        self._random = random.Random(seed)
        self._pause = threading.Event()

    def count(self) -> Counter[str]:
        """How often each place was hit."""
        return Counter(name for hit in self.hits for name in {place.name for place in hit.values()})

    def missing(self, places: Mapping[str, int]) -> list[str]:
        """Places that were not hit so many times yet."""
        hits = self.count()
        return [name for name, count in places.items() if hits[name] < count]

    def shoot(self, *wanted: str, within_secs: float = 0) -> None:
        """Kill the daemon when some experiment stands at a wanted place, after a random part of `within_secs`."""
        self._pause.wait(self._random.uniform(0.0, within_secs))
        self._aim(wanted, kill=True)
        self.hits.append(self._latest)

    def await_place(self, *wanted: str) -> None:
        """Until some experiment stands at a wanted place; nothing is killed."""
        self._aim(wanted, kill=False)

    def await_new(self) -> None:
        """Until an attempt runs that was not seen here before, so that most of its time is left to strike in."""

        def is_new() -> bool:
            self._aim(("waiting",), kill=False)
            running = {place.uid for place in self._latest.values() if place.name == "waiting"}
            new, self._seen = running - self._seen, self._seen | running
            return bool(new)

        self.daemon.until(is_new, "another attempt runs", 60)

    def _aim(self, wanted: Collection[str], *, kill: bool, secs: float = 60) -> None:
        deadline = time.monotonic() + secs
        while True:
            with self.daemon.frozen() as pid:
                places = self.places() if pid else {}
                found = {place.name for place in places.values()} & set(wanted)
                if found and kill:
                    os.kill(pid, signal.SIGKILL)
                    self._killed = pid
            if found:
                self._latest = places
                return
            assert time.monotonic() < deadline, f"nothing came to {wanted}: {places}\n{self.daemon.text()}"
            self._wait_a_moment(places.values())

    def check_adoption(self) -> None:
        """An attempt that ran when the daemon was interrupted, and runs still, does so in the same processes."""
        for place in self._latest.values():
            running = launchers(place.folders) if place.name == "waiting" else ()
            assert set(running) <= set(place.launchers), "the attempt was begun anew"
            if running:
                self.adopted.append(place)

    def shoot_at_start(self) -> None:
        """Kill the daemon that systemd has just started, before it answers; the former one is dead."""
        # A killed process is there until the kernel has taken it apart, which takes a while on a busy computer.
        self.daemon.until(lambda: self.daemon.pid() not in (0, self._killed), "systemd started the daemon again")
        self._pause.wait(self._random.uniform(0.0, 0.2))
        with self.daemon.frozen() as pid:
            if pid not in (0, self._killed) and not self.daemon.listens():
                os.kill(pid, signal.SIGKILL)
                self.starts_hit += 1

    def _wait_a_moment(self, places: Collection[Place]) -> None:
        """A random moment; a longer one while nothing happens, which ends when something does."""
        if any(place.name not in ("waiting", "rebooting", "idle") for place in places):
            self._pause.wait(self._random.uniform(0.0, 0.004))
            return
        waiting = [place for place in places if place.name == "waiting"]
        end = time.monotonic() + self._random.uniform(0.0, 0.1)
        while time.monotonic() < end and not any(_all_done(place.folders) for place in waiting):
            self._pause.wait(0.001)

    def await_restart(self) -> None:
        """Until systemd has the daemon up again."""
        self.daemon.until(self.daemon.answers, "systemd started the daemon again")

    def _root(self, machine: ContainerMachine) -> Path:
        """`root_of`, looked up once a boot: what is on a machine changes while the daemon stands still."""
        root = self._roots.get(machine.name, Path("/nowhere"))
        if not (root / "home/pi").exists():
            root = self._roots[machine.name] = root_of(machine)
        return root

    def places(self) -> dict[str, Place]:
        """Where each experiment stands; the daemon must be frozen or dead."""
        memory = self.daemon.memory()
        return {
            name: self._place(name, memory.lives[name], memory.installation, machines)
            for name, machines in self.machines.items()
            if name in memory.lives
        }

    def _place(
        self, name: str, life: Mapping[str, Any], installation: str, machines: Sequence[ContainerMachine]
    ) -> Place:
        folders: list[Path] = []
        uid, step, kept, inode = life["uid"], "", Path(), 0
        if uid:
            for machine in machines:
                with contextlib.suppress(AutoperfError):  # a machine that is off
                    folders.append(self._root(machine) / "home/pi/.autoperf" / installation / uid)
            kept = Path("results", life["folder"], "data", life["test"], f"attempt-{life['number']}.tar.gz")
            with contextlib.suppress(FileNotFoundError):
                inode = (self.daemon.state / kept).stat().st_ino
            step = _step(folders, bool(inode)) if life["state"] == "running" else ""
        return Place(
            experiment=name,
            state=life["state"],
            step=step,
            uid=uid,
            test=life["test"],
            number=life["number"],
            folders=tuple(folders),
            archive=kept,
            inode=inode,
            launchers=launchers(folders),
        )


def _step(folders: Sequence[Path], archived: bool) -> str:
    """The step of design's list that an open attempt is at, from its folders on the machines."""
    if archived:
        return "archived"
    there, begun = [f.exists() for f in folders], [(f / "started").exists() for f in folders]
    if not any(there):
        return "intent"
    if not any(begun):
        return "preparing"
    if not all(begun):
        return "starting"
    return "fetching" if _all_done(folders) else "waiting"


def _all_done(folders: Sequence[Path]) -> bool:
    return all((folder / "done").exists() for folder in folders)


def launchers(folders: Sequence[Path]) -> tuple[str, ...]:
    """Pid and start time of the launchers of an attempt that live, by its folders on the machines."""
    found = []
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):
            pid, birth = (folder / "launcher").read_text().split()
            proc = Path(*folder.parts[: folder.parts.index("root") + 1], "proc", pid, "stat")
            if proc.read_text().rpartition(")")[2].split()[19] == birth:
                found.append(f"{pid} {birth}")
    return tuple(found)


def boots(machine: ContainerMachine) -> int:
    """How often a machine has booted since it got its present disk."""
    return len(machine.run("journalctl --list-boots --quiet --no-pager", check=True).stdout.splitlines())


# ---------------------------------------------------------------- small things


def root_of(machine: ContainerMachine) -> Path:
    """A machine's files, as root of this computer sees them. AutoperfError when it is down."""
    return Path(f"/proc/{machine.leader()}/root")


def _is_daemon(pid: int, leader: int) -> bool:
    fields = stat_fields(pid)
    if not fields or int(fields[1]) != leader or fields[0] in "ZX":
        return False
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "autoperfd"
    except OSError:
        return False
