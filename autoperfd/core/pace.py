"""Knows how long tests take in practice and foresees the rest as a range, outages so far included. Pure; any thread."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

LATEST = 50  # latest tests from which is foreseen
SURE = 3  # tests from which on the range has an upper end


@dataclass(frozen=True, slots=True)
class Foreseen:
    """Seconds that the rest takes.

    `low`: as most tests go; `high`: with as many retries, reboots and outages as so far. None: too little is known yet.
    """

    low: float
    high: float | None

    @property
    def middle(self) -> float:
        """One number for those who want one."""
        return self.low if self.high is None else (self.low + self.high) / 2


@dataclass(slots=True)
class Pace:
    """What the latest tests took beyond the seconds they measure: starts, reboots, retries, waiting for machines."""

    overheads: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    spans: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))

    def note(self, span: float, measured: float) -> None:
        """A test was decided `span` seconds after the one before; of these it should measure for `measured`."""
        self.spans.append(span)
        self.overheads.append(max(0.0, span - measured))

    def per_hour(self) -> float | None:
        """How many tests are decided in an hour; None: not known yet."""
        total = math.fsum(self.spans)
        return len(self.spans) * 3600 / total if total > 0 else None

    def foresee(self, tests: int, measured: float) -> Foreseen:
        """What `tests` more tests take that measure for `measured` seconds each on average."""
        n = len(self.overheads)
        if not n:
            return Foreseen(tests * measured, None)
        mean = math.fsum(self.overheads) / n
        usual = min(mean, median(self.overheads))
        if n < SURE:
            return Foreseen(tests * (measured + usual), None)
        spread = math.sqrt(math.fsum((x - mean) ** 2 for x in self.overheads) / (n - 1))
        error = spread * math.sqrt(1 / n + 1 / max(1, tests))  # of the mean so far, and of those to come
        return Foreseen(tests * (measured + usual), tests * (measured + mean + 2 * error))


def remembered(decided: Iterable[tuple[float, float]], begun: Iterable[float]) -> Pace:
    """The pace that the memory tells: `decided`, when tests were and for how long each measures; `begun`: when work
    began or went on after a halt, for what lies between such a moment and the verdict before it is no test's time.
    """
    pace, starts = Pace(), sorted(begun)
    before: float | None = None
    for at, measured in sorted(decided):
        since = max((start for start in starts if start <= at), default=None)
        if before is not None and (since is None or since <= before):
            since = before
        if since is not None:
            pace.note(at - since, measured)
        before = at
    return pace
