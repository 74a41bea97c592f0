"""Knows the CSV that RTI Perftest 3.1 to 4.3 writes; reads a file once, in bounded memory and time.

Blocks are recognised by their titles and columns by their names, never by line numbers, because both differ
from version to version. Whatever stands in a file, reading it does not raise: what does not belong there is
noted with its line. Pure but for reading; any thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autoperfd.tools.judging import open_regular, printable

MAX_LINE = 4096  # bytes; the longest line of any version has fewer than 300
MAX_FILE = 1 << 30  # bytes that are read

TITLE = re.compile(
    rb"(?:Intervals? One-[Ww]ay Latency for \d+ Bytes|Interval Throughput for \d+ Bytes"
    rb"|One-[Ww]ay Latency Summary|Throughput Summary):"
)
ROW = re.compile(rb"[ \t]*\d{1,20}(?:\.\d{1,9})?(?:,[ \t]*\d{1,20}(?:\.\d{1,9})?)+")
LIKE_A_ROW = re.compile(rb"[ \t]*[-+]?(?:\d|,|nan\b|inf\b)", re.IGNORECASE)
UNIT = re.compile(r"\s*\((us|μs|µs|ns|bytes)\)$", re.IGNORECASE)

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
BLOCKS = {  # columns -> (kind, is a summary); further columns (CPU, serialization) may follow them
    LATENCY: ("latency", False),
    LATENCY_SUMMARY: ("latency", True),
    THROUGHPUT: ("throughput", False),
    THROUGHPUT_SUMMARY: ("throughput", True),
}

Row = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Header:
    """One line of column titles: the columns by one name for all versions, latencies to be scaled to µs."""

    kind: str  # "latency" or "throughput"
    summary: bool
    columns: tuple[str, ...]
    scale: float

    def read(self, line: bytes) -> Row:
        """The values of a row with as many fields as there are columns, latencies in µs."""
        values = [float(field) for field in line.split(b",")]
        scale = self.scale if self.kind == "latency" else 1.0
        return {
            column: value if place == 0 else value * scale
            for place, (column, value) in enumerate(zip(self.columns, values, strict=True))
        }


@dataclass(slots=True)
class DataFile:
    """What stands in one data file. Line numbers from 1; 0: there is none. `size` -1: there is no such file."""

    size: int = -1
    rows: int = 0  # interval rows
    headers: int = 0  # interval headers: more than one are several results in one file
    kinds: set[str] = field(default_factory=set)
    lengths: set[int] = field(default_factory=set)  # of the summaries and of the last interval row
    last: Row | None = None  # the last interval row
    idle_rows: int = 0  # of a subscriber, after the last in which something was received
    live: Row | None = None  # the last interval row of a subscriber in which something was received
    summaries: list[Row] = field(default_factory=list)
    bad_line: int = 0  # the first line that is a spoilt row
    bad_text: str = ""
    foreign_lines: int = 0  # lines of somebody else's text
    foreign_line: int = 0  # the first of them
    foreign_text: str = ""
    cut: bool = False  # the last line does not end
    too_large: bool = False  # not read to its end
    legacy: bool = False  # the text format of Perftest 3.0.1 and older

    @property
    def present(self) -> bool:
        """Whether there is such a file."""
        return self.size >= 0

    @property
    def idle_at_end(self) -> bool:
        """Whether a subscriber's last whole row shows that nothing was received any more."""
        return self.last is not None and self.last.get("samples/s") == 0


def header(line: bytes) -> Header | None:
    """The header that a line of column titles is; None when it is not one."""
    fields = [field.strip() for field in line.decode("utf-8", "replace").split(",")]
    units = [match.group(1).lower() for field in fields if (match := UNIT.search(field))]
    columns = tuple(_column(field) for field in fields)
    for known, (kind, summary) in BLOCKS.items():
        if columns[: len(known)] == known:
            return Header(kind, summary, columns, 0.001 if "ns" in units else 1.0)
    return None


def _column(title: str) -> str:
    """One name for a column, whichever version wrote it."""
    name = UNIT.sub("", title).lower()
    name = "ave" + name[3:] if name == "avg" or name.startswith("avg ") else name
    return "length" if name == "sample size" else name


def read(path: Path) -> DataFile:
    """All that stands in a data file."""
    file = open_regular(path)
    if file is None:
        return DataFile()
    reader = _Reader()
    with file:
        while reader.data.size < MAX_FILE:
            line = file.readline(MAX_LINE)
            if not line:
                break
            reader.take(line)
        else:
            reader.data.too_large = True
    return reader.end()


class _Reader:
    """One pass over the lines of a file."""

    def __init__(self) -> None:
        self.data = DataFile(size=0)
        self._number = 0
        self._header: Header | None = None
        self._last: tuple[Header, bytes] | None = None
        self._live: tuple[Header, bytes] | None = None
        self._total = 0.0  # of the throughput row before, which no later one may fall below
        self._whole = True  # the line before ended

    def take(self, line: bytes) -> None:
        """Takes the next line, or the next part of one that is too long."""
        data = self.data
        data.size += len(line)
        begins, self._whole = self._whole, line.endswith(b"\n")
        if not begins:
            return
        self._number += 1
        if not self._whole and len(line) == MAX_LINE:
            self._bad(line)
            return
        text = line.rstrip(b"\r\n")
        if not self._whole or not text.strip():
            return
        if ROW.fullmatch(text):
            self._row(text)
        elif new := header(text):
            self._header = new
            data.kinds.add(new.kind)
            data.headers += not new.summary
            self._total = self._total if new.summary else 0.0
        elif TITLE.fullmatch(text):
            self._header = None  # its own column titles follow
        elif b"\0" in text or LIKE_A_ROW.match(text):
            self._bad(text)
        else:
            data.legacy = data.legacy or text.startswith(b"********** New data length is")
            data.foreign_lines += 1
            if not data.foreign_line:
                data.foreign_line, data.foreign_text = self._number, _said(text)

    def end(self) -> DataFile:
        """What was read, when there is no more."""
        data = self.data
        data.cut = not self._whole
        data.last = self._last[0].read(self._last[1]) if self._last else None
        data.live = self._live[0].read(self._live[1]) if self._live else None
        data.lengths = {int(row["length"]) for row in [*data.summaries, data.last] if row}
        return data

    def _row(self, text: bytes) -> None:
        header = self._header
        if header is None or text.count(b",") + 1 != len(header.columns):
            self._bad(text)
            return
        if header.kind == "throughput" and self._runs_backwards(text):
            self._bad(text)
        elif header.summary:
            if len(self.data.summaries) < 2:
                self.data.summaries.append(header.read(text))
        else:
            self.data.rows += 1
            self._last = (header, text)
            self.data.idle_rows += 1
            if header.kind == "throughput" and float(text.split(b",", 3)[2]):
                self._live, self.data.idle_rows = self._last, 0

    def _runs_backwards(self, text: bytes) -> bool:
        """Whether a row's total of samples, which only grows, is less than the one before; a summary's is the last."""
        before, self._total = self._total, float(text.split(b",", 2)[1])
        return self._total < before

    def _bad(self, text: bytes) -> None:
        if not self.data.bad_line:
            self.data.bad_line, self.data.bad_text = self._number, _said(text)


def _said(text: bytes) -> str:
    return printable(text[:200].decode("utf-8", "replace"), 60)
