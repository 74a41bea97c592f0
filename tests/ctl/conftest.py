"""A daemon that answers as it is told, and experiment files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from autoperfd.daemon.control import Control, Reply, Who

ROOT = Path(__file__).parents[2]

FILE = """
[[experiments]]
experiment_name = "PCG #1"
combination_generation_type = "pcg"
tool = "perftest"
[experiments.qos_settings]
duration_secs = [30]
datalen_bytes = [100]
pub_count = [1, 50]
sub_count = [1, 3]
use_reliable = [true, false]
use_multicast = [false]
latency_count = [100]
[[experiments.slave_machines]]
machine_name = "p1"
participant_allocation = "pub"
ip = "192.0.2.55"
username = "pi"
ssh_key_path = "~/.ssh/id_rsa"
perftest_exec_path = "~/perftest_cpp"
environment = { LD_LIBRARY_PATH = "/opt/rti/lib" }
[[experiments.slave_machines]]
machine_name = "p2"
participant_allocation = "sub"
ip = "192.0.2.56"
port = 2222
username = "pi"
ssh_key_path = "~/.ssh/id_rsa"
perftest_exec_path = "/opt/perftest_cpp"
"""


class Daemon:
    """Answers each command with what the test put there for it; remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.replies: dict[str, Reply | Callable[[Mapping[str, Any]], Reply]] = {}

    def __call__(self, command: str, args: Mapping[str, Any], who: Who) -> Reply:
        self.asked.append((command, dict(args)))
        reply = self.replies.get(command, Reply(text=f"{command} done\n"))
        return reply if isinstance(reply, Reply) else reply(args)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the daemon's places, named to autoperfctl by its environment and by `autoperfd.toml`."""
    for name in ("run", "state", "queue", "queue/rejected"):
        (tmp_path / name).mkdir()
    (tmp_path / "autoperfd.toml").write_text(
        f'[paths]\nruntime = "{tmp_path}/run"\nstate = "{tmp_path}/state"\nqueue = "{tmp_path}/queue"\n'
    )
    (tmp_path / "good.toml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOPERF_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # programs we start find this package, installed or not
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def daemon(lab: Path) -> Iterator[Daemon]:
    answers = Daemon()
    server = Control(lab / "run" / "control.sock", answers, look_secs=0.05)
    server.start()
    yield answers
    server.close()
