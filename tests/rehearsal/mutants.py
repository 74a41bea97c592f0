"""Deliberate bugs of the protocols, each put into the product for a while by a function of its name. One thread."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from autoperfd.core import lifecycle
from autoperfd.core import messages as m
from autoperfd.core.lifecycle import Life, Step, advance
from autoperfd.daemon import engine
from autoperfd.daemon.engine import Engine, Entry
from autoperfd.daemon.store import Happened, Loaded, SaveLife, Store, Write
from autoperfd.daemon.work import Answer
from autoperfd.rehearsal.world import Notebook

Patch = pytest.MonkeyPatch
PutIn = Callable[[Patch], None]
MUTANTS: dict[str, PutIn] = {}


def mutant(function: PutIn) -> PutIn:
    """Make a function one of the mutants."""
    MUTANTS[function.__name__] = function
    return function


def around(patch: Patch, where: Any, name: str, new: Callable[..., Any]) -> None:
    """Let a method be `new(old, self, ...)`."""
    old = getattr(where, name)
    patch.setattr(where, name, lambda self, *args, **more: new(old, self, *args, **more))


def has_no_effect_on(patch: Patch, method: str, attribute: str) -> None:
    """That attribute of a life is after that method what it was before."""

    def keep(old: Any, self: Life, *args: Any) -> None:
        before = getattr(self, attribute)
        old(self, *args)
        setattr(self, attribute, before)

    around(patch, Life, method, keep)


def never(patch: Patch, *guards: str) -> None:
    """These guards do not hold any more."""
    for guard in guards:
        patch.setattr(Life, guard, lambda self, data: False)


# ---------------------------------------------------------------- the engine


@mutant
def work_starts_before_the_commit(patch: Patch) -> None:
    def commit(old: Any, self: Engine, entry: Entry, event: m.Event, step: Step, *rest: Any) -> None:
        if step.replaces_work and step.order is not None:
            folder = self.results / entry.row.folder
            self.workers.start(entry.life.id, entry.life.ticket, step.order, folder, entry.life.experiment.tool)
            step.replaces_work = False
        old(self, entry, event, step, *rest)

    around(patch, Engine, "_commit", commit)


@mutant
def old_tickets_are_accepted(patch: Patch) -> None:
    def answered(old: Any, self: Engine, answer: Answer) -> None:
        if answer.experiment in self.entries:
            answer = replace(answer, ticket=self.entries[answer.experiment].life.ticket)
        old(self, answer)

    around(patch, Engine, "_answered", answered)


@mutant
def a_result_is_written_twice(patch: Patch) -> None:
    def commit(old: Any, self: Store, writes: Sequence[Write]) -> None:
        again = [w for w in writes if isinstance(w, Happened) and isinstance(w.change, m.AttemptClosed)]
        old(self, [*writes, *again])

    around(patch, Store, "commit", commit)


@mutant
def one_step_is_two_transactions(patch: Patch) -> None:
    def commit(old: Any, self: Notebook, writes: Sequence[Write]) -> None:
        lives = [write for write in writes if isinstance(write, SaveLife)]
        if lives and len(lives) < len(writes):
            old(self, lives)
            writes = [write for write in writes if not isinstance(write, SaveLife)]
        old(self, writes)

    around(patch, Notebook, "commit", commit)


@mutant
def requeued_tests_are_forgotten_at_a_restart(patch: Patch) -> None:
    def load(old: Any, self: Store) -> Loaded:
        loaded: Loaded = old(self)
        loaded.requeued.clear()
        return loaded

    around(patch, Store, "load", load)


@mutant
def the_open_attempt_is_forgotten_at_a_restart(patch: Patch) -> None:
    def restore(old: Any, self: Life, text: str) -> None:
        old(self, text)
        self.uid = ""

    around(patch, Life, "restore", restore)


@mutant
def messages_are_not_kept(patch: Patch) -> None:
    """The incident's number is, so the next halt's is out of order."""
    seen = itertools.count()
    around(patch, Engine, "_outgoing", lambda old, self, *args: [] if next(seen) % 3 == 0 else old(self, *args))


@mutant
def a_restart_asks_for_nothing(patch: Patch) -> None:
    def advanced(life: Life, event: m.Event) -> Step:
        step = advance(life, event)
        if isinstance(event, m.Restarted):
            step.order, step.replaces_work = None, False
        return step

    patch.setattr(engine, "advance", advanced)


@mutant
def nobody_is_scheduled_when_machines_are_free_again(patch: Patch) -> None:
    def advanced(life: Life, event: m.Event) -> Step:
        step = advance(life, event)
        step.reschedule = step.reschedule and not isinstance(event, m.Swept)
        return step

    patch.setattr(engine, "advance", advanced)


@mutant
def machines_are_given_away_too_early(patch: Patch) -> None:
    patch.setattr(Life, "holds_machines", lambda self: self.state == "running")


# ---------------------------------------------------------------- the life of an experiment


@mutant
def nothing_is_swept(patch: Patch) -> None:
    patch.setattr(Life, "sweep_if_owed", lambda self: None)


@mutant
def a_stopped_attempt_is_left_alive(patch: Patch) -> None:
    has_no_effect_on(patch, "interrupt_by_operator", "sweep_owed")


@mutant
def a_confirmed_start_is_forgotten(patch: Patch) -> None:
    """So that it is started again where its files were lost."""
    patch.setattr(Life, "confirm", lambda self, data: None)


@mutant
def the_test_pays_for_machines(patch: Patch) -> None:
    never(patch, "not_the_test", "not_charged", "hopeless")


@mutant
def others_pay_without_end(patch: Patch) -> None:
    never(patch, "blameless_spent")


@mutant
def one_retry_too_few(patch: Patch) -> None:
    patch.setattr(Life, "given_up", lambda self, data: self.charged + 2 > self.experiment.policy.retries)


@mutant
def one_retry_too_many(patch: Patch) -> None:
    patch.setattr(Life, "given_up", lambda self, data: self.charged > self.experiment.policy.retries)


@mutant
def failures_in_a_row_outlive_a_success(patch: Patch) -> None:
    def record(old: Any, self: Life, data: Any) -> None:
        row = self.failures_in_a_row
        old(self, data)
        self.failures_in_a_row = row

    around(patch, Life, "record_success", record)


@mutant
def failures_in_a_row_do_not_halt(patch: Patch) -> None:
    never(patch, "nth_in_a_row")


@mutant
def an_attempt_number_is_used_again(patch: Patch) -> None:
    def take(old: Any, self: Life) -> None:
        old(self)
        self.number = 0

    around(patch, Life, "_take_next", take)


@mutant
def a_halt_is_told_twice(patch: Patch) -> None:
    def halt(old: Any, self: Life, cause: str, reason: str, machine: str = "", **more: Any) -> None:
        old(self, cause, reason, machine, **more)
        self._tell("halt", reason, machine)

    around(patch, Life, "_halt", halt)


@mutant
def a_skipped_test_is_run_anyway(patch: Patch) -> None:
    def skip(old: Any, self: Life, data: Any) -> None:
        ahead = set(self.decided_ahead)
        old(self, data)
        self.decided_ahead = ahead

    around(patch, Life, "skip_other", skip)


@mutant
def a_cancelled_test_is_lost(patch: Patch) -> None:
    def call_off(old: Any, self: Life, data: Any) -> None:
        old(self, data)
        if self.requeued and self.step.changes and isinstance(self.step.changes[-1], m.Requeued):
            self.requeued.popleft()
            self.step.changes.pop()

    around(patch, Life, "call_off", call_off)


@mutant
def a_halt_for_a_machine_is_never_over(patch: Patch) -> None:
    never(patch, "machine_at_fault")


@mutant
def patience_never_ends_and_nobody_looks_again(patch: Patch) -> None:
    patch.setattr(Life, "wait_or_cycle", lambda self: None)


# ---------------------------------------------------------------- outages


@mutant
def an_outage_is_charged_to_tests(patch: Patch) -> None:
    patch.setattr(Life, "refund", lambda self, data: None)


@mutant
def an_outage_found_by_a_look_gives_nothing_back(patch: Patch) -> None:
    def refund(old: Any, self: Life, data: Any) -> None:
        if not isinstance(data.kwargs["event"], m.Unreachable):
            old(self, data)

    around(patch, Life, "refund", refund)


@mutant
def an_outage_that_is_over_is_charged_to_the_test(patch: Patch) -> None:
    around(patch, Life, "run_attempt", lambda old, self: replace(old(self), was_away={}))


@mutant
def an_outage_in_mid_attempt_is_forgotten_at_a_restart(patch: Patch) -> None:
    def restore(old: Any, self: Life, text: str) -> None:
        old(self, text)
        self.was_away = {}

    around(patch, Life, "restore", restore)


@mutant
def an_outage_excuses_the_next_attempt_as_well(patch: Patch) -> None:
    has_no_effect_on(patch, "_close", "was_away")


@mutant
def a_charge_is_given_back_again_and_again(patch: Patch) -> None:
    def refund(old: Any, self: Life, data: Any) -> None:
        old(self, data)
        self.refunded = False

    around(patch, Life, "refund", refund)


@mutant
def what_is_given_back_comes_last(patch: Patch) -> None:
    def take(old: Any, self: Life) -> None:
        later = self.requeued
        if later and later[0].refunded and self.cursor < self.sweep.count:
            self.requeued = type(later)()
        old(self)
        self.requeued = later

    around(patch, Life, "_take_next", take)


@mutant
def an_attempt_opens_while_a_machine_is_away(patch: Patch) -> None:
    def answered(old: Any, self: Engine, answer: Answer) -> None:
        entry, event = self.entries.get(answer.experiment), answer.event
        if entry is not None and entry.life.state == "validating" and isinstance(event, m.Unreachable):
            boots = {machine.name: "?" for machine in entry.life.experiment.machines}
            answer = replace(answer, event=m.Validated(boot_ids=boots))
        old(self, answer)

    around(patch, Engine, "_answered", answered)


@mutant
def a_suspend_goes_unnoticed(patch: Patch) -> None:
    patch.setattr(Engine, "_look_for_sleep", lambda self: None)


@mutant
def an_outage_is_told_by_everyone(patch: Patch) -> None:
    def notice(old: Any, self: Engine, *args: Any) -> Any:
        for entry in self.entries.values():
            entry.life.outage_told = False
        return old(self, *args)

    around(patch, Engine, "_notice", notice)


@mutant
def an_outage_is_told_by_nobody(patch: Patch) -> None:
    def notice(old: Any, self: Engine, entry: Entry, told: m.Notice, *rest: Any) -> Any:
        rows = old(self, entry, told, *rest)
        return [replace(row, state="merged") if told.facts.get("everyone") else row for row in rows]

    around(patch, Engine, "_notice", notice)


@mutant
def nobody_looks_for_room(patch: Patch) -> None:
    patch.setattr(Engine, "_look_for_room", lambda self: None)


# ---------------------------------------------------------------- the ladder


@mutant
def a_rung_is_tried_again(patch: Patch) -> None:
    def climb(old: Any, self: Life, data: Any) -> None:
        old(self, data)
        self.rungs = {}

    around(patch, Life, "climb", climb)


@mutant
def a_running_attempt_is_rebooted_away(patch: Patch) -> None:
    patch.setattr(Life, "_attempt_may_run", lambda self, now: False)


@mutant
def an_attempt_lasts_from_its_opening_on(patch: Patch) -> None:
    has_no_effect_on(patch, "confirm", "attempt_since")
    has_no_effect_on(patch, "note_away", "attempt_since")


@mutant
def never_is_seldom(patch: Patch) -> None:
    def next_rung(old: Any, self: Life, *args: Any) -> Any:
        experiment = self.experiment
        self.experiment = replace(experiment, policy=replace(experiment.policy, reboot="failure"))
        found = old(self, *args)
        self.experiment = experiment
        return found

    around(patch, Life, "_next_rung", next_rung)


@mutant
def the_power_is_cycled_again_after_a_restart(patch: Patch) -> None:
    patch.setattr(Life, "leave_rung", lambda self, data: None)


@mutant
def machines_that_fail_to_restart_are_not_followed_up(patch: Patch) -> None:
    patch.setattr(Life, "note_no_effect", lambda self, data: None)


# ---------------------------------------------------------------- budgets and people


@mutant
def it_comes_back_for_ever(patch: Patch) -> None:
    patch.setattr(lifecycle, "COMEBACKS", 1 << 30)


@mutant
def flapping_is_not_recognised(patch: Patch) -> None:
    never(patch, "flapping", "restarts_by_itself")


@mutant
def halting_twice_is_not_once(patch: Patch) -> None:
    patch.setattr(Life, "not_by_operator", lambda self, data: True)


@mutant
def a_kept_attempt_outlives_a_halt(patch: Patch) -> None:
    """One that stayed open when the disk was full."""
    patch.setattr(Life, "end_kept", lambda self, data: None)


@mutant
def what_waits_for_room_is_swept(patch: Patch) -> None:
    sweep = "sweep_if_owed"
    patch.setattr(Life, sweep, lambda self: m.Sweep(self.experiment.machines) if self.sweep_owed else None)


@mutant
def a_skipped_attempt_is_left_alive(patch: Patch) -> None:
    patch.setattr(Life, "owe_sweep", lambda self, data: None)
