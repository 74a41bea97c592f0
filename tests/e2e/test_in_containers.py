"""The product as a user has it: installed under its shipped unit, on machines that really reboot."""

from __future__ import annotations

import hmac
import itertools
import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from autoperfd.core.ess import ESS_COLUMNS
from autoperfd.lab.container import ContainerLab, ContainerMachine
from tests.e2e.containers import (
    QUICK_RESTARTS,
    InstalledDaemon,
    Marksman,
    boots,
    experiment,
    guard,
    root_of,
    starts,
)
from tests.e2e.test_ddsperf_in_containers import KNOWN
from tests.faults import Fired

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

# Not reliable: now and then a writer of ddsperf 0.10 at full rate is blocked for good, also without this daemon. That
# is a failed test, rightly told and tried again.
REAL = SHORT.replace("sub_count = [1]", "sub_count = [3]").replace("[true, false]", "[false]")
REAL += "use_multicast = [true, false]\n"


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
        REAL,
        machines,
        "pub sub sub sub",
        tool="ddsperf",
        exec_path="/usr/bin/ddsperf",
        environment={},
        buffer_secs=40,
    )
    daemon.start()
    daemon.run(stand_in, real)
    daemon.await_outcome("PCG #1", secs=60)
    daemon.await_outcome("real DDS", secs=180)
    assert daemon.verify("PCG #1") == daemon.verify("real DDS") == []

    boots: list[dict[str, str]] = [before]
    for folder, names in {
        "PCG_1": ["3SEC_100B_2PUB_2SUB_REL_10LC", "3SEC_100B_2PUB_2SUB_BE_10LC"],
        "real_DDS": ["3SEC_100B_1PUB_3SUB_BE_MC_10LC", "3SEC_100B_1PUB_3SUB_BE_UC_10LC"],
    }.items():
        rows = daemon.ess(folder)
        if folder == "real_DDS":  # by itself ddsperf fails now and then on a busy computer, and is tried again
            rows = [row for row in rows if row["reason"].partition(":")[0] not in KNOWN]
        else:
            assert {row["attempt_number"] for row in rows} == {"1"}, daemon.text()
        assert [(row["test_name"], row["end_status"]) for row in rows] == [(name, "success") for name in names], rows
        assert all(daemon.archive(folder, row).problems() == [] for row in rows)
        evidence = [daemon.archive(folder, row).json("evidence.json") for row in rows]
        assert all(found["boot_before"] == found["boot_after"] for found in evidence)
        assert evidence[0]["boot_before"] == evidence[1]["boot_before"]  # rebooted once, before the first
        boots.append(evidence[0]["boot_before"])
    for machine in machines:
        assert len({booted[machine.name] for booted in boots}) == 3, boots  # each experiment rebooted every machine
    assert boots[-1] == {machine.name: machine.boot_id() for machine in machines}

    daemon.until(lambda: daemon.property("StatusText") == "all experiments are finished", "systemd has the sentence", 3)
    shown = container_lab.controller.run("systemctl status autoperfd --no-pager").stdout
    assert "Active: active (running)" in shown and 'Status: "all experiments are finished"' in shown, shown
    exposure = container_lab.controller.run("systemd-analyze security autoperfd --no-pager").stdout
    found = re.search(r"Overall exposure level.*: ([\d.]+)", exposure)
    assert found and float(found[1]) <= MOST_EXPOSURE, exposure
    daemon.systemctl("stop")
    ended = {name: daemon.property(name) for name in ("Result", "ExecMainStatus", "NRestarts", "ActiveState")}
    assert daemon.verify("PCG #1") == daemon.verify("real DDS") == []  # by itself, without a daemon
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
    assert daemon.verify("all") == daemon.verify("drawn") == []

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


# The instant between an attempt's intent and its first trace on a machine is a few milliseconds long: it is shot at
# too, but not waited for; the rehearsal crashes there in every seed.
PLACES = {"validating": 3, "rebooting": 3, "intent": 0, "preparing": 3, "waiting": 4, "fetching": 3, "archived": 3}


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
        daemon.until(partial(succeeded, daemon, "thirty", kills // 2), "the experiment goes on", 60)
        missing = marksman.missing(PLACES)
        # Ten reboots are all there are, and they may be over while the other places are waited for.
        wanted = ["rebooting"] if "rebooting" in missing else missing or list(PLACES)
        marksman.shoot(*wanted, within_secs=4 if {"waiting", "rebooting"} & set(wanted) else 0)
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
    for machine in container_lab.machines:
        daemon.until(partial(is_swept, machine), f"nothing of ours is left on {machine.name}")
    assert daemon.ask("status")["data"]["attention"] == []
    assert [problem for name in ("thirty", "reboots", "waits") for problem in daemon.verify(name)] == []
    daemon.systemctl("stop")
    results = daemon.state / "results"
    assert [str(path) for path in results.rglob("*") if path.name.startswith(".") or ".edited-" in path.name] == []

    hits = marksman.count()
    assert hits["idle"] >= 3, hits
    ran = [place for hit in marksman.hits for place in hit.values() if place.name == "waiting"]
    assert marksman.starts_hit >= 2 and len(ran) >= 4
    started = {machine.name: starts(machine) for machine in container_lab.machines}
    strangers, lost = {uid for found in started.values() for uid in found}, 0
    for name, tests, machines in (("thirty", 30, one), ("reboots", 10, other), ("waits", 2, one)):
        rows = daemon.ess(name)
        wins = [row for row in rows if row["end_status"] == "success"]
        assert len(wins) == len({row["test_name"] for row in wins}) == tests, daemon.text()
        assert all(row in wins or row["reason"].startswith("HALF_STARTED: ") for row in rows), rows
        lost += len(rows) - len(wins)
        archives = [daemon.archive(name, row) for row in wins]
        assert [problem for found in archives for problem in found.problems()] == []
        evidence = {found.json("attempt.json")["uid"]: found.json("evidence.json") for found in archives}
        for uid in evidence:
            assert [started[machine.name][uid] for machine in machines] == [1, 1], "an attempt was started twice"
        strangers -= set(evidence)
        for place in (hit[name] for hit in marksman.hits if name in hit):
            if place.name == "archived":
                assert (daemon.state / place.archive).stat().st_ino == place.inode, "an archive was built twice"
        for place in (*ran, *marksman.adopted):
            assert place.experiment != name or evidence[place.uid]["found"] in ("adopted", "finished")
        if name == "reboots":
            assert len({tuple(found["boot_before"].values()) for found in evidence.values()}) == tests
    # A kill between the starts on two machines is the only one that costs an attempt; no kill costs a test.
    assert len(strangers) <= lost <= hits["starting"], (strangers, lost, hits)
    assert [boots(machine) for machine in other] == [11, 11]  # not once more than before each test
    assert "Traceback" not in daemon.log()


@pytest.mark.parametrize("auto_resume", [False, True], ids=["resumed by a person", "goes on by itself"])
def test_a_machine_that_is_off(daemon: InstalledDaemon, container_lab: ContainerLab, auto_resume: bool) -> None:
    """Four tests; the subscribers' machine loses its power in the second one. The daemon is killed on the way, too."""
    machines = container_lab.machines[:2]
    receiver = container_lab.recorder()
    container_lab.copy_to("controller", "/etc/credstore/autoperf.webhook_url", f"{receiver.url}/hook\n", 0o600)
    container_lab.copy_to("controller", "/etc/credstore/autoperf.webhook_secret", "lab secret\n", 0o600)
    daemon.drop_in(QUICK_RESTARTS)
    patience = {"validation_secs": 1, "patience_secs": 8, "backoff_first_secs": 0.5, "auto_resume": auto_resume}
    daemon.start(machines=patience, webhook={"allow_http": True})
    settings = SHORT.replace("datalen_bytes = [100]", "datalen_bytes = [100, 200]")
    daemon.run(experiment("away", settings, machines, "pub sub", reboot="never"))
    daemon.until(partial(succeeded, daemon, "away", 1), "the first test has succeeded")
    marksman = Marksman(daemon, {"away": machines}, seed=37)
    interrupted = daemon.await_running("away", then=partial(container_lab.kill, "p2"))
    for _ in range(3):
        marksman.shoot("backing-off")
        marksman.await_restart()
    halted = daemon.await_state("away", "halted")
    for _ in range(3):
        marksman.shoot("halted")
        marksman.await_restart()
    assert daemon.experiment("away")["state"] == "halted"
    assert (halted["halted_cause"], halted["succeeded"], halted["failed"]) == ("machine", 1, 0)
    assert "p2" in halted["halted_reason"] and "no answer for" in halted["halted_reason"]
    said = " ".join(daemon.ctl("status").stdout.split())
    assert ("p2" in said and "See to the machine" in said) or "autoperfctl resume away" in said, said

    (request,) = receiver.wait(1)
    told, headers = request.json(), request.headers
    assert (told["kind"], told["experiment"], told["machine"], told["cause"]) == ("halt", "away", "p2", "machine")
    assert told["tests_done"] == 1 and told["tests_total"] == 4 and told["controller"] == "controller"
    assert "away halted" in told["text"] and "To do: " in told["text"]
    assert headers["x-autoperf-signature-256"] == signed(b"lab secret", headers["x-autoperf-timestamp"], request.body)

    container_lab.boot("p2")
    if not auto_resume:
        assert daemon.experiment("away")["state"] == "halted"
        assert daemon.ctl("resume", "away").returncode == 0
    daemon.await_outcome("away")
    rows = daemon.ess("away")
    order = [row["test_name"] for row in rows]
    assert order[1] == order[2] == interrupted and len({*order}) == 4
    assert [(row["end_status"], row["attempt_number"], row["blame"], row["machine"]) for row in rows] == [
        ("success", "1", "", ""),
        ("machine-lost", "1", "machine", "p2"),
        ("success", "2", "", ""),
        ("success", "1", "", ""),
        ("success", "1", "", ""),
    ]
    assert daemon.verify("away") == []
    kinds = ["halt", "over"] if auto_resume else ["halt"]

    def told_once() -> dict[str, str]:
        return {message.headers["idempotency-key"]: message.json()["kind"] for message in receiver.requests}

    daemon.until(lambda: len(told_once()) >= len(kinds), "the messages came")
    daemon.systemctl("stop")
    assert list(told_once().values()) == kinds, "somebody was told twice"
    # A daemon killed between a message and its note of it sends it again under the same key, and no oftener.
    again = len(receiver.requests) - len(kinds)
    assert again <= marksman.count()["halted"]
    assert marksman.count()["backing-off"] >= 3 and marksman.count()["halted"] >= 3


def signed(secret: bytes, stamp: str, body: bytes) -> str:
    """The signature a receiver expects."""
    return "sha256=" + hmac.new(secret, stamp.encode() + b"." + body, "sha256").hexdigest()


def test_failing_tests_are_tried_again_and_ten_in_a_row_halt(
    daemon: InstalledDaemon, container_lab: ContainerLab
) -> None:
    grid: Grid = {
        "duration_secs": [3],
        "datalen_bytes": [64, 100, 200, 300],
        "pub_count": [1],
        "sub_count": [1],
        "use_reliable": [True],
        "latency_count": [10, 20, 30],
    }
    broken = {"STANDIN_FAST": "1", "STANDIN_MISBEHAVE": "*:crash-at-start=11"}
    stubborn = {"STANDIN_FAST": "1", "STANDIN_MISBEHAVE": "sub_0/bestEffort:crash=11"}
    shared: dict[str, Any] = {"reboot": "never", "share_network": True}
    one, other = container_lab.machines[:2], container_lab.machines[2:]
    daemon.start()
    daemon.run(
        experiment("broken", settings_toml(grid), one, "pub sub", environment=broken, retries=0, **shared),
        experiment("stubborn", SHORT, other, "pub sub", environment=stubborn, retries=2, **shared),
    )
    halted = daemon.await_state("broken", "halted")
    rows = daemon.ess("broken")
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    names = [name_of({**settings, "use_multicast": False}).replace("_UC", "") for settings in combinations]
    assert [row["test_name"] for row in rows] == names[:10]
    assert {(row["end_status"], row["attempt_number"], row["blame"]) for row in rows} == {("crashed", "1", "test")}
    assert (halted["halted_cause"], halted["failed"], halted["failures_in_a_row"]) == ("failures", 10, 10)
    assert "10 tests in a row failed" in halted["halted_reason"] and "autoperfctl resume broken" in halted["todo"]
    assert daemon.ctl("resume", "broken").returncode == 0
    assert daemon.await_outcome("broken")["failed"] == 12  # two more do not make ten

    ended = daemon.await_outcome("stubborn")
    assert daemon.verify("broken") == daemon.verify("stubborn") == []
    assert (ended["succeeded"], ended["failed"]) == (1, 1)
    rows = daemon.ess("stubborn")
    assert [(row["end_status"], row["attempt_number"], row["blame"]) for row in rows] == [
        ("success", "1", ""),
        ("crashed", "1", "test"),
        ("crashed", "2", "test"),
        ("crashed", "3", "test"),
    ]
    for row in rows:
        kept = daemon.archive("stubborn", row)
        assert kept.problems() == [] and kept.json("attempt.json")["number"] == int(row["attempt_number"])


def test_pings_are_real(daemon: InstalledDaemon, container_lab: ContainerLab) -> None:
    """Pings alone are lost, logins alone are lost, and pings are forbidden: three different sentences."""
    one, other = container_lab.machines[:2], container_lab.machines[2:]
    shared: dict[str, Any] = {"reboot": "never", "share_network": True}
    only = SHORT.replace("[true, false]", "[true]")
    texts = [
        experiment("no pings", only, one, "pub sub", **shared),
        experiment("no ssh", only, other, "pub sub", **shared),
    ]
    daemon.start(machines={"validation_secs": 1.5, "patience_secs": 1})
    daemon.trust(*texts)
    container_lab.drop("controller", "p1", "ip protocol icmp")
    container_lab.drop("controller", "p3", "tcp dport 22")
    for number, text in enumerate(texts):
        daemon.drop(f"{number}.toml", text)
    reasons = [daemon.await_state(name, "halted")["halted_reason"] for name in ("no pings", "no ssh")]
    ping, ssh = (container_lab.machine(name).ip for name in ("p1", "p3"))
    assert f"p1: {ping} does not answer pings, though its port 22 does" in reasons[0], reasons
    assert "p3" in reasons[1] and "ping" not in reasons[1] and "port 22" in reasons[1] and ssh in reasons[1], reasons
    container_lab.heal()
    for name in ("no pings", "no ssh"):
        daemon.await_outcome(name)
        assert [row["end_status"] for row in daemon.ess(name.replace(" ", "_"))] == ["success"]

    container_lab.allow_ping("controller", allowed=False)
    daemon.drop("forbidden.toml", experiment("forbidden", only, one, "pub sub", **shared))
    reason = daemon.await_state("forbidden", "halted")["halted_reason"]
    assert "this controller may not send pings" in reason and "ping_group_range" in reason
    container_lab.allow_ping("controller")
    daemon.await_outcome("forbidden")
    assert daemon.verify("forbidden") == []


def test_people(daemon: InstalledDaemon, container_lab: ContainerLab) -> None:
    """olga operates, sam submits, eve may do neither."""
    one, other = container_lab.machines[:2], container_lab.machines[2:]
    shared: dict[str, Any] = {"reboot": "never", "share_network": True}
    daemon.user("olga", "autoperf")
    daemon.user("sam", "autoperf-submit")
    daemon.user("eve")
    texts = {"main": experiment("main", FIVE, one, "pub sub", **shared)}
    texts["side"] = experiment("side", FIVE, other, "pub sub", **shared)
    for user, name in itertools.product(("olga", "sam", "eve"), texts):
        container_lab.copy_to("controller", f"/home/{user}/{name}.toml", texts[name], owner=user)
    assert said(daemon.ctl("status", user="olga"), 3) == "", "it has never run"
    daemon.start()

    for name in texts:
        assert "is trusted" in said(daemon.ctl("trust", f"{name}.toml", "--yes", user="olga"))
    refused = daemon.ctl("submit", "main.toml", user="eve")
    assert refused.returncode == 1 and "autoperf-submit" in refused.stderr
    said(daemon.ctl("halt", user="olga"))  # so that nothing moves but what somebody moves
    assert "main" in said(daemon.ctl("submit", "main.toml", user="sam"))
    daemon.until(lambda: daemon.experiment("main"), "the file is accepted")
    before = daemon.experiment("main")
    for user, words in itertools.product(("sam", "eve"), COMMANDS):
        refused = daemon.ctl(*words, user=user)
        assert refused.returncode == 1 and "group autoperf" in refused.stderr, (user, words, refused)
    assert daemon.experiment("main") == before and before["state"] == "idle"

    names = [f"6SEC_{size}B_1PUB_1SUB_10LC" for size in (100, 200, 300, 400, 500)]
    assert "skipped" in said(daemon.ctl("skip", names[3], user="olga"))
    assert "Going on" in said(daemon.ctl("resume", user="olga"))
    assert daemon.await_running("main") == names[0]
    assert "running main" in said(daemon.ctl("status", user="olga")) and "main" in said(daemon.ctl("list", user="olga"))
    assert json.loads(said(daemon.ctl("status", "--json", user="olga")))["experiments"][0]["name"] == "main"
    daemon.until(partial(succeeded, daemon, "main", 1), "the first test has succeeded")
    assert "succeeded" in daemon.ctl("retry", names[0], user="olga").stderr
    daemon.until(partial(succeeded, daemon, "main", 2), "the second test has succeeded")
    daemon.await_running("main")
    assert "is halted" in said(daemon.ctl("halt", "main", user="olga"))
    for machine in one:
        daemon.until(partial(is_idle, machine), f"the participants on {machine.name} are ended")
    assert "halted by olga" in said(daemon.ctl("show", "main", user="olga"))

    said(daemon.ctl("halt", user="olga"))
    assert "side" in said(daemon.ctl("submit", "side.toml", user="sam"))
    daemon.until(lambda: daemon.experiment("side"), "the other file is accepted")
    assert daemon.experiment("side")["state"] == "idle", "everything is held"
    assert "held by olga" in said(daemon.ctl("status", user="olga"), 1), "there is something to do"
    assert "main" in said(daemon.ctl("resume", user="olga"))
    daemon.await_state("side", "running")
    assert "cancelled" in said(daemon.ctl("cancel", "side", user="olga"))
    daemon.await_outcome("side", "cancelled")
    daemon.await_outcome("main")
    assert "tried again" in said(daemon.ctl("retry", names[3], "--experiment", "main", user="olga"))
    daemon.until(partial(succeeded, daemon, "main", 5), "all five have succeeded")
    rows = [(row["test_name"], row["end_status"], row["attempt_number"]) for row in daemon.ess("main")]
    (interrupted,) = (test for test, status, _ in rows if status == "interrupted")
    expected = [(name, "success", "2" if name in (interrupted, names[3]) else "1") for name in names]
    assert sorted(rows) == sorted([*expected, (interrupted, "interrupted", "1"), (names[3], "skipped", "1")])

    daemon.await_outcome("main")
    assert "nothing is wrong" in said(daemon.ctl("verify", "main", user="olga"))
    told = said(daemon.ctl("why", names[3], "--experiment", "main", user="olga"))
    assert "attempt 1 ended: skipped by olga" in told and "olga wants it tried again" in told, told
    for user, words in (("sam", ("verify", "main")), ("eve", ("why", names[0]))):
        refused = daemon.ctl(*words, user=user)
        assert refused.returncode == 1 and "group autoperf" in refused.stderr, (user, words, refused)
    daemon.systemctl("stop")
    refused = daemon.ctl("verify", "main", user="olga")
    assert refused.returncode == 3 and "Run it as root" in refused.stderr, "the memory itself is nobody else's"
    text = said(daemon.ctl("status", user="olga"), 3)
    assert "not running" in text and "main" in text and "systemctl start autoperfd" in text
    assert daemon.ctl("list", user="olga").returncode == 3
    refused = daemon.ctl("status", user="eve")
    assert refused.returncode in (1, 3) and "main" not in refused.stdout


FIVE = """duration_secs = [6]
datalen_bytes = [100, 200, 300, 400, 500]
pub_count = [1]
sub_count = [1]
latency_count = [10]
"""
COMMANDS = (
    ("status",),
    ("list",),
    ("show", "main"),
    ("halt", "main"),
    ("halt",),
    ("resume",),
    ("skip", "6SEC_100B_1PUB_1SUB_10LC"),
    ("retry", "--failed"),
    ("cancel", "main"),
    ("trust", "main.toml", "--yes"),
)


def said(done: subprocess.CompletedProcess[str], status: int = 0) -> str:
    """What a command printed that ended as expected."""
    assert done.returncode == status, done
    return done.stdout


def is_swept(machine: ContainerMachine) -> bool:
    """Whether no attempt has left anything on a machine."""
    return not list((root_of(machine) / "home/pi/.autoperf").glob("*/*"))


def is_idle(machine: ContainerMachine) -> bool:
    """Whether no participant runs on a machine."""
    return machine.run("pgrep -u pi -f perftest_cpp").returncode == 1


def succeeded(daemon: InstalledDaemon, name: str, count: int) -> bool:
    """Whether so many tests of an experiment have succeeded."""
    return bool(daemon.experiment(name).get("succeeded", 0) >= count)


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


def test_a_silent_link_is_noticed_and_the_test_goes_on(daemon: InstalledDaemon, container_lab: ContainerLab) -> None:
    """Nothing passes between controller and one machine, in neither direction and without a word; then it does."""
    machines = container_lab.machines[:2]
    daemon.start(machines={"link_loss_secs": 15, "patience_secs": 60})
    settings = SHORT.replace("[3]", "[30]").replace("[true, false]", "[true]")
    daemon.run(experiment("silent", settings, machines, "pub sub", reboot="never"))
    marksman = Marksman(daemon, {"silent": machines}, seed=41)
    marksman.await_place("waiting")
    container_lab.drop("controller", "p2")
    cut = time.time()
    daemon.await_state("silent", "backing-off", 40)
    journal = daemon.controller.run("journalctl -u autoperfd -o short-unix --no-pager", check=True).stdout
    noticed = next(float(line.split()[0]) for line in journal.splitlines() if "running -> backing-off" in line)
    assert noticed - cut <= 20
    assert daemon.experiment("silent")["current"]["attempt"] == 1  # it stays open
    container_lab.heal()
    daemon.await_outcome("silent", secs=60)
    (row,) = daemon.ess("silent")
    assert (row["end_status"], row["attempt_number"]) == ("success", "1"), daemon.text()
    assert daemon.verify("silent") == []
    assert daemon.archive("silent", row).json("evidence.json")["found"] in ("adopted", "finished")


def test_a_kernel_setting_that_is_changed_in_the_middle_is_told_of(
    daemon: InstalledDaemon, container_lab: ContainerLab
) -> None:
    machines = container_lab.machines[:2]
    changed = machines[1]
    daemon.start()
    said(daemon.ctl("halt"))
    daemon.run(experiment("set", SHORT, machines, "pub sub", reboot="never"))
    daemon.until(lambda: daemon.experiment("set"), "the file is accepted")
    second = "3SEC_100B_1PUB_1SUB_BE_10LC"
    said(daemon.ctl("skip", second))  # for now
    said(daemon.ctl("resume"))
    daemon.await_outcome("set")
    # From outside, for a container may not do that to itself.
    setting = ["sysctl", "-qw", "net.ipv4.ipfrag_time=17"]
    subprocess.run(["nsenter", f"--target={changed.leader()}", "--net", *setting], check=True, timeout=10)
    daemon.systemctl("restart")  # whoever restarts learns of it at once, everybody else within a minute
    daemon.until(daemon.answers, "the daemon answers again")
    said(daemon.ctl("retry", second))
    daemon.until(partial(succeeded, daemon, "set", 2), "the second test has succeeded", 60)
    sentence = f"{changed.name}: net.ipv4.ipfrag_time changed from 30 to 17"
    assert [text.partition(", seen")[0] for text in daemon.experiment("set")["changes"]] == [sentence]
    kept = [row for row in daemon.ess("set") if row["end_status"] == "success"]
    about = [daemon.archive("set", row).json("machines.json")[changed.name]["facts"] for row in kept]
    assert [facts["net.ipv4.ipfrag_time"] for facts in about] == ["30", "17"]
    assert sentence in daemon.ctl("why", kept[1]["test_name"]).stdout
    assert daemon.verify("set") == []


@pytest.mark.fault("S2")
def test_a_restart_loop_ends_and_is_told_once(
    daemon: InstalledDaemon, container_lab: ContainerLab, fired: Fired
) -> None:
    """The daemon cannot even start, so people are told by somebody else."""
    receiver = container_lab.recorder()
    container_lab.copy_to("controller", "/etc/credstore/autoperf.webhook_url", f"{receiver.url}/hook\n", 0o600)
    container_lab.copy_to("controller", "/etc/credstore/autoperf.webhook_secret", "lab secret\n", 0o600)
    container_lab.copy_to("controller", "/etc/autoperf/autoperfd.toml", "[webhook]\nallow_http = true\n")
    broken = "import os\nos._exit(70)\n"
    where = daemon.controller.run(
        "find /usr/lib/autoperfd -path '*autoperfd/daemon/main.py'", check=True
    ).stdout.strip()
    whole = daemon.controller.run(["cat", where], check=True).stdout
    container_lab.copy_to("controller", where, broken)
    daemon.drop_in("[Service]\nRestartSec=100ms\n")
    daemon.controller.run("systemctl start --no-block autoperfd", check=True)
    (request,) = receiver.wait(1)
    daemon.until(lambda: daemon.property("ActiveState") == "failed", "systemd has given up", 10)
    assert int(daemon.property("NRestarts")) >= 4
    fired("S2", f"{daemon.property('NRestarts')} restarts, then {daemon.property('Result')}")
    told = request.json()
    assert (told["kind"], told["code"], told["controller"]) == ("failed", "RESTART_LOOP", "controller")
    assert "systemctl start autoperfd" in told["text"]
    stamp = request.headers["x-autoperf-timestamp"]
    assert request.headers["x-autoperf-signature-256"] == signed(b"lab secret", stamp, request.body)
    container_lab.copy_to("controller", where, whole)
    daemon.controller.run("systemctl reset-failed autoperfd", check=True)
    daemon.start()
    daemon.until(daemon.answers, "it answers again")
    assert len(receiver.requests) == 1
