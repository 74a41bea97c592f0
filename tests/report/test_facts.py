"""What a report says in words: its first sentences, its reasons, and what to be careful about."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from autoperfd.report import facts
from autoperfd.results.gather import Attempt, Gathered, Test
from tests.report.support import BEGAN, gathered

SMALL = """
duration_secs = [30]
datalen_bytes = [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
pub_count = [1]
sub_count = [1]
use_reliable = [true, false]
use_multicast = [true, false]
latency_count = [100]
"""


def proven(found: Gathered) -> Gathered:
    """The same, when every test was proven at once and every figure is alike."""
    tests, attempts = [], []
    for number, test in enumerate(found.tests):
        start = BEGAN + 60 * number
        last = Attempt(test.name, 1, start, start + 50, "success", "", "", "", "", "data/x/attempt-1.tar.gz")
        attempts.append(last)
        tests.append(Test(test.name, test.settings, "ok", 1, last, {"latency_mean_us": 100.0, "total_mbps": 5.0}))
    return replace(found, tests=tuple(tests), attempts=tuple(attempts), surveys=found.surveys[:4])


def cautions(found: Gathered) -> list[str]:
    return facts.cautions(found, facts.machines(found))


def with_figures(found: Gathered, latencies: list[float]) -> Gathered:
    changed = [replace(t, figures={"latency_mean_us": us}) for t, us in zip(found.tests, latencies, strict=True)]
    return replace(found, tests=tuple(changed))


def test_it_begins_with_three_sentences() -> None:
    one, two, three = facts.sentences(gathered())
    assert one == (
        "288 tests with perftest on 4 machines were planned, varying datalen_bytes, pub_count, sub_count, "
        "use_reliable, use_multicast and durability_level."
    )
    assert two.startswith("280 of them were tried in 315 attempts from 2025-11-23 12:13 UTC to 2025-11-23 17:")
    assert two.endswith(": 276 are proven, 4 were given up, 8 are still to come.")
    assert three == (
        "24 attempts failed by the test's own fault and 15 by somebody else's (8 network and 7 machine); figures below "
        "are of proven tests only."
    )


def test_nothing_tried_is_said_too() -> None:
    found = gathered(upto=-1)
    assert facts.sentences(replace(found, attempts=()))[1].startswith(
        "0 of them were tried in 0 attempts: 0 are proven"
    )
    assert cautions(replace(found, attempts=(), surveys=())) == []


def test_attempts_are_counted_by_reason() -> None:
    found = facts.reasons(gathered())
    assert [(reason.code, reason.blame, reason.attempts) for reason in found] == [
        ("TOO_FEW_ROWS", "test", 13),
        ("TIMEOUT", "test", 11),
        ("PARTITION", "network", 8),
        ("REBOOTED", "machine", 7),
    ]
    assert found[0].machines == ("p3", "p4") and "12 rows" in found[0].example


def test_an_experiment_without_a_flaw_needs_no_care() -> None:
    assert cautions(proven(gathered(space=SMALL))) == []


def test_failures_in_one_place_are_said() -> None:
    found = proven(gathered(space=SMALL))
    tests = [
        replace(test, state="failed", figures={}) if not test.settings["use_reliable"] and number % 2 else test
        for number, test in enumerate(found.tests)
    ]
    said = cautions(replace(found, tests=tuple(tests)))
    assert said[0].startswith("10 of 20 tests with use_reliable = false were given up (50%, of all tests 25%)")
    assert not any("use_reliable = true" in each for each in said)


@pytest.mark.parametrize(("slope", "words"), [(0.02, "rises"), (-0.02, "falls"), (0.0, "")])
def test_a_drift_is_told_from_the_effects_of_settings(slope: float, words: str) -> None:
    """The lengths grow with time, and the latency with them: that is no drift."""
    found = proven(gathered(space=SMALL))
    draw = random.Random(3)
    latencies = [
        float(test.settings["datalen_bytes"]) * 2.718 ** (slope * number + draw.uniform(-0.02, 0.02))
        for number, test in enumerate(found.tests)
    ]
    order = list(range(len(latencies)))
    draw.shuffle(order)  # a test's settings say nothing of when it was run
    shuffled = [replace(found.tests[place], last=found.attempts[at]) for at, place in enumerate(order)]
    moved = {place: at for at, place in enumerate(order)}
    figures = [
        float(test.settings["datalen_bytes"]) * 2.718 ** (slope * moved[place] + draw.uniform(-0.02, 0.02))
        for place, test in enumerate(found.tests)
    ]
    tests = {test.name: test for test in shuffled}
    said = cautions(with_figures(replace(found, tests=tuple(tests[test.name] for test in found.tests)), figures))
    assert [each for each in said if "with time" in each] == [each for each in said if words and words in each]
    assert bool(words) == any("with time" in each for each in said)


def test_disturbed_attempts_and_other_versions_are_said() -> None:
    found = proven(gathered(space=SMALL))
    first, *others = found.attempts
    attempts = (replace(first, end_status="invalid", code="USER_LOGGED_IN", blame="operator"), *others)
    tests = list(found.tests)
    tests[3] = replace(tests[3], state="no-summary")
    tests[4] = replace(tests[4], attempts=3, figures={"tool_version": "4.1"})
    tests[5] = replace(tests[5], figures={"tool_version": "4.2"})
    assert cautions(replace(found, attempts=attempts, tests=tuple(tests))) == [
        "1 tests have complete data without a summary; they are in no figure here.",
        "1 attempts were disturbed and do not count (1 USER_LOGGED_IN).",
        "1 proven tests needed more than one attempt.",
        "The tool had 2 versions: 4.1 and 4.2.",
    ]


def test_a_machine_that_changed_is_said() -> None:
    assert cautions(gathered())[-1] == "p2: kernel changed: 6.1.21-v7+ → 6.6.31+rpt-rpi-v7 between attempts."


@pytest.mark.parametrize("numbers", [[], [1.0], [1.0, 1.0, 1.0]])
def test_there_is_no_trend_in_what_is_alike(numbers: list[float]) -> None:
    assert facts._rank_correlation(numbers) == 0.0


def test_trends_are_as_spearman_has_them() -> None:
    assert facts._rank_correlation([1, 2, 3, 10]) == pytest.approx(1.0)
    assert facts._rank_correlation([4, 3, 2, 1]) == pytest.approx(-1.0)
    assert facts._rank_correlation([1, 2, 2, 3]) == pytest.approx(0.9486833)  # scipy.stats.spearmanr says so
