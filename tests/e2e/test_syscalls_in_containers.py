"""The installed daemon under its shipped unit, while its system calls fail or are its last: nothing lost or repeated.

Each point strikes one call while two experiments run side by side; then the daemon must recover by itself, as systemd
starts it again or as it halts with a cause and goes on. AUTOPERF_POINTS ("FROM:COUNT") plays other points.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from autoperfd.daemon.refuge import NOTE
from autoperfd.lab.container import ContainerLab
from autoperfd.rehearsal import evidence, invariants
from tests.e2e.containers import QUICK_RESTARTS, InstalledDaemon, experiment
from tests.e2e.injection import FAULTS, SLOW_SECS, Injector, Point, every_point
from tests.faults import Fired

FROM, COUNT = (int(word) for word in os.environ.get("AUTOPERF_POINTS", "0:155").split(":"))
STRIKE_SECS = 6.0  # a point that no call comes to within two tests is passed over
NESTED = 10  # every so manieth kill is followed by another during the recovery

TESTS = """duration_secs = [3]
datalen_bytes = [100, 200, 300, 400]
pub_count = [1]
sub_count = [1]
latency_count = [10, 20, 30, 40, 50]
"""


class Rounds:
    """Experiments of twenty tests, one after another on a pair of machines, for as long as faults are to be struck."""

    def __init__(self, daemon: InstalledDaemon, lab: ContainerLab) -> None:
        self.daemon = daemon
        self.pairs = {"a": lab.machines[:2], "b": lab.machines[2:]}
        self.names: list[str] = []
        self.halts: Counter[str] = Counter()

    def go_on(self) -> None:
        """See that both pairs have work, and resume what halted for the controller's sake."""
        for pair, machines in self.pairs.items():
            mine = [name for name in self.names if name.startswith(pair)]
            found = self.daemon.experiment(mine[-1]) if mine else {"outcome": "finished"}
            if found.get("state") == "halted":
                self._resume(mine[-1], found)
            if found.get("outcome") == "finished":
                name = f"{pair}{len(mine)}"
                text = experiment(name, TESTS, machines, "pub sub", reboot="never", share_network=True)
                self.daemon.drop(f"{name}.toml", text)
                self.daemon.until(lambda name=name: self.daemon.experiment(name), f"{name} is accepted", 60)  # type: ignore[misc]
                self.names.append(name)

    def _resume(self, name: str, found: dict[str, Any]) -> None:
        cause = found["halted_cause"]
        assert cause in ("disk", "controller"), found
        self.halts[cause] += 1
        if cause == "disk":  # there is room: it goes on by itself
            self.daemon.until(lambda: self.daemon.experiment(name)["state"] != "halted", f"{name} goes on", 60)
        else:
            self.daemon.ctl("resume", name)

    def finish(self) -> None:
        """Until all is over."""
        for name in self.names:
            self.daemon.until(partial(self._over, name), f"{name} is finished", 180)

    def _over(self, name: str) -> bool:
        found = self.daemon.experiment(name)
        if found.get("state") == "halted":
            self._resume(name, found)
        return bool(found.get("outcome") == "finished")


@pytest.mark.timeout(7200)
@pytest.mark.fault("P1", "P2", "D2", "D5", "D7")
def test_every_struck_call_is_survived(container_lab: ContainerLab, tmp_path: Path, fired: Fired) -> None:
    daemon = InstalledDaemon(container_lab)
    daemon.drop_in(QUICK_RESTARTS)
    daemon.start(results={"disk_reserve_mb": 64, "memory_probe_secs": 0.2})
    rounds = Rounds(daemon, container_lab)
    daemon.trust(*(experiment("t", TESTS, machines, "pub sub") for machines in rounds.pairs.values()))
    struck: Counter[str] = Counter()
    passed_over: list[Point] = []
    points = every_point()[FROM : FROM + COUNT]
    for point in points:
        rounds.go_on()
        injector = Injector(daemon.pid(), point)
        try:
            seen = injector.struck(STRIKE_SECS)
            if seen and point.fault == "SIGKILL" and struck["SIGKILL"] % NESTED == 0:
                daemon.until(daemon.pid, "systemd started the daemon again")
                again = Injector(daemon.pid(), point)
                if second := again.struck(2.0):
                    fired("P2", second)
                again.stop()
        finally:
            injector.stop()
        if seen:
            struck[point.fault] += 1
            for row in ROWS[point.fault]:
                fired(row, f"{point}: {seen}")
        else:
            passed_over.append(point)
        daemon.until(partial(is_back, daemon), f"the daemon is back after {point}", 60)
        (daemon.runtime / NOTE).unlink(missing_ok=True)  # the next fault is no relapse of this one, which would wait
    rounds.finish()
    daemon.systemctl("stop")
    print(f"points {FROM} to {FROM + len(points) - 1}: {dict(struck)}, passed over {passed_over}, {dict(rounds.halts)}")
    assert sum(struck.values()) >= 0.9 * len(points), passed_over
    assert len(points) < 100 or min(struck[fault] for fault in FAULTS) >= len(points) // 15, struck

    assert {name: daemon.verify(name) for name in rounds.names} == {name: [] for name in rounds.names}
    for path in daemon.state.glob("autoperf.db*"):
        shutil.copyfile(path, tmp_path / path.name)
    with contextlib.closing(sqlite3.connect(tmp_path / "autoperf.db")) as db:
        memory = evidence.read_memory(db)
    assert invariants.problems(evidence.Evidence(memory)) == []
    tests = Counter((test.experiment, test.status) for test in memory.tests)
    assert {key: count for key, count in tests.items() if key[1] != "success"} == {}, tests
    assert set(tests.values()) == {20}
    left = [str(path) for path in Path(daemon.state, "results").rglob(".*")]
    assert left == []


def is_back(daemon: InstalledDaemon) -> bool:
    """Whether it answers and works, and is not in refuge from its memory."""
    return daemon.answers() and "in refuge" not in daemon.property("StatusText")


@pytest.mark.timeout(300)
@pytest.mark.fault("D9")
def test_a_disk_that_takes_long_is_waited_for(container_lab: ContainerLab, fired: Fired) -> None:
    """One commit takes 20 s: nothing is lost, and the watchdog knows it from a daemon that hangs."""
    daemon = InstalledDaemon(container_lab)
    daemon.start()
    settings = TESTS.replace("[100, 200, 300, 400]", "[100]").replace("[10, 20, 30, 40, 50]", "[10, 20]")
    daemon.run(experiment("slow", settings, container_lab.machines[:2], "pub sub", reboot="never"))
    daemon.await_running("slow")
    injector = Injector(daemon.pid(), Point("fdatasync", 2, "SLOW"))
    try:
        fired("D9", injector.struck(SLOW_SECS + 30))
    finally:
        injector.stop()
    daemon.await_outcome("slow", secs=90)
    assert (daemon.property("NRestarts"), daemon.property("ActiveState")) == ("0", "active")
    assert [row["end_status"] for row in daemon.ess("slow")] == ["success", "success"]
    assert daemon.verify("slow") == []


ROWS = {"SIGKILL": ("P1",), "ENOSPC": ("D2",), "EDQUOT": ("D5",), "EIO": ("D7",), "EROFS": ()}
