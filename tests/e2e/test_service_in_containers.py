"""The service manager at work, under the shipped unit: a hang, a stop, a reboot and a power cut of the controller."""

from __future__ import annotations

import os
import signal

import pytest

from autoperfd.lab.container import ContainerLab
from tests.e2e.containers import Marksman, experiment, guard, starts
from tests.e2e.storms import StormyDaemon
from tests.e2e.support import stopped
from tests.faults import Fired

SETTINGS = """duration_secs = [6]
datalen_bytes = [100, 200, 300, 400, 500, 600, 700]
pub_count = [1]
sub_count = [1]
latency_count = [10]
"""
PATIENT = "[Service]\nWatchdogSec=9\n"  # shipped: 30; its sign of life is asked for at a third of it


@pytest.mark.timeout(400)
@pytest.mark.fault("S1", "S7", "S9")
def test_whatever_ends_the_daemon_the_same_test_goes_on(container_lab: ContainerLab, fired: Fired) -> None:
    machines = container_lab.machines[:2]
    daemon = StormyDaemon(container_lab)
    daemon.drop_in(PATIENT)
    daemon.start()
    assert "/var/lib/autoperf" in daemon.property("RequiresMountsFor").split(), "it waits for its disk at a boot"
    daemon.controller.run("systemctl enable --now autoperfd", check=True)
    daemon.run(experiment("service", SETTINGS, machines, "pub sub", reboot="never", exec_path=guard(container_lab)))
    daemon.until(lambda: daemon.experiment("service"), "the experiment is accepted")
    marksman = Marksman(daemon, {"service": machines}, seed=61)

    marksman.await_new()
    hung = daemon.pid()
    os.kill(hung, signal.SIGSTOP)
    daemon.until(lambda: stopped(hung), "it hangs", 5)
    daemon.until(lambda: daemon.pid() not in (0, hung) and daemon.answers(), "the watchdog had it started anew", 60)
    assert "Watchdog timeout" in daemon.log() and daemon.property("NRestarts") == "1"
    fired("S1", "stopped, then ended by the watchdog")
    marksman.check_adoption()

    for verb in ("stop", "start", "restart"):
        if verb != "start":
            marksman.await_new()
        daemon.systemctl(verb)
        assert daemon.property("Result") == "success", verb
        fired("S7", f"systemctl {verb}")
        if verb != "stop":
            daemon.until(daemon.answers, f"it answers after {verb}")
    marksman.check_adoption()

    marksman.await_new()
    before = container_lab.controller.boot_id()
    daemon.reboot()
    assert container_lab.controller.boot_id() != before
    fired("S9", "systemctl reboot")
    marksman.check_adoption()

    marksman.await_new()
    container_lab.kill("controller")
    container_lab.boot("controller")
    daemon.find_again()
    fired("S9", "a power cut")
    daemon.until(daemon.answers, "it answers after the power came back")
    marksman.check_adoption()

    daemon.await_outcome("service", secs=120)
    rows = daemon.ess("service")
    assert [(row["end_status"], row["attempt_number"]) for row in rows] == [("success", "1")] * 7, daemon.text()
    archives = [daemon.archive("service", row) for row in rows]
    found = [archive.json("evidence.json")["found"] for archive in archives]
    assert len(found) - found.count("started") >= 2, found  # two or more interruptions may strike the same test
    uids = {archive.json("attempt.json")["uid"]: 1 for archive in archives}
    assert [starts(machine) for machine in machines] == [uids, uids], "an attempt was started twice"
    assert daemon.verify("service") == []
