"""Machines and networks that fail in every way, under the installed daemon: nothing is lost, nobody wrongly blamed.

Each experiment meets one fault a test, so that each row of its spreadsheet tells of one of them.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from autoperfd.lab import netns
from autoperfd.lab.container import ContainerLab, ContainerMachine
from tests.e2e.containers import InstalledDaemon, Marksman, experiment
from tests.faults import Fired

pytestmark = pytest.mark.timeout(600)
LONG = 7  # seconds: time enough to strike, also on a busy computer
SIZES = [100, 200, 300, 400, 500, 600, 700, 800, 900]
QUICK = {"validation_secs": 2, "connect_secs": 1.5, "backoff_first_secs": 0.3, "restart_after_secs": 1}
BY_NAME = '#!/bin/sh\nexec python3 -c \'import sys, urllib.request as r; r.urlopen(sys.argv[1], b"", 20)\' "$1"\n'


@pytest.fixture
def daemon(container_lab: ContainerLab) -> Iterator[InstalledDaemon]:
    """The installed daemon, not started."""
    yield InstalledDaemon(container_lab)


def settings(tests: int, secs: int = 3) -> str:
    sizes = f"datalen_bytes = {SIZES[:tests]}\n"
    return f"duration_secs = [{secs}]\n{sizes}pub_count = [1]\nsub_count = [1]\nlatency_count = [10]\n"


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

    def await_loss(self, secs: float) -> tuple[str, float]:
        """Until the experiment backs off with an attempt open; its test, and after how many seconds.

        On a busy computer the test that was aimed at may have ended before the fault was there; the next one meets it.
        """
        began, lost = time.monotonic(), ""

        def sees_one() -> bool:
            nonlocal lost
            found = self.daemon.experiment(self.name)
            lost = str((found.get("current") or {}).get("test", "")) if found["state"] == "backing-off" else ""
            return bool(lost)

        self.daemon.until(sees_one, "a test is lost sight of", secs)
        self._met.add(lost)
        return lost, time.monotonic() - began

    def state(self) -> str:
        """The experiment's state."""
        return str(self.daemon.experiment(self.name)["state"])

    def await_halt(self) -> dict[str, Any]:
        return self.daemon.await_state(self.name, "halted", 40)

    def resume(self) -> None:
        """As a person does; it may have gone on by itself by then."""
        self.daemon.ask("resume", experiment=self.name)

    def rows(self, test: str) -> list[tuple[str, str]]:
        """(end status, blame) of the test's attempts that have ended."""
        rows = [row for row in self.daemon.ess(self.name) if row["test_name"] == test]
        return [(row["end_status"], row["blame"]) for row in rows if row["end_status"] != "running"]

    def has_rows(self, test: str, count: int) -> bool:
        """Whether so many attempts of the test have ended."""
        return len(self.rows(test)) >= count

    def await_place(self, *places: str) -> None:
        """See Marksman."""
        self._marksman.await_place(*places)

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
    beside = settings(8, LONG).replace("latency_count = [10]", "latency_count = [10, 20, 30, 40]")
    shared: dict[str, Any] = {"reboot": "never", "share_network": True}
    daemon.run(
        experiment("wires", settings(8, LONG), one, "pub sub", **shared),
        experiment("beside", beside, other, "pub sub", **shared),
    )
    bout = Bout(daemon, lab, "wires", one)
    controller, p2 = lab.controller.ip, lab.machine("p2").ip
    silent = {  # lost between the controller and p2: everything, what p2 sends, what is large
        "N1": ("", f"ip saddr {p2} ip daddr {controller}"),
        "N8": ("meta length > 300",),  # some packet of each attempt is, and of many a short one none is beyond 700
    }
    for row, matches in silent.items():
        for match in matches:
            bout.await_test()
            lab.drop("controller", "p2", match)
            test, took = bout.await_loss(20 if row == "N1" else 40)
            lab.heal()
            found = bout.await_row(test)
            assert (found["end_status"], found["attempt_number"]) == ("success", "1"), daemon.text()
            evidence = daemon.archive("wires", found).json("evidence.json")
            assert evidence["found"] in ("adopted", "finished")
            fired(row, f"{match or 'everything'} was lost; noticed after {took:.1f} s")

    bout.await_test()
    lab.filter("p2", f"ip saddr {controller} tcp dport 22 reject with tcp reset")
    test, _ = bout.await_loss(25)
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


def test_doctor_sees_a_firewall_that_lets_in_pings_and_ssh(
    daemon: InstalledDaemon, container_lab: ContainerLab
) -> None:
    lab, (p1, p2) = container_lab, container_lab.machines[:2]
    multicast = settings(1).replace("pub_count", "use_multicast = [true]\npub_count")
    text = experiment("fenced", multicast, (p1, p2), "pub sub", reboot="never", share_network=True)
    daemon.start(machines=QUICK)
    daemon.trust(text)
    lab.copy_to("controller", "/root/fenced.toml", text)

    def found() -> dict[tuple[str, str], tuple[bool | None, str]]:
        """(machine, what) -> (well, hint) of what doctor says of UDP."""
        for _ in range(3):
            said = json.loads(daemon.ctl("doctor", "/root/fenced.toml", "--json").stdout)
            if not any("cannot be told" in each["sentence"] for each in said):  # as when one end was late
                break
        network = [each for each in said if each["subject"] in ("p1", "p2")]
        assert all(each["well"] is True for each in network if "answers pings and SSH" in each["sentence"]), said
        told = [each for each in network if "arrive" in each["sentence"]]
        return {(each["subject"], each["sentence"].split(" at its")[0]): (each["well"], each["hint"]) for each in told}

    well = {("p1", "UDP from p2 arrives"): (True, ""), ("p2", "UDP from p1 arrives"): (True, "")}
    assert found() == well

    # What p1 sends is dropped, though p2 sends to p1 meanwhile: only ICMP and TCP get in.
    lab.filter("p2", "meta l4proto udp drop")
    fenced = found()
    fit, hint = fenced.pop(("p2", "UDP from p1 does not arrive"))
    assert fit is False and f"ufw allow proto udp from {p1.ip} to any port 7400:65535" in hint
    assert fenced == {("p1", "UDP from p2 arrives"): (True, "")}

    # So does the usual rule set, which lets in answers: nothing of p1 may look like one.
    lab.filter("p2", "meta l4proto udp ct state new drop")
    assert found().keys() == {("p2", "UDP from p1 does not arrive"), ("p1", "UDP from p2 arrives")}

    lab.filter("p2", "ip daddr 239.255.0.1 drop")
    fenced = found()
    fit, hint = fenced.pop(("p2", "multicast from p1 does not arrive, though other UDP does"))
    assert fit is False and "IGMP snooping" in hint and fenced == well
    lab.unfilter("p2")
    assert found() == well
    for machine in (p1, p2):
        assert machine.run("pgrep -f '[u]dp_there'").stdout == ""
        assert machine.run("ss -Hlun 'sport >= 7400'", check=True).stdout == ""


SMALL_DISK = """set -e
install -d -o pi -g pi -m 700 /home/pi/.autoperf
mount -t tmpfs -o size=80m,uid=1000,gid=1000,mode=700 tmpfs /home/pi/.autoperf
"""


@pytest.mark.fault("M1", "M4", "M5", "M6", "M7", "M11", "M14", "M16", "N5")
def test_machines_that_fail_in_every_way(daemon: InstalledDaemon, container_lab: ContainerLab, fired: Fired) -> None:
    lab, (one, other) = container_lab, (container_lab.machines[:2], container_lab.machines[2:])
    p2 = lab.machine("p2")
    p2.run(SMALL_DISK, check=True)
    daemon.start(machines={"validation_secs": 2, "patience_secs": 60, "backoff_first_secs": 0.5, "probe_secs": 0.5})
    shared: dict[str, Any] = {"reboot": "never", "share_network": True}
    mishaps = experiment("mishaps", settings(9, LONG), one, "pub sub", **shared)
    mishaps = mishaps.replace(f'ip = "{p2.ip}"', 'ip = "p2"')  # by its name, as the controller's /etc/hosts has it
    assert 'ip = "p2"' in mishaps
    beside = settings(8, LONG).replace("latency_count = [10]", "latency_count = [10, 20, 30, 40]")
    daemon.run(mishaps, experiment("beside", beside, other, "pub sub", **shared))
    bout = Bout(daemon, lab, "mishaps", one)

    # A person logs in, and stays for a while: the attempt is invalid, and none begins before the person has gone.
    lab.copy_to("controller", "/root/.ssh/id_ed25519", p2.key_path.read_bytes(), 0o600)
    test = bout.await_test()
    with visitor(lab, "p2") as seen:
        daemon.until(lambda: "pts/" in p2.run("who").stdout, "somebody is logged in")
        row = bout.await_row(test)
        assert (row["end_status"], row["blame"], row["machine"]) == ("invalid", "operator", "p2"), row
        assert "USER_LOGGED_IN" in row["reason"] and lab.controller.ip in row["reason"]
        daemon.until(lambda: bout.state() == "backing-off", "nothing begins while somebody is there")
        fired("M16", f"{seen}: {row['reason']}")

    # The same program, started by somebody else: named, and never touched.
    test = bout.await_test()
    other_tool = "cp /bin/sleep /tmp/perftest_cpp; setsid /tmp/perftest_cpp 60 >/dev/null 2>&1 & echo $!"
    stranger = p2.run(other_tool, user="pi", check=True).stdout.strip()
    row = bout.await_row(test)
    assert (row["end_status"], row["blame"]) == ("invalid", "operator"), row
    assert "FOREIGN_PROCESS" in row["reason"] and stranger in row["reason"]
    assert p2.run(["kill", stranger]).returncode == 0, "it was touched"
    fired("M14", row["reason"])

    # The disk fills in mid-test: the machine's fault, and a reason to wait until there is room.
    test = bout.await_test()
    p2.run("dd if=/dev/zero of=/home/pi/.autoperf/fill bs=1M; true")
    row = bout.await_row(test)
    assert row["blame"] == "machine" and "REMOTE_DISK_FULL" in row["reason"], row
    daemon.until(lambda: bout.state() == "backing-off", "no attempt begins on a full disk")
    p2.run("rm /home/pi/.autoperf/fill", check=True)
    fired("M11", row["reason"])

    test = bout.await_test()
    lab.reboot("p2")
    row = bout.await_row(test)
    assert (row["end_status"], row["blame"], row["machine"]) == ("rebooted", "machine", "p2"), row
    fired("M4", row["reason"])

    test = bout.await_test()
    began = time.monotonic()
    lab.kill("p2")
    test, _ = bout.await_loss(20)
    took = time.monotonic() - began
    lab.boot("p2")
    row = bout.await_row(test)
    assert row["end_status"] in ("rebooted", "machine-lost") and (row["blame"], row["machine"]) == ("machine", "p2"), (
        row
    )
    fired("M1", f"noticed after {took:.1f} s: {row['reason']}")

    # It comes back under another address, which the name then has.
    bout.await_test()
    elsewhere = f"{p2.ip.rpartition('.')[0]}.77"
    netns.ip(p2.netns, f"address del {p2.ip}/24 dev host0", f"address add {elsewhere}/24 dev host0")
    test, _ = bout.await_loss(25)
    moved = test
    hosts = lab.controller.run("cat /etc/hosts", check=True).stdout
    lab.copy_to("controller", "/etc/hosts", hosts.replace(f"{p2.ip} p2\n", f"{elsewhere} p2\n"))
    row = bout.await_row(test)  # the move may cut what the participants say to each other
    assert row["end_status"] in ("success", "timeout", "no-match", "no-data") and row["archive"], daemon.text()
    fired("M6", f"p2 moved to {elsewhere}")

    # Another computer has its address: ARP leads to p4.
    bout.await_test()
    p4 = lab.machine("p4")
    netns.run(lab.switch.port("p2", "down"))
    netns.ip(p4.netns, f"address add {elsewhere}/24 dev host0")
    netns.run(["ip", "-n", lab.controller.netns, "neigh", "flush", "all"])
    halted = bout.await_halt()
    assert "HOST_KEY_MISMATCH" in halted["halted_reason"], halted
    assert "duplicate IP or reinstalled machine" in halted["halted_reason"]
    fired("N5", halted["halted_reason"])
    netns.ip(p4.netns, f"address del {elsewhere}/24 dev host0")
    netns.run(lab.switch.port("p2", "up"))
    netns.run(["ip", "-n", lab.controller.netns, "neigh", "flush", "all"])
    bout.resume()

    # It is installed anew.
    bout.await_test()
    p2.run("rm /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key", check=True)
    p2.run("systemctl restart ssh; pkill -f '[s]shd: pi'", check=True)
    halted = bout.await_halt()
    assert "HOST_KEY_MISMATCH" in halted["halted_reason"] and "autoperfctl trust p2" in halted["halted_reason"], halted
    fired("M7", halted["halted_reason"])
    daemon.trust(mishaps)
    bout.resume()

    # It restarts again and again.
    test = bout.await_test()
    for count in range(1, 6):
        lab.reboot("p2", wait=False)  # the lab looks for it at its old address
        daemon.until(partial(bout.has_rows, test, count), "the attempt has ended")
        bout.await_place("waiting", "halted")
        if bout.state() == "halted":
            break
    halted = bout.await_halt()
    assert "MACHINE_FLAPPING" in halted["halted_reason"] and "p2" in halted["halted_reason"], halted
    assert set(bout.rows(test)) == {("rebooted", "machine")}
    fired("M5", halted["halted_reason"])
    bout.resume()

    ended = daemon.await_outcome("mishaps", secs=90)
    assert (ended["succeeded"], ended["failed"]) == (9, 0)
    assert daemon.experiment("beside")["failed"] == 0
    assert daemon.ask("cancel", experiment="beside")["ok"]
    for name in ("mishaps", "beside"):
        charged = {row["test_name"] for row in daemon.ess(name) if row["blame"] == "test"}
        assert charged <= {moved}, daemon.ess(name)
        assert daemon.verify(name) == []
    assert "Traceback" not in daemon.log()


@contextlib.contextmanager
def visitor(lab: ContainerLab, name: str) -> Iterator[str]:
    """Somebody who logs in to a machine from the controller, with a terminal, and stays during the block."""
    options = ["-tt", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    words = ["timeout", "90", "ssh", *options, f"pi@{lab.machine(name).ip}", "cat"]
    leader = ["nsenter", "--target", str(lab.controller.leader()), "--all", "--"]
    with subprocess.Popen([*leader, *words], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"pi logged in to {name}"
        finally:
            process.terminate()
            lab.controller.run(["pkill", "-f", "ssh -tt"])
