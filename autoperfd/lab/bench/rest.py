"""The daemon at rest: memory beside a process that has only imported paramiko, and processor time while idle."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from autoperfd.lab.bench.rig import Bench, daemon, experiment
from autoperfd.lab.bench.rows import Row

BARE = "import paramiko, sys; print('there', flush=True); sys.stdin.read()"


def measure(bench: Bench) -> Iterator[Row]:
    """With 4 and with 128 machines connected, after an experiment on them has finished."""
    for count, limit in ((4, 1.5),) if bench.quick else ((4, 1.5), (128, 1.8)):
        bench.say(f"a daemon at rest, {count} machines connected")
        with bench.lab(count) as lab, daemon(bench.new_folder("rest"), lab.machines) as live:
            roles = ["pub", "sub"] * (count // 2)
            live.run("rest", experiment("rest", lab.experiment_machines(roles), 1), 120)
            pause = threading.Event()
            pause.wait(1 if bench.quick else 5)  # what the experiment's end left to do
            before, began = cpu_secs(live.pid), time.monotonic()
            pause.wait(2 if bench.quick else 20)
            idle = (cpu_secs(live.pid) - before) / (time.monotonic() - began) * 100
            connected = sockets(live.pid)
            memory = rss_mb(live.pid)
        yield Row(
            figure=f"memory at rest, {count} machines connected",
            ours=memory,
            unit="MB",
            peer="python, import paramiko",
            theirs=bare_mb(),
            limit=limit,
            note="resident set, after an experiment with all these machines has finished",
        )
        yield Row(
            figure=f"processor at rest, {count} machines connected",
            ours=idle,
            unit="%",
            peer=f"(absolute, {connected} connections)",
            theirs=0.5,
            limit=0.5,
            alone=True,
            note="of one core",
        )


def bare_mb() -> float:
    """Resident memory of a process that does nothing with paramiko, in MB."""
    with subprocess.Popen([sys.executable, "-c", BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return rss_mb(process.pid)


def rss_mb(pid: int) -> float:
    """Resident memory in MB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def cpu_secs(pid: int) -> float:
    """Processor time of all living threads."""
    stats = (path.read_text(encoding="ascii") for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(stat.split()[0]) for stat in stats) / 1e9


def sockets(pid: int) -> int:
    """TCP connections a process holds."""
    held = {path.readlink().name for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    lines = Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return sum(f"socket:[{line.split()[9]}]" in held and line.split()[3] == "01" for line in lines)
