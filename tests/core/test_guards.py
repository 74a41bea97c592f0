"""Every guard speaks when it is violated and keeps silent when it is not, or when it is switched off."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoperfd.core.guards import Guards, Watch, violations

THEN = Watch(wall=1000.0, uptime=500.0, celsius=50.0, throttled=0, link_errors=7, free_kb=1 << 20)
NOW = replace(THEN, wall=1030.0, uptime=530.0)
CASES = {
    "FOREIGN_PROCESS": (replace(NOW, foreign=("4711 perftest_cpp",)), "operator", Guards(foreign="record")),
    "USER_LOGGED_IN": (replace(NOW, users=("ann pts/0 192.0.2.9",)), "operator", Guards(users="record")),
    "CLOCK_STEP": (replace(NOW, wall=1032.0), "machine", Guards(clock_step_secs=0)),
    "THROTTLED": (replace(NOW, throttled=0x50005), "machine", Guards(throttled="record")),
    "TOO_HOT": (replace(NOW, celsius=81.0), "machine", Guards()),
    "LINK_ERRORS": (replace(NOW, link_errors=108), "network", Guards(max_link_errors=0)),
}


@pytest.mark.parametrize("code", CASES)
def test_a_guard_speaks(code: str) -> None:
    now, blame, off = CASES[code]
    (found,) = violations({"p1": THEN}, {"p1": now}, Guards(max_celsius=80))
    assert (found.code, found.machine, found.blame) == (code, "p1", blame)
    assert "p1" in found.reason
    assert violations({"p1": THEN}, {"p1": now}, off) == []


def test_nothing_is_said_of_a_quiet_machine() -> None:
    guards = Guards(max_celsius=80)
    assert violations({"p1": THEN}, {"p1": NOW}, guards) == []
    assert violations({"p1": Watch()}, {"p1": Watch()}, guards) == []
    assert violations({"p1": THEN}, {}, guards) == []
    assert violations({"p1": replace(THEN, throttled=0x50000)}, {"p1": replace(NOW, throttled=0x50000)}, guards) == []


def test_what_was_there_before_and_has_gone_counts_too() -> None:
    (found,) = violations({"p1": replace(THEN, users=("ann pts/0 192.0.2.9",))}, {"p1": NOW}, Guards())
    assert found.code == "USER_LOGGED_IN"


def test_a_clock_set_back_counts() -> None:
    (found,) = violations({"p1": THEN}, {"p1": replace(NOW, wall=-1e9)}, Guards())
    assert found.code == "CLOCK_STEP"
