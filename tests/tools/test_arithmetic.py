"""The arithmetic of Perftest's files: a number that was rounded one way or the other at the very middle fits, too."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import pytest

from autoperfd.tools.arithmetic import LatencyRows
from autoperfd.tools.datafile import DataFile

# Their standard deviation is 27.75, which %.1f makes 27.8 of, and of the double just below it 27.7.
TIED = (114, 175, 177, 146, 131, 132, 123, 115, 174, 122, 173, 153, 107, 113, 80, 145)


def misfits(latencies: Sequence[float], last: tuple[float, float], *, decimals: bool) -> list[str]:
    """What is wrong with rows of these latencies. `last`: average and deviation of the last; all others are right."""
    data = DataFile()
    rows = LatencyRows(data, decimals)
    for count in range(1, len(latencies) + 1):
        some = latencies[:count]
        mean = sum(some) / count
        deviation = sqrt(sum((x - mean) ** 2 for x in some) / count)
        printed = (round(mean, 3), round(deviation, 3)) if decimals else (round(mean), round(deviation, 1))
        ave, std = last if count == len(latencies) else printed
        rows.take((100, some[-1], ave, std, min(some), max(some)), count)
    return [wrong.text for wrong in data.wrong]


@pytest.mark.parametrize("std", [27.7, 27.8])
def test_a_deviation_in_the_very_middle_may_be_rounded_either_way(std: float) -> None:
    mean = sum(TIED) / len(TIED)
    assert misfits(TIED, (round(mean), std), decimals=False) == []


@pytest.mark.parametrize("std", [27.6, 27.9])
def test_a_deviation_beyond_that_does_not_fit(std: float) -> None:
    mean = sum(TIED) / len(TIED)
    (note,) = misfits(TIED, (round(mean), std), decimals=False)
    assert f"its standard deviation is not {std:g}" in note


@pytest.mark.parametrize("pair", [(1.0, 1.001), (7.001, 7.002), (64.25, 64.251), (1234.567, 1234.568)])
@pytest.mark.parametrize("up", [0, 0.001])
def test_an_average_in_the_very_middle_may_be_rounded_either_way(pair: tuple[float, float], up: float) -> None:
    assert misfits(pair, (round(pair[0] + up, 3), 0.0005), decimals=True) == []
    assert misfits(pair, (round(pair[0] + 0.003, 3), 0.0005), decimals=True) != []
