"""Sixty seeded faults, of every kind, strike two experiments of 40 tests each under the shipped unit."""

from __future__ import annotations

import pytest

from autoperfd.lab.container import ContainerLab
from autoperfd.lab.faults.kinds import KINDS
from tests.e2e.storms import problems, rage
from tests.faults import Fired

FIRST, COUNT, TESTS, FLOOD_MB = 0, 60, 40, 1024
ROWS = {
    "P1": ("daemon killed", "daemon killed again"),
    "P4": ("daemon restarted",),
    "P6": ("daemon paused",),
    "S7": ("daemon restarted",),
    "S9": ("controller rebooted", "controller's power cut"),
    "M1": ("machine off", "machine power-cycled"),
    "M2": ("sshd hung", "sshd hung for good"),
    "M4": ("machine rebooted",),
    "M7": ("host key changed",),
    "M11": ("machine's disk full",),
    "M16": ("stranger's benchmark", "person logged in"),
    "N1": ("cut off", "cut one way"),
    "N3": ("lossy",),
    "N4": ("machines apart",),
    "T1": ("tool: hang=data",),
    "T2": ("tool: crash=11", "tool: crash-at-start=6"),
    "T3": ("tool: exit=1", "tool: early-exit"),
    "T4": ("tool: no-file", "tool: empty", "tool: header-only"),
    "T5": ("tool: truncated",),
    "T6": ("tool: garbage",),
    "T8": ("tool: flood={mb}",),
    "T9": ("tool: orphan=300",),
}
"""Row of the fault model -> the kinds of faults that are it."""


@pytest.mark.timeout(1500)
@pytest.mark.fault(*ROWS)
def test_a_storm_of_faults_costs_no_test(container_lab: ContainerLab, fired: Fired) -> None:
    """Whatever strikes, every test gets its one verdict, and none pays for what was not its fault."""
    raged = rage(container_lab, FIRST, COUNT, TESTS, flood_mb=FLOOD_MB)
    found = problems(raged)
    print(raged.summary())
    assert found == [], raged.daemon.text()
    assert len(raged.storm.struck) == COUNT
    assert set(raged.storm.kinds()) == set(KINDS), "a kind never struck"
    for row, kinds in ROWS.items():
        for fault in raged.storm.struck:
            if fault.kind in kinds:
                fired(row, fault.seen)
