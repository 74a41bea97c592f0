"""What must happen in an experiment's life: scenarios that hold on the table as it is and on no other.

Each is a plain function that raises AssertionError; test_lifecycle.py runs them all, and again on tables of which
something was taken away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autoperfd.core import messages as m
from autoperfd.core.lifecycle import Tuning
from autoperfd.core.policy import BLAMELESS_BUDGET, CANNOT_WRITE, COMEBACKS, SETBACKS, todo
from tests.core.lives import BOOT_IDS, START, Bench, experiment

Scenario = Callable[[], None]
SCENARIOS: list[Scenario] = []

IMPATIENT = Tuning(patience_secs=0)


def scenario(function: Scenario) -> Scenario:
    """Make a function one of the scenarios."""
    SCENARIOS.append(function)
    return function


def at(bench: Bench, state: str, order: Any = ...) -> None:
    """The life is in that state, and the latest step asked for that work (None: for none; left out: whatever)."""
    assert bench.life.state == state, (bench.life.state, state)
    assert bench.step.taken
    if order is not ...:
        assert bench.step.replaces_work
        assert type(bench.step.order) is (order or type(None)), bench.step.order


def goes_on(bench: Bench, state: str, ticket: int) -> None:
    """The event was taken, and the work under way is left alone."""
    assert bench.step.taken and not bench.step.replaces_work and bench.step.order is None
    assert (bench.life.state, bench.life.ticket) == (state, ticket)


def ignored(bench: Bench) -> None:
    """The latest event meant nothing."""
    assert not bench.step.taken and bench.step.before == bench.step.after == bench.life.state
    assert not bench.step.changes and not bench.step.replaces_work and not bench.step.reschedule


# ---------------------------------------------------------------- the good way


@scenario
def three_tests_succeed() -> None:
    b = Bench(3)
    b.schedule()
    at(b, "validating", m.Validate)
    assert isinstance(b.step.order, m.Validate) and not b.step.order.wants_reboot and b.step.order.open_uid == ""
    for index in range(3):
        b.validated(uid=f"u{index}", pings=2, ssh_checks=1)
        at(b, "running", m.RunAttempt)
        order, opened = b.step.order, b.latest(m.AttemptOpened)
        assert isinstance(order, m.RunAttempt)
        assert (order.uid, order.number, order.confirmed, order.opened) == (f"u{index}", 1, False, b.wall)
        assert order.deadline_secs == 4 + 60 and order.plan == opened.plan and order.facts == {"p1": {"arch": "x"}}
        assert (opened.test, opened.index, opened.pings, opened.ssh_checks) == (b.name(index), index, 2, 1)
        assert b.life.since == b.wall
        ticket = b.life.ticket
        b.started()
        goes_on(b, "running", ticket)
        assert b.life.confirmed
        b.succeed()
        assert b.life.uid == "" and not b.life.confirmed and b.life.plan is None
        at(b, "validating" if index < 2 else "idle", m.Validate if index < 2 else m.Sweep)
    assert (b.life.outcome, b.life.succeeded, b.life.remaining()) == ("finished", 3, 0)
    assert b.rows() == [(0, 1, "success", ""), (1, 1, "success", ""), (2, 1, "success", "")]
    assert b.decided() == {0: "success", 1: "success", 2: "success"}
    assert b.told() == ["finish"] and b.life.holds_machines()
    b.swept()
    at(b, "idle", None)
    assert b.step.reschedule and not b.life.holds_machines()
    b.schedule()
    ignored(b)


@scenario
def nothing_starts_where_machines_are_taken() -> None:
    b = Bench()
    b.schedule(free=False)
    ignored(b)


@scenario
def nothing_starts_where_no_test_is_left() -> None:
    b = Bench(1)
    b.life.cursor = 1
    b.schedule()
    ignored(b)


# ---------------------------------------------------------------- reboots


@scenario
def an_experiment_reboots_once() -> None:
    b = Bench(2, reboot="experiment")
    b.schedule()
    assert isinstance(b.step.order, m.Validate) and b.step.order.wants_reboot
    b.validated()
    at(b, "rebooting", m.Reboot)
    assert isinstance(b.step.order, m.Reboot) and b.step.order.boot_ids == BOOT_IDS
    b.rebooted()
    at(b, "validating", m.Validate)
    assert b.life.boot_ids == b.boots != BOOT_IDS
    for _ in range(2):
        b.validated()
        at(b, "running", m.RunAttempt)
        b.succeed()
    at(b, "idle")


@scenario
def every_attempt_has_its_reboot() -> None:
    b = Bench(2, reboot="test", retries=1)
    b.schedule()
    for outcome in (b.fail, b.succeed, b.half_started, b.succeed):
        b.validated()
        at(b, "rebooting", m.Reboot)
        b.rebooted()
        b.validated()
        at(b, "running")
        outcome()
    at(b, "idle")
    assert b.decided() == {0: "success", 1: "success"}


@scenario
def a_failure_of_the_test_has_its_reboot() -> None:
    b = Bench(2, reboot="failure", retries=1)
    b.run().fail()
    b.validated()
    at(b, "rebooting")
    b.rebooted()
    b.validated()
    b.fail("rebooted")
    at(b, "backing-off")
    b.due()
    b.validated()
    at(b, "running")  # blamed on the machine: no reboot
    b.succeed()
    b.validated()
    at(b, "running")


@scenario
def no_reboot_where_nothing_is_left() -> None:
    b = Bench(1, reboot="test")
    b.run()
    b.life.crashes = 2
    b.restarted(crashed=True)
    at(b, "validating")
    b.validated()
    at(b, "idle", m.Sweep)
    assert b.life.outcome == "finished"


@scenario
def a_policy_that_no_longer_reboots_holds_at_once() -> None:
    b = Bench(1, reboot="experiment")
    b.life.experiment = experiment(1, reboot="never")
    b.schedule()
    b.validated()
    at(b, "running")


# ---------------------------------------------------------------- failures


@scenario
def retries_then_the_next_test() -> None:
    b = Bench(2, retries=2)
    b.schedule()
    for number in (1, 2, 3):
        b.validated()
        assert (b.life.test, b.life.number, b.life.charged) == (b.name(0), number, number - 1)
        b.fail()
        at(b, "validating", m.Validate)
    assert b.decided() == {0: "timeout"} and b.latest(m.TestDecided).attempts == 3
    assert (b.life.failed, b.life.failures_in_a_row) == (1, 1)
    b.validated()
    assert (b.life.test, b.life.number, b.life.charged) == (b.name(1), 1, 0)
    b.succeed()
    assert b.life.failures_in_a_row == 0
    assert [row[:3] for row in b.rows()] == [(0, 1, "timeout"), (0, 2, "timeout"), (0, 3, "timeout"), (1, 1, "success")]


@scenario
def it_halts_after_so_many_given_up_in_a_row() -> None:
    b = Bench(6, retries=0, halt_after_consecutive_failures=2)
    b.run().fail()
    b.run().succeed()  # a success in between
    b.run().fail()
    at(b, "validating")
    b.run().fail("crashed")
    at(b, "halted", m.Sweep)
    assert (b.life.cause, b.life.failed, b.life.probing) == ("failures", 3, False)
    assert b.facts()["reason"] == (
        "2 tests in a row failed with all their attempts; the last one: because of crashed"
    ) and b.facts()["todo"] == todo("failures", False, "PCG #1")
    assert (b.facts()["tests_done"], b.facts()["tests_total"], b.facts()["incident"]) == (4, 6, 1)
    b.swept()
    at(b, "halted", None)
    b.resume()
    at(b, "idle", None)
    assert b.step.reschedule and b.told() == ["halt", "resume"]
    b.run().fail()
    at(b, "validating")  # counted anew
    b.run().fail()
    at(b, "halted")  # the last test and the second in a row: halted, not finished
    assert b.life.incident == 2
    b.swept()
    b.resume()
    at(b, "idle", None)
    assert b.life.outcome == "finished" and b.life.reason == b.life.cause == ""


@scenario
def attempts_in_a_row_are_not_tests_in_a_row() -> None:
    b = Bench(2, retries=2, halt_after_consecutive_failures=2)
    b.schedule()
    for _ in range(5):
        b.validated()
        b.fail()
        at(b, "validating")
    b.validated()
    b.fail()
    at(b, "halted")


@scenario
def missing_summaries_do_not_count() -> None:
    b = Bench(5, retries=2, halt_after_consecutive_failures=2)
    b.run()
    b.life.charged = 2
    b.fail()
    b.run().succeed("no-summary")
    assert b.decided() == {0: "timeout", 1: "no-summary"} and b.life.succeeded == 1
    assert b.life.failures_in_a_row == 1  # neither one more nor none
    b.run()
    b.life.charged = 2
    b.fail()
    at(b, "halted")


@scenario
def finished_with_failures() -> None:
    b = Bench(1, retries=1)
    b.run().fail()
    at(b, "validating")
    b.run().fail("no-data")
    at(b, "idle", m.Sweep)
    assert (b.life.outcome, b.life.failed, b.decided()) == ("finished", 1, {0: "no-data"})
    assert b.told() == ["finish"]


# ---------------------------------------------------------------- whose fault


@scenario
def a_machine_s_fault_spends_no_retry() -> None:
    for status in ("rebooted", "machine-lost", "invalid"):
        b = Bench(2, retries=0, halt_after_consecutive_failures=1)
        b.run().fail(status)
        at(b, "backing-off", m.Wait)
        assert isinstance(b.step.order, m.Wait) and b.step.order.secs == 2.5  # half of the first five seconds
        assert (b.life.test, b.life.charged, b.life.failures_in_a_row) == (b.name(0), 0, 0)
        b.due()
        at(b, "validating", m.Validate)
        b.run()
        assert (b.life.test, b.life.number) == (b.name(0), 2)
        b.succeed()
        assert b.decided() == {0: "success"}


@scenario
def the_network_s_fault_spends_no_retry() -> None:
    b = Bench(1, retries=0)
    b.run().fail("no-data", blame="network")
    at(b, "backing-off")
    assert b.rows() == [(0, 1, "no-data", "network")] and b.life.blameless == 1


@scenario
def the_controller_s_fault_spends_no_retry_and_needs_no_wait() -> None:
    b = Bench(1, retries=0, halt_after_consecutive_failures=1)
    b.run().fail("interrupted")
    at(b, "validating", m.Validate)
    assert (b.life.charged, b.life.blameless, b.decided()) == (0, 1, {})


@scenario
def what_fails_every_test_halts() -> None:
    for tests, blame in ((1, "machine"), (2, "test"), (2, "controller")):
        b = Bench(tests, retries=0, halt_after_consecutive_failures=1)
        b.run().fail("wont-start", blame=blame, hopeless=True)
        at(b, "halted", None)
        assert (b.life.cause, b.life.reason, b.life.probing) == ("machine", "because of wont-start", False)
        assert b.facts()["machine"] == "p2" and b.life.holds_machines()
        assert (b.life.test, b.life.charged) == (b.name(0), 0) and b.decided() == {}
        b.answered()
        ignored(b)  # a probe cannot see whether it is mended
        b.resume()
        assert b.life.blameless == 0
        b.run()
        assert (b.life.test, b.life.number) == (b.name(0), 2)


@scenario
def a_controller_that_cannot_write_halts_at_once() -> None:
    for earlier in (0, BLAMELESS_BUDGET - 1):  # whatever the budget of attempts that are nobody's fault
        b = Bench(1, retries=0, halt_after_consecutive_failures=1)
        b.schedule()
        for _ in range(earlier):
            b.validated()
            b.fail("interrupted")
        b.validated()
        b.fail("interrupted", blame="machine" if not earlier else None, code=CANNOT_WRITE)
        at(b, "halted", m.Sweep)
        assert (b.life.cause, b.life.reason) == ("controller", "because of interrupted")
        assert (b.life.charged, b.life.blameless, b.decided()) == (0, earlier + 1, {})
        assert b.told() == ["halt"]
        b.swept()
        assert not b.life.holds_machines()
        b.resume()
        b.run()
        assert (b.life.test, b.life.number) == (b.name(0), earlier + 2)


@scenario
def a_test_without_blame_is_not_tried_for_ever() -> None:
    for status, between in (("invalid", "backing-off"), ("interrupted", "validating")):
        b = Bench(1)
        b.schedule()
        for _ in range(BLAMELESS_BUDGET - 1):
            b.validated()
            b.fail(status)
            at(b, between)
            if between == "backing-off":
                b.due()
        b.validated()
        b.fail(status)
        at(b, "halted")
        assert b.life.cause == "machine" and b.life.number == BLAMELESS_BUDGET


# ---------------------------------------------------------------- machines that are away


@scenario
def looks_before_an_attempt_are_counted() -> None:
    b = Bench(2)
    b.schedule()
    b.away(pings=3, ssh_checks=1)
    at(b, "backing-off", m.Wait)
    assert b.life.reason == "p2: is away"
    b.due()
    at(b, "validating", m.Validate)
    b.away(pings=3)
    b.due()
    b.validated(pings=2, ssh_checks=4)
    opened = b.latest(m.AttemptOpened)
    assert (opened.pings, opened.ssh_checks) == (8, 5)
    assert b.life.reason == ""
    b.succeed()
    b.validated()
    opened = b.latest(m.AttemptOpened)
    assert (opened.pings, opened.ssh_checks) == (1, 1)


@scenario
def looks_of_another_time_are_not_counted() -> None:
    b = Bench(1)
    b.schedule()
    b.away()
    b.halt()
    b.swept()
    b.resume()
    b.run()
    assert b.latest(m.AttemptOpened).pings == 1


@scenario
def waits_grow_up_to_the_cap() -> None:
    b = Bench(1, Tuning(backoff_first_secs=4, backoff_cap_secs=20))
    b.schedule()
    waits = []
    for _ in range(5):
        b.away()
        waits.append(b.life.backoff_secs)
        b.due()
    assert waits == [2, 4, 8, 10, 10]
    b.run()
    b.away()
    assert b.life.backoff_secs == 2  # an answer in between
    assert isinstance(b.step.order, m.Wait) and b.step.order.secs == 2


@scenario
def a_running_test_survives_an_absence() -> None:
    b = Bench(1, reboot="never")
    b.run()
    uid, opened = b.life.uid, b.life.opened
    b.away(pings=0)
    at(b, "backing-off", m.Wait)
    assert b.life.uid == uid and b.rows() == []
    b.life.reboot_owed, b.life.experiment = True, experiment(1, reboot="test")
    b.due()
    at(b, "validating", m.Validate)
    assert isinstance(b.step.order, m.Validate) and b.step.order.open_uid == uid
    b.validated(uid="another")
    at(b, "running", m.RunAttempt)  # no reboot either
    order = b.step.order
    assert isinstance(order, m.RunAttempt)
    assert (order.uid, order.number, order.opened, order.confirmed) == (uid, 1, opened, True)
    assert b.count(m.AttemptOpened) == 1 and (b.life.tries, b.life.away_secs, b.life.reason) == (0, 0.0, "")
    b.succeed()
    assert b.rows() == [(0, 1, "success", "")]


@scenario
def patience_ends_where_no_attempt_is_open() -> None:
    for reboot in ("never", "experiment"):
        b = Bench(2, Tuning(patience_secs=100), reboot=reboot)
        b.schedule()
        if reboot == "experiment":
            b.away(secs=0)
            b.due(secs=99)
            b.validated()
            at(b, "rebooting")  # all answered: patience is new
        b.away(secs=0)
        b.due(secs=60)
        b.away(secs=39.9)
        at(b, "backing-off")
        b.due(secs=0)
        b.away(secs=0.1)
        at(b, "halted", m.SlowProbe)
        assert isinstance(b.step.order, m.SlowProbe) and b.step.order.secs == 300
        assert (b.life.cause, b.life.reason) == ("machine", "p2: is away (no answer for 100 s)")
        assert b.facts()["machine"] == "p2" and b.facts()["todo"] == todo("machine", True, "")
        assert b.rows() == [] and b.life.holds_machines() and not b.life.sweep_owed
        b.answered()
        at(b, "idle", None)
        assert b.step.reschedule and b.told() == ["halt", "over"]
        assert b.facts()["reason"] == "p2: is away (no answer for 100 s)" and b.life.cause == b.life.reason == ""
        b.schedule()
        b.away(secs=0)
        at(b, "backing-off")  # patience is new


@scenario
def patience_ends_at_once_where_there_is_none() -> None:
    b = Bench(1, IMPATIENT)
    b.schedule()
    b.away()
    at(b, "halted")
    b = Bench(1, IMPATIENT, reboot="experiment")
    b.schedule()
    b.validated()
    b.away()
    at(b, "halted")


@scenario
def patience_ends_with_an_attempt_open() -> None:
    for state in ("running", "validating"):
        b = Bench(2, Tuning(patience_secs=100), retries=0, halt_after_consecutive_failures=1)
        b.run()
        if state == "validating":
            b.away()
            b.due(secs=5)
        assert b.life.state == state
        b.life.away_secs = 100.0
        b.away()
        at(b, "halted", m.SlowProbe)
        assert b.rows() == [(0, 1, "machine-lost", "machine")] and b.life.uid == ""
        lost = b.latest(m.AttemptClosed).result
        assert (lost.machine, lost.code, lost.evidence) == ("p2", "SSH_SILENT", '{"p2": "silent"}')
        assert (b.life.test, b.life.number, b.life.charged) == (b.name(0), 1, 0) and b.decided() == {}
        assert b.life.sweep_owed  # it may go on there
        b.resume()
        at(b, "idle", m.Sweep)
        assert b.life.away_secs == 0.0 and b.life.tries == 0 and not b.life.probing
        b.run()
        assert (b.life.test, b.life.number, b.life.charged) == (b.name(0), 2, 0)


@scenario
def a_reboot_that_is_not_answered_is_tried_again() -> None:
    b = Bench(1, reboot="experiment")
    b.schedule()
    b.validated()
    b.away()
    at(b, "backing-off", m.Wait)
    b.due()
    b.validated()
    at(b, "rebooting", m.Reboot)


@scenario
def without_auto_resume_nobody_looks() -> None:
    b = Bench(1, Tuning(patience_secs=0, auto_resume=False))
    b.schedule()
    b.away()
    at(b, "halted", None)
    assert b.facts()["todo"] == todo("machine", False, "PCG #1")
    b.answered()
    ignored(b)


@scenario
def what_only_a_person_can_mend_halts() -> None:
    for state in ("validating", "rebooting", "running"):
        b = Bench(1, retries=0).until(state)
        b.impossible()
        at(b, "halted", m.SlowProbe)
        assert b.life.cause == "machine" and b.life.reason == "p2: sudo asks for a password"
        assert b.rows() == ([(0, 1, "machine-lost", "machine")] if state == "running" else [])
        assert b.life.uid == "" and b.facts()["todo"] == todo("machine", True, "")
        b.answered()
        at(b, "idle")
        b.run()
        assert b.life.number == (2 if state == "running" else 1)


@scenario
def an_open_attempt_is_lost_where_only_a_person_can_mend() -> None:
    b = Bench(1)
    b.run().away()
    b.due()
    b.impossible()
    assert b.rows() == [(0, 1, "machine-lost", "machine")]


# ---------------------------------------------------------------- people


@scenario
def halted_by_a_person() -> None:
    for state in ("validating", "rebooting", "running", "backing-off"):
        b = Bench(2).until(state)
        b.halt()
        at(b, "halted", m.Sweep)
        assert (b.life.cause, b.life.reason) == ("operator", "halted by ann") and b.told() == ["halt"]
        assert b.rows() == ([(0, 1, "interrupted", "operator")] if state == "running" else [])
        b.halt()
        ignored(b)
        b.answered()
        ignored(b)
        b.room()
        ignored(b)
        assert b.life.holds_machines()
        b.swept()
        at(b, "halted", None)
        assert b.step.reschedule and not b.life.holds_machines()
        b.resume()
        at(b, "idle", None)
        assert b.life.outcome == "waiting" and b.facts()["reason"] == "resumed by ann"
        b.life.reboot_owed = False
        b.run()
        assert (b.life.test, b.life.number) == (b.name(0), 2 if state == "running" else 1)
        assert b.life.charged == 0


@scenario
def halted_while_an_attempt_is_open_elsewhere() -> None:
    for way in ("backing-off", "validating"):
        b = Bench(1)
        b.run().away()
        if way == "validating":
            b.due()
        b.halt()
        assert b.rows() == [(0, 1, "interrupted", "operator")]


@scenario
def halted_while_it_waits() -> None:
    b = Bench(1)
    b.halt()
    at(b, "halted", None)
    assert b.life.cause == "operator"
    b.schedule()
    ignored(b)
    b.resume()
    at(b, "idle", None)
    assert b.step.reschedule


@scenario
def what_is_over_cannot_be_halted() -> None:
    b = Bench(1)
    b.run().succeed()
    b.halt()
    ignored(b)
    b = Bench(1)
    b.cancel()
    b.halt()
    ignored(b)


@scenario
def a_person_takes_a_halt_over() -> None:
    b = Bench(1, IMPATIENT)
    b.schedule()
    b.away()
    b.halt()
    at(b, "halted", None)  # the slow probe ends, and others may have the machines
    assert b.step.reschedule and b.life.cause == "operator" and not b.life.holds_machines()
    assert b.life.reason == "halted by ann; before: p2: is away (no answer for 0 s)"
    b.answered()
    ignored(b)


@scenario
def cancelled() -> None:
    for state in ("validating", "rebooting", "running", "backing-off"):
        b = Bench(2, retries=1).until(state)
        b.cancel()
        at(b, "idle", m.Sweep)
        assert (b.life.outcome, b.life.reason) == ("cancelled", "cancelled by ann") and b.life.uid == ""
        assert b.rows() == ([(0, 1, "interrupted", "operator")] if state == "running" else [])
        b.schedule()
        ignored(b)
        b.swept()
        at(b, "idle", None)


@scenario
def cancelled_while_nothing_goes_on() -> None:
    b = Bench(1)
    b.cancel()
    at(b, "idle", None)
    b = Bench(1)
    b.schedule()
    b.halt()
    b.swept()
    b.cancel()
    at(b, "idle", None)
    assert (b.life.outcome, b.life.cause, b.step.reschedule) == ("cancelled", "", True)


@scenario
def cancelled_while_machines_are_away() -> None:
    b = Bench(1, IMPATIENT)
    b.run().away()
    at(b, "halted", m.SlowProbe)
    b.cancel()
    at(b, "idle", m.Sweep)
    assert b.life.holds_machines()


@scenario
def dropped_again_after_a_cancel() -> None:
    b = Bench(3, retries=1)
    b.run().fail()
    b.run()
    assert b.life.number == 2
    b.cancel()
    assert b.life.remaining() == 3 and b.life.test == ""
    b.swept()
    b.redropped()
    assert b.step.reschedule and b.life.outcome == "waiting"
    goes_on(b, "idle", b.life.ticket)
    b.run()
    assert (b.life.test, b.life.number, b.life.charged) == (b.name(0), 3, 1)  # no test is lost, no number used twice
    b.fail()
    assert b.decided() == {0: "timeout"}
    b.run().succeed()
    b.run().succeed()
    at(b, "idle")
    assert b.life.outcome == "finished"
    b.redropped()
    assert b.life.outcome == "finished"


@scenario
def dropped_again_while_it_lives() -> None:
    for state in ("validating", "rebooting", "running", "backing-off", "halted"):
        b = Bench().until(state)
        kept, ticket = b.life.to_json(), b.life.ticket
        b.redropped()
        goes_on(b, state, ticket)
        assert b.life.to_json() == kept


@scenario
def tests_to_come_are_skipped() -> None:
    for state in ("idle", "validating", "rebooting", "running", "backing-off", "halted"):
        b = Bench(4).until(state)
        ticket = b.life.ticket
        b.skip(2)
        goes_on(b, state, ticket)
        assert b.rows() == [(2, 1, "skipped", "operator")] and b.decided() == {2: "skipped"}
        assert b.latest(m.AttemptClosed).settings == b.experiment.sweep.at(2)
        assert (b.life.skipped, b.life.remaining()) == (1, 3)
    b = Bench(2)
    b.run()
    b.skip(1)
    b.succeed()
    at(b, "idle")
    assert b.life.outcome == "finished"


@scenario
def the_last_tests_of_a_waiting_experiment_are_skipped() -> None:
    b = Bench(2)
    b.skip(0)
    b.skip(1)
    goes_on(b, "idle", 0)
    assert b.life.outcome == "finished" and b.told() == ["finish"] and not b.life.holds_machines()
    b = Bench(1)
    b.run()
    b.halt()
    b.swept()
    b.resume()
    ticket = b.life.ticket
    b.skip(0)
    goes_on(b, "idle", ticket)
    assert b.life.outcome == "finished" and b.life.test == "" and b.told()[-1] == "finish"
    assert b.rows() == [(0, 1, "interrupted", "operator"), (0, 2, "skipped", "operator")]
    assert b.latest(m.TestDecided).attempts == 2


@scenario
def the_running_test_is_skipped() -> None:
    for ways in ((), ("away",), ("away", "due")):
        b = Bench(2)
        b.run()
        for way in ways:
            getattr(b, way)()
        b.skip(0)
        at(b, "validating", m.Validate)
        assert b.rows() == [(0, 1, "skipped", "operator")] and b.decided() == {0: "skipped"}
        assert (b.life.uid, b.life.test, b.life.skipped) == ("", "", 1)
        b.run()
        assert b.life.test == b.name(1)


@scenario
def the_test_between_two_attempts_is_skipped() -> None:
    for state in ("validating", "backing-off", "halted", "rebooting"):
        b = Bench(2, Tuning(patience_secs=30), retries=3)
        b.run().fail()
        if state == "backing-off":
            b.away()
        elif state == "halted":
            b.halt()
            b.swept()
        elif state == "rebooting":
            b.life.reboot_owed, b.life.experiment = True, experiment(2, reboot="test")
            b.validated()
        assert b.life.state == state
        ticket = b.life.ticket
        b.skip(0)
        goes_on(b, state, ticket)
        assert b.rows()[1:] == [(0, 2, "skipped", "operator")] and b.life.test == ""
        assert b.latest(m.TestDecided).attempts == 2  # the row's number is used up
    b = Bench(1, retries=3)
    b.run().fail()
    b.skip(0)
    b.validated()
    at(b, "idle", m.Sweep)


@scenario
def tests_are_tried_again() -> None:
    for state in ("validating", "rebooting", "running", "backing-off", "halted"):
        b = Bench(3, retries=0, halt_after_consecutive_failures=9)
        b.run().fail()
        b.run().fail()
        match state:
            case "rebooting":
                b.life.reboot_owed, b.life.experiment = True, experiment(3, reboot="test", retries=0)
                b.validated()
            case "running":
                b.run()
            case "backing-off":
                b.away(p2="MACHINE_TAKEN")  # no outage: nothing is given back
            case "halted":
                b.halt()
                b.swept()
        assert b.life.state == state
        ticket = b.life.ticket
        b.retry((0, 1, "timeout"), (1, 1, "timeout"))
        goes_on(b, state, ticket)
        assert (b.life.failed, b.life.remaining()) == (0, 3)
        assert [(r.test, r.number, r.charged) for r in b.life.requeued] == [(b.name(0), 1, 0), (b.name(1), 1, 0)]


@scenario
def tests_are_tried_again_after_the_end() -> None:
    b = Bench(2, retries=0)
    b.run().fail()
    b.run().succeed()
    b.swept()
    b.retry((0, 1, "timeout"))
    goes_on(b, "idle", b.life.ticket)
    assert b.step.reschedule and b.life.outcome == "waiting" and b.life.remaining() == 1
    b.run()
    assert (b.life.test, b.life.number) == (b.name(0), 2) and b.latest(m.Unqueued).test == b.name(0)
    b.succeed()
    at(b, "idle")
    assert (b.life.outcome, b.life.succeeded, b.life.failed) == ("finished", 2, 0)


@scenario
def a_test_put_back_is_skipped_after_all() -> None:
    b = Bench(2, retries=0)
    b.run().fail()
    b.retry((0, 1, "timeout"))
    b.skip(0)
    assert b.latest(m.Unqueued).test == b.name(0) and b.rows()[-1] == (0, 2, "skipped", "operator")
    assert (b.life.failed, b.life.skipped, b.life.remaining()) == (0, 1, 1)


@scenario
def a_skipped_test_is_tried_after_all() -> None:
    b = Bench(3)
    b.skip(1)
    b.retry((1, 1, "skipped"))
    assert (b.life.skipped, b.life.remaining()) == (0, 3)
    done = []
    for _ in range(3):
        b.run()
        done.append((b.life.index, b.life.number))
        b.succeed()
    assert done == [(1, 2), (0, 1), (2, 1)]
    at(b, "idle")
    assert b.life.outcome == "finished" and b.life.succeeded == 3


# ---------------------------------------------------------------- the ladder

CLIMBER = Tuning(restart_after_secs=20, patience_secs=10_000)


def ill(bench: Bench, secs: float = 20.0, **codes: str) -> Bench:
    """From idle: everybody answers, then machines are ill for so long, and the back-off is over."""
    bench.schedule()
    bench.life.boot_ids = dict(bench.boots)
    first = next(iter(codes))
    bench.happen(m.Unreachable(machine=first, reason=f"{first}: is away", code=codes[first], ill=codes), 0)
    bench.due(secs=secs)
    return bench


def gets_worse(bench: Bench, **codes: str) -> None:
    """What was tried had no effect, and the next look finds them so."""
    assert bench.life.state in ("rebooting", "backing-off")
    bench.not_cycled()
    at(bench, "backing-off", m.Wait)
    assert isinstance(bench.step.order, m.Wait) and bench.step.order.secs == 0.0
    assert (bench.life.rung, bench.life.climbing, bench.step.note) == ("", [], "p2: it had no effect")


@scenario
def an_ailing_machine_is_restarted_rung_by_rung() -> None:
    b = ill(Bench(2, CLIMBER, switches=("p2",), reboot="failure"), p2="SHELL_HANG")
    for rung in ("soft", "forced"):
        at(b, "rebooting", m.Reboot)
        order = b.step.order
        assert isinstance(order, m.Reboot) and (order.rung, order.boot_ids) == (rung, {"p2": b.boots["p2"]})
        assert [machine.name for machine in order.machines] == ["p2"]
        assert b.life.reason in b.step.note and "p2 is rebooted" in b.step.note
        gets_worse(b)
        b.due(secs=0)
    at(b, "backing-off", m.PowerCycle)
    order = b.step.order
    assert isinstance(order, m.PowerCycle) and order.boot_ids == {"p2": b.boots["p2"]}
    assert [machine.name for machine in order.machines] == ["p2"] and "power" in b.step.note
    gets_worse(b)
    b.due()
    at(b, "validating", m.Validate)  # no rung is left
    b.away(p2="SHELL_HANG")
    b.due()
    at(b, "validating")
    b.validated()
    b.succeed()
    b.away(secs=0, p2="SHELL_HANG")
    b.due(secs=20)
    at(b, "rebooting")  # a success makes them all new
    assert b.step.order is not None and b.life.rung == "soft"


@scenario
def a_restart_that_works_is_followed_by_a_look() -> None:
    b = ill(Bench(2, CLIMBER, reboot="test"), p1="ORPHAN", p2="ORPHAN")
    at(b, "rebooting", m.Reboot)
    assert b.life.climbing == ["p1", "p2"]
    b.rebooted("p1", "p2")
    at(b, "validating", m.Validate)
    assert b.life.rung == "" and b.life.reboot_owed  # the policy's own reboot is another matter
    b.validated()
    at(b, "rebooting", m.Reboot)
    assert isinstance(b.step.order, m.Reboot) and b.step.order.rung == "" and len(b.step.order.machines) == 2
    assert b.life.restarts == {}
    b = ill(Bench(1, CLIMBER, switches=("p1", "p2"), reboot="failure"), p2="SSH_SILENT")
    at(b, "backing-off", m.PowerCycle)  # nothing else reaches a silent machine
    b.cycled("p2")
    at(b, "validating", m.Validate)
    assert (b.life.rung, b.life.climbing) == ("", [])
    b.validated()
    at(b, "running")
    assert b.life.restarts == {}  # it was asked for


@scenario
def no_machine_is_restarted_without_need() -> None:
    for b in (
        ill(Bench(2, CLIMBER, switches=("p2",), reboot="failure"), 19.9, p2="SHELL_HANG"),  # not that long yet
        ill(Bench(2, CLIMBER, switches=("p2",), reboot="never"), p2="SHELL_HANG"),  # never means never
        ill(Bench(2, CLIMBER, switches=("p2",), reboot="failure"), p2="MACHINE_TAKEN"),  # it would help nobody
        ill(Bench(2, CLIMBER, switches=("p1",), reboot="failure"), p2="SSH_SILENT"),  # it has no switch
    ):
        at(b, "validating", m.Validate)
    b = Bench(2, CLIMBER, switches=("p1",), reboot="failure")
    b.schedule()
    b.away(secs=0, p2="SHELL_HANG", p1="SHELL_HANG")
    b.due(secs=20)
    at(b, "backing-off", m.PowerCycle)  # no boot id is known, so nothing would prove a reboot
    assert b.life.climbing == ["p1"]


@scenario
def no_machine_is_restarted_under_an_attempt() -> None:
    b = Bench(2, CLIMBER, reboot="failure")
    b.run().away(secs=0, p2="SHELL_HANG")
    hard = 4 + 60 + 45 + 30  # duration, buffer, grace and a margin
    b.due(secs=hard - 1)
    at(b, "validating")
    b.away(secs=0, p2="SHELL_HANG")
    b.due(secs=0.5)
    at(b, "validating")
    b.away(secs=0, p2="SHELL_HANG")
    b.due(secs=0.5)
    at(b, "rebooting")
    assert b.life.uid  # it must have ended; the reboot will tell
    for state in ("backing-off", "validating"):
        b = Bench(2, CLIMBER, reboot="failure")
        b.run().away(secs=0, p2="SHELL_HANG")
        if state == "validating":
            b.due(secs=0)
        b.restarted()  # since when it has run is not known any more
        if state == "validating":
            b.away(secs=0, p2="SHELL_HANG")
        b.due(secs=hard - 1)
        at(b, "validating")
        b.away(secs=0, p2="SHELL_HANG")
        b.due(secs=1)
        at(b, "rebooting")
    b = Bench(2, CLIMBER, reboot="failure")
    b.run()
    b.restarted()
    b.away(secs=0, p2="SHELL_HANG")
    b.due(secs=hard - 0.5)
    at(b, "validating")
    b.away(secs=0, p2="SHELL_HANG")
    b.due(secs=0.5)
    at(b, "rebooting")
    b = Bench(2, CLIMBER, reboot="failure")
    b.run()
    b.low_disk()
    b.life.attempt_since = None
    b.restarted()
    assert b.life.attempt_since == b.now
    b.room()
    b.life.attempt_since = None
    b.restarted()
    assert b.life.attempt_since == b.now


@scenario
def no_machine_is_restarted_under_an_attempt_that_began_late() -> None:
    """Its start is tried twice, and it is not known of the first try, long ago, whether anything came of it."""
    hard = 4 + 60 + 45 + 30
    for confirmed in (False, True):
        b = Bench(2, CLIMBER, reboot="failure")
        b.schedule()
        b.validated()
        b.away(secs=0, p2="SHELL_HANG")
        b.due(secs=15)
        b.validated()
        at(b, "running", m.RunAttempt)
        if confirmed:
            b.started()
        b.away(secs=100, p2="SHELL_HANG")
        b.due(secs=(hard - 100 if confirmed else hard) - 1)
        at(b, "validating")
        b.away(secs=0, p2="SHELL_HANG")
        b.due(secs=1)
        at(b, "rebooting")
    b.restarted()
    b.rebooted()
    b.validated()
    b.started()
    b.away(secs=50, p2="SSH_SILENT")
    since = b.now - 50
    b.due(secs=15)
    b.validated()
    b.started()  # found again: it is the same start
    assert b.life.attempt_since is not None and b.life.attempt_since <= since


@scenario
def a_restart_of_the_daemon_looks_before_it_cycles_again() -> None:
    b = ill(Bench(2, CLIMBER, switches=("p2",), reboot="failure"), p2="SSH_SILENT")
    at(b, "backing-off", m.PowerCycle)
    b.restarted()
    at(b, "backing-off", m.Wait)
    assert isinstance(b.step.order, m.Wait) and b.step.order.secs == 0.0
    b.due(secs=0)
    at(b, "validating")  # the rung is used up
    b = ill(Bench(2, CLIMBER, reboot="failure"), p2="SHELL_HANG")
    b.restarted()
    at(b, "rebooting", m.Reboot)
    assert isinstance(b.step.order, m.Reboot) and b.step.order.rung == "soft"


@scenario
def a_rung_is_left_with_its_state() -> None:
    for way in ("halt", "cancel"):
        b = ill(Bench(2, CLIMBER, switches=("p2",), reboot="failure"), p2="SSH_SILENT")
        getattr(b, way)()
        assert (b.life.rung, b.life.climbing) == ("", [])
    b = ill(Bench(2, CLIMBER, reboot="failure"), p2="SHELL_HANG")
    b.away()
    at(b, "backing-off", m.Wait)
    assert (b.life.rung, b.life.climbing) == ("", [])


@scenario
def patience_ends_on_the_ladder_too() -> None:
    b = ill(Bench(2, Tuning(restart_after_secs=20, patience_secs=30), reboot="failure"), p2="SHELL_HANG")
    at(b, "rebooting")
    b.not_cycled()
    b.life.rungs["p2"] = 3
    b.due()
    b.away(secs=30, p2="SHELL_HANG")
    at(b, "halted", m.SlowProbe)
    assert (b.life.cause, b.life.code) == ("machine", "SHELL_HANG") and b.facts()["code"] == "SHELL_HANG"


@scenario
def nobody_is_called_while_a_restart_may_help() -> None:
    b = Bench(2, Tuning(restart_after_secs=20, patience_secs=30), switches=("p2",), reboot="failure")
    b.schedule()
    b.validated()
    b.succeed()
    b.away(secs=0, p1="MACHINE_TAKEN")
    b.due(secs=29)
    b.away(secs=2, p2="SSH_NO_BANNER")  # ill for a moment only, but patience is used up
    at(b, "backing-off", m.Wait)
    b.due(secs=0)
    at(b, "backing-off", m.PowerCycle)
    b.not_cycled()
    b.due(secs=0)
    b.away(secs=0, p2="SSH_NO_BANNER")
    at(b, "halted", m.SlowProbe)


# ---------------------------------------------------------------- machines that come and go


@scenario
def a_machine_that_restarts_by_itself_again_and_again_halts() -> None:
    b = Bench(3, retries=9, reboot="never")
    b.run()
    for count in (1, 2):
        b.restart("p2")
        b.fail("rebooted")
        b.due()
        b.validated()
        at(b, "running")
        assert b.life.restarts == {"p2": count}
    b.fail("rebooted")
    b.restart("p2")
    b.due()
    b.validated()
    at(b, "halted", None)
    assert (b.life.cause, b.life.code, b.life.probing) == ("machine", "MACHINE_FLAPPING", False)
    assert b.facts()["reason"] == "p2 restarted 3 times by itself since the last test succeeded"
    assert b.facts()["machine"] == "p2" and b.life.uid == "" and b.life.boot_ids == b.boots
    b.resume()
    b.run()
    assert b.life.restarts == {}
    b.restart("p2")
    b.succeed()
    assert b.life.restarts == {}  # what comes before a success is no loop
    b.validated()
    assert b.life.restarts == {"p2": 1}


@scenario
def what_is_open_or_finished_comes_before_restarts() -> None:
    b = Bench(1)
    b.run()
    b.life.restarts = {"p2": 2}
    b.away()
    b.due()
    b.restart("p2")
    b.validated()
    at(b, "running")  # its result tells more
    b = Bench(1)
    b.run().fail()
    b.life.restarts = {"p2": 3}
    b.skip(0)
    b.validated()
    at(b, "idle")
    b = Bench(1, reboot="experiment")
    b.schedule()
    b.life.restarts = {"p2": 3}
    b.validated()
    at(b, "halted")


@scenario
def machines_that_come_and_go_without_end_halt() -> None:
    for state in ("validating", "rebooting", "running"):
        b = Bench(1).until(state)
        b.life.setbacks = SETBACKS - 2
        b.away()
        at(b, "backing-off")
        assert b.life.setbacks == SETBACKS - 1
        b = Bench(1).until(state)
        b.life.setbacks = SETBACKS - 1
        b.away()
        at(b, "halted", m.Sweep if state == "running" else None)
        assert (b.life.cause, b.life.code, b.life.probing) == ("machine", "MACHINE_FLAPPING", False)
        assert f"were found away {SETBACKS} times" in b.life.reason and "p2: is away" in b.life.reason
        assert b.rows() == ([(0, 1, "machine-lost", "machine")] if state == "running" else [])
        assert b.life.uid == ""
        b.resume()
        assert b.life.setbacks == 0
    b = Bench(2)
    b.run().fail("rebooted")
    assert b.life.setbacks == 1
    b.due()
    b.run().succeed()
    assert b.life.setbacks == 0
    for state in ("validating", "running"):
        b = Bench(1, IMPATIENT).until(state)
        b.life.setbacks = SETBACKS
        b.away()
        assert b.life.probing and "no answer for" in b.life.reason  # how long says more than how often


@scenario
def it_comes_back_by_itself_so_often() -> None:
    b = Bench(2, IMPATIENT)
    for count in range(COMEBACKS):
        b.schedule()
        b.away()
        at(b, "halted", m.SlowProbe)
        b.answered()
        assert b.life.comebacks == count + 1
    b.schedule()
    b.away()
    at(b, "halted", None)
    assert b.facts()["todo"] == todo("machine", False, "PCG #1")
    b.resume()
    b.run().succeed()
    assert b.life.comebacks == 0


@scenario
def nobody_answers() -> None:
    b = Bench(2, IMPATIENT)
    b.schedule()
    b.away(p2="SSH_SILENT", p1="PING")
    assert b.facts()["everyone"] and "none of the 2 machines answers" in b.facts()["reason"]
    for p1 in ("", "SHELL_HANG"):
        b = Bench(2, IMPATIENT)
        b.schedule()
        event = m.Unreachable(
            machine="p2", reason="p2: is away", code="PING", ill={"p2": "PING", **({"p1": p1} if p1 else {})}
        )
        b.happen(event)
        assert not b.facts()["everyone"] and "none of" not in b.facts()["reason"]


@scenario
def lost_attempts_are_waited_for_longer_and_longer() -> None:
    b = Bench(1, Tuning(backoff_first_secs=4, backoff_cap_secs=20))
    waits = []
    for _ in range(BLAMELESS_BUDGET - 1):
        b.run().fail("rebooted")
        waits.append(b.life.backoff_secs)
        b.due()
    assert waits == [2, 4, 8, 10]


# ---------------------------------------------------------------- what an outage gives back


@scenario
def an_outage_gives_back_what_tests_were_charged() -> None:
    for way in ("away", "lost", "partition"):
        b = Bench(4, retries=1, halt_after_consecutive_failures=9)
        b.run().fail("no-match")
        b.run().fail("timeout")
        b.run().fail("no-data")
        assert (b.life.test, b.life.charged, b.life.failed) == (b.name(1), 1, 1)
        if way == "away":
            b.away()
        else:
            b.validated()
            if way == "lost":
                b.fail("rebooted")
            else:
                b.fail("no-match", blame="network", code="PARTITION")
        at(b, "backing-off")
        assert (b.life.failed, b.life.failures_in_a_row, b.life.charged, b.life.refunded) == (0, 0, 0, True)
        number = 1 if way == "away" else 2
        assert [(r.test, r.number, r.charged, r.refunded) for r in b.life.requeued] == [(b.name(0), 2, 0, True)]
        assert [(test, event) for test, event, _ in b.step.asides] == [(b.name(1), "refunded"), (b.name(0), "refunded")]
        assert b.life.remaining() == 4
        b.due()
        b.run()
        assert (b.life.test, b.life.number) == (b.name(1), number + 1)
        b.fail("timeout")
        b.run().fail("timeout")
        assert b.life.suspects == []  # once is enough
        b.run()
        assert (b.life.test, b.life.number, b.life.refunded) == (b.name(0), 3, True)
        b.fail("timeout")
        b.away()
        at(b, "backing-off")
        assert (b.life.charged, b.life.failed) == (1, 1)  # nothing is given back again
        b.due()
        b.run().succeed()
        b.run()
        assert (b.life.test, b.life.refunded) == (b.name(2), False)


@scenario
def the_open_attempt_knows_of_outages_while_it_ran() -> None:
    b = Bench(2, memory=True, retries=1)
    b.run().started()
    b.away(p1="PING", p2="USER_LOGGED_IN")
    assert b.life.was_away == {"p1": "PING"}  # who is logged in spoils nothing
    b.due()
    b.away(p2="SSH_SILENT")
    b.due()
    b.reload()
    b.validated()
    at(b, "running", m.RunAttempt)
    assert isinstance(b.step.order, m.RunAttempt) and b.step.order.was_away == {"p1": "PING", "p2": "SSH_SILENT"}
    b.fail("timeout", blame="network", code="NETWORK_DOWN")
    assert (b.life.charged, b.life.was_away) == (0, {})
    b.due()
    b.away()
    assert b.life.was_away == {}  # no attempt is open
    b.due()
    b.validated()
    assert isinstance(b.step.order, m.RunAttempt) and b.step.order.was_away == {}


@scenario
def an_experiment_that_has_nothing_left_after_a_halt_is_told_to_be_finished() -> None:
    for way in ("resume", "answered", "room"):
        b = Bench(1, retries=0, halt_after_consecutive_failures=1)
        b.run()
        if way == "resume":
            b.fail("timeout")
            at(b, "halted")
            b.resume()
        elif way == "answered":
            b.impossible()
            b.skip(0)
            at(b, "halted")
            b.answered()
        else:
            b.low_disk()
            b.skip(0)
            at(b, "halted")
            b.room()
        at(b, "idle")
        assert b.life.outcome == "finished" and b.told()[-1] == "finish"


@scenario
def a_silent_machine_gives_back_also_where_another_is_in_use() -> None:
    b = Bench(2, retries=1)
    b.run().fail("timeout")
    b.away(p1="USER_LOGGED_IN", p2="SSH_SILENT")
    assert b.life.refunded and b.life.charged == 0


@scenario
def what_no_outage_did_is_not_given_back() -> None:
    for status in ("crashed",):
        b = Bench(2, retries=0, halt_after_consecutive_failures=9)
        b.run().fail(status)
        b.away()
        assert b.life.failed == 1 and not b.life.requeued
    b = Bench(3, retries=0, halt_after_consecutive_failures=9)
    b.run().fail()
    b.run().succeed()  # all was well
    b.away()
    assert b.life.failed == 1 and not b.life.requeued
    for code in ("MACHINE_TAKEN", "REMOTE_DISK_FULL"):  # somebody uses it: no outage
        b = Bench(2, retries=0, halt_after_consecutive_failures=9)
        b.run().fail()
        b.away(p2=code)
        assert b.life.failed == 1 and not b.life.requeued
    b = Bench(2, retries=0, halt_after_consecutive_failures=9)
    b.run().fail()
    b.run().fail("invalid")
    assert b.life.failed == 1 and not b.life.requeued
    b = Bench(2, retries=1)
    b.run().fail()
    b.skip(0)
    b.away()
    assert b.life.skipped == 1 and not b.life.requeued  # a person has decided it since
    b = Bench(3, retries=0, halt_after_consecutive_failures=9)
    b.run().fail()
    b.retry((0, 1, "timeout"))
    b.away()
    assert [r.refunded for r in b.life.requeued] == [False]
    b = Bench(3, retries=0, halt_after_consecutive_failures=1)
    b.run().fail()
    b.swept()
    b.resume()
    b.schedule()
    b.away()
    assert b.life.failed == 1 and not b.life.requeued  # whoever resumes has seen them


# ---------------------------------------------------------------- the disk


@scenario
def a_full_disk_halts_until_there_is_room() -> None:
    b = Bench(1)
    b.schedule()
    b.low_disk()
    at(b, "halted", None)
    assert (b.life.cause, b.life.reason) == ("disk", "only 3 MB are free") and b.told() == ["halt"]
    b.answered()
    ignored(b)
    b.room()
    at(b, "idle", None)
    assert b.step.reschedule and b.told() == ["halt", "over"] and b.facts()["reason"] == "only 3 MB are free"
    assert b.life.outcome == "waiting" and b.life.cause == ""


@scenario
def a_result_that_does_not_fit_waits_on_the_machines() -> None:
    b = Bench(2)
    b.run()
    uid = b.life.uid
    b.low_disk()
    at(b, "halted", None)
    assert (b.life.cause, b.life.code, b.life.uid) == ("disk", "DISK_FULL", uid) and b.rows() == []
    assert b.life.holds_machines()  # nobody else may sweep it
    b.restarted()
    at(b, "halted", None)
    b.room()
    at(b, "idle", None)
    assert b.life.uid == uid and b.life.holds_machines() and b.step.reschedule
    b.schedule()
    b.validated()
    at(b, "running", m.RunAttempt)
    assert isinstance(b.step.order, m.RunAttempt) and (b.step.order.uid, b.step.order.confirmed) == (uid, True)
    b.succeed()
    assert b.rows() == [(0, 1, "success", "")]


@scenario
def what_waits_on_the_machines_can_be_stopped() -> None:
    for state in ("halted", "idle"):
        for way in ("halt", "cancel", "skip"):
            b = Bench(2 if way != "skip" else 1)
            b.run().low_disk()
            if state == "idle":
                b.room()
            if way == "skip":
                b.skip(0)
                at(b, state, m.Sweep)
                assert b.rows() == [(0, 1, "skipped", "operator")] and b.decided() == {0: "skipped"}
                assert (b.life.outcome == "finished") == (state == "idle")
            else:
                getattr(b, way)()
                at(b, "halted" if way == "halt" else "idle", m.Sweep)
                assert b.rows() == [(0, 1, "interrupted", "operator")]
                assert b.latest(m.AttemptClosed).result.reason == "stopped by ann"
            assert b.life.uid == "" and b.life.sweep_owed


@scenario
def another_test_is_skipped_while_a_result_waits() -> None:
    for state in ("halted", "idle"):
        b = Bench(2)
        b.run().low_disk()
        if state == "idle":
            b.room()
        uid, ticket = b.life.uid, b.life.ticket
        b.skip(1)
        goes_on(b, state, ticket)
        assert b.rows() == [(1, 1, "skipped", "operator")] and b.life.uid == uid


@scenario
def results_that_were_taken_away_need_a_person() -> None:
    for state in ("validating", "running"):
        b = Bench(1).until(state)
        b.low_disk("RESULTS_MISSING")
        at(b, "halted", None)
        assert (b.life.cause, b.life.code) == ("controller", "RESULTS_MISSING")
        b.room()
        ignored(b)
        b.resume()
        at(b, "idle")
        assert bool(b.life.uid) == (state == "running")


@scenario
def a_result_that_never_fits_needs_a_person() -> None:
    """The disk seems to have room each time, but a quota, say, has none."""
    b = Bench(2)
    b.run()
    for _ in range(COMEBACKS):
        b.low_disk()
        assert b.life.cause == "disk"
        b.room()
        b.schedule()
        b.validated()
        at(b, "running", m.RunAttempt)
    b.low_disk()
    assert (b.life.cause, b.life.code) == ("controller", "DISK_FULL") and b.life.uid
    b.room()
    ignored(b)
    b.resume()
    b.schedule()
    b.validated()
    b.succeed()
    b.run().low_disk()
    assert b.life.cause == "disk"


@scenario
def an_outage_is_not_told_any_more_by_what_a_person_stopped() -> None:
    """The next experiment that meets it tells people itself."""
    for way in ("halt", "cancel"):
        b = Bench(2, IMPATIENT)
        b.schedule()
        b.away()
        at(b, "halted")
        b.life.outage_told = True
        getattr(b, way)()
        assert b.step.taken and not b.life.outage_told


@scenario
def what_waits_on_the_machines_is_not_swept() -> None:
    """A sweep that an earlier attempt left owed would take the files of the one that waits for room as well."""
    b = Bench(1)
    b.run().impossible()
    at(b, "halted", m.SlowProbe)
    b.answered()
    b.schedule()
    b.validated()
    assert b.life.sweep_owed and b.life.uid
    b.low_disk()
    at(b, "halted", None)
    b.restarted()
    at(b, "halted", None)
    b.room()
    at(b, "idle", None)
    b.halt()
    at(b, "halted", m.Sweep)
    assert b.life.sweep_owed and not b.life.uid


@scenario
def archives_are_measured() -> None:
    b = Bench(3)
    for size in (100, 300, 200):
        b.run()
        b.happen(m.Succeeded(result=m.AttemptResult(end_status="success", archive="a", size=size)))
    assert (b.life.largest, b.life.kept_bytes) == (300, 600)


# ---------------------------------------------------------------- restarts


@scenario
def a_restart_asks_for_the_state_s_work_again() -> None:
    orders = {
        "idle": None,
        "validating": m.Validate,
        "rebooting": m.Reboot,
        "running": m.RunAttempt,
        "backing-off": m.Wait,
        "halted": m.Sweep,
    }
    for state, order in orders.items():
        b = Bench().until(state)
        before = b.life.ticket
        b.restarted(crashed=state != "running")
        at(b, state, order)
        assert b.life.ticket == before + 1 and b.step.reschedule == (state == "idle")
        assert b.life.crashes == 0 and b.step.changes == []
        if isinstance(b.step.order, m.Wait):
            assert b.step.order.secs == 0.0 and b.life.backoff_secs > 0
        if isinstance(b.step.order, m.RunAttempt):
            assert b.step.order.uid == b.life.uid and b.step.order.confirmed


@scenario
def a_restart_finds_a_test_half_started() -> None:
    for reason in ("", "only p1 knows it"):
        b = Bench(1, retries=0)
        b.schedule()
        b.validated()
        b.restarted()
        b.half_started(reason)
        at(b, "validating", m.Validate)
        assert b.rows() == [(0, 1, "interrupted", "controller")]
        said = reason or "the daemon was interrupted while it started the attempt"
        assert b.latest(m.AttemptClosed).result.reason == said
        b.validated()
        assert (b.life.test, b.life.number, b.life.charged) == (b.name(0), 2, 0)


@scenario
def a_test_that_only_ever_half_starts_halts() -> None:
    b = Bench(1, retries=0)
    for _ in range(BLAMELESS_BUDGET - 1):
        b.run().half_started()
        at(b, "validating", m.Validate)
    b.run().half_started("p2 never starts")
    at(b, "halted", None)
    assert (b.life.cause, b.life.reason, b.life.probing) == ("machine", "p2 never starts", False)
    assert b.rows() == [(0, n, "interrupted", "controller") for n in range(1, BLAMELESS_BUDGET + 1)]
    assert b.told() == ["halt"] and b.decided() == {}
    b.resume()
    b.run()
    assert (b.life.test, b.life.number) == (b.name(0), BLAMELESS_BUDGET + 1)


@scenario
def a_test_that_crashes_the_daemon_is_given_up() -> None:
    b = Bench(3)
    b.run()
    for crash in (1, 2):
        b.restarted(crashed=True)
        at(b, "running", m.RunAttempt)
        assert b.life.crashes == crash
    b.restarted(crashed=False)
    at(b, "running")
    b.restarted(crashed=True)
    at(b, "validating", m.Validate)
    assert b.rows() == [(0, 1, "crashed-daemon", "controller")] and b.decided() == {0: "crashed-daemon"}
    assert (b.life.failed, b.life.failures_in_a_row, b.life.crashes, b.told()) == (1, 0, 0, [])
    b.run()
    for _ in range(2):
        b.restarted(crashed=True)
        at(b, "running")
    b.restarted(crashed=True)
    at(b, "halted", m.Sweep)
    assert b.decided() == {0: "crashed-daemon", 1: "crashed-daemon"} and b.life.cause == "failures"
    last = f"the daemon crashed three times while it ran {b.name(1)}"
    assert b.facts()["reason"] == f"2 tests made the daemon crash; the last one: {last}"
    b.swept()
    b.resume()
    b.run()
    assert b.life.test == b.name(2)


@scenario
def times_are_kept() -> None:
    b = Bench(1)
    b.run().succeed()
    opened, closed, decided = b.latest(m.AttemptOpened), b.latest(m.AttemptClosed), b.latest(m.TestDecided)
    assert START < opened.started < closed.ended == decided.wall == b.life.since == b.wall


@scenario
def no_attempt_ends_before_it_began() -> None:
    """However far the controller's clock is set back in the middle of it."""
    b = Bench(1)
    b.run()
    b.wall -= 1e9
    b.succeed()
    assert b.latest(m.AttemptClosed).ended == b.latest(m.AttemptOpened).started


@scenario
def what_was_held_against_it_is_forgotten_when_dropped_again() -> None:
    b = Bench(3, retries=0, halt_after_consecutive_failures=2)
    b.run().fail()
    b.run().fail()
    at(b, "halted")
    b.cancel()
    b.swept()
    b.redropped()
    assert (b.life.outcome, b.life.reason, b.life.failures_in_a_row) == ("waiting", "", 0)
