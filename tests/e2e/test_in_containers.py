"""The product as a user has it: installed under its shipped unit, on machines that really reboot."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from autoperfd.core.ess import ESS_COLUMNS
from autoperfd.lab.container import ContainerLab
from tests.e2e.containers import (
    QUICK_RESTARTS,
    InstalledDaemon,
    Marksman,
    boots,
    experiment,
    guard,
    starts,
)

pytestmark = pytest.mark.timeout(400)
MOST_EXPOSURE = 1.5
Grid = dict[str, list[int | bool]]
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
        SHORT.replace("sub_count = [1]", "sub_count = [3]") + "use_multicast = [true]",
        machines,
        "pub sub sub sub",
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
        "real_DDS": ["3SEC_100B_1PUB_3SUB_REL_MC_10LC", "3SEC_100B_1PUB_3SUB_BE_MC_10LC"],
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


def test_every_combination_once(daemon: InstalledDaemon, container_lab: ContainerLab) -> None:
    """All 24 of a PCG and 20 of a space of 10^9, side by side on two pairs of machines."""
    grid: Grid = {
        "duration_secs": [3],
        "datalen_bytes": [64, 100, 1024],
        "pub_count": [1],
        "sub_count": [1, 2],
        "use_reliable": [True, False],
        "use_multicast": [True, False],
        "latency_count": [10],
    }
    exhaustive = experiment(
        "all", settings_toml(grid), container_lab.machines[:2], "pub sub", reboot="never", share_network=True
    )
    drawn = experiment(
        "drawn",
        """duration_secs = [3, 4]
datalen_bytes = [28, 60_000]
pub_count = [1]
sub_count = [1, 2]
use_reliable = [true, false]
use_multicast = [true, false]
durability_level = [0, 3]
latency_count = { min = 1, max = 500 }
""",
        container_lab.machines[2:],
        "pub sub",
        reboot="never",
        share_network=True,
        combination_generation_type="rcg",
        rcg_test_count=20,
        seed=7,
    )
    daemon.start()
    daemon.run(exhaustive, drawn)
    daemon.await_outcome("all", secs=180)
    daemon.await_outcome("drawn", secs=180)

    rows = daemon.ess("all")
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    assert len(combinations) == 24
    assert [row["test_name"] for row in rows] == [name_of(settings) for settings in combinations]
    assert [row["qos_settings"] for row in rows] == [spelt(settings) for settings in combinations]
    check_rows(daemon, "all", rows)

    rows = daemon.ess("drawn")
    found = [read_spelt(row["qos_settings"]) for row in rows]
    assert len(rows) == 20 and len({tuple(settings.items()) for settings in found}) == 20
    assert [row["test_name"] for row in rows] == [name_of(settings) for settings in found]
    for settings in found:
        assert settings["duration_secs"] in (3, 4) and settings["pub_count"] == 1 and settings["sub_count"] in (1, 2)
        assert 28 <= settings["datalen_bytes"] <= 60_000 and settings["datalen_bytes"] not in (1262, 1263, 1264)
        assert 0 <= settings["durability_level"] <= 3 and 1 <= settings["latency_count"] <= 500
    for key in found[0]:
        assert len({settings[key] for settings in found}) > 1 or key == "pub_count", f"{key} is always the same"
    check_rows(daemon, "drawn", rows)
    both = [(row["start_timestamp"], row["end_timestamp"]) for row in daemon.ess("all")]
    assert any(start < row["end_timestamp"] and row["start_timestamp"] < end for row in rows for start, end in both)


PLACES = {"validating": 3, "rebooting": 3, "intent": 3, "preparing": 3, "waiting": 4, "fetching": 3, "archived": 3}


@pytest.mark.timeout(600)
def test_kills_anywhere_lose_and_repeat_nothing(daemon: InstalledDaemon, container_lab: ContainerLab) -> None:
    """An experiment of 30 tests, one that reboots before each test, and one that waits for the first one's machines.

    The tool refuses to run twice at once on a machine, and notes each start.
    """
    one, other = container_lab.machines[:2], container_lab.machines[2:]
    grid: Grid = {
        "duration_secs": [3],
        "datalen_bytes": [64, 100, 200, 300, 400],
        "pub_count": [1],
        "sub_count": [1],
        "use_reliable": [True, False],
        "latency_count": [10, 20, 30],
    }
    fewer: Grid = {**grid, "use_reliable": [True], "latency_count": [10, 20]}
    last: Grid = {**grid, "datalen_bytes": [500], "latency_count": [10]}
    keys: dict[str, Any] = {"exec_path": guard(container_lab), "share_network": True}
    daemon.drop_in(QUICK_RESTARTS)
    daemon.start()
    daemon.controller.run("systemctl enable autoperfd", check=True)
    daemon.run(
        experiment("thirty", settings_toml(grid), one, "pub sub", reboot="never", **keys),
        experiment("reboots", settings_toml(fewer), other, "pub sub", reboot="test", **keys),
        experiment("waits", settings_toml(last), one, "pub sub", reboot="never", **keys),
    )
    daemon.until(lambda: daemon.experiment("waits"), "all are accepted")
    marksman = Marksman(daemon, {"thirty": one, "reboots": other, "waits": one}, seed=29)

    kills = 0
    while kills < 20 or marksman.missing(PLACES):
        daemon.until(partial(succeeded, daemon, "thirty", kills), "the experiment goes on", 60)
        marksman.shoot(*(marksman.missing(PLACES) or PLACES), within_secs=4)
        kills += 1
        if kills % 6 == 0:
            marksman.shoot_at_start()
        marksman.await_restart()
        marksman.check_adoption()
    assert daemon.property("NRestarts") == str(kills + marksman.starts_hit)
    for interrupt in (partial(daemon.systemctl, "restart"), daemon.reboot):
        marksman.await_place("waiting")
        interrupt()
        marksman.check_adoption()
    for name in ("thirty", "reboots", "waits"):
        daemon.await_outcome(name, secs=180)
    daemon.systemctl("stop")

    hits = marksman.count()
    assert hits["idle"] >= 3, hits
    assert marksman.starts_hit >= 2 and len(marksman.adopted) >= 4
    started = {machine.name: starts(machine) for machine in container_lab.machines}
    strangers, lost = {uid for found in started.values() for uid in found}, 0
    for name, tests, machines in (("thirty", 30, one), ("reboots", 10, other), ("waits", 2, one)):
        rows = daemon.ess(name)
        wins = [row for row in rows if row["end_status"] == "success"]
        assert len(wins) == len({row["test_name"] for row in wins}) == tests, daemon.text()
        assert all(row in wins or row["end_status"] == "interrupted" for row in rows), rows
        lost += len(rows) - len(wins)
        archives = [daemon.archive(name, row) for row in wins]
        assert [problem for found in archives for problem in found.problems()] == []
        evidence = {found.json("attempt.json")["uid"]: found.json("evidence.json") for found in archives}
        for uid in evidence:
            assert [started[machine.name][uid] for machine in machines] == [1, 1], "an attempt was started twice"
        strangers -= set(evidence)
        for place in (hit[name] for hit in marksman.hits if name in hit):
            if place.name == "archived":
                assert place.archive.stat().st_ino == place.inode, "an archive was built twice"
        for place in marksman.adopted:
            assert place.experiment != name or evidence[place.uid]["found"] in ("adopted", "finished")
        if name == "reboots":
            assert len({tuple(found["boot_before"].values()) for found in evidence.values()}) == tests
    # A kill between the starts on two machines is the only one that costs an attempt; no kill costs a test.
    assert len(strangers) <= lost <= hits["starting"], (strangers, lost, hits)
    assert [boots(machine) for machine in other] == [11, 11]  # not once more than before each test
    assert "Traceback" not in daemon.log()


def succeeded(daemon: InstalledDaemon, name: str, count: int) -> bool:
    """Whether so many tests of an experiment have succeeded."""
    return bool(daemon.experiment(name)["succeeded"] >= count)


def check_rows(daemon: InstalledDaemon, folder: str, rows: list[dict[str, str]]) -> None:
    """The rows of an experiment in which nothing went wrong, one after the other, with archives that verify."""
    assert tuple(rows[0]) == ESS_COLUMNS
    ended = ""
    for row in rows:
        assert (row["end_status"], row["attempt_number"], row["reason"]) == ("success", "1", ""), (row, daemon.text())
        assert (row["blame"], row["machine"], row["pings_count"], row["ssh_check_count"]) == ("", "", "1", "1"), row
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["start_timestamp"])
        assert ended <= row["start_timestamp"] < row["end_timestamp"]
        ended = row["end_timestamp"]
        found = daemon.archive(folder, row)
        assert row["archive"] == f"data/{row['test_name']}/attempt-1.tar.gz"
        assert found.problems() == [] and found.json("attempt.json")["plan"]["test_name"] == row["test_name"]


def settings_toml(settings: Grid) -> str:
    """The lines of qos_settings."""
    return "".join(f"{key} = {json.dumps(values)}\n" for key, values in settings.items())


def name_of(settings: Mapping[str, int | bool]) -> str:
    """The name of a test as the specification spells it, written down here once more."""
    parts = [f"{settings['duration_secs']}SEC", f"{settings['datalen_bytes']}B"]
    parts += [f"{settings['pub_count']}PUB", f"{settings['sub_count']}SUB"]
    parts += ["REL" if settings["use_reliable"] else "BE", "MC" if settings["use_multicast"] else "UC"]
    parts += [f"{settings['durability_level']}DUR"] if "durability_level" in settings else []
    return "_".join([*parts, f"{settings['latency_count']}LC"])


def spelt(settings: Mapping[str, int | bool]) -> str:
    """The column qos_settings."""
    return ";".join(f"{key}={json.dumps(value)}" for key, value in settings.items())


def read_spelt(text: str) -> dict[str, int | bool]:
    """What the column qos_settings says."""
    return {key: json.loads(value) for key, _, value in (part.partition("=") for part in text.split(";"))}
