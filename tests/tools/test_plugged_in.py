"""A benchmark tool of somebody else: docs/examples/iperf3, found by its entry point, run for real and judged."""

from __future__ import annotations

import csv
import re
import shutil
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from autoperfd.core.plan import Machine, ParticipantRecord
from autoperfd.lab.loopback import LoopbackLab
from autoperfd.tools import plugged_in
from tests.e2e.support import LiveDaemon, experiment_toml

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "iperf3"
MACHINES = (
    Machine("p1", "pub", "192.0.2.1", 22, "pi", "~/.ssh/id", "/usr/bin/iperf3"),
    Machine("p2", "sub", "192.0.2.2", 22, "pi", "~/.ssh/id", "/usr/bin/iperf3"),
)
SETTINGS = """duration_secs = [2]
datalen_bytes = [1000]
pub_count = [1]
sub_count = [1]
use_reliable = [true, false]
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as pip would make it of the example."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    folder = tmp_path / "site"
    (folder / "autoperf_iperf3-1.dist-info").mkdir(parents=True)
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    )
    (folder / "autoperf_iperf3-1.dist-info" / "entry_points.txt").write_text(points)
    (folder / "autoperf_iperf3-1.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    shutil.copy(EXAMPLE / "autoperf_iperf3.py", folder)
    return folder


@pytest.fixture
def daemon(site: Path, tmp_path: Path, loopback_lab: LoopbackLab) -> Iterator[LiveDaemon]:
    live = LiveDaemon(tmp_path / "daemon")
    live.start(PYTHONPATH=str(site))
    live.trust(loopback_lab.machines)
    yield live
    live.stop()


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed here: apt-get install iperf3")
def test_the_example_runs_to_proven_results(daemon: LiveDaemon, loopback_lab: LoopbackLab) -> None:
    machines = re.sub(
        r"perftest_exec_path = .*",
        'perftest_exec_path = "/usr/bin/iperf3"',
        loopback_lab.experiment_machines(["pub", "sub"]),
    )
    daemon.drop("a.toml", experiment_toml("stream", SETTINGS, machines, tool="iperf3", reboot="never"))
    daemon.await_outcome("stream", secs=60)
    rows = daemon.ess("stream")
    assert [row["end_status"] for row in rows] == ["success", "success"], daemon.text()
    summary = (daemon.state / "results" / "stream" / "summary.csv").read_text().splitlines()
    for cells in csv.DictReader(summary):
        assert cells["tool_version"].startswith("iperf 3.") and float(cells["total_mbps"]) > 1
    assert daemon.verify("stream") == []


def test_what_iperf3_would_run(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    tools, broken = plugged_in([EntryPoint("iperf3", "autoperf_iperf3:Iperf3", "autoperfd.tools")])
    assert broken == {} and set(tools) == {"perftest", "ddsperf", "iperf3"}
    tool = tools["iperf3"]
    settings = {"duration_secs": 5, "datalen_bytes": 100, "use_reliable": False}
    plan = tool.plan("T", settings, MACHINES, 7, {})
    client, server = plan.participants
    assert client.argv[3:] == (
        "sh", *["/usr/bin/iperf3", "-c", "192.0.2.2", "-p", "20007", "-t", "5", "--json", "-l", "100", "-u", "-b", "0"],
    )  # fmt: skip
    assert server.argv == ("/usr/bin/iperf3", "-s", "-1", "-B", "192.0.2.2", "-p", "20007", "--json")
    assert tool.allowed("latency_count") is None and tool.warnings(settings) and not tool.problems(settings)


SERVER = '{"end": {"sum_received": {"seconds": 5.0, "bits_per_second": 8e6}}}'


@pytest.mark.parametrize(
    ("said", "exits", "status", "code"),
    [
        (SERVER, (0, 0), "success", ""),
        (SERVER.replace("5.0", "2.5"), (0, 0), "truncated", "TOO_SHORT"),
        ('{"error": "unable to connect"}', (0, 1), "early-exit", "EXIT"),
        ("", (0, 0), "no-data", "NO_SUMMARY"),
        ("[" * 100_000, (0, 0), "no-data", "NO_SUMMARY"),
        ('{"end": {"sum": 3}}', (0, 0), "no-data", "NO_SUMMARY"),
        (None, (0, 0), "no-data", "MISSING_FILE"),
        (SERVER, (0, 127), "wont-start", "WONT_START"),
    ],
)
def test_what_iperf3_left_is_judged(
    said: str | None,
    exits: tuple[int, int],
    status: str,
    code: str,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.syspath_prepend(str(site))
    (tool,) = plugged_in([EntryPoint("iperf3", "autoperf_iperf3:Iperf3", "autoperfd.tools")], own=())[0].values()
    plan = tool.plan("T", {"duration_secs": 5}, MACHINES, 7, {})
    for name in ("pub_0.json", "pub_0.stderr", "sub_0.stderr"):
        (tmp_path / name).write_text("{}" if name.endswith("json") else "")
    if said is not None:
        (tmp_path / "sub_0.json").write_text(said)
    records = [
        ParticipantRecord(p.name, p.machine, exit, None, "self", 1.0, 7.0)
        for p, exit in zip(plan.participants, exits, strict=True)
    ]
    verdict = tool.verdict(plan, tmp_path, records)
    assert (verdict.end_status, verdict.code) == (status, code)
    if status == "success":
        assert verdict.figures["total_mbps"] == 8


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no_such_module:Tool", "cannot be loaded: No module named 'no_such_module'"),
        ("json:NoSuchThing", "cannot be loaded: "),
        ("json:JSONDecoder", "lacks name, probe_argv"),
        ("autoperfd.tools.ddsperf:Ddsperf", "calls itself ddsperf"),
    ],
)
def test_what_cannot_be_used_is_told_and_stops_nobody(value: str, said: str) -> None:
    tools, broken = plugged_in([EntryPoint("mine", value, "autoperfd.tools")])
    assert set(tools) == {"perftest", "ddsperf"} and said in broken["mine"]
    assert broken["mine"].startswith("the benchmark tool mine of ")


def test_a_name_is_taken_once() -> None:
    point = EntryPoint("ddsperf", "autoperfd.tools.ddsperf:Ddsperf", "autoperfd.tools")
    assert "has the name of another one" in plugged_in([point])[1]["ddsperf"]
