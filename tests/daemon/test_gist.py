"""What a person is told of an experiment is the same before and after a restart of the daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoperfd.core import messages as m
from autoperfd.daemon import condition
from autoperfd.daemon.gist import letter, measured
from autoperfd.daemon.views import ExperimentView
from tests.daemon.support import Rig, toml


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    made = Rig(tmp_path)
    made.submit(toml(lengths=tuple(range(100, 1100, 100)), retries=1, halt_after_consecutive_failures=9))
    return made


def seen(rig: Rig) -> ExperimentView:
    return condition.status(rig.engine).experiments[0]


def test_nothing_is_foreseen_as_surely_known_before_it_was_seen(rig: Rig) -> None:
    view = seen(rig)
    assert (view.remaining_low_secs, view.remaining_high_secs) == (40.0, None)
    assert view.tests_per_hour is None and view.ends == "" and view.reasons == () and view.wanted_bytes is None


def test_the_rest_is_foreseen_from_what_tests_took(rig: Rig) -> None:
    for _ in range(4):
        rig.running(1)
        rig.succeed(1)
    view = seen(rig)
    assert view.remaining_low_secs == view.remaining_high_secs == pytest.approx(6 * 10)
    assert view.tests_per_hour == pytest.approx(360) and view.ends == "++++"
    assert view.wanted_bytes == 6 * 10


def test_an_outage_and_retries_widen_it(rig: Rig) -> None:
    for _ in range(3):
        rig.running(1)
        rig.succeed(1)
    rig.away(1)
    rig.clock.now += 1000
    rig.answer(1, m.Due())
    rig.running(1)
    rig.fail(1, "no-data", code="NO_DATA")
    rig.running(1)
    rig.succeed(1)
    view = seen(rig)
    assert view.remaining_low_secs == pytest.approx(6 * 10)
    assert view.remaining_high_secs is not None and view.remaining_high_secs > 6 * 250
    assert view.ends == "+++x+"
    assert [(each.code, each.blame, each.attempts) for each in view.reasons] == [("NO_DATA", "test", 1)]


def test_a_halt_is_no_time_of_any_test(rig: Rig) -> None:
    for number in range(4):
        if number == 2:
            rig.ask("halt", experiment="PCG #1")
            rig.clock.now += 90_000
            rig.ask("resume", experiment="PCG #1")
        rig.running(1)
        rig.succeed(1)
    assert seen(rig).remaining_high_secs == pytest.approx(6 * 10)


def test_a_restart_forgets_none_of_it(rig: Rig) -> None:
    rig.running(1)
    rig.ask("halt", experiment="PCG #1")
    rig.clock.now += 5000
    rig.ask("resume", experiment="PCG #1")
    for status in ("success", "no-data", "no-data", "success", "no-summary"):
        rig.running(1)
        if status == "no-data":
            rig.fail(1, status, code="NO_DATA")
        else:
            rig.succeed(1, status)
    before = seen(rig)
    assert before.ends == "o+xx+~" and before.remaining_high_secs is not None
    rig.restart()
    after = seen(rig)
    assert (after.ends, after.reasons) == (before.ends, before.reasons)
    assert (after.remaining_low_secs, after.remaining_high_secs, after.tests_per_hour) == pytest.approx(
        (before.remaining_low_secs, before.remaining_high_secs, before.tests_per_hour)
    )


def test_names_that_are_none_measure_nothing() -> None:
    assert measured("600SEC_100B") == 600.0 and measured("hand made") == 0.0
    assert [letter("success", ""), letter("timeout", "test"), letter("rebooted", "machine")] == ["+", "x", "o"]
