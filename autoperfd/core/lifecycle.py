"""The whole life of an experiment, as two tables: ROWS (what may happen) and WORK (what each state asks for).

`advance(life, event)` is the only way forward: it lets `transitions` pick the first row that matches, keeps the
books and says what must be written and started. It touches nothing but the `Life` it is given; no I/O, no clock,
no randomness. Only the engine thread calls it, and commits what it answers before anything acts.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from transitions import Machine as StateMachine

from autoperfd.core import messages as m
from autoperfd.core.config import Experiment
from autoperfd.core.plan import Blame, Machine, Plan, Settings, Tool
from autoperfd.core.policy import (
    BLAMELESS_BUDGET,
    COMEBACKS,
    FLAPS,
    KEPT,
    MARGIN_SECS,
    PASSING,
    RUNGS,
    SETBACKS,
    SILENT,
    SUSPICIOUS,
    UNWRITABLE,
    backoff_secs,
    is_outage,
    rungs_for,
    todo,
)
from autoperfd.core.sweep import Sweep

E = TypeVar("E", bound=m.Event)

STATES = ("idle", "validating", "rebooting", "running", "backing-off", "halted")
BUSY = ("validating", "rebooting", "running", "backing-off")
HOLDING = ("validating", "running", "backing-off")  # where an attempt can be open


class Row(NamedTuple):
    """One line of the table. Of the rows of an event and a state the first whose guards all hold is taken."""

    event: str
    source: tuple[str, ...]
    to: str  # "=": stays where it is
    only_if: tuple[str, ...]  # guards: methods of Life
    then: tuple[str, ...]  # bookkeeping: methods of Life, in this order
    asks: bool = True  # the state's work is asked for (again); False: what is under way goes on


ROWS: tuple[Row, ...] = (
    # event          from                 to             only if                  and then
    Row("scheduled", ("idle",), "validating", ("waiting", "tests_remain", "free"), ("look_afresh",)),
    Row("validated", ("validating",), "running", ("attempt_open",), ("note_answer",)),
    Row("validated", ("validating",), "idle", ("nothing_left",), ("finish",)),
    Row("validated", ("validating",), "halted", ("restarts_by_itself",), ("blame_restarts",)),
    Row("validated", ("validating",), "rebooting", ("reboot_due",), ("store_boot_ids",)),
    Row("validated", ("validating",), "running", (), ("note_answer", "open_attempt")),
    Row("rebooted", ("rebooting",), "validating", (), ("reboot_done",)),
    Row("impossible", ("validating", "rebooting"), "halted", (), ("lose_open", "blame_machine")),
    Row("impossible", ("running",), "halted", (), ("lose_open", "blame_machine")),
    Row("started", ("running",), "=", (), ("confirm",), asks=False),
    Row("half_started", ("running",), "halted", ("blameless_spent",), ("interrupt_by_controller", "blame_machine")),
    Row("half_started", ("running",), "validating", (), ("interrupt_by_controller",)),
    Row("succeeded", ("running",), "idle", ("last_test",), ("record_success", "finish")),
    Row("succeeded", ("running",), "validating", (), ("record_success",)),
    Row("failed", ("running",), "halted", ("cannot_write",), ("record_blameless", "blame_controller")),
    Row("failed", ("running",), "halted", ("hopeless",), ("record_blameless", "blame_machine")),
    Row("failed", ("running",), "backing-off", ("not_the_test",), ("record_blameless", "note_away", "refund")),
    Row("failed", ("running",), "validating", ("not_charged",), ("record_blameless",)),
    Row("failed", ("running",), "halted", ("given_up", "nth_in_a_row"), ("record_failure", "blame_failures")),
    Row("failed", ("running",), "idle", ("given_up", "last_test"), ("record_failure", "finish")),
    Row("failed", ("running",), "validating", (), ("record_failure",)),
    Row(
        "unreachable",
        ("validating", "rebooting"),
        "halted",
        ("patience_used_up",),
        ("lose_open", "blame_away"),
    ),
    Row("unreachable", ("running",), "halted", ("patience_used_up",), ("lose_open", "blame_away")),
    Row(
        "unreachable", ("validating", "rebooting", "running"), "halted", ("flapping",), ("lose_open", "blame_flapping")
    ),
    Row("unreachable", ("validating", "rebooting", "running"), "backing-off", (), ("note_away", "refund")),
    Row("due", ("backing-off",), "rebooting", ("rung_reboots",), ("climb",)),
    Row("due", ("backing-off",), "=", ("rung_cycles",), ("climb",)),
    Row("due", ("backing-off",), "validating", (), ()),
    Row("cycled", ("backing-off",), "validating", (), ("note_restarted",)),
    Row("not_cycled", ("rebooting",), "backing-off", (), ("note_no_effect",)),
    Row("not_cycled", ("backing-off",), "=", (), ("note_no_effect",)),
    Row("halt", BUSY, "halted", (), ("interrupt_by_operator", "blame_operator")),
    Row("halt", ("idle",), "halted", ("waiting",), ("end_kept", "blame_operator")),
    Row("halt", ("halted",), "=", ("not_by_operator",), ("end_kept", "take_over", "reschedule")),
    Row("resume", ("halted",), "idle", (), ("say_resumed", "forgive", "finish_waiting", "reschedule")),
    Row(
        "answered",
        ("halted",),
        "idle",
        ("machine_at_fault",),
        ("say_over", "forgive", "come_back", "finish_waiting", "reschedule"),
    ),
    Row("swept", ("idle", "halted"), "=", (), ("sweep_done",)),
    Row("low_disk", ("validating", "running"), "halted", (), ("blame_disk",)),
    Row(
        "room",
        ("halted",),
        "idle",
        ("disk_at_fault",),
        ("say_over", "forgive", "come_back", "finish_waiting", "reschedule"),
    ),
    Row("skip", HOLDING, "validating", ("is_current", "attempt_open"), ("skip_current",)),
    Row("skip", ("halted",), "=", ("is_current", "attempt_open"), ("owe_sweep", "skip_current")),
    Row("skip", ("idle",), "=", ("is_current", "attempt_open"), ("owe_sweep", "skip_current", "finish_waiting")),
    Row(
        "skip",
        ("validating", "rebooting", "backing-off", "halted"),
        "=",
        ("is_current",),
        ("skip_current",),
        asks=False,
    ),
    Row("skip", ("halted", *BUSY), "=", (), ("skip_other",), asks=False),
    Row("skip", ("idle",), "=", ("is_current",), ("skip_current", "finish_waiting"), asks=False),
    Row("skip", ("idle",), "=", (), ("skip_other", "finish_waiting"), asks=False),
    Row("retry", ("idle",), "=", (), ("requeue", "reschedule"), asks=False),
    Row("retry", ("halted", *BUSY), "=", (), ("requeue",), asks=False),
    Row("cancel", BUSY, "idle", (), ("interrupt_by_operator", "call_off")),
    Row("cancel", ("idle", "halted"), "idle", (), ("end_kept", "call_off", "reschedule")),
    Row("redropped", ("idle",), "=", (), ("take_up_again", "reschedule"), asks=False),
    Row("redropped", ("halted", *BUSY), "=", (), (), asks=False),
    Row(
        "restarted",
        ("running",),
        "halted",
        ("third_crash", "second_poison"),
        ("drop_poison", "blame_crashes"),
    ),
    Row("restarted", ("running",), "validating", ("third_crash",), ("drop_poison",)),
    Row("restarted", ("running",), "=", (), ("count_crash", "look_at_clock")),
    Row("restarted", ("backing-off",), "=", (), ("leave_rung", "look_at_clock")),
    Row("restarted", ("validating", "rebooting", "halted"), "=", (), ("look_at_clock",)),
    Row("restarted", ("idle",), "=", (), ("look_at_clock", "reschedule")),
)

WORK = {
    "idle": "sweep_if_owed",
    "validating": "validate",
    "rebooting": "reboot",
    "running": "run_attempt",
    "backing-off": "wait_or_cycle",
    "halted": "sweep_if_owed_or_probe",
}
"""state -> the method of Life that makes the state's order (None: nothing to do)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What autoperfd.toml says about patience, in seconds."""

    patience_secs: float = 1800
    backoff_first_secs: float = 5
    backoff_cap_secs: float = 300
    restart_after_secs: float = 300
    grace_secs: float = 45
    probe_secs: float = 300
    auto_resume: bool = True


@dataclass(slots=True)
class Step:
    """The answer of `advance`: write `changes` and the life, then start `order` (replacing what is under way)."""

    event: str
    before: str
    after: str
    taken: bool  # False: no row matched, nothing changed
    changes: list[m.Change] = field(default_factory=list)
    order: m.Order | None = None
    replaces_work: bool = False
    reschedule: bool = False
    row: Row | None = None
    note: str = ""  # a sentence for the history, where the event has none of its own
    code: str = ""  # of the note
    asides: list[tuple[str, str, str]] = field(default_factory=list)  # (test, event, sentence) about other tests


class Life:
    """One experiment's place in its life. `state` is set by the state machine alone."""

    state: str

    KEPT_FIELDS = (
        "outcome",
        "ticket",
        "cursor",
        "test",
        "index",
        "number",
        "charged",
        "blameless",
        "uid",
        "opened",
        "confirmed",
        "was_away",
        "reboot_owed",
        "boot_ids",
        "pings",
        "ssh_checks",
        "cause",
        "code",
        "reason",
        "since",
        "incident",
        "failures_in_a_row",
        "away_secs",
        "tries",
        "backoff_secs",
        "sweep_owed",
        "crashes",
        "poisoned",
        "succeeded",
        "failed",
        "skipped",
        "attempts",
        "domain",
        "probing",
        "ill",
        "rungs",
        "rung",
        "climbing",
        "restarts",
        "setbacks",
        "comebacks",
        "suspects",
        "refunded",
        "largest",
        "kept_bytes",
        "quiet",
        "outage_told",
    )

    def __init__(
        self, number: int, experiment: Experiment, sweep: Sweep, tool: Tool, tuning: Tuning, start: int = 0
    ) -> None:
        self.id = number
        self.experiment = experiment
        self.sweep = sweep
        self.tool = tool
        self.tuning = tuning
        self.requeued: deque[m.Requeued] = deque()
        self.decided_ahead: set[str] = set()  # tests at or beyond the cursor that need no attempt
        self.plan: Plan | None = None  # of the open attempt, as is `facts`
        self.facts: Mapping[str, Mapping[str, str]] = {}

        self.outcome = "waiting"  # of idle: waiting, finished or cancelled
        self.ticket = 0
        self.cursor = start  # the sweep's next test
        self.test = ""  # the test under way; it stays through retries, back-off and halts
        self.index = -1
        self.number = 0  # attempts made of it
        self.charged = 0  # attempts charged to its budget
        self.blameless = 0  # attempts that failed by somebody else's fault
        self.uid = ""  # the open attempt
        self.opened = 0.0  # wall
        self.confirmed = False
        self.was_away: dict[str, str] = {}  # machine -> code of an outage while the attempt is open
        self.domain = 0
        self.reboot_owed = experiment.policy.reboot in ("experiment", "test")
        self.boot_ids: dict[str, str] = {}  # the latest known ones
        self.pings = 0
        self.ssh_checks = 0
        self.cause = ""  # of halted: operator, machine, failures, disk or controller
        self.code = ""  # of the reason, stable
        self.reason = ""
        self.since = 0.0  # wall: in this state since
        self.incident = 0  # number of halts so far
        self.failures_in_a_row = 0
        self.away_secs = 0.0  # how long machines have been away before the latest look
        self.away_seen: float | None = None  # monotonic: the latest look that found one away
        self.tries = 0
        self.backoff_secs = 0.0
        self.probing = False  # halted: a slow probe looks whether the machines are back
        self.sweep_owed = False
        self.crashes = 0
        self.poisoned = 0
        self.succeeded = 0
        self.failed = 0
        self.skipped = 0
        self.attempts = 0
        self.ill: dict[str, str] = {}  # machine -> code, while one is not fit
        self.rung = ""  # of the ladder that is being tried: soft, forced, power
        self.climbing: list[str] = []  # the machines it is tried on
        # Since the last success:
        self.rungs: dict[str, int] = {}  # machine -> how many rungs were used up on it
        self.restarts: dict[str, int] = {}  # machine -> how often it restarted unasked
        self.setbacks = 0  # how often machines were found away
        self.comebacks = 0  # how often it went on by itself after a halt
        self.suspects: list[list[Any]] = []  # [test, index, number]: charged for what an outage may have done
        self.refunded = False  # the current test was given back what it was charged
        self.largest = self.kept_bytes = 0  # of archives
        self.outage_told = False  # its message about the halt tells of something that others may meet too
        self.quiet = False  # … and this experiment's halt was told by such a message
        self.attempt_since: float | None = None  # monotonic: when the open attempt began at the latest
        self.step: Step  # the answer being made
        self.draw = 0.5  # uniform [0, 1), set by the engine before each event

    # ------------------------------------------------------------ persistence

    def to_json(self) -> str:
        """Everything that outlives the process, as one JSON object of constant size."""
        kept = {name: getattr(self, name) for name in self.KEPT_FIELDS}
        return json.dumps({"state": self.state, **kept}, separators=(",", ":"))

    def restore(self, text: str) -> None:
        """Take over what `to_json` wrote."""
        raw = json.loads(text)
        STATE_MACHINE.set_state(raw.pop("state"), self)
        for name in self.KEPT_FIELDS:
            if name in raw:
                setattr(self, name, raw[name])

    # ------------------------------------------------------------ what is left

    def has_next(self) -> bool:
        """Whether a test besides the current one is left. Moves the cursor past tests decided ahead."""
        if self.requeued:
            return True
        while self.decided_ahead and self.cursor < self.sweep.count:
            name = self.sweep.name_at(self.cursor)
            if name not in self.decided_ahead:
                break
            self.decided_ahead.discard(name)
            self.cursor += 1
        return self.cursor < self.sweep.count

    def is_ahead(self, test: str) -> bool:
        """Whether the sweep has yet to come to a test."""
        index = self.sweep.index_of(test)
        return index is not None and index >= self.cursor

    def remaining(self) -> int:
        """How many tests need a verdict still."""
        ahead = self.sweep.count - self.cursor - len(self.decided_ahead)
        return max(0, ahead) + len(self.requeued) + (1 if self.test else 0)

    def settings(self) -> Settings:
        """The settings of the current test."""
        return self.sweep.at(self.index)

    def holds_machines(self) -> bool:
        """Whether nobody else may use this experiment's machines now."""
        waits_there = bool(self.uid) or (self.state == "halted" and self.cause == "machine")
        return self.state in BUSY or self.sweep_owed or waits_there

    # ------------------------------------------------------------ guards

    def waiting(self, _: Any) -> bool:
        return self.outcome == "waiting"

    def free(self, data: Any) -> bool:
        return bool(_event(data, m.Scheduled).free)

    def tests_remain(self, _: Any) -> bool:
        return bool(self.test) or self.has_next()

    def nothing_left(self, _: Any) -> bool:
        return not self.test and not self.has_next()

    def last_test(self, _: Any) -> bool:
        return not self.has_next()

    def attempt_open(self, _: Any) -> bool:
        return bool(self.uid)

    def reboot_due(self, _: Any) -> bool:
        return self.reboot_owed and self.experiment.policy.reboot != "never"

    def cannot_write(self, data: Any) -> bool:
        return _event(data, m.Failed).result.code in UNWRITABLE

    def hopeless(self, data: Any) -> bool:
        result = _event(data, m.Failed).result
        return result.would_fail_every_test or (result.blame != "test" and self.blameless_spent(data))

    def blameless_spent(self, _: Any) -> bool:
        return self.blameless + 1 >= BLAMELESS_BUDGET

    def not_the_test(self, data: Any) -> bool:
        return _event(data, m.Failed).result.blame in ("machine", "network")

    def not_charged(self, data: Any) -> bool:
        return _event(data, m.Failed).result.blame != "test"

    def given_up(self, _: Any) -> bool:
        return self.charged + 1 > self.experiment.policy.retries

    def nth_in_a_row(self, _: Any) -> bool:
        return self.failures_in_a_row + 1 >= self.experiment.policy.halt_after_consecutive_failures

    def restarts_by_itself(self, data: Any) -> bool:
        return max(self._restarts_with(_event(data, m.Validated)).values(), default=0) >= FLAPS

    def flapping(self, _: Any) -> bool:
        return self.setbacks + 1 >= SETBACKS

    def rung_reboots(self, data: Any) -> bool:
        return self._next_rung(_event(data, m.Due).now)[0] in ("soft", "forced")

    def rung_cycles(self, data: Any) -> bool:
        return self._next_rung(_event(data, m.Due).now)[0] == "power"

    def patience_used_up(self, data: Any) -> bool:
        event = _event(data, m.Unreachable)
        if self._away_for(event.now) < self.tuning.patience_secs:
            return False
        return not self._next_rung(event.now, _ill(event))[0]  # while a restart may help, nobody is called

    def machine_at_fault(self, _: Any) -> bool:
        return self.probing

    def disk_at_fault(self, _: Any) -> bool:
        return self.cause == "disk"

    def not_by_operator(self, _: Any) -> bool:
        return self.cause != "operator"

    def is_current(self, data: Any) -> bool:
        return bool(self.test) and _event(data, m.Skip).test == self.test

    def third_crash(self, data: Any) -> bool:
        return _event(data, m.Restarted).crashed and self.crashes + 1 >= 3

    def second_poison(self, _: Any) -> bool:
        return self.poisoned + 1 >= 2

    # ------------------------------------------------------------ bookkeeping: the way to an attempt

    def look_afresh(self, _: Any) -> None:
        self.pings = self.ssh_checks = 0
        self.reason = ""

    def note_answer(self, data: Any) -> None:
        event = _event(data, m.Validated)
        self.pings += event.pings
        self.ssh_checks += event.ssh_checks
        self._all_answered(event)

    def store_boot_ids(self, data: Any) -> None:
        self._all_answered(_event(data, m.Validated))

    def reboot_done(self, data: Any) -> None:
        if not self.rung:
            self.reboot_owed = False
        self._restarted(_event(data, m.Rebooted).boot_ids)

    def open_attempt(self, data: Any) -> None:
        event = _event(data, m.Validated)
        if not self.test:
            self._take_next()
        self.number += 1
        self.attempts += 1
        self.uid, self.domain, self.opened, self.confirmed = event.uid, event.domain, event.wall, False
        self.attempt_since = event.now
        machines = self.experiment.machines
        self.facts = event.facts
        self.plan = self.tool.plan(self.test, self.settings(), machines, event.domain, event.probes)
        self.step.changes.append(
            m.AttemptOpened(
                uid=self.uid,
                test=self.test,
                index=self.index,
                number=self.number,
                started=event.wall,
                pings=self.pings,
                ssh_checks=self.ssh_checks,
                plan=self.plan,
                facts=event.facts,
            )
        )
        self.pings = self.ssh_checks = 0

    def confirm(self, data: Any) -> None:
        if not self.confirmed:
            self.attempt_since = _event(data, m.Started).now
        self.confirmed = True

    # ------------------------------------------------------------ bookkeeping: the end of an attempt

    def record_success(self, data: Any) -> None:
        event = _event(data, m.Succeeded)
        self._close(event.result, event.wall)
        if event.result.end_status == "success":
            self.failures_in_a_row = 0
        self.rungs, self.restarts, self.suspects = {}, {}, []
        self.setbacks = self.comebacks = 0
        self.succeeded += 1
        self._decide(event.result.end_status, event.wall)

    def record_failure(self, data: Any) -> None:
        event = _event(data, m.Failed)
        over = self.given_up(data)
        suspect = [self.test, self.index, self.number]
        suspicious = event.result.end_status in SUSPICIOUS and not self.refunded
        self._close(event.result, event.wall)
        self.charged += 1
        self.step.note = f"{event.result.reason} (charged {self.charged} of {self.experiment.policy.retries + 1})"
        self.reboot_owed = self.reboot_owed or self.experiment.policy.reboot == "failure"
        if over:
            self.failed += 1
            self.failures_in_a_row += 1
            self.reason = event.result.reason
            self._decide(event.result.end_status, event.wall)
        if suspicious:
            self.suspects = [other for other in self.suspects if other[0] != suspect[0]] + [suspect]

    def record_blameless(self, data: Any) -> None:
        event = _event(data, m.Failed)
        self._close(event.result, event.wall)
        self.blameless += 1
        self.reason = event.result.reason

    def refund(self, data: Any) -> None:
        """Give back what tests were charged while an outage may have begun already; each test gets it once."""
        event = _event(data, m.Event)
        if isinstance(event, m.Unreachable):
            outage = any(map(is_outage, _ill(event).values()))
        else:
            result = _event(data, m.Failed).result
            outage = result.end_status in ("rebooted", "machine-lost") or is_outage(result.code)
        if not outage:
            return  # somebody uses the machine, say, or its disk is full
        why = f"given back what it was charged: {self.reason}"
        for test, _, number in reversed(self.suspects):
            self.step.asides.append((test, "refunded", why))
            if test == self.test:
                self.charged, self.refunded = 0, True
                continue
            self.failed -= 1
            self.failures_in_a_row = max(0, self.failures_in_a_row - 1)
            entry = m.Requeued(test=test, number=number, charged=0, refunded=True)
            self.requeued.appendleft(entry)
            self.step.changes.append(entry)
        self.suspects = []

    def interrupt_by_controller(self, data: Any) -> None:
        event = _event(data, m.HalfStarted)
        why = event.reason or "the daemon was interrupted while it started the attempt"
        self._close_open("interrupted", "controller", why, event.wall, code="HALF_STARTED")
        self.blameless += 1

    def interrupt_by_operator(self, data: Any) -> None:
        event = _event(data, m.Event)
        self._close_open("interrupted", "operator", f"stopped by {self._who(event)}", event.wall)
        self.sweep_owed = True

    def end_kept(self, data: Any) -> None:
        """End the attempt that stayed open through a halt, where there is one."""
        event = _event(data, m.Event)
        self.sweep_owed = self.sweep_owed or bool(self.uid)
        self._close_open("interrupted", "operator", f"stopped by {self._who(event)}", event.wall)

    def owe_sweep(self, _: Any) -> None:
        self.sweep_owed = True

    def lose_open(self, data: Any) -> None:
        event = _event(data, m.Event)
        assert isinstance(event, m.Unreachable | m.Impossible)
        evidence = event.evidence if isinstance(event, m.Unreachable) else "{}"
        self.sweep_owed = self.sweep_owed or bool(self.uid)
        self._close_open(
            "machine-lost",
            "machine",
            event.reason,
            event.wall,
            machine=event.machine,
            code=event.code or "MACHINE_LOST",
            evidence=evidence,
        )

    def skip_current(self, data: Any) -> None:
        event = _event(data, m.Skip)
        if self.uid:
            self._close_open("skipped", "operator", f"skipped by {self._who(event)}", event.wall)
        else:
            self.number += 1
            self._record_skip(event, self.number)
        self.skipped += 1
        self._decide("skipped", event.wall)

    def skip_other(self, data: Any) -> None:
        event = _event(data, m.Skip)
        waiting = next((r for r in self.requeued if r.test == event.test), None)
        if waiting is not None:
            self.requeued.remove(waiting)
            self.step.changes.append(m.Unqueued(test=event.test))
        elif event.index >= self.cursor:
            self.decided_ahead.add(event.test)
        number = (waiting.number if waiting else 0) + 1
        self.step.asides.append((event.test, "skip", f"skipped by {self._who(event)}"))
        self._record_skip(event, number)
        self.skipped += 1
        self._decided(event.test, event.index, "skipped", number, event.wall)

    def requeue(self, data: Any) -> None:
        event = _event(data, m.Retry)
        for test, number, status in event.tests:
            if status in KEPT:
                self.succeeded -= 1
            elif status == "skipped":
                self.skipped -= 1
            else:
                self.failed -= 1
            self._clear(test)
            self.step.asides.append((test, "retry", f"{self._who(event)} wants it tried again"))
            entry = m.Requeued(test=test, number=number, charged=0, first=False)
            self.requeued.append(entry)
            self.step.changes.append(entry)

    # ------------------------------------------------------------ bookkeeping: stopping and going on

    def finish(self, data: Any) -> None:
        self.outcome = "finished"
        self.sweep_owed = True
        self._tell("finish", "every test has its verdict")

    def finish_waiting(self, _: Any) -> None:
        """Nothing of it is on the machines, so nothing has to be swept."""
        if self.outcome == "waiting" and not self.test and not self.has_next():
            self.outcome = "finished"
            self._tell("finish", "every test has its verdict")

    def call_off(self, data: Any) -> None:
        if self.test:
            # Dropped again, the experiment goes on with this test.
            entry = m.Requeued(test=self.test, number=self.number, charged=self.charged, refunded=self.refunded)
            self.requeued.appendleft(entry)
            self.step.changes.append(entry)
            self._drop_current()
        self._leave_rung()
        self.quiet = self.outage_told = False
        self.outcome, self.cause, self.code = "cancelled", "", ""
        self.reason = f"cancelled by {self._who(_event(data, m.Event))}"

    def note_away(self, data: Any) -> None:
        event = _event(data, m.Event)
        self.away_secs = self._away_for(event.now)
        self.away_seen = event.now
        first, cap = self.tuning.backoff_first_secs, self.tuning.backoff_cap_secs
        tries = max(self.tries, self.blameless - 1)  # machines that answer, but lose attempt after attempt
        self.backoff_secs = backoff_secs(tries, first, cap, self.draw)
        self.tries += 1
        self.setbacks += 1
        self._leave_rung()
        if isinstance(event, m.Unreachable):
            self.reason, self.code = event.reason, event.code
            self.ill = _ill(event)
            if self.state == "running" and not self.confirmed:
                self.attempt_since = event.now  # until now its launchers may have been started
            if self.uid:
                self.was_away.update((name, code) for name, code in self.ill.items() if is_outage(code))
            self.pings += event.pings
            self.ssh_checks += event.ssh_checks

    # ------------------------------------------------------------ bookkeeping: the ladder

    def climb(self, data: Any) -> None:
        """Take the next rung; it counts as used from here on, whatever comes of it."""
        self.rung, self.climbing = self._next_rung(_event(data, m.Due).now)
        for name in self.climbing:
            self.rungs[name] = RUNGS.index(self.rung) + 1
        what = {"soft": "is rebooted", "forced": "is rebooted by force", "power": "has its power cycled"}[self.rung]
        self.step.note = f"{', '.join(self.climbing)} {what}: {self.reason}"

    def note_restarted(self, data: Any) -> None:
        self._restarted(_event(data, m.Cycled).boot_ids)

    def note_no_effect(self, data: Any) -> None:
        event = _event(data, m.NotCycled)
        self._leave_rung()
        self.backoff_secs = 0.0  # it has been waited for already
        self.step.note = event.reason

    def leave_rung(self, _: Any) -> None:
        """A restart: the power may be cycled already, so the machines are looked at before anything else."""
        self._leave_rung()

    def look_at_clock(self, data: Any) -> None:
        if self.uid:
            self.attempt_since = _event(data, m.Restarted).now

    # ------------------------------------------------------------ bookkeeping: halts

    def blame_machine(self, data: Any) -> None:
        event = _event(data, m.Event)
        result = event.result if isinstance(event, m.Failed) else event
        # What a probe cannot see (a missing licence, say) a probe cannot call mended.
        probing = isinstance(event, m.Impossible)
        machine, code = getattr(result, "machine", ""), getattr(result, "code", "")
        self._halt("machine", getattr(result, "reason", ""), machine, code=code, probing=probing)

    def blame_controller(self, data: Any) -> None:
        self.sweep_owed = True
        result = _event(data, m.Failed).result
        self._halt("controller", result.reason, code=result.code)

    def blame_away(self, data: Any) -> None:
        event = _event(data, m.Unreachable)
        away = self._away_for(event.now)
        ill = _ill(event)
        reason = f"{event.reason} (no answer for {away:.0f} s)"
        everyone = len(ill) > 1 and len(ill) == len(self.experiment.machines) and {*ill.values()} <= SILENT
        if everyone:
            reason = f"none of the {len(ill)} machines answers, so look at the network first; {reason}"
        self._halt("machine", reason, event.machine, code=event.code, probing=True, everyone=everyone)

    def blame_flapping(self, data: Any) -> None:
        event = _event(data, m.Unreachable)
        count = self.setbacks + 1
        reason = f"machines were found away {count} times since the last test succeeded; lately {event.reason}"
        self._halt("machine", reason, event.machine, code="MACHINE_FLAPPING")

    def blame_restarts(self, data: Any) -> None:
        event = _event(data, m.Validated)
        self._all_answered(event)
        machine = max(self.restarts, key=lambda name: self.restarts[name])
        reason = f"{machine} restarted {self.restarts[machine]} times by itself since the last test succeeded"
        self._halt("machine", reason, machine, code="MACHINE_FLAPPING")

    def blame_failures(self, data: Any) -> None:
        self.sweep_owed = True
        count = self.failures_in_a_row
        last = f"; the last one: {self.reason}" if self.reason else ""
        reason = f"{count} tests in a row failed with all their attempts{last}"
        self._halt("failures", reason, code="CONSECUTIVE_FAILURES")

    def blame_crashes(self, _: Any) -> None:
        self.sweep_owed = True
        reason = f"{self.poisoned} tests made the daemon crash; the last one: {self.reason}"
        self._halt("failures", reason, code="DAEMON_CRASHES")

    def blame_operator(self, data: Any) -> None:
        self._halt("operator", f"halted by {self._who(_event(data, m.Event))}")

    def take_over(self, data: Any) -> None:
        self.cause, self.code, self.probing, self.outage_told = "operator", "", False, False
        self.reason = f"halted by {self._who(_event(data, m.Event))}; before: {self.reason}"

    def blame_disk(self, data: Any) -> None:
        event = _event(data, m.LowDisk)
        passes = event.code in PASSING and self.comebacks < COMEBACKS
        everyone = event.code in PASSING  # the disk of all; a results folder is one experiment's own
        self._halt("disk" if passes else "controller", event.reason, code=event.code, everyone=everyone)

    def say_resumed(self, data: Any) -> None:
        self._tell("resume", f"resumed by {self._who(_event(data, m.Event))}")

    def say_over(self, _: Any) -> None:
        self._tell("over", self.reason)

    def forgive(self, _: Any) -> None:
        self.cause = self.code = self.reason = ""
        self.probing = self.quiet = self.outage_told = False
        self.failures_in_a_row = self.blameless = self.tries = self.setbacks = 0
        self.away_secs, self.away_seen = 0.0, None
        self.ill, self.rungs, self.restarts, self.suspects = {}, {}, {}, []

    def come_back(self, _: Any) -> None:
        self.comebacks += 1

    def take_up_again(self, data: Any) -> None:
        if self.outcome != "waiting":
            self.forgive(data)
            self.outcome = "waiting" if (self.test or self.has_next()) else "finished"

    def reschedule(self, data: Any) -> None:
        if isinstance(_event(data, m.Event), m.Retry):
            self.outcome = "waiting"
        self.step.reschedule = True

    def sweep_done(self, _: Any) -> None:
        self.sweep_owed = False
        self.step.reschedule = True

    def count_crash(self, data: Any) -> None:
        if _event(data, m.Restarted).crashed:
            self.crashes += 1

    def drop_poison(self, data: Any) -> None:
        event = _event(data, m.Restarted)
        self.poisoned += 1
        self.reason = f"the daemon crashed three times while it ran {self.test}"
        self._close_open("crashed-daemon", "controller", self.reason, event.wall, code="DAEMON_CRASHES")
        self.failed += 1
        self._decide("crashed-daemon", event.wall)

    # ------------------------------------------------------------ work

    def sweep_if_owed(self) -> m.Order | None:
        # An attempt that waits for room on the disk has its files there, and whatever goes on with it sweeps.
        return m.Sweep(self.experiment.machines) if self.sweep_owed and not self.uid else None

    def sweep_if_owed_or_probe(self) -> m.Order | None:
        # Whoever goes on sweeps, so what is owed waits for the machines that are probed for.
        if self.probing:
            return m.SlowProbe(self.experiment.machines, self.tuning.probe_secs)
        return self.sweep_if_owed()

    def validate(self) -> m.Order:
        return m.Validate(self.experiment.machines, self.experiment.policy.reboot != "never", self.uid)

    def reboot(self) -> m.Order:
        return m.Reboot(*self._climbers(), self.rung)

    def run_attempt(self) -> m.Order:
        assert self.plan is not None
        deadline = self.plan.duration_secs + self.experiment.policy.buffer_secs
        return m.RunAttempt(
            self.experiment.machines,
            self.uid,
            self.number,
            self.plan,
            float(deadline),
            self.confirmed,
            self.opened,
            self.facts,
            dict(self.was_away),
        )

    def wait_or_cycle(self) -> m.Order:
        if self.rung == "power":
            return m.PowerCycle(*self._climbers())
        # After a restart nobody knows how long the wait has lasted already.
        return m.Wait(self.experiment.machines, 0.0 if self.step.event == "restarted" else self.backoff_secs)

    # ------------------------------------------------------------ small parts

    def _take_next(self) -> None:
        self.has_next()
        if self.requeued:
            entry = self.requeued.popleft()
            index = self.sweep.index_of(entry.test)
            assert index is not None
            self.test, self.index, self.number, self.charged = entry.test, index, entry.number, entry.charged
            self.refunded = entry.refunded
            self.step.changes.append(m.Unqueued(test=entry.test))
        else:
            self.test, self.index = self.sweep.name_at(self.cursor), self.cursor
            self.number = self.charged = 0
            self.refunded = False
            self.cursor += 1
        self.blameless = self.crashes = 0

    def _all_answered(self, event: m.Validated) -> None:
        self.restarts = self._restarts_with(event)
        self.boot_ids = dict(event.boot_ids)
        self.tries, self.away_secs, self.away_seen, self.reason, self.code = 0, 0.0, None, "", ""
        self.ill = {}
        self._leave_rung()

    def _restarts_with(self, event: m.Validated) -> dict[str, int]:
        """`restarts` with the boots that nobody here asked for and this validation shows."""
        found = dict(self.restarts)
        for name, boot in event.boot_ids.items():
            if self.boot_ids.get(name, boot) != boot:
                found[name] = found.get(name, 0) + 1
        return found

    def _restarted(self, boot_ids: Mapping[str, str]) -> None:
        """Machines have restarted because we wanted it."""
        self.boot_ids = {**self.boot_ids, **boot_ids}
        self._leave_rung()

    def _leave_rung(self) -> None:
        self.rung, self.climbing = "", []

    def _climbers(self) -> tuple[tuple[Machine, ...], dict[str, str]]:
        """The machines that are to be restarted, all or those on the rung, and their boot ids as far as known."""
        machines = tuple(x for x in self.experiment.machines if not self.rung or x.name in self.climbing)
        return machines, {x.name: self.boot_ids[x.name] for x in machines if x.name in self.boot_ids}

    def _next_rung(self, now: float, ill: Mapping[str, str] | None = None) -> tuple[str, list[str]]:
        """The lowest rung that is left to try, and the machines to try it on; ("", []) for none."""
        ill = self.ill if ill is None else ill
        if self.experiment.policy.reboot == "never" or self._away_for(now) < self.tuning.restart_after_secs:
            return "", []
        if self._attempt_may_run(now):
            return "", []
        wanted: dict[str, list[str]] = {}
        for machine in self.experiment.machines:
            left = RUNGS[self.rungs.get(machine.name, 0) :]
            can = [rung for rung in rungs_for(ill.get(machine.name, "?")) if rung in left]
            if not machine.power_cycle:
                can = [rung for rung in can if rung != "power"]
            if machine.name not in self.boot_ids:  # nothing would prove a reboot
                can = [rung for rung in can if rung == "power"]
            if can:
                wanted.setdefault(can[0], []).append(machine.name)
        return next(((rung, wanted[rung]) for rung in RUNGS if rung in wanted), ("", []))

    def _attempt_may_run(self, now: float) -> bool:
        """Whether an attempt is open that need not have ended by itself yet."""
        if not self.uid or self.plan is None:
            return False
        secs = self.plan.duration_secs + self.experiment.policy.buffer_secs + self.tuning.grace_secs + MARGIN_SECS
        return self.attempt_since is None or now < self.attempt_since + secs

    def _drop_current(self) -> None:
        self.test, self.index, self.number, self.charged, self.blameless = "", -1, 0, 0, 0
        self.crashes, self.refunded = 0, False

    def _close(self, result: m.AttemptResult, wall: float) -> None:
        ended = max(wall, self.opened)  # a clock that was set back makes no attempt end before it began
        self.step.changes.append(
            m.AttemptClosed(uid=self.uid, test=self.test, number=self.number, ended=ended, result=result)
        )
        self.largest, self.kept_bytes = max(self.largest, result.size), self.kept_bytes + result.size
        self.uid, self.plan, self.confirmed, self.opened, self.attempt_since = "", None, False, 0.0, None
        self.was_away = {}
        self.reboot_owed = self.reboot_owed or self.experiment.policy.reboot == "test"

    def _close_open(
        self,
        status: str,
        blame: Blame,
        reason: str,
        wall: float,
        *,
        machine: str = "",
        code: str = "",
        evidence: str = "{}",
    ) -> None:
        """End the open attempt, where there is one."""
        if self.uid:
            result = m.AttemptResult(
                end_status=status, blame=blame, reason=reason, machine=machine, code=code, evidence=evidence
            )
            self._close(result, wall)

    def _record_skip(self, event: m.Skip, number: int) -> None:
        reason = f"skipped by {self._who(event)}"
        result = m.AttemptResult(end_status="skipped", blame="operator", reason=reason)
        self.step.changes.append(
            m.AttemptClosed(
                uid="",
                test=event.test,
                number=number,
                ended=event.wall,
                result=result,
                settings=self.sweep.at(event.index),
            )
        )

    def _decide(self, status: str, wall: float) -> None:
        self._decided(self.test, self.index, status, self.number, wall)
        self._drop_current()

    def _clear(self, test: str) -> None:
        """No outage found later changes anything for this test."""
        self.suspects = [suspect for suspect in self.suspects if suspect[0] != test]

    def _decided(self, test: str, index: int, status: str, attempts: int, wall: float) -> None:
        self._clear(test)
        self.step.changes.append(m.TestDecided(test=test, index=index, status=status, attempts=attempts, wall=wall))

    def _away_for(self, now: float) -> float:
        return self.away_secs + (max(0.0, now - self.away_seen) if self.away_seen is not None else 0.0)

    def _halt(
        self,
        cause: str,
        reason: str,
        machine: str = "",
        *,
        code: str = "",
        probing: bool = False,
        everyone: bool = False,
    ) -> None:
        """`probing`: it may go on by itself. `everyone`: others may meet the same, no machine that answers, say."""
        self.cause, self.reason, self.code = cause, reason, code
        self.probing = probing and self.tuning.auto_resume and self.comebacks < COMEBACKS
        self.incident += 1
        self._leave_rung()
        self._tell("halt", reason, machine, everyone=everyone)

    def _tell(self, kind: str, reason: str, machine: str = "", *, everyone: bool = False) -> None:
        facts: dict[str, str | int | float] = {
            "experiment": self.experiment.name,
            "reason": reason,
            "incident": self.incident,
            "cause": self.cause,
            "code": self.code,
            "everyone": everyone,
            "quiet": self.quiet,
            "machine": machine,
            "test": self.test,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "tests_done": self.succeeded + self.failed + self.skipped,
            "tests_total": self.succeeded + self.failed + self.skipped + self.remaining(),
            "todo": todo(self.cause, self.probing, self.experiment.name, self.code) if kind == "halt" else "",
        }
        self.step.changes.append(m.Notice(kind=kind, facts=facts))

    @staticmethod
    def _who(event: m.Event) -> str:
        return getattr(event, "who", "") or "somebody"


def _ill(event: m.Unreachable) -> dict[str, str]:
    """Machine -> code of every machine that was not fit."""
    return dict(event.ill) or {event.machine: event.code}


def _event(data: Any, kind: type[E]) -> E:
    event = data.kwargs["event"]
    assert isinstance(event, kind), event
    return event


def _make_state_machine() -> Any:
    machine = StateMachine(
        model=None, states=list(STATES), initial="idle", auto_transitions=False, send_event=True, queued=False
    )
    for row in ROWS:

        def mark(data: Any, row: Row = row) -> None:
            data.model.step.row = row

        machine.add_transition(
            row.event, list(row.source), row.to, conditions=list(row.only_if), before=[mark, *row.then]
        )
    return machine


STATE_MACHINE: Any = _make_state_machine()
"""One `transitions.Machine` for all experiments; every Life is a model of it."""


def begin(life: Life, state: str = "idle") -> Life:
    """Put a new life under the state machine."""
    STATE_MACHINE.add_model(life, initial=state)
    return life


def end(life: Life) -> None:
    """Let the state machine forget a life (it holds its models strongly)."""
    STATE_MACHINE.remove_model(life)


def rows_for(event: str, state: str) -> Iterator[Row]:
    """The rows that an event may take in a state, first match first."""
    return (row for row in ROWS if row.event == event and state in row.source)


def advance(life: Life, event: m.Event) -> Step:
    """Let `event` happen to `life`. Where no row matches nothing changes and `taken` is False."""
    before = life.state
    step = life.step = Step(event.row, before, before, taken=False)
    if next(rows_for(event.row, before), None) is None:
        return step
    if not STATE_MACHINE.events[event.row].trigger(life, event=event) or step.row is None:
        return step
    step.taken, step.after = True, life.state
    if step.after != before:
        life.since = event.wall
        if step.after == "halted":
            step.note, step.code = life.reason, life.code
    if step.row.asks:
        life.ticket += 1
        step.replaces_work = True
        step.order = getattr(life, WORK[life.state])()
    return step


def diagram() -> str:
    """The rows as a mermaid state diagram: one arrow for each pair of states, its events on it."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for row in ROWS:
        for source in row.source:
            to = source if row.to == "=" else row.to
            label = row.event if not row.only_if else f"{row.event} [{', '.join(row.only_if)}]"
            events = arrows.setdefault((source, to), [])
            if label not in events:
                events.append(label)
    lines = ["stateDiagram-v2", "    [*] --> idle"]
    for (source, to), events in sorted(arrows.items()):
        a, b = source.replace("-", "_"), to.replace("-", "_")
        lines.append(f"    {a} --> {b}: {'<br>'.join(events)}")
    lines.append("    idle --> [*]")
    return "\n".join(lines) + "\n"
