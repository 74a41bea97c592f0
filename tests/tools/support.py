"""Machines, plans, records and folders for the tests of the tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
