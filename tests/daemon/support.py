"""An engine for tests: real memory and exports in a folder, hand-made workers, clock and receiver, one diary of all."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli

from autoperfd.core import messages as m
from autoperfd.core.plan import Machine
from autoperfd.core.policy import BLAME
from autoperfd.core.settings import DaemonSettings
from autoperfd.daemon import commands, notify, store
from autoperfd.daemon.control import Question, Reply, Who
from autoperfd.daemon.engine import Delivered, Engine, Entry, Offer
from autoperfd.daemon.pins import PinBook
from autoperfd.daemon.space import Reserve, Space
from autoperfd.daemon.store import AttemptRow, Store, open_store
from autoperfd.daemon.work import Answer
from autoperfd.errors import AutoperfError, Problem, StoreError
from autoperfd.tools import TOOLS

ANN = Who(uid=1000, gid=1000, pid=1, user="ann")


def toml(
    name: str = "PCG #1",
    lengths: Sequence[int] = (100, 200),
    machines: Sequence[str] = ("10.0.0.1", "10.0.0.2"),
    qos: str = "",
    **policy: Any,
) -> str:
    """An experiment file: a test a length, one publisher's and one subscriber's machine, no reboot."""
    values = {"reboot": "never", "combination_generation_type": "pcg", **policy}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    text = f'[[experiments]]\nexperiment_name = "{name}"\n' + "\n".join(lines)
    text += qos or (
        f"\n[experiments.qos_settings]\nduration_secs = [4]\ndatalen_bytes = {list(lengths)}\npub_count = [1]\n"
        "sub_count = [1]\nuse_reliable = [true]\nuse_multicast = [false]\nlatency_count = [100]\n"
    )
    for i, ip in enumerate(machines):
        text += (
            f'[[experiments.slave_machines]]\nmachine_name = "p{i + 1}"\n'
            f'participant_allocation = "{"pub" if i % 2 == 0 else "sub"}"\nip = "{ip}"\nusername = "pi"\n'
            f'ssh_key_path = "~/.ssh/id"\nperftest_exec_path = "~/perftest_cpp"\n'
        )
    return text


class HandClock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now, self.step = 1000.0, 1_700_000_000.0 - 1000.0
        self.asleep = 0.0

    def wall(self) -> float:
        """Unix seconds UTC."""
        return self.now + self.step

    def monotonic(self) -> float:
        """Seconds that never step."""
        return self.now

    def suspended(self) -> float:
        """Seconds the computer slept."""
        return self.asleep


@dataclass(frozen=True, slots=True)
class Given:
    """An order as it was given to the workers."""

    experiment: int
    ticket: int
    order: m.Order
    folder: Path
    tool: str


@dataclass(slots=True)
class HandWorkers:
    """Takes orders and does nothing; `at_work` is what is under way, by experiment."""

    diary: list[tuple[str, Any]]
    at_work: dict[int, Given] = field(default_factory=dict)
    overdue: list[Answer] = field(default_factory=list)
    overdue_at: float | None = None

    def start(self, experiment: int, ticket: int, order: m.Order, folder: Path, tool: str) -> None:
        """Begin an order in place of the former one."""
        given = Given(experiment, ticket, order, folder, tool)
        self.diary.append(("start", given))
        self.at_work[experiment] = given

    def cancel(self, experiment: int) -> None:
        """Let the experiment's work end without an answer."""
        self.diary.append(("cancel", experiment))
        self.at_work.pop(experiment, None)

    def done(self, experiment: int, ticket: int) -> None:
        """The engine took the last answer of an order."""
        given = self.at_work.get(experiment)
        if given is not None and given.ticket == ticket:
            del self.at_work[experiment]

    def next_overdue(self) -> float | None:
        """Monotonic time at which the next order is overdue, or None."""
        return self.overdue_at

    def give_up_overdue(self) -> list[Answer]:
        """The answers overdue orders should have given."""
        answers, self.overdue = self.overdue, []
        return answers


class WatchedStore(Store):
    """A memory that writes its commits into the diary, and may refuse them."""

    diary: list[tuple[str, Any]]
    refuses = False

    def commit(self, writes: Sequence[store.Write]) -> None:
        """Write all of it, or raise StoreError."""
        if self.refuses:
            raise StoreError("the memory cannot be written: disk I/O error")
        super().commit(writes)
        self.diary.append(("commit", list(writes)))


def watched(path: Path, diary: list[tuple[str, Any]]) -> WatchedStore:
    """The memory at a path, watched. Syncing is left out: nothing cuts the power here."""
    opened = WatchedStore(open_store(path)._db)
    opened._db.execute("PRAGMA synchronous=OFF")
    opened.diary = diary
    return opened


class Rig:
    """One engine after another on the same state folder."""

    def __init__(self, folder: Path, *, webhook: bool = False, reserve: Reserve | None = None, **settings: Any) -> None:
        self.settings = DaemonSettings(state=folder, **{"backoff_first_secs": 4, "patience_secs": 100, **settings})
        self.clock = HandClock()
        self.rng = random.Random(7)
        self.diary: list[tuple[str, Any]] = []
        self.sent: list[notify.Message] = []
        self.free_bytes = 1 << 40
        self.inodes: int | None = None
        self.can_open = True
        self.bad_key: Callable[[Machine], str] = lambda machine: ""
        self._webhook, self._reserve = webhook, reserve
        self.start()

    def start(self) -> None:
        """A new engine on the memory as it is; nothing happens to it yet."""
        self.memory = watched(self.settings.state / "autoperf.db", self.diary)
        self.workers = HandWorkers(self.diary)
        self.pins = PinBook(self.settings.state / "known_hosts", self.memory.load().pins)
        self.engine = Engine(
            self.memory,
            self.settings,
            TOOLS,
            self.clock,
            self.rng,
            send=self._send if self._webhook else None,
            pins=self.pins,
            answer=commands.answer,
            key_problem=lambda machine: self.bad_key(machine),
            space=lambda: Space(self.free_bytes, self.inodes, self.can_open),
            reserve=self._reserve,
            controller="bench",
        )
        self.engine.workers = self.workers
        self.engine.load()

    def restart(self, *, crashed: bool = False) -> None:
        """Kill the engine, start another and tell it that it was restarted."""
        self.stop()
        self.start()
        self.engine.restart(crashed=crashed)

    def stop(self) -> None:
        """Forget the engine."""
        for entry in list(self.engine.entries.values()):
            self.engine.forget(entry)
        self.memory.close()

    def _send(self, message: notify.Message) -> None:
        self.diary.append(("send", message))
        self.sent.append(message)

    # ------------------------------------------------------------ what comes in

    def offer(
        self, text: str, file: str = "pcg.toml", histories: Sequence[list[AttemptRow]] = ()
    ) -> tuple[Problem, ...] | AutoperfError:
        """Drop a file; the engine's verdict on it."""
        tables = tomli.loads(text)["experiments"]
        documents = tuple(json.dumps(table) for table in tables)
        answers: list[tuple[Problem, ...] | AutoperfError] = []
        told = tuple(histories) or tuple([] for _ in documents)
        self.engine.handle(Offer(file, text.encode(), documents, 1000, told, answers.append))
        (answer,) = answers
        return answer

    def submit(self, *texts: str) -> list[Entry]:
        """Drop files that are accepted; all experiments there are."""
        for number, text in enumerate(texts):
            assert self.offer(text, f"{number}.toml") == ()
        return list(self.engine.entries.values())

    def answer(self, number: int, event: m.Event, ticket: int | None = None) -> None:
        """Let the work of an experiment (1, 2, …) answer."""
        if ticket is None:
            ticket = self.workers.at_work[number].ticket
        self.engine.handle(Answer(number, ticket, event))

    def ask(self, command: str, who: Who = ANN, **args: Any) -> Reply:
        """Give a command; the reply."""
        question = Question(command, args, who)
        self.engine.handle(question)
        return question.wait(0)

    def deliver(self, result: Any = "sent", why: str = "", retry_after: float | None = None) -> None:
        """Let the latest message's try come to something."""
        self.engine.handle(Delivered(self.sent[-1], notify.Outcome(result, why, retry_after=retry_after)))

    def wait(self, secs: float) -> None:
        """Let time pass, and the engine do what time brings."""
        self.clock.now += secs
        self.engine.tick()

    # ------------------------------------------------------------ answers workers give

    def validated(
        self, number: int = 1, keys: Sequence[str] = (), known: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        """Every machine answers. `known`: what else is learned, of each."""
        machines = self.engine.entries[number].life.experiment.machines
        prints = dict(zip((machine.name for machine in machines), keys, strict=False))
        facts = {
            machine.name: {
                "host_key": prints.get(machine.name, f"key of {machine.ip}"),
                "boot_id": f"boot of {machine.ip}",
                **(known or {}),
            }
            for machine in machines
        }
        boot_ids = {machine.name: f"boot of {machine.ip}" for machine in machines}
        probes = {machine.name: "-outputFile" for machine in machines}
        self.answer(number, m.Validated(boot_ids=boot_ids, facts=facts, probes=probes, **more))

    def running(self, number: int = 1) -> Entry:
        """On to an attempt under way whose start is confirmed."""
        self.validated(number)
        entry = self.engine.entries[number]
        assert entry.life.state == "running", entry.life.state
        self.answer(number, m.Started())
        return entry

    def succeed(self, number: int = 1, status: str = "success") -> None:
        """The attempt under way succeeds, after ten seconds."""
        self.clock.now += 10
        life = self.engine.entries[number].life
        result = m.AttemptResult(
            end_status=status,
            figures={"latency_mean_us": 12.5},
            archive=f"data/{life.test}/attempt-{life.number}.tar.gz",
            sha256="0" * 64,
            size=10,
        )
        self.answer(number, m.Succeeded(result=result))

    def fail(self, number: int = 1, status: str = "timeout", **more: Any) -> None:
        """The attempt under way fails, after ten seconds."""
        self.clock.now += 10
        result = m.AttemptResult(
            **{"end_status": status, "blame": BLAME[status], "reason": f"because of {status}", **more}
        )
        self.answer(number, m.Failed(result=result))

    def away(self, number: int = 1, reason: str = "p2: is away") -> None:
        """A machine does not answer."""
        self.answer(number, m.Unreachable(machine="p2", reason=reason, pings=3))

    # ------------------------------------------------------------ what came of it

    def life(self, number: int = 1) -> Any:
        """An experiment's life."""
        return self.engine.entries[number].life

    def states(self) -> list[str]:
        """Where all experiments are, in the order they came."""
        return [entry.life.state for entry in self.engine.entries.values()]

    def order(self, number: int = 1) -> m.Order | None:
        """The work under way for an experiment."""
        given = self.workers.at_work.get(number)
        return given.order if given else None

    def ess(self, folder: str = "PCG_1") -> list[str]:
        """test, number and status of each row of an experiment's ESS."""
        lines = (self.settings.state / "results" / folder / "ess.csv").read_text().splitlines()
        cells = [line.split(",") for line in lines[1:]]
        return [f"{row[2]} {row[6]} {row[5]}" for row in cells]

    def everything(self) -> dict[str, Any]:
        """What must be the same in another engine on the same memory."""
        return {
            "hold": self.engine.hold,
            "outbox": dict(self.engine._outbox),
            "lives": {
                number: (
                    entry.row,
                    entry.life.to_json(),
                    list(entry.life.requeued),
                    entry.life.remaining(),
                    entry.life.plan,
                    {name: dict(facts) for name, facts in entry.life.facts.items()} if entry.life.uid else {},
                    entry.life.experiment,
                    [entry.life.sweep.name_at(i) for i in range(min(3, entry.life.sweep.count))],
                )
                for number, entry in self.engine.entries.items()
            },
        }
