"""What happens around the daemon's process: upgrades, boots without a network, stops and starts at any moment."""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import autoperfd
from autoperfd.lab import netns
from autoperfd.lab.loopback import LoopbackLab
from tests.e2e.support import LiveDaemon, experiment_toml
from tests.e2e.test_on_loopback import machines
from tests.faults import Fired

TESTS = """duration_secs = [3]
datalen_bytes = [{sizes}]
pub_count = [1]
sub_count = [1]
latency_count = [10]
"""
NAME = "service"
PROGRAM = ("-m", "autoperfd.daemon.main")
WITHOUT_TIME = """
import sys, time
boot = time.monotonic()
time.time = lambda: 3600 + time.monotonic() - boot
from autoperfd.daemon.main import main
sys.exit(main())
"""


class Serviced(LiveDaemon):
    """A daemon that is started in whatever way a test needs."""

    def begin(self, *before: str, program: Sequence[str] = PROGRAM, **environment: str) -> None:
        """Start it. `before`: words before its command; `environment`: added to ours."""
        argv = [*before, sys.executable, *program, "--config", str(self.config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                cwd=environment.get("PYTHONPATH"),  # the folder we are in comes first of all
            )

    def await_answer(self) -> None:
        """Wait until it answers."""
        self.until(self.answers, "the daemon answers", 30)

    def give(self, lab: LoopbackLab, *sizes: int) -> None:
        """Trust the lab and drop an experiment with a test for each size."""
        self.trust(lab.machines)
        text = TESTS.format(sizes=", ".join(map(str, sizes)))
        self.drop("a.toml", experiment_toml(NAME, text, machines(lab), reboot="never"))

    def check_end(self, tests: int) -> list[dict[str, str]]:
        """Wait for the end: one success for each test, nothing blamed on anybody; the rows."""
        self.await_outcome(NAME, secs=90)
        rows = self.ess(NAME)
        wins = [row["test_name"] for row in rows if row["end_status"] == "success"]
        assert len(wins) == len({*wins}) == tests, self.text()
        assert self.verify(NAME) == []
        assert "Traceback" not in self.log.read_text(errors="replace")
        return rows


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Serviced]:
    made = Serviced(tmp_path, patience=600)
    yield made
    made.stop()


@pytest.mark.fault("S5")
def test_a_package_that_is_replaced_is_not_read_again(
    daemon: Serviced, loopback_lab: LoopbackLab, tmp_path: Path, fired: Fired
) -> None:
    """Each file of it is another one now, and would end whoever reads it."""
    site = tmp_path / "site"
    for package in ("autoperfd", "tomli"):
        folder = Path(autoperfd.__file__).parent if package == "autoperfd" else Path(_tomli()).parent
        shutil.copytree(folder, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    daemon.begin(PYTHONPATH=str(site))
    daemon.await_answer()
    replaced = [path for path in site.rglob("*") if path.is_file()]
    for path in replaced:
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text("raise SystemExit('this is another version')\n")
        fresh.replace(path)
    assert daemon.process is not None
    mapped = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert str(site) in mapped and str(Path(_tomli()).parent) not in mapped, "the daemon runs another copy"
    fired("S5", f"{len(replaced)} files of a running daemon were replaced")
    daemon.drop("bad.toml", "[[experiments]]\nname = 1")
    daemon.give(loopback_lab, 100, 200)
    refused = daemon.queue / "rejected" / "bad.toml.error.txt"
    daemon.until(refused.exists, "a wrong file is refused")
    assert "bad.toml:2" in refused.read_text(), refused.read_text()
    daemon.await_running(NAME)
    for command in ("status", "list", "halt", "resume"):
        assert daemon.ask(command)["ok"], command
    daemon.check_end(2)
    assert daemon.stop() == 0


def _tomli() -> str:
    import tomli

    return str(tomli.__file__)


@pytest.mark.fault("S7")
def test_stops_and_starts_at_any_moment_cost_no_test(daemon: Serviced, loopback_lab: LoopbackLab, fired: Fired) -> None:
    """SIGTERM as `systemctl stop` and `restart` send it; every third one while the daemon is only just starting."""
    chance, pause = random.Random(7), threading.Event()
    daemon.begin()
    daemon.await_answer()
    daemon.give(loopback_lab, 100, 200, 300)
    daemon.until(lambda: daemon.experiment(NAME), "the experiment is accepted")
    early = 0
    for number in range(9):
        if number % 3 == 2:
            pause.wait(chance.uniform(0.15, 0.5))
        else:
            daemon.await_answer()
            pause.wait(chance.uniform(0.0, 0.8))
        status = daemon.stop()
        early += status == -signal.SIGTERM  # Python itself had only just begun; systemd takes that for a clean end
        assert status == 0 or (number % 3 == 2 and status == -signal.SIGTERM), (number, status, daemon.text())
        daemon.begin()
    daemon.await_answer()
    fired("S7", f"9 stops, {early} of them before it could be asked")
    rows = daemon.check_end(3)
    assert {row["end_status"] for row in rows} <= {"success", "interrupted"}, rows
    assert {row["blame"] for row in rows} <= {"", "controller"}, rows


@pytest.mark.fault("S9")
def test_a_reboot_of_the_controller_loses_nothing(daemon: Serviced, loopback_lab: LoopbackLab, fired: Fired) -> None:
    """No word of farewell, an empty /run, another boot id; the test that ran meanwhile is found again."""
    daemon.begin(AUTOPERF_BOOT_ID=uuid.uuid4().hex)
    daemon.await_answer()
    daemon.give(loopback_lab, 100, 200)
    for number in range(2):
        name = daemon.await_running(NAME, then=daemon.kill)
        shutil.rmtree(daemon.runtime)
        daemon.runtime.mkdir()
        daemon.begin(AUTOPERF_BOOT_ID=uuid.uuid4().hex)
        daemon.await_answer()
        fired("S9", f"boot {number + 2}, {name} was running")
    rows = daemon.check_end(2)
    assert [(row["end_status"], row["attempt_number"]) for row in rows] == [("success", "1")] * 2, rows


@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root")
@pytest.mark.fault("S6")
def test_a_boot_without_a_network_waits_for_one(daemon: Serviced, loopback_lab: LoopbackLab, fired: Fired) -> None:
    """The power fails while a test runs; the boot is one into 1970, without a network at first. Nobody is blamed."""
    daemon.begin()
    daemon.await_answer()
    daemon.give(loopback_lab, 100, 200)
    name = daemon.await_running(NAME, then=daemon.kill)
    network = f"autoperf-s6-{os.getpid()}"
    netns.run(["ip", "netns", "add", network])
    try:
        daemon.begin("ip", "netns", "exec", network, program=("-c", WITHOUT_TIME))
        daemon.await_answer()
        waiting = daemon.await_state(NAME, "backing-off")
        assert "Network is unreachable" in daemon.text()
        assert "1970-01-01 " in daemon.text()
        fired("S6", f"no network in 1970, and {name} open")
        assert waiting["current"]["test"] == name, "the attempt stays open"
        assert (waiting["succeeded"], waiting["failed"]) == (0, 0)
        netns.ip(network, "link set lo up")
        with relays(network, loopback_lab):
            rows = daemon.check_end(2)
            daemon.stop()
    finally:
        netns.end_processes(network)
        netns.remove(network)
    assert [(row["test_name"], row["end_status"], row["attempt_number"], row["blame"]) for row in rows] == [
        (name, "success", "1", ""),
        (rows[1]["test_name"], "success", "1", ""),
    ], rows
    assert rows[1]["start_timestamp"].startswith("1970-"), rows


@contextlib.contextmanager
def relays(network: str, lab: LoopbackLab) -> Iterator[None]:
    """The lab's machines can be reached from a network namespace, at the addresses they have outside."""
    over = threading.Event()
    threads = []
    with contextlib.ExitStack() as stack:
        for machine in lab.machines:
            with netns.inside(network):
                listener = stack.enter_context(socket.create_server((machine.ip, machine.port)))
            listener.settimeout(0.2)
            threads.append(threading.Thread(target=_accept, args=(listener, (machine.ip, machine.port), over)))
            threads[-1].start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join(10)


def _accept(listener: socket.socket, address: tuple[str, int], over: threading.Event) -> None:
    """Relay each caller to `address` on a thread of its own."""
    while not over.is_set():
        try:
            caller, _ = listener.accept()
        except TimeoutError:
            continue
        threading.Thread(target=_relay, args=(caller, address, over), daemon=True).start()


def _relay(caller: socket.socket, address: tuple[str, int], over: threading.Event) -> None:
    with contextlib.suppress(OSError), caller, socket.create_connection(address, timeout=5) as far:
        other = {caller: far, far: caller}
        while not over.is_set():
            for sock in select.select([caller, far], [], [], 0.2)[0]:
                data = sock.recv(65536)
                if not data:
                    return
                other[sock].sendall(data)
