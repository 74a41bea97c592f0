"""Knows how the page comes by a copy of the daemon's memory: seldom, one at a time, and gone when nobody looks.

A copy holds the engine up for a moment, so the next one is made after RARELY times as long, MOST_OFTEN_SECS at the
least. It lies in a folder of our own, a second name of the daemon's own copy, which others may take the place of.
Any thread.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from autoperfd.page.answers import Ask, NoAnswer

MOST_OFTEN_SECS = 30.0  # between two copies
RARELY = 50  # times as long as a copy takes passes until the next: 2 % of the engine's time at most
KEPT_SECS = 600.0  # after it was made
READ_SECS = 5.0  # one question to a copy
_TRIES = 3
_STEPS = 10_000  # of SQLite's between two looks at the clock


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the memory. `made`: Unix seconds; `number`: the how-manieth, so that two are told apart."""

    path: Path
    made: float
    number: int


class Memory:
    """The newest copy, in `folder`, which is on the disk of the daemon's own copies."""

    def __init__(self, ask: Ask, folder: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._folder, self._monotonic = ask, folder, monotonic
        self._lock = threading.Lock()
        self._copy: Copy | None = None
        self._count = 0
        self._made_at = self._next_at = 0.0  # monotonic

    @contextlib.contextmanager
    def reading(self) -> Iterator[tuple[sqlite3.Connection, Copy]]:
        """A connection to a copy that is new enough, for one question. Raises NoAnswer."""
        with self._lock:
            copy = self._fresh()
            db = opened(copy.path)
        with contextlib.closing(db):
            deadline = self._monotonic() + READ_SECS
            db.set_progress_handler(lambda: self._monotonic() > deadline, _STEPS)
            try:
                yield db, copy
            except sqlite3.Error as error:
                raise NoAnswer(f"the copy of the memory cannot be read: {error}", "Look again in a minute") from error

    def borrow(self, name: str) -> tuple[Path, Copy]:
        """A further name of the newest copy, for whoever removes it. Raises NoAnswer."""
        with self._lock:
            copy = self._fresh()
            path = self._folder / name
            try:
                path.unlink(missing_ok=True)
                os.link(copy.path, path)
            except OSError as error:
                raise NoAnswer(f"the memory cannot be read: {error.strerror}") from error
            return path, copy

    def tidy(self) -> None:
        """Remove a copy that nobody has looked at for long."""
        if self._lock.acquire(blocking=False):
            try:
                if self._copy is not None and self._monotonic() - self._made_at >= KEPT_SECS:
                    self._drop()
            finally:
                self._lock.release()

    def _fresh(self) -> Copy:
        if self._copy is not None and self._monotonic() < self._next_at and self._copy.path.exists():
            return self._copy
        for _ in range(_TRIES):
            began = self._monotonic()
            reply = self._ask("copy", {})
            if not reply.ok:
                raise NoAnswer(reply.error, reply.hint)
            try:
                return self._take(Path(str(reply.data["memory"])), began)
            except FileNotFoundError:
                continue  # somebody else has asked for a copy just now, which took the place of ours
            except OSError as error:
                raise NoAnswer(f"the copy of the memory cannot be kept: {error.strerror}") from error
        raise NoAnswer("the daemon's copy of the memory is gone at once each time", "Look again in a minute")

    def _take(self, source: Path, began: float) -> Copy:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if not self._count:
            for left in self._folder.glob("*.db"):  # by an earlier process
                left.unlink()
        self._count += 1
        path = self._folder / f"memory-{self._count}.db"
        path.unlink(missing_ok=True)
        os.link(source, path)
        self._drop()
        self._made_at = self._monotonic()
        self._next_at = self._made_at + max(MOST_OFTEN_SECS, RARELY * (self._made_at - began))
        self._copy = Copy(path, time.time(), self._count)
        return self._copy

    def _drop(self) -> None:
        if self._copy is not None:
            with contextlib.suppress(OSError):
                self._copy.path.unlink()
            self._copy = None


def opened(path: Path) -> sqlite3.Connection:
    """A copy, to be read. Raises NoAnswer."""
    try:
        db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    except sqlite3.Error as error:
        raise NoAnswer(f"the copy of the memory cannot be read: {error}", "Look again in a minute") from error
    db.row_factory = sqlite3.Row
    return db
