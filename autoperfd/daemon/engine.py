"""The engine: one thread, one sentence. Take an event, advance (pure), commit (one transaction), then start the work.

It owns the memory, the exports and every Life. Nothing acts before it is durable; a commit that fails raises
StoreError, which ends the process. Time, randomness, workers and sender are passed in.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from autoperfd.core import messages as m
from autoperfd.core.config import Experiment, continued, read_document, recalled, why_another
from autoperfd.core.lifecycle import Life, Step, Tuning, advance, begin, end
from autoperfd.core.names import KEYS
from autoperfd.core.plan import Machine, Tool
from autoperfd.core.policy import KEPT
from autoperfd.core.settings import DaemonSettings
from autoperfd.core.text import coded
from autoperfd.daemon import files, notify, store
from autoperfd.daemon.control import Question
from autoperfd.daemon.exports import Exports
from autoperfd.daemon.gist import Gist
from autoperfd.daemon.pins import PinBook
from autoperfd.daemon.space import FEW_INODES, Reserve, Space
from autoperfd.daemon.store import (
    AttemptRow,
    ExperimentRow,
    Happened,
    OutboxRow,
    PinRow,
    SaveExport,
    SaveHistory,
    SaveLife,
    SaveMeta,
    Store,
)
from autoperfd.daemon.work import Answer, Clock, Crash
from autoperfd.errors import AutoperfError, ConfigError, DiskError, Problem, Refused, StoreError
from autoperfd.tools.judging import FIGURES

log = logging.getLogger(__name__)

HOUSEKEEPING_SECS = 5.0
ASLEEP_SECS = 5.0  # a controller that slept this long looks at everything anew


class Work(Protocol):
    """What the engine needs of the workers; a rehearsal passes in its own."""

    def start(self, experiment: int, ticket: int, order: m.Order, folder: Path, tool: str) -> None: ...
    def cancel(self, experiment: int) -> None: ...
    def done(self, experiment: int, ticket: int) -> None: ...
    def next_overdue(self) -> float | None: ...
    def give_up_overdue(self) -> list[Answer]: ...


@dataclass(frozen=True, slots=True)
class Offer:
    """A file of the queue: what it says, and where the verdict goes. `documents`: one JSON text an experiment."""

    file: str
    data: bytes
    documents: tuple[str, ...]
    owner: int
    histories: tuple[list[AttemptRow], ...]  # an experiment each: what an unknown results folder tells
    answer: Callable[[tuple[Problem, ...] | AutoperfError], None]  # after the commit: () accepted; error: ask again


@dataclass(frozen=True, slots=True)
class Rejected:
    """A file of the queue was rejected before it reached the engine."""

    file: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one try to send a message came to."""

    message: notify.Message
    outcome: notify.Outcome


@dataclass(frozen=True, slots=True)
class Stop:
    """The daemon is asked to end; attempts on machines live on."""


Message = Answer | Crash | Offer | Rejected | Delivered | Stop | Question


@dataclass(slots=True)
class Intake:
    """What became of a file of the queue."""

    file: str
    accepted: bool
    sentence: str
    wall: float
    experiments: tuple[str, ...] = ()


@dataclass(slots=True)
class Entry:
    """One experiment: its life and what stands around it."""

    row: ExperimentRow
    life: Life
    exports: Exports
    export_state: str = ""  # to be kept with the next commit
    host_keys: dict[str, str] = field(default_factory=dict)  # machine -> fingerprint, from the latest validation
    seen: dict[str, float] = field(default_factory=dict)  # machine -> wall of its latest answer
    trouble: dict[str, str] = field(default_factory=dict)
    gist: Gist = field(init=False)

    def __post_init__(self) -> None:
        self.gist = Gist(self.row.id)


class Engine:
    """Decides everything. All methods are for one thread, but `post`."""

    def __init__(
        self,
        memory: Store,
        settings: DaemonSettings,
        tools: Mapping[str, Tool],
        clock: Clock,
        rng: random.Random,
        *,
        send: Callable[[notify.Message], None] | None,
        pins: PinBook,
        answer: Callable[[Engine, Question], None],
        key_problem: Callable[[Machine], str],
        space: Callable[[], Space] = lambda: Space(1 << 62),
        reserve: Reserve | None = None,
        controller: str = "",
    ) -> None:
        self.store, self.settings, self.tools, self.clock, self.rng = memory, settings, tools, clock, rng
        self.pins, self.controller = pins, controller
        self.entries: dict[int, Entry] = {}
        self.hold = ""  # why nothing starts; "" for no hold
        self.digested = ""  # the mark of the latest summary when this process began, see daemon/digest.py
        self.intake: list[Intake] = []  # newest first, a few
        self.attention: list[str] = []
        self.warnings: Callable[[], list[str]] = list  # what is good to know of the process and its disk
        self.trouble: Callable[[], str] = lambda: ""  # what keeps files from being taken in
        self.stopping = False
        self.changed = True  # something a person may see changed
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.workers: Work
        self._send, self._answer, self._key_problem = send, answer, key_problem
        self.space, self._reserve = space, reserve
        self._asleep = clock.suspended()
        self._outbox: dict[str, OutboxRow] = {}
        self._sending: set[str] = set()  # messages handed to the sender that it has not told the outcome of
        self._housekeeping_at = 0.0
        self.since = clock.wall()

    # ------------------------------------------------------------ start and loop

    def post(self, message: Message) -> None:
        """Hand a message to the engine; from any thread."""
        self.inbox.put(message)

    def load(self) -> None:
        """Take up what the memory holds. Raises StoreError."""
        loaded = self.store.load()
        self.hold = loaded.meta.get("hold", "")
        self.digested = loaded.meta.get("digest", "")
        self._outbox = {row.id: row for row in loaded.outbox}
        for row in loaded.experiments:
            life = self._life(row)
            life.restore(loaded.lives[row.id])
            life.requeued.extend(loaded.requeued.get(row.id, ()))
            life.decided_ahead.update(self.store.decided_from(row.id, life.cursor))
            life.decided_ahead.update(r.test for r in life.requeued if life.is_ahead(r.test))
            if life.index >= life.cursor:
                life.decided_ahead.add(life.test)
            open_attempt = loaded.open_attempts.get(row.id)
            if open_attempt is not None:
                life.plan = store.plan_of(open_attempt)
                life.facts = json.loads(open_attempt.facts)
            entry = Entry(row, life, self._exports(row, life, loaded.exports.get(row.id, "")))
            entry.gist.recall(self.store)
            self.entries[row.id] = entry

    def restart(self, *, crashed: bool) -> None:
        """Let every experiment live on; a restart is an event like any other."""
        for entry in list(self.entries.values()):
            self._export(entry)
            self.happen(entry, m.Restarted(crashed=crashed))
        self.schedule()

    def handle(self, message: Message) -> None:
        """Let one message take effect."""
        match message:
            case Answer():
                self._answered(message)
            case Offer():
                self._offered(message)
            case Rejected(file, sentence):
                self._rejected(file, sentence)
            case Delivered():
                self._delivered(message)
            case Crash(error):
                raise error
            case Stop():
                self.stopping = True
            case _:
                if message.take():
                    self._answer(self, message)

    def next_time(self) -> float:
        """Monotonic time at which `tick` wants to be called even if no message comes."""
        times = [self._housekeeping_at]
        overdue = self.workers.next_overdue()
        if overdue is not None:
            times.append(overdue)
        return min(times)

    def tick(self) -> None:
        """Whatever the time alone brings: overdue work, messages that are due."""
        now = self.clock.monotonic()
        self._look_for_sleep()
        for answer in self.workers.give_up_overdue():
            self._answered(answer)
        if now >= self._housekeeping_at:
            self._housekeeping_at = now + HOUSEKEEPING_SECS
            self._send_due()
            self._look_for_room()

    def _look_for_sleep(self) -> None:
        """After a suspend of the controller nothing that was under way is trusted: it is asked for again."""
        asleep = self.clock.suspended()
        slept, self._asleep = asleep - self._asleep, asleep
        if slept >= ASLEEP_SECS:
            log.warning("the controller was suspended for %.0f s; everything is looked at anew", slept)
            for entry in list(self.entries.values()):
                self.happen(entry, m.Restarted())

    # ------------------------------------------------------------ the one way forward

    def happen(self, entry: Entry, event: m.Event, extra: Sequence[store.Write] = ()) -> Step:
        """Advance one experiment by one event, commit, export, then start the work its state asks for."""
        life = entry.life
        test = life.test
        event = replace(event, wall=self.clock.wall(), now=self.clock.monotonic())
        life.draw = self.rng.random()
        if isinstance(event, m.LowDisk) and self._reserve is not None:
            self._reserve.give_up()  # what follows must be written down
        if isinstance(event, m.Resume):
            with contextlib.suppress(DiskError):  # a results folder that is gone is begun anew; no room will be told
                files.make_folder(self.results / entry.row.folder)
        step = advance(life, event)
        if not step.taken:
            log.debug("%s: %s means nothing in %s", entry.row.name, step.event, step.before)
            return step
        self._commit(entry, event, step, test or life.test, extra)
        if any(isinstance(c, m.AttemptOpened | m.AttemptClosed | m.TestDecided) for c in step.changes):
            self._export(entry)
        entry.gist.note(event, step, self.store)
        if step.replaces_work:
            self.workers.cancel(life.id)
            if step.order is not None:
                folder = self.results / entry.row.folder
                self.workers.start(life.id, life.ticket, step.order, folder, life.experiment.tool)
        self._log_step(entry, test or life.test, event, step)
        self.changed = True
        if step.reschedule:
            self.schedule()
        return step

    def _commit(self, entry: Entry, event: m.Event, step: Step, test: str, extra: Sequence[store.Write]) -> None:
        life = entry.life
        outgoing: list[OutboxRow] = []
        for change in step.changes:
            if isinstance(change, m.Notice):
                outgoing += self._notice(entry, change, event.wall)
        writes: list[store.Write] = [*extra, SaveLife(life.id, life.to_json())]
        writes += [Happened(life.id, change) for change in step.changes if not isinstance(change, m.Notice)]
        writes.append(SaveHistory(event.wall, life.id, test, step.event, step.before, step.after, _note(event, step)))
        for other, what, sentence in step.asides:
            writes.append(SaveHistory(event.wall, life.id, other, what, step.before, step.after, sentence))
        if entry.export_state:
            writes.append(SaveExport(life.id, entry.export_state))
            entry.export_state = ""
        self.store.commit([*writes, *outgoing])
        self._queue(outgoing)

    def schedule(self) -> None:
        """Start the experiments whose machines and network are free, in the order they came."""
        if self.hold or self.stopping:
            return
        for entry in list(self.entries.values()):
            life = entry.life
            if life.state == "idle" and life.outcome == "waiting" and self.blocker(entry) is None:
                self.happen(entry, m.Scheduled())

    def blocker(self, entry: Entry) -> Entry | None:
        """The experiment that keeps this one from starting: it holds a machine or the network of it."""
        mine = {(machine.ip, machine.port) for machine in entry.life.experiment.machines}
        policy = entry.life.experiment.policy
        for other in self.entries.values():
            if other is entry or not other.life.holds_machines():
                continue
            theirs = other.life.experiment
            same_network = theirs.policy.network == policy.network
            shared = theirs.policy.share_network and policy.share_network
            if mine & {(machine.ip, machine.port) for machine in theirs.machines}:
                return other
            if same_network and not shared and other.life.state != "idle":
                return other
        return None

    # ------------------------------------------------------------ answers of workers

    def _answered(self, answer: Answer) -> None:
        self._look_for_sleep()  # makes the tickets of what was under way old ones
        entry = self.entries.get(answer.experiment)
        if entry is None or answer.ticket != entry.life.ticket:
            return
        event = answer.event
        if isinstance(event, m.Validated):
            event = self._prepared(entry, event)
        self._note_machines(entry, event)
        if not isinstance(event, m.Started):
            self.workers.done(answer.experiment, answer.ticket)
        self.happen(entry, event)

    def _prepared(self, entry: Entry, event: m.Validated) -> m.Event:
        """Give the attempt that may open now its uid and domain, unless another experiment uses a machine of it."""
        entry.host_keys = {name: facts.get("host_key", "") for name, facts in event.facts.items()}
        for other in self.entries.values():
            if other is entry or not other.life.holds_machines():
                continue
            taken = {key: name for name, key in other.host_keys.items() if key}
            for name, key in entry.host_keys.items():
                if key in taken:
                    reason = f"{name} is the same computer as {taken[key]} of {other.row.name}, which uses it now"
                    return m.Unreachable(machine=name, reason=reason, code="MACHINE_TAKEN")
        low = None if entry.life.uid else self._low_disk(entry)
        if low is not None:
            return low
        uid = f"{self.rng.getrandbits(128):032x}"
        return replace(event, uid=uid, domain=self._domain(entry.life))

    def _low_disk(self, entry: Entry) -> m.LowDisk | None:
        """Why the disk cannot take another attempt of an experiment, or None."""
        space, needed = self.space(), self._needed(entry)
        where = self.settings.state
        if space.free < needed:
            reason = f"only {space.free >> 20} MB are free in {where}, the next attempt may need {needed >> 20} MB"
            return m.LowDisk(reason=reason)
        if space.inodes is not None and space.inodes < FEW_INODES:
            reason = f"only {space.inodes} more files (inodes) fit in {where}, {FEW_INODES} are the reserve"
            return m.LowDisk(reason=reason, code="INODES_FULL")
        folder = self.results / entry.row.folder
        if not folder.is_dir():
            reason = f"the results folder {folder} is gone; put it back, or resume and it is begun anew"
            return m.LowDisk(reason=reason, code="RESULTS_MISSING")
        return None

    def _needed(self, entry: Entry) -> int:
        """Bytes that must be free before an attempt: the reserve, and twice what the largest one has taken so far."""
        return (self.settings.disk_reserve_mb << 20) + 2 * entry.life.largest

    def _look_for_room(self) -> None:
        """Let experiments that were halted for the disk go on when there is clearly room again."""
        short = [e for e in self.entries.values() if e.life.state == "halted" and e.life.cause == "disk"]
        if not short:
            return
        space = self.space()
        for entry in short:
            roomy = space.inodes is None or space.inodes >= 2 * FEW_INODES
            if roomy and space.files and space.free >= 2 * self._needed(entry):
                if self._reserve is not None:
                    self._reserve.keep()
                self.happen(entry, m.Room())

    def _domain(self, life: Life) -> int:
        """A DDS domain that no running attempt has, nor this experiment's attempt before."""
        taken = {entry.life.domain for entry in self.entries.values() if entry.life.uid} | {life.domain}
        first, last = self.settings.domain_first, self.settings.domain_last
        free = [domain for domain in range(first, last + 1) if domain not in taken]
        return self.rng.choice(free) if free else first

    def _note_machines(self, entry: Entry, event: m.Event) -> None:
        match event:
            case m.Validated() | m.Rebooted():
                for name in event.boot_ids:
                    entry.seen[name] = self.clock.wall()
                entry.trouble.clear()
            case m.Unreachable():
                entry.trouble.update(event.ill)
                entry.trouble[event.machine] = coded(event.code, event.reason)
            case m.Impossible():
                entry.trouble[event.machine] = coded(event.code, event.reason)

    # ------------------------------------------------------------ files of the queue

    def _offered(self, offer: Offer) -> None:
        problems: list[Problem] = []
        accepted: list[tuple[Experiment, str, Entry | None, list[AttemptRow]]] = []
        for document, history in zip(offer.documents, offer.histories, strict=True):
            experiment = self._read(document, offer.file)
            known = next((e for e in self.entries.values() if e.row.name == experiment.name), None)
            problems += self._objections(offer.file, experiment, known)
            accepted.append((experiment, document, known, history))
        if problems:
            error = ConfigError(problems)
            self._rejected(offer.file, str(error))
            offer.answer(tuple(problems))
            return
        try:
            for experiment, document, known, history in accepted:
                if known is None:
                    self._accept(experiment, document, offer, history)
                else:
                    self._redrop(known, experiment, document)
        except DiskError as error:
            offer.answer(error)
            return
        names = tuple(experiment.name for experiment, *_ in accepted)
        sentence = "; ".join(["accepted", *(warning for e, *_ in accepted for warning in e.warnings)])
        self._note_intake(Intake(offer.file, True, sentence, self.clock.wall(), names))
        offer.answer(())
        self.schedule()

    def _objections(self, file: str, experiment: Experiment, known: Entry | None) -> list[Problem]:
        """What only the daemon can object to: another experiment of that name, keys it cannot read."""
        problems = []
        if known is not None:
            why = why_another(known.life.experiment, experiment)
            if not why and known.life.holds_machines() and known.life.experiment.machines != experiment.machines:
                why = "its machines may change only while it is idle: halt it first"
            if why:
                problems.append(Problem(file, 0, "experiment_name", experiment.name, "the same experiment", why))
        for machine in experiment.machines:
            why = self._key_problem(machine)
            if why:
                key = f"{experiment.name}: {machine.name}.ssh_key_path"
                problems.append(Problem(file, 0, key, machine.ssh_key_path, "a key the daemon can read", why))
        return problems

    def _accept(self, experiment: Experiment, document: str, offer: Offer, told: list[AttemptRow]) -> None:
        number = max(self.entries, default=0) + 1
        taken = {entry.row.folder for entry in self.entries.values()}
        folder, count = experiment.folder, 1
        while folder in taken:
            count += 1
            folder = f"{experiment.folder}-{count}"
        seed = experiment.sweep.seed
        if experiment.sweep.shuffled and seed is None:
            seed = self.rng.getrandbits(62)
        row = ExperimentRow(
            id=number,
            name=experiment.name,
            folder=folder,
            identity=experiment.identity,
            document=json.dumps([document, document]),
            seed=seed,
            owner=offer.owner,
            accepted=self.clock.wall(),
        )
        files.make_folder(self.results / folder)
        files.replace(self.results / folder / "experiment.toml", offer.data)
        life = self._life(row)
        note = f"from {offer.file}"
        resuming = experiment.policy.resuming_test_name
        if resuming:
            life.cursor = life.sweep.index_of(resuming) or 0
            note += f"; starts at {resuming}, the {life.cursor} tests before it are not run"
        history = SaveHistory(row.accepted, number, "", "accepted", "", "idle", note)
        writes: list[store.Write] = [replace(attempt, experiment=number) for attempt in told]
        for test, attempts in _decided(told).items():
            index, last = life.sweep.index_of(test), attempts[-1]
            if index is None or (index < life.cursor and last.status not in KEPT):
                continue  # none of its tests, or one before the first to be run
            if index >= life.cursor:
                life.decided_ahead.add(test)
            if last.status in KEPT:
                life.succeeded += 1
                change: m.Change = m.TestDecided(
                    test=test, index=index, status=last.status, attempts=last.number, wall=row.accepted
                )
            else:
                # It is tried again, under numbers that are not taken.
                change = m.Requeued(test=test, number=max(a.number for a in attempts), charged=0, first=False)
                life.requeued.append(change)
            writes.append(Happened(number, change))
        life.attempts = len(told)
        if not life.has_next():
            life.outcome = "finished"
        self.store.commit([row, SaveLife(number, life.to_json()), history, *writes])
        self.entries[number] = entry = Entry(row, life, self._exports(row, life, ""))
        self._export(entry)
        self.changed = True

    def _redrop(self, entry: Entry, experiment: Experiment, document: str) -> None:
        first = json.loads(entry.row.document)[0]
        entry.row = replace(entry.row, document=json.dumps([first, document]))
        life = entry.life
        life.experiment = continued(life.experiment, experiment)
        life.sweep = (
            life.experiment.sweep.seeded(entry.row.seed) if entry.row.seed is not None else life.experiment.sweep
        )
        self.happen(entry, m.Redropped(), [entry.row])

    def _rejected(self, file: str, sentence: str) -> None:
        wall = self.clock.wall()
        self._note_intake(Intake(file, False, sentence, wall))
        facts: dict[str, str | int | float] = {"file": file, "reason": sentence, "incident": 0}
        outgoing = self._outgoing("rejection", facts, wall, self.settings.webhook_on)
        if outgoing:
            self.store.commit(outgoing)
            self._queue(outgoing)

    def _note_intake(self, intake: Intake) -> None:
        self.intake = [intake, *self.intake[:49]]
        self.changed = True

    # ------------------------------------------------------------ telling people

    def _notice(self, entry: Entry, notice: m.Notice, wall: float) -> list[OutboxRow]:
        """The message of a notice. What stops several experiments at once is told by the first of them."""
        life = entry.life
        wanted = life.experiment.policy.notify
        rows = self._outgoing(notice.kind, notice.facts, wall, self.settings.webhook_on if wanted is None else wanted)
        if notice.kind == "halt":
            life.quiet = bool(notice.facts.get("everyone")) and any(
                other.life.outage_told and _met(other.life) == _met(life)
                for other in self.entries.values()
                if other is not entry
            )
            life.outage_told = bool(notice.facts.get("everyone")) and not life.quiet
        quiet = life.quiet if notice.kind == "halt" else notice.kind == "over" and bool(notice.facts.get("quiet"))
        if quiet:
            return [replace(row, state="merged", why="told by another experiment's message") for row in rows]
        return rows

    def _outgoing(self, kind: str, facts: Mapping[str, Any], wall: float, wanted: Sequence[str]) -> list[OutboxRow]:
        if self._send is None or kind not in ("halt", "over", *wanted):
            return []
        told = {
            "controller": self.controller,
            "experiment": facts.get("experiment", ""),
            "sentence": facts.get("reason", ""),
            "at": wall,
            **{key: value for key, value in facts.items() if key != "quiet"},
        }
        number = f"{self.rng.getrandbits(96):024x}"
        text = json.dumps(told)
        row = OutboxRow(id=number, created=wall, kind=kind, facts=text, tries=0, next_at=wall, state="waiting", why="")
        return [row]

    def tell(self, kind: str, facts: Mapping[str, Any] | None, *more: store.Write) -> None:
        """Tell people (None: nothing) of what is no experiment's, and write `more` in the same transaction."""
        outgoing = [] if facts is None else self._outgoing(kind, facts, self.clock.wall(), (kind,))
        self.store.commit([*more, *outgoing])
        self._queue(outgoing)

    def _queue(self, rows: Sequence[OutboxRow]) -> None:
        for row in rows:
            if row.state == "waiting":
                self._outbox[row.id] = row
        if rows:
            self._send_due()

    def _send_due(self) -> None:
        if self._send is None:
            return
        wall = self.clock.wall()
        for row in self._outbox.values():
            if row.id in self._sending:
                continue
            if row.next_at <= wall or row.next_at > wall + 86400:  # a clock that was set back delays nothing
                self._sending.add(row.id)
                self._send(notify.Message(row.id, row.kind, json.loads(row.facts), row.created, row.tries))

    def _delivered(self, delivered: Delivered) -> None:
        self._sending.discard(delivered.message.id)
        row = self._outbox.get(delivered.message.id)
        if row is None:
            return
        outcome = delivered.outcome
        tries = row.tries + 1
        if outcome.result == "sent":
            row = replace(row, tries=tries, state="sent", why="")
        else:
            at = None
            if outcome.result == "failed":
                wall = self.clock.wall()
                at = notify.next_try(tries, row.created, wall, outcome.retry_after, self.rng.random)
            if at is None:
                row = replace(row, tries=tries, state="dead", why=outcome.why)
                self.attention.append(f"a {row.kind} message could not be delivered: {outcome.why}")
            else:
                row = replace(row, tries=tries, next_at=at, why=outcome.why)
        self.store.commit([row])
        if row.state == "waiting":
            self._outbox[row.id] = row
        else:
            del self._outbox[row.id]
        self.changed = True

    def waiting(self) -> int:
        """How many messages are neither delivered nor given up."""
        return len(self._outbox)

    def undelivered(self) -> list[OutboxRow]:
        """Messages that were tried and are not delivered yet."""
        return [row for row in self._outbox.values() if row.tries]

    # ------------------------------------------------------------ holds and commands' needs

    def set_hold(self, sentence: str) -> None:
        """Hold everything, new files included, or ("") let everything go on."""
        self.store.commit([SaveMeta("hold", sentence)])
        self.hold = sentence
        self.changed = True

    def trust(self, rows: Sequence[PinRow]) -> None:
        """Trust exactly these host keys of their addresses from now on."""
        gone = [store.ForgetPins(host, port) for host, port in {(row.host, row.port) for row in rows}]
        self.store.commit([*gone, *rows])
        for host, port in {(row.host, row.port) for row in rows}:
            self.pins.replace(host, port, [row for row in rows if (row.host, row.port) == (host, port)])
        for entry in list(self.entries.values()):
            if entry.life.state == "halted" and entry.life.probing:
                self.probe_now(entry)

    def probe_now(self, entry: Entry) -> None:
        """Ask for the state's work afresh: a person may have mended what a slow probe would find late."""
        folder = self.results / entry.row.folder
        order = entry.life.sweep_if_owed_or_probe()
        if isinstance(order, m.SlowProbe):
            order = replace(order, secs=min(order.secs, 1.0))
        if order is not None:
            self.workers.start(entry.life.id, entry.life.ticket, order, folder, entry.life.experiment.tool)

    def find(self, name: str) -> Entry:
        """The experiment of that name or results folder. Raises Refused."""
        for entry in self.entries.values():
            if name in (entry.row.name, entry.row.folder):
                return entry
        known = ", ".join(entry.row.name for entry in self.entries.values()) or "none"
        raise Refused(f"there is no experiment {name!r}", hint=f"Known are: {known}")

    # ------------------------------------------------------------ parts

    @property
    def results(self) -> Path:
        """Where the results folders lie."""
        return self.settings.state / "results"

    def _read(self, document: str, file: str) -> Experiment:
        raw = json.loads(document)
        (experiment,) = read_document({"experiments": [raw]}, "", file, self.tools, self.settings.power, accepted=True)
        return experiment

    def _life(self, row: ExperimentRow) -> Life:
        try:
            experiment, sweep = recalled(row.document, row.name, row.seed, self.tools, self.settings.power)
        except ConfigError as error:
            raise StoreError(f"the experiment {row.name} of the memory is not understood: {error}") from error
        experiment = replace(experiment, folder=row.folder)
        s = self.settings
        tuning = Tuning(
            patience_secs=s.patience_secs,
            restart_after_secs=s.restart_after_secs,
            grace_secs=s.grace_secs,
            backoff_first_secs=s.backoff_first_secs,
            backoff_cap_secs=s.backoff_cap_secs,
            probe_secs=s.probe_secs,
            auto_resume=s.auto_resume,
        )
        life = Life(row.id, experiment, sweep, self.tools[experiment.tool], tuning)
        begin(life)
        return life

    def forget(self, entry: Entry) -> None:
        """Drop an experiment from this process (not from the memory)."""
        end(entry.life)
        del self.entries[entry.row.id]

    def _exports(self, row: ExperimentRow, life: Life, state: str) -> Exports:
        listed = life.experiment.generation == "listed"
        keys = tuple(key.name for key in KEYS) if listed else tuple(life.sweep.at(0))
        return Exports(
            self.results / row.folder,
            keys,
            FIGURES,
            lambda place: self.store.closed_after(row.id, place),
            state,
        )

    def rebuild(self, entry: Entry) -> None:
        """Write an experiment's spreadsheets anew from the memory. Raises DiskError."""
        life = entry.life
        running = self.store.attempt(life.id, life.test, life.number) if life.uid else None
        entry.export_state = entry.exports.update(running, anew=True)
        self._tell_of_copies(entry)

    def _export(self, entry: Entry) -> None:
        life = entry.life
        running = self.store.attempt(life.id, life.test, life.number) if life.uid else None
        if not (self.results / entry.row.folder).is_dir():
            return  # somebody took it away: the next attempt does not start; making it again would hide that
        try:
            entry.export_state = entry.exports.update(running)
        except DiskError as error:
            self.attention = [*self.attention[-9:], error.sentence()]
            log.error("%s", error.sentence())
        self._tell_of_copies(entry)

    def _tell_of_copies(self, entry: Entry) -> None:
        for name in entry.exports.taken_aside():
            self.attention = [*self.attention[-9:], f"{entry.row.name}: an edited copy was kept as {name}"]

    def _log_step(self, entry: Entry, test: str, event: m.Event, step: Step) -> None:
        about = f" {test}" if test else ""
        reason = _note(event, step)
        tail = f": {reason}" if reason else ""
        log.info("%s:%s %s, %s -> %s%s", entry.row.name, about, step.event, step.before, step.after, tail)


def _note(event: m.Event, step: Step) -> str:
    """What the history says of a step."""
    told = event.result if isinstance(event, m.Failed | m.Succeeded) else event
    reason = step.note or getattr(told, "reason", "")
    who = getattr(event, "who", "")
    if not reason and who and not step.asides:  # else it is about other tests, whose lines say it
        reason = f"by {who}"
    return coded(step.code or getattr(told, "code", ""), reason)


def _met(life: Life) -> tuple[str, str]:
    """What halted it that others may have met, too: the network, or a lack of the controller's."""
    return life.cause, "" if life.cause == "machine" else life.code


def _decided(rows: Sequence[AttemptRow]) -> dict[str, list[AttemptRow]]:
    """Imported attempts by test, the one that counts last."""
    tests: dict[str, list[AttemptRow]] = {}
    for row in sorted(rows, key=lambda row: (row.status in KEPT, row.number)):
        tests.setdefault(row.test, []).append(row)
    return tests
