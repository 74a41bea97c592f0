"""Knows the lines that ddsperf prints; reads a file once, in bounded memory and time, and never raises for it.

Each line begins with `[pid] seconds`; a subscriber prints a line for each second in which it received
something (its totals are cumulative), a publisher one a second and answering peer about latency. The latency
ddsperf 0.10 prints is half the round trip: with 20 ms of delay put on one way it prints 10 ms.
Pure but for reading; any thread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from autoperfd.tools.judging import open_regular, printable

MAX_LINE = 4096  # bytes
MAX_FILE = 256 << 20  # bytes that are read; an hour of two hundred peers has fewer than 100 MB

NUMBER = rb"(\d{1,18}(?:\.\d{1,9})?)"
PROCESS = re.compile(rb"\[(\d{1,10})\] ")
STAMP = re.compile(rb"\[\d{1,10}\] +" + NUMBER + rb" ")
DATA = re.compile(
    STAMP.pattern + rb" *size (\d{1,10}) total (\d{1,18}) lost (\d{1,18}) delta (\d{1,18}) lost (\d{1,18}) rate .+"
)
LATENCY = re.compile(
    STAMP.pattern
    + rb" *\S+ size (\d{1,10}) mean %sus min %sus 50%% %sus 90%% %sus 99%% %sus max %sus cnt (\d{1,10})"
    % ((NUMBER,) * 6)
)
ERROR = re.compile(rb"\[\d{1,10}\] error: (.+)")
PEER = re.compile(rb"\[\d{1,10}\] participant \S+: new\s*$")
NO_MATCH = re.compile(r"too few matching participants|failed to match")
LOST = re.compile(r"samples lost")


@dataclass(slots=True)
class Printed:
    """What one participant printed. Latencies are one way, microseconds. `size` -1: there is no such file."""

    size: int = -1
    data_lines: int = 0
    sample_bytes: int = 0  # of the last data line
    samples: int = 0  # received in all
    lost: int = 0
    falling: bool = False  # a total that went down
    misfit: str = ""  # the first line whose numbers do not follow from each other or from the line before
    processes: set[bytes] = field(default_factory=set)  # the ids its lines begin with, at most two
    pings: int = 0  # latencies measured
    latency_sum: float = 0.0
    latency_min: float = 0.0
    latency_max: float = 0.0
    last_stamp: float = 0.0  # seconds, of the last line that has one
    peers: int = 0  # other participants it ever saw
    errors: list[str] = field(default_factory=list)  # what it called errors, at most 20
    blocked_writes: int = 0  # writes that waited ten seconds in vain
    cut: bool = False  # the last line does not end
    too_large: bool = False

    @property
    def present(self) -> bool:
        """Whether there is such a file."""
        return self.size >= 0


def read(path: Path) -> Printed:
    """All that stands in a file of ddsperf's standard output."""
    file = open_regular(path)
    if file is None:
        return Printed()
    printed = Printed(size=0)
    whole = True
    with file:
        while printed.size < MAX_FILE:
            line = file.readline(MAX_LINE)
            if not line:
                break
            printed.size += len(line)
            begins, whole = whole, line.endswith(b"\n")
            if begins and whole:
                _take(printed, line.rstrip())
        else:
            printed.too_large = True
    printed.cut = not whole
    return printed


def _take(printed: Printed, line: bytes) -> None:
    if (process := PROCESS.match(line)) and len(printed.processes) < 2:
        printed.processes.add(process[1])
    if stamp := STAMP.match(line):
        printed.last_stamp = float(stamp.group(1))
    if match := DATA.fullmatch(line):
        samples, lost = int(match.group(3)), int(match.group(4))
        printed.falling |= samples < printed.samples or lost < printed.lost
        grown = (samples - printed.samples, lost - printed.lost)
        if printed.data_lines and grown != (int(match.group(5)), int(match.group(6))):
            _misfit(printed, line)
        printed.data_lines += 1
        printed.sample_bytes, printed.samples, printed.lost = int(match.group(2)), samples, lost
    elif match := LATENCY.fullmatch(line):
        mean, low, middle, ninety, most, high, count = (float(match.group(i)) for i in range(3, 10))
        if not (low <= middle <= ninety <= most <= high and low <= mean <= high):
            _misfit(printed, line)
        printed.latency_min = min(printed.latency_min, low) if printed.pings else low
        printed.latency_max = max(printed.latency_max, high)
        printed.latency_sum += mean * count
        printed.pings += int(count)
    elif match := ERROR.fullmatch(line):
        if len(printed.errors) < 20:
            printed.errors.append(printable(match.group(1).decode("utf-8", "replace")))
    elif PEER.match(line):
        printed.peers += 1
    elif line.startswith(b"write error:"):
        printed.blocked_writes += 1


def _misfit(printed: Printed, line: bytes) -> None:
    printed.misfit = printed.misfit or printable(line[:200].decode("utf-8", "replace"), 100)
