"""The whole daemon as a process, on real sshd processes of the loopback lab with the Perftest stand-in."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from autoperfd.daemon import archive
from autoperfd.lab.loopback import LoopbackLab
from autoperfd.report import facts as facts_of_report
from autoperfd.results.gather import gather
from tests.e2e.support import LiveDaemon, experiment_toml
from tests.faults import Fired

BAD = Path(__file__).parent.parent / "data" / "bad"
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


def machines(lab: LoopbackLab, misbehave: str = "") -> str:
    """The machine tables. Stand-ins of one lab see only each other, whatever else runs on this computer."""
    net = f"port{lab.machines[0].port}"
    environment = f'{{ STANDIN_FAST = "1", STANDIN_NET = "{net}", STANDIN_MISBEHAVE = "{misbehave}" }}'
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
    assert daemon.verify("PCG #1") == []
    assert daemon.stop() == 0
    assert daemon.verify("PCG #1") == []


def test_machines_are_looked_at_before_anything_is_submitted(
    daemon: LiveDaemon, loopback_lab: LoopbackLab, tmp_path: Path
) -> None:
    file = tmp_path / "probe.toml"
    file.write_text(experiment_toml("probed", SETTINGS, machines(loopback_lab), reboot="never"))
    fit = daemon.ctl("check", str(file), "--probe")
    assert fit.returncode == 0, fit
    for machine in loopback_lab.machines:
        assert f"\nok  {machine.name}: " in fit.stdout
    well = daemon.ctl("doctor", str(file), "--json")
    found = {each["subject"]: each for each in json.loads(well.stdout)}
    for machine in loopback_lab.machines:
        assert found[machine.name]["well"] is not False, found
    off = loopback_lab.machines[1].name
    loopback_lab.kill(off)
    unfit = daemon.ctl("check", str(file), "--probe")
    assert unfit.returncode == 1 and f"\n!   {off}: " in unfit.stdout, unfit
    assert f"\nok  {loopback_lab.machines[0].name}: " in unfit.stdout
    loopback_lab.boot(off)
    daemon.drop("a.toml", file.read_text())
    daemon.until(lambda: daemon.experiment("probed").get("current") is not None, "an attempt is open")
    busy = daemon.ctl("check", str(file), "--probe")
    assert busy.returncode == 0 and busy.stdout.count("probed uses it now") == 2, busy
    daemon.await_outcome("probed")
    assert [row["end_status"] for row in daemon.ess("probed")] == ["success"] * 2


def test_a_tool_that_is_replaced_between_two_tests_is_told_of(daemon: LiveDaemon, loopback_lab: LoopbackLab) -> None:
    machine = loopback_lab.machines[1]
    tool = machine.home / "perftest_cpp"
    original = tool.read_bytes()
    daemon.drop("a.toml", experiment_toml("replaced", SETTINGS, machines(loopback_lab), reboot="never"))
    daemon.until(lambda: daemon.experiment("replaced").get("succeeded") == 1, "one test has succeeded")
    assert daemon.ask("halt", experiment="replaced")["ok"]
    try:
        tool.write_bytes(original + b"\n# another build\n")
        assert daemon.ask("resume", experiment="replaced")["ok"]
        daemon.await_outcome("replaced")
    finally:
        tool.write_bytes(original)
    rows = daemon.ess("replaced")
    kept = [row for row in rows if row["end_status"] == "success"]
    told = [
        json.loads(archive.read_text(daemon.state / "results" / "replaced" / row["archive"], "machines.json") or b"")
        for row in kept
    ]
    before, after = (hashlib.sha256(data).hexdigest() for data in (original, original + b"\n# another build\n"))
    assert [each[machine.name]["facts"]["executable_sha256"] for each in told] == [before, after]
    for facts in (each["facts"] for one in told for each in one.values()):
        assert {"kernel", "os", "arch", "cpus", "cpu", "memory_kb", "clock_skew", "net.core.rmem_max"} <= set(facts)
    sentence = f"{machine.name}: executable_sha256 changed from {before} to {after}"
    assert [text.partition(", seen")[0] for text in daemon.experiment("replaced")["changes"]] == [sentence]
    assert daemon.verify("replaced") == []
    last = kept[-1]["test_name"]
    running = daemon.ctl("why", last).stdout
    assert daemon.stop() == 0
    for said in (running, daemon.ctl("why", last).stdout):
        assert sentence in " ".join(said.split()), said
    assert "changed" not in daemon.ctl("why", kept[0]["test_name"]).stdout
    with closing(sqlite3.connect(daemon.state / "autoperf.db")) as db:
        db.row_factory = sqlite3.Row
        found = facts_of_report.machines(gather(db, "replaced"))
    assert [each.changes for each in found] == [(), (f"executable_sha256 changed: {before} → {after}",)]
    assert all(each.facts["kernel"] for each in found)


def test_a_killed_daemon_finds_the_running_attempt_again(daemon: LiveDaemon, loopback_lab: LoopbackLab) -> None:
    daemon.drop("a.toml", experiment_toml("kills", SETTINGS, machines(loopback_lab), reboot="never"))
    for _ in range(2):
        daemon.await_running("kills", then=daemon.kill)
        daemon.start()
    daemon.await_outcome("kills", secs=60)
    rows = daemon.ess("kills")
    assert [(row["end_status"], row["attempt_number"]) for row in rows] == [("success", "1")] * 2, daemon.text()
    assert daemon.verify("kills") == []


def test_a_test_that_fails_once_is_tried_again(daemon: LiveDaemon, loopback_lab: LoopbackLab, tmp_path: Path) -> None:
    once = f"sub_0/bestEffort:crash=11@{tmp_path}/crashed-once"
    daemon.drop("a.toml", experiment_toml("retries", SETTINGS, machines(loopback_lab, once), reboot="failure"))
    daemon.await_outcome("retries", secs=90)
    rows = daemon.ess("retries")
    assert [(row["end_status"], row["attempt_number"], row["blame"]) for row in rows] == [
        ("success", "1", ""),
        ("crashed", "1", "test"),
        ("success", "2", ""),
    ]
    assert daemon.experiment("retries")["failed"] == 0
    assert daemon.verify("retries") == []


def test_a_machine_that_is_off_backs_off_halts_and_goes_on(daemon: LiveDaemon, loopback_lab: LoopbackLab) -> None:
    name = loopback_lab.machines[1].name
    loopback_lab.kill(name)
    daemon.stop()
    daemon.config.write_text(daemon.config.read_text().replace("patience_secs = 20", "patience_secs = 2"))
    daemon.start()
    daemon.drop("a.toml", experiment_toml("away", SETTINGS, machines(loopback_lab), reboot="never"))
    halted = daemon.await_state("away", "halted")
    assert "-> backing-off" in daemon.text()
    assert halted["halted_cause"] == "machine"
    assert name in halted["halted_reason"]
    assert daemon.ess("away") == []
    loopback_lab.boot(name)
    daemon.await_outcome("away", secs=60)
    assert [row["end_status"] for row in daemon.ess("away")] == ["success", "success"]
    assert daemon.verify("away") == []


def test_an_experiment_in_a_copied_results_folder_is_not_run_again(
    daemon: LiveDaemon, loopback_lab: LoopbackLab, tmp_path: Path
) -> None:
    text = experiment_toml("copied", SETTINGS, machines(loopback_lab), reboot="never")
    daemon.drop("a.toml", text)
    daemon.await_outcome("copied")
    daemon.stop()
    for path in daemon.state.glob("autoperf.db*"):
        path.unlink()
    (daemon.state / "begin-anew").touch()  # else the lost memory would be waited for
    (next((daemon.state / "results" / "copied" / "data").glob("*BE*")) / "attempt-1.tar.gz").write_bytes(b"damaged")
    daemon.start()
    daemon.trust(loopback_lab.machines)
    daemon.drop("a.toml", text)
    daemon.await_outcome("copied")
    rows = daemon.ess("copied")
    assert [(row["end_status"], row["attempt_number"]) for row in rows] == [
        ("success", "1"),
        ("invalid", "1"),
        ("success", "2"),
    ]
    assert daemon.verify("copied") == []


@pytest.mark.fault("E1")
def test_an_edited_spreadsheet_is_kept_aside(daemon: LiveDaemon, loopback_lab: LoopbackLab, fired: Fired) -> None:
    daemon.drop("a.toml", experiment_toml("edited", SETTINGS, machines(loopback_lab), reboot="never"))
    daemon.until(lambda: daemon.experiment("edited").get("succeeded") == 1, "one test has succeeded")
    assert daemon.ask("halt", experiment="edited")["ok"]  # or the daemon might be quicker than we are
    ess = daemon.state / "results" / "edited" / "ess.csv"
    mine = ess.read_text().replace("success", "my own words")
    ess.write_text(mine)
    (problem,) = daemon.verify("edited")
    fired("E1", problem)
    assert problem.startswith("ess.csv, line 2: found ") and "my own words" in problem
    assert daemon.ask("resume", experiment="edited")["ok"]
    daemon.await_outcome("edited")
    assert [row["end_status"] for row in daemon.ess("edited") if row["blame"] != "operator"] == ["success", "success"]
    aside = list(ess.parent.glob("ess.edited-*.csv"))
    assert [path.read_text() for path in aside] == [mine]
    assert daemon.verify("edited") == []


@pytest.mark.fault("E5")
def test_a_lost_archive_is_named_and_its_test_tried_again(
    daemon: LiveDaemon, loopback_lab: LoopbackLab, fired: Fired
) -> None:
    daemon.drop("a.toml", experiment_toml("lost", SETTINGS, machines(loopback_lab), reboot="never"))
    daemon.await_outcome("lost")
    kept, lost = daemon.ess("lost")
    archive = daemon.state / "results" / "lost" / lost["archive"]
    archive.write_bytes(archive.read_bytes()[:-100])
    fired("E5", f"{archive.name} has lost its end")
    (problem,) = daemon.verify("lost")
    assert problem.startswith(f"{lost['archive']} has ")
    assert daemon.ess("lost") == [kept, lost], "the row is not changed silently"
    assert daemon.ctl("retry", kept["test_name"]).returncode == 1
    assert daemon.ctl("retry", lost["test_name"]).returncode == 0
    daemon.await_outcome("lost")
    assert [(row["test_name"], row["end_status"], row["attempt_number"]) for row in daemon.ess("lost")] == [
        (kept["test_name"], "success", "1"),
        (lost["test_name"], "success", "1"),
        (lost["test_name"], "success", "2"),
    ]
    assert daemon.verify("lost") == []
    told = daemon.ctl("why", lost["test_name"]).stdout
    assert "succeeded with attempt 2" in told and "wants it tried again" in told, told
    daemon.stop()
    assert daemon.ctl("why", lost["test_name"]).stdout.endswith(told)


def test_bad_files_are_refused_whole_and_disturb_nobody(daemon: LiveDaemon, loopback_lab: LoopbackLab) -> None:
    daemon.drop("good.toml", experiment_toml("good", SETTINGS, machines(loopback_lab), reboot="never"))
    daemon.await_state("good", "running")
    assert daemon.process is not None
    pid = daemon.process.pid
    bad = sorted(BAD.glob("*.toml"))
    assert len(bad) >= 40
    for path in bad:
        daemon.drop(f"bad-{path.name}", path.read_bytes())
    rejected = daemon.queue / "rejected"
    daemon.until(lambda: len(list(rejected.glob("bad-*.error.txt"))) == len(bad), "all bad files are refused", 60)
    for path in bad:
        words = (rejected / f"bad-{path.name}.error.txt").read_text()
        for problem in path.with_suffix(".expected").read_text().splitlines():
            line, key, part = problem.split(" | ", 2)
            place = f"bad-{path.name}:{line}: {key}" if line != "0" else f"bad-{path.name}: {key}"
            assert any(said.startswith(place) and part in said for said in words.splitlines()), (problem, words)
        assert (rejected / f"bad-{path.name}").exists()
    daemon.await_outcome("good")
    rows = daemon.ess("good")
    assert [row["end_status"] for row in rows] == ["success", "success"], rows
    assert daemon.verify("good") == []
    assert daemon.process.pid == pid
    assert daemon.process.poll() is None
    assert [e["name"] for e in daemon.ask("list")["data"]["experiments"]] == ["good"]


def test_a_space_of_a_million_million_tests_is_taken_at_once(daemon: LiveDaemon, loopback_lab: LoopbackLab) -> None:
    wide = """duration_secs = { min = 3, max = 1002 }
datalen_bytes = { min = 2000, max = 2999 }
pub_count = { min = 1, max = 100 }
sub_count = { min = 1, max = 100 }
latency_count = { min = 1, max = 100 }
"""
    keys = {"combination_generation_type": "rcg", "seed": 5, "reboot": "never"}
    daemon.drop("wide.toml", experiment_toml("wide", wide, machines(loopback_lab), **keys))
    daemon.await_state("wide", "running")
    assert daemon.experiment("wide")["tests_total"] == 10**12
    assert daemon.ask("halt", experiment="wide")["ok"]
    daemon.await_state("wide", "halted")
    assert daemon.ask("cancel", experiment="wide")["ok"]
    assert daemon.experiment("wide")["outcome"] == "cancelled"
    assert daemon.verify("wide") == []


def test_a_second_daemon_is_refused_by_name(daemon: LiveDaemon) -> None:
    assert daemon.process is not None
    argv = [sys.executable, "-m", "autoperfd.daemon.main", "--config", str(daemon.config)]
    second = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 3, second.stderr
    assert f"pid {daemon.process.pid} on" in second.stderr
    assert "Traceback" not in second.stderr
    assert daemon.ask("status")["ok"]


def test_an_experiment_starts_at_its_resuming_test(daemon: LiveDaemon, loopback_lab: LoopbackLab) -> None:
    name = "3SEC_100B_1PUB_1SUB_BE_10LC"
    text = experiment_toml("late", SETTINGS, machines(loopback_lab), reboot="never", resuming_test_name=name)
    daemon.drop("a.toml", text)
    daemon.await_outcome("late")
    assert [(row["test_name"], row["end_status"]) for row in daemon.ess("late")] == [(name, "success")]
    assert daemon.experiment("late")["tests_total"] == 1
    assert daemon.verify("late") == []
