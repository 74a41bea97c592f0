"""Knows when people are summed up to, and what of: once a day, at an hour in UTC, by choice.

Promises: at most one summary for a day, whatever restarts, crashes and clock steps there are, for the day's mark is
committed with the message; a daemon that was off at the hour makes good for it later that day. Engine thread.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from autoperfd.core.lifecycle import BUSY
from autoperfd.daemon import condition, views
from autoperfd.daemon.engine import Engine
from autoperfd.daemon.message import Fact
from autoperfd.daemon.store import SaveMeta
from autoperfd.daemon.views import ExperimentView

KEY = "digest"  # of the mark in the memory
LOOK_SECS = 5.0
MOST_LINES = 15  # experiments that are told of by name
MOST_DAYS = 32  # that are remembered: a clock that is set back to one of them brings it no second summary

Counts = tuple[int, int, int]  # tests that are ok, failed and skipped


@dataclass(frozen=True, slots=True)
class Mark:
    """The latest summary: the days that had one, newest first, when it was, and how far each experiment was."""

    days: tuple[str, ...] = ()
    at: float = 0.0  # Unix seconds
    counts: Mapping[str, Counts] = field(default_factory=dict)

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps({"days": self.days, "at": self.at, "counts": self.counts})


def read_mark(words: str) -> Mark | None:
    """The mark that was kept; None: there is none that is understood."""
    try:
        raw = json.loads(words)
        counts = {
            str(name): (int(ok), int(failed), int(skipped)) for name, (ok, failed, skipped) in raw["counts"].items()
        }
        days = tuple(date.fromisoformat(day).isoformat() for day in raw["days"][:MOST_DAYS])
        at = float(raw["at"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    return Mark(days, at, counts) if math.isfinite(at) else None


def due(hour: str, now: float, days: Collection[str]) -> str:
    """The day (ISO, UTC) that a summary is due for now; "" for none. `hour`: "HH:MM"; `days`: those that had one."""
    moment = datetime.fromtimestamp(now, UTC)
    today = moment.date().isoformat()
    return "" if moment.strftime("%H:%M") < hour or today in days else today


class Digest:
    """Summaries of one engine."""

    def __init__(self, engine: Engine, hour: str) -> None:
        self._engine, self._hour = engine, hour
        self._mark = read_mark(engine.digested)
        self._look_at = 0.0  # monotonic

    def look(self) -> None:
        """Whether it is time, and if so, sum up. Raises StoreError."""
        clock = self._engine.clock
        if clock.monotonic() < self._look_at:
            return
        self._look_at = clock.monotonic() + LOOK_SECS
        now, mark = clock.wall(), self._mark
        day = due(self._hour, now, mark.days if mark else ())
        if mark is not None and not day:
            return
        experiments = [condition.experiment(self._engine, entry) for entry in self._engine.entries.values()]
        counts = {e.name: (e.succeeded, e.failed, e.skipped) for e in experiments}
        # Without a mark it was only now wished for: what was before is nothing that happened since the last one.
        facts = summed_up(mark, experiments, now) if mark else None
        days = [day, *(mark.days if mark else ())] if day else ()
        fresh = Mark(tuple(days[:MOST_DAYS]), now, counts)
        self._engine.tell(KEY, facts, SaveMeta(KEY, fresh.to_json()))
        self._mark = fresh


def summed_up(mark: Mark, experiments: Sequence[ExperimentView], now: float) -> dict[str, Fact] | None:
    """What happened since the mark and how things stand; None where nothing happened and nothing is under way."""
    since = {e.name: _since(e, mark.counts.get(e.name, (0, 0, 0))) for e in experiments}
    told = [e for e in experiments if e.state in (*BUSY, "halted") or any(since[e.name])]
    if not told:
        return None
    told.sort(key=lambda e: views.rank(e.state, e.outcome))
    lines = [_line(e, since[e.name], now) for e in told[:MOST_LINES]]
    if len(told) > MOST_LINES:
        lines.append(f"{len(told) - MOST_LINES} more: autoperfctl list")
    ok, failed, skipped = (sum(counts[at] for counts in since.values()) for at in range(3))
    halted = [e.name for e in told if e.state == "halted"]
    ends = [now + e.remaining_secs for e in told if e.remaining_secs is not None]
    return {
        "experiment": "all experiments",
        "sentence": "\n".join([f"{_counted((ok, failed, skipped))} since {views.clock(mark.at)}", *lines]),
        "todo": "See to what is halted: autoperfctl status" if halted else "",
        "since": views.iso(mark.at),
        "succeeded": ok,
        "failed": failed,
        "skipped": skipped,
        "halted": halted,
        "eta": views.iso(max(ends)) if ends else None,
    }


def _since(e: ExperimentView, then: Counts) -> Counts:
    """How many tests of each kind came since; a test that was tried again may have taken one away."""
    return max(0, e.succeeded - then[0]), max(0, e.failed - then[1]), max(0, e.skipped - then[2])


def _counted(counts: Counts) -> str:
    ok, failed, skipped = counts
    more = f", {skipped} skipped" if skipped else ""
    return f"{views.count(sum(counts), 'test')} done: {ok} ok, {failed} failed{more}"


def _line(e: ExperimentView, since: Counts, now: float) -> str:
    words = f"{e.name}: {views.state(e)}, {views.of(e)} tests done"
    if any(since):
        words += f" ({_counted(since)} since then)"
    if e.state == "halted":
        return f"{words}; {e.halted_reason}"
    if e.remaining_low_secs is None:
        return words
    low, high = (
        None if secs is None else views.clock(now + secs) for secs in (e.remaining_low_secs, e.remaining_high_secs)
    )
    return f"{words}; ends between {low} and {high}" if high else f"{words}; ends not before {low}"
