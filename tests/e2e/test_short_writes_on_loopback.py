"""The real daemon while every write to its files takes half of what it was given, and while it dies behind such a half.

The outbox is in the memory. What a disk does that fills up in the middle of a write is seen with the small disks.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoperfd.lab.loopback import LoopbackLab
from tests.e2e.shortening import HALVED, Short, Shortener
from tests.e2e.support import LiveDaemon, experiment_toml
from tests.e2e.test_on_loopback import machines
from tests.faults import Fired

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="traces the daemon, which needs root"),
    pytest.mark.skipif(not HALVED, reason="knows the registers of x86-64 and aarch64 only"),
]

TESTS = """duration_secs = [3]
datalen_bytes = [{lengths}]
pub_count = [1]
sub_count = [1]
latency_count = [10]
"""
KINDS = {  # the files that are written, in the order in which they are struck
    "the memory": r"/state/autoperf\.db$",
    "its journal": r"/state/autoperf\.db-journal$",
    "the snapshot": r"/state/\.autoperf-new-\w+$",
    "the marker of what is read": r"/queue/\.claimed/",
    "why a file is refused": r"/queue/rejected/",
    "what was fetched": r"/\.attempt-\d+\.partial/",
    "the archive": r"/\.attempt-\d+\.tar\.gz\.partial$",
    "the ESS": r"/ess\.csv$",
    "the summary": r"/summary\.csv$",
}
BY_A_FILE = ("the marker of what is read", "why a file is refused")


@pytest.fixture
def daemon(tmp_path: Path, loopback_lab: LoopbackLab) -> Iterator[LiveDaemon]:
    live = LiveDaemon(tmp_path)
    live.start()
    live.trust(loopback_lab.machines)
    yield live
    live.stop()


def refused(daemon: LiveDaemon, name: str) -> bool:
    """Whether a file is in `rejected` with its reason, and nowhere else."""
    places = [path.relative_to(daemon.queue) for path in daemon.queue.rglob(f"*{name}*")]
    expected = [Path("rejected", name), Path("rejected", f"{name}.error.txt")]
    return sorted(places) == expected and all((daemon.queue / path).stat().st_size for path in expected)


def is_half_started(row: dict[str, str]) -> bool:
    """Whether a row is an attempt that was ended because a kill struck between two starts."""
    found = row["reason"].startswith("HALF_STARTED: ")
    assert not found or (row["end_status"], row["blame"]) == ("interrupted", "controller"), row
    return found


def check(daemon: LiveDaemon, *endings: str, kills: int = 0) -> None:
    """Each test was attempted once and ended so, and the files are what they should be.

    A kill between two starts has an attempt ended and another one begun, as promised; that one is not in `endings`.
    """
    every = daemon.ess("short")
    rows = [row for row in every if not is_half_started(row)]
    halved = Counter(row["test_name"] for row in every if is_half_started(row))
    tries = [(row["end_status"], int(row["attempt_number"]) - halved[row["test_name"]]) for row in rows]
    assert tries == [(end, 1) for end in endings], every
    assert len({row["test_name"] for row in rows}) == len(rows)
    assert halved.total() <= kills, every
    assert daemon.verify("short") == []
    assert not list(daemon.state.rglob("*.edited-*")) and not list(daemon.state.rglob("*.earlier*"))
    assert "Traceback" not in daemon.text()


@pytest.mark.fault("D16")
def test_writes_that_are_short_are_finished(daemon: LiveDaemon, loopback_lab: LoopbackLab, fired: Fired) -> None:
    with Shortener(daemon.pid(), daemon.root) as shortener:
        daemon.drop("bad.toml", "x = 1\n")
        text = experiment_toml("short", TESTS.format(lengths="100, 200"), machines(loopback_lab), reboot="never")
        daemon.drop("a.toml", text)
        daemon.await_outcome("short")
        daemon.until(lambda: refused(daemon, "bad.toml"), "the file is refused")
        check(daemon, "success", "success")
        short = shortener.stop()
    assert daemon.ask("status")["ok"] and daemon.stop() == 0
    check(daemon, "success", "success")

    assert [each for each in short if each.asked == 0] == [], "a call that writes and was not struck"
    for kind, pattern in KINDS.items():
        struck = [each for each in short if re.search(pattern, each.path)]
        assert struck, f"no write of {kind} was short: {Counter(each.path for each in short)}"
        fired("D16", f"{kind}: {len(struck)} short writes, as {struck[0]}")
    lines = daemon.log.read_text().splitlines()
    assert any(each.path == str(daemon.log) for each in short) and all(re.match(r"\S", line) for line in lines)


@pytest.mark.fault("P1")
def test_a_kill_behind_half_a_write_loses_nothing(daemon: LiveDaemon, loopback_lab: LoopbackLab, fired: Fired) -> None:
    text = experiment_toml(
        "short", TESTS.format(lengths=", ".join(map(str, range(100, 130)))), machines(loopback_lab), reboot="never"
    )
    daemon.drop("a.toml", text)
    daemon.await_running("short")
    for number, (kind, pattern) in enumerate(KINDS.items()):
        name = f"bad{number}.toml"
        with Shortener(daemon.pid(), daemon.root, pattern) as shortener:
            if kind in BY_A_FILE:
                daemon.drop(name, "x = 1\n")
            assert daemon.process is not None
            assert daemon.process.wait(30) == -signal.SIGKILL, kind
            half = last_of(shortener.wait(), pattern)
        fired("P1", f"killed behind half a write of {kind}: {half}")
        daemon.start()
        if kind in BY_A_FILE:
            daemon.until(lambda name=name: refused(daemon, name), f"{name} is refused")  # type: ignore[misc]
    daemon.until(lambda: daemon.experiment("short")["current"], "it goes on")
    assert daemon.ask("halt", experiment="short")["ok"]
    daemon.await_state("short", "halted")
    *done, last = (row["end_status"] for row in daemon.ess("short") if not is_half_started(row))
    assert last in ("success", "interrupted")
    for _ in range(2):
        check(daemon, *["success"] * len(done), last, kills=len(KINDS))
        assert daemon.stop() == 0


def last_of(short: list[Short], pattern: str) -> Short:
    (struck,) = [each for each in short if re.search(pattern, each.path)]
    return struck
