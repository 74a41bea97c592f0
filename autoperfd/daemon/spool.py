"""Takes experiment files out of the queue folder, one at a time; promises that each is in exactly one place.

A file is in the queue, claimed (`.claimed/`), accepted (the offer returned after its commit) or in `rejected/` with
`NAME.error.txt` beside it, whatever crashes when. One thread of its own; file system events are only hints, the
rescan is the truth. Files of strangers are opened once, without following links or waiting for a FIFO's writer.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from autoperfd.core.tables import show_text
from autoperfd.daemon.files import TEMPORARY, move_in, open_folder, remove_leftovers, replace_in
from autoperfd.daemon.parse import MOST_BYTES, Parsed
from autoperfd.errors import AutoperfError, ConfigError, DiskError, Problem

log = logging.getLogger(__name__)

CLAIMED = ".claimed"
REJECTED = "rejected"
MARKER = ".reading"  # in .claimed/: the name of the file that is being read; it outlives a crash of the daemon
MOST_FILES = 1000  # taken in one pass
POLL_SECS = 5.0  # between two looks where nothing wakes us


@dataclass(frozen=True, slots=True)
class Drop:
    """A file that is understood: what it says, its bytes, and who owned it (uid)."""

    file: str
    data: bytes
    parsed: Parsed
    owner: int


Parse = Callable[[bytes, str], Parsed]  # raises ConfigError
Offer = Callable[[Drop], tuple[Problem, ...]]  # returns when all is durable; () accepted, else why not
Refuse = Callable[[str, str], None]  # (file, sentence): a file was rejected before it was offered


@dataclass(frozen=True, slots=True)
class _Look:
    """What identifies the content of a file that stands still, and since when it does (monotonic)."""

    inode: int
    size: int
    mtime_ns: int
    since: float

    def same(self, other: _Look) -> bool:
        """Whether nothing was written in between."""
        return (self.inode, self.size, self.mtime_ns) == (other.inode, other.size, other.mtime_ns)


@dataclass(frozen=True, slots=True)
class _Folders:
    """Descriptors of the three folders, valid during one pass."""

    queue: int
    claimed: int
    rejected: int


class Spool:
    """The intake. `start` and `stop` are for the main thread, `wake` for any."""

    def __init__(
        self,
        folder: Path,
        parse: Parse,
        offer: Offer,
        refuse: Refuse,
        *,
        rescan_secs: float = 60,
        settle_secs: float = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.trouble = ""  # why nothing can be taken in at all; "" while all is well
        self.beat = clock()  # when the thread last went round
        self._parse, self._offer, self._refuse = parse, offer, refuse
        self._rescan_secs, self._settle_secs, self._clock = rescan_secs, settle_secs, clock
        self._troubles: list[str] = []
        self._looks: dict[str, _Look] = {}
        self._told: set[tuple[str, int]] = set()  # (name, inode) of what is no file
        self._recovered = False
        self._stopping = threading.Event()
        self._hints = Hints()
        self._thread = threading.Thread(target=self._loop, name="spool", daemon=True)

    def start(self) -> None:
        """Begin to take files in."""
        self._thread.start()

    def stop(self, patience_secs: float = 5.0) -> bool:
        """End after the file in hand; False when that took longer than the patience."""
        self._stopping.set()
        self._hints.wake.set()
        if self._thread.ident is not None:
            self._thread.join(patience_secs)
        if self._thread.is_alive():
            with suppress(OSError):  # we end in order: the file in hand is slow, not deadly
                (self.folder / CLAIMED / MARKER).unlink()
        return not self._thread.is_alive()

    def wake(self) -> None:
        """Look at the folder now."""
        self._hints.wake.set()

    def alive(self) -> bool:
        """Whether the thread still goes round."""
        return self._thread.is_alive()

    # ------------------------------------------------------------ going round

    def _loop(self) -> None:
        try:
            while True:
                self.beat = self._clock()
                watched = self._hints.watch(self.folder)
                self._hints.wake.clear()
                if self._stopping.is_set():  # looked at after the clearing, or the call of `stop` could be lost
                    return
                wait = self.look()
                self._hints.wake.wait(wait if watched else min(wait, POLL_SECS))
        finally:
            self._hints.close()

    def look(self) -> float:
        """One pass over the folder; the seconds after which the next one is due at the latest."""
        before, self._troubles = self.trouble, []
        wait = POLL_SECS
        try:
            with self._folders() as folders:
                self._recover(folders)
                wait = self._pass(folders)
        except (OSError, DiskError) as error:
            self._trouble(f"the queue folder {self.folder} cannot be used", error)
        self.trouble = self._troubles[0] if self._troubles else ""
        if self.trouble and self.trouble != before:
            log.error("%s", self.trouble)
        return min(wait, POLL_SECS) if self.trouble else wait

    def _trouble(self, what: str, error: OSError | DiskError) -> None:
        reason = error.sentence() if isinstance(error, DiskError) else error.strerror or str(error)
        self._troubles.append(f"{what}: {reason}")

    def _pass(self, folders: _Folders) -> float:
        for name in sorted(self._names(folders.claimed)):  # what an offer left behind
            if not self._take(name, folders):
                return POLL_SECS
        names = self._names(folders.queue)
        self._looks = {name: look for name, look in self._looks.items() if name in names}
        self._told = {told for told in self._told if told[0] in names}
        closed = self._hints.taken()
        taken, waiting = 0, False
        for name in sorted(names):
            self.beat = self._clock()
            if self._stopping.is_set() or taken >= MOST_FILES:
                return 0
            try:
                ready = self._ready(name, folders, name in closed)
                waiting = waiting or ready is None
                if ready and self._claim(name, folders):
                    taken += 1
                    if not self._take(name, folders):
                        return POLL_SECS
            except (OSError, DiskError) as error:  # the others go on
                self._trouble(f"{show_text(name)} in the queue folder cannot be taken", error)
        return self._settle_secs if waiting else self._rescan_secs

    @staticmethod
    def _names(folder: int) -> set[str]:
        """The visible TOML files of a folder, whatever they really are."""
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.name.endswith(".toml") and entry.name[0] != "."}

    def _ready(self, name: str, folders: _Folders, closed: bool) -> bool | None:
        """True: complete; None: still settling; False: nothing to take."""
        try:
            found = os.stat(name, dir_fd=folders.queue, follow_symlinks=False)
        except FileNotFoundError:
            return False  # withdrawn
        if not stat.S_ISREG(found.st_mode):
            if (name, found.st_ino) not in self._told:
                self._told.add((name, found.st_ino))
                log.warning("queue: %s is no regular file and is left alone", show_text(name))
            return False
        look = _Look(found.st_ino, found.st_size, found.st_mtime_ns, self._clock())
        before = self._looks.get(name)
        if closed and found.st_size:
            return True
        if before is None or not before.same(look):
            self._looks[name] = look
            return None
        return True if look.since - before.since >= self._settle_secs else None

    # ------------------------------------------------------------ one file

    def _claim(self, name: str, folders: _Folders) -> bool:
        """Move a file out of everybody's reach; False when it was withdrawn or waits there already."""
        try:
            os.stat(name, dir_fd=folders.claimed, follow_symlinks=False)
            return False
        except FileNotFoundError:
            pass
        try:
            move_in(folders.queue, name, folders.claimed, name)
        except FileNotFoundError:
            log.info("queue: %s was withdrawn", show_text(name))
            return False
        self._looks.pop(name, None)
        return True

    def _take(self, name: str, folders: _Folders) -> bool:
        """Read a claimed file, offer what it says, and see it off; False when the offer failed: it stays claimed."""
        file = show_text(name)
        try:
            data, owner = _read(name, folders.claimed)
            parsed = self._read_marked(name, data, folders)
        except ConfigError as error:
            self._reject(name, error, folders)
            self._refuse(file, str(error))
            return True
        try:
            problems = self._offer(Drop(file, data, parsed, owner))
        except AutoperfError as error:
            log.warning("queue: %s waits: %s", file, error.sentence())
            return False
        if problems:
            self._reject(name, ConfigError(problems), folders)
        else:
            os.unlink(name, dir_fd=folders.claimed)
            os.fsync(folders.claimed)
        return True

    def _read_marked(self, name: str, data: bytes, folders: _Folders) -> Parsed:
        """Parse under a durable mark: a file that ends the daemon is not read again after the restart."""
        replace_in(folders.claimed, MARKER, os.fsencode(name), 0o600)
        try:
            parsed = self._parse(data, show_text(name))
        except OSError:  # nothing was left to read it with; it did us no harm
            self._unmark(folders)
            raise
        self._unmark(folders)
        return parsed

    @staticmethod
    def _unmark(folders: _Folders) -> None:
        with suppress(FileNotFoundError):
            os.unlink(MARKER, dir_fd=folders.claimed)
            os.fsync(folders.claimed)

    def _recover(self, folders: _Folders) -> None:
        """Once after the start: tidy up, and put aside the file that was being read when the daemon ended."""
        if self._recovered:
            return
        for folder in (folders.queue, folders.claimed, folders.rejected):
            os.fsync(folder)  # a process that was killed may have left names that are seen and not durable
        remove_leftovers(folders.claimed)
        remove_leftovers(folders.rejected)
        name = _marked(folders.claimed)
        if name in self._names(folders.claimed):
            suspect = Problem(show_text(name), 0, "file", "that autoperfd ended while it read it", "a harmless file")
            error = ConfigError([suspect])
            self._reject(name, error, folders)
            self._refuse(show_text(name), str(error))
        self._unmark(folders)
        self._recovered = True

    def _reject(self, name: str, error: ConfigError, folders: _Folders) -> None:
        """Move a claimed file to `rejected/`, its error first, so that it never lies there unexplained."""
        kept = _safe_name(name)
        count = len(error.problems)
        words = [
            f"{show_text(name)} was not accepted: {count} problem{'s' if count != 1 else ''}.",
            "",
            *map(str, error.problems),
            "",
            "Correct it, see what `autoperfctl check FILE` says, and drop it again.",
            "",
        ]
        _make_room(kept, folders)
        text = "\n".join(words).encode(errors="backslashreplace")
        replace_in(folders.rejected, f"{kept}.error.txt", text, 0o644)
        move_in(folders.claimed, name, folders.rejected, kept)
        self._unmark(folders)
        log.warning("queue: %s was rejected: %s", show_text(name), error.problems[0])

    # ------------------------------------------------------------ the folders

    @contextmanager
    def _folders(self) -> Iterator[_Folders]:
        opened: list[int] = []
        try:
            opened.append(open_folder(self.folder))
            opened.append(_own_folder(opened[0], CLAIMED, 0o700))
            opened.append(_own_folder(opened[0], REJECTED, 0o755))  # who may enter the queue folder may read it
            yield _Folders(*opened)
        finally:
            for fd in opened:
                os.close(fd)


def _own_folder(queue: int, name: str, mode: int) -> int:
    """A descriptor of our folder in the queue folder, made where it is missing; OSError where it is not ours."""
    with suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=queue)
        os.fsync(queue)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=queue)
    found = os.fstat(fd)
    if found.st_uid != os.geteuid():
        os.close(fd)
        raise PermissionError(None, f"{name} in it belongs to another user; remove it")
    if stat.S_IMODE(found.st_mode) & 0o777 != mode:
        os.fchmod(fd, mode)
    return fd


def _read(name: str, claimed: int) -> tuple[bytes, int]:
    """The bytes and the owner of a claimed file, read once from one descriptor; ConfigError where it cannot be."""
    file = show_text(name)
    if not name.isprintable() or len(os.fsencode(name)) > 200:
        raise ConfigError([Problem(file, 0, "file name", file, "at most 200 printable characters")])
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=claimed)
    except OSError as error:
        found = f"{(error.strerror or str(error)).lower()} on opening it"
        hint = "give the daemon's group or everybody the right to read it: chmod 644"
        raise ConfigError([Problem(file, 0, "file", found, "a file the daemon can read", hint)]) from None
    try:
        found_ = os.fstat(fd)
        if not stat.S_ISREG(found_.st_mode):
            raise ConfigError([Problem(file, 0, "file", "something else", "a regular file")])
        if found_.st_size > MOST_BYTES:
            found = f"{found_.st_size} bytes"
            raise ConfigError([Problem(file, 0, "file", found, f"at most {MOST_BYTES} bytes", "split it")])
        data = b""
        while len(data) <= MOST_BYTES and (part := os.read(fd, MOST_BYTES + 1 - len(data))):
            data += part
    except OSError as error:
        raise ConfigError([Problem(file, 0, "file", error.strerror or str(error), "a readable file")]) from None
    finally:
        os.close(fd)
    return data, found_.st_uid


def _marked(claimed: int) -> str:
    """The name of the file that was being read, "" where none was."""
    try:
        fd = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=claimed)
    except FileNotFoundError:
        return ""
    try:
        return os.fsdecode(os.read(fd, 4096))
    finally:
        os.close(fd)


def _safe_name(name: str) -> str:
    """A name that `rejected/` can show to anybody: the same where it is harmless."""
    if name.isprintable() and len(os.fsencode(name)) <= 200:
        return name
    return re.sub(r"[^A-Za-z0-9 ._#-]", "_", name.removesuffix(".toml"))[:150] + ".toml"


def _make_room(name: str, folders: _Folders) -> None:
    """Keep an older rejected file of that name under another one; nothing of anybody's is overwritten."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folders.rejected)
    except FileNotFoundError:
        return
    except OSError:
        mark = os.urandom(4).hex()
    else:
        try:
            mark = hashlib.sha256(os.read(fd, MOST_BYTES)).hexdigest()[:8]
        finally:
            os.close(fd)
    older = f"{name.removesuffix('.toml')}~{mark}.toml"
    for suffix in ("", ".error.txt"):
        with suppress(FileNotFoundError):
            os.rename(name + suffix, older + suffix, src_dir_fd=folders.rejected, dst_dir_fd=folders.rejected)


# ---------------------------------------------------------------- hints


class Hints(FileSystemEventHandler):
    """What inotify says: that a look is worth while, and which files were closed after writing.

    Events can be lost, late or wrong; nothing is decided on them but to look sooner. Nothing here may raise: an
    exception in a handler would end the observer without a word.
    """

    def __init__(self) -> None:
        self.wake = threading.Event()
        self._closed: set[str] = set()
        self._lock = threading.Lock()
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None  # (device, inode) of the folder
        self._warned = False

    def taken(self) -> set[str]:
        """The files closed since the last time."""
        with self._lock:
            closed, self._closed = self._closed, set()
        return closed

    def watch(self, folder: Path) -> bool:
        """See that the folder is watched, the observer alive; False where only rescans help."""
        try:
            found = folder.stat()
        except OSError:
            self.close()
            return False
        observer = self._observer
        alive = observer is not None and observer.is_alive() and all(e.is_alive() for e in observer.emitters)
        if alive and self._watched == (found.st_dev, found.st_ino):
            return True
        self.close()
        try:
            fresh = Observer()
            fresh.schedule(self, str(folder), recursive=False)
            fresh.start()
        except OSError as error:
            if not self._warned:
                log.warning("the queue folder is looked at every %g s only: %s", POLL_SECS, error)
            self._warned = True
            return False
        self._observer, self._watched = fresh, (found.st_dev, found.st_ino)
        return True

    def close(self) -> None:
        """Stop watching."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(2.0)
        self._observer = self._watched = None

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Note what an event says about one of our files, and wake the intake."""
        moved = event.event_type == "moved"
        name = os.path.basename(os.fsdecode(event.dest_path if moved else event.src_path))
        if event.is_directory and event.event_type == "deleted":
            self.wake.set()
        if not name.endswith(".toml") or name.startswith((".", TEMPORARY)):
            return
        if event.event_type in ("closed", "moved"):
            with self._lock:
                self._closed.add(name)
        elif event.event_type in ("created", "modified"):
            with self._lock:
                self._closed.discard(name)
        else:
            return
        self.wake.set()
