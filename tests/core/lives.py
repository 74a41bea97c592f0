"""Lives of experiments for tests: a `Bench` lets events happen to one life, on a clock and a memory of its own."""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autoperfd.core import lifecycle
from autoperfd.core import messages as m
from autoperfd.core.config import Experiment, read_experiments
from autoperfd.core.lifecycle import Life, Row, Step, Tuning
from autoperfd.core.policy import BLAME, KEPT
from autoperfd.daemon.store import MIGRATIONS, ExperimentRow, Happened, SaveLife, Store, plan_of
from autoperfd.tools import TOOLS

MACHINES = """
[[experiments.slave_machines]]
machine_name = "p1"
participant_allocation = "pub"
ip = "10.0.0.1"
username = "pi"
ssh_key_path = "~/.ssh/id"
perftest_exec_path = "~/perftest_cpp"
[[experiments.slave_machines]]
machine_name = "p2"
participant_allocation = "sub"
ip = "10.0.0.2"
username = "pi"
ssh_key_path = "~/.ssh/id"
perftest_exec_path = "~/perftest_cpp"
"""
BOOT_IDS = {"p1": "b1", "p2": "b2"}
START = 1_700_000_000.0

_begun: list[Life] = []


@functools.cache
def _read(tests: int) -> Experiment:
    lengths = [100 + i for i in range(tests)]
    text = f"""
[[experiments]]
experiment_name = "PCG #1"
combination_generation_type = "pcg"
[experiments.qos_settings]
duration_secs = [4]
datalen_bytes = {lengths}
pub_count = [1]
sub_count = [1]
use_reliable = [true]
use_multicast = [false]
latency_count = [100]
{MACHINES}"""
    (experiment,) = read_experiments(text.encode(), "pcg.toml", TOOLS, ())
    return experiment


def experiment(tests: int = 3, switches: tuple[str, ...] = (), **policy: Any) -> Experiment:
    """An experiment of so many tests on two machines, never rebooted unless the policy says so."""
    read = _read(tests)
    machines = tuple(replace(x, power_cycle="plug" if x.name in switches else "") for x in read.machines)
    return replace(read, machines=machines, policy=replace(read.policy, **{"reboot": "never", **policy}))


def blank_store() -> Store:
    """A memory that is gone with its object."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    for migration in MIGRATIONS:
        db.executescript(migration)
    return Store(db)


def forget_lives() -> None:
    """Let the state machine forget all lives made here."""
    while _begun:
        life = _begun.pop()
        if life in lifecycle.STATE_MACHINE.models:
            lifecycle.end(life)


class Bench:
    """One life, events as methods, and what it answered. `memory`: also write it down as the engine does."""

    def __init__(
        self,
        tests: int = 3,
        tuning: Tuning | None = None,
        *,
        memory: bool = False,
        switches: tuple[str, ...] = (),
        **policy: Any,
    ) -> None:
        """`switches`: names of the machines that have a power switch."""
        self.experiment = experiment(tests, switches, **policy)
        self.tuning = tuning or Tuning()
        self.now, self.wall = 1000.0, START
        self.boots = dict(BOOT_IDS)
        self.changes: list[m.Change] = []
        self.fired: list[tuple[Row, str]] = []
        self.step: Step
        self.memory = blank_store() if memory else None
        self.life = self._life()
        if self.memory is not None:
            row = ExperimentRow(
                id=1, name="PCG #1", folder="PCG_1", identity="", document="", seed=None, owner=0, accepted=START
            )
            self.memory.commit([row, SaveLife(1, self.life.to_json())])

    def _life(self) -> Life:
        life = Life(1, self.experiment, self.experiment.sweep, TOOLS[self.experiment.tool], self.tuning)
        _begun.append(life)
        return lifecycle.begin(life)

    # ------------------------------------------------------------ what happens

    def happen(self, event: m.Event, secs: float = 1.0) -> Step:
        """Let an event happen `secs` seconds after the one before."""
        self.now, self.wall = self.now + secs, self.wall + secs
        step = self.step = lifecycle.advance(self.life, replace(event, wall=self.wall, now=self.now))
        self.changes += step.changes
        if step.row is not None:
            self.fired.append((step.row, step.before))
        if self.memory is not None and step.taken:
            changes = [Happened(1, change) for change in step.changes]
            self.memory.commit([SaveLife(1, self.life.to_json()), *changes])
        return step

    def reload(self) -> None:
        """A new life from the memory, as after a restart; what was the work under way is not known to it."""
        assert self.memory is not None
        loaded, life = self.memory.load(), self._life()
        life.restore(loaded.lives[1])
        life.requeued.extend(loaded.requeued.get(1, ()))
        life.decided_ahead.update(self.memory.decided_from(1, life.cursor))
        life.decided_ahead.update(r.test for r in life.requeued if life.is_ahead(r.test))
        if life.index >= life.cursor:
            life.decided_ahead.add(life.test)
        opened = loaded.open_attempts.get(1)
        if opened is not None:
            life.plan, life.facts = plan_of(opened), json.loads(opened.facts)
        self.life = life

    def schedule(self, *, free: bool = True) -> Step:
        return self.happen(m.Scheduled(free=free))

    def validated(self, **more: Any) -> Step:
        uid = f"uid-{len(self.changes)}-{self.life.ticket}"
        values = {"boot_ids": dict(self.boots), "uid": uid, "domain": 7, "facts": {"p1": {"arch": "x"}}, **more}
        return self.happen(m.Validated(**values))

    def restart(self, *names: str) -> dict[str, str]:
        """These machines (none: all) have another boot id from now on; returns those."""
        fresh = {name: f"{self.boots[name]}+" for name in names or self.boots}
        self.boots.update(fresh)
        return fresh

    def rebooted(self, *names: str) -> Step:
        return self.happen(m.Rebooted(boot_ids=self.restart(*names)))

    def cycled(self, *names: str) -> Step:
        return self.happen(m.Cycled(boot_ids=self.restart(*names)))

    def not_cycled(self, code: str = "REBOOT_IGNORED") -> Step:
        return self.happen(m.NotCycled(machine="p2", reason="p2: it had no effect", code=code))

    def started(self) -> Step:
        return self.happen(m.Started())

    def half_started(self, reason: str = "") -> Step:
        return self.happen(m.HalfStarted(reason=reason))

    def succeed(self, status: str = "success") -> Step:
        assert status in KEPT
        return self.happen(m.Succeeded(result=m.AttemptResult(end_status=status, archive="a.tar.gz")), 10)

    def fail(self, status: str = "timeout", *, blame: Any = None, hopeless: bool = False, code: str = "") -> Step:
        blame = BLAME[status] if blame is None else blame
        reason = f"because of {status}"
        result = m.AttemptResult(
            end_status=status, blame=blame, machine="p2", code=code, reason=reason, would_fail_every_test=hopeless
        )
        return self.happen(m.Failed(result=result), 10)

    def away(self, secs: float = 1.0, *, pings: int = 3, ssh_checks: int = 0, **ill: str) -> Step:
        """p2 does not answer, or those machines are ill with those codes, the first being the gravest."""
        machine, code = next(iter(ill.items()), ("p2", "SSH_SILENT"))
        event = m.Unreachable(
            machine=machine,
            reason=f"{machine}: is away",
            code=code,
            pings=pings,
            ssh_checks=ssh_checks,
            ill=ill,
            evidence=f'{{"{machine}": "silent"}}',
        )
        return self.happen(event, secs)

    def impossible(self) -> Step:
        return self.happen(m.Impossible(machine="p2", reason="p2: sudo asks for a password"))

    def due(self, secs: float = 5.0) -> Step:
        return self.happen(m.Due(), secs)

    def halt(self) -> Step:
        return self.happen(m.Halt(who="ann"))

    def resume(self) -> Step:
        return self.happen(m.Resume(who="ann"))

    def answered(self) -> Step:
        return self.happen(m.Answered())

    def swept(self) -> Step:
        return self.happen(m.Swept())

    def low_disk(self, code: str = "DISK_FULL") -> Step:
        return self.happen(m.LowDisk(reason="only 3 MB are free", code=code))

    def room(self) -> Step:
        return self.happen(m.Room())

    def skip(self, index: int) -> Step:
        return self.happen(m.Skip(test=self.name(index), index=index, who="ann"))

    def retry(self, *tests: tuple[int, int, str]) -> Step:
        wanted = tuple((self.name(index), number, status) for index, number, status in tests)
        return self.happen(m.Retry(tests=wanted, who="ann"))

    def cancel(self) -> Step:
        return self.happen(m.Cancel(who="ann"))

    def redropped(self) -> Step:
        return self.happen(m.Redropped())

    def restarted(self, *, crashed: bool = False) -> Step:
        return self.happen(m.Restarted(crashed=crashed))

    # ------------------------------------------------------------ ways to a state

    def run(self) -> Bench:
        """On from idle or validating to running, rebooting where that is due."""
        if self.life.state == "idle":
            self.schedule()
        if self.validated().after == "rebooting":
            self.rebooted()
            self.validated()
        assert self.life.state == "running", self.life.state
        self.started()
        return self

    def until(self, state: str) -> Bench:
        """From the beginning to a state, on the shortest natural way."""
        match state:
            case "validating":
                self.schedule()
            case "rebooting":
                self.life.reboot_owed, self.life.experiment = (
                    True,
                    experiment(self.experiment.sweep.count, reboot="test"),
                )
                self.schedule()
                self.validated()
            case "running":
                self.run()
            case "backing-off":
                self.schedule()
                self.away()
            case "halted":
                self.schedule()
                self.halt()
        assert self.life.state == state
        return self

    # ------------------------------------------------------------ what came of it

    def name(self, index: int) -> str:
        """The name of a test."""
        return self.experiment.sweep.name_at(index)

    def latest(self, kind: type[m.Change]) -> Any:
        """The latest change of a kind."""
        return next(change for change in reversed(self.changes) if isinstance(change, kind))

    def count(self, kind: type[m.Change]) -> int:
        """How many changes of a kind there were."""
        return sum(isinstance(change, kind) for change in self.changes)

    def rows(self) -> list[tuple[int, int, str, str]]:
        """The attempts that ended: (index, number, end status, blame)."""
        closed = [change for change in self.changes if isinstance(change, m.AttemptClosed)]
        place = {self.name(i): i for i in range(self.experiment.sweep.count)}
        return [(place[c.test], c.number, c.result.end_status, c.result.blame) for c in closed]

    def decided(self) -> dict[int, str]:
        """index -> verdict, of the tests that have one."""
        verdicts: dict[int, str] = {}
        for change in self.changes:
            if isinstance(change, m.TestDecided):
                verdicts[change.index] = change.status
        return verdicts

    def told(self) -> list[str]:
        """The kinds of notices so far."""
        return [change.kind for change in self.changes if isinstance(change, m.Notice)]

    def facts(self) -> Mapping[str, Any]:
        """The facts of the latest notice."""
        facts: Mapping[str, Any] = self.latest(m.Notice).facts
        return facts
