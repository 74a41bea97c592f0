"""The bounds that tests set themselves: each fails where it should, and nowhere else."""

from __future__ import annotations

import sys

import pytest

from tests.bounds import at_most, least_cpu_secs


def _lines(count: int) -> int:
    total = 0
    for number in range(count):
        total += number
    return total


@pytest.mark.parametrize("work", [_lines, lambda count: [_ for _ in range(count)]])
def test_more_lines_than_allowed_fail(work: object) -> None:
    assert callable(work)
    before = sys.gettrace()
    with at_most(1000):
        work(100)
    with pytest.raises(AssertionError, match="lines of Python ran"), at_most(1000):
        work(10_000)
    assert sys.gettrace() is before


def test_one_slow_try_is_not_held_against_it() -> None:
    slow = [200_000, 0, 0]
    least = least_cpu_secs(lambda: _lines(slow.pop(0)), 1e-3)
    assert least < 1e-3 and len(slow) < 3
    assert least_cpu_secs(lambda: _lines(200_000), 1e-3) >= 1e-3
