"""What the figures share: the bench itself, fleets, peers' command lines and a live daemon. Blocks; one thread."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoperfd.core.plan import Machine
from autoperfd.ctl import client
from autoperfd.errors import AutoperfError
from autoperfd.lab.loopback import LoopbackLab
from autoperfd.lab.machines import LabMachine
from autoperfd.remote.fleet import Fleet
from autoperfd.remote.values import Timing

INSTALLATION = "b" * 16
KEX = "curve25519-sha256"  # Debian 12's default is slower; no win over that is claimed
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"

SETTINGS = """\
[paths]
state = "{root}/state"
queue = "{root}/queue"
runtime = "{root}/run"
known_hosts = "{root}/known_hosts"
[machines]
ping = "auto"
boot_budget_secs = 60
grace_secs = 5
stop_secs = 1
[guards]
foreign = "record"
users = "record"
throttled = "record"
[results]
disk_reserve_mb = 10
[queue]
settle_secs = 0.05
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """One run of the bench. `quick`: shows that everything works, its figures mean little."""

    folder: Path
    quick: bool

    def say(self, sentence: str) -> None:
        """Progress, beside the table."""
        print(f"  … {sentence}", file=sys.stderr, flush=True)

    def new_folder(self, name: str) -> Path:
        """An empty folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def lab(self, machines: int, *, boot_secs: float = 1.0) -> LoopbackLab:
        """A loopback lab that is not started yet."""
        return LoopbackLab(self.new_folder("lab"), machines, boot_secs=boot_secs)


# ---------------------------------------------------------------- our own side


class KnownMachines:
    """The host keys of a lab."""

    def __init__(self, machines: Sequence[LabMachine]) -> None:
        self._lines = {(machine.ip, machine.port): [machine.host_key_line] for machine in machines}

    def keys_for(self, host: str, port: int) -> list[str]:
        """See remote.values.Pins."""
        return self._lines.get((host, port), [])


def fleet(lab: LoopbackLab) -> Fleet:
    """A fleet without any connection yet."""
    return Fleet(
        installation=INSTALLATION,
        pins=KnownMachines(lab.machines),
        timing=Timing(),
        credentials=None,
        home=Path.home(),
        ping="auto",
    )


def machines_of(lab: LoopbackLab, executable: str) -> tuple[Machine, ...]:
    """The lab's machines as the daemon knows them."""
    return tuple(Machine(m.name, "all", m.ip, m.port, m.username, str(m.key_path), executable) for m in lab.machines)


@contextlib.contextmanager
def daemon(root: Path, machines: Sequence[LabMachine] = (), *, before: Sequence[str] = ()) -> Iterator[Daemon]:
    """A live daemon with its folders below `root`, which trusts these machines. `before`: words before its argv."""
    for name in ("state", "queue", "run"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "autoperfd.toml").write_text(SETTINGS.format(root=root), encoding="utf-8")
    live = Daemon(root, before)
    live.start()
    try:
        if machines:
            pins = [{"host": m.ip, "port": m.port, "keys": [m.host_key_line]} for m in machines]
            live.ask("pin", pins=pins)
        yield live
    finally:
        live.stop()


class Daemon:
    """autoperfd as a process of its own."""

    def __init__(self, root: Path, before: Sequence[str]) -> None:
        self.root = root
        self.state, self.queue, self.runtime = root / "state", root / "queue", root / "run"
        self._before = before
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it; seconds until it answered on its socket."""
        argv = [sys.executable, "-m", "autoperfd.daemon.main", "--config", str(self.root / "autoperfd.toml")]
        began = time.monotonic()
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen([*self._before, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._answers, "the daemon does not answer", 60, pause_secs=0.002)
        return time.monotonic() - began

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            finally:
                self._process.kill()
                self._process.wait()
                self._process = None

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def ask(self, command: str, **args: Any) -> Any:
        """The data of a reply."""
        reply = client.ask(str(self.runtime), command, args)
        if not reply.get("ok"):
            raise AutoperfError(f"the daemon refuses {command}: {reply.get('error')}")
        return reply.get("data")

    def run(self, name: str, text: str, secs: float) -> None:
        """Drop an experiment and wait until it is finished."""
        fresh = self.queue / f".{name}"
        fresh.write_text(text, encoding="utf-8")
        fresh.rename(self.queue / f"{name}.toml")
        until(lambda: self._outcome(name) == "finished", f"{name} did not finish", secs, pause_secs=0.5)

    def log(self) -> str:
        """The end of what it logged."""
        return (self.root / "log").read_text(encoding="utf-8", errors="replace")[-3000:]

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AutoperfError(f"the daemon ended:\n{self.log()}")
        with contextlib.suppress(OSError, ValueError):
            return bool(client.ask(str(self.runtime), "status").get("ok"))
        return False

    def _outcome(self, name: str) -> str:
        for found in self.ask("list")["experiments"]:
            if found["name"] == name:
                if found["state"] == "halted":
                    raise AutoperfError(f"{name} is halted: {found['halted_reason']}")
                return str(found["outcome"])
        return ""


def experiment(name: str, lab_toml: str, tests: int, *, reboot: str = "never", pubs: int = 1, subs: int = 1) -> str:
    """An experiment file: `tests` tests of 3 s with the Perftest stand-in, which is told to be quick and quiet."""
    settings = {
        "duration_secs": [3],
        "datalen_bytes": [100 + number for number in range(tests)],
        "pub_count": [pubs],
        "sub_count": [subs],
        "use_reliable": [True],
        "latency_count": [10],
    }
    environment = f'{{ STANDIN_FAST = "1", STANDIN_RATE = "100", STANDIN_NET = "bench-{os.getpid()}" }}'
    return "\n".join(
        [
            "[[experiments]]",
            f"experiment_name = {json.dumps(name)}",
            'combination_generation_type = "pcg"',
            f'reboot = "{reboot}"',
            "[experiments.qos_settings]",
            *(f"{key} = {json.dumps(values)}" for key, values in settings.items()),
            lab_toml.replace("perftest_exec_path", f"environment = {environment}\nperftest_exec_path"),
        ]
    )


# ---------------------------------------------------------------- the others


def ssh_words(lab: LoopbackLab, *, port_option: str = "-p", machine: LabMachine | None = None) -> list[str]:
    """Options for ssh and scp: the lab's keys, no configuration of this account; the machine's port if one is named."""
    options = {
        "UserKnownHostsFile": lab.folder / "known_hosts",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityFile": lab.machines[0].key_path,
        "KexAlgorithms": KEX,
        "LogLevel": "ERROR",
    }
    words = ["-F", "none"]
    for key, value in options.items():
        words += ["-o", f"{key}={value}"]
    return [*words, port_option, str(machine.port)] if machine else words


def have(program: str) -> bool:
    """Whether a peer is installed."""
    return shutil.which(program) is not None


def run(argv: Sequence[str], *, text: str = "", env: dict[str, str] | None = None, secs: float = 120) -> str:
    """A peer's standard output. Raises AutoperfError when it fails."""
    environment = {**os.environ, **env} if env else None
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=secs, env=environment, check=False)
    if done.returncode:
        raise AutoperfError(f"{argv[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that `work` takes."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def until(happened: Callable[[], bool], if_not: str, secs: float, *, pause_secs: float) -> None:
    """Wait, with a deadline. Raises AutoperfError."""
    pause, deadline = threading.Event(), time.monotonic() + secs
    while not happened():
        if time.monotonic() > deadline:
            raise AutoperfError(f"{if_not} (waited {secs:g} s)")
        pause.wait(pause_secs)
