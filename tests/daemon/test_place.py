"""The state folder: what is not as it must be is named with what was found and expected, and nothing is mended."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from autoperfd.daemon import place
from autoperfd.errors import StoreError
from tests.faults import Fired


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def link_at(path: Path) -> None:
    (path.parent / "real").mkdir(mode=0o750)
    path.symlink_to(path.parent / "real")


def foreign(path: Path) -> None:
    path.mkdir(mode=0o750)
    os.chown(path, 4242, 4242)


def with_mode(mode: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        path.chmod(mode)

    return make


UNFIT: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "missing": (lambda path: None, "is missing", "sudo install -d"),
    "a file": (lambda path: path.write_text("x"), "is a file", "sudo install -d"),
    "a FIFO": (os.mkfifo, "is a FIFO", "sudo install -d"),
    "a socket": (socket_at, "is a socket", "sudo install -d"),
    "a link": (link_at, "is a symbolic link", "Set [paths] state"),
    "somebody else's": (foreign, "belongs to uid 4242", "sudo chown -R"),
    "for everybody": (with_mode(0o777), "has mode 0777", "sudo chmod 0750"),
    "for the group": (with_mode(0o770), "has mode 0770", "sudo chmod 0750"),
    "closed to ourselves": (with_mode(0o500), "has mode 0500", "sudo chmod 0750"),
}


@pytest.mark.fault("D12")
@pytest.mark.parametrize("kind", UNFIT)
def test_a_folder_that_is_unfit_is_named(tmp_path: Path, kind: str, fired: Fired) -> None:
    make, found, hint = UNFIT[kind]
    if kind == "somebody else's" and os.geteuid() != 0:
        pytest.skip("giving a folder away needs root")
    state = tmp_path / "state"
    make(state)
    before = os.lstat(state) if kind != "missing" else None
    with pytest.raises(StoreError) as raised:
        place.check(state)
    message = raised.value.message
    assert message.startswith(f"the state folder {state} {found}, expected a folder of ") and "0750" in message
    assert hint in raised.value.hint
    after = os.lstat(state) if os.path.lexists(state) else None
    assert (before is None) == (after is None)
    assert before is None or after is None or before.st_mode == after.st_mode
    fired("D12", message)


@pytest.mark.parametrize("mode", [0o750, 0o700, 0o755])
def test_a_folder_that_is_fit(tmp_path: Path, mode: int) -> None:
    with_mode(mode)(tmp_path / "state")
    place.check(tmp_path / "state")


def mounts(tmp_path: Path, *lines: tuple[str, str]) -> Path:
    path = tmp_path / "mountinfo"
    rows = [f"36 35 98:0 / {where} rw,noatime master:1 - {kind} /dev/x rw\n" for where, kind in lines]
    path.write_text("".join(rows))
    return path


@pytest.mark.fault("D12")
@pytest.mark.parametrize(
    ("kind", "words"),
    [("ext4", None), ("xfs", None), ("btrfs", None), ("overlay", None), ("tmpfs", "will not survive"), ("nfs4", "net")],
)
def test_the_disk_under_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str | None, fired: Fired
) -> None:
    state = tmp_path / "my state"
    state.mkdir()
    escaped = str(state).replace(" ", "\\040")
    table = mounts(
        tmp_path, ("/", "zfs"), (str(tmp_path), "proc"), (escaped, "proc"), (escaped, kind), ("/my", "sysfs")
    )
    assert place.file_system(state, table) == kind
    assert place.file_system(tmp_path / "other", table) == "proc"
    monkeypatch.setattr(place, "file_system", lambda folder: kind)
    said = place.warnings(state)
    assert said == () if words is None else (words in said[0] and str(state) in said[0] and kind in said[0])
    fired("D12", kind)


def test_the_real_mounts_are_understood() -> None:
    assert place.file_system(Path("/proc/self")) == "proc"
    assert place.file_system(Path("/")) != ""
    assert place.file_system(Path("/"), Path("/nowhere")) == ""
