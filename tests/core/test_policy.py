"""Whose fault a failed attempt is, how long to back off, and that a reboot outranks every verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoperfd.core.messages import AttemptResult
from autoperfd.core.plan import END_STATUSES, Verdict
from autoperfd.core.policy import (
    AILING,
    BLAME,
    KEPT,
    RUNGS,
    SILENT,
    SUSPICIOUS,
    Examined,
    backoff_secs,
    blamed,
    is_outage,
    result_of,
    rungs_for,
    todo,
)

BEFORE = {"p1": "a", "p2": "b"}


def test_every_end_status_has_a_blame() -> None:
    assert set(BLAME) == set(END_STATUSES)
    assert {status for status, blame in BLAME.items() if blame == ""} == set(KEPT)


@pytest.mark.parametrize(
    ("tries", "draw", "secs"),
    [
        (0, 0.0, 0.5),
        (0, 0.5, 2.5),
        (1, 0.5, 5.0),
        (3, 0.5, 20.0),
        (6, 0.5, 150.0),
        (60, 0.5, 150.0),
        (10**6, 0.0, 30.0),
    ],
)
def test_back_off(tries: int, draw: float, secs: float) -> None:
    assert backoff_secs(tries, 5.0, 300.0, draw) == secs


@given(
    tries=st.integers(0, 10**9),
    first=st.floats(0.01, 86_400),
    more=st.floats(0, 86_400),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_back_off_stays_within_its_bounds(tries: int, first: float, more: float, draw: float) -> None:
    cap = first + more
    secs = backoff_secs(tries, first, cap, draw)
    assert 0 < secs <= cap
    assert backoff_secs(tries + 1, first, cap, draw) >= secs


def test_a_verdict_becomes_a_result_with_its_blame() -> None:
    verdict = Verdict("truncated", code="TORN", reason="cut", machine="p2", figures={"mbps": 1.5})
    result = result_of(verdict, BEFORE, BEFORE, '{"x":1}')
    assert (result.end_status, result.blame, result.code, result.reason) == ("truncated", "test", "TORN", "cut")
    assert (result.machine, result.figures, result.evidence) == ("p2", {"mbps": 1.5}, '{"x":1}')
    assert not result.would_fail_every_test
    assert result_of(Verdict("wont-start", would_fail_every_test=True), {}, {}, "{}").would_fail_every_test


@pytest.mark.parametrize("status", [status for status in END_STATUSES])
def test_a_reboot_during_the_attempt_outranks_every_verdict(status: str) -> None:
    result = result_of(Verdict(status), BEFORE, {"p1": "a", "p2": "other"}, "{}")
    assert (result.end_status, result.blame, result.machine) == ("rebooted", "machine", "p2")
    assert result.reason == "p2 rebooted during the attempt, so its data cannot be trusted"


@pytest.mark.parametrize("after", [{}, {"p1": "a"}, {"p1": "a", "p2": ""}, {"p1": "a", "p2": "b", "p3": "c"}])
def test_a_boot_id_that_nobody_knows_proves_no_reboot(after: dict[str, str]) -> None:
    assert result_of(Verdict("success"), BEFORE, after, "{}").end_status == "success"


def test_a_person_is_told_what_to_do() -> None:
    assert todo("machine", True, "PCG #1") == "See to the machine; it goes on by itself when all answer"
    assert todo("machine", False, "pcg") == "Mend what the reason says, then: autoperfctl resume pcg"
    assert todo("failures", False, "PCG #1").endswith("autoperfctl resume 'PCG #1'")
    assert todo("operator", False, "x").endswith("autoperfctl resume x")
    assert todo("disk", False, "x") == "Make room; it goes on by itself"
    assert todo("disk", False, "x", "NO_DESCRIPTORS") == "See to what the reason says; it goes on by itself"
    assert todo("", False, "x") == ""


# ---------------------------------------------------------------- a look at the machines after a failure

WELL = Examined(True, "ok", "b", {"p1": True, "p2": True})
TIMEOUT = AttemptResult(end_status="timeout", blame="test", code="TIMEOUT", reason="it was ended")


def test_a_test_is_blamed_where_all_is_well() -> None:
    assert blamed(TIMEOUT, {"p1": WELL, "p2": WELL}) == TIMEOUT
    assert blamed(TIMEOUT, {}) == TIMEOUT
    silent = Examined(None, "ok", hears={"p2": None})  # it cannot tell
    assert blamed(TIMEOUT, {"p1": silent, "p2": silent}) == TIMEOUT


@pytest.mark.parametrize("status", SUSPICIOUS)
def test_a_machine_that_does_not_answer_is_blamed(status: str) -> None:
    away = Examined(False, "SSH_SILENT")
    found = blamed(replace(TIMEOUT, end_status=status), {"p1": WELL, "p2": away})
    assert (found.end_status, found.blame, found.machine, found.code) == (status, "machine", "p2", "SSH_SILENT")
    assert found.reason == "it was ended; p2 does not answer now (SSH_SILENT)"
    found = blamed(TIMEOUT, {"p1": away, "p2": away})
    assert (found.blame, found.machine, found.code) == ("network", "", "NETWORK_DOWN")


def test_machines_that_do_not_hear_each_other_are_blamed_on_the_network() -> None:
    deaf = replace(WELL, hears={"p2": False})
    found = blamed(TIMEOUT, {"p1": deaf, "p2": WELL})
    assert (found.blame, found.machine, found.code) == ("network", "p1", "PARTITION")
    assert "p1 and p2 do not hear each other" in found.reason


@pytest.mark.parametrize("status", SUSPICIOUS)
def test_an_outage_that_is_over_is_blamed_as_well(status: str) -> None:
    looks, result = {"p1": WELL, "p2": WELL}, replace(TIMEOUT, end_status=status)
    found = blamed(result, looks, {"p2": "LINK_LOST"})
    assert (found.end_status, found.blame, found.machine, found.code) == (status, "machine", "p2", "LINK_LOST")
    assert found.reason == "it was ended; p2 could not be reached for a while as it ran (LINK_LOST)"
    found = blamed(result, looks, {"p1": "PING", "p2": "PING"})
    assert (found.blame, found.machine, found.code) == ("network", "", "NETWORK_DOWN")
    assert found.reason == "it was ended; p1, p2 could not be reached for a while as it ran"
    now = {**looks, "p1": Examined(False, "SSH_SILENT")}
    assert blamed(result, now, {"p2": "LINK_LOST"}).machine == "p1"  # what is wrong now says more


def test_what_the_controller_lacked_is_no_fault_of_a_machine() -> None:
    unseen = {"p1": WELL, "p2": Examined(None, "NO_THREADS")}
    for found in (blamed(TIMEOUT, unseen), blamed(TIMEOUT, {"p1": WELL, "p2": WELL}, {"p1": "NO_THREADS"})):
        assert (found.blame, found.machine, found.code) == ("controller", "", "NO_THREADS")


def test_a_full_disk_of_a_machine_is_blamed_on_it() -> None:
    found = blamed(replace(TIMEOUT, end_status="truncated"), {"p1": WELL, "p2": replace(WELL, disk_full=True)})
    assert (found.end_status, found.blame, found.machine, found.code) == (
        "truncated",
        "machine",
        "p2",
        "REMOTE_DISK_FULL",
    )


@pytest.mark.parametrize("status", sorted({*END_STATUSES} - {*SUSPICIOUS}))
def test_what_no_outage_explains_keeps_its_blame(status: str) -> None:
    result = AttemptResult(end_status=status, blame=BLAME[status], reason="r")
    assert blamed(result, {"p1": Examined(False, "SSH_SILENT"), "p2": WELL}, {"p2": "LINK_LOST"}) == result


def test_rungs_are_for_machines_that_a_restart_may_help() -> None:
    assert rungs_for("SHELL_HANG") == RUNGS and rungs_for("SSH_SILENT") == ("power",)
    assert rungs_for("MACHINE_TAKEN") == rungs_for("REMOTE_DISK_FULL") == rungs_for("") == ()
    assert is_outage("SSH_SILENT") and is_outage("PARTITION") and not is_outage("USER_LOGGED_IN")
    assert not SILENT & AILING
