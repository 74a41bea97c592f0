"""What `status` says in every situation there is, compared with the text that a person found good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from autoperfd.daemon.screen import columns_of, render_status
from autoperfd.daemon.views import WIDTH, CurrentView, ExperimentView, MachineView, ReasonView, RefugeView, StatusView
from tests.daemon.test_views import FINISHED, HALTED, NOW, P1, P3, RUNNING, STATUS, WAITING

TEXTS = Path(__file__).parents[1] / "data" / "status"
DAY = 86_400.0

EMPTY = StatusView(NOW, "0.1.0", 812, NOW - 5)
ONE = replace(STATUS, experiments=(RUNNING,), attention=())
FIRST = ExperimentView(
    "bench-7",
    "validating",
    tests_total=36,
    remaining_low_secs=1080,
    machines=(MachineView("p1", "192.0.2.55:22", "unknown"), MachineView("p2", "192.0.2.56:22", "unknown")),
)
REBOOTING = replace(
    RUNNING, state="rebooting", current=None, machines=(replace(P1, state="rebooting"), replace(P3, trouble=""))
)
BACKING_OFF = replace(
    RUNNING,
    state="backing-off",
    current=None,
    sentence="waits before it tries the machines again, which it does in 40 s: PING: p3 does not answer pings",
    machines=(P1, P3),
)
CLIMBING = replace(
    BACKING_OFF,
    state="rebooting",
    sentence="cycles the power of p3, which did not get well by waiting: SSH_SILENT: p3 does not answer at its port 22",
)
GIVEN_UP = replace(
    HALTED,
    name="latency-sweep",
    tests_done=120,
    tests_total=800,
    succeeded=108,
    failed=12,
    halted_cause="failures",
    halted_reason="10 tests in a row were given up, the last one: TIMEOUT: sub_0 did not end",
    todo="Look at the reasons, mend them, then: autoperfctl resume 'latency-sweep'",
    failures_in_a_row=10,
    failures_allowed=10,
    ends="+++" + "xxx" * 10,
    reasons=tuple(
        ReasonView(f"CODE_{n}", "test", 14 - n, f"reason {n}", "30SEC_100B_1PUB_1SUB_REL_UC_100LC") for n in range(5)
    ),
    machines=(P1,),
)
BY_OPERATOR = replace(HALTED, halted_cause="operator", halted_reason="halted by ann", todo="When it may go on: …")
FULL = replace(
    RUNNING,
    state="halted",
    halted_cause="disk",
    halted_reason="only 300 MB are free in /var/lib/autoperf, the next attempt may need 512 MB",
    todo="Make room; it goes on by itself",
    current=None,
    remaining_low_secs=None,
)
DONE = replace(
    FINISHED, failed=2, succeeded=33, skipped=1, reasons=(ReasonView("TIMEOUT", "test", 6, "sub_0 hung", "T"),)
)
CHANGED = replace(
    RUNNING,
    changes=tuple(
        f"p1: {fact} changed from a to b, seen 2026-11-18 10:0{n} UTC"
        for n, fact in enumerate(("governor", "kernel", "nic.eth0.mbps", "turbo"))
    ),
)
MANY = tuple(replace(RUNNING, name=f"e{n}") for n in range(5)) + (WAITING,) * 6
SITUATIONS: Mapping[str, tuple[StatusView, int]] = {
    "nothing ever": (EMPTY, WIDTH),
    "the first look": (replace(EMPTY, experiments=(FIRST,)), WIDTH),
    "running": (ONE, WIDTH),
    "rebooting": (replace(ONE, experiments=(REBOOTING,)), WIDTH),
    "backing off": (replace(ONE, experiments=(BACKING_OFF,)), WIDTH),
    "cycling the power": (replace(ONE, experiments=(CLIMBING,)), WIDTH),
    "halted for a machine": (replace(ONE, experiments=(HALTED,)), WIDTH),
    "halted for failures": (replace(ONE, experiments=(GIVEN_UP,)), WIDTH),
    "halted by a person": (replace(ONE, experiments=(BY_OPERATOR,)), WIDTH),
    "halted for the disk": (replace(ONE, experiments=(FULL,), free_bytes=300 << 20), WIDTH),
    "held": (replace(ONE, experiments=(WAITING,), hold="held by root since 12:00"), WIDTH),
    "finished with failures": (replace(ONE, experiments=(DONE,)), WIDTH),
    "several": (replace(STATUS, experiments=MANY), WIDTH),
    "machines changed": (replace(ONE, experiments=(CHANGED,)), WIDTH),
    "refuge": (
        replace(
            ONE,
            refuge=RefugeView(
                NOW - 600, "DISK_ERROR", "the memory cannot be read", "Look at the disk of /var/lib/autoperf", NOW - DAY
            ),
        ),
        WIDTH,
    ),
    "a phone": (replace(STATUS, experiments=(RUNNING, HALTED, WAITING)), 40),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_situation(name: str) -> None:
    view, columns = SITUATIONS[name]
    text = render_status(view, columns)
    assert max(map(len, text.splitlines())) <= columns
    assert text == (TEXTS / f"{name.replace(' ', '-')}.txt").read_text(encoding="utf-8")


def test_every_text_is_of_a_situation() -> None:
    assert {path.stem for path in TEXTS.iterdir()} == {name.replace(" ", "-") for name in SITUATIONS}


@pytest.mark.parametrize("columns", [1, 29, 30, 69, 70, 100, 300])
def test_any_width_is_laid_out(columns: int) -> None:
    current = CurrentView("600SEC_" * 20, 1, 3, 4.0)
    view = replace(STATUS, experiments=(replace(RUNNING, current=current), HALTED))
    lines = render_status(view, columns).splitlines()
    if columns < 70:
        assert max(map(len, lines)) <= max(columns, 30)


@pytest.mark.parametrize(
    ("told", "columns"),
    [
        ({"columns": 40}, 40),
        *(({"columns": nonsense}, WIDTH) for nonsense in ("40", True, -1, 0, 10**9, None)),
        ({}, WIDTH),
    ],
)
def test_what_is_no_width_is_the_usual_one(told: dict[str, object], columns: int) -> None:
    assert columns_of(told) == columns
