"""The file helper: old or new content whatever fails, and nothing half done is left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from autoperfd.daemon import files
from autoperfd.errors import DiskError


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_replace_writes_all_and_leaves_nothing_else(tmp_path: Path) -> None:
    files.replace(tmp_path / "x", b"old")
    files.replace(tmp_path / "x", (part for part in (b"n", b"", b"ew")), mode=0o600)
    assert (tmp_path / "x").read_bytes() == b"new"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == {"x"}


def test_the_mode_is_the_one_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.replace(tmp_path / "x", b"", mode=0o644)
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_short_writes_are_written_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.write, []

    def short(fd: int, data: bytes) -> int:
        calls.append(len(data))
        return real(fd, data[:3])

    monkeypatch.setattr(os, "write", short)
    files.replace(tmp_path / "x", b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"
    assert calls == [10, 7, 4, 1]


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "fchmod"])
def test_a_failure_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    files.replace(tmp_path / "x", b"old")
    fired = []

    def fail(*args: object, **kwargs: object) -> None:
        fired.append(call)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(DiskError, match="No space left"):
        files.replace(tmp_path / "x", b"new")
    assert fired == [call], "an fsync that failed must not be tried again"
    assert (tmp_path / "x").read_bytes() == b"old"
    assert names(tmp_path) == {"x"}


def test_the_folder_is_synced_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        real_fsync(fd)

    def rename(*args: str, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        order.append("rename")
        real_rename(*args, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    files.replace(tmp_path / "x", b"new")
    assert order == ["file", "rename", "folder"]


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(DiskError):
        files.replace(tmp_path / "link" / "x", b"new")
    assert names(tmp_path / "real") == set()


def test_make_folder(tmp_path: Path) -> None:
    files.make_folder(tmp_path / "a" / "b" / "c")
    files.make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(DiskError):
        files.make_folder(tmp_path / "file" / "x")
    with pytest.raises(DiskError):
        files.make_folder(tmp_path / "file")
    with pytest.raises(DiskError):
        files.sync_folder(tmp_path / "nowhere")


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / f"{files.TEMPORARY}0123").touch()
    (tmp_path / "mine").touch()
    folder = files.open_folder(tmp_path)
    files.remove_leftovers(folder)
    os.close(folder)
    assert names(tmp_path) == {"mine"}


def test_move_in(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    source, target = files.open_folder(tmp_path / "a"), files.open_folder(tmp_path / "b")
    files.move_in(source, "x", target, "y")
    os.close(source)
    os.close(target)
    assert names(tmp_path / "a") == set() and names(tmp_path / "b") == {"y"}
