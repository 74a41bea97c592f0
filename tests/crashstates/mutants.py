"""Deliberate bugs of the write protocols, each put into the traced process only. Names of MUTANTS are test ids."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoperfd.daemon import archive, exports, files, spool, store


@dataclass(frozen=True)
class Mutant:
    """A bug: the protocol that shows it, and how it is put in. `inject`: a fault that is needed besides."""

    protocol: str
    put_in: Callable[[], None]
    inject: str = ""


MUTANTS: dict[str, Mutant] = {}


def mutant(protocol: str, inject: str = "") -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Make a function one of the mutants."""

    def keep(function: Callable[[], None]) -> Callable[[], None]:
        MUTANTS[function.__name__] = Mutant(protocol, function, inject)
        return function

    return keep


def _fsync(folders: bool) -> Callable[[int], None]:
    """An fsync that does nothing for folders, or nothing for files."""
    real = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode) != folders:
            real(fd)

    return fsync


def _no_folder_fsync() -> None:
    vars(os)["fsync"] = _fsync(folders=True)


def _no_file_fsync() -> None:
    vars(os)["fsync"] = _fsync(folders=False)


for _protocol in ("archives", "intake", "snapshots"):
    MUTANTS[f"{_protocol}: no fsync of the folder"] = Mutant(_protocol, _no_folder_fsync)
    MUTANTS[f"{_protocol}: no fsync before the rename"] = Mutant(_protocol, _no_file_fsync)


def _pragma(old: str, new: str) -> None:
    """Another setting of the memory's."""
    connect = sqlite3.connect

    class Bent:
        def __init__(self, db: sqlite3.Connection) -> None:
            self._db = db

        def __getattr__(self, name: str) -> Any:
            return getattr(self._db, name)

        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            return self._db.execute(sql.replace(old, new), *values)

    vars(sqlite3)["connect"] = lambda *args, **more: Bent(connect(*args, **more))


@mutant("memory")
def the_memory_is_not_synced() -> None:
    _pragma("synchronous=EXTRA", "synchronous=OFF")


@mutant("memory")
def the_memory_has_no_journal() -> None:
    _pragma("journal_mode=PERSIST", "journal_mode=OFF")


@mutant("memory")
def the_journal_is_not_on_the_disk() -> None:
    _pragma("journal_mode=PERSIST", "journal_mode=MEMORY")


@mutant("memory")
def one_commit_is_two() -> None:
    real = store.Store.commit

    def commit(self: store.Store, writes: Any) -> None:
        for write in writes:
            real(self, [write])

    store.Store.commit = commit  # type: ignore[method-assign]


@mutant("memory")
def a_migration_is_many_transactions() -> None:
    _pragma("BEGIN EXCLUSIVE", "SELECT 1")
    # autocommit: each statement is a transaction of its own, and there is none to end
    bent = sqlite3.connect

    def connect(*args: Any, **more: Any) -> Any:
        db: Any = bent(*args, **more)
        inner = db.execute
        db.execute = lambda sql, *values: inner(
            "SELECT 1" if sql == "COMMIT" and not db.in_transaction else sql, *values
        )
        return db

    vars(sqlite3)["connect"] = connect


@mutant("memory")
def it_is_told_before_it_is_durable() -> None:
    """What is committed comes with the next transaction."""
    real, close = store.Store.commit, store.Store.close
    waiting: list[Any] = []

    def commit(self: store.Store, writes: Any) -> None:
        real(self, waiting[:])
        waiting[:] = writes

    def end(self: store.Store) -> None:
        real(self, waiting[:])
        waiting.clear()
        close(self)

    store.Store.commit, store.Store.close = commit, end  # type: ignore[method-assign]


# ---------------------------------------------------------------- exports


@mutant("exports")
def the_ess_is_appended_to_without_a_look() -> None:
    exports.GrowingCsv._is_ours = lambda self, fd, unfinished: True  # type: ignore[method-assign]


@mutant("exports")
def an_edited_ess_is_overwritten() -> None:
    exports.GrowingCsv._keep_aside = lambda self: None  # type: ignore[method-assign]


# ---------------------------------------------------------------- archives


@mutant("archives")
def an_archive_is_written_in_place() -> None:
    real = Path.with_name
    vars(archive)["_keep_earlier"] = lambda target: None  # it would be the new one itself
    archive.Path.with_name = lambda self, name: self if name.endswith(".partial") else real(self, name)  # type: ignore


@mutant("archives")
def an_earlier_archive_is_overwritten() -> None:
    vars(archive)["_keep_earlier"] = lambda target: None


@mutant("archives")
def an_earlier_archive_is_kept_without_a_sync() -> None:
    def keep(target: Path) -> None:
        if target.exists():
            target.rename(f"{target}.earlier.tar.gz")

    vars(archive)["_keep_earlier"] = keep


def _once_more(fd: int) -> None:
    """An fsync that is tried again when it fails."""
    with contextlib.suppress(OSError):
        _real_fsync(fd)
        return
    _real_fsync(fd)


_real_fsync = os.fsync


@mutant("archives", inject="fsync:error=EIO:when=7")
def a_failed_fsync_is_tried_again() -> None:
    vars(os)["fsync"] = _once_more


# ---------------------------------------------------------------- the intake


def _around_take(before: Callable[[spool.Spool, str, Any], None]) -> None:
    real = spool.Spool._take

    def take(self: spool.Spool, name: str, folders: Any) -> bool:
        before(self, name, folders)
        return real(self, name, folders)

    spool.Spool._take = take  # type: ignore[method-assign]


@mutant("intake")
def a_claimed_file_is_removed_before_it_is_accepted() -> None:
    real = spool.Spool._take

    def take(self: spool.Spool, name: str, folders: Any) -> bool:
        offer = self._offer

        def early(drop: spool.Drop) -> Any:
            os.unlink(name, dir_fd=folders.claimed)
            os.fsync(folders.claimed)
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=folders.claimed))
            return offer(drop)

        self._offer = early
        try:
            return real(self, name, folders)
        finally:
            self._offer = offer

    spool.Spool._take = take  # type: ignore[method-assign]


@mutant("intake")
def a_rejected_file_is_moved_before_its_error_is_written() -> None:
    real = files.replace_in

    def late(folder: int, name: str, data: bytes | Iterable[bytes], mode: int = 0o640) -> None:
        waiting.append((folder, name, data, mode)) if name.endswith(".error.txt") else real(folder, name, data, mode)

    def moved(source: int, name: str, target: int, new: str) -> None:
        move(source, name, target, new)
        while waiting:
            real(*waiting.pop())

    waiting: list[Any] = []
    move = files.move_in
    vars(spool).update(replace_in=late, move_in=moved)


@mutant("intake")
def a_file_is_copied_and_removed_without_a_sync() -> None:
    def move(source: int, name: str, target: int, new: str) -> None:
        fd = os.open(name, os.O_RDONLY, dir_fd=source)
        data = os.read(fd, 1 << 20)
        os.close(fd)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=target)
        os.write(fd, data)
        os.close(fd)
        os.unlink(name, dir_fd=source)
        os.fsync(source)

    vars(spool).update(move_in=move)


@mutant("snapshots")
def the_snapshot_is_written_in_place() -> None:
    def replace(path: Path, data: bytes) -> None:
        path.write_bytes(data)
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    files.replace = replace  # type: ignore[assignment]
