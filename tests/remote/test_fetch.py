"""Fetching from real sshd machines: names, caps, hashes, files that are not files, changing ones."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
from dataclasses import replace

import pytest

from autoperfd.errors import DiskError, FetchFailed
from autoperfd.remote import Order, answers
from autoperfd.remote.shell import Shell, ShellBroken
from tests.faults import Fired
from tests.remote.support import QUICK, Bench, make, script

pytestmark = pytest.mark.lab


def finished(bench: Bench, text: str, *files: str) -> Order:
    order = bench.order(script("pub_0", bench.p1, text, files=files))
    make(bench.fleet(), order)
    return order


def again(bench: Bench, order: Order, **timing: int) -> tuple[dict[str, object], dict[str, str]]:
    """Fetches once more into a new folder."""
    folder = bench.folder / os.urandom(8).hex()
    folder.mkdir()
    outcome = make(bench.fleet(replace(QUICK, **timing)), replace(order, folder=folder), confirmed=True)
    for file in outcome.files:
        data = (folder / file.name).read_bytes()
        assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    return {file.name: file for file in outcome.files}, dict(outcome.problems)


def test_all_sizes_come_over_whole(bench: Bench) -> None:
    sizes = [0, 1, 4095, 4096, 65536, 262_143, 262_144, 3_000_001]
    names = [f"file_{size}.bin" for size in sizes]
    order = bench.order(script("pub_0", bench.p1, "exit 0", files=tuple(names)))
    make(bench.fleet(), order)
    there = bench.attempt_folder(bench.p1, order.uid) / "files"
    for name, size in zip(names, sizes, strict=True):
        (there / name).write_bytes(os.urandom(size))
    files, problems = again(bench, order)
    assert set(names) <= set(files) and not problems
    for name in names:
        assert hashlib.sha256((there / name).read_bytes()).hexdigest() == files[name].sha256  # type: ignore[attr-defined]


def test_big_files_are_cut_at_the_cap(bench: Bench) -> None:
    text = "head -c 5000 /dev/zero >big; head -c 5000 /dev/zero | tr '\\0' x >big2; echo ok >small"
    order = finished(bench, text, "big", "small", "big2")
    files, _ = again(bench, order, max_file_bytes=4096)
    assert (files["big"].size, files["big"].truncated) == (4096, True)  # type: ignore[attr-defined]
    assert (files["big2"].size, files["big2"].truncated) == (4096, True)  # type: ignore[attr-defined]
    assert (files["small"].size, files["small"].truncated) == (3, False)  # type: ignore[attr-defined]


def test_a_flood_is_stopped_on_the_machine(bench: Bench) -> None:
    order = bench.order(script("pub_0", bench.p1, "exec cat /dev/zero"))
    outcome = make(bench.fleet(replace(QUICK, max_file_bytes=1 << 20)), order)
    assert outcome.records[0].signal == signal.SIGXFSZ or outcome.records[0].exit == 1  # where it is ignored
    assert (order.folder / "pub_0.stdout").stat().st_size == 1 << 20


def test_links_pipes_and_folders_are_not_followed(bench: Bench) -> None:
    text = "ln -s /etc/passwd link; mkfifo pipe; mkdir folder; ln -s /proc/kmsg proc; echo ok >plain"
    order = finished(bench, text, "link", "pipe", "folder", "proc", "plain")
    files, problems = again(bench, order)
    assert set(files) == {"plain", "pub_0.stdout", "pub_0.stderr"}
    assert problems["p1"] == "IRREGULAR folder; IRREGULAR link; IRREGULAR pipe; IRREGULAR proc"


def test_what_lies_in_the_way_here_is_not_followed(bench: Bench) -> None:
    order = finished(bench, "echo theirs >file", "file")
    folder = bench.folder / "target"
    folder.mkdir()
    victim = bench.folder / "victim"
    victim.write_text("precious")
    (folder / "file").symlink_to(victim)
    make(bench.fleet(), replace(order, folder=folder), confirmed=True)
    assert victim.read_text() == "precious"
    assert (folder / "file").read_text() == "theirs\n" and not (folder / "file").is_symlink()


def test_wrong_hash_is_fetched_again_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    order = finished(bench, "echo data >file", "file")
    real, asked = answers.hashes, []

    def lying_once(text: str) -> dict[str, str]:
        asked.append(text)
        return {**real(text), **({"file": "0" * 64} if len(asked) == 1 else {})}

    monkeypatch.setattr(answers, "hashes", lying_once)
    files, _ = again(bench, order)
    assert "file" in files and len(asked) == 2

    monkeypatch.setattr(answers, "hashes", lambda text: {})
    with pytest.raises(FetchFailed, match="another hash"):
        again(bench, order)


def test_a_full_disk_here_does_not_spoil_the_next_fetch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    order = finished(bench, "head -c 300000 /dev/urandom >file", "file")
    there = (bench.attempt_folder(bench.p1, order.uid) / "files" / "file").read_bytes()
    fleet, folder, real = bench.fleet(), bench.folder / "whole", os.write

    def full(fd: int, data: bytes | memoryview) -> int:
        if len(data) > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskError):
        make(fleet, order, confirmed=True)
    monkeypatch.setattr(os, "write", real)
    folder.mkdir()
    make(fleet, replace(order, folder=folder), confirmed=True)
    assert (folder / "file").read_bytes() == there


@pytest.mark.fault("N9")
def test_every_cut_of_the_stream_is_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch, fired: Fired) -> None:
    """The connection ends after n bytes of the answer: fetched again on a new one, and whole."""
    order = finished(bench, "head -c 20000 /dev/urandom >file", "file")
    there = (bench.attempt_folder(bench.p1, order.uid) / "files" / "file").read_bytes()
    real = Shell._receive
    for cut in (0, 1, 10, 60, 100, 150, 5000, 20_050, 20_150, 20_200):
        fleet = bench.fleet()
        fleet.sweep([bench.p1], keep=[order.uid])
        control = fleet._lines([bench.p1])["p1"].link._shells["control"]
        left = [cut]

        def cutting(self: Shell, deadline: float, size: int, left: list[int] = left, spare: Shell = control) -> bytes:
            data = real(self, deadline, size)
            if left and self is not spare:
                left[0] -= len(data)
                if left[0] <= 0:
                    left.clear()
                    self.close()
                    raise ShellBroken("lost")
            return data

        folder = bench.folder / f"cut-{cut}"
        folder.mkdir()
        monkeypatch.setattr(Shell, "_receive", cutting)
        make(fleet, replace(order, folder=folder), confirmed=True)
        monkeypatch.setattr(Shell, "_receive", real)
        assert not left, "the cut did not happen"
        fired("N9", f"cut after {cut} bytes")
        assert (folder / "file").read_bytes() == there


@pytest.mark.parametrize(
    "manifest",
    [
        "whole 3 ../evil\n",
        "whole 3 other\n",
        "whole 3 file\nwhole 3 file\n",
        "whole 99999999 file\n",
        "whole -1 file\n",
        "whole 3 file extra\n",
        "strange 3 file\n",
        "whole 3 fi\u001ble\n",
        "whole ３ file\n",
        "\n",
    ],
)
def test_manifests_that_do_not_fit_are_refused(manifest: str) -> None:
    with pytest.raises(ShellBroken):
        answers.manifest(manifest, {"file"}, 1000)


@pytest.mark.parametrize(
    "text",
    ["", "state", "state flying", "state done\nstate done", "state done\nrec 1 0 1 -", "state done\nrec 0 x 1 -",
     "state done\nboot ../../x", "state done\nuptime 1e9", "state done\nrec 0 999 1.0 -", "state done\nboot \x1b[2J"],
)  # fmt: skip
def test_states_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(ShellBroken):
        answers.found(text)


def test_absent_files_are_left_out(bench: Bench) -> None:
    order = finished(bench, "exit 0", "never_written")
    files, problems = again(bench, order)
    assert set(files) == {"pub_0.stdout", "pub_0.stderr"} and not problems
