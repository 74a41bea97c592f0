"""Knows what can stand in a data file of Perftest, whatever its format: rows, summaries, and what is wrong with them.

One shape for CSV with and without titles, JSON, the text of old versions and latency files; only what is needed to
judge and to give figures is kept, so that a file of any size takes the same memory. Pure; any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autoperfd.tools.judging import printable

MOST_WRONG = 20  # places of a file that are told; all are counted
MOST_SUMMARIES = 64  # of one file that are kept; a healthy one has one
MOST_LENGTHS = 64  # different sample lengths of one file that are kept

Row = Mapping[str, float]
"""Column -> value. Columns have one name for all versions and formats; those nobody knows keep their own, in lower
case. Latencies are in µs. Versions 4.0 to 4.2 built with the nanosecond clock write nanoseconds under a title that
says µs: no file can tell, so their latencies are a thousandfold too large."""

LATENCY = ("length", "latency", "ave", "std", "min", "max")
LATENCY_SUMMARY = ("length", "ave", "std", "min", "max", "50%", "90%", "99%", "99.99%", "99.9999%")
THROUGHPUT = (
    "length",
    "total samples",
    "samples/s",
    "ave samples/s",
    "mbps",
    "ave mbps",
    "lost samples",
    "lost samples (%)",
)
THROUGHPUT_SUMMARY = (
    "length",
    "total samples",
    "ave samples/s",
    "ave mbps",
    "lost samples",
    "lost samples (%)",
)
CPU, SERIALIZATION = "cpu (%)", ("serialization", "deserialization", "total")


@dataclass(frozen=True, slots=True)
class Wrong:
    """One place of a file where something is wrong. `code`: BAD_DATA, LAYOUT, MISFIT or ROW_MISSING."""

    line: int  # from 1
    code: str
    text: str  # printable: the line itself, or a clause that says what does not fit


@dataclass(slots=True)
class DataFile:
    """What stands in one data file. Line numbers from 1; 0: there is none. `size` -1: there is no such file."""

    size: int = -1
    format: str = ""  # "CSV", "CSV without titles", "JSON", "JSON as printed", "text" or "latency file"; "": none
    rows: int = 0  # interval rows
    headers: int = 0  # blocks of interval rows that began: more than one are several results in one file
    kinds: set[str] = field(default_factory=set)  # "latency" (a publisher's), "throughput", "latency file"
    lengths: set[int] = field(default_factory=set)  # of samples, by titles, every row and every summary
    last: Row | None = None  # the last interval row
    idle_rows: int = 0  # of a subscriber, after the last in which something was received
    live: Row | None = None  # the last interval row of a subscriber in which something was received
    summaries: list[Row] = field(default_factory=list)  # the first MOST_SUMMARIES
    wrong: list[Wrong] = field(default_factory=list)  # the first MOST_WRONG places
    wrong_count: int = 0
    foreign_lines: int = 0  # lines of somebody else's text
    foreign_line: int = 0  # the first of them
    foreign_text: str = ""
    cut: bool = False  # the last line does not end, or the last bracket of JSON is not closed
    too_large: bool = False  # not read to its end

    @property
    def present(self) -> bool:
        """Whether there is such a file."""
        return self.size >= 0

    @property
    def idle_at_end(self) -> bool:
        """Whether a subscriber's last whole row shows that nothing was received any more."""
        return self.last is not None and self.last.get("samples/s") == 0

    @property
    def bad_line(self) -> int:
        """The line of the first spoilt row or misplaced title."""
        return next((wrong.line for wrong in self.wrong if wrong.code in ("BAD_DATA", "LAYOUT")), 0)

    @property
    def bad_text(self) -> str:
        """What stands there."""
        return next((wrong.text for wrong in self.wrong if wrong.code in ("BAD_DATA", "LAYOUT")), "")

    def first(self, code: str) -> Wrong | None:
        """The first place where this is wrong."""
        return next((wrong for wrong in self.wrong if wrong.code == code), None)

    def note(self, line: int, code: str, text: str | bytes) -> None:
        """Something wrong: counted, and kept if it is among the first of the file or the first of its kind."""
        self.wrong_count += 1
        if len(self.wrong) < MOST_WRONG or (len(self.wrong) < 2 * MOST_WRONG and self.first(code) is None):
            self.wrong.append(Wrong(line, code, said(text) if isinstance(text, bytes) else text))

    def foreign(self, line: int, text: bytes) -> None:
        """A line of somebody else's text."""
        self.foreign_lines += 1
        if not self.foreign_line:
            self.foreign_line, self.foreign_text = line, said(text)

    def of_length(self, length: float) -> None:
        """A sample length that something in the file is about."""
        if len(self.lengths) < MOST_LENGTHS:
            self.lengths.add(int(length))

    def sum_up(self, row: Row) -> None:
        """A summary."""
        if len(self.summaries) < MOST_SUMMARIES:
            self.summaries.append(row)
        self.of_length(row["length"])


def said(text: bytes) -> str:
    """A line of a file, to be shown."""
    return printable(text[:200].decode("utf-8", "replace"), 60)
