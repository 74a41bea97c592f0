"""What is foreseen is a range that holds what happened so far, and nothing is made up before anything is known."""

from __future__ import annotations

import random

import pytest

from autoperfd.core.pace import LATEST, Pace, remembered


def paced(*spans: float, measured: float = 30.0) -> Pace:
    pace = Pace()
    for span in spans:
        pace.note(span, measured)
    return pace


def test_before_anything_is_known_only_what_is_measured_is_sure() -> None:
    foreseen = Pace().foresee(10, 30.0)
    assert (foreseen.low, foreseen.high, foreseen.middle) == (300.0, None, 300.0)
    assert Pace().per_hour() is None
    assert paced(40, 42).foresee(10, 30.0).high is None


def test_steady_tests_give_a_narrow_range() -> None:
    foreseen = paced(*[40.0] * 10).foresee(100, 30.0)
    assert foreseen.low == foreseen.high == pytest.approx(4000)
    assert paced(*[40.0] * 10).per_hour() == pytest.approx(90)


def test_an_outage_widens_it_upwards_and_leaves_the_lower_end() -> None:
    calm, ill = paced(*[40.0] * 20), paced(*[40.0] * 19, 4000.0)
    low, high = ill.foresee(100, 30.0).low, ill.foresee(100, 30.0).high
    assert low == calm.foresee(100, 30.0).low
    assert high is not None and high > 100 * (30 + 10 + 3960 / 20)


def test_longer_tests_to_come_are_counted_as_long_as_they_are() -> None:
    assert paced(*[40.0] * 5).foresee(10, 600.0).low == pytest.approx(6100)


def test_the_range_holds_what_comes_of_the_same_kind() -> None:
    held = 0
    for seed in range(100):
        draw = random.Random(seed)

        def span(draw: random.Random = draw) -> float:
            return 30 + draw.uniform(3, 6) + (draw.uniform(30, 60) if draw.random() < 0.2 else 0)

        foreseen = paced(*[span() for _ in range(LATEST)]).foresee(500, 30.0)
        assert foreseen.high is not None
        held += foreseen.low <= sum(span() for _ in range(500)) <= foreseen.high
    assert held >= 95


def test_what_the_memory_tells_leaves_halts_out() -> None:
    decided = [(110.0, 5.0), (120.0, 5.0), (9120.0, 5.0), (9130.0, 5.0)]
    pace = remembered(decided, begun=[100.0, 9110.0])
    assert list(pace.spans) == [10.0] * 4 and list(pace.overheads) == [5.0] * 4
    assert list(remembered(decided[1:2], begun=[]).spans) == []
    assert len(remembered([(float(at), 1.0) for at in range(500)], [0.0]).spans) == LATEST
