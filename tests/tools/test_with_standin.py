"""Perftest's plans started as they are with the lab's stand-in, and judged: driver and stand-in agree on the facts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoperfd.core.plan import Setting
from autoperfd.tools import TOOLS
from tests.tools.support import Started, machine, start

PERFTEST = TOOLS["perftest"]
STANDIN = Path(__file__).parents[2] / "autoperfd" / "lab" / "perftest_standin.py"
BEFORE = (sys.executable, "-I", "-S")
MACHINES = (machine("p1", "pub", exec_path=str(STANDIN)), machine("p2", "sub", exec_path=str(STANDIN)))

# A subscriber prints no row for its first second: long enough for rows whatever stalls for a few seconds.
BASE: dict[str, Setting] = {"duration_secs": 8, "datalen_bytes": 100, "use_reliable": True, "latency_count": 100}
CASES: list[tuple[str, str, dict[str, Setting], str, str]] = [  # version, misbehaviour, changes, status, code
    ("4.1.1", "", {"pub_count": 2, "sub_count": 2}, "success", ""),
    ("3.3", "", {"use_reliable": False, "use_multicast": True}, "success", ""),
    ("4.3", "", {"latency_test": True, "latency_count": 1}, "success", ""),
    ("4.1.1", "sub_0:early-exit", {}, "early-exit", "NOT_FINISHED"),
    ("4.1.1", "sub_0:appended", {}, "bad-data", "APPENDED"),
    ("4.1.1", "sub_0:no-summary", {}, "truncated", "TRUNCATED"),
    ("4.2", "sub_0:no-pongs", {}, "no-data", "NO_PONGS"),
    ("4.3", "sub_0:no-pongs", {}, "no-data", "NO_PONGS"),
]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Started]]:
    """All cases, side by side in networks of their own."""
    folder = tmp_path_factory.mktemp("standin")
    running = []
    for number, (version, misbehaviour, changes, _, _) in enumerate(CASES):
        environment = {
            "STANDIN_VERSION": version,
            "STANDIN_MISBEHAVE": misbehaviour,
            "STANDIN_FAST": "1",
            "STANDIN_NET": f"{os.getpid()}-{number}",
        }
        probe = subprocess.run(
            [*BEFORE, str(STANDIN), *PERFTEST.probe_argv],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert probe.returncode in PERFTEST.probe_exits
        settings = {"pub_count": 1, "sub_count": 1, **BASE, **changes}
        said = probe.stdout + probe.stderr
        plan = PERFTEST.plan("T", settings, MACHINES, 101 + number, {"p1": said, "p2": said})
        running.append(start(plan, folder / str(number), BEFORE, **environment))
    yield running
    for one in running:
        one.kill()


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{c[0]} {c[1]}" for c in CASES])
def test_what_is_started_is_judged(started: list[Started], number: int) -> None:
    *_, status, code = CASES[number]
    one = started[number]
    verdict = PERFTEST.verdict(one.plan, one.folder, one.wait(time.monotonic() + 60))
    assert (verdict.end_status, verdict.code) == (status, code), verdict
    assert "stand-in" in str(verdict.figures["tool_version"])
    if status == "success":
        assert verdict.figures["total_samples"] and verdict.figures["latency_mean_us"]
