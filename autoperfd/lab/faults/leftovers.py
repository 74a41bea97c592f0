"""What of ours still runs on the lab's machines, looked at from outside through /proc. Any thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from autoperfd.lab.container import ContainerMachine

MARKS = (b"AUTOPERF_FOLDER=", b"AUTOPERF_PARTICIPANT=", b"AUTOPERF_UID=")
PROGRAM = b"perftest_cpp"


def processes(machines: Iterable[ContainerMachine]) -> list[str]:
    """One line for each process that carries an attempt's mark or is a benchmark: "p1: 4711 perftest_cpp -pub …"."""
    found = []
    for machine in machines:
        for pid in machine.first.processes():
            with contextlib.suppress(OSError):  # it has just ended
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if any(mark in environment for mark in MARKS) or PROGRAM in words:
                    shown = words.replace(b"\0", b" ").decode(errors="replace")[:120]
                    found.append(f"{machine.name}: {pid} {shown}")
    return found


def folders(machines: Iterable[ContainerMachine]) -> list[str]:
    """The folders of attempts that lie on machines."""
    return [
        f"{machine.name}: {folder.name}"
        for machine in machines
        for folder in Path(f"/proc/{machine.leader()}/root", f"home/{machine.username}/.autoperf").glob("*/*/")
    ]
