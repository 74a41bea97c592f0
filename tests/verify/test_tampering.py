"""Every way of tampering with results is found: bytes flipped at random, and forgeries with checksums made to fit."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import random
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from autoperfd.errors import StoreError
from autoperfd.verify.findings import Unreadable
from tests.daemon.support import Rig
from tests.faults import Fired
from tests.verify.support import FOLDER, dump, forge, opened, sentences, verified

FIRST = "4SEC_100B_1PUB_1SUB_REL_UC_100LC"
SECOND = "4SEC_200B_1PUB_1SUB_REL_UC_100LC"
THIRD = "4SEC_300B_1PUB_1SUB_REL_UC_100LC"
SKIPPED = "4SEC_400B_1PUB_1SUB_REL_UC_100LC"
FOREIGN = "4SEC_999B_1PUB_1SUB_REL_UC_100LC"

Tamper = Callable[[Path], object]


def found(state: Path) -> list[str]:
    """What the reader says is wrong; that it cannot read at all is such a thing."""
    try:
        return sentences(verified(state, live=True))
    except Unreadable as error:
        return [str(error)]


def flip(path: Path, rng: random.Random) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def results(state: Path) -> Path:
    return state / "results" / FOLDER


def archive_of(state: Path, test: str = FIRST, number: int = 1) -> Path:
    return results(state) / "data" / test / f"attempt-{number}.tar.gz"


def test_nothing_is_wrong_with_what_nobody_touched(pristine: Path) -> None:
    found = verified(pristine, live=True)
    assert (found.problems, found.notes) == ([], [])
    assert found.checked["archives"] == 6
    assert found.checked["attempts"] == 7
    assert found.checked["lines"] == 12  # seven attempts, three kept ones, two titles


# ---------------------------------------------------------------- at random


@pytest.mark.fault("D10")
@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_bit_of_the_memory_is_found(seed: int, state: Path, fired: Fired) -> None:
    rng, memory = random.Random(f"memory {seed}"), state / "autoperf.db"
    whole, rows = memory.read_bytes(), dump(state)
    for _ in range(1000):  # most of the file is free space: one that means something is wanted
        flip(memory, rng)
        if dump(state) != rows:
            break
        memory.write_bytes(whole)
    else:
        raise AssertionError("no bit of the memory means anything")
    fired("D10", "a bit of the memory's rows is another one")
    assert found(state)


@pytest.mark.fault("D10")
@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_bit_of_an_archive_is_found(seed: int, state: Path, fired: Fired) -> None:
    rng = random.Random(f"archive {seed}")
    path = rng.choice(sorted(results(state).glob("data/*/*.tar.gz")))
    flip(path, rng)
    fired("D10", f"a bit of {path.name} is another one")
    (problem,) = found(state)
    assert problem.startswith(f"data/{path.parent.name}/{path.name} ")


SHEETS = ("ess.csv", "summary.csv")


def mended(state: Path, before: Path) -> None:
    """The daemon starts again: it writes the sheets anew, byte for byte, and nothing is wrong any more."""
    rig = Rig(state)
    rig.engine.restart(crashed=False)
    rig.stop()
    for name in SHEETS:
        assert (results(state) / name).read_bytes() == (results(before) / name).read_bytes()
    assert found(state) == []


@pytest.mark.fault("D10", "E1")
@pytest.mark.parametrize("name", SHEETS)
@pytest.mark.parametrize("seed", range(10))
def test_a_flipped_bit_of_a_sheet_is_found(seed: int, name: str, state: Path, pristine: Path, fired: Fired) -> None:
    flip(results(state) / name, random.Random(f"{name} {seed}"))
    edited = (results(state) / name).read_bytes()
    for row in ("D10", "E1"):
        fired(row, f"{name} has another byte")
    (problem,) = found(state)
    assert name in problem
    mended(state, pristine)
    (aside,) = results(state).glob("*.edited-*")
    assert aside.read_bytes() == edited


@pytest.mark.fault("D10")
@pytest.mark.parametrize("seed", range(10))
def test_a_flipped_bit_of_the_experiments_file_is_found(seed: int, state: Path, fired: Fired) -> None:
    flip(results(state) / "experiment.toml", random.Random(f"file {seed}"))
    fired("D10", "experiment.toml has another byte")
    assert any("experiment.toml" in problem for problem in found(state))


@pytest.mark.fault("E3")
@pytest.mark.parametrize("seed", range(10))
def test_a_sheet_that_was_cut_is_found(seed: int, state: Path, pristine: Path, fired: Fired) -> None:
    rng = random.Random(f"cut {seed}")
    path = results(state) / rng.choice(SHEETS)
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])
    fired("E3", f"{path.name} has {path.stat().st_size} of {len(data)} bytes")
    assert any(path.name in problem for problem in found(state))
    mended(state, pristine)


# ---------------------------------------------------------------- files


def delete_archive(state: Path) -> None:
    archive_of(state).unlink()


def swap_archives(state: Path) -> None:
    one, other, aside = archive_of(state), archive_of(state, SECOND, 2), state / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def link_archive(state: Path) -> None:
    path = archive_of(state)
    path.rename(state / "elsewhere.tar.gz")
    path.symlink_to(state / "elsewhere.tar.gz")


def link_folder(state: Path) -> None:
    path = archive_of(state).parent
    path.rename(state / "elsewhere")
    path.symlink_to(state / "elsewhere")


def folder_for_archive(state: Path) -> None:
    archive_of(state).unlink()
    archive_of(state).mkdir()


def cut_archive(state: Path) -> None:
    path = archive_of(state)
    path.write_bytes(path.read_bytes()[:-1])


def grow_archive(state: Path) -> None:
    path = archive_of(state)
    path.write_bytes(path.read_bytes() + b"\0")


def remove_data(state: Path) -> None:
    shutil.rmtree(results(state) / "data")


def ess_row_gone(state: Path) -> None:
    path = results(state) / "ess.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:]))


def ess_row_more(state: Path) -> None:
    path = results(state) / "ess.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[-1]]))


def ess_by_a_spreadsheet(state: Path) -> None:
    path = results(state) / "ess.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n").replace(b",", b";"))


def ess_gone(state: Path) -> None:
    (results(state) / "ess.csv").unlink()


def ess_is_a_folder(state: Path) -> None:
    ess_gone(state)
    (results(state) / "ess.csv").mkdir()


def ess_is_a_link(state: Path) -> None:
    path = results(state) / "ess.csv"
    path.rename(state / "elsewhere.csv")
    path.symlink_to(state / "elsewhere.csv")


def figure_in_the_summary(state: Path) -> None:
    path = results(state) / "summary.csv"
    path.write_text(path.read_text().replace("12.5", "11.5", 1))


def stray_in_results(state: Path) -> None:
    (results(state) / "notes.txt").write_text("mine")


def stray_test(state: Path) -> None:
    (results(state) / "data" / FOREIGN).mkdir()


def stray_attempt(state: Path) -> None:
    shutil.copy(archive_of(state), archive_of(state, number=2))


def stray_file(state: Path) -> None:
    archive_of(state).with_name("core").write_bytes(b"dump")


def stray_partial(state: Path) -> None:
    archive_of(state).with_name(".attempt-1.partial").mkdir()


def stray_earlier(state: Path) -> None:
    """As if it had been kept aside for an attempt that there is not."""
    shutil.copy(archive_of(state), archive_of(state).with_name("attempt-2.earlier.tar.gz"))


def file_gone(state: Path) -> None:
    (results(state) / "experiment.toml").unlink()


def other_values(state: Path) -> None:
    path = results(state) / "experiment.toml"
    path.write_text(path.read_text().replace("[100, 200", "[101, 200"))


def other_order(state: Path) -> None:
    path = results(state) / "experiment.toml"
    path.write_text(path.read_text().replace("[100, 200", "[200, 100"))


FILES: tuple[Tamper, ...] = (
    delete_archive,
    swap_archives,
    link_archive,
    link_folder,
    folder_for_archive,
    cut_archive,
    grow_archive,
    remove_data,
    ess_row_gone,
    ess_row_more,
    ess_by_a_spreadsheet,
    ess_gone,
    ess_is_a_folder,
    ess_is_a_link,
    figure_in_the_summary,
    stray_in_results,
    stray_test,
    stray_attempt,
    stray_file,
    stray_partial,
    stray_earlier,
    file_gone,
    other_values,
    other_order,
)


@pytest.mark.parametrize("tamper", FILES, ids=lambda tamper: str(tamper.__name__))
def test_tampering_with_files_is_found(tamper: Tamper, state: Path) -> None:
    tamper(state)
    assert found(state)


def test_a_lost_archive_is_named(state: Path) -> None:
    delete_archive(state)
    assert found(state) == [f"data/{FIRST}/attempt-1.tar.gz is missing; attempt 1 ended as success"]


@pytest.mark.fault("E2")
def test_what_a_spreadsheet_program_does_is_named(state: Path, pristine: Path, fired: Fired) -> None:
    ess_by_a_spreadsheet(state)
    fired("E2", "ess.csv has a mark, other separators and line ends")
    assert any(problem.startswith("ess.csv, line 1: found ") for problem in found(state))
    mended(state, pristine)


@pytest.mark.fault("E3")
@pytest.mark.parametrize("tamper", [ess_gone, ess_is_a_folder, ess_is_a_link], ids=lambda tamper: str(tamper.__name__))
def test_a_sheet_that_is_none_is_named(tamper: Tamper, state: Path, pristine: Path, fired: Fired) -> None:
    tamper(state)
    fired("E3", f"{tamper.__name__}")
    assert found(state) == ["ess.csv is missing, or is no regular file"]
    mended(state, pristine)


# ---------------------------------------------------------------- forged rows, with the checksums they need


def sheets_agree(state: Path) -> None:
    """Let the sheets say what the forged memory says, as a daemon would that believed it."""
    for name in SHEETS:
        (results(state) / name).unlink(missing_ok=True)
    rig = Rig(state)
    for entry in rig.engine.entries.values():
        rig.engine._export(entry)
    rig.stop()


def sql(text: str, *values: object) -> Tamper:
    def tamper(state: Path) -> None:
        db = opened(state)
        assert db.execute(text, values).rowcount in (1, -1)  # -1: no statement about rows
        db.close()

    return tamper


def forged(table: str, where: str, **values: object) -> Tamper:
    def tamper(state: Path) -> None:
        db = opened(state)
        assert forge(db, table, where, **values) == 1
        db.close()

    return tamper


def in_life(**values: object) -> Tamper:
    def tamper(state: Path) -> None:
        db = opened(state)
        life = json.loads(db.execute("SELECT life FROM lives").fetchone()[0])
        assert values.keys() <= life.keys()
        assert forge(db, "lives", "1", life=json.dumps({**life, **values})) == 1
        db.close()

    return tamper


def copy_row(table: str, where: str, **values: object) -> Tamper:
    """Add a row like another one, but for some values."""

    def tamper(state: Path) -> None:
        db = opened(state)
        row = dict(db.execute(f"SELECT * FROM {table} WHERE {where}").fetchone())
        row.pop("id", None)
        row |= {**values, "sum": "forged"}
        db.execute(f"INSERT INTO {table}({', '.join(row)}) VALUES({', '.join('?' * len(row))})", list(row.values()))
        assert forge(db, table, "sum = 'forged'") == 1
        db.close()

    return tamper


def swap_ends(state: Path) -> None:
    """Two attempts change their places in the order of closing; the sheets follow."""
    db = opened(state)
    for old, new in ((1, 99), (2, 1), (99, 2)):
        assert forge(db, "attempts", f"closed = {old}", closed=new) == 1
    db.close()


_A = f"test = '{FIRST}'"
_LAST = f"test = '{THIRD}' AND number = 2"
ROWS: tuple[tuple[str, Tamper], ...] = (
    ("a figure", forged("attempts", _A, figures='{"tool_version": "3.2", "latency_mean_us": 1.5}')),
    ("a figure's digits", sql(f"UPDATE attempts SET figures = replace(figures, '12.5', '12.4') WHERE {_A}")),
    ("a status", forged("attempts", _LAST, status="success", blame="", code="", reason="")),
    ("an end status without its blame", forged("attempts", _LAST, blame="")),
    ("a reason", forged("attempts", _LAST, reason="all is well")),
    ("an unknown status", forged("attempts", _LAST, status="fine")),
    ("an attempt that never ended", forged("attempts", _LAST, ended=None, closed=None, status="running", blame="")),
    ("an attempt without an archive", forged("attempts", _A, archive="", sha256="", size=0)),
    ("an archive of another one", forged("attempts", _A, archive=f"data/{SECOND}/attempt-2.tar.gz")),
    ("an archive elsewhere", forged("attempts", _A, archive="../../etc/passwd")),
    ("another hash", forged("attempts", _A, sha256="0" * 64)),
    ("another size", forged("attempts", _A, size=1)),
    ("another uid", forged("attempts", _A, uid="0" * 32)),
    ("no uid", forged("attempts", _A, uid="")),
    ("other settings", forged("attempts", _A, settings='{"duration_secs": 4}')),
    ("other evidence", forged("attempts", _A, evidence='{"records": []}')),
    ("another number", forged("attempts", _A, number=2)),
    ("a second attempt", copy_row("attempts", _A, number=2, closed=8)),
    ("a second attempt of its own uid", copy_row("attempts", _A, number=2, closed=8, uid="1" * 32)),
    ("an attempt of a foreign test", copy_row("attempts", _A, test=FOREIGN, closed=8, uid="1" * 32)),
    ("an attempt less", sql(f"DELETE FROM attempts WHERE {_LAST}")),
    ("a first attempt less", sql(f"DELETE FROM attempts WHERE {_A}")),
    ("a gap among the ends", forged("attempts", _A, closed=99)),
    ("a verdict less", sql("DELETE FROM tests WHERE name = ?", FIRST)),
    ("a verdict put back", forged("tests", f"name = '{FIRST}'", status="")),
    ("a better verdict", forged("tests", f"name = '{THIRD}'", status="success")),
    ("a verdict of another attempt", forged("tests", f"name = '{THIRD}'", attempts=1)),
    ("a verdict elsewhere", forged("tests", f"name = '{THIRD}'", place=1)),
    ("a verdict of a foreign test", copy_row("tests", f"name = '{FIRST}'", name=FOREIGN, place=5)),
    ("a skipped test that succeeded", forged("tests", f"name = '{SKIPPED}'", status="success")),
    ("a counter", in_life(succeeded=4)),
    ("two counters", in_life(succeeded=4, failed=0)),
    ("attempts counted otherwise", in_life(attempts=7)),
    ("an open attempt nobody opened", in_life(uid="1" * 32, test=FIRST, number=1)),
    ("a test under way", in_life(test=FIRST, number=1)),
    ("a cursor ahead", in_life(cursor=99)),
    ("a cursor behind", in_life(cursor=3)),
    ("another state", in_life(state="halted")),
    ("not finished", in_life(outcome="waiting", cursor=6)),
    ("a queued test that is decided", sql(
        "INSERT INTO requeued(experiment, place, test, number, charged, sum) VALUES(1, 1.0, ?, 1, 0, 'x')", FIRST
    )),
    ("a line of the history less", sql("DELETE FROM history WHERE id = 7")),
    ("a line of the history changed", forged("history", "id = 7", after="halted")),
    ("a fact about a machine", forged("surveys", "machine = 'p1'", facts='{"host_key": "another"}')),
    ("a fact more", forged("surveys", "machine = 'p1'", facts='{"arch": "x", "host_key": "key of 10.0.0.1"}')),
    ("facts that are none", forged("surveys", "machine = 'p1'", facts="[]")),
    ("a survey of no attempt", forged("surveys", "machine = 'p1'", attempt=99)),
    ("a survey that found nothing new", copy_row("surveys", "machine = 'p1'", attempt=2)),
    ("another experiment file", sql("UPDATE experiments SET document = replace(document, '100', '101')")),
    ("a table more", sql("CREATE TABLE mine(x)")),
)  # fmt: skip


@pytest.mark.parametrize(("what", "tamper"), ROWS, ids=[what for what, _ in ROWS])
@pytest.mark.parametrize("sheets", ["as they were", "made to agree"])
def test_forged_rows_are_found(what: str, tamper: Tamper, sheets: str, state: Path) -> None:
    tamper(state)
    if sheets == "made to agree":
        with contextlib.suppress(StoreError, ValueError):  # where the daemon finds it itself
            sheets_agree(state)
    assert found(state), what


def test_a_changed_order_of_ends_is_found(state: Path) -> None:
    swap_ends(state)
    assert any(problem.startswith("ess.csv, line 2: ") for problem in found(state))


# ---------------------------------------------------------------- forged archives, with hashes made to fit


def repack(state: Path, change: Callable[[dict[str, bytes]], None], *, sums: bool = True) -> None:
    """Pack an archive anew with changed members, `sums` and the memory's hash made to fit."""
    path = archive_of(state)
    with tarfile.open(path) as tar:
        members = {info.name: (tar.extractfile(info) or io.BytesIO()).read() for info in tar}
    change(members)
    if sums:
        names = [name for name in members if name != "SHA256SUMS"]
        lines = [f"{hashlib.sha256(members[name]).hexdigest()}  {name}\n" for name in names]
        members["SHA256SUMS"] = "".join(lines).encode()
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    record(state)


def record(state: Path) -> None:
    """Let the memory's row say what the archive is now."""
    data = archive_of(state).read_bytes()
    db = opened(state)
    assert forge(db, "attempts", _A, sha256=hashlib.sha256(data).hexdigest(), size=len(data)) == 1
    db.close()


def text(name: str, old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        assert old in members[name]
        members[name] = members[name].replace(old, new, 1)

    return change


def less(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        del members[name]

    return change


def more(name: str) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({name: b"more"})


ARCHIVES: tuple[tuple[str, Callable[[dict[str, bytes]], None], bool], ...] = (
    ("data changed", text("sub_0.csv", b"sub_0", b"sub_9"), True),
    ("data changed, listed as before", text("sub_0.csv", b"sub_0", b"sub_9"), False),
    ("a file less", less("sub_0.csv"), True),
    ("a file less, listed as before", less("sub_0.csv"), False),
    ("a file more", more("mine.csv"), True),
    ("a file more that is not listed", more("mine.csv"), False),
    ("no list", less("SHA256SUMS"), False),
    ("no result", less("result.json"), True),
    ("no evidence", less("evidence.json"), True),
    ("nothing about the attempt", less("attempt.json"), True),
    ("another figure", text("result.json", b"12.5", b"11.5"), True),
    ("another status", text("result.json", b'"success"', b'"no-summary"'), True),
    ("another uid", text("result.json", b'"uid": "', b'"uid": "0'), True),
    ("another uid of the attempt", text("attempt.json", b'"uid": "', b'"uid": "0'), True),
    ("another number", text("attempt.json", b'"number": 1', b'"number": 2'), True),
    ("another test", text("attempt.json", b"4SEC_100B", b"4SEC_200B"), True),
    ("other settings", text("attempt.json", b"100\n", b"101\n"), True),
    ("a restart", text("evidence.json", b"boot of 10.0.0.1", b"boot of 10.0.0.9"), True),
    ("an exit status", text("evidence.json", b'"exit": 0', b'"exit": 1'), True),
    ("an end by somebody", text("evidence.json", b'"self"', b'"deadline"'), True),
    ("an end of nobody", text("evidence.json", b'"name": "sub_0"', b'"name": "sub_1"'), True),
    ("no JSON", text("evidence.json", b"{", b"["), True),
    ("deep JSON", lambda members: members.update({"result.json": b"[" * 100_000}), True),
)


@pytest.mark.parametrize(("what", "change", "sums"), ARCHIVES, ids=[what for what, _, _ in ARCHIVES])
def test_forged_archives_are_found(
    what: str, change: Callable[[dict[str, bytes]], None], sums: bool, state: Path
) -> None:
    repack(state, change, sums=sums)
    problems = found(state)
    assert problems and all(FIRST in problem for problem in problems), what


def test_an_archive_packed_anew_with_the_same_files_is_fine(state: Path) -> None:
    repack(state, lambda members: None)
    assert found(state) == []


# ---------------------------------------------------------------- archives as weapons


def raw(state: Path, data: bytes) -> None:
    archive_of(state).write_bytes(data)
    record(state)


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **more: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + b"\0" * (-len(data) % 512)


END = b"\0" * 1024
WEAPONS: tuple[tuple[str, Callable[[], bytes], str], ...] = (
    ("not packed", lambda: b"hello", "cannot be read"),
    ("empty", lambda: gzip.compress(b""), "ends in the middle"),
    ("a header alone", lambda: gzip.compress(member("a", b"x" * 600)[:512]), "ends in the middle"),
    ("a link", lambda: gzip.compress(member("a", kind=tarfile.SYMTYPE, linkname="/etc/passwd") + END), "no plain file"),
    ("a device", lambda: gzip.compress(member("a", kind=tarfile.CHRTYPE) + END), "no plain file"),
    ("a name twice", lambda: gzip.compress(member("a") * 2 + END), "twice"),
    ("something behind the end", lambda: gzip.compress(member("a") + END + b"x"), "behind its end"),
    ("a negative size", lambda: gzip.compress(bad_size(b"-0000000001\0") + END), "number that is none"),
    ("a size in base 256", lambda: gzip.compress(bad_size(b"\x80" + b"\xff" * 11) + END), "number that is none"),
    ("a long extended header", lambda: gzip.compress(member("a", b"x" * 70_000, tarfile.XHDTYPE) + END), "too long"),
    ("a wild extended header", lambda: gzip.compress(member("a", b"9999 x", tarfile.XHDTYPE) + END), "no sense"),
    ("a bad checksum of the format", lambda: gzip.compress(b"x" + member("a")[1:] + END), "wrong checksum"),
    ("a cut stream", lambda: gzip.compress(member("a") + END)[:-6], "cannot be read"),
    ("a bad checksum of the packing", lambda: gzip.compress(member("a") + END)[:-8] + b"\0" * 8, "cannot be read"),
)  # fmt: skip


def bad_size(field: bytes) -> bytes:
    block = bytearray(member("a"))
    block[124:136] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(("what", "make", "said"), WEAPONS, ids=[what for what, _, _ in WEAPONS])
def test_archives_that_are_none_are_named(what: str, make: Callable[[], bytes], said: str, state: Path) -> None:
    raw(state, make())
    problems = found(state)
    assert any(said in problem for problem in problems), (what, problems)


def test_an_archive_that_unpacks_to_far_too_much_is_not_read_on(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoperfd.verify.archives.LARGE", 1 << 20)
    raw(state, gzip.compress(member("a", b"\0" * (8 << 20)) + END))
    assert any("unpacks to more than 200 times its size" in problem for problem in found(state))


def test_an_archive_of_too_many_files_is_not_read_on(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoperfd.verify.archives.MOST_MEMBERS", 100)
    raw(state, gzip.compress(b"".join(member(f"f{number}") for number in range(200)) + END))
    assert any("holds more than 100 files" in problem for problem in found(state))


def test_the_memory_is_never_written(state: Path) -> None:
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    times = {path: path.stat().st_mtime_ns for path in [state, *state.rglob("*")]}
    assert found(state) == []
    assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == before
    assert {path: path.stat().st_mtime_ns for path in [state, *state.rglob("*")]} == times


def test_no_memory_of_ours_is_said_so(state: Path) -> None:
    (state / "autoperf.db").write_bytes(b"SQLite format 3\0" + b"\1" * 5000)
    with pytest.raises(Unreadable, match="cannot be read"):
        verified(state)
    sqlite3.connect(state / "empty").close()
    (state / "autoperf.db").write_bytes(b"")
    with pytest.raises(Unreadable, match="version 0"):
        verified(state)
