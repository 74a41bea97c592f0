"""What a person wants to know of an experiment and its life does not hold: pace, latest ends, reasons, changes.

Read back from the latest rows of the memory at start, then kept by what happens; costs the same at any length. Engine
thread.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from autoperfd.core import messages as m
from autoperfd.core.lifecycle import Step
from autoperfd.core.names import parse_name
from autoperfd.core.pace import LATEST, Pace, remembered
from autoperfd.core.survey import Difference, differences
from autoperfd.core.sweep import Sweep
from autoperfd.daemon.store import Store

ENDS = 40  # of attempts, shown in one line
FAILURES = 100  # failed attempts by which reasons are grouped
HISTORY = 400  # latest lines of it that are looked through at start for when work began
SURVEYS = 200  # looked through for what changed on machines
SAMPLES = 50  # tests still to come whose seconds speak for all


class Failure(NamedTuple):
    """Why an attempt did not become a result."""

    test: str
    status: str
    blame: str
    machine: str
    code: str
    reason: str


@dataclass(slots=True)
class Gist:
    """Of one experiment. All of it newest last; `looks_at`: wall time at which a back-off is over."""

    number: int
    pace: Pace = field(default_factory=Pace)
    ends: deque[str] = field(default_factory=lambda: deque(maxlen=ENDS))  # a letter each, see `letter`
    failures: deque[Failure] = field(default_factory=lambda: deque(maxlen=FAILURES))
    changes: list[Difference] = field(default_factory=list)
    looks_at: float = 0.0
    _decided_at: float = 0.0  # monotonic: when the latest test was decided, or work began or went on
    _rest: tuple[int, float] = (-1, 0.0)  # a cursor and what the tests from there on measure on average, in s

    def recall(self, memory: Store) -> None:
        """What the memory still tells of it. Raises StoreError."""
        decided = [(at, measured(test)) for test, at in memory.decided_lately(self.number, LATEST)]
        begun = [line.wall for line in memory.lately(self.number, HISTORY) if line.event == "scheduled"]
        self.pace = remembered(decided, begun)
        self.ends.extend(letter(row.status, row.blame) for row in reversed(memory.latest(self.number, ENDS)))
        for row in reversed(memory.failures(self.number, FAILURES)):
            self.failures.append(Failure(row.test, row.status, row.blame, row.machine, row.code, row.reason))
        self._look_for_changes(memory)

    def note(self, event: m.Event, step: Step, memory: Store) -> None:
        """A step was taken."""
        if step.event == "scheduled":
            self._decided_at = event.now
        if isinstance(step.order, m.Wait):
            self.looks_at = event.wall + step.order.secs
        for change in step.changes:
            match change:
                case m.AttemptOpened():
                    self._look_for_changes(memory)
                case m.AttemptClosed(result=result):
                    self.ends.append(letter(result.end_status, result.blame))
                    if result.end_status != "success":
                        end = (result.end_status, result.blame, result.machine, result.code, result.reason)
                        self.failures.append(Failure(change.test, *end))
                case m.TestDecided():
                    if self._decided_at and change.status != "skipped":
                        self.pace.note(event.now - self._decided_at, measured(change.test))
                    self._decided_at = event.now

    def rest(self, sweep: Sweep, cursor: int) -> float:
        """Seconds that the tests from `cursor` on measure on average, by some that stand for all."""
        if self._rest[0] != cursor:
            left = sweep.count - cursor
            few = min(left, SAMPLES)
            secs = [float(sweep.at(cursor + left * at // few)["duration_secs"]) for at in range(few)]
            self._rest = (cursor, sum(secs) / len(secs) if secs else 0.0)
        return self._rest[1]

    def _look_for_changes(self, memory: Store) -> None:
        self.changes = list(differences(memory.surveys(self.number, SURVEYS)))


def measured(test: str) -> float:
    """Seconds a test measures, by its name."""
    try:
        return float(parse_name(test).get("duration_secs", 0))
    except ValueError:  # of a memory that a person has put together
        return 0.0


def letter(status: str, blame: str) -> str:
    """An attempt's end: + ok, ~ data complete, - skipped, x failed by its own fault, o lost by somebody else's."""
    return {"success": "+", "no-summary": "~", "skipped": "-"}.get(status, "x" if blame == "test" else "o")
