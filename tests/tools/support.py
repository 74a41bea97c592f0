"""Machines, plans, records and folders for the tests of the tools."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoperfd.core.plan import Machine, ParticipantRecord, Plan, Setting, Tool

DATA = Path(__file__).parent.parent / "data"
REAL = Path(__file__).parents[2].parent / "shared" / "perftest" / "samples" / "real"


def machine(name: str = "p1", allocation: str = "all", ip: str = "10.0.0.1", **more: str) -> Machine:
    values = {"port": 22, "username": "pi", "ssh_key_path": "~/.ssh/id", "exec_path": "~/bin/tool", **more}
    return Machine(name=name, allocation=allocation, ip=ip, **values)  # type: ignore[arg-type]


PAIR = (machine("p1", "pub", "10.0.0.1"), machine("p2", "sub", "10.0.0.2"))

PERFTEST_TEST: Mapping[str, Setting] = {
    "duration_secs": 10,
    "datalen_bytes": 100,
    "pub_count": 1,
    "sub_count": 1,
    "use_reliable": True,
    "use_multicast": False,
    "latency_count": 100,
}


def planned(tool: Tool, probes: Mapping[str, str] | None = None, /, **changes: Setting | None) -> Plan:
    """A plan for two machines; a setting changed to None is left out."""
    settings = {key: value for key, value in {**PERFTEST_TEST, **changes}.items() if value is not None}
    return tool.plan("T", settings, PAIR, 7, probes or {})


def records(plan: Plan, **changes: Mapping[str, object]) -> list[ParticipantRecord]:
    """Records of an attempt in which all ended by themselves with 0; changed by participant's name."""
    healthy = {
        p.name: ParticipantRecord(p.name, p.machine, 0, None, "self", 100.0, 100.0 + plan.duration_secs + 4)
        for p in plan.participants
    }
    for name, change in changes.items():
        healthy[name] = replace(healthy[name], **change)  # type: ignore[arg-type]
    return list(healthy.values())


def write(folder: Path, files: Mapping[str, bytes | None]) -> Path:
    """A folder with these files; None: no such file."""
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return folder


@dataclass
class Started:
    """A plan's participants as processes of this computer, in a folder of their own."""

    plan: Plan
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)

    def wait(self, deadline: float) -> list[ParticipantRecord]:
        """Waits for all until `deadline` (monotonic), ends what is left, and says how each ended."""
        left = []
        for p in self.plan.participants:
            process, ended_by = self.processes[p.name], "self"
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                ended_by = "deadline"
            code = process.returncode
            status, signal = (None, -code) if code < 0 else (code, None)
            record = ParticipantRecord(p.name, p.machine, status, signal, ended_by, self.began[p.name], time.time())  # type: ignore[arg-type]
            left.append(record)
        return left

    def kill(self) -> None:
        """Ends what is left."""
        for process in self.processes.values():
            process.kill()
            process.wait()


def start(plan: Plan, folder: Path, before: Sequence[str] = (), **environment: str) -> Started:
    """Starts what the plan says as a machine would, with `before` in front of every command line."""
    folder.mkdir()
    started = Started(plan, folder)
    for p in plan.participants:
        with (folder / p.stdout).open("wb") as out, (folder / p.stderr).open("wb") as err:
            started.began[p.name] = time.time()
            started.processes[p.name] = subprocess.Popen(
                [*before, *p.argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**os.environ, **environment, **dict(p.environment)},
            )
    return started
