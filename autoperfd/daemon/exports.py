"""Keeps `ess.csv` and `summary.csv` of one experiment what the memory says, at constant cost a row. Engine thread.

Finished rows are appended once; the row of the running attempt is rewritten behind them. A torn end is repaired. A
file that is not what was last written (edited, saved by a spreadsheet, deleted) is kept aside and written anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from autoperfd.core.ess import ESS_COLUMNS, ess_line, line, spread, summary_columns, timestamp
from autoperfd.core.policy import KEPT
from autoperfd.core.text import coded
from autoperfd.daemon import files
from autoperfd.daemon.store import AttemptRow
from autoperfd.errors import DiskError

MOST_HEADER = 64 << 10  # bytes
_CELL = re.compile(rb'(?:^|,)("(?:[^"]|"")*"|[^,\n]*)')

Lines = Callable[[int], Iterable[tuple[int, bytes]]]
"""place -> (place, line) of the finished rows after that place, in order; a line may be empty."""


class GrowingCsv:
    """One exported file: a header, finished lines that only grow, and unfinished lines at its end."""

    def __init__(
        self,
        path: Path,
        header: bytes,
        lines: Lines,
        state: list[int] | None,
        unfinished: Callable[[int], bytes] = lambda place: b"",
    ) -> None:
        """`state`: what `state()` gave when the file was last written, or None.

        `unfinished`: what stood behind the finished lines while the row after that place was not finished.
        """
        self.path = path
        self.kept_aside = ""  # where the latest edited copy went
        self._header = header
        self._lines = lines
        self._unfinished = unfinished
        # The last finished place, where its line ends, and the checksum up to there. (An older state says more.)
        self._place, self._end, self._crc = (state or [0, len(header), zlib.crc32(header)])[:3]
        # The file's identity when it was last written, by this process only: after a power cut a file may have its
        # inode, its size and its time without its data, so the first update reads it.
        self._seen: list[int] = []

    def state(self) -> list[int]:
        """What must be kept to know later whether the file is still what was written."""
        return [self._place, self._end, self._crc]

    def update(self, unfinished: bytes, *, anew: bool = False) -> None:
        """Append what finished since the last time, then `unfinished`; `anew`: write all of it. Raises DiskError."""
        try:
            self._update(unfinished, anew)
        except OSError as error:
            self._seen = []
            raise DiskError.of(f"cannot write {self.path}", error) from error

    def _update(self, unfinished: bytes, anew: bool) -> None:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            self._rewrite(unfinished)
            return
        except OSError:
            self._keep_aside()
            self._rewrite(unfinished)
            return
        try:
            if self._identity(os.fstat(fd)) != self._seen:
                if not self._is_ours(fd, unfinished):
                    self._keep_aside()
                    anew = True
                anew = anew or os.pread(fd, len(self._header), 0) != self._header
            if anew:
                self._rewrite(unfinished)
                return
            fresh = list(self._lines(self._place))
            body = b"".join(text for _, text in fresh)
            os.ftruncate(fd, self._end)  # first: half a line over the old one would look like somebody's edit
            os.lseek(fd, self._end, os.SEEK_SET)
            files.write_all(fd, body + unfinished)
            if fresh:
                self._place = fresh[-1][0]
                self._end += len(body)
                self._crc = zlib.crc32(body, self._crc)
            self._seen = self._identity(os.fstat(fd))
        finally:
            os.close(fd)

    def _rewrite(self, unfinished: bytes) -> None:
        place, end, crc = 0, len(self._header), zlib.crc32(self._header)

        def parts() -> Iterator[bytes]:
            nonlocal place, end, crc
            yield self._header
            for number, text in self._lines(0):
                place, end, crc = number, end + len(text), zlib.crc32(text, crc)
                yield text
            yield unfinished

        files.replace(self.path, parts())
        self._place, self._end, self._crc = place, end, crc
        self._seen = self._identity(self.path.stat())

    def _is_ours(self, fd: int, unfinished: bytes) -> bool:
        """Whether the file is something we wrote: what was there when last looked, then lines that finished since,
        then the unfinished line of now or of then, or a torn one. Moves on to the last finished line it holds.

        An older version may have written it, with some of today's columns.
        """
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return False
        os.lseek(fd, 0, os.SEEK_SET)
        with open(os.dup(fd), "rb") as file:  # noqa: PTH123 - a descriptor, no path
            crc, left = 0, self._end
            while left and (chunk := file.read(min(left, 1 << 20))):
                crc, left = zlib.crc32(chunk, crc), left - len(chunk)
            as_then = _columns_of(os.pread(fd, MOST_HEADER, 0), self._header)
            if left or crc != self._crc or as_then is None:
                return False
            place, end, following = self._place, self._end, b""
            for number, line in self._lines(place):
                text = as_then(line)
                if file.read(len(text)) != text:
                    following = text
                    break
                place, end, crc = number, end + len(text), zlib.crc32(text, crc)
            possible = (as_then(unfinished), following, as_then(self._unfinished(place)))
            file.seek(end)
            rest = file.read(max(map(len, possible)) + 1)
        if not any(line.startswith(rest) for line in possible):
            return False
        self._place, self._end, self._crc = place, end, crc
        return True

    def _keep_aside(self) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        for number in range(1000):
            suffix = f"-{number}" if number else ""
            aside = self.path.with_name(f"{self.path.stem}.edited-{stamp}{suffix}{self.path.suffix}")
            if not os.path.lexists(aside):
                with contextlib.suppress(FileNotFoundError):
                    self.path.rename(aside)
                    files.sync_folder(self.path.parent)  # before another file takes its name
                    self.kept_aside = aside.name
                return
        raise DiskError(f"cannot keep the edited {self.path} aside", hint="Move it away yourself")

    @staticmethod
    def _identity(status: os.stat_result) -> list[int]:
        return [status.st_ino, status.st_size, status.st_mtime_ns]


def _columns_of(start: bytes, header: bytes) -> Callable[[bytes], bytes] | None:
    """How lines with the columns of `header` were written in a file that starts so; None: it never was one of ours."""
    if start.startswith(header):
        return lambda line: line
    first, ended, _ = start.partition(b"\n")
    then, now = first.split(b","), header.rstrip(b"\n").split(b",")
    if not ended or not set(then) <= set(now):
        return None
    places = [now.index(column) for column in then]

    def picked(line: bytes) -> bytes:
        cells = _CELL.findall(line)
        return b",".join(cells[place] for place in places) + b"\n" if line else line

    return picked


class Exports:
    """The exported files of one experiment."""

    def __init__(
        self,
        folder: Path,
        setting_keys: tuple[str, ...],
        figure_names: tuple[str, ...],
        closed_after: Callable[[int], Iterable[AttemptRow]],
        state: str = "",
    ) -> None:
        kept = json.loads(state) if state else {}
        self._folder, self._tidy = folder, False
        self._setting_keys, self._figure_names = setting_keys, figure_names
        self._ess = GrowingCsv(
            folder / "ess.csv",
            line(ESS_COLUMNS).encode(),
            lambda place: ((row.closed or 0, ess_text(row)) for row in closed_after(place)),
            kept.get("ess"),
            lambda place: next((_running(row) for row in closed_after(place)), b""),
        )
        self._summary = GrowingCsv(
            folder / "summary.csv",
            line(summary_columns(setting_keys, figure_names)).encode(),
            lambda place: ((row.closed or 0, self._summary_text(row)) for row in closed_after(place)),
            kept.get("summary"),
        )

    def update(self, running: AttemptRow | None, *, anew: bool = False) -> str:
        """Bring both files up to the memory; `running`: the open attempt. Returns the state to keep (JSON).

        `anew`: write them from their first line, which takes 3 s for 100,000 rows.
        """
        if not self._tidy:
            files.remove_leftovers_of(self._folder)
            self._tidy = True
        self._ess.update(ess_text(running) if running else b"", anew=anew)
        self._summary.update(b"", anew=anew)
        return json.dumps({"ess": self._ess.state(), "summary": self._summary.state()})

    def taken_aside(self) -> list[str]:
        """Names of edited copies that were kept aside since the last call."""
        names = [csv.kept_aside for csv in (self._ess, self._summary) if csv.kept_aside]
        self._ess.kept_aside = self._summary.kept_aside = ""
        return names

    def _summary_text(self, row: AttemptRow) -> bytes:
        if row.status not in KEPT:
            return b""
        settings, figures = json.loads(row.settings), json.loads(row.figures)
        values = [settings.get(key) for key in self._setting_keys] + [figures.get(name) for name in self._figure_names]
        values += spread(figures, self._figure_names).values()
        when = timestamp(row.started), timestamp(row.ended)
        return line((row.test, row.number, row.status, *when, *values, row.archive)).encode()


def _running(row: AttemptRow) -> bytes:
    """The line an attempt had before it ended."""
    return ess_text(replace(row, ended=None, status="running", blame="", machine="", code="", reason="", archive=""))


def ess_text(row: AttemptRow) -> bytes:
    """An attempt's line of the ESS."""
    return ess_line(
        started=row.started,
        ended=row.ended,
        test=row.test,
        pings=row.pings,
        ssh_checks=row.ssh_checks,
        status=row.status,
        number=row.number,
        blame=row.blame,
        machine=row.machine,
        reason=coded(row.code, row.reason),
        settings=json.loads(row.settings),
        archive=row.archive,
    ).encode()
