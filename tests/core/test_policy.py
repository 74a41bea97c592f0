"""Whose fault a failed attempt is, how long to back off, and that a reboot outranks every verdict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoperfd.core.plan import END_STATUSES, Verdict
from autoperfd.core.policy import BLAME, KEPT, backoff_secs, result_of, todo

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
    assert todo("", False, "x") == ""
