"""Shows that the simulator finds bugs: each of these is put into the product, and some seed must tell of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from autoperfd.core import messages as m
from autoperfd.core.lifecycle import Life, Step, advance
from autoperfd.daemon import engine
from autoperfd.daemon.engine import Engine, Entry
from autoperfd.daemon.store import Happened, Loaded, SaveLife, Store, Write
from autoperfd.daemon.work import Answer
from autoperfd.rehearsal.faults import rehearse
from autoperfd.rehearsal.world import Notebook

SEEDS = 400
Patch = pytest.MonkeyPatch
MUTANTS: list[Callable[[Patch], None]] = []


def mutant(function: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Make a function one of the mutants."""
    MUTANTS.append(function)
    return function


def around(patch: Patch, where: Any, name: str, new: Callable[..., Any]) -> None:
    """Let a method be `new(old, self, ...)`."""
    old = getattr(where, name)
    patch.setattr(where, name, lambda self, *args, **more: new(old, self, *args, **more))


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
    def interrupt(old: Any, self: Life, data: Any) -> None:
        owed = self.sweep_owed
        old(self, data)
        self.sweep_owed = owed

    around(patch, Life, "interrupt_by_operator", interrupt)


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
    patch.setattr(Life, "wait", lambda self: None)


@pytest.mark.parametrize("put_in", MUTANTS, ids=lambda function: str(function.__name__))
def test_a_mutant_is_found(put_in: Callable[[Patch], None], monkeypatch: Patch) -> None:
    put_in(monkeypatch)
    for seed in range(SEEDS):
        if rehearse(seed).problems:
            return
    raise AssertionError(f"{SEEDS} seeds tell nothing of it")


def test_there_are_enough() -> None:
    assert len(MUTANTS) >= 20
