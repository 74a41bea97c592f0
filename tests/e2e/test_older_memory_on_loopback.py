"""A memory that is older than its results, as a disk that lied or a copy put back leaves it, on the real daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoperfd.daemon import behind
from autoperfd.lab.loopback import LoopbackLab
from tests.e2e.support import LiveDaemon, experiment_toml
from tests.e2e.test_on_loopback import machines
from tests.faults import Fired

TESTS = """duration_secs = [3]
datalen_bytes = [100, 200]
pub_count = [1]
sub_count = [1]
latency_count = [10]
"""


def archives(daemon: LiveDaemon) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in daemon.state.rglob("attempt-1.tar.gz")}


@pytest.mark.fault("D11")
def test_nothing_runs_on_an_older_memory_before_a_person_has_said_so(
    tmp_path: Path, loopback_lab: LoopbackLab, fired: Fired
) -> None:
    daemon = LiveDaemon(tmp_path, more="[results]\nmemory_probe_secs = 0.3")
    daemon.start()
    try:
        daemon.trust(loopback_lab.machines)
        daemon.drop("a.toml", experiment_toml("old", TESTS, machines(loopback_lab), reboot="never"))
        daemon.await_running("old", then=daemon.kill)
        files = list(daemon.state.glob("autoperf.db*"))
        older = {path: path.read_bytes() for path in files}
        daemon.start()
        daemon.await_outcome("old")
        assert daemon.stop() == 0
        newer = {path: path.read_bytes() for path in files}
        measured = archives(daemon)
        assert len(measured) == 2

        def put_back(memory: dict[Path, bytes]) -> None:
            for path, content in memory.items():
                path.write_bytes(content)

        put_back(older)
        daemon.start()
        told = daemon.ask("status")["data"]["refuge"]
        assert told["code"] == "MEMORY_OLDER" and "older than its results" in told["sentence"], told
        fired("D11", told["sentence"])
        assert daemon.stop() == 0
        assert archives(daemon) == measured and {path: path.read_bytes() for path in files} == older

        put_back(newer)
        daemon.start()
        daemon.until(lambda: daemon.ask("status")["data"]["refuge"] is None, "it goes on with the newer one")
        assert daemon.experiment("old")["outcome"] == "finished" and daemon.stop() == 0

        put_back(older)
        daemon.start()
        daemon.until(lambda: daemon.ask("status")["data"]["refuge"], "it waits")
        (daemon.state / behind.ACCEPT).touch()
        daemon.until(lambda: daemon.ask("status")["data"]["refuge"] is None, "it goes on with the older one")
        daemon.await_outcome("old")
        assert daemon.verify("old") == []
        kept = {path.read_bytes() for path in daemon.state.rglob("attempt-1*.tar.gz")}
        assert set(measured.values()) <= kept, "what was measured before is lost"
        assert len(kept) == 3, "the attempt that was open is taken for what it is, the other one is made again"
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.text()
    finally:
        daemon.stop()
