"""Does the work of orders on virtual machines, in the steps of the real workers and the real remote part.

The engine cannot tell it from the real one: one order an experiment, one answer with its ticket, cancelled work
answers nothing, attempts outlive it. What the machines were told before the end still arrives there.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from autoperfd.core import messages as m
from autoperfd.core.guards import Guards, violations
from autoperfd.core.plan import Machine, Verdict
from autoperfd.core.policy import CANNOT_WRITE, KEPT, Examined, blamed, result_of
from autoperfd.daemon.work import ENDLESS, Answer, Crash, Underway, bound, stuck
from autoperfd.errors import (
    AutoperfError,
    FetchFailed,
    HalfStarted,
    MachineAway,
    MachineError,
    MachineImpossible,
    MachineTaken,
    StartFailed,
)
from autoperfd.rehearsal.machines import DULL, STARTED, Found, Link, VirtualMachine
from autoperfd.rehearsal.timeline import Process, Timeline, Work

EXAMINED_SECS = 4.0  # how long a machine is waited for when it is examined
OUTRANK = ("rebooted", "machine-lost")  # what is worse than a disturbance
GRAVITY = (MachineImpossible, MachineTaken, StartFailed, FetchFailed, MachineAway, MachineError)
PROBE = 'Option "-outputFile" is known here'  # what the executable says of itself
Value = TypeVar("Value")


@dataclass(slots=True)
class Patience:
    """The daemon's settings that its workers know, in seconds."""

    validation_secs: float
    boot_budget_secs: float
    grace_secs: float


@dataclass(slots=True)
class Mischief:
    """What goes wrong in the controller's own work, as probabilities; all 0 when faults are over."""

    doubled: float = 0.0  # an answer comes twice
    late: float = 0.0  # an answer is on its way for long
    hangs: float = 0.0  # work never answers
    bugs: float = 0.0  # a worker meets an error nobody foresaw
    disk: float = 0.0  # an archive cannot be written
    fetch: float = 0.0  # a file does not come over whole
    quota: float = 0.0  # an archive has no room, though the disk seems to have some


@dataclass(slots=True)
class Kept:
    """An archive in a results folder."""

    uid: str
    result: m.AttemptResult


@dataclass(slots=True)
class _Work(Underway):
    process: Process


class SimWorkers:
    """The engine's workers in one life of the daemon."""

    def __init__(
        self,
        timeline: Timeline,
        rng: random.Random,
        machines: Mapping[tuple[str, int], VirtualMachine],
        archives: dict[tuple[str, str], Kept],
        patience: Patience,
        mischief: Mischief,
        decide: Callable[[str], tuple[str, float]],
        poisonous: Callable[[str], bool],
        room: Callable[[], bool],
        before_start: Callable[[int, m.Order], None],
        archived: Callable[[str], None],
        post: Callable[[Answer | Crash], None],
    ) -> None:
        """`machines`: by address. `archives`: (results folder, path in it) -> what lies there; outlives the daemon.

        `decide`: uid -> (end status, seconds). `poisonous`: whether judging a test makes the daemon crash. `room`:
        whether an archive can be written. `archived`: told the uid of each one that was.
        """
        self._timeline, self._rng, self._machines, self.archives = timeline, rng, machines, archives
        self._patience, self._mischief, self._decide, self._poisonous = patience, mischief, decide, poisonous
        self._room, self._before_start, self._archived, self._post = room, before_start, archived, post
        self._links: dict[tuple[str, int], Link] = {}
        self._works: dict[int, _Work] = {}
        self.alive = True

    # ------------------------------------------------------------ what the engine needs

    def start(self, experiment: int, ticket: int, order: m.Order, folder: Path, tool: str) -> None:
        """Begin an order in place of the experiment's former one."""
        self._before_start(experiment, order)
        self.cancel(experiment)
        process = Process(
            self._timeline,
            self._do(experiment, ticket, order, folder.name),
            lambda event, error: self._ended(experiment, ticket, event, error),
        )
        patience = self._patience
        secs = bound(
            order,
            validation_secs=patience.validation_secs,
            boot_budget_secs=patience.boot_budget_secs,
            grace_secs=patience.grace_secs,
        )
        self._works[experiment] = _Work(ticket, order, folder, tool, self._timeline.monotonic() + secs, process)
        process.start()

    def cancel(self, experiment: int) -> None:
        """Let the experiment's work end without an answer."""
        work = self._works.pop(experiment, None)
        if work is not None:
            work.process.kill()

    def done(self, experiment: int, ticket: int) -> None:
        """The engine took the last answer of an order."""
        work = self._works.get(experiment)
        if work is not None and work.ticket == ticket:
            del self._works[experiment]

    def next_overdue(self) -> float | None:
        """When the next order is overdue, or None."""
        return min((work.overdue_at for work in self._works.values()), default=None)

    def give_up_overdue(self) -> list[Answer]:
        """The answers that overdue work should have given; what is ENDLESS is begun anew."""
        answers = []
        for experiment, work in list(self._works.items()):
            if work.overdue_at > self._timeline.monotonic():
                continue
            if isinstance(work.order, ENDLESS):
                self.start(experiment, work.ticket, work.order, work.folder, work.tool)
                continue
            self.cancel(experiment)
            answers.append(Answer(experiment, work.ticket, stuck(work.order)))
        return answers

    def close(self) -> None:
        """The daemon ends: nothing answers any more."""
        self.alive = False
        for experiment in list(self._works):
            self.cancel(experiment)

    # ------------------------------------------------------------ answers

    def _ended(self, experiment: int, ticket: int, event: m.Event | None, error: AutoperfError | None) -> None:
        if error is not None:
            raise error
        if event is None:
            return
        if self._chance(self._mischief.bugs):
            self._send(Crash(RuntimeError("a bug of a worker, made for the rehearsal")))
            return
        self._say(experiment, ticket, event)

    def _say(self, experiment: int, ticket: int, event: m.Event) -> None:
        answer = Answer(experiment, ticket, event)
        if self._chance(self._mischief.late):
            self._timeline.after(self._rng.uniform(0.1, 10.0), lambda: self._send(answer))
        else:
            self._send(answer)
        if self._chance(self._mischief.doubled):
            self._timeline.after(self._rng.uniform(0.0, 20.0), lambda: self._send(answer))

    def _send(self, message: Answer | Crash) -> None:
        if self.alive:
            self._post(message)

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self._rng.random() < probability

    # ------------------------------------------------------------ orders

    def _do(self, experiment: int, ticket: int, order: m.Order, folder: str) -> Work:
        if self._chance(self._mischief.hangs):
            yield 1e9
        try:
            match order:
                case m.Wait(secs=secs):
                    yield secs
                    return m.Due()
                case m.Validate():
                    return (yield from self._validate(order.machines))
                case m.Reboot():
                    return (yield from self._reboot(order))
                case m.PowerCycle():
                    return (yield from self._power_cycle(order))
                case m.RunAttempt():
                    return (yield from self._attempt(experiment, ticket, order, folder))
                case m.SlowProbe():
                    return (yield from self._slow_probe(order))
                case m.Sweep():
                    return (yield from self._sweep(order))
        except MachineImpossible as error:
            return m.Impossible(machine=error.machine, reason=error.sentence(), code=error.code)
        except (MachineAway, MachineTaken, StartFailed, FetchFailed) as error:
            return m.Unreachable(
                machine=error.machine,
                reason=error.sentence(),
                code=error.code,
                pings=error.pings,
                ssh_checks=error.ssh_checks,
                ill={each.machine: each.code for each in (error, *error.others)},
                evidence=json.dumps({each.machine: {"code": each.code} for each in (error, *error.others)}),
            )
        raise AssertionError(order)

    def _validate(self, machines: tuple[Machine, ...]) -> Work:
        began = self._timeline.now
        found = yield [self._until_fit(machine, began) for machine in machines]
        boots = _whole(machines, found)
        return m.Validated(
            boot_ids={name: boot for name, (boot, _) in boots.items()},
            pings=max(tries for _, tries in boots.values()),
            ssh_checks=1,
            probes={machine.name: PROBE for machine in machines},
            facts={
                machine.name: {"boot_id": boots[machine.name][0], "host_key": self._virtual(machine).name}
                for machine in machines
            },
        )

    def _until_fit(self, machine: Machine, began: float) -> Work:
        tries = 0
        while True:
            tries += 1
            try:
                return (yield self._link(machine).ask("probe", secs=2.0)), tries
            except MachineAway as error:
                if self._timeline.now - began >= self._patience.validation_secs:
                    error.pings = tries
                    raise
            yield 2.0

    def _reboot(self, order: m.Reboot) -> Work:
        stored = order.boot_ids
        found = yield [self._until_rebooted(machine, stored[machine.name], order.rung) for machine in order.machines]
        try:
            return m.Rebooted(boot_ids=_whole(order.machines, found))
        except MachineError as error:
            if not order.rung:
                raise
            return m.NotCycled(machine=error.machine, reason=error.sentence(), code=error.code)

    def _until_rebooted(self, machine: Machine, stored: str, rung: str) -> Work:
        link, told = self._link(machine), False
        deadline = self._timeline.now + self._patience.boot_budget_secs
        while True:
            problem: MachineError = MachineAway(machine.name, "it did not reboot", code="REBOOT_IGNORED")
            try:
                boot = yield link.ask("boot_id", secs=1.0)
                if boot != stored:
                    return boot
            except MachineAway as error:
                problem = error
            if not told and (not isinstance(problem, MachineAway) or problem.code in ("REBOOT_IGNORED", *DULL)):
                told = True
                with contextlib.suppress(MachineAway):  # it may go down before it can answer
                    yield link.ask("reboot", rung or "soft", secs=1.0)
            if self._timeline.now > deadline:
                raise problem
            yield 1.0

    def _power_cycle(self, order: m.PowerCycle) -> Work:
        found = yield [self._until_cycled(machine, order.boot_ids.get(machine.name, "")) for machine in order.machines]
        try:
            return m.Cycled(boot_ids=_whole(order.machines, found))
        except MachineError as error:
            return m.NotCycled(machine=error.machine, reason=error.sentence(), code=error.code)

    def _until_cycled(self, machine: Machine, stored: str) -> Work:
        if not machine.power_cycle:
            raise MachineAway(machine.name, "it has no power switch", code="NO_SWITCH")
        yield self._rng.uniform(0.1, 3.0)
        if not self._virtual(machine).cycle_power():
            raise MachineAway(machine.name, "its power switch says no", code="POWER_FAILED")
        deadline = self._timeline.now + self._patience.boot_budget_secs
        silent = False
        while self._timeline.now <= deadline:
            try:
                boot = yield self._link(machine).ask("boot_id", secs=1.0)
                if boot != stored and (stored or silent):
                    return boot
            except MachineAway:
                silent = True
            yield 1.0
        raise MachineAway(machine.name, "the power switch had no effect", code="POWER_IGNORED")

    def _slow_probe(self, order: m.SlowProbe) -> Work:
        while True:
            yield order.secs
            try:
                yield from self._validate(order.machines)
            except MachineError:
                continue
            return m.Answered()

    def _sweep(self, order: m.Sweep) -> Work:
        pause = 1.0
        while True:
            try:
                left = yield [self._asked(machine, "sweep") for machine in order.machines]
                if not any(_whole(order.machines, left).values()):
                    return m.Swept()
            except MachineImpossible:
                return m.Swept()
            except MachineError:
                pass
            yield pause
            pause = min(pause * 2, 300.0)

    # ------------------------------------------------------------ an attempt

    def _attempt(self, experiment: int, ticket: int, order: m.RunAttempt, folder: str) -> Work:
        path = f"data/{order.plan.test_name}/attempt-{order.number}.tar.gz"
        try:
            kept = self.archives.get((folder, path))
            if kept is not None and kept.uid == order.uid:
                result = kept.result
            else:
                away: dict[str, str] = dict(order.was_away)
                ended = yield from self._made(experiment, ticket, order, away)
                result = yield from self._judge(order, ended, away, folder, path)
                if isinstance(result, m.LowDisk):
                    return result
        except HalfStarted as error:
            return m.HalfStarted(reason=error.sentence())
        except StartFailed as error:
            return m.Failed(result=_blamed("wont-start", "machine", error))
        except FetchFailed as error:
            return m.Failed(result=_blamed("no-data", "network", error))
        return m.Succeeded(result=result) if result.end_status in KEPT else m.Failed(result=result)

    def _made(self, experiment: int, ticket: int, order: m.RunAttempt, away: dict[str, str]) -> Work:
        """Find, start or go on with it, wait for its end: machine name -> how it stands there.

        `away` gets the machines whose link was lost as it ran, with codes.
        """
        names = order.plan.machines()
        machines = tuple(machine for machine in order.machines if machine.name in names)
        idle = [machine for machine in order.machines if machine.name not in names]
        if order.confirmed:
            _whole(machines, (yield [self._asked(machine, "state", order.uid) for machine in machines]))
        else:
            yield from self._start(order, machines, idle)
        self._say(experiment, ticket, m.Started())
        ended = yield [self._awaited(machine, order.uid, away) for machine in machines]
        return _whole(machines, ended)

    def _start(self, order: m.RunAttempt, machines: tuple[Machine, ...], idle: list[Machine]) -> Work:
        for _ in range(2):
            everyone = (*machines, *idle)
            asked = [self._asked(machine, "prepare", order.uid, order.deadline_secs) for machine in machines]
            found = yield [*asked, *(self._asked(machine, "sweep") for machine in idle)]
            refused = [e for e in found if isinstance(e, MachineError) and not isinstance(e, MachineAway)]
            if refused:
                ready = [machine for machine, answer in zip(machines, found, strict=False) if answer is None]
                yield [self._asked(machine, "stop", order.uid, "sweep") for machine in ready]
            standing: dict[str, Found | None] = _whole(everyone, found)
            started = [m.name for m in machines if (at := standing[m.name]) is not None and at.state in STARTED]
            if len(started) == len(machines):
                return
            if started:
                yield from self._end_half(order, machines)
            went = _whole(machines, (yield [self._asked(machine, "go", order.uid) for machine in machines]))
            if all(went.values()):
                return
            if any(went.values()):
                yield from self._end_half(order, machines)
        raise StartFailed(machines[0].name, "its launcher gave up before it was started", code="NEVER_STARTED")

    def _end_half(self, order: m.RunAttempt, machines: tuple[Machine, ...]) -> Work:
        yield [self._asked(machine, "stop", order.uid, "sweep") for machine in machines]
        raise HalfStarted(f"attempt {order.uid} had been started on some machines only; all of it was ended")

    def _awaited(self, machine: Machine, uid: str, away: dict[str, str]) -> Work:
        for pause in (0.1, 1.0, None):
            try:
                return (yield self._link(machine).ask("await", uid))
            except MachineAway as error:
                if pause is None:
                    raise
                away[machine.name] = error.code
                self._virtual(machine).missed(uid)
                yield pause
        raise AssertionError("unreachable")

    def _judge(
        self, order: m.RunAttempt, ended: Mapping[str, Found], away: Mapping[str, str], folder: str, path: str
    ) -> Work:
        yield self._rng.uniform(0.01, 0.5)  # the files come over
        machine = next(iter(ended))
        if self._chance(self._mischief.fetch):
            raise FetchFailed(machine, "a file changed while it was read", code="FETCH")
        if self._poisonous(order.plan.test_name):
            self._send(Crash(RuntimeError("the test is poisonous, made for the rehearsal")))
            yield 1e9
        if self._chance(self._mischief.disk):
            code = self._rng.choice(CANNOT_WRITE)
            reason = "the archive cannot be written"
            return m.AttemptResult(end_status="interrupted", blame="controller", code=code, reason=reason)
        if not self._room() or self._chance(self._mischief.quota):
            return m.LowDisk(reason="the archive has no room", code="DISK_FULL")
        before = {name: found.before for name, found in ended.items() if found.before}
        after = {name: found.after or found.boot for name, found in ended.items()}
        evidence = json.dumps({"uid": order.uid, "boot_before": before, "boot_after": after, "was_away": dict(away)})
        result = self._guarded(result_of(self._verdict(order.uid, ended), before, after, evidence), ended)
        if result.end_status not in KEPT:
            machines = [machine for machine in order.machines if machine.name in order.plan.machines()]
            examined = yield [self._examine(machine, machines) for machine in machines]
            looks = {machine.name: at for machine, at in zip(machines, examined, strict=True)}
            result = blamed(result, looks, away)
        fields = {name: getattr(result, name) for name in m.AttemptResult.__slots__}
        fields.update(archive=path, sha256=f"{order.uid}{order.uid}", size=len(order.uid))
        kept = m.AttemptResult(**fields)
        self.archives[folder, path] = Kept(order.uid, kept)
        self._archived(order.uid)
        yield self._rng.uniform(0.0, 0.1)  # between the archive and the answer
        return kept

    @staticmethod
    def _guarded(result: m.AttemptResult, ended: Mapping[str, Found]) -> m.AttemptResult:
        """The result, or that of an attempt that was disturbed."""
        before = {name: found.watch_before for name, found in ended.items() if found.watch_before}
        after = {name: found.watch_after for name, found in ended.items() if found.watch_after}
        found = violations(before, after, Guards())
        if not found or result.end_status in OUTRANK:
            return result
        worst = found[0]
        return replace(
            result,
            end_status="invalid",
            blame=worst.blame,
            machine=worst.machine,
            code=worst.code,
            reason=worst.reason,
            would_fail_every_test=False,
            figures={},
        )

    def _examine(self, machine: Machine, machines: list[Machine]) -> Work:
        """How a machine stands after a failed attempt; never an error."""
        here = self._virtual(machine)
        pinged = here.pinged
        try:
            boot = yield self._link(machine).ask("boot_id", secs=EXAMINED_SECS)
        except MachineError as error:
            return Examined(pinged=pinged, ssh=error.code)
        others = {other.name: self._virtual(other) for other in machines if other is not machine}
        hears = {name: here.hears(other) for name, other in others.items()}
        return Examined(pinged=pinged, ssh="ok", boot_id=boot, hears=hears, disk_full=here.disk_full)

    def _verdict(self, uid: str, ended: Mapping[str, Found]) -> Verdict:
        for name, found in ended.items():
            if found.state == "lost" or found.state not in STARTED:
                reason = f"{name} lost the records of the attempt"
                return Verdict("machine-lost", code="RECORDS_LOST", reason=reason, machine=name)
            if found.ended_by == "sweep":
                return Verdict("invalid", code="SWEPT", reason=f"{name} was ended by a sweep", machine=name)
        status, _ = self._decide(uid)
        if any(found.ended_by == "deadline" for found in ended.values()):
            if status == "no-match":
                return Verdict("no-match", code="NO_MATCH", reason="its participants never found each other")
            return Verdict("timeout", code="TIMEOUT", reason="it was ended at its deadline")
        watches = [found.watch_after for found in ended.values() if found.watch_after is not None]
        if status in KEPT and any(watch.free_kb == 0 for watch in watches):
            return Verdict("truncated", code="TRUNCATED", reason="its file ends in the middle of a line")
        code, reason = ("", "") if status in KEPT else (status.replace("-", "_").upper(), f"it ended as {status}")
        return Verdict(status, code=code, reason=reason, would_fail_every_test=status == "wont-start")

    # ------------------------------------------------------------ parts

    def _virtual(self, machine: Machine) -> VirtualMachine:
        return self._machines[machine.ip, machine.port]

    def _link(self, machine: Machine) -> Link:
        key = (machine.ip, machine.port)
        if key not in self._links:
            self._links[key] = Link(self._virtual(machine), self._timeline, self._rng)
        return self._links[key]

    def _asked(self, machine: Machine, verb: str, *args: object) -> Work:
        """A verb's answer; asked once more over a new connection when the first one gets lost."""
        try:
            return (yield self._link(machine).ask(verb, *args))
        except MachineAway:
            yield 0.5
        return (yield self._link(machine).ask(verb, *args))


def _whole(machines: tuple[Machine, ...], answers: list[Any]) -> dict[str, Any]:
    """Machine name -> answer; raises the gravest error where one gave none."""
    errors = [answer for answer in answers if isinstance(answer, MachineError)]
    if errors:
        gravest = min(errors, key=lambda error: next(i for i, kind in enumerate(GRAVITY) if isinstance(error, kind)))
        gravest.others = tuple(error for error in errors if error is not gravest)
        raise gravest
    return {machine.name: answer for machine, answer in zip(machines, answers, strict=True)}


def _blamed(status: str, blame: str, error: MachineError) -> m.AttemptResult:
    return m.AttemptResult(
        end_status=status,
        blame="machine" if blame == "machine" else "network",
        machine=error.machine,
        code=error.code,
        reason=error.sentence(),
    )
