"""Knows the files that RTI Perftest 3.1 to 4.3 writes; reads one once, in bounded memory and time.

CSV blocks are recognised by their titles and columns by their names, never by line numbers, because both differ
from version to version; where titles were switched off, rows are recognised by their number of fields. JSON is
parse_json.py's, the text of older versions parse_text.py's. Whatever stands in a file, reading it does not raise:
what does not belong there is noted with its line. Pure but for reading; any thread.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from autoperfd.tools.arithmetic import LatencyRows, ThroughputRows
from autoperfd.tools.datafile import (
    CPU,
    LATENCY,
    LATENCY_SUMMARY,
    SERIALIZATION,
    THROUGHPUT,
    THROUGHPUT_SUMMARY,
    DataFile,
    Row,
)
from autoperfd.tools.judging import open_regular
from autoperfd.tools.parse_json import JsonReader, looks_like_json
from autoperfd.tools.parse_text import looks_like_text, read_text_line

MAX_LINE = 4096  # bytes; the longest line of any version has fewer than 300
MAX_FILE = 1 << 30  # bytes that are read
PEEKED = 256  # bytes from which the format is told

TITLE = re.compile(
    rb"(Intervals? One-[Ww]ay Latency for (\d{1,10}) Bytes|Interval Throughput for (\d{1,10}) Bytes"
    rb"|One-[Ww]ay Latency Summary|Throughput Summary):"
)
NUMBERS = b"0123456789., \t"
MOST = 1e20  # no number of a row is as large
LIKE_A_ROW = re.compile(rb"[ \t]*[-+]?(?:\d|,|nan\b|inf\b)", re.IGNORECASE)
UNIT = re.compile(r"\s*\((us|μs|µs|ns|bytes)\)$", re.IGNORECASE)
LATENCY_FILE = b"Sample Number, Value"

BLOCKS = {  # columns -> (kind, is a summary); further columns (CPU, serialization) may follow them
    LATENCY: ("latency", False),
    LATENCY_SUMMARY: ("latency", True),
    THROUGHPUT: ("throughput", False),
    THROUGHPUT_SUMMARY: ("throughput", True),
}


@dataclass(frozen=True, slots=True)
class Header:
    """One line of column titles: the columns by one name for all versions, latencies to be scaled to µs."""

    kind: str  # "latency" or "throughput"
    summary: bool
    columns: tuple[str, ...]
    scale: float = 1.0

    def read(self, line: bytes) -> Row:
        """The values of a row with as many fields as there are columns, latencies in µs."""
        return self.named([float(field) for field in line.split(b",")])

    def named(self, values: Sequence[float]) -> Row:
        """Values with the names of their columns, latencies in µs; percent stay what they are."""
        scale = self.scale if self.kind == "latency" else 1.0
        return {
            column: value if place == 0 or column == CPU else value * scale
            for place, (column, value) in enumerate(zip(self.columns, values, strict=True))
        }


def header(line: bytes) -> Header | None:
    """The header that a line of column titles is; None when it is not one."""
    if b"(Bytes)," not in line:
        return None
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


UNTITLED = {  # fields -> header of rows without titles; of 6 and 7 fields both sides have rows
    8: Header("throughput", False, THROUGHPUT),
    9: Header("throughput", False, (*THROUGHPUT, CPU)),
    10: Header("latency", True, LATENCY_SUMMARY),
    11: Header("latency", True, (*LATENCY_SUMMARY, CPU)),
    13: Header("latency", True, (*LATENCY_SUMMARY, *SERIALIZATION)),
    14: Header("latency", True, (*LATENCY_SUMMARY, *SERIALIZATION, CPU)),
}


def untitled(fields: Sequence[bytes]) -> Header | None:
    """What a row without titles is: by its number of fields, and whether latencies or samples come second."""
    count = len(fields)
    if count in (6, 7):
        more = (CPU,) if count == 7 else ()
        # A subscriber's summary has whole samples and lost percent with decimals.
        if b"." not in fields[1] and b"." in fields[5]:
            return Header("throughput", True, (*THROUGHPUT_SUMMARY, *more))
        return Header("latency", False, (*LATENCY, *more))
    return UNTITLED.get(count)


def read(path: Path) -> DataFile:
    """All that stands in a data file."""
    file = open_regular(path)
    if file is None:
        return DataFile()
    with file:
        start = file.read(PEEKED)
        file.seek(0)
        if looks_like_json(start):
            return JsonReader().read(file, MAX_FILE)
        return _read_lines(file, looks_like_text(start))


def _read_lines(file: BinaryIO, text: bool) -> DataFile:
    reader = _Reader(text)
    size = 0
    while size < MAX_FILE:
        line = file.readline(MAX_LINE)
        if not line:
            break
        size += len(line)
        reader.take(line)
    else:
        reader.data.too_large = True
    reader.data.size = size
    return reader.end()


class _Reader:
    """One pass over the lines of a file."""

    def __init__(self, text: bool) -> None:
        self.data = DataFile(size=0, format="text" if text else "")
        self._text = text
        self._number = 0
        self._header: Header | None = None
        self._untitled = False
        self._title: bytes = b""  # read, and its columns not yet
        self._titled = False  # any title or header was read
        self._last: tuple[Header, Sequence[float]] | None = None
        self._live: tuple[Header, Sequence[float]] | None = None
        self._total = self._lost = 0.0  # of the throughput row before, which no later one may fall below
        self._rows: LatencyRows | ThroughputRows | None = None
        self._whole = True  # the line before ended

    def take(self, line: bytes) -> None:
        """Takes the next line, or the next part of one that is too long."""
        begins, self._whole = self._whole, line[-1:] == b"\n"
        if not begins:
            return
        self._number += 1
        if not self._whole:
            if len(line) == MAX_LINE:
                self._bad(line)
            return
        text = line.rstrip(b"\r\n")
        if not text.translate(None, NUMBERS):
            if not text.strip():
                return
            fields = text.split(b",")
            if len(fields) > 1:
                try:
                    values = list(map(float, fields))
                except ValueError:
                    values = []
                if values and max(values) < MOST:
                    self._row(text, fields, values)
                    return
        self._other(text)

    def _other(self, text: bytes) -> None:
        """A line that is no row."""
        data = self.data
        if self._text and read_text_line(data, self._number, text):
            return
        if self._untitled and (TITLE.fullmatch(text) or header(text)):
            data.note(self._number, "LAYOUT", text)
            self._untitled = False
        if new := header(text):
            self._begin(new, text)
        elif title := TITLE.fullmatch(text):
            if self._title:
                data.note(self._number, "LAYOUT", text)
            self._title, self._titled = text, True
            self._header = None  # its own column titles follow
            if length := title[2] or title[3]:
                data.of_length(int(length))
        elif text == LATENCY_FILE and not self._titled:
            self._header = Header("latency file", False, ("sample number", "value"))
            data.kinds.add("latency file")
            data.format, self._titled = "latency file", True
        elif b"\0" in text or LIKE_A_ROW.match(text):
            self._bad(text)
        else:
            data.foreign(self._number, text)

    def _begin(self, new: Header, text: bytes) -> None:
        """The column titles of a block. Its own title may be missing above: 3.3.0 was seen to print none."""
        data = self.data
        title, self._title = self._title, b""
        wanted = b"Latency" if new.kind == "latency" else b"Throughput"
        if title and (wanted not in title or (b"Summary" in title) != new.summary):
            data.note(self._number, "LAYOUT", text)
        self._titled = True
        data.format = data.format or "CSV"
        self._begins(new)

    def _begins(self, new: Header) -> None:
        """Rows of another kind follow."""
        data = self.data
        data.kinds.add(new.kind)
        self._header = new
        self._finish()
        if not new.summary:
            if data.summaries and not data.headers:
                data.note(self._number, "LAYOUT", "rows after their summary")
            data.headers += 1
            self._total = self._lost = 0.0
            self._rows = None

    def _finish(self) -> None:
        if isinstance(self._rows, ThroughputRows):
            self._rows.finish()

    def end(self) -> DataFile:
        """What was read, when there is no more."""
        data = self.data
        data.cut = not self._whole
        self._finish()
        data.last = self._last[0].named(self._last[1]) if self._last else data.last
        data.live = self._live[0].named(self._live[1]) if self._live else data.live
        return data

    def _row(self, text: bytes, fields: Sequence[bytes], values: Sequence[float]) -> None:
        header = self._header
        if self._untitled or (header is None and not self._titled):
            header = self._unnamed(fields)
        if header is None or len(values) != len(header.columns):
            self._bad(text)
        elif header.summary:
            self._summary(header, text, values)
        elif header.kind == "throughput":
            self._throughput(header, text, values)
        elif header.kind == "latency":
            self._latency(header, fields, values)
        elif self._last and values[0] != self._last[1][0] + 1:
            self._bad(text)  # the numbers of a latency file follow each other
        else:
            self.data.rows += 1
            self._last = (header, values)

    def _latency(self, header: Header, fields: Sequence[bytes], values: Sequence[float]) -> None:
        data = self.data
        data.rows += 1
        if values[0] not in data.lengths:
            data.of_length(values[0])
        self._last = (header, values)
        rows = self._rows
        if not isinstance(rows, LatencyRows):
            rows = self._rows = LatencyRows(data, decimals=b"." in fields[1])
        rows.take(values, self._number)

    def _throughput(self, header: Header, text: bytes, values: Sequence[float]) -> None:
        data = self.data
        if self._runs_backwards(values[1], values[6]):
            self._bad(text)
            return
        data.rows += 1
        data.of_length(values[0])
        data.idle_rows += 1
        self._last = (header, values)
        if values[2]:
            self._live, data.idle_rows = self._last, 0
        if not isinstance(self._rows, ThroughputRows):
            self._rows = ThroughputRows(data)
        self._rows.take(values, self._number)

    def _summary(self, header: Header, text: bytes, values: Sequence[float]) -> None:
        if header.kind == "throughput" and self._runs_backwards(values[1], values[4]):
            self._bad(text)
            return
        self.data.sum_up(header.named(values))
        named = dict(zip(header.columns, values, strict=True))
        if header.kind == "latency":
            latencies = self._rows if isinstance(self._rows, LatencyRows) else LatencyRows(self.data, decimals=False)
            if named["length"]:
                latencies.end(named, self._number)
        else:
            throughputs = self._rows if isinstance(self._rows, ThroughputRows) else ThroughputRows(self.data)
            throughputs.end(named, self._number)

    def _unnamed(self, fields: Sequence[bytes]) -> Header | None:
        """The header of a row in a file without titles."""
        data = self.data
        before, new = self._header, untitled(fields)
        if new is None or (before is not None and not before.summary and before.columns == new.columns):
            return new
        self._untitled = True
        data.format = "CSV without titles"
        self._begins(new)
        return new

    def _runs_backwards(self, total: float, lost: float) -> bool:
        """Whether a row's totals, which only grow, are less than those before; a summary's are the last."""
        before, before_lost = self._total, self._lost
        self._total, self._lost = total, lost
        return total < before or lost < before_lost

    def _bad(self, text: bytes) -> None:
        self.data.note(self._number, "BAD_DATA", text)
