"""ess.csv and summary.csv: what the memory says, at constant cost, and nobody's edit is lost."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoperfd.core.ess import ESS_COLUMNS
from autoperfd.daemon import exports, files
from autoperfd.daemon.exports import Exports, ess_text
from autoperfd.daemon.store import AttemptRow
from autoperfd.errors import DiskError
from tests.faults import Fired

KEYS = ("duration_secs", "use_reliable")
FIGURES = ("mbps", "lost")
SETTINGS = {"duration_secs": 4, "use_reliable": True}
BASE = AttemptRow(
    id=1,
    experiment=1,
    test="",
    number=1,
    uid="u",
    started=1_700_000_000.0,
    ended=None,
    status="running",
    blame="",
    machine="",
    code="",
    reason="",
    pings=1,
    ssh_checks=1,
    settings=json.dumps(SETTINGS),
    archive="",
    sha256="",
    size=0,
    figures="{}",
    evidence="{}",
    plan="",
    facts="{}",
)


def running(place: int) -> AttemptRow:
    """An attempt that runs."""
    return replace(BASE, test=f"{place % 1000:03d}SEC_100B", started=BASE.started + 60 * (place % 1000))


def closed(place: int) -> AttemptRow:
    """The same attempt, the `place`-th to end; every third one failed."""
    row, archive = running(place), f"data/{place % 1000:03d}/attempt-1.tar.gz"
    if place % 3 == 0:
        more = {"status": "no-data", "blame": "test", "machine": "p2", "reason": "=nothing came; really, nothing"}
    else:
        more = {"status": "success", "figures": json.dumps({"mbps": 1.5, "lost": place % 7})}
    return replace(row, ended=row.started + 30, closed=place, archive=archive, **more)  # type: ignore[arg-type]


class Bench:
    """A results folder, the rows of a memory, and exports that may be made anew as after a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[AttemptRow] = []
        self.state = ""
        self.aside: list[str] = []
        self.exports = self.make("")

    def make(self, state: str) -> Exports:
        return Exports(self.folder, KEYS, FIGURES, self.closed_after, state)

    def closed_after(self, place: int) -> Iterator[AttemptRow]:
        yield from self.rows[place:]

    def update(self, runs: bool = False) -> None:
        """Bring the files up to date; `runs`: an attempt is open."""
        self.state = self.exports.update(running(len(self.rows) + 1) if runs else None)
        self.aside += self.exports.taken_aside()

    def end(self, count: int = 1) -> None:
        """So many attempts end."""
        for _ in range(count):
            self.rows.append(closed(len(self.rows) + 1))

    def attempts(self, count: int) -> None:
        """So many attempts begin and end."""
        for _ in range(count):
            self.update(runs=True)
            self.end()
            self.update()

    def restart(self, state: str | None = None) -> None:
        """Exports made anew from the state kept last, or an older one."""
        self.exports = self.make(self.state if state is None else state)

    @property
    def ess(self) -> Path:
        return self.folder / "ess.csv"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.csv"

    def expected(self, runs: bool = False) -> bytes:
        """The whole ess.csv as the memory has it."""
        lines = b"".join(ess_text(row) for row in self.rows)
        tail = ess_text(running(len(self.rows) + 1)) if runs else b""
        return ",".join(ESS_COLUMNS).encode() + b"\n" + lines + tail

    def good(self, runs: bool = False) -> None:
        """Both files are what the memory says."""
        assert self.ess.read_bytes() == self.expected(runs)
        rows = list(csv.DictReader(io.StringIO(self.summary.read_text())))
        assert [row["test_name"] for row in rows] == [row.test for row in self.rows if row.status == "success"]
        assert all(row["mbps"] == "1.5" and row["use_reliable"] == "true" for row in rows)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# ---------------------------------------------------------------- the good way


def test_an_empty_experiment_has_headers(bench: Bench) -> None:
    bench.update()
    bench.good()
    header = (
        "test_name,attempt_number,end_status,start_timestamp,end_timestamp,"
        "duration_secs,use_reliable,mbps,lost,archive\n"
    )
    assert bench.summary.read_text() == header


def test_a_row_appears_when_its_attempt_starts_and_is_completed_when_it_ends(bench: Bench) -> None:
    bench.attempts(3)
    bench.update(runs=True)
    bench.good(runs=True)
    assert bench.ess.read_text().splitlines()[-1] == (
        '2023-11-14T22:17:20.000Z,,004SEC_100B,1,1,running,1,,,,"duration_secs=4;use_reliable=true",'
    )
    bench.end()
    bench.update()
    bench.good()
    assert not bench.aside and sorted(path.name for path in bench.folder.iterdir()) == ["ess.csv", "summary.csv"]


def test_a_missing_summary_is_in_the_summary(bench: Bench) -> None:
    bench.rows.append(replace(closed(1), status="no-summary", figures="{}"))
    bench.update()
    (row,) = csv.DictReader(io.StringIO(bench.summary.read_text()))
    assert (row["end_status"], row["mbps"], row["archive"]) == ("no-summary", "", "data/001/attempt-1.tar.gz")


def test_finished_rows_are_only_appended(bench: Bench) -> None:
    bench.attempts(5)
    inode, content = bench.ess.stat().st_ino, bench.ess.read_bytes()
    bench.attempts(5)
    assert bench.ess.stat().st_ino == inode and bench.ess.read_bytes().startswith(content)


def test_who_may_read_them(bench: Bench) -> None:
    bench.update()
    assert bench.ess.stat().st_mode & 0o777 == bench.summary.stat().st_mode & 0o777 == 0o640


# ---------------------------------------------------------------- the cost of one attempt


class Counter:
    """What goes through the calls of the operating system that move bytes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.written = self.read = self.rows = 0
        write, opened = os.write, exports.open if hasattr(exports, "open") else open

        def counting(fd: int, data: bytes) -> int:
            count = write(fd, data)
            self.written += count
            return count

        def looking(fd: int, mode: str) -> object:
            self.read += os.fstat(fd).st_size
            return opened(fd, mode)

        patch.setattr(os, "write", counting)
        patch.setattr(exports, "open", looking, raising=False)


def cost(bench: Bench, counter: Counter) -> tuple[int, int, int]:
    """(bytes written, bytes of files looked through, rows asked for) of one attempt's beginning and end."""
    before = (counter.written, counter.read, counter.rows)
    bench.attempts(1)
    after = (counter.written, counter.read, counter.rows)
    return tuple(b - a for a, b in zip(before, after, strict=True))  # type: ignore[return-value]


def test_an_attempt_costs_the_same_at_row_100_000(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter(monkeypatch)
    rows, ask = bench.rows, bench.closed_after

    def asked(place: int) -> Iterator[AttemptRow]:
        for row in ask(place):
            counter.rows += 1
            yield row

    bench.closed_after = asked  # type: ignore[method-assign]
    bench.restart("")
    bench.update()
    first = cost(bench, counter)
    template = closed(3)  # no row of the summary
    for count in (10_000, 100_000):
        rows.extend(replace(template, closed=place + 1) for place in range(len(rows), count - 1))
        bench.update()
        now = cost(bench, counter)
        assert abs(now[0] - first[0]) <= first[0] * 0.1 and now[0] > 100
        assert now[1] == 0 and now[2] == first[2] == 2  # each of both files asks once for the new row
    assert bench.ess.stat().st_size > 10_000_000


def test_many_failures_cost_the_summary_nothing(bench: Bench) -> None:
    bench.attempts(1)
    bench.rows.extend(replace(closed(3), closed=place) for place in range(2, 2000))
    bench.update()
    state = json.loads(bench.state)
    assert state["summary"][0] == state["ess"][0] == len(bench.rows)
    assert len(bench.summary.read_text().splitlines()) == 2


# ---------------------------------------------------------------- restarts and torn ends


def test_a_restart_finds_the_file_its_own(bench: Bench) -> None:
    bench.attempts(4)
    inode = bench.ess.stat().st_ino
    bench.restart()
    bench.attempts(1)
    bench.good()
    assert bench.ess.stat().st_ino == inode and not bench.aside


@pytest.mark.parametrize("runs_then", [True, False])
@pytest.mark.parametrize("ended_since", [0, 1, 3])
@pytest.mark.parametrize("runs_now", [True, False])
def test_a_restart_after_a_kill_at_any_time(bench: Bench, runs_then: bool, ended_since: int, runs_now: bool) -> None:
    """The state kept may be older than the file, and the memory newer than the file."""
    bench.attempts(3)
    older = bench.state
    bench.attempts(2)
    bench.update(runs=runs_then)
    inode = bench.ess.stat().st_ino
    bench.end(ended_since)
    bench.restart(older)
    bench.update(runs=runs_now)
    bench.good(runs=runs_now)
    # An attempt that vanished without an end cannot be; only then is the file not taken for our own.
    if not (runs_then and not ended_since and not runs_now):
        assert not bench.aside and bench.ess.stat().st_ino == inode


def test_a_torn_end_is_repaired(bench: Bench) -> None:
    """Whatever part of the last write got there."""
    bench.attempts(3)
    kept, whole = bench.state, bench.expected()
    for finished in (False, True):
        line = bench.expected(runs=True)[len(whole) :]
        if finished:
            bench.end()
            line = bench.expected()[len(whole) :]
        for length in range(len(line)):
            bench.ess.write_bytes(whole + line[:length])
            bench.restart(kept)
            bench.update(runs=not finished)
            bench.good(runs=not finished)
            assert not bench.aside, (finished, length)


def test_a_row_torn_while_the_row_before_it_was_completed(bench: Bench) -> None:
    bench.attempts(2)
    kept = bench.state
    bench.end()
    whole, following = bench.expected(), ess_text(running(4))
    bench.ess.write_bytes(whole + following[:20])
    bench.restart(kept)
    bench.update(runs=True)
    bench.good(runs=True)
    assert not bench.aside


@pytest.mark.parametrize("state", ["", "kept"])
def test_a_cut_or_deleted_file_is_written_anew(bench: Bench, state: str) -> None:
    bench.attempts(4)
    bench.ess.unlink()
    bench.summary.unlink()
    bench.restart("" if state == "" else None)
    bench.update()
    bench.good()
    bench.ess.write_bytes(bench.expected()[:200])
    bench.update()
    bench.good()
    assert len(bench.aside) == 1  # what is too short may be all a person kept


# ---------------------------------------------------------------- edits


def edited(content: bytes, how: str) -> bytes:
    """What people and spreadsheets make of a file."""
    lines = content.decode().splitlines()
    match how:
        case "bom":
            return b"\xef\xbb\xbf" + content
        case "crlf":
            return content.replace(b"\n", b"\r\n")
        case "semicolons":
            return "\n".join(";".join(row) for row in csv.reader(lines)).encode() + b"\n"
        case "all-quoted":
            out = io.StringIO()
            csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(csv.reader(lines))
            return out.getvalue().encode()
        case "unquoted":
            return content.replace(b'"', b"")
        case "dates":
            return re.sub(rb"(\d{4})-(\d\d)-(\d\d)T(\d\d:\d\d):\d\d\.\d+Z", rb"\3.\2.\1 \4", content)
        case "numbers":
            return content.replace(b",1,1,", b",1E+00,1E+00,")
        case "zeros":
            return content.replace(b",00", b",")
        case "row-added":
            return content + b"a note,,,,,,,,,,,\n"
        case "running-row-added":
            return content + b",,mine,,,running,,,,,,\n"
        case "words-added":
            return content + b"remember to buy cables"
        case "comment":
            return content.replace(b"no-data", b"no-data (cable was loose)", 1)
        case "row-removed":
            return "\n".join([*lines[:2], *lines[3:]]).encode() + b"\n"
        case "sorted":
            return "\n".join([lines[0], *sorted(lines[1:], reverse=True)]).encode() + b"\n"
        case "column-added":
            return "\n".join(line + "," for line in lines).encode() + b"\n"
        case "header-changed":
            return content.replace(b"test_name", b"Test", 1)
        case "empty":
            return b""
        case "binary":
            return random.Random(1).randbytes(4000)
        case "one-byte":
            return content.replace(b"success", b"Success", 1)
        case "same-length":
            return content[:-3] + b"X" + content[-2:]
    raise AssertionError(how)


EDITS = ["bom", "crlf", "semicolons", "all-quoted", "unquoted", "dates", "numbers", "zeros", "row-added"]
EDITS += ["running-row-added", "words-added", "comment", "row-removed", "sorted", "column-added", "header-changed"]
EDITS += ["empty", "binary", "one-byte", "same-length"]


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("how", EDITS)
def test_an_edited_copy_is_kept_aside_and_the_file_written_anew(
    bench: Bench, how: str, restart: bool, runs: bool
) -> None:
    bench.attempts(6)
    bench.update(runs=runs)
    copy = edited(bench.ess.read_bytes(), how)
    assert copy != bench.ess.read_bytes()
    bench.ess.write_bytes(copy)
    os.utime(bench.ess, ns=(1, bench.ess.stat().st_mtime_ns + 10_000_000))
    if restart:
        bench.restart()
    bench.end()
    bench.update()
    bench.good()
    (name,) = bench.aside
    assert re.fullmatch(r"ess\.edited-\d{8}T\d{6}Z\.csv", name)
    assert (bench.folder / name).read_bytes() == copy
    bench.attempts(2)
    bench.good()
    assert len(bench.aside) == 1  # told once


def test_an_edit_in_the_running_row_is_kept_too(bench: Bench) -> None:
    bench.attempts(2)
    bench.update(runs=True)
    copy = bench.ess.read_bytes().replace(b",running,", b",running,my note,")
    bench.ess.write_bytes(copy)
    bench.end()
    bench.update()
    bench.good()
    assert (bench.folder / bench.aside[0]).read_bytes() == copy


def test_several_edits_within_a_second_are_all_kept(bench: Bench) -> None:
    bench.attempts(2)
    for i in range(5):
        bench.ess.write_text(f"edit {i}")
        bench.update()
    bench.good()
    assert [(bench.folder / name).read_text() for name in bench.aside] == [f"edit {i}" for i in range(5)]


def test_touched_but_unchanged_is_no_edit(bench: Bench) -> None:
    bench.attempts(3)
    inode = bench.ess.stat().st_ino
    os.utime(bench.ess, ns=(5, 5))
    bench.attempts(1)
    bench.good()
    assert bench.ess.stat().st_ino == inode and not bench.aside
    content = bench.ess.read_bytes()
    bench.ess.unlink()
    bench.ess.write_bytes(content)  # copied away and back
    bench.attempts(1)
    bench.good()
    assert not bench.aside


@pytest.mark.parametrize("what", ["folder", "link", "dangling", "fifo"])
def test_what_is_no_file_is_kept_aside(bench: Bench, what: str) -> None:
    bench.attempts(2)
    bench.ess.unlink()
    other = bench.folder / "other"
    other.write_text("kept")
    match what:
        case "folder":
            bench.ess.mkdir()
        case "link":
            bench.ess.symlink_to(other)
        case "dangling":
            bench.ess.symlink_to(bench.folder / "nowhere")
        case "fifo":
            os.mkfifo(bench.ess)
    bench.attempts(1)
    bench.good()
    assert len(bench.aside) == 1 and other.read_text() == "kept" and not (bench.folder / "nowhere").exists()


def test_an_edited_summary_is_kept_aside_too(bench: Bench) -> None:
    bench.attempts(2)
    bench.summary.write_text("mine\n")
    bench.attempts(1)
    bench.good()
    assert re.fullmatch(r"summary\.edited-.*\.csv", bench.aside[0])
    bench.summary.write_bytes(bench.summary.read_bytes() + b"1,running,x\n")
    bench.update()
    bench.good()
    assert len(bench.aside) == 2


# ---------------------------------------------------------------- the disk


@pytest.mark.fault("E4")
def test_a_full_disk_is_told_and_mended_later(bench: Bench, monkeypatch: pytest.MonkeyPatch, fired: Fired) -> None:
    bench.attempts(3)
    room = 100
    write = os.write

    def full(fd: int, data: bytes) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(28, "No space left on device")
        count = write(fd, bytes(data)[:room])
        room -= count
        return count

    monkeypatch.setattr(os, "write", full)
    bench.end()
    for _ in range(3):
        with pytest.raises(DiskError, match=r"cannot write .*ess\.csv: No space left on device"):
            bench.update()
        bench.end()
    bench.restart()
    with pytest.raises(DiskError):
        bench.update()
    fired("E4", "three exports failed")
    monkeypatch.setattr(os, "write", write)
    bench.update()
    bench.good()
    assert not bench.aside


def test_a_folder_that_is_gone_is_told(bench: Bench, tmp_path: Path) -> None:
    bench.folder = tmp_path / "nowhere"
    bench.restart("")
    with pytest.raises(DiskError, match="cannot write"):
        bench.update()


@pytest.mark.fault("E4")
def test_an_edited_copy_that_cannot_be_moved_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fired: Fired
) -> None:
    bench.attempts(1)
    bench.ess.unlink()
    bench.ess.mkdir()

    def stuck(self: Path, target: Path) -> Path:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "rename", stuck)
    with pytest.raises(DiskError, match="Operation not permitted"):
        bench.update()
    fired("E4", "the rename was refused")


class Death(BaseException):
    """The process ends here."""


@pytest.mark.fault("P1")
def test_a_death_behind_any_part_of_a_write_is_no_edit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fired: Fired
) -> None:
    """The line of the running attempt gives way to others: no mixture of both may stay."""
    whole, room = files.write_all, 0
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # it would take most of the time

    def write_part(fd: int, data: bytes) -> None:
        nonlocal room
        part, room = data[:room], room - len(data)
        whole(fd, part)
        if room < 0:
            raise Death

    bench.attempts(2)
    for runs, ends in ((True, False), (False, True), (True, True)):
        size = cut = 0
        while cut <= size:
            bench.update(runs=True)
            before, rows = bench.state, len(bench.rows)
            if ends:
                bench.end()
            size = len(bench.expected(runs)) + len(bench.summary.read_bytes())
            room = cut
            with monkeypatch.context() as patch:
                patch.setattr(files, "write_all", write_part)
                try:
                    bench.update(runs=runs)
                except Death:
                    fired("P1", f"ended after {cut} bytes, {rows} rows")
                else:
                    cut = size
            bench.restart(before)
            bench.update(runs=runs)
            assert bench.aside == [], (runs, ends, cut)
            bench.good(runs)
            del bench.rows[2:]
            for path in (bench.ess, bench.summary):
                path.unlink()
            bench.restart("")
            bench.update()
            cut += 1
    assert bench.aside == []


# ---------------------------------------------------------------- an older version's columns

OLDER = ("test_name", "attempt_number", "end_status", "duration_secs", "use_reliable", "mbps", "lost", "archive")


def older(bench: Bench, rows: int) -> bytes:
    """The summary of the first rows as a version without times wrote it."""
    text = bench.summary.read_text()
    kept = [row for row in csv.DictReader(io.StringIO(text)) if row["test_name"] in {r.test for r in bench.rows[:rows]}]
    found = io.StringIO()
    writer = csv.DictWriter(found, OLDER, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in kept:
        writer.writerow(row)
    return found.getvalue().encode()


def as_older(bench: Bench, known: int) -> str:
    """Put an older version's summary in the place of ours, and the state it kept when `known` rows had ended."""
    state = json.loads(bench.state)
    data = older(bench, known)
    state["summary"] = [known, len(data), zlib.crc32(data)]
    bench.summary.write_bytes(older(bench, len(bench.rows)))
    return json.dumps(state)


@pytest.mark.parametrize("known", [5, 3, 0])
def test_what_an_older_version_wrote_is_written_anew_and_is_nobodys_edit(bench: Bench, known: int) -> None:
    bench.attempts(5)
    bench.restart(as_older(bench, known))
    bench.update()
    bench.good()
    assert bench.aside == []
    bench.attempts(2)
    bench.good()


def test_an_edit_of_what_an_older_version_wrote_is_kept_aside(bench: Bench) -> None:
    bench.attempts(5)
    state = as_older(bench, 3)
    edited = bench.summary.read_bytes().replace(b"1.5", b"9.5", 1)
    for text in (edited, bench.summary.read_bytes() + b"mine,1,success,,,,,\n", b"my,own,columns\n1,2,3\n"):
        bench.restart(state)
        bench.summary.write_bytes(text)
        bench.update()
        bench.good()
        assert (bench.folder / bench.aside[-1]).read_bytes() == text
    assert len(bench.aside) == 3


# ---------------------------------------------------------------- written anew


def test_written_anew_they_are_what_the_memory_says(bench: Bench) -> None:
    bench.attempts(4)
    before = bench.summary.stat().st_ino
    bench.exports.update(None, anew=True)
    assert bench.summary.stat().st_ino != before and bench.exports.taken_aside() == []
    bench.good()
    bench.ess.write_bytes(b"mine")
    bench.summary.unlink()
    bench.exports.update(None, anew=True)
    bench.good()
    (aside,) = bench.exports.taken_aside()
    assert (bench.folder / aside).read_bytes() == b"mine"
    bench.attempts(2)
    bench.good()
