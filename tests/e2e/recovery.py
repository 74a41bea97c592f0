"""`make recovery`: measures how long it takes until work goes on after a fault, in the container lab; no test of speed.

The installed daemon under its shipped unit, but for a quick start limit. Each figure is measured several times while
one experiment runs on; what counts as recovered is written beside it. One thread; every wait has a deadline.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoperfd.lab.container import ContainerLab, missing
from autoperfd.lab.machines import until
from tests.e2e.containers import experiment
from tests.e2e.storms import StormyDaemon

PROJECT = Path(__file__).parents[2]
MANY_STARTS = "[Unit]\nStartLimitIntervalSec=0\n"  # RestartSec=2 stays as shipped
SETTINGS = """duration_secs = [6]
datalen_bytes = [100]
pub_count = [1]
sub_count = [1]
latency_count = {counts}
"""


@dataclass
class Bench:
    """The lab with an experiment under way on two machines."""

    lab: ContainerLab
    daemon: StormyDaemon
    figures: dict[str, list[float]] = field(default_factory=dict)

    def found(self) -> dict[str, Any]:
        """The experiment as the daemon tells of it; {} when nobody answers."""
        with contextlib.suppress(OSError, ValueError):
            return self.daemon.experiment("endless")
        return {}

    def running(self) -> str:
        """Wait until an attempt is under way and confirmed; its test."""
        seen: list[str] = []

        def runs() -> bool:
            found = self.found()
            if found.get("state") == "running" and found["current"] and found["current"]["running_for"] > 1.0:
                seen.append(f"{found['current']['test']} {found['current']['attempt']}")
                return True
            return False

        until(runs, "an attempt is under way", 90)
        return seen[-1]

    def goes_on(self) -> bool:
        """Whether the daemon answers and has an attempt under way."""
        found = self.found()
        return bool(found.get("state") == "running" and found["current"])

    def backs_off(self) -> bool:
        """Whether the daemon knows that a machine is away."""
        return self.found().get("state") == "backing-off"

    def measure(self, what: str, strike: Callable[[], None], recovered: Callable[[], bool], secs: float = 120) -> None:
        """Strike, and take the time until it has recovered."""
        began = time.monotonic()
        strike()
        until(recovered, f"recovered: {what}", secs)
        self.figures.setdefault(what, []).append(time.monotonic() - began)
        print(f"  {what}: {self.figures[what][-1]:.2f} s", flush=True)


def crash(bench: Bench) -> None:
    """SIGKILL of the daemon -> it answers and is back at the running attempt."""
    _strike(bench, "the daemon crashes", signal.SIGKILL)


def hang(bench: Bench) -> None:
    """SIGSTOP of the daemon -> systemd's watchdog (30 s) ends it, it answers and is back at work."""
    _strike(bench, "the daemon hangs", signal.SIGSTOP)


def _strike(bench: Bench, what: str, number: signal.Signals) -> None:
    bench.running()
    pid = bench.daemon.pid()

    def back() -> bool:
        return bench.daemon.pid() not in (0, pid) and bench.goes_on()

    bench.measure(what, lambda: os.kill(pid, number), back)


def controller(bench: Bench) -> None:
    """`systemctl reboot` of the controller -> it has booted, the daemon answers and is back at work."""
    bench.running()
    before = bench.lab.controller.boot_id()

    def back() -> bool:
        if bench.lab.controller.boot_id() in ("", before):
            return False
        bench.daemon.find_again()
        return bench.goes_on()

    bench.measure("the controller reboots", lambda: bench.lab.reboot("controller", wait=False), back)


def machine(bench: Bench) -> None:
    """A machine reboots in mid-attempt -> the next attempt is under way."""
    now = bench.running()
    first = bench.lab.machines[0].name

    def next_runs() -> bool:
        found = bench.found()
        current = found.get("current")
        return bool(current and f"{current['test']} {current['attempt']}" != now and found["state"] == "running")

    bench.measure("a machine reboots", lambda: bench.lab.reboot(first, wait=False), next_runs)


def power(bench: Bench) -> None:
    """A machine's power fails in mid-attempt -> the daemon knows (it backs off)."""
    bench.running()
    name = bench.lab.machines[1].name

    bench.measure("a machine loses its power: noticed", lambda: bench.lab.kill(name), bench.backs_off)
    bench.lab.boot(name)


def silence(bench: Bench) -> None:
    """Nothing passes between controller and machine, without a word -> the daemon knows (link_loss_secs as shipped)."""
    bench.running()
    name = bench.lab.machines[1].name

    bench.measure("a link falls silent: noticed", lambda: bench.lab.drop("controller", name), bench.backs_off)
    bench.lab.heal()


FIGURES = (crash, hang, controller, machine, power, silence)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 measured, 2 it cannot be done here."""
    parser = argparse.ArgumentParser(prog="make recovery", description=__doc__)
    parser.add_argument("--times", type=int, default=10, metavar="N", help="how often each is measured")
    args = parser.parse_args(argv)
    if reason := missing():
        print(f"recovery times cannot be measured: {reason}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="autoperf-recovery-") as folder:
        lab = ContainerLab(Path(folder, "lab"), machines=2, controller=True)
        lab.install_controller(PROJECT)
        with lab:
            daemon = StormyDaemon(lab)
            daemon.drop_in(MANY_STARTS)
            daemon.start(machines={"link_loss_secs": 15, "patience_secs": 3600})
            daemon.controller.run("systemctl enable autoperfd", check=True)
            text = experiment(
                "endless",
                SETTINGS.format(counts=list(range(10, 510))),
                lab.machines,
                "pub sub",
                reboot="never",
                retries=9,
                buffer_secs=30,
                halt_after_consecutive_failures=1000,
            )
            daemon.run(text)
            bench = Bench(lab, daemon)
            for figure in FIGURES:
                for _ in range(args.times):
                    figure(bench)
            daemon.systemctl("stop")
    print(f"\n{'fault':40} {'median':>8} {'worst':>8}   of {args.times}, in seconds")
    for what, secs in bench.figures.items():
        print(f"{what:40} {statistics.median(secs):8.1f} {max(secs):8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
