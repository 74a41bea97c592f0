"""Knows the JSON of Perftest, as it should be and as C++ prints it: without its outermost brackets, hence no JSON.

A scan of tokens in bounded memory, whatever the size and however the lines are broken: objects of numbers are read,
everything around them only followed. Never raises for content. Pure but for reading; any thread.
"""

from __future__ import annotations

import re
from typing import BinaryIO

from autoperfd.tools.datafile import CPU, DataFile

CHUNK = 256 << 10  # bytes read at once
MOST_KEYS = 64  # of one object that are kept
MOST_DEPTH = 64  # of brackets; Perftest's are four deep
LONGEST = 256  # bytes of one token

TOKEN = re.compile(
    rb'\s+|[{}\[\]:,]|"(?:[^"\\\n]|\\.){0,200}"|-?\d{1,20}(?:\.\d{1,9})?(?:[eE][-+]?\d{1,2})?(?![\w.])'
    rb"|true\b|false\b|null\b"
)
NAMES = {
    "latency_ave": "ave",
    "latency_std": "std",
    "latency_min": "min",
    "latency_max": "max",
    "latency_50": "50%",
    "latency_90": "90%",
    "latency_99": "99%",
    "latency_99.99": "99.99%",
    "latency_99.9999": "99.9999%",
    "serialize": "serialization",
    "deserialize": "deserialization",
    "total_s": "total",
    "packets": "total samples",
    "packets/s": "samples/s",
    "packets/s_ave": "ave samples/s",
    "packets/sAve": "ave samples/s",
    "mbps_ave": "ave mbps",
    "mbpsAve": "ave mbps",
    "lost": "lost samples",
    "lost_percent": "lost samples (%)",
    "lostPercent": "lost samples (%)",
    "cpu": CPU,
    "CPU": CPU,
}
WHOLE = {  # an object must have these to be a row or a summary
    ("latency", False): ("latency", "ave", "std", "min", "max"),
    ("latency", True): ("ave", "std", "min", "max", "50%", "90%", "99%", "99.99%", "99.9999%"),
    ("throughput", False): ("total samples", "samples/s", "ave samples/s", "mbps", "ave mbps", "lost samples"),
    ("throughput", True): ("total samples", "ave samples/s", "ave mbps", "lost samples", "lost samples (%)"),
}


def looks_like_json(start: bytes) -> bool:
    """Whether a file that begins so is of this format, with or without its outermost brackets."""
    return re.match(rb'\s*(?:\{\s*"|\[\s*\{\s*"|"length"\s*:)', start) is not None


class JsonReader:
    """One pass over one file."""

    def __init__(self) -> None:
        self.data = DataFile(size=0, format="JSON")
        self._line = 1
        self._open: list[tuple[bytes, str, dict[str, float]]] = []  # bracket, its key, numbers of an object
        self._top: dict[str, float] = {}  # numbers outside all brackets: C++ prints them there
        self._key = ""
        self._text = ""  # the last string, a key if a colon follows
        self._printed = False
        self._ended = False

    def read(self, file: BinaryIO, most: int) -> DataFile:
        """All that stands in the file, at most so many bytes of it."""
        data, buffer = self.data, b""
        while data.size < most and (chunk := file.read(CHUNK)):
            data.size += len(chunk)
            buffer = self._scan(buffer + chunk, last=False)
        data.too_large = data.size >= most and bool(file.read(1))
        self._scan(buffer, last=True)
        if self._printed:
            data.format = "JSON as printed"
        data.cut = bool(self._open) or not self._ended
        return data

    def _scan(self, buffer: bytes, last: bool) -> bytes:
        """Takes all tokens that are surely whole; what is left for the next chunk."""
        place, end = 0, len(buffer) if last else max(0, len(buffer) - LONGEST)
        while place < end:
            match = TOKEN.match(buffer, place)
            if match is None:
                place = self._skip(buffer, place)
                continue
            place = match.end()
            token = match[0]
            self._line += token.count(b"\n")
            self._take(token)
        return buffer[place:]

    def _skip(self, buffer: bytes, place: int) -> int:
        """Over what is no token, to the next line."""
        end = buffer.find(b"\n", place)
        end = len(buffer) if end < 0 else end
        self.data.note(self._line, "BAD_DATA", buffer[place : place + 200])
        return max(end, place + 1)

    def _take(self, token: bytes) -> None:
        first = token[:1]
        if first in b"{[":
            if len(self._open) < MOST_DEPTH:
                self._open.append((token, self._key, {}))
                self.data.headers += token == b"[" and self._key == "intervals"
            else:
                self.data.note(self._line, "BAD_DATA", "brackets are nested too deeply")
            self._key = ""
        elif first in b"}]":
            self._close(token)
        elif first == b'"':
            self._text = token[1:-1].decode("utf-8", "replace")
        elif first == b":":
            self._key, self._text = self._text, ""
        elif first == b"-" or first.isdigit():
            self._number(float(token))
        elif first == b"," or first.isspace():
            return

    def _number(self, value: float) -> None:
        numbers = self._open[-1][2] if self._open else self._top
        if value < 0 or value >= 1e20 or not self._key:
            self.data.note(self._line, "BAD_DATA", f"{self._key or 'a number without a name'}: {value:g}")
        elif len(numbers) < MOST_KEYS:
            numbers[NAMES.get(self._key, self._key.lower()[:60])] = value
            if self._key == "length":
                self.data.of_length(value)
        self._key = ""

    def _close(self, token: bytes) -> None:
        if not self._open:
            # C++ does not print the bracket that this one closes.
            if token == b"}" and self._top and not self._ended:
                self._printed = self._ended = True
            else:
                self.data.note(self._line, "BAD_DATA", f"{token.decode()} closes nothing")
            return
        opened, key, numbers = self._open.pop()
        if {b"{": b"}", b"[": b"]"}[opened] != token:
            self.data.note(self._line, "BAD_DATA", f"{token.decode()} closes {opened.decode()}")
        if opened == b"{" and key == "summary":
            self._row(numbers, summary=True)
        elif opened == b"{" and self._open and self._open[-1][1] == "intervals":
            self._row(numbers, summary=False)
        elif not self._open and not self._top:
            self._ended = True

    def _row(self, numbers: dict[str, float], summary: bool) -> None:
        """An object that ended: a row or a summary, if it has all that one has."""
        data = self.data
        kind = "throughput" if "total samples" in numbers else "latency"
        missing = [name for name in WHOLE[kind, summary] if name not in numbers]
        if missing:
            data.note(self._line, "BAD_DATA", f"{'a summary' if summary else 'a row'} without {missing[0]}")
            return
        data.kinds.add(kind)
        row = {"length": float(max(data.lengths, default=0)), **numbers}
        if summary:
            data.sum_up(row)
            return
        before = data.last
        if before and kind == "throughput" and row["total samples"] < before.get("total samples", 0):
            data.note(self._line, "BAD_DATA", f"its total falls to {row['total samples']:g}")
            return
        data.rows += 1
        data.idle_rows += 1
        data.last = row
        if row.get("samples/s"):
            data.live, data.idle_rows = row, 0
