"""Knows the text that Perftest 3.0.1 and older wrote, and later versions on request (`-outputFormat legacy`). Pure."""

from __future__ import annotations

import re

from autoperfd.tools import datafile
from autoperfd.tools.datafile import CPU, DataFile

HEADER = re.compile(rb"\*{10} New data length is (\d{1,10})")
N = rb" *(\d{1,18}(?:\.\d{1,9})?)"
T = N + rb" *(us|ns|\xce\xbcs|\xc2\xb5s)"
MORE = rb"(?: +CPU[^0-9]*(\d{1,9}(?:\.\d{1,9})?).*)?"
LATENCY_ROW = re.compile(
    rb"One[ -][Ww]ay Latency:" + T + rb" Ave" + T + rb" Std" + T + rb" Min" + T + rb" Max" + T + MORE
)
LATENCY_SUMMARY = re.compile(
    rb"Length:" + N + rb"  ?Latency: Ave" + T + rb" Std" + T + rb" Min" + T + rb" Max" + T
    + b"".join(rb" " + percent + T for percent in (rb"50%", rb"90%", rb"99%", rb"99\.99%", rb"99\.9999%"))
    + MORE
)  # fmt: skip
PACKETS_ROW = re.compile(
    rb"Packets:" + N + rb"  Packets/s:" + N + rb"  Packets/s\(ave\):" + N + rb"  Mbps:" + N + rb"  Mbps\(ave\):" + N
    + rb"  Lost:" + N + rb" \(" + N + rb"%\)" + MORE
)  # fmt: skip
PACKETS_SUMMARY = re.compile(
    rb"Length:" + N + rb"  Packets:" + N + rb"  Packets/s\(ave\):" + N + rb"  Mbps\(ave\):" + N
    + rb"  Lost:" + N + rb" \(" + N + rb"%\)" + MORE
)  # fmt: skip
OURS = (b"One way Latency:", b"One-Way Latency:", b"Length:", b"Packets:")


def looks_like_text(start: bytes) -> bool:
    """Whether a file that begins so is of this format."""
    return HEADER.match(start.lstrip()) is not None


def read_text_line(data: DataFile, number: int, line: bytes) -> bool:
    """Takes a line of this format into `data`; whether it was one."""
    line = line.rstrip()
    if match := HEADER.fullmatch(line):
        data.headers += 1
        data.of_length(int(match[1]))
    elif match := LATENCY_ROW.fullmatch(line):
        data.rows += 1
        data.kinds.add("latency")
        data.last = {"length": _length(data), **_times(datafile.LATENCY[1:], match.groups())}
    elif match := PACKETS_ROW.fullmatch(line):
        _packets(data, number, match)
    elif match := LATENCY_SUMMARY.fullmatch(line):
        data.kinds.add("latency")
        data.sum_up({"length": float(match[1]), **_times(datafile.LATENCY_SUMMARY[1:], match.groups()[1:])})
    elif match := PACKETS_SUMMARY.fullmatch(line):
        data.kinds.add("throughput")
        data.sum_up(_values(datafile.THROUGHPUT_SUMMARY, match.groups()))
    elif line.startswith(OURS):
        data.note(number, "BAD_DATA", line)
    else:
        return False
    return True


def _packets(data: DataFile, number: int, match: re.Match[bytes]) -> None:
    row = {"length": _length(data), **_values(datafile.THROUGHPUT[1:], match.groups())}
    if data.last is not None and row["total samples"] < data.last.get("total samples", 0):
        data.note(number, "BAD_DATA", match[0])
        return
    data.rows += 1
    data.kinds.add("throughput")
    data.idle_rows += 1
    data.last = row
    if row["samples/s"]:
        data.live, data.idle_rows = row, 0


def _length(data: DataFile) -> float:
    """Rows do not say it: that of the block."""
    return float(max(data.lengths, default=0))


def _values(names: tuple[str, ...], found: tuple[bytes | None, ...]) -> dict[str, float]:
    """Numbers by name, CPU after them where it was printed."""
    return {name: float(value) for name, value in zip((*names, CPU), found, strict=True) if value is not None}


def _times(names: tuple[str, ...], found: tuple[bytes | None, ...]) -> dict[str, float]:
    """Numbers followed by their units, in µs."""
    pairs = zip(found[0:-1:2], found[1:-1:2], strict=True)
    row = {
        name: float(value or 0) * (0.001 if unit == b"ns" else 1)
        for name, (value, unit) in zip(names, pairs, strict=True)
    }
    return row if found[-1] is None else {**row, CPU: float(found[-1])}
