"""A real daemon for tests: start, kill, ask, drop files, wait with a deadline; here on the loopback lab."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from autoperfd.lab.machines import LabMachine

SETTINGS = """
[paths]
state = "{root}/state"
queue = "{root}/queue"
runtime = "{root}/run"
known_hosts = "{root}/known_hosts"
[machines]
ping = "tcp"
validation_secs = 3
backoff_first_secs = 0.2
backoff_cap_secs = 1
patience_secs = {patience}
boot_budget_secs = 20
probe_secs = 0.5
grace_secs = 3
stop_secs = 1
connect_secs = 3
[guards]
foreign = "record"
users = "record"
throttled = "record"
[queue]
settle_secs = 0.05
rescan_secs = 5
{more}
"""


class Daemon:
    """What tests ask of a daemon, however it was started."""

    state: Path
    runtime: Path  # the folder of its socket

    def text(self) -> str:
        """The end of what it logged."""
        raise NotImplementedError

    def pid(self) -> int:
        """Its process as this computer knows it; 0 when there is none."""
        raise NotImplementedError

    def ask(self, command: str, **args: Any) -> dict[str, Any]:
        """One command over the control socket; the whole reply."""
        return self.ask_within(35, command, **args)

    def ask_within(self, secs: float, command: str, **args: Any) -> dict[str, Any]:
        """One command; TimeoutError where nothing comes for so long, ValueError where the daemon hangs up."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(secs)
            sock.connect(str(self.runtime / "control.sock"))
            sock.sendall(json.dumps({"v": 1, "command": command, "args": args}).encode() + b"\n")
            data = b""
            while not data.endswith(b"\n") and (part := sock.recv(65536)):
                data += part
        reply: dict[str, Any] = json.loads(data)
        return reply

    def experiment(self, name: str) -> dict[str, Any]:
        """One experiment of `list`."""
        for experiment in self.ask("list")["data"]["experiments"]:
            if experiment["name"] == name:
                found: dict[str, Any] = experiment
                return found
        return {}

    def await_outcome(self, name: str, outcome: str = "finished", secs: float = 60) -> dict[str, Any]:
        """Wait until an experiment is idle with that outcome."""
        self.until(lambda: self.experiment(name).get("outcome") == outcome, f"{name} is {outcome}", secs)
        return self.experiment(name)

    def await_state(self, name: str, state: str, secs: float = 30) -> dict[str, Any]:
        """Wait until an experiment is in that state."""
        self.until(lambda: self.experiment(name).get("state") == state, f"{name} is {state}", secs)
        return self.experiment(name)

    def until(self, condition: Callable[[], object], what: str, secs: float = 30) -> None:
        """Wait for a condition, with a deadline."""
        pause, deadline = threading.Event(), time.monotonic() + secs
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {secs} s: {what}\n{self.text()}")
            pause.wait(0.05)

    def await_running(self, name: str, *, then: Callable[[], object] = lambda: None, secs: float = 30) -> str:
        """Wait until every participant of an experiment's attempt has been started; the name of its test.

        `then` is called while the daemon still stands there. A kill with only some of them started ends the attempt
        and begins another one, as promised, so a test that wants to see it go on must not strike any earlier.
        """
        test = ""

        def runs() -> bool:
            nonlocal test
            with self.frozen() as pid:
                life = self.memory().lives.get(name, {}) if pid else {}
                if life.get("state") == "running" and life["confirmed"]:
                    test = str(life["test"])
                    then()
            return bool(test)

        self.until(runs, f"a test of {name} runs", secs)
        return test

    @contextlib.contextmanager
    def frozen(self) -> Iterator[int]:
        """Its pid; it stands still in the block."""
        pid = self.pid()
        if not pid:
            yield 0
            return
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            yield 0
            return
        try:
            deadline = time.monotonic() + 5
            while not stopped(pid):  # a millisecond: no pause
                assert time.monotonic() < deadline, "the daemon does not stand still"
            yield pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        pid = self.pid()
        assert pid, self.text()  # 0 would be all of us
        os.kill(pid, number)

    def memory(self) -> Memory:
        """A copy of its memory, as a daemon that starts now would find it. It must be stopped, dead or frozen."""
        return Memory(self.state)

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`autoperfctl WORDS`, beside this daemon."""
        raise NotImplementedError

    def verify(self, name: str) -> list[str]:
        """What `autoperfctl verify` finds wrong with an experiment, by the real command; [] when it is clean."""
        done = self.ctl("verify", name, "--json")
        assert done.returncode in (0, 1) and done.stdout and not done.stderr, done
        data = json.loads(done.stdout)
        problems = [str(problem["sentence"]) for problem in data["problems"]]
        assert (not problems) == data["clean"] == (done.returncode == 0), data
        assert data["checked"]["rows"] > 0
        return problems

    def ess(self, folder: str) -> list[dict[str, str]]:
        """The rows of an experiment's ESS."""
        with (self.state / "results" / folder / "ess.csv").open(newline="") as file:
            return list(csv.DictReader(file))


class Memory:
    """What a copy of the daemon's database says."""

    def __init__(self, state: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for path in state.glob("autoperf.db*"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(path, Path(folder, path.name))
            with contextlib.closing(sqlite3.connect(Path(folder, "autoperf.db"))) as db:
                db.row_factory = sqlite3.Row
                rows = db.execute("SELECT * FROM experiments JOIN lives ON experiment = id").fetchall()
                self.lives = {row["name"]: {**json.loads(row["life"]), "folder": row["folder"]} for row in rows}
                found = db.execute("SELECT value FROM meta WHERE key = 'installation'").fetchone()
                self.installation = str(found[0]) if found else ""


class LiveDaemon(Daemon):
    """autoperfd as a process of its own, with its folders under `root`."""

    def __init__(self, root: Path, *, patience: float = 20, more: str = "") -> None:
        self.root = root
        self.state, self.queue, self.runtime = root / "state", root / "queue", root / "run"
        for folder in (self.state, self.queue, self.runtime):
            folder.mkdir(parents=True, exist_ok=True)
        self.config = root / "autoperfd.toml"
        self.config.write_text(SETTINGS.format(root=root, patience=patience, more=more))
        self.process: subprocess.Popen[bytes] | None = None
        self.log = root / "log"

    def start(self, *before: str, **environment: str) -> None:
        """Start it, by the program `before` if need be, and wait until it answers."""
        environment = {**os.environ, "PYTHONWARNINGS": "default", **environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", "autoperfd.daemon.main", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        self.until(lambda: self.answers(), "the daemon answers", 20)

    def answers(self) -> bool:
        """Whether it is there; fails when the process has ended."""
        assert self.process is not None
        assert self.process.poll() is None, self.text()
        try:
            return bool(self.ask("status")["ok"])
        except OSError:
            return False

    def pid(self) -> int:
        return self.process.pid if self.process is not None and self.process.poll() is None else 0

    def kill(self) -> None:
        """SIGKILL, at once."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`autoperfctl WORDS`, told of this daemon's settings."""
        argv = [sys.executable, "-m", "autoperfd.ctl.main", "--config", str(self.config), *words]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)

    def text(self) -> str:
        """What it logged."""
        return self.log.read_text(errors="replace")[-8000:]

    def trust(self, machines: Sequence[LabMachine]) -> None:
        """Pin the lab's host keys."""
        pins = [{"host": m.ip, "port": m.port, "keys": [m.host_key_line]} for m in machines]
        reply = self.ask("pin", pins=pins)
        assert reply["ok"], reply

    def drop(self, name: str, text: str | bytes) -> None:
        """Put a file into the queue as people do: write, then rename."""
        fresh = self.queue / f".{name}"
        fresh.write_bytes(text.encode() if isinstance(text, str) else text)
        fresh.rename(self.queue / name)


def experiment_toml(name: str, settings: str, machines: str, **keys: Any) -> str:
    """An experiment file. `settings`: the lines of qos_settings; `keys`: further keys of [[experiments]]."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    kind = [] if "combination_generation_type" in keys else ['combination_generation_type = "pcg"']
    head = ["[[experiments]]", f"experiment_name = {json.dumps(name)}", *kind, *lines]
    return "\n".join([*head, "[experiments.qos_settings]", settings, machines])


def stopped(pid: int) -> bool:
    """Whether every thread of a process stands still (or it is gone)."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        return all(_thread_state(pid, thread) in "TtZX" for thread in threads)
    except FileNotFoundError:
        return True


def _thread_state(pid: int, thread: str) -> str:
    try:
        return Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
