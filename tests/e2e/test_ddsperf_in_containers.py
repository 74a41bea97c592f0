"""Real DDS traffic between machines becomes figures that are ddsperf's own, and no rule cries wolf.

AUTOPERF_DDSPERF_TESTS=64 lets it run that many tests instead of 8, which takes seven minutes instead of one.
"""

from __future__ import annotations

import os
import re
import sqlite3
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from autoperfd.lab.container import ContainerLab
from autoperfd.report import page
from autoperfd.results.gather import Attempt, Test, gather
from tests.e2e.containers import InstalledDaemon, experiment

TESTS = int(os.environ.get("AUTOPERF_DDSPERF_TESTS", "8"))
SETTINGS = f"""duration_secs = [3]
datalen_bytes = {[100, 1000] if TESTS == 8 else [64, 100, 200, 500, 1000, 2000, 4000, 8000]}
pub_count = [1]
sub_count = [1, 3]
use_reliable = [true, false]
use_multicast = {"[false]" if TESTS == 8 else "[false, true]"}
latency_count = [10]
"""
SUBSCRIBER = re.compile(r"\[\d+\] ([\d.]+) +size \d+ total (\d+) lost (\d+) delta ")
LATENCY = re.compile(rb"size \d+ mean [\d.]+us")
BLOCKED = re.compile(rb"^write error:", re.MULTILINE)
# What fails on computers that are too busy, rightly told and tried again: a reliable writer of ddsperf 0.10 at full
# rate is blocked for good now and then, of a best-effort one no latency sample may come back, and one of several
# subscribers may receive nothing after the first second or so. Nothing else may.
KNOWN = ("WRITE_BLOCKED", "NO_PONGS", "TRUNCATED")

pytestmark = pytest.mark.timeout(90 + 24 * TESTS)


@pytest.fixture
def daemon(container_lab: ContainerLab) -> Iterator[InstalledDaemon]:
    """The installed daemon, not started."""
    yield InstalledDaemon(container_lab)


def said(archive: Path, name: str) -> bytes:
    """What a participant printed, read from an archive without our readers."""
    with tarfile.open(archive) as tar:
        file = tar.extractfile(f"{name}.stdout")
        assert file is not None
        return file.read()


def is_so(attempt: Attempt, folder: Path) -> bool:
    """Whether the tool's own lines bear out why an attempt failed."""
    if attempt.code == "TRUNCATED":
        subscriber = attempt.reason.partition(".stdout ends at ")[0]
        return subscriber.startswith("sub_") and 0 < last_line(folder / attempt.archive, subscriber)[0] < 1.5
    printed = said(folder / attempt.archive, "pub_0")
    return not LATENCY.search(printed) if attempt.code == "NO_PONGS" else bool(BLOCKED.search(printed))


def last_line(archive: Path, name: str) -> tuple[float, int, int]:
    """(seconds, received, lost) of the last line that a subscriber printed; it is not cut."""
    printed = said(archive, name).decode()
    assert printed.endswith("\n")
    lines = [match for line in printed.splitlines() if (match := SUBSCRIBER.match(line))]
    return float(lines[-1][1]), int(lines[-1][2]), int(lines[-1][3])


def test_figures_are_the_tools_own(daemon: InstalledDaemon, container_lab: ContainerLab) -> None:
    text = experiment(
        "real DDS",
        SETTINGS,
        container_lab.machines,
        "pub sub sub sub",
        tool="ddsperf",
        exec_path="/usr/bin/ddsperf",
        environment={},
        buffer_secs=40,
        reboot="never",
    )
    daemon.start()
    daemon.run(text)
    daemon.await_outcome("real DDS", secs=60 + 24 * TESTS)
    assert daemon.verify("real DDS") == []
    daemon.systemctl("stop")
    with closing(sqlite3.connect(":memory:")) as db:
        db.row_factory = sqlite3.Row
        db.deserialize((daemon.state / "autoperf.db").read_bytes())
        found = gather(db, "real DDS")
    assert found.planned == TESTS and found.counted()["ok"] == TESTS, daemon.text()
    failed = [attempt for attempt in found.attempts if attempt.end_status != "success"]
    assert len(failed) <= TESTS // 4, daemon.text()
    for attempt in failed:
        assert attempt.code in KNOWN and is_so(attempt, daemon.state / "results" / found.folder), daemon.text()
    for test in found.tests:
        agrees(test, daemon.state / "results" / found.folder)
    html = "".join(page.render(found, time.time()))
    assert html.count('<i class="ok" title=') == TESTS and html.count("<img ") >= 4


def agrees(test: Test, folder: Path) -> None:
    """Figures are those of ddsperf's last lines; each subscriber received something, and latencies were measured."""
    assert test.last is not None
    length, secs = test.settings["datalen_bytes"], test.settings["duration_secs"]
    told = [last_line(folder / test.last.archive, f"sub_{i}")[1:] for i in range(test.settings["sub_count"])]
    received, lost = (sum(column) for column in zip(*told, strict=True))
    figures = test.figures
    assert figures["sub_samples"] == ";".join(str(count) for count, _ in told), test
    assert (figures["total_samples"], figures["total_lost"]) == (received, lost), test
    assert figures["total_mbps"] == pytest.approx(received * length * 8e-6 / secs, rel=1e-3)
    assert min(count for count, _ in told) > 0 and float(figures["latency_mean_us"]) > 0
    assert test.settings["use_reliable"] is False or lost == 0
