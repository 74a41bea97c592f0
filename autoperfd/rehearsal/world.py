"""A world in which one daemon lives through an experiment on virtual time: the real engine, core and memory.

Everything is drawn from one seed and told in `history`, so the same seed gives the same text, byte for byte. The
daemon can die before and after every commit and before every start of work; it comes back with what was committed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from autoperfd.core import messages as m
from autoperfd.core.config import Experiment, read_experiments
from autoperfd.core.lifecycle import end
from autoperfd.core.plan import Tool
from autoperfd.core.policy import KEPT
from autoperfd.core.settings import DaemonSettings, PowerSwitch
from autoperfd.core.tables import decode, parse
from autoperfd.daemon import commands, notify
from autoperfd.daemon.control import Question, Reply, Who
from autoperfd.daemon.engine import Delivered, Engine, Entry, Offer, Stop
from autoperfd.daemon.pins import PinBook
from autoperfd.daemon.space import Space
from autoperfd.daemon.store import (
    MIGRATIONS,
    SCHEMA_VERSION,
    Happened,
    OutboxRow,
    SaveHistory,
    SaveLife,
    SaveMeta,
    Store,
    Write,
)
from autoperfd.daemon.work import ANEW_SECS
from autoperfd.errors import AutoperfError, Problem, StoreError
from autoperfd.rehearsal.drafts import Draft
from autoperfd.rehearsal.evidence import (
    Archived,
    Asked,
    Committed,
    Did,
    Evidence,
    Limits,
    Recorded,
    Twice,
    Woke,
    read_memory,
)
from autoperfd.rehearsal.invariants import problems
from autoperfd.rehearsal.machines import VirtualMachine
from autoperfd.rehearsal.timeline import Timeline
from autoperfd.rehearsal.workers import Kept, Mischief, Patience, SimWorkers
from autoperfd.tools import TOOLS

WALL = 1_700_000_000.0
PLENTY = 1 << 50
FAST = Path("/dev/shm")  # results of a rehearsal are written here where there is such a place
BAD_STATUSES = ("timeout", "crashed", "early-exit", "truncated", "bad-data", "no-data", "no-match")
MADE = "made for the rehearsal"  # stands in every error that is put in on purpose
TICK_SECS = 1e-6  # more than what is lost when clocks are added up
ROUNDS = 12  # how often, besides once a test, a person resumes what is halted before we call it a loop


class Died(BaseException):
    """The daemon is killed here and now."""


@dataclass(slots=True)
class Chances:
    """How the world treats its daemon; all probabilities."""

    dies: float = 0.0  # at each point where it may be killed
    commit_fails: float = 0.0
    bad_tests: float = 0.0  # a test that always fails
    flaky: float = 0.0  # an attempt fails
    poisonous: float = 0.0  # a test that makes the daemon crash
    doubled: float = 0.0  # somebody asks for the same twice
    unheard: float = 0.0  # a message to people does not arrive


class Notebook(Store):
    """The memory, in the process; every commit is a place where the daemon may die."""

    def __init__(self, db: sqlite3.Connection, before: Callable[[], None], after: Callable[[Sequence[Write]], None]):
        super().__init__(db)
        self.before, self.after = before, after

    def commit(self, writes: Sequence[Write]) -> None:
        """See Store."""
        self.before()
        super().commit(writes)
        self.after(writes)


@functools.cache
def _blank() -> bytes:
    db = sqlite3.connect(":memory:", isolation_level=None)
    for migration in MIGRATIONS:
        db.executescript(migration)
    db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    data = db.serialize()
    db.close()
    return data


class World:
    """One daemon, its machines and its people. A context manager: its results lie in a scratch folder."""

    def __init__(
        self,
        seed: int,
        files: Sequence[bytes],
        *,
        settings: DaemonSettings | None = None,
        chances: Chances | None = None,
        mischief: Mischief | None = None,
        crash_at: Collection[int] = (),
        drafts: Sequence[Draft] = (),
        tools: Mapping[str, Tool] = TOOLS,
    ) -> None:
        """`files`: experiment files. `crash_at`: numbers of the points (1, 2, …) at which the daemon is killed.

        `drafts`: what the files were written from, so that they can be dropped again with another policy.
        Raises ConfigError where a file is wrong.
        """
        self.rng = random.Random(seed)
        self._minds = random.Random(self.rng.getrandbits(64))  # the engine's own
        self.timeline = Timeline(WALL)
        self.chances, self.mischief = chances or Chances(), mischief or Mischief()
        self.tools = tools
        self.files, self.drafts = list(files), list(drafts)
        power = _switches(files)
        self.experiments: list[Experiment] = [e for f in files for e in read_experiments(f, "file", self.tools, power)]
        self._scratch = tempfile.TemporaryDirectory(prefix="autoperf-", dir=FAST if FAST.is_dir() else None)
        state = Path(self._scratch.name)
        (state / "results").mkdir()
        told = ("halt", "resume", "finish", "rejection")
        self.settings = DaemonSettings(
            **{**_fields(settings or DaemonSettings()), "state": state, "webhook_on": told, "power": power}
        )
        self.lines: list[str] = []
        self.record: list[Recorded] = []
        self.archives: dict[tuple[str, str], Kept] = {}
        self.crash_at, self.points, self.commits, self.deaths = set(crash_at), 0, 0, 0
        self.lost: set[tuple[str, str]] = set()  # archives that somebody took away
        self.free = PLENTY
        self.receiver: Callable[[notify.Message], notify.Outcome] = lambda message: notify.Outcome("sent")
        self.tried: list[tuple[float, str, str]] = []  # (time, message, what came of it)
        self.is_calm = False  # faults are over
        self.when: dict[str, list[Callable[[], None]]] = {}  # state -> what happens soon after it is entered next
        self.horizon = 0.0  # seconds until then, where faults were put in
        self.engine: Engine | None = None
        self.retries = {e.name: (e.policy.retries, e.policy.retries) for e in self.experiments}
        self.buffers = {e.name: e.policy.buffer_secs for e in self.experiments}  # the shortest of each
        self._known: dict[int, Limits] = {}
        self._outcomes: dict[str, tuple[str, float]] = {}  # uid -> (end status, seconds)
        self._opened: dict[str, tuple[str, int, list[VirtualMachine]]] = {}  # uid -> (test, seconds, machines)
        self._bad: dict[str, str] = {}  # test -> the way it always fails, "" for none
        self._poison: dict[str, bool] = {}
        self._bytes = _blank()
        self._db: sqlite3.Connection
        self._workers: SimWorkers
        self._crashed = False  # the daemon ended by an error of its own
        self._queue: list[tuple[str, bytes]] = []  # files that nobody answered yet
        self._sending: set[str] = set()
        self._life = 0
        self.machines = {address: self._machine(name) for address, name in self._addresses().items()}

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave nothing behind."""
        if self.engine is not None:
            self._drop()
        self._scratch.cleanup()

    # ------------------------------------------------------------ what people read

    def say(self, text: str) -> None:
        """Add a line to the history."""
        text = text.replace(self._scratch.name, "the state folder")  # it is another one each time
        self.lines.append(f"{self.timeline.now - 1000:.3f} {text}")

    @property
    def history(self) -> str:
        """Everything that happened, a line each."""
        return "\n".join(self.lines) + "\n"

    def digest(self) -> str:
        """SHA-256 of the history, in hex."""
        return hashlib.sha256(self.history.encode()).hexdigest()

    def problems(self, *, ended: bool) -> list[str]:
        """What does not hold that must. `ended`: nothing more will happen by itself."""
        return problems(self.evidence(ended=ended))

    def evidence(self, *, ended: bool) -> Evidence:
        """What the invariants look at."""
        if self.engine is not None:
            memory = read_memory(self._db)
            self._known = {number: self._limits(entry) for number, entry in self.engine.entries.items()}
        else:
            db = sqlite3.connect(":memory:")
            db.deserialize(self._bytes)
            memory = read_memory(db)
            db.close()
        archives = {key: kept.uid for key, kept in self.archives.items()}
        return Evidence(memory, self._known, self.record, ended, archives, self.lost)

    def _limits(self, entry: Entry) -> Limits:
        life = entry.life
        policy = life.experiment.policy
        return Limits(
            name=entry.row.name,
            folder=entry.row.folder,
            machines=tuple(machine.name for machine in life.experiment.machines),
            reboot=policy.reboot,
            buffer_secs=self.buffers[life.experiment.name],
            tests=tuple(life.sweep.name_at(at) for at in range(life.sweep.count)),
            first=(life.sweep.index_of(policy.resuming_test_name) or 0) if policy.resuming_test_name else 0,
            retries=self.retries[life.experiment.name],
            halt_after=(policy.halt_after_consecutive_failures,) * 2,
        )

    # ------------------------------------------------------------ living

    def live(self, secs: float, *, stop_early: bool = True) -> None:
        """From the beginning: drop the files, then let so much time pass, less when all is settled before."""
        self.boot()
        for at, data in enumerate(self.files):
            self.drop(f"{at}.toml", data)
        self.pass_time(secs, until=self.settled if stop_early else None)

    def pass_time(self, secs: float, until: Callable[[], bool] | None = None) -> bool:
        """Let so much time pass, less when `until` holds earlier; whether it does."""
        deadline = self.timeline.now + secs
        while True:
            engine = self.engine
            due = deadline
            if engine is not None and not self.timeline.asleep:
                due = min(due, engine.next_time() + self.timeline.slept + TICK_SECS)
            action = self.timeline.advance(due)
            if action is not None:
                action()
            if self.engine is not None and not self.timeline.asleep:
                self._guarded(self._decide)
            if until is not None and until():
                return True
            if self.timeline.now >= deadline:
                return False

    def settled(self) -> bool:
        """Whether nothing will happen by itself any more: all ended, or waiting for a person."""
        engine = self.engine
        if engine is None or self._queue or self.timeline.asleep or not engine.inbox.empty():
            return False
        return all(self._rests(engine, entry) for entry in engine.entries.values())

    @staticmethod
    def _rests(engine: Engine, entry: Entry) -> bool:
        life = entry.life
        if life.sweep_owed and not life.uid:
            return False
        if life.state == "idle" and life.outcome == "waiting":
            other = engine.blocker(entry)
            return bool(engine.hold) or (other is not None and other.life.state == "halted")
        return life.state == "idle" or (life.state == "halted" and not life.probing and life.cause != "disk")

    def ended(self) -> bool:
        """Whether every experiment is finished or cancelled, and nothing of it is left."""
        engine = self.engine
        return engine is not None and all(
            e.life.state == "idle" and e.life.outcome != "waiting" and not e.life.sweep_owed
            for e in engine.entries.values()
        )

    def conclude(self) -> list[str]:
        """Stop all faults, see to everything a person has to, and say what does not hold then."""
        self.calm()
        self.pass_time(max(0.0, self.timeline.awake_at - self.timeline.now))
        for _ in range(ROUNDS + sum(e.sweep.count for e in self.experiments)):
            if not self.pass_time(self.bound(), until=self.settled):
                self.say("it goes on and on")
                break
            found = self.problems(ended=False)
            if found:
                return found
            if self.ended() and not self.engine.hold:  # type: ignore[union-attr]
                break
            self.command("resume")
        return self.problems(ended=True)

    def calm(self) -> None:
        """From now on nothing goes wrong any more but what tests do by themselves."""
        self.say("calm")
        self.is_calm = True
        for name in Mischief.__slots__:
            setattr(self.mischief, name, 0.0)
        self.chances.dies = self.chances.commit_fails = self.chances.flaky = self.chances.unheard = 0.0
        self.crash_at.clear()
        self.chances.doubled = 0.0
        self.free = PLENTY
        self._outcomes = {uid: found for uid, found in self._outcomes.items() if found[0] != "wont-start"}
        for machine in self.machines.values():
            machine.mend()
        if self.engine is not None:
            self.engine.trust(())

    def bound(self) -> float:
        """Seconds within which everything ends when nothing goes wrong any more."""
        s = self.settings
        tests = sum(e.sweep.count * (e.policy.retries + 4) for e in self.experiments)
        secs = max((e.policy.buffer_secs for e in self.experiments), default=0) + 40
        once = s.patience_secs + s.backoff_cap_secs + s.probe_secs * 2 + s.boot_budget_secs * 2 + 4000 + ANEW_SECS
        return once + tests * (secs + s.boot_budget_secs + s.validation_secs + 30) + 7200

    # ------------------------------------------------------------ the daemon's process

    def boot(self) -> None:
        """Start the daemon with what was committed."""
        if self.timeline.asleep:
            self.timeline.at(self.timeline.awake_at, self.boot)
            return
        self._life += 1
        self.say(f"the daemon starts{' after a crash' if self._crashed else ''}")
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        self._db.deserialize(self._bytes)
        self.engine = engine = Engine(
            Notebook(self._db, self._before_commit, self._after_commit),
            self.settings,
            self.tools,
            self.timeline,
            self._minds,
            send=self._send,
            pins=PinBook(self.settings.known_hosts),
            answer=commands.answer,
            key_problem=lambda machine: "",
            space=lambda: Space(self.free),
            controller="rehearsal",
        )
        s = self.settings
        self._workers = SimWorkers(
            self.timeline,
            self.rng,
            self.machines,
            self.archives,
            Patience(s.validation_secs, s.boot_budget_secs, s.grace_secs),
            self.mischief,
            self.decide,
            self._poisonous,
            lambda: self.free > 0,
            self._before_start,
            lambda uid: self.record.append(Archived(uid, self.timeline.now)),
            engine.post,
        )
        engine.workers = self._workers
        self._guarded(self._begin)

    def _begin(self) -> None:
        assert self.engine is not None
        self.engine.load()
        self.engine.restart(crashed=self._crashed)
        self._crashed = False
        for file, data in list(self._queue):
            self._offer(file, data)
        self._decide()

    def _decide(self) -> None:
        """What the daemon's loop does."""
        engine = self.engine
        assert engine is not None
        if engine.next_time() <= self.timeline.monotonic():
            engine.tick()
        while not engine.inbox.empty():
            engine.handle(engine.inbox.get_nowait())
        if engine.stopping:
            self._workers.close()
            engine.store.commit([SaveMeta("stopped", repr(self.timeline.wall()))])
            raise Died("in order")

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Died as death:
            self._die(str(death))
        except StoreError as error:
            if MADE not in error.message:
                raise AssertionError(error.message) from error
            self._die("its memory could not be written")
        except RuntimeError as error:
            if MADE not in str(error):
                raise
            self._crashed = True
            self._die(str(error))

    def suspend(self, secs: float) -> None:
        """Suspend the controller: the daemon stands still, machines and the rest of the world do not."""
        if not self.timeline.asleep:
            self.timeline.suspend(secs, lambda: self._wake(secs))

    def _wake(self, secs: float) -> None:
        self.say("the controller wakes up")
        if self.engine is not None:
            self.record.append(Woke(secs, self.timeline.now))
            for file, data in list(self._queue):
                self._guarded(functools.partial(self._offer, file, data))

    def kill(self) -> None:
        """Kill the daemon now."""
        if self.engine is not None:
            self._die("killed")

    def stop(self) -> None:
        """Ask the daemon to end."""
        if self.engine is not None:
            self.engine.post(Stop())

    def _die(self, why: str) -> None:
        self.deaths += 1
        self.say(f"the daemon ends: {why}")
        self._drop()
        found = self.problems(ended=False)
        if found:
            raise AssertionError("\n".join(found))
        self.timeline.after(self.rng.uniform(0.1, 20.0), self.boot)

    def _drop(self) -> None:
        assert self.engine is not None
        self._known = {number: self._limits(entry) for number, entry in self.engine.entries.items()}
        self._workers.close()
        for entry in self.engine.entries.values():
            end(entry.life)
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._bytes = self._db.serialize()
        self._db.close()
        self._sending.clear()
        self.engine = None

    def _before_start(self, experiment: int, order: m.Order) -> None:
        self._point("before a start")
        self.record.append(Asked(experiment, order, self._life, self.timeline.now))
        if isinstance(order, m.Reboot | m.PowerCycle):
            rung = "power" if isinstance(order, m.PowerCycle) else order.rung or "policy"
            self.say(f"[{experiment}] restart of {', '.join(x.name for x in order.machines)}: {rung}")

    def _point(self, what: str) -> None:
        """A place where the daemon may die."""
        self.points += 1
        if self.points in self.crash_at or (self.chances.dies and self.rng.random() < self.chances.dies):
            raise Died(f"{what} (point {self.points})")

    def _before_commit(self) -> None:
        self._point("before a commit")
        if self.chances.commit_fails and self.rng.random() < self.chances.commit_fails:
            raise StoreError(f"no space left, {MADE}")

    def _after_commit(self, writes: Sequence[Write]) -> None:
        self.commits += 1
        for write in writes:
            match write:
                case SaveHistory():
                    about = f" {write.test}" if write.test else ""
                    note = f": {write.note}" if write.note else ""
                    self.say(f"[{write.experiment}]{about} {write.event}, {write.before} -> {write.after}{note}")
                    if write.before != write.after and self.when.get(write.after):
                        self.timeline.after(self.rng.choice((0.0, 0.01, 0.03, 1.0)), self.when[write.after].pop())
                case Happened(change=change):
                    self._note(write.experiment, change)
                case OutboxRow() if write.tries == 0:
                    self.say(f"to be told: {write.kind} {json.loads(write.facts).get('reason')}")
            if isinstance(write, Happened | OutboxRow | SaveHistory | SaveLife):
                self.record.append(Committed(self.commits, write, self.timeline.now))
        self._point("after a commit")

    def _note(self, experiment: int, change: m.Change) -> None:
        match change:
            case m.AttemptOpened():
                self._opened[change.uid] = (change.test, change.plan.duration_secs, self._used(experiment, change))
                self.say(f"[{experiment}] attempt {change.number} of {change.test} is {change.uid[:8]}")
            case m.AttemptClosed():
                result = change.result
                why = f" ({result.blame})" if result.blame else ""
                self.say(f"[{experiment}] attempt {change.number} of {change.test}: {result.end_status}{why}")
            case m.TestDecided():
                self.say(f"[{experiment}] {change.test} is {change.status}")

    def _used(self, experiment: int, opened: m.AttemptOpened) -> list[VirtualMachine]:
        assert self.engine is not None
        names = opened.plan.machines()
        machines = self.engine.entries[experiment].life.experiment.machines
        return [self.machines[one.ip, one.port] for one in machines if one.name in names]

    # ------------------------------------------------------------ machines and tests

    def _addresses(self) -> dict[tuple[str, int], str]:
        return {(one.ip, one.port): one.name for e in self.experiments for one in e.machines}

    def _machine(self, name: str) -> VirtualMachine:
        return VirtualMachine(name, self.timeline, self.rng, self.decide, self._did, WALL)

    def _did(self, machine: str, verb: str, uid: str, boot: str) -> None:
        self.record.append(Did(machine, verb, uid, boot, self.timeline.now))
        if verb != "probed":
            self.say(f"{machine} {verb} {uid[:8]}".rstrip())

    def part(self, one: VirtualMachine, other: VirtualMachine) -> None:
        """Let two machines not hear each other any more; the controller hears both."""
        one.parted.add(other.name)
        other.parted.add(one.name)
        for uid in {*one.alive()} & {*other.alive()}:
            self.spoil(uid, "no-data")

    def spoil(self, uid: str, status: str) -> None:
        """Let an attempt that runs end so where it would have succeeded."""
        would, secs = self._outcomes.get(uid, ("", 0.0))
        if would in KEPT:
            self._outcomes[uid] = (status, secs)

    @staticmethod
    def join(one: VirtualMachine, other: VirtualMachine) -> None:
        """Undo it."""
        one.parted.discard(other.name)
        other.parted.discard(one.name)

    def decide(self, uid: str) -> tuple[str, float]:
        """(end status, seconds) of an attempt: drawn once, when its first participant starts."""
        if uid not in self._outcomes:
            self._outcomes[uid] = self._drawn(*self._opened.get(uid, ("", 0, [])))
        return self._outcomes[uid]

    def _drawn(self, test: str, duration: int, machines: Sequence[VirtualMachine]) -> tuple[str, float]:
        names = {machine.name for machine in machines}
        if any(machine.parted & names for machine in machines):
            return "no-match", 1e9
        status = self._bad.get(test)
        if status is None:
            bad = self.rng.random() < self.chances.bad_tests
            status = self._bad[test] = self.rng.choice(BAD_STATUSES) if bad else ""
        if not status and self.rng.random() < self.chances.flaky:
            status = self.rng.choice((*BAD_STATUSES, *BAD_STATUSES, "no-summary", "invalid", "wont-start"))
        whole = duration + self.rng.uniform(0.0, 1.5)
        if status == "timeout":
            return status, 1e9
        if status in ("crashed", "early-exit", "wont-start"):
            return status, self.rng.uniform(0.1, duration)
        return status or "success", whole

    def _poisonous(self, test: str) -> bool:
        if test not in self._poison:
            self._poison[test] = self.rng.random() < self.chances.poisonous
        return self._poison[test]

    # ------------------------------------------------------------ people

    def drop(self, file: str, data: bytes) -> None:
        """Drop a file into the queue; it is offered until the daemon has answered."""
        self._queue.append((file, data))
        if self.engine is not None and not self.timeline.asleep:
            self._guarded(lambda: self._offer(file, data))

    def _offer(self, file: str, data: bytes) -> None:
        if self.engine is None:
            return
        documents = parse(decode(data, file), file)["experiments"]
        for experiment in read_experiments(data, file, self.tools, self.settings.power):
            least, most = self.retries.get(experiment.name, (99, 0))
            retries = experiment.policy.retries
            self.retries[experiment.name] = (min(least, retries), max(most, retries))
            buffer = experiment.policy.buffer_secs
            self.buffers[experiment.name] = min(self.buffers.get(experiment.name, buffer), buffer)

        def answered(answer: tuple[Problem, ...] | AutoperfError) -> None:
            self.say(f"{file}: {answer if isinstance(answer, AutoperfError) else 'rejected' if answer else 'accepted'}")
            if not isinstance(answer, AutoperfError) and (file, data) in self._queue:
                self._queue.remove((file, data))

        texts = tuple(json.dumps(document) for document in documents)
        self.engine.handle(Offer(file, data, texts, 1000, tuple([] for _ in texts), answered))

    def command(self, name: str, **args: Any) -> Reply | None:
        """What `autoperfctl` asks for somebody; None when the daemon is down, or dies of it."""
        about = " ".join(str(value) for value in args.values())
        reply = self._ask(name, args, about)
        if reply is not None and self.chances.doubled and self.rng.random() < self.chances.doubled:
            before = self._lives()
            self._ask(name, args, f"{about} again")
            if self.engine is not None:
                self.record.append(Twice(f"{name} {about}", before, self._lives()))
        return reply

    def command_of(self, who: str, name: str, **args: Any) -> Reply | None:
        """The same for somebody of that name."""
        return self._ask(name, args, " ".join(str(value) for value in args.values()), who)

    def _ask(self, name: str, args: Mapping[str, Any], about: str, who: str = "ann") -> Reply | None:
        if self.engine is None or self.timeline.asleep:
            self.say(f"{who}: {name} {about}: the daemon does not answer")
            return None
        question = Question(name, args, Who(1000, 1000, 1, who))
        engine = self.engine
        self._guarded(lambda: engine.handle(question))
        if self.engine is None:
            return None
        reply = question.wait(0.0)
        if name not in ("status", "list", "show"):
            self.say(f"{who}: {name} {about}: {'done' if reply.ok else reply.error}")
        return reply

    def _lives(self) -> tuple[str, ...]:
        assert self.engine is not None
        return tuple(f"{e.life.to_json()} {list(e.life.requeued)}" for e in self.engine.entries.values())

    def _send(self, message: notify.Message) -> None:
        if message.id in self._sending:
            return
        self._sending.add(message.id)
        life = self._life

        def tried() -> None:
            unheard = self.rng.random() < self.chances.unheard
            outcome = notify.Outcome("failed", "nobody listens") if unheard else self.receiver(message)
            self.tried.append((self.timeline.now, message.id, outcome.result))
            if outcome.result == "sent":
                self.say(f"told {message.id[:8]}")
            if self.engine is not None and life == self._life:  # else the one who sent it is gone
                self._sending.discard(message.id)
                self.engine.post(Delivered(message, outcome))

        self.timeline.after(self.rng.uniform(0.05, 5.0), tried)

    def undecided(self, experiment: int) -> list[str]:
        """Names of the tests that have no verdict yet."""
        assert self.engine is not None
        life = self.engine.entries[experiment].life
        names = [life.sweep.name_at(at) for at in range(life.sweep.count)]
        return [name for name in names if not (self.engine.store.test_status(experiment, name) or ("",))[0]]

    def failed(self, experiment: int) -> list[str]:
        """Names of the tests that were given up or skipped, and of successes whose archive is lost."""
        assert self.engine is not None
        life = self.engine.entries[experiment].life
        folder = self.engine.entries[experiment].row.folder
        found = []
        for at in range(life.sweep.count):
            name = life.sweep.name_at(at)
            status = (self.engine.store.test_status(experiment, name) or ("",))[0]
            rows = [row for row in self.engine.store.attempts(experiment, name) if row.status in KEPT]
            lost = bool(rows) and (folder, rows[-1].archive) not in self.archives
            if status and (status not in KEPT or lost):
                found.append(name)
        return found


def _fields(settings: DaemonSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def _switches(files: Sequence[bytes]) -> dict[str, PowerSwitch]:
    """Every power switch that experiment files name, as if `autoperfd.toml` knew it."""
    found: dict[str, PowerSwitch] = {}
    for file in files:
        experiments = parse(decode(file, "file"), "file").get("experiments")
        for experiment in experiments if isinstance(experiments, list) else ():
            machines = experiment.get("slave_machines") if isinstance(experiment, dict) else None
            for machine in machines if isinstance(machines, list) else ():
                name = machine.get("power_cycle") if isinstance(machine, dict) else None
                if isinstance(name, str) and name:
                    found[name] = PowerSwitch(name, command=("/bin/true",))
    return found
