"""What 100,000 recorded attempts cost: recording one more, starting the daemon, asking for its status.

Attempts are recorded through the engine itself, its memory on disk, the exported spreadsheets included; only machines
and workers are left out. The first ones get in as an experiment whose results folder was copied here does.
"""

from __future__ import annotations

import json
import os
import queue
import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from autoperfd.core import messages as m
from autoperfd.core.settings import read_settings
from autoperfd.core.sweep import Sweep
from autoperfd.daemon.engine import Engine, Offer
from autoperfd.daemon.main import SystemClock
from autoperfd.daemon.parse import read_limited
from autoperfd.daemon.pins import PinBook
from autoperfd.daemon.store import AttemptRow, open_store
from autoperfd.daemon.work import Answer
from autoperfd.errors import AutoperfError
from autoperfd.lab.bench.rig import SETTINGS, Bench, daemon
from autoperfd.lab.bench.rows import Row, in_turn
from autoperfd.tools import TOOLS

NAME = "many"
EXPERIMENT = """
[[experiments]]
experiment_name = "many"
combination_generation_type = "pcg"
reboot = "never"
[experiments.qos_settings]
duration_secs = [30]
datalen_bytes = {{ min = 2000, max = {last} }}
pub_count = [1]
sub_count = [3]
use_reliable = [true]
latency_count = [10]
"""
MACHINE = """
[[experiments.slave_machines]]
machine_name = "{name}"
participant_allocation = "{role}"
ip = "127.0.0.1"
port = {port}
username = "nobody"
ssh_key_path = "/nowhere/key"
perftest_exec_path = "~/perftest_cpp"
"""
FIGURES = {"latency_mean_us": 123.4, "latency_99_us": 300, "total_samples_per_s": 12345, "total_mbps": 98.7}

EVIDENCE = json.dumps(
    {
        "records": [
            {
                "name": name,
                "machine": f"p{number + 1}",
                "exit": 0,
                "signal": None,
                "ended_by": "self",
                "started": 1795471342.225,
                "ended": 1795471375.5,
            }
            for number, name in enumerate(("pub_0", "sub_0", "sub_1", "sub_2"))
        ],
        "boot_before": {f"p{number}": "b" * 36 for number in range(1, 5)},
        "boot_after": {f"p{number}": "b" * 36 for number in range(1, 5)},
        "stagger_secs": 0.001,
        "clock": {f"p{number}": 0.0003 for number in range(1, 5)},
        "found": "started",
        "problems": {},
    }
)


class NoWork:
    """Workers that never answer; the bench does."""

    def start(self, experiment: int, ticket: int, order: m.Order, folder: Path, tool: str) -> None: ...
    def cancel(self, experiment: int) -> None: ...
    def done(self, experiment: int, ticket: int) -> None: ...
    def next_overdue(self) -> float | None:
        return None

    def give_up_overdue(self) -> list[Answer]:
        return []


def measure(bench: Bench) -> Iterator[Row]:
    """All three."""
    count, rounds = (2_000, 20) if bench.quick else (100_000, 200)
    bench.say(f"a memory of {count} attempts")
    few_root, many_root = bench.new_folder("few"), bench.new_folder("many")
    few, many = Recording(few_root, 0, rounds), Recording(many_root, count, rounds)
    taken = in_turn(rounds, {"few": few.attempt, "many": many.attempt})
    few.close()
    many.close()
    yield Row(
        figure=f"recording attempt {count:,}",
        ours=taken["many"],
        unit="ms",
        peer="attempt 1",
        theirs=taken["few"],
        limit=1.2,
        note="engine, memory and spreadsheets: three durable transactions and the rows of ess.csv and summary.csv",
    )
    bench.say("starting with it")
    loads: list[float] = []
    starts: list[float] = []
    empties: list[float] = []
    for _ in range(1 if bench.quick else 7):
        loads.append(many.load_secs())
        for root, found in ((many_root, starts), (few_root, empties)):
            with daemon(root) as live:
                live.stop()
                found.append(live.start())
    yield Row(
        figure=f"loading {count:,} attempts",
        ours=statistics.median(loads),
        unit="s",
        peer="(absolute)",
        theirs=0.5,
        limit=0.5,
        alone=True,
        note="opening, checking and reading the memory, to the engine's readiness to decide",
    )
    yield Row(
        figure=f"exec to an answer on the socket, {count:,} attempts",
        ours=statistics.median(starts),
        unit="s",
        peer="the same, a few attempts",
        theirs=statistics.median(empties),
        limit=None,
        note="with Python's start and all imports",
    )
    bench.say("status with it")
    with daemon(many_root) as live:
        argv = [sys.executable, "-m", "autoperfd.ctl.main", "status"]
        environment = {**os.environ, "AUTOPERF_RUNTIME_DIR": str(live.runtime)}
        status = in_turn(
            3 if bench.quick else 25,
            {
                "status": lambda: cpu_ms(argv, environment),
                "pass": lambda: cpu_ms([sys.executable, "-c", "pass"], environment),
            },
        )
    yield Row(
        figure=f"autoperfctl status, {count:,} attempts, CPU",
        ours=status["status"],
        unit="ms",
        peer="python -c pass",
        theirs=status["pass"],
        limit=4.0,
    )


class Recording:
    """An engine with one experiment, of which `told` tests are recorded and `left` are not."""

    def __init__(self, root: Path, told: int, left: int) -> None:
        self._root = root
        (root / "state" / "results").mkdir(parents=True)
        text = EXPERIMENT.format(last=2000 + told + left + 1)
        roles = ("pub", "sub", "sub", "sub")
        text += "".join(MACHINE.format(name=f"p{i + 1}", role=role, port=i + 1) for i, role in enumerate(roles))
        parsed = read_limited(text.encode(), "many.toml", TOOLS, ())
        self._engine = self._make()
        self._engine.load()
        known = list(history(parsed.experiments[0].sweep, told))
        answers: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._engine.handle(Offer("many.toml", text.encode(), parsed.documents, 0, (known,), answers.put))
        if answers.get_nowait() != ():
            raise AutoperfError("the bench's experiment is not taken")
        (self._entry,) = self._engine.entries.values()

    def attempt(self) -> float:
        """Record one attempt; milliseconds."""
        engine, life = self._engine, self._entry.life
        began = time.perf_counter()
        facts = {machine.name: {"kernel": "6.1", "arch": "x86_64"} for machine in life.experiment.machines}
        boot_ids = {name: "b" * 36 for name in facts}
        engine.handle(Answer(life.id, life.ticket, m.Validated(boot_ids=boot_ids, facts=facts)))
        engine.handle(Answer(life.id, life.ticket, m.Started()))
        archive = f"data/{life.test}/attempt-1.tar.gz"
        result = m.AttemptResult(
            end_status="success", figures=FIGURES, archive=archive, sha256="d" * 64, size=12345, evidence=EVIDENCE
        )
        engine.handle(Answer(life.id, life.ticket, m.Succeeded(result=result)))
        return (time.perf_counter() - began) * 1000

    def close(self) -> None:
        """Give the memory back."""
        self._engine.store.close()

    def load_secs(self) -> float:
        """Seconds to open the memory and take up what it holds."""
        began = time.perf_counter()
        engine = self._make()
        engine.load()
        took = time.perf_counter() - began
        engine.store.close()
        return took

    def _make(self) -> Engine:
        settings = read_settings(SETTINGS.format(root=self._root).encode(), "autoperfd.toml")
        engine = Engine(
            open_store(settings.state / "autoperf.db"),
            settings,
            TOOLS,
            SystemClock(),
            random.Random(1),
            send=None,
            pins=PinBook(settings.known_hosts),
            answer=lambda engine, question: None,
            key_problem=lambda machine: "",
        )
        engine.workers = NoWork()
        return engine


def history(sweep: Sweep, told: int) -> Iterator[AttemptRow]:
    """That many attempts as they come from a copied results folder."""
    began = time.time() - told * 35
    for place in range(told):
        test = sweep.name_at(place)
        yield AttemptRow(
            id=0,
            experiment=0,
            test=test,
            number=1,
            uid=f"{place:032x}",
            started=began + place * 35,
            ended=began + place * 35 + 33,
            status="success",
            blame="",
            machine="",
            code="",
            reason="",
            pings=1,
            ssh_checks=1,
            settings=json.dumps(sweep.at(place)),
            archive=f"data/{test}/attempt-1.tar.gz",
            sha256="d" * 64,
            size=12345,
            figures=json.dumps(FIGURES),
            evidence=EVIDENCE,
            plan="",
            facts="{}",
            closed=place + 1,
        )


def cpu_ms(argv: list[str], environment: dict[str, str]) -> float:
    """Processor time of a command, in milliseconds."""
    pid = os.posix_spawn(
        argv[0], argv, environment, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    )
    _, status, used = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 1):  # 1: told of a problem, as of a halted experiment
        raise AutoperfError(f"{' '.join(argv)} ended with {os.waitstatus_to_exitcode(status)}")
    return (used.ru_utime + used.ru_stime) * 1000
