"""The daemon as a process on a state folder of a disk of its own, small enough to be filled for real."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from autoperfd.daemon.place import SNAPSHOT
from autoperfd.lab.loopback import LoopbackLab
from autoperfd.lab.recorder import Recorder
from tests.e2e.support import LiveDaemon, experiment_toml
from tests.e2e.test_on_loopback import machines
from tests.faults import Fired

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system, which needs root")

TESTS = """duration_secs = [3]
datalen_bytes = [100, 200, 300]
pub_count = [1]
sub_count = [1]
latency_count = [10]
"""
Start = Callable[[str], LiveDaemon]


@pytest.fixture
def on_disk(tmp_path: Path, loopback_lab: LoopbackLab) -> Iterator[Start]:
    """`on_disk(options)` starts a daemon whose state lies on a tmpfs with these mount options; a test runs."""
    state = tmp_path / "state"
    state.mkdir()
    started: list[LiveDaemon] = []

    def start(options: str) -> LiveDaemon:
        do("mount", "-t", "tmpfs", "-o", f"mode=0750,{options}", "autoperfd-test", str(state))
        daemon = LiveDaemon(tmp_path, more="[results]\ndisk_reserve_mb = 4")
        started.append(daemon)
        begin(daemon, loopback_lab)
        return daemon

    yield start
    for daemon in started:
        daemon.stop()
    subprocess.run(["umount", "--lazy", state], check=bool(started), timeout=10)


def do(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=10)


def begin(daemon: LiveDaemon, lab: LoopbackLab) -> None:
    """Until a test runs."""
    daemon.start()
    daemon.trust(lab.machines)
    daemon.drop("a.toml", experiment_toml("small", TESTS, machines(lab), reboot="never"))
    daemon.await_running("small")


def finish(daemon: LiveDaemon) -> None:
    """The experiment goes on by itself to its end, with one verdict a test and nothing lost."""
    daemon.await_outcome("small", secs=60)
    rows = daemon.ess("small")
    assert len({row["test_name"] for row in rows if row["end_status"] == "success"}) == 3, daemon.text()
    assert [row["blame"] for row in rows if row["blame"] == "test"] == []
    assert daemon.verify("small") == []


@pytest.mark.fault("D2", "D3")
def test_a_disk_that_fills_up_halts_and_goes_on_when_there_is_room(on_disk: Start, fired: Fired) -> None:
    """Filled to the last byte while a test runs: its result cannot be written, and is there when there is room."""
    daemon = on_disk("size=24m")
    ballast = daemon.state / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 65536) == 65536:
            pass
    assert os.statvfs(daemon.state).f_bavail == 0
    halted = daemon.await_state("small", "halted", 60)
    assert (halted["halted_cause"], halted["failed"]) == ("disk", 0), halted
    for row in ("D2", "D3"):
        fired(row, halted["halted_reason"])
    ballast.unlink()
    finish(daemon)


@pytest.mark.fault("D4")
def test_a_disk_without_inodes_says_so(on_disk: Start, fired: Fired) -> None:
    daemon = on_disk("size=64m,nr_inodes=700")
    many = daemon.state / "many"
    many.mkdir()
    with suppress(OSError):
        for number in range(1000):
            (many / str(number)).touch()
    assert os.statvfs(daemon.state).f_favail == 0
    for path in list(many.iterdir())[:20]:  # the result of the running test still fits
        path.unlink()
    halted = daemon.await_state("small", "halted", 60)
    assert halted["halted_cause"] == "disk" and "inodes" in halted["halted_reason"], halted
    fired("D4", halted["halted_reason"])
    for path in many.iterdir():
        path.unlink()
    finish(daemon)


@pytest.mark.fault("D15")
def test_results_that_are_moved_away_are_missed(on_disk: Start, fired: Fired) -> None:
    daemon = on_disk("size=64m")
    there, elsewhere = daemon.state / "results/small", daemon.state / "elsewhere"
    there.rename(elsewhere)
    halted = daemon.await_state("small", "halted", 60)
    assert halted["halted_cause"] == "controller" and str(there) in halted["halted_reason"], halted
    assert not there.exists(), "an empty folder in its place would hide that it is gone"
    fired("D15", halted["halted_reason"])
    elsewhere.rename(there)
    assert daemon.ask("resume", experiment="small")["ok"]
    finish(daemon)


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """A small disk image, mounted where the state will be."""
    image, state = tmp_path / "image", tmp_path / "state"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    state.mkdir()
    state.chmod(0o750)  # fit for a new life, if the daemon took it for one
    do("mkfs.ext4", "-q", str(image))
    do("mount", "-o", "loop", str(image), str(state))
    state.chmod(0o750)
    yield image
    subprocess.run(["umount", "--lazy", state], check=False, timeout=10)


def told(daemon: LiveDaemon) -> dict[str, str]:
    """What keeps the daemon in its refuge."""
    refuge: dict[str, str] = daemon.ask("status")["data"]["refuge"]
    return refuge


@pytest.mark.fault("D8")
def test_a_disk_that_turns_read_only_is_told_and_can_be_mended_meanwhile(
    tmp_path: Path, ext4: Path, loopback_lab: LoopbackLab, fired: Fired
) -> None:
    """ext4 does so by itself after an error, under files that are open. It is checked and mounted again meanwhile."""
    recorder = Recorder("127.0.0.1")
    more = (
        f'[results]\ndisk_reserve_mb = 4\nmemory_probe_secs = 0.3\n[webhook]\nurl = "{recorder.url}"\nallow_http = true'
    )
    daemon = LiveDaemon(tmp_path, more=more)
    try:
        begin(daemon, loopback_lab)
        daemon.until(lambda: b"small" in (daemon.state / SNAPSHOT).read_bytes(), "the state is kept for later")
        do("mount", "-o", "remount,abort", str(daemon.state))
        with pytest.raises(OSError, match="Read-only file system"):
            (daemon.state / "mine").touch()
        assert daemon.process is not None
        assert daemon.process.wait(30) == 1, daemon.text()
        daemon.start()  # as systemd does
        found = daemon.ask("status")["data"]
        assert found["refuge"]["code"] == "DISK_READONLY", found
        assert [each["name"] for each in found["experiments"]] == ["small"], "the last good one is shown"
        assert not daemon.ask("resume", experiment="small")["ok"]
        (request,) = recorder.wait(1)
        assert "DISK_READONLY" in request.body.decode()
        fired("D8", found["refuge"]["sentence"])

        do("umount", str(daemon.state))  # nothing holds it
        daemon.until(lambda: "is missing" in told(daemon)["sentence"], "the bare folder is looked at")
        assert "begin-anew" in told(daemon)["todo"] and list(daemon.state.iterdir()) == []
        mended = shutil.copyfile(ext4, tmp_path / "mended")  # whoever else may still hold the old one
        subprocess.run(["e2fsck", "-fp", mended], check=False, timeout=30)
        do("mount", "-o", "loop", str(mended), str(daemon.state))
        daemon.until(lambda: daemon.ask("status")["data"]["refuge"] is None, "it goes on by itself")
        finish(daemon)
        assert daemon.stop() == 0
    finally:
        daemon.stop()
        recorder.stop()
