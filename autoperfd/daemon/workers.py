"""Does the work of orders: everything that waits or can fail, as plain blocking code on daemon threads.

One thread an order; its answer is one event carrying the order's ticket. A cancelled order answers nothing. An
error nobody foresaw ends the daemon: the engine is told and re-raises it.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from autoperfd.core import messages as m
from autoperfd.core.guards import Guards
from autoperfd.core.plan import Machine, Tool
from autoperfd.core.policy import KEPT, PASSING
from autoperfd.core.settings import PowerSwitch
from autoperfd.daemon import archive
from autoperfd.daemon.files import make_folder, sync_folder
from autoperfd.daemon.judge import judge, never_began, standing
from autoperfd.daemon.work import ENDLESS, Answer, Clock, Crash, Underway, bound, stuck
from autoperfd.errors import (
    Cancelled,
    DiskError,
    FetchFailed,
    HalfStarted,
    MachineAway,
    MachineError,
    MachineImpossible,
    MachineTaken,
    StartFailed,
)
from autoperfd.remote.fleet import Fleet
from autoperfd.remote.threads import HINT, NO_THREADS, NoThread, begin
from autoperfd.remote.values import Examination, Order, Outcome

log = logging.getLogger(__name__)

THREAD_SECS = 1.0  # between two looks for a thread, where there is none to be had
TELLS = 3  # connects in which a machine must be reached to be told to reboot, before that rung is given up


@dataclass(slots=True)
class _Work(Underway):
    cancelled: threading.Event
    waiting: _Task | None = None  # it found no thread
    again_at: float = 0.0  # monotonic: when to look for one again

    def due_at(self) -> float:
        """Monotonic time at which `give_up_overdue` wants to be called for it."""
        return self.overdue_at if self.waiting is None else min(self.again_at, self.overdue_at)


class Workers:
    """Starts and cancels the work of experiments, at most one order each. Only the engine thread calls it."""

    def __init__(
        self,
        fleet: Fleet,
        tools: Mapping[str, Tool],
        post: Callable[[Answer | Crash], None],
        clock: Clock,
        *,
        validation_secs: float,
        boot_budget_secs: float,
        grace_secs: float,
        connect_secs: float = 10.0,
        guards: Guards | None = None,
        power: Mapping[str, PowerSwitch] | None = None,
    ) -> None:
        """`power`: the switches that machines name. The rest is autoperfd.toml's."""
        self._fleet, self._tools, self._post, self._clock = fleet, tools, post, clock
        self._validation_secs, self._boot_budget_secs = validation_secs, boot_budget_secs
        self._grace_secs = grace_secs
        self._tell_secs = connect_secs * TELLS
        self._guards, self._power = guards or Guards(), dict(power or {})
        self._works: dict[int, _Work] = {}

    def start(self, experiment: int, ticket: int, order: m.Order, folder: Path, tool: str) -> None:
        """Begin an order in place of the experiment's former one. `folder`: its results folder."""
        self.cancel(experiment)
        cancelled = threading.Event()
        overdue_at = self._clock.monotonic() + self._bound(order)
        self._works[experiment] = _Work(ticket, order, folder, tool, overdue_at, cancelled)
        task = _Task(self, experiment, ticket, order, folder, self._tools[tool], cancelled)
        self._begin(self._works[experiment], task)

    def _begin(self, work: _Work, task: _Task) -> None:
        """Give a task its thread; where there is none to be had it waits for one within its own bound."""
        name = f"{type(task.order).__name__}-{task.experiment}"
        try:
            begin(task.work, name)
            work.waiting = None
        except NoThread as error:
            if work.waiting is None:
                log.warning("%s: %s waits: %s. %s", NO_THREADS, name, error.strerror, HINT)
            work.waiting, work.again_at = task, self._clock.monotonic() + THREAD_SECS

    def cancel(self, experiment: int) -> None:
        """Let the experiment's work end without an answer; attempts on machines live on."""
        work = self._works.pop(experiment, None)
        if work is not None:
            work.cancelled.set()

    def done(self, experiment: int, ticket: int) -> None:
        """The engine took the last answer of an order."""
        work = self._works.get(experiment)
        if work is not None and work.ticket == ticket:
            del self._works[experiment]

    def next_overdue(self) -> float | None:
        """Monotonic time at which the next order is overdue, or None."""
        return min((work.due_at() for work in self._works.values()), default=None)

    def give_up_overdue(self) -> list[Answer]:
        """Break the links of work that outlived every bound of its own; the answers it should have given.

        Work that found no thread is begun here, and what is ENDLESS once more.
        """
        now, answers = self._clock.monotonic(), []
        for experiment, work in list(self._works.items()):
            if work.waiting is not None and work.again_at <= now < work.overdue_at:
                self._begin(work, work.waiting)
            if work.overdue_at <= now:
                self._fleet.abandon(work.order.machines)
                if isinstance(work.order, ENDLESS):
                    self.start(experiment, work.ticket, work.order, work.folder, work.tool)
                    continue
                self.cancel(experiment)
                answers.append(Answer(experiment, work.ticket, stuck(work.order)))
        return answers

    def close(self) -> None:
        """Cancel everything."""
        for experiment in list(self._works):
            self.cancel(experiment)

    def _bound(self, order: m.Order) -> float:
        return bound(
            order,
            validation_secs=self._validation_secs,
            boot_budget_secs=self._boot_budget_secs,
            grace_secs=self._grace_secs,
        )


@dataclass(slots=True)
class _Task:
    workers: Workers
    experiment: int
    ticket: int
    order: m.Order
    folder: Path
    tool: Tool
    cancelled: threading.Event

    def work(self) -> None:
        """The thread: do the order, answer. The one place where any error is caught."""
        try:
            event = self._answer()
        except Cancelled:
            return
        except Exception as error:  # noqa: BLE001 - the worker boundary
            self.workers._post(Crash(error))
            return
        if event is not None and not self.cancelled.is_set():
            self._say(event)

    def _say(self, event: m.Event) -> None:
        self.workers._post(Answer(self.experiment, self.ticket, event))

    def _answer(self) -> m.Event | None:
        try:
            match self.order:
                case m.Wait(secs=secs):
                    self.cancelled.wait(secs)
                    return m.Due()
                case m.Validate():
                    return self._validate(self.order)
                case m.Reboot(rung=""):
                    found = self._fleet.reboot(self.order.machines, self.order.boot_ids, cancelled=self.cancelled)
                    return m.Rebooted(boot_ids=found.boot_ids)
                case m.Reboot() | m.PowerCycle():
                    return self._climb(self.order)
                case m.RunAttempt():
                    return self._attempt(self.order)
                case m.SlowProbe():
                    return self._slow_probe(self.order)
                case m.Sweep():
                    return self._sweep(self.order)
        except MachineImpossible as error:
            return m.Impossible(machine=error.machine, reason=error.sentence(), code=error.code)
        except (MachineAway, MachineTaken, StartFailed, FetchFailed) as error:
            return _unreachable(error, self.order.machines if isinstance(self.order, m.Validate) else ())
        raise AssertionError(self.order)

    @property
    def _fleet(self) -> Fleet:
        return self.workers._fleet

    def _validate(self, order: m.Validate) -> m.Event:
        found = self._fleet.validate(
            order.machines,
            self.tool.probe_argv,
            self.tool.probe_exits,
            wants_reboot=order.wants_reboot,
            uid_open=order.open_uid,
            cancelled=self.cancelled,
            patience_secs=self.workers._validation_secs,
        )
        return m.Validated(
            boot_ids=found.boot_ids,
            pings=found.pings,
            ssh_checks=found.ssh_checks,
            probes=found.probes,
            facts={
                name: {**report.facts, "boot_id": report.boot_id, "host_key": report.host_key_fingerprint}
                for name, report in found.machines.items()
            },
        )

    def _climb(self, order: m.Reboot | m.PowerCycle) -> m.Event:
        """One rung of the ladder for ill machines; what does not work is told, whatever it is."""
        try:
            if isinstance(order, m.PowerCycle):
                switches = {machine.name: self._switch(machine) for machine in order.machines}
                found = self._fleet.power_cycle(order.machines, order.boot_ids, switches, cancelled=self.cancelled)
                return m.Cycled(boot_ids=found.boot_ids)
            found = self._fleet.reboot(
                order.machines,
                order.boot_ids,
                force=order.rung == "forced",
                tell_secs=self.workers._tell_secs,
                cancelled=self.cancelled,
            )
            return m.Rebooted(boot_ids=found.boot_ids)
        except MachineError as error:
            return m.NotCycled(machine=error.machine, reason=error.sentence(), code=error.code)

    def _switch(self, machine: Machine) -> PowerSwitch:
        switch = self.workers._power.get(machine.power_cycle)
        if switch is None:
            wanted = f"there is no [power.{machine.power_cycle}]" if machine.power_cycle else "it has no power_cycle"
            hint = "Name a power switch of autoperfd.toml in the experiment file"
            raise MachineAway(machine.name, f"its power cannot be cycled: {wanted}", code="NO_SWITCH", hint=hint)
        return switch

    def _slow_probe(self, order: m.SlowProbe) -> m.Event | None:
        while not self.cancelled.wait(order.secs):
            try:
                self._validate(m.Validate(order.machines, False, ""))
            except MachineError:
                continue
            return m.Answered()
        return None

    def _sweep(self, order: m.Sweep) -> m.Event | None:
        pause = 1.0
        while not self.cancelled.is_set():
            try:
                self._fleet.sweep(order.machines)
            except MachineImpossible:
                return m.Swept()  # nobody can look there before a person has acted
            except MachineError:
                self.cancelled.wait(pause)
                pause = min(pause * 2, 300.0)
                continue
            return m.Swept()
        return None

    # ------------------------------------------------------------ an attempt

    def _attempt(self, order: m.RunAttempt) -> m.Event:
        data = self.folder / "data" / order.plan.test_name
        target = data / f"attempt-{order.number}.tar.gz"
        staging = data / f".attempt-{order.number}.partial"
        try:
            if not self.folder.is_dir():
                raise self._gone()
            make_folder(staging, within=self.folder)
            _clear(path for path in data.glob(".attempt-*.partial") if path != staging)
            kept = self._kept(target, order.uid)
            if kept is None:
                outcome = self._fleet.attempt(
                    Order(order.uid, order.plan, order.machines, staging, round(order.deadline_secs)),
                    confirmed=order.confirmed,
                    on_started=lambda: self._say(m.Started()),
                    cancelled=self.cancelled,
                )
                kept = self._judge(order, outcome, staging, target)
            _clear([staging])
        except HalfStarted as error:
            return m.HalfStarted(reason=error.sentence())
        except StartFailed as error:
            return m.Failed(result=never_began("wont-start", error, self._look).result)
        except FetchFailed as error:
            return m.Failed(result=never_began("no-data", error, self._look).result)
        except (DiskError, OSError) as error:
            found = error if isinstance(error, DiskError) else DiskError.of("the attempt cannot be written", error)
            # Moved away while the attempt ran: whatever could not be written, that is why.
            wrong = found if self.folder.is_dir() else self._gone()
            if wrong.code in (*PASSING, "RESULTS_MISSING"):
                return m.LowDisk(reason=wrong.sentence(), code=wrong.code)  # the attempt stays open, its files there
            reason = wrong.sentence()
            return m.Failed(
                result=m.AttemptResult(end_status="interrupted", blame="controller", code=wrong.code, reason=reason)
            )
        return m.Succeeded(result=kept) if kept.end_status in KEPT else m.Failed(result=kept)

    def _gone(self) -> DiskError:
        return DiskError(f"the results folder {self.folder} is gone", code="RESULTS_MISSING")

    def _judge(self, order: m.RunAttempt, outcome: Outcome, staging: Path, target: Path) -> m.AttemptResult:
        boots = {name: facts.get("boot_id", "") for name, facts in order.facts.items()}
        guards = self.workers._guards
        judged = judge(self.tool, order.plan, outcome, staging, guards, boots, self._look, order.was_away)
        result = judged.result
        about = {
            "uid": order.uid,
            "number": order.number,
            "opened": order.opened,
            "deadline_secs": order.deadline_secs,
            "plan": json.loads(order.plan.to_json()),
        }
        texts = {
            "attempt.json": _json(about),
            "machines.json": _json({machine.name: self._about(machine, order) for machine in order.machines}),
            "evidence.json": _json({**judged.evidence, "files": [asdict(file) for file in outcome.files]}),
            "result.json": _json({"uid": order.uid, **asdict(result)}),
        }
        names = {file.name: file.sha256 for file in outcome.files}
        sha256, size = archive.build(target, staging, names, texts, order.opened)
        return self._placed(result, target, sha256, size)

    def _look(self) -> Mapping[str, Examination]:
        return self._fleet.examine(self.order.machines, cancelled=self.cancelled)

    def _placed(self, result: m.AttemptResult, target: Path, sha256: str, size: int) -> m.AttemptResult:
        fields = asdict(result)
        fields.update(archive=str(target.relative_to(self.folder)), sha256=sha256, size=size)
        return m.AttemptResult(**fields)

    def _kept(self, target: Path, uid: str) -> m.AttemptResult | None:
        """The result in an archive that was finished for this very attempt before the daemon was interrupted."""
        if not target.exists() or archive.problems(target):
            return None
        raw = json.loads(archive.read_text(target, "result.json") or b"{}")
        if raw.pop("uid", "") != uid:
            return None
        sync_folder(target.parent)  # the daemon may have been killed between the rename and its fsync
        return self._placed(m.AttemptResult(**raw), target, archive.sha256_of_file(target), target.stat().st_size)

    @staticmethod
    def _about(machine: Machine, order: m.RunAttempt) -> dict[str, object]:
        fields = {key: value for key, value in asdict(machine).items() if key != "ssh_key_path"}
        return {**fields, "facts": dict(order.facts.get(machine.name, {}))}


def _clear(paths: Iterable[Path]) -> None:
    """Remove what attempts brought over that have ended. One call that fails must not leave it there for good."""
    for path in paths:
        for _ in range(2):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink(missing_ok=True)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def _unreachable(error: MachineError, everyone: Sequence[Machine] = ()) -> m.Unreachable:
    """`everyone`: the machines that were all looked at, so that those not told of are known to be well."""
    evidence = standing(error)
    well = {machine.name: {"code": "ok"} for machine in everyone if machine.name not in evidence}
    return m.Unreachable(
        machine=error.machine,
        reason=error.sentence(),
        code=error.code,
        pings=error.pings,
        ssh_checks=error.ssh_checks,
        ill={name: str(stood["code"]) for name, stood in evidence.items()},
        evidence=json.dumps({"machines": {**evidence, **well}}),
    )
