"""Machines and networks that fail in every way, under the installed daemon: nothing is lost, nobody wrongly blamed.

Each experiment meets one fault a test, so that each row of its spreadsheet tells of one of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from autoperfd.lab import netns
from autoperfd.lab.container import ContainerLab, ContainerMachine
from tests.e2e.containers import InstalledDaemon, Marksman, experiment
from tests.faults import Fired

pytestmark = pytest.mark.timeout(400)
SIZES = [100, 200, 300, 400, 500, 600, 700, 800]
QUICK = {"validation_secs": 2, "connect_secs": 1.5, "backoff_first_secs": 0.3, "restart_after_secs": 1}
BY_NAME = '#!/bin/sh\nexec python3 -c \'import sys, urllib.request as r; r.urlopen(sys.argv[1], b"", 20)\' "$1"\n'


@pytest.fixture
def daemon(container_lab: ContainerLab) -> Iterator[InstalledDaemon]:
    """The installed daemon, not started."""
    yield InstalledDaemon(container_lab)


def settings(tests: int) -> str:
    sizes = f"datalen_bytes = {SIZES[:tests]}\n"
    return f"duration_secs = [3]\n{sizes}pub_count = [1]\nsub_count = [1]\nlatency_count = [10]\n"


def with_switches(text: str, *names: str) -> str:
    for name in names:
        text = text.replace(f'machine_name = "{name}"\n', f'machine_name = "{name}"\npower_cycle = "plug-{name}"\n')
    return text


class Bout:
    """One experiment that meets faults, one a test."""

    def __init__(
        self, daemon: InstalledDaemon, lab: ContainerLab, name: str, machines: Sequence[ContainerMachine]
    ) -> None:
        self.daemon, self.lab, self.name = daemon, lab, name
        self._marksman = Marksman(daemon, {name: machines}, seed=43)
        self._met: set[str] = set()

    def await_test(self) -> str:
        """Until a test that has met no fault yet runs on its machines; its name."""
        while True:
            self.daemon.until(self._fresh, "a test runs that has met nothing yet", 60)
            self._marksman.await_place("waiting")
            current = self._current()
            if current and current not in self._met:
                self._met.add(current)
                return current

    def await_loss(self, test: str, secs: float) -> float:
        """Until the experiment backs off with that test's attempt open; after how many seconds."""
        began = time.monotonic()

        def lost() -> bool:
            found = self.daemon.experiment(self.name)
            return found["state"] == "backing-off" and (found.get("current") or {}).get("test") == test

        self.daemon.until(lost, f"{test} is lost sight of", secs)
        return time.monotonic() - began

    def rows(self, test: str) -> list[tuple[str, str]]:
        """(end status, blame) of the test's attempts that have ended."""
        rows = [row for row in self.daemon.ess(self.name) if row["test_name"] == test]
        return [(row["end_status"], row["blame"]) for row in rows if row["end_status"] != "running"]

    def await_row(self, test: str, secs: float = 40) -> dict[str, str]:
        """The row of the test's first attempt that has ended."""
        self.daemon.until(lambda: self.rows(test), f"an attempt of {test} has ended", secs)
        return next(row for row in self.daemon.ess(self.name) if row["test_name"] == test)

    def _current(self) -> str:
        return str((self.daemon.experiment(self.name).get("current") or {}).get("test", ""))

    def _fresh(self) -> bool:
        assert self.daemon.experiment(self.name).get("outcome") != "finished", "there are more faults than tests"
        return self._current() not in ("", *self._met)


@pytest.mark.fault("M2")
def test_hung_machines_come_back_by_their_switches(
    daemon: InstalledDaemon, container_lab: ContainerLab, fired: Fired
) -> None:
    """One machine hangs on a plug that is an HTTP call, another on one that is a program."""
    plug = container_lab.plug()
    container_lab.copy_to("controller", "/usr/local/bin/plug", BY_NAME, 0o755)
    switches: dict[str, Any] = {
        "power.plug-p2": {"url": plug.url("p2"), "method": "POST", "body": '{"on": false, "timer": 1}'},
        "power.plug-p4": {"command": ["/usr/local/bin/plug", plug.url("p4")]},
    }
    daemon.start(machines={**QUICK, "patience_secs": 120}, **switches)
    one, other = container_lab.machines[:2], container_lab.machines[2:]
    texts = [
        with_switches(
            experiment(name, settings(2), machines, "pub sub", reboot="failure", share_network=True), *plugged
        )
        for name, machines, plugged in (("by call", one, ["p2"]), ("by program", other, ["p4"]))
    ]
    daemon.trust(*texts)
    before = {machine.name: machine.boot_id() for machine in container_lab.machines}
    for name in ("p2", "p4"):
        container_lab.hang_sshd(name)
    for number, text in enumerate(texts):
        daemon.drop(f"{number}.toml", text)
    for name, hung in (("by call", "p2"), ("by program", "p4")):
        assert daemon.await_outcome(name, secs=90)["succeeded"] == 2
        rows = daemon.ess(name.replace(" ", "_"))
        assert [(row["end_status"], row["attempt_number"]) for row in rows] == [("success", "1")] * 2
        fired("M2", f"{hung} was hung until its power was cycled")
    assert plug.presses == {"p2": 1, "p4": 1} and b'{"on": false, "timer": 1}' in plug.bodies
    after = {machine.name: machine.boot_id() for machine in container_lab.machines}
    assert {name for name in before if before[name] != after[name]} == {"p2", "p4"}
    assert "SSH_NO_BANNER" in daemon.log()


@pytest.mark.fault("N1", "N2", "N3", "N4", "N8", "N10")
def test_networks_that_fail_in_every_way(daemon: InstalledDaemon, container_lab: ContainerLab, fired: Fired) -> None:
    lab, (one, other) = container_lab, (container_lab.machines[:2], container_lab.machines[2:])
    receiver = lab.recorder()
    lab.copy_to("controller", "/etc/credstore/autoperf.webhook_url", f"{receiver.url}/hook\n", 0o600)
    machines = {"validation_secs": 2, "patience_secs": 12, "backoff_first_secs": 2, "backoff_cap_secs": 2}
    daemon.start(machines=machines, webhook={"allow_http": True})
    beside = settings(8).replace("latency_count = [10]", "latency_count = [10, 20, 30, 40]")
    shared: dict[str, Any] = {"reboot": "never", "share_network": True}
    daemon.run(
        experiment("wires", settings(8), one, "pub sub", **shared),
        experiment("beside", beside, other, "pub sub", **shared),
    )
    bout = Bout(daemon, lab, "wires", one)
    controller, p2 = lab.controller.ip, lab.machine("p2").ip
    silent = {  # lost between the controller and p2: everything, what p2 sends, what is large
        "N1": ("", f"ip saddr {p2} ip daddr {controller}"),
        "N8": ("meta length > 700",),
    }
    for row, matches in silent.items():
        for match in matches:
            test = bout.await_test()
            lab.drop("controller", "p2", match)
            took = bout.await_loss(test, 20 if row == "N1" else 40)
            lab.heal()
            found = bout.await_row(test)
            assert (found["end_status"], found["attempt_number"]) == ("success", "1"), daemon.text()
            evidence = daemon.archive("wires", found).json("evidence.json")
            assert evidence["found"] in ("adopted", "finished")
            fired(row, f"{match or 'everything'} was lost; noticed after {took:.1f} s")

    test = bout.await_test()
    lab.filter("p2", f"ip saddr {controller} tcp dport 22 reject with tcp reset")
    bout.await_loss(test, 25)
    lab.unfilter("p2")
    assert bout.await_row(test)["end_status"] == "success", daemon.text()
    fired("N2", "the connection was reset, and the attempt went on")

    test = bout.await_test()
    lab.drop("controller", "p2", "meta protocol ip numgen random mod 100 < 20")
    lab.shape("p2", "256kbit")
    shaped = bout.await_row(test, 60)
    counted = netns.run(["ip", "netns", "exec", lab.machine("p2").netns, "tc", "-s", "qdisc", "show", "dev", "host0"])
    lab.shape("p2", "")
    lab.heal()
    assert "tbf" in counted and "Sent 0 bytes" not in counted
    assert shaped["end_status"] == "success", (shaped, daemon.text())
    fired("N3", counted.strip())

    test = bout.await_test()
    lab.drop("p1", "p2")
    cut = bout.await_row(test)
    lab.heal()
    assert (cut["blame"], cut["machine"]) == ("network", "p1"), cut
    assert "PARTITION" in cut["reason"]
    examined = daemon.archive("wires", cut).json("evidence.json")["examined"]
    assert examined["p1"]["hears"] == {"p2": False} and examined["p2"]["hears"] == {"p1": False}
    assert {seen["ssh"] for seen in examined.values()} == {"ok"}
    fired("N4", cut["reason"])

    bout.await_test()
    lab.drop("controller")
    halted = [daemon.await_state(name, "halted", 60) for name in ("wires", "beside")]
    lab.heal()
    assert all("look at the network first" in each["halted_reason"] for each in halted), halted
    fired("N10", halted[0]["halted_reason"])
    ended = daemon.await_outcome("wires", secs=90)
    assert (ended["succeeded"], ended["failed"]) == (8, 0)
    daemon.await_state("beside", "running")
    assert daemon.ask("cancel", experiment="beside")["ok"]
    told = [request.json() for request in receiver.requests]
    assert [message["kind"] for message in told].count("halt") == 1, told  # one incident, not one for each machine
    for name in ("wires", "beside"):
        assert "test" not in {row["blame"] for row in daemon.ess(name)}, daemon.ess(name)
        assert daemon.verify(name) == []
    assert "Traceback" not in daemon.log()
