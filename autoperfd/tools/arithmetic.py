"""Knows how the numbers of a Perftest file follow from each other, and checks it row by row in constant memory.

A publisher's averages, deviations, minima, maxima and percentiles are those of the latencies it printed; a subscriber's
rates, averages and percentages are those of its totals. Both were found exact, to the printed digit, in real files of
versions 3.3 to 4.1.1. A row that does not fit was changed, lost, doubled or moved. Pure; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from autoperfd.tools.datafile import LATENCY_SUMMARY, DataFile, Row

MOST_VALUES = 1 << 16  # different latencies that are counted; with more of them percentiles are not checked
PERCENTS = tuple((name, float(name[:-1]) / 100) for name in LATENCY_SUMMARY[5:])
ROUNDED = 1e-9  # what binary fractions add to a rounding, relative


class LatencyRows:
    """The rows of one publisher's block; `decimals` is true where latencies are printed with three of them."""

    def __init__(self, data: DataFile, decimals: bool) -> None:
        self._data = data
        self._half, self._half_std = (0.0005, 0.0005) if decimals else (0.5, 0.05)
        self._count, self._sum, self._squares = 0, 0.0, 0.0
        self._low, self._high = float("inf"), 0.0
        self._seen: dict[float, int] | None = {}
        self._other: float | None = None  # a first latency that was perhaps counted but not printed
        self._fits = True

    def take(self, values: Sequence[float], line: int) -> None:
        """The next row: length, latency, and what it says of all latencies so far."""
        if not self._fits:
            return
        _, x, ave, std, low, high = values[:6]
        if not self._count:
            self._begin(x, low, high)
        self._count += 1
        self._sum += x
        self._squares += x * x
        if x < self._low:
            self._low = x
        if x > self._high:
            self._high = x
        seen = self._seen
        if seen is not None:
            seen[x] = seen.get(x, 0) + 1
            if len(seen) > MOST_VALUES:
                self._seen = None
        if low == self._low and high == self._high:
            mean = self._sum / self._count
            off = ave - mean
            if -self._half <= off <= self._half and self._deviates(mean, std):
                return
        if self._agrees(ave, std, low, high):  # but for what binary fractions add
            return
        misfit = self._misfit(ave, std, low, high)
        if self._count_the_other() and self._agrees(ave, std, low, high):
            return
        self._fits = False
        self._data.note(line, "MISFIT", misfit)

    def end(self, summary: Row, line: int) -> None:
        """The summary: the last row's figures again, and percentiles."""
        values = [summary[name] for name in LATENCY_SUMMARY[5:]]
        if [summary["min"], *values, summary["max"]] != sorted([summary["min"], *values, summary["max"]]):
            self._data.note(line, "MISFIT", "the percentiles of its summary are not in order")
        if not self._count or not self._fits:
            return
        if not self._agrees(*(summary[name] for name in ("ave", "std", "min", "max"))):
            self._data.note(line, "MISFIT", "its summary is not that of its rows")
        elif wrong := self._wrong_percentile(summary):
            self._data.note(line, "MISFIT", f"{wrong} of its summary is not that of its rows")

    def _begin(self, x: float, low: float, high: float) -> None:
        """Up to 4.1.1 the first latency is counted and not printed: the first row's other extreme."""
        if low != high and x in (low, high):
            self._other = high if x == low else low
            self._count_the_other()
        elif x == low == high:
            self._other = x

    def _count_the_other(self) -> bool:
        """Counts the latency that was not printed, if there may be one that is not counted yet."""
        x, self._other = self._other, None
        if x is None:
            return False
        self._count += 1
        self._sum += x
        self._squares += x * x
        self._low, self._high = min(self._low, x), max(self._high, x)
        if self._seen is not None:
            self._seen[x] = self._seen.get(x, 0) + 1
        return True

    def _deviates(self, mean: float, std: float) -> bool:
        """Whether this is the standard deviation of the population."""
        square = self._squares / self._count
        variance = square - mean * mean
        off = std - (sqrt(variance) if variance > 0 else 0.0)
        half = self._half_std
        # In squares, where sums of many latencies are exact; what is just in the middle is rounded either way.
        return -half <= off <= half or abs(std * std - variance) <= (2 * std + half) * half + 1e-12 * square + ROUNDED

    def _agrees(self, ave: float, std: float, low: float, high: float) -> bool:
        mean = self._sum / self._count
        near = abs(ave - mean) <= self._half + ROUNDED * (1 + mean)
        return low == self._low and high == self._high and near and self._deviates(mean, std)

    def _misfit(self, ave: float, std: float, low: float, high: float) -> str:
        mean = self._sum / self._count
        if (low, high) != (self._low, self._high):
            return f"its latencies are from {self._low:g} to {self._high:g} µs so far, not {low:g} to {high:g}"
        if abs(ave - mean) > self._half:
            return f"its latencies are {mean:.1f} µs on average so far, not {ave:g}"
        return f"its standard deviation is not {std:g}"

    def _wrong_percentile(self, summary: Row) -> str:
        """The name of a percentile that another latency of the rows should be; "" for none."""
        if self._seen is None:
            return ""
        wanted = [(name, _places(self._count, share)) for name, share in PERCENTS]
        passed, right = 0, set()
        for value in sorted(self._seen):
            first, passed = passed, passed + self._seen[value]
            for name, places in wanted:
                if summary[name] == value and any(first <= place < passed for place in places):
                    right.add(name)
        return next((name for name, _ in wanted if name not in right), "")


def _places(count: int, share: float) -> tuple[int, ...]:
    """Which of `count` sorted latencies is a percentile; both neighbours where a rounding decides."""
    exact = count * share
    places = {int(exact), int(exact - 1e-6), int(exact + 1e-6)}
    return tuple(min(count - 1, place) for place in places)


STEADY = 50  # samples a second below which a rate, printed without decimals, says little about time
# A row is never younger than a second: of 3,800 real rows the youngest had 1.00004 s. What sets a clock right slowly
# does so with the clock that Perftest sleeps by, too.
SECOND = 0.99999
BEAT = 0.05  # seconds a row may be late in a file that keeps time
MANY, FEW = 8, 3  # rows
RATE_OFF = 1.5  # a rate is cut to a whole number, and an average of such is rounded to one


class ThroughputRows:
    """The rows of one subscriber's block."""

    def __init__(self, data: DataFile) -> None:
        self._data = data
        self._count, self._rates, self._mbps = 0, 0.0, 0.0
        self._total = self._lost = self._secs = 0.0
        self._most = 0.0
        self._gap, self._gaps_rows, self._out_of_time = 0, 0, False
        self._fits = True

    def take(self, values: Sequence[float], line: int) -> None:
        """The next row; a total that falls is a spoilt row's and told as such by the reader."""
        length, total, rate, ave, mbps, ave_mbps, lost, percent = values[:8]
        self._count += 1
        self._rates += rate
        self._mbps += mbps
        grown = total - self._total
        secs = grown / rate if rate >= STEADY and self._count > 1 else 1.0
        if self._fits and (why := self._why(length, ave, rate, mbps, ave_mbps, total, lost, percent, grown)):
            self._fits = False
            self._data.note(line, "MISFIT", why)
        self._time(secs, grown, rate, line)
        self._total, self._lost = total, lost

    def _why(
        self,
        length: float,
        ave: float,
        rate: float,
        mbps: float,
        ave_mbps: float,
        total: float,
        lost: float,
        percent: float,
        grown: float,
    ) -> str:
        """What does not fit in a row; "" when all does."""
        bits = length * 8e-6
        mean = self._rates / self._count
        if not _near(ave, mean, 0.51):
            return f"its rate is {mean:.0f} samples/s on average so far, not {ave:g}"
        if not -0.051 - bits / 2 <= mbps - rate * bits <= 0.051 + bits:  # a rate is cut, or at the most rounded
            return f"{rate:g} samples/s of {length:g} bytes are not {mbps:g} Mbps"
        if not _near(ave_mbps, self._mbps / self._count, 0.101) or not _near(
            ave_mbps, ave * bits, 0.051 + bits * RATE_OFF
        ):
            return f"its rate is {self._mbps / self._count:.1f} Mbps on average so far, not {ave_mbps:g}"
        if not _near(percent, _percent(lost, total), 0.0051):
            return f"{lost:g} lost samples beside {total:g} are not {percent:g} %"
        if self._count > 1 and (grown < SECOND * rate - 0.5 or (rate == 0 and grown > 3)):
            return f"its total grows by {grown:g} at {rate:g} samples/s"
        return ""

    def _time(self, secs: float, grown: float, rate: float, line: int) -> None:
        """How long a row lasted, by its total and its rate. One that is gone leaves a row of two seconds and as many
        samples too many as a row has; a computer that was held up leaves any number, and seldom only once."""
        self._secs += secs
        self._most = max(self._most, rate)
        if secs <= 1 + BEAT:
            return
        rows = (grown - rate) * self._count / self._rates
        if rows > 0.8 and abs(rows - round(rows)) < 0.15:
            self._gap = self._gap or line
            self._gaps_rows += round(rows)
        else:
            self._out_of_time = True

    @property
    def _keeps_time(self) -> bool:
        """Whether the rows are many enough, and even enough, to say that one is missing."""
        return self._count >= MANY and not self._out_of_time

    def _seconds_left(self) -> float:
        """Samples of how many seconds may be in the summary only: less than one, more where little is known."""
        if self._keeps_time:
            return 1.25
        return 1.9 if self._count >= FEW and not self._out_of_time else float("inf")

    def finish(self) -> None:
        """No row follows."""
        if self._gap and self._keeps_time:
            self._data.note(self._gap, "ROW_MISSING", f"rows before this one are gone: {self._gaps_rows}")

    def end(self, summary: Row, line: int) -> None:
        """The summary: of the same samples and of those of the last part of a second."""
        why = self._summary(*(summary[name] for name in THROUGHPUT_ENDS))
        if why:
            self._data.note(line, "MISFIT", why)

    def _summary(self, length: float, total: float, ave: float, mbps: float, lost: float, percent: float) -> str:
        bits = length * 8e-6
        if not _near(mbps, ave * bits, 0.051 + bits * RATE_OFF):
            return f"{ave:g} samples/s of {length:g} bytes are not {mbps:g} Mbps in its summary"
        if not _near(percent, _percent(lost, total), 0.0051):
            return f"{lost:g} lost samples beside {total:g} are not {percent:g} % in its summary"
        if not self._count or not self._fits:
            return ""
        if total < self._total or lost < self._lost:
            return f"its summary tells of {total:g} samples and {lost:g} lost, its last row of more"
        rest = total - self._total
        if self._most >= STEADY and rest > self._seconds_left() * self._most:
            return f"its summary tells of {rest:g} samples more than its last row, at {self._most:g} a second at most"
        if ave >= 1:
            secs, unsure = total / ave, 1 + RATE_OFF * total / ave / ave
            if not self._secs - 1 - unsure <= secs <= 1.02 * self._secs + 6 + unsure:
                return f"its summary is about {secs:.0f} s, its rows about {self._secs:.0f}"
        return ""


THROUGHPUT_ENDS = ("length", "total samples", "ave samples/s", "ave mbps", "lost samples", "lost samples (%)")


def _near(printed: float, exact: float, off: float) -> bool:
    return abs(printed - exact) <= off + ROUNDED * exact


def _percent(lost: float, received: float) -> float:
    return 100 * lost / (lost + received) if lost + received else 0.0
