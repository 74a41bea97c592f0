"""The intake: settled files only, each in exactly one place whatever crashes, and nothing strange stops the others."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import resource
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from watchdog.events import FileClosedEvent, FileMovedEvent

from autoperfd.daemon import files
from autoperfd.daemon import spool as spool_module
from autoperfd.daemon.parse import MOST_BYTES, Parsed, read_limited
from autoperfd.daemon.spool import Drop, Hints, Spool
from autoperfd.errors import ConfigError, DiskError, Problem, Refused
from autoperfd.tools import TOOLS
from tests.bounds import at_most
from tests.faults import Fired

PATIENCE_SECS = 20.0
EXAMPLE = (Path(__file__).parents[2] / "etc" / "queue-examples" / "pcg.toml").read_bytes()


class Clock:
    """Monotonic time that moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Engine:
    """Takes what is offered; `answers` decides about files by name, `changed` says that something came."""

    def __init__(self) -> None:
        self.drops: list[Drop] = []
        self.refused: list[tuple[str, str]] = []
        self.answers: dict[str, tuple[Problem, ...] | Exception] = {}
        self.changed = threading.Condition()

    def offer(self, drop: Drop) -> tuple[Problem, ...]:
        answer = self.answers.get(drop.file, ())
        if isinstance(answer, Exception):
            raise answer
        with self.changed:
            self.drops.append(drop)
            self.changed.notify_all()
        return answer

    def refuse(self, file: str, sentence: str) -> None:
        with self.changed:
            self.refused.append((file, sentence))
            self.changed.notify_all()

    def wait_for(self, what: Callable[[], bool]) -> bool:
        with self.changed:
            return self.changed.wait_for(what, PATIENCE_SECS)

    @property
    def files(self) -> list[str]:
        return [drop.file for drop in self.drops]


def quick(data: bytes, file: str) -> Parsed:
    """A parser without a child: these tests are about files."""
    if data.startswith(b"bad"):
        raise ConfigError([Problem(file, 3, "retries", "-1", "more"), Problem(file, 4, "seed", "x", "a number")])
    return Parsed((), (data.decode(),))


class Place:
    """A queue folder and a spool over it whose time stands still."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.clock = Clock()
        self.engine = Engine()
        self.spool = self.restart()

    def restart(self, parse: Callable[[bytes, str], Parsed] = quick) -> Spool:
        self.spool = Spool(self.folder, parse, self.engine.offer, self.engine.refuse, clock=self.clock)
        return self.spool

    def drop(self, name: str, data: bytes = b"good") -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def settle(self) -> float:
        """Look, let the time pass in which files stand still, look again."""
        self.spool.look()
        self.clock.now += 1.0
        return self.spool.look()

    def where(self, name: str) -> list[str]:
        """In which of the places a file is."""
        places = {"queue": name, "claimed": f".claimed/{name}", "rejected": f"rejected/{name}"}
        return [place for place, path in places.items() if os.path.lexists(self.folder / path)]

    def error(self, name: str) -> str:
        return (self.folder / "rejected" / f"{name}.error.txt").read_text()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "queue")


# ---------------------------------------------------------------- settling


def test_a_file_that_stands_still_is_taken(place: Place) -> None:
    place.drop("a.toml")
    assert place.spool.look() == 1.0
    assert place.engine.files == []
    place.clock.now += 0.9
    place.spool.look()
    assert place.engine.files == []
    place.clock.now += 0.2
    assert place.spool.look() == 60
    assert place.engine.files == ["a.toml"]
    assert place.engine.drops[0].data == b"good" and place.engine.drops[0].owner == os.getuid()
    assert place.where("a.toml") == []


@pytest.mark.fault("Q5")
def test_a_growing_file_is_left_until_it_stands_still(place: Place, fired: Fired) -> None:
    path = place.drop("a.toml", b"")
    for _ in range(5):
        with path.open("ab") as file:
            file.write(b"x")
        place.spool.look()
        place.clock.now += 0.9
    place.spool.look()
    assert place.engine.files == []
    place.settle()
    assert place.engine.drops[0].data == b"xxxxx"
    fired("Q5", f"{path.name} grew five times")


@pytest.mark.fault("Q5")
def test_a_replaced_file_settles_anew(place: Place, fired: Fired) -> None:
    place.drop("a.toml", b"one")
    place.spool.look()
    other = place.drop(".new", b"two")
    os.utime(other, ns=(0, (place.folder / "a.toml").stat().st_mtime_ns))
    other.rename(place.folder / "a.toml")
    place.clock.now += 1
    place.spool.look()
    assert place.engine.files == []
    place.settle()
    assert place.engine.drops[0].data == b"two"
    fired("Q5", "another file took its place within its settling time")


def test_closing_is_as_good_as_standing_still(place: Place) -> None:
    place.drop("a.toml")
    place.drop("b.toml")
    place.drop("empty.toml", b"")
    for name in ("a.toml", "empty.toml"):
        place.spool._hints.on_any_event(FileClosedEvent(str(place.folder / name)))
    place.spool._hints.on_any_event(FileMovedEvent(str(place.folder / ".x"), str(place.folder / "b.toml")))
    place.spool.look()
    assert place.engine.files == ["a.toml", "b.toml"]


def test_only_visible_toml_files_in_the_order_of_their_names(place: Place) -> None:
    for name in ("b.toml", "a.toml", "c.toml", ".d.toml", "e.txt", "f.toml~", "g.TOML", "h.toml.swp"):
        place.drop(name)
    place.settle()
    assert place.engine.files == ["a.toml", "b.toml", "c.toml"]


def test_at_most_so_many_in_a_pass(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MOST_FILES", 10)
    for n in range(25):
        place.drop(f"{n:03}.toml")
    place.spool.look()
    place.clock.now += 1
    waits = [place.spool.look() for _ in range(3)]
    assert waits == [0, 0, 60]
    assert place.engine.files == sorted(place.engine.files) and len(set(place.engine.files)) == 25


# ---------------------------------------------------------------- rejecting


@pytest.mark.fault("Q1")
def test_a_bad_file_is_rejected_with_every_problem(place: Place, fired: Fired) -> None:
    place.drop("a.toml", b"bad")
    place.drop("b.toml")
    place.settle()
    assert place.where("a.toml") == ["rejected"]
    assert "2 problems" in place.error("a.toml")
    assert "a.toml:3: retries: found -1" in place.error("a.toml") and "a.toml:4: seed" in place.error("a.toml")
    assert [file for file, _ in place.engine.refused] == ["a.toml"]
    assert place.engine.files == ["b.toml"]
    fired("Q1", place.error("a.toml"))


def test_what_the_engine_objects_to_is_rejected(place: Place) -> None:
    place.engine.answers["a.toml"] = (Problem("a.toml", 0, "experiment_name", "PCG", "another name"),)
    place.drop("a.toml")
    place.settle()
    assert place.where("a.toml") == ["rejected"]
    assert "1 problem." in place.error("a.toml") and "another name" in place.error("a.toml")
    assert place.engine.refused == []  # the engine knows already


def test_rejected_files_can_be_read_by_those_who_may_enter_the_queue(place: Place) -> None:
    before = os.umask(0o077)
    try:
        place.drop("a.toml", b"bad")
        place.settle()
    finally:
        os.umask(before)
    assert (place.folder / "rejected").stat().st_mode & 0o777 == 0o755
    assert (place.folder / "rejected" / "a.toml.error.txt").stat().st_mode & 0o777 == 0o644
    assert (place.folder / ".claimed").stat().st_mode & 0o777 == 0o700


def test_an_older_rejected_file_is_kept(place: Place) -> None:
    for data in (b"bad 1", b"bad 2", b"bad 3"):
        place.drop("a.toml", data)
        place.settle()
    kept = sorted((place.folder / "rejected").glob("a*.toml"))
    assert {path.read_bytes() for path in kept} == {b"bad 1", b"bad 2", b"bad 3"}
    assert (place.folder / "rejected" / "a.toml").read_bytes() == b"bad 3"
    assert all(path.with_name(path.name + ".error.txt").exists() for path in kept)


# ---------------------------------------------------------------- strange things


def strange_things(folder: Path) -> Iterator[str]:
    """Puts one thing of each kind that is no file into a folder, as NAME.toml; their names."""
    (folder / "outside").mkdir()
    (folder / "real.txt").write_bytes(b"good")
    links = {"dangling": "nowhere", "file": "real.txt", "folder-link": "outside", "link-link": "file.toml"}
    links |= {"loop": "loop.toml", "null": "/dev/null", "pipe-link": "pipe.toml", "zero": "/dev/zero"}
    for name, target in links.items():
        (folder / f"{name}.toml").symlink_to(target)
        yield name
    os.mkfifo(folder / "pipe.toml")
    (folder / "folder.toml").mkdir()
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(folder):  # the path of a socket is short
        listening.bind("socket.toml")
    yield from ("pipe", "folder", "socket")
    if os.geteuid() == 0:
        for name, kind in (("block", stat.S_IFBLK), ("character", stat.S_IFCHR)):
            with suppress(PermissionError):  # in most containers
                os.mknod(folder / f"{name}.toml", kind | 0o600, os.makedev(1, 3))
                yield name


@pytest.mark.fault("Q3")
def test_what_is_no_file_is_left_alone_and_told_once(
    place: Place, caplog: pytest.LogCaptureFixture, fired: Fired
) -> None:
    strange = sorted(strange_things(place.folder))
    place.drop("a.toml")
    for _ in range(3):
        place.settle()
    assert place.engine.files == ["a.toml"]
    assert all(place.where(f"{name}.toml") == ["queue"] for name in strange)
    told = [record.getMessage() for record in caplog.records if "left alone" in record.getMessage()]
    assert sorted(told) == sorted(f"queue: {name}.toml is no regular file and is left alone" for name in strange)
    fired("Q3", f"{len(strange)} kinds: {', '.join(strange)}")


@pytest.mark.fault("Q3")
def test_large_and_sparse_files_are_not_read(place: Place, fired: Fired) -> None:
    with (place.folder / "a.toml").open("wb") as file:
        file.truncate(1 << 40 if os.statvfs(place.folder).f_bsize else 0)
    place.drop("b.toml", b"x" * (MOST_BYTES + 1))
    place.drop("c.toml", b"x" * MOST_BYTES)
    place.settle()
    assert place.where("a.toml") == place.where("b.toml") == ["rejected"]
    assert f"at most {MOST_BYTES} bytes" in place.error("a.toml")
    assert place.engine.files == ["c.toml"]
    fired("Q3", place.error("a.toml"))


@pytest.mark.fault("Q4")
@pytest.mark.parametrize("name", [b"a\nb.toml", b"\x1b[31m.toml", b"\xff\xfe.toml", b"n" * 250 + b".toml"])
def test_strange_names_are_rejected_under_harmless_ones(place: Place, name: bytes, fired: Fired) -> None:
    (place.folder / os.fsdecode(name)).write_bytes(b"good")
    place.drop("z.toml")
    place.settle()
    assert place.engine.files == ["z.toml"]
    rejected = [path.name for path in (place.folder / "rejected").iterdir()]
    assert len(rejected) == 2 and all(entry.isascii() and entry.isprintable() for entry in rejected)
    assert all(file.isprintable() for file, _ in place.engine.refused)
    fired("Q4", f"a file named {name!r}")


@pytest.mark.fault("Q9")
def test_a_file_that_cannot_be_read_is_rejected_with_advice(
    place: Place, monkeypatch: pytest.MonkeyPatch, fired: Fired
) -> None:
    real = os.open

    def forbidden(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "a.toml":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", forbidden)
    place.drop("a.toml")
    place.drop("b.toml")
    place.settle()
    assert "permission denied on opening it" in place.error("a.toml") and "chmod" in place.error("a.toml")
    assert place.engine.files == ["b.toml"]
    fired("Q9", place.error("a.toml"))


@pytest.mark.fault("Q10")
def test_a_file_that_is_withdrawn_meanwhile_is_no_trouble(
    place: Place, monkeypatch: pytest.MonkeyPatch, fired: Fired
) -> None:
    path = place.drop("a.toml")
    place.spool.look()
    place.clock.now += 1
    real = files.move_in

    def withdraw(*args: object) -> None:
        path.unlink()
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(spool_module, "move_in", withdraw)
    place.spool.look()
    assert place.engine.files == [] and place.spool.trouble == ""
    fired("Q10", "it went between look and claim")


@pytest.mark.fault("Q9")
def test_a_full_disk_is_named_and_goes_by(place: Place, monkeypatch: pytest.MonkeyPatch, fired: Fired) -> None:
    def full(*args: object) -> None:
        raise DiskError("cannot write: No space left on device", hint="look at the disk")

    real = files.replace_in
    monkeypatch.setattr(spool_module, "replace_in", full)
    place.drop("a.toml")
    place.settle()
    assert "No space left" in place.spool.trouble
    fired("Q9", place.spool.trouble)
    assert place.where("a.toml") == ["claimed"]
    monkeypatch.setattr(spool_module, "replace_in", real)
    place.spool.look()
    assert place.spool.trouble == "" and place.engine.files == ["a.toml"]


# ---------------------------------------------------------------- the folder


@pytest.mark.fault("Q9")
def test_a_missing_folder_is_named_and_found_again(place: Place, fired: Fired) -> None:
    shutil.rmtree(place.folder)
    assert place.spool.look() <= spool_module.POLL_SECS
    assert str(place.folder) in place.spool.trouble
    fired("Q9", place.spool.trouble)
    place.folder.mkdir()
    place.drop("a.toml")
    place.settle()
    assert place.engine.files == ["a.toml"] and place.spool.trouble == ""


@pytest.mark.fault("Q9")
def test_a_link_in_the_folders_place_is_refused(place: Place, tmp_path: Path, fired: Fired) -> None:
    place.folder.rename(tmp_path / "elsewhere")
    place.folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "a.toml").write_bytes(b"good")
    place.settle()
    assert place.engine.files == [] and place.spool.trouble
    fired("Q9", place.spool.trouble)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make another user's folder")
@pytest.mark.parametrize("name", [".claimed", "rejected"])
def test_a_folder_that_somebody_put_in_the_place_of_ours_is_refused(place: Place, name: str) -> None:
    (place.folder / name).mkdir()
    os.chown(place.folder / name, 12345, 12345)
    place.drop("a.toml")
    place.settle()
    assert "another user" in place.spool.trouble
    assert place.where("a.toml") == ["queue"]


# ---------------------------------------------------------------- crashes


class Killed(BaseException):
    """The daemon ends here: nothing after it happens."""


def test_an_offer_that_cannot_be_taken_now_is_made_again(place: Place) -> None:
    place.engine.answers["a.toml"] = Refused("the daemon is ending")
    place.drop("a.toml")
    place.drop("b.toml")
    place.settle()
    assert (place.where("a.toml"), place.where("b.toml")) == (["claimed"], ["queue"])
    del place.engine.answers["a.toml"]
    place.settle()
    assert place.engine.files == ["a.toml", "b.toml"]


def test_a_new_file_of_the_same_name_waits_for_the_claimed_one(place: Place) -> None:
    place.engine.answers["a.toml"] = Refused("the daemon is ending")
    place.drop("a.toml", b"first")
    place.settle()
    place.drop("a.toml", b"second")
    place.settle()
    assert place.where("a.toml") == ["queue", "claimed"]
    del place.engine.answers["a.toml"]
    place.settle()
    assert [drop.data for drop in place.engine.drops] == [b"first", b"second"]


@pytest.mark.fault("Q12")
def test_a_file_that_ends_the_daemon_is_put_aside(place: Place, fired: Fired) -> None:
    def deadly(data: bytes, file: str) -> Parsed:
        raise Killed

    place.drop("a.toml")
    place.drop("b.toml")
    place.restart(deadly)
    with pytest.raises(Killed):
        place.settle()
    assert place.where("a.toml") == ["claimed"]
    place.restart()
    place.settle()
    assert place.where("a.toml") == ["rejected"]
    assert "autoperfd ended while it read it" in place.error("a.toml")
    assert place.engine.files == ["b.toml"]
    assert [file for file, _ in place.engine.refused] == ["a.toml"]
    fired("Q12", place.error("a.toml"))


def test_a_file_that_nothing_was_left_to_read_with_is_not_put_aside(place: Place) -> None:
    def short(data: bytes, file: str) -> Parsed:
        raise OSError(errno.EMFILE, "Too many open files")

    place.drop("a.toml")
    place.restart(short)
    place.settle()
    assert place.where("a.toml") == ["claimed"]
    place.restart()  # killed meanwhile
    place.settle()
    assert place.engine.files == ["a.toml"] and not place.engine.refused


def test_a_slow_file_is_not_put_aside_when_the_daemon_ends_in_order(live: Place) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slow(data: bytes, file: str) -> Parsed:
        reading.set()
        assert go_on.wait(PATIENCE_SECS)
        return quick(data, file)

    live.drop("a.toml")
    live.spool = Spool(live.folder, slow, live.engine.offer, live.engine.refuse, settle_secs=0.01)
    live.spool.start()
    assert reading.wait(PATIENCE_SECS)
    assert (live.folder / ".claimed" / ".reading").read_text() == "a.toml"
    assert not live.spool.stop(0.01)
    assert not (live.folder / ".claimed" / ".reading").exists()
    assert live.where("a.toml") == ["claimed"]
    go_on.set()


CALLS = ("rename", "fsync", "unlink", "open", "write", "read", "fstat", "stat", "scandir", "mkdir")


class Death:
    """Ends the intake at its nth system call."""

    def __init__(self, n: int, patched: pytest.MonkeyPatch) -> None:
        self.left, self.fired = n, False
        for name in CALLS:
            patched.setattr(os, name, self.instead_of(getattr(os, name)))

    def instead_of(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            self.left -= 1
            if self.left == 0:
                self.fired = True
                raise Killed
            return real(*args, **kwargs)

        return call


@pytest.mark.fault("Q11")
@pytest.mark.parametrize("data", [b"good", b"bad"])
def test_a_crash_at_any_call_leaves_each_file_in_one_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, fired: Fired
) -> None:
    """After it the file is offered (perhaps twice) or rejected, never lost, never in two places."""
    struck, n = True, 0
    while struck:
        n += 1
        place = Place(tmp_path / f"queue{n}")
        place.drop("a.toml", data)
        place.spool.look()
        place.clock.now += 1
        with monkeypatch.context() as patched:
            death = Death(n, patched)
            with suppress(Killed):
                place.spool.look()
        struck = death.fired
        assert len(place.where("a.toml")) == 1 or (data == b"good" and place.engine.files)
        place.restart()
        place.settle()
        if place.where("a.toml") == ["rejected"]:
            assert place.error("a.toml")
        else:
            assert data == b"good" and place.engine.files and place.where("a.toml") == []
        leftovers = {path.name for path in place.folder.rglob("*")} - {"a.toml", "a.toml.error.txt"}
        assert leftovers == {".claimed", "rejected"}
    assert n > 20
    fired("Q11", f"died at each of {n - 1} calls")


# ---------------------------------------------------------------- the thread


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "queue")
    place.spool = Spool(place.folder, quick, place.engine.offer, place.engine.refuse, rescan_secs=30, settle_secs=0.1)
    yield place
    assert place.spool.stop(PATIENCE_SECS)
    assert not [thread.name for thread in threading.enumerate() if "Observer" in type(thread).__name__]


def test_a_dropped_file_is_taken_long_before_the_rescan(live: Place) -> None:
    live.drop("before.toml")
    live.spool.start()
    assert live.engine.wait_for(lambda: live.engine.files == ["before.toml"])
    live.drop("in-place.toml")
    assert live.engine.wait_for(lambda: "in-place.toml" in live.engine.files)
    live.drop(".temporary").rename(live.folder / "renamed.toml")
    assert live.engine.wait_for(lambda: "renamed.toml" in live.engine.files)
    outside = live.folder.parent / "outside.toml"
    outside.write_bytes(b"good")
    outside.rename(live.folder / "moved-in.toml")
    assert live.engine.wait_for(lambda: "moved-in.toml" in live.engine.files)
    os.link(live.drop("x.txt"), live.folder / "linked.toml")
    assert live.engine.wait_for(lambda: "linked.toml" in live.engine.files)
    assert live.spool.alive() and time.monotonic() - live.spool.beat < PATIENCE_SECS


@pytest.mark.fault("Q5")
def test_a_slow_writer_is_read_whole(live: Place, fired: Fired) -> None:
    engine = live.engine
    live.spool = Spool(live.folder, quick, engine.offer, engine.refuse, rescan_secs=30, settle_secs=30)
    assert live.spool._hints.watch(live.folder)  # else the first file may come before anybody watches
    live.spool.start()
    with (live.folder / "slow.toml").open("wb", buffering=0) as file:
        for n in range(3):
            file.write(b"part %d " % n)
            live.drop(f"other{n}.toml")  # taken, so a look went by
            assert engine.wait_for(lambda: len(engine.files) == n + 1)  # noqa: B023 - used at once
        file.write(b"end")
    assert engine.wait_for(lambda: len(engine.files) == 4)
    assert engine.drops[3].data == b"part 0 part 1 part 2 end"
    fired("Q5", "it was written in four parts, a look after each")


def test_a_folder_that_was_made_anew_is_watched_again(live: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "POLL_SECS", 0.05)
    live.spool.start()
    live.drop("a.toml")
    assert live.engine.wait_for(lambda: "a.toml" in live.engine.files)
    live.folder.rename(live.folder.with_name("old"))
    live.folder.mkdir()
    live.drop("b.toml")
    live.spool.wake()
    assert live.engine.wait_for(lambda: "b.toml" in live.engine.files)
    live.drop("c.toml")
    assert live.engine.wait_for(lambda: "c.toml" in live.engine.files)


def test_without_inotify_it_looks_by_itself(live: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*args: object, **kwargs: object) -> None:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(spool_module, "POLL_SECS", 0.05)
    monkeypatch.setattr(spool_module, "Observer", none_left)
    live.spool.start()
    live.drop("a.toml")
    assert live.engine.wait_for(lambda: "a.toml" in live.engine.files)


def test_a_dead_observer_is_replaced(tmp_path: Path) -> None:
    hints = Hints()
    assert hints.watch(tmp_path)
    first = hints._observer
    assert first is not None and hints.watch(tmp_path) and hints._observer is first
    first.stop()
    first.join(PATIENCE_SECS)
    assert hints.watch(tmp_path)
    assert hints._observer is not first
    hints.close()


def whole(words: str) -> bytes:
    """Bytes that tell by themselves whether all of them are there and belong together."""
    body = words.encode() * 500
    return hashlib.sha256(body).hexdigest().encode() + body


def is_whole(data: bytes) -> bool:
    return data[:64].decode() == hashlib.sha256(data[64:]).hexdigest()


RACES = 300


@pytest.mark.fault("Q5")
def test_no_torn_or_mixed_file_is_taken_in_any_race(live: Place, monkeypatch: pytest.MonkeyPatch, fired: Fired) -> None:
    """Files written in parts, renamed over one another, and edited through an old descriptor after their claim."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # no power is cut here
    engine = live.engine
    # The writer may be held up for less than settle_secs; what is closed or renamed is taken at once.
    live.spool = Spool(live.folder, quick, engine.offer, engine.refuse, rescan_secs=1, settle_secs=5)
    live.spool.start()
    edited = {}
    for n in range(RACES):
        if n % 3 == 0:
            with (live.folder / f"slow{n}.toml").open("wb", buffering=0) as file:
                data = whole(f"slow {n}")
                for part in range(0, len(data), 1500):
                    file.write(data[part : part + 1500])
        elif n % 3 == 1:
            live.drop(f".new{n}", whole(f"renamed {n}")).rename(live.folder / f"{n % 7}.toml")
        else:
            edited[f"edited{n}.toml"] = os.open(live.drop(f".edited{n}", whole(f"edited {n}")), os.O_WRONLY)
            (live.folder / f".edited{n}").rename(live.folder / f"edited{n}.toml")
    while edited:
        assert engine.wait_for(lambda: bool(edited.keys() & set(engine.files)))
        for name in edited.keys() & set(engine.files):
            os.write(edited[name], b"too late")
            os.close(edited.pop(name))
    slow = {f"slow{n}.toml" for n in range(0, RACES, 3)}
    assert engine.wait_for(lambda: slow <= set(engine.files))
    assert all(is_whole(drop.data) for drop in engine.drops)
    assert len(engine.files) >= RACES * 2 // 3 and not engine.refused
    fired("Q5", f"{len(slow)} written in parts, as many edited after the claim, as many renamed over one another")


CROWD = 100_000


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.fault("Q8")
def test_a_crowd_of_files_is_taken_in_order_and_in_bounds(
    place: Place, monkeypatch: pytest.MonkeyPatch, fired: Fired
) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # a hundred thousand waits for a disk show nothing more
    place.engine.offer = lambda drop: place.engine.refused.append((drop.file, "")) or ()  # type: ignore[func-returns-value,method-assign]
    place.restart()
    for n in range(CROWD):
        os.close(os.open(place.folder / f"{n:06}.toml", os.O_CREAT | os.O_WRONLY, 0o644))
    before = memory_mib()
    place.spool.look()
    place.clock.now += 1
    looks, longest = 0, 0.0
    while len(place.engine.refused) < CROWD:
        began, taken = time.perf_counter(), len(place.engine.refused)
        place.spool.look()
        longest = max(longest, time.perf_counter() - began)
        looks += 1
        assert 0 < len(place.engine.refused) - taken <= spool_module.MOST_FILES
    names = [file for file, _ in place.engine.refused]
    assert names == sorted(set(names)) and len(names) == CROWD
    assert memory_mib() - before < 64 + CROWD * 200 / 2**20  # and what this test keeps of them
    fired("Q8", f"{CROWD} files in {looks} looks, the longest {longest:.1f} s")


def memory_mib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.fault("Q1")
def test_many_files_and_the_real_parser(tmp_path: Path, fired: Fired) -> None:
    place = Place(tmp_path / "queue")
    place.restart(lambda data, file: read_limited(data, file, TOOLS, []))
    place.drop("good.toml", EXAMPLE)
    bad = sorted((Path(__file__).parents[1] / "data" / "bad").glob("*.toml"))
    for file in bad:
        shutil.copy(file, place.folder / file.name)
    place.settle()
    assert place.engine.files == ["good.toml"]
    assert len(place.engine.drops[0].parsed.documents) == 1
    assert len(place.engine.refused) == len(bad) >= 40
    assert all(place.where(file.name) == ["rejected"] and place.error(file.name) for file in bad)
    fired("Q1", f"{len(bad)} bad files")


@pytest.mark.fault("Q1")
def test_a_million_million_combinations_pass_the_queue_at_once(tmp_path: Path, fired: Fired) -> None:
    place = Place(tmp_path / "queue")
    place.restart(lambda data, file: read_limited(data, file, TOOLS, []))
    text = EXAMPLE.decode().replace("[1, 50, 100]", "{ min = 1, max = 1000 }")
    text = text.replace("[30]", "{ min = 3, max = 1002 }").replace("datalen_bytes    = [100]", "datalen_bytes = []")
    text = text.replace("latency_count    = [100]", "latency_count = { min = 1, max = 1000 }")
    place.drop("huge.toml", text.encode())
    place.spool.look()
    place.clock.now += 1
    with at_most(100_000):  # and what reads the file has two seconds of processor time
        place.spool.look()
    (experiment,) = place.engine.drops[0].parsed.experiments
    assert experiment.sweep.count == 4 * 10**12
    fired("Q1", f"{experiment.sweep.count} tests")
