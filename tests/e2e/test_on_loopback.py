"""The whole daemon as a process, on real sshd processes of the loopback lab with the Perftest stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from autoperfd.daemon import archive
from autoperfd.lab.loopback import LoopbackLab
from tests.e2e.support import LiveDaemon, experiment_toml

SETTINGS = """duration_secs = [3]
datalen_bytes = [100]
pub_count = [1]
sub_count = [1]
use_reliable = [true, false]
latency_count = [10]
"""


@pytest.fixture
def daemon(tmp_path: Path, loopback_lab: LoopbackLab) -> Iterator[LiveDaemon]:
    live = LiveDaemon(tmp_path)
    live.start()
    live.trust(loopback_lab.machines)
    yield live
    live.stop()


def machines(lab: LoopbackLab, environment: str = '{ STANDIN_FAST = "1" }') -> str:
    return lab.experiment_machines(["pub", "sub"]).replace(
        "perftest_exec_path", f"environment = {environment}\nperftest_exec_path"
    )


def test_an_experiment_runs_to_its_proven_end(daemon: LiveDaemon, loopback_lab: LoopbackLab) -> None:
    before = [loopback_lab.boot_id(m.name) for m in loopback_lab.machines]
    daemon.drop("a.toml", experiment_toml("PCG #1", SETTINGS, machines(loopback_lab)))
    daemon.await_outcome("PCG #1", secs=60)
    rows = daemon.ess("PCG_1")
    assert [row["end_status"] for row in rows] == ["success", "success"], daemon.text()
    assert [row["attempt_number"] for row in rows] == ["1", "1"]
    assert len({row["test_name"] for row in rows}) == 2
    for row in rows:
        assert archive.problems(daemon.state / "results" / "PCG_1" / row["archive"]) == []
    assert all(loopback_lab.boot_id(m.name) != b for m, b in zip(loopback_lab.machines, before, strict=True))
    assert daemon.stop() == 0


def test_a_killed_daemon_finds_the_running_attempt_again(daemon: LiveDaemon, loopback_lab: LoopbackLab) -> None:
    daemon.drop("a.toml", experiment_toml("kills", SETTINGS, machines(loopback_lab), reboot="never"))
    for _ in range(2):
        daemon.until(lambda: daemon.experiment("kills").get("current") is not None, "an attempt is open")
        daemon.kill()
        daemon.start()
    daemon.await_outcome("kills", secs=60)
    rows = daemon.ess("kills")
    assert [(row["end_status"], row["attempt_number"]) for row in rows] == [("success", "1")] * 2, daemon.text()
