"""What one line of the bench says, how it is judged and how the table is drawn. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

HEADINGS = ("figure", "ours", "peer", "", "goal", "measured", "met")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure beside its peer. Either the ratio to the peer is limited, or (`alone`) our own value."""

    figure: str
    ours: float | None
    unit: Literal["ms", "s", "MB/s", "MB", "%"]
    peer: str
    theirs: float | None  # in the same unit; None: not there
    limit: float | None  # None: shown for information
    alone: bool = False  # the limit is in the unit, not a ratio
    more_is_better: bool = False
    note: str = ""  # a sentence below the table

    @property
    def measured(self) -> float | None:
        """What the limit applies to; None where something is missing."""
        if self.ours is None:
            return None
        if self.alone:
            return self.ours
        return self.ours / self.theirs if self.theirs else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or it cannot be told."""
        if self.limit is None or self.measured is None:
            return None
        return self.measured >= self.limit if self.more_is_better else self.measured <= self.limit


def cells(row: Row) -> tuple[str, ...]:
    """A row as words, in the order of HEADINGS."""
    sign = ("≥" if row.more_is_better else "≤") if row.limit is not None else ""
    if row.limit is None:
        goal = ""
    elif row.alone:
        goal = f"{sign} {_number(row.limit)} {row.unit}"
    else:
        goal = f"{sign} {row.limit:g} ×"
    measured = "" if row.measured is None or row.alone else f"{row.measured:.2f} ×"
    met = {True: "yes", False: "NO", None: "" if row.limit is None else "?"}[row.met]
    return (row.figure, _value(row.ours, row.unit), row.peer, _value(row.theirs, row.unit), goal, measured, met)


def table(rows: Sequence[Row]) -> str:
    """All rows as aligned text, the notes below, each with the number that stands at its row's end."""
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    lines = [HEADINGS, *(cells(row) for row in rows)]
    marks = ["", *(f"[{notes.index(row.note) + 1}]" if row.note else "" for row in rows)]
    widths = [max(len(words[i]) for words in lines) for i in range(len(HEADINGS))]
    right = {1, 3, 5}
    drawn = []
    for words, mark in zip(lines, marks, strict=True):
        padded = [w.rjust(n) if i in right else w.ljust(n) for i, (w, n) in enumerate(zip(words, widths, strict=True))]
        drawn.append("  ".join([*padded, mark]).rstrip())
    return "\n".join([*drawn, *(f"[{i}] {note}" for i, note in enumerate(notes, 1))])


def in_turn(rounds: int, works: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Each work's median over `rounds`, one after the other in every round, first forwards, then backwards."""
    values: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name in list(works)[:: 1 if number % 2 == 0 else -1]:
            values[name].append(works[name]())
    return {name: statistics.median(found) for name, found in values.items()}


def _value(value: float | None, unit: str) -> str:
    return "missing" if value is None else f"{_number(value)} {unit}"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"
