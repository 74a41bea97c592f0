"""The product as a user has it: installed under its shipped unit, on machines that really reboot."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoperfd.core.ess import ESS_COLUMNS
from autoperfd.lab.container import ContainerLab
from tests.e2e.containers import (
    QUICK_RESTARTS,
    InstalledDaemon,
    Marksman,
    experiment,
    guard,
    root_of,
    starts,
)

pytestmark = pytest.mark.timeout(400)
MOST_EXPOSURE = 1.5
SHORT = """duration_secs = [3]
datalen_bytes = [100]
pub_count = [1]
sub_count = [1]
use_reliable = [true, false]
latency_count = [10]
"""


@pytest.fixture
def daemon(container_lab: ContainerLab) -> Iterator[InstalledDaemon]:
    """The installed daemon, not started."""
    yield InstalledDaemon(container_lab)


def test_an_experiment_becomes_proven_results(daemon: InstalledDaemon, container_lab: ContainerLab) -> None:
    machines = container_lab.machines
    before = {machine.name: machine.boot_id() for machine in machines}
    settings = SHORT.replace("pub_count = [1]", "pub_count = [2]").replace("sub_count = [1]", "sub_count = [2]")
    stand_in = experiment("PCG #1", settings, machines, "pub pub sub sub")
    real = experiment(
        "real DDS",
        settings + "use_multicast = [true]",
        machines,
        "pub sub all all",
        tool="ddsperf",
        exec_path="/usr/bin/ddsperf",
        environment={},
    )
    daemon.start()
    daemon.run(stand_in, real)
    daemon.await_outcome("PCG #1", secs=60)
    daemon.await_outcome("real DDS", secs=90)

    boots: list[dict[str, str]] = [before]
    for folder, names in {
        "PCG_1": ["3SEC_100B_2PUB_2SUB_REL_10LC", "3SEC_100B_2PUB_2SUB_BE_10LC"],
        "real_DDS": ["3SEC_100B_2PUB_2SUB_REL_MC_10LC", "3SEC_100B_2PUB_2SUB_BE_MC_10LC"],
    }.items():
        rows = daemon.ess(folder)
        assert [(row["test_name"], row["end_status"], row["attempt_number"]) for row in rows] == [
            (name, "success", "1") for name in names
        ], daemon.text()
        assert all(daemon.archive(folder, row).problems() == [] for row in rows)
        evidence = [daemon.archive(folder, row).json("evidence.json") for row in rows]
        assert all(found["boot_before"] == found["boot_after"] for found in evidence)
        assert evidence[0]["boot_before"] == evidence[1]["boot_before"]  # rebooted once, before the first
        boots.append(evidence[0]["boot_before"])
    for machine in machines:
        assert len({booted[machine.name] for booted in boots}) == 3, boots  # each experiment rebooted every machine
    assert boots[-1] == {machine.name: machine.boot_id() for machine in machines}

    said = container_lab.controller.run("systemctl status autoperfd --no-pager").stdout
    assert re.search(r"Active: active \(running\)", said) and 'Status: "all experiments are finished"' in said, said
    exposure = container_lab.controller.run("systemd-analyze security autoperfd --no-pager").stdout
    found = re.search(r"Overall exposure level.*: ([\d.]+)", exposure)
    assert found and float(found[1]) <= MOST_EXPOSURE, exposure
    daemon.systemctl("stop")
    ended = {name: daemon.property(name) for name in ("Result", "ExecMainStatus", "NRestarts", "ActiveState")}
    assert ended == {"Result": "success", "ExecMainStatus": "0", "NRestarts": "0", "ActiveState": "inactive"}
    assert "Traceback" not in daemon.log()
