"""`make recovery`: measures how long it takes until work goes on after a fault, in the container lab; no test of speed.

The installed daemon under its shipped unit and with its shipped times, but for the start limit. What counts as the
end of each figure stands in FIGURES. That an attempt is watched again is seen on its machines, not asked of the
daemon, which says `running` from memory as soon as it is up: a verb that waits for the attempt's end, begun after the
fault, must be there on each of them. Each round has an experiment of its own. One thread; every wait has a deadline.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoperfd.core.settings import DaemonSettings
from autoperfd.errors import AutoperfError
from autoperfd.lab.container import ContainerLab, ContainerMachine, missing
from tests.e2e.containers import SPEEDS, experiment, root_of
from tests.e2e.storms import StormyDaemon

PROJECT = Path(__file__).parents[2]
MANY_STARTS = "[Unit]\nStartLimitIntervalSec=0\n"
SETTINGS = """duration_secs = [120]
datalen_bytes = [100]
pub_count = [1]
sub_count = [1]
latency_count = [10]
"""
Verbs = dict[str, set[tuple[str, str]]]  # machine -> pid and start time of each verb that waits there for an attempt


@dataclass(frozen=True)
class Figure:
    """One time that is measured."""

    name: str
    span: str  # from what to what
    setting: str  # what of it is waiting that a setting says


CRASH = Figure(
    "daemon crash to resumed",
    "SIGKILL of the daemon -> a new verb waits for the open attempt on each of its machines",
    "RestartSec 2",
)
HANG = Figure(
    "daemon hang to resumed",
    "SIGSTOP of the daemon -> systemd has ended and started it, a new verb waits on each machine",
    "WatchdogSec 30, of which 0–10 had passed; RestartSec 2",
)
CONTROLLER = Figure(
    "controller reboot to resumed",
    "the reboot command on the controller -> a new verb waits on each machine; the lab's controller boots in about 1 s",
    "none",
)
MACHINE = Figure(
    "machine reboot to next attempt",
    "the reboot command on a machine in mid-attempt -> another attempt has started on it; lab machines boot in 1 s; "
    "the daemon backs off, finds it back, closes the attempt as rebooted and backs off once more",
    "backoff_first_secs 5, twice: each drawn from 0.5–5",
)
POWER = Figure(
    "power loss noticed",
    "a machine's power fails in mid-attempt, without a word -> the daemon says that it is away",
    "link_loss_secs 15: 12 of silence; two more tries, always 4.1",
)
SILENCE = Figure(
    "silent link noticed",
    "nothing passes between controller and one machine any more -> the daemon says that it is away",
    "link_loss_secs 15: 12 of silence; two more tries, always 4.1",
)
FIGURES = (CRASH, HANG, CONTROLLER, MACHINE, POWER, SILENCE)


@dataclass
class Bench:
    """The lab, its daemon, and the experiment of this round."""

    lab: ContainerLab
    daemon: StormyDaemon
    name: str = ""
    found: dict[Figure, list[float]] = field(default_factory=dict)

    def under_way(self) -> str:
        """Wait until one attempt has started on all machines and is waited for on all of them; its uid."""
        seen: list[str] = []

        def runs() -> bool:
            uids = [set(started(machine)) for machine in self.lab.machines]
            common = sorted(set.intersection(*uids))
            if len(common) != 1 or self.daemon.experiment(self.name).get("state") != "running":
                return False
            seen[:] = common
            return all(self.verbs(common[0]).values())

        self.daemon.until(runs, f"an attempt of {self.name} is under way and waited for", 90)
        return seen[0]

    def verbs(self, uid: str) -> Verbs:
        """Who waits for an attempt, on each machine."""
        return {machine.name: waiting(machine, uid) for machine in self.lab.machines}

    def measure(self, figure: Figure, strike: Callable[[], object], ended: Callable[[], object]) -> None:
        """Strike, and take the time until the figure's end."""
        began = time.monotonic()
        strike()
        self.daemon.until(ended, f"{figure.name}: {figure.span}", 120)
        secs = time.monotonic() - began
        self.found.setdefault(figure, []).append(secs)
        print(f"  {figure.name}: {secs:.2f} s", flush=True)

    def measure_resumed(self, figure: Figure, strike: Callable[[], object]) -> None:
        """Strike the daemon or its controller, and take the time until the same attempt is waited for again."""
        uid = self.under_way()
        before = self.verbs(uid)
        self.measure(figure, strike, lambda: all(now - before[name] for name, now in self.verbs(uid).items()))
        self.daemon.find_again()


def started(machine: ContainerMachine) -> list[str]:
    """The uids of attempts that have started on a machine and have not ended there; none while it is down."""
    with contextlib.suppress(AutoperfError, OSError):
        boot = machine.boot_id()
        folders = (root_of(machine) / "home/pi/.autoperf").glob("*/*")
        return [
            folder.name
            for folder in folders
            if (folder / "started").exists()
            and not (folder / "done").exists()
            and (folder / "boot0").read_text().split()[:1] == [boot]
        ]
    return []


def waiting(machine: ContainerMachine, uid: str) -> set[tuple[str, str]]:
    """Pid and start time of each verb on a machine that waits for the end of an attempt: it has a FIFO of it open."""
    fifo = re.compile(rf"/\.autoperf/[^/]+/{uid}/(all|pubs)$")
    found = set()
    with contextlib.suppress(AutoperfError, OSError):
        proc = root_of(machine) / "proc"
        for pid in filter(str.isdecimal, os.listdir(proc)):
            with contextlib.suppress(OSError):  # it may end while it is looked at
                fields = (proc / pid / "stat").read_text().rpartition(")")[2].split()
                targets = [os.readlink(entry) for entry in (proc / pid / "fd").iterdir()]
                if any(fifo.search(target) for target in targets):
                    found.add((pid, fields[19]))
    return found


def one_round(bench: Bench) -> None:
    """Each figure once; in the order of FIGURES, so that the attempt outlives the first three."""
    bench.measure_resumed(CRASH, lambda: bench.daemon.send(signal.SIGKILL))
    signs_secs = 30 / 3  # between two signs of life; the strike comes at any moment between them
    threading.Event().wait(random.uniform(0.0, signs_secs))
    bench.measure_resumed(HANG, lambda: bench.daemon.send(signal.SIGSTOP))
    bench.measure_resumed(CONTROLLER, lambda: bench.lab.reboot("controller", wait=False))

    one, other = bench.lab.machines
    uid, boot = bench.under_way(), one.boot_id()

    def another() -> bool:
        return one.boot_id() not in ("", boot) and bool(set(started(one)) - {uid})

    def is_away() -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bench.daemon.experiment(bench.name).get("state") == "backing-off"
        return False

    bench.measure(MACHINE, lambda: bench.lab.reboot(one.name, wait=False), another)
    bench.under_way()
    bench.measure(POWER, lambda: bench.lab.kill(other.name), is_away)
    bench.lab.boot(other.name)
    bench.under_way()
    bench.measure(SILENCE, lambda: bench.lab.drop("controller", other.name), is_away)
    bench.lab.heal()
    bench.under_way()


def table(found: dict[Figure, list[float]]) -> str:
    """The figures as a table of Markdown, and what they mean."""
    lines = ["| figure | median | range | of it waiting by setting, in s |", "|---|---|---|---|"]
    for figure in FIGURES:
        secs = found.get(figure)
        if secs:
            span = f"{min(secs):.1f}–{max(secs):.1f} s"
            lines.append(f"| {figure.name} | {statistics.median(secs):.1f} s | {span} | {figure.setting} |")
    return "\n".join([*lines, "", *(f"- *{figure.name}*: {figure.span}" for figure in FIGURES)])


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 measured, 2 it cannot be done here."""
    parser = argparse.ArgumentParser(prog="make recovery", description=__doc__)
    parser.add_argument("--times", type=int, default=10, metavar="N", help="how often each is measured")
    args = parser.parse_args(argv)
    if reason := missing():
        print(f"recovery times cannot be measured: {reason}", file=sys.stderr)
        return 2
    shipped = DaemonSettings()
    times = {name: getattr(shipped, name) for name in SPEEDS["machines"]}
    with tempfile.TemporaryDirectory(prefix="autoperf-recovery-") as folder:
        lab = ContainerLab(Path(folder, "lab"), machines=2, controller=True)
        lab.install_controller(PROJECT)
        with lab:
            daemon = StormyDaemon(lab)
            daemon.drop_in(MANY_STARTS)
            daemon.start(machines={**times, "patience_secs": 3600})
            daemon.controller.run("systemctl enable autoperfd", check=True)
            bench = Bench(lab, daemon)
            for number in range(1, args.times + 1):
                bench.name = f"round {number}"
                text = experiment(bench.name, SETTINGS, lab.machines, "pub sub", reboot="never", retries=9)
                if number == 1:
                    daemon.trust(text)
                daemon.drop(f"round-{number}.toml", text)
                print(bench.name, flush=True)
                one_round(bench)
                if not daemon.ask("cancel", experiment=bench.name)["ok"]:
                    raise AutoperfError(f"{bench.name} cannot be cancelled")
                daemon.await_outcome(bench.name, "cancelled")
            daemon.systemctl("stop")
    date = datetime.datetime.now(datetime.UTC).date()
    print(f"\n{date}, {args.times} rounds, {os.cpu_count()} cores, Linux {os.uname().release}\n")
    print(table(bench.found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
