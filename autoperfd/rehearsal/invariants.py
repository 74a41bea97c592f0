"""What must hold whatever happened: checks on plain rows, for rehearsals, tests on labs and anything else.

`problems(evidence)` gives sentences, [] when all is well. The memory's rows are enough for some checks; those of
the order of things need a record: what was committed, and what was done on machines, in the order it happened.
Those about outages, budgets and restarts stand in `outages.py`. Pure; any thread.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator

from autoperfd.core import messages as m
from autoperfd.core.policy import BLAMELESS_BUDGET, KEPT
from autoperfd.daemon.store import Happened, OutboxRow, SaveHistory
from autoperfd.rehearsal.evidence import Committed, Did, Evidence, commits, happened, steps
from autoperfd.rehearsal.outages import (
    FORGIVING,
    a_long_sleep_is_noticed,
    attempts_are_not_rebooted_away,
    attempts_open_on_fit_machines,
    charges,
    halts_are_told_once,
    it_does_not_come_back_for_ever,
    never_is_never,
    nothing_goes_round_in_circles,
    nothing_is_silent,
    only_the_test_pays,
    outages_are_given_back,
    outages_in_mid_attempt_are_not_charged,
    rungs_are_used_once,
    successes_have_archives,
    twice_is_once,
    what_is_kept_stays_small,
)

# Verdicts that no budget was used up for.
UNCOUNTED = (*KEPT, "skipped", "crashed-daemon")


def problems(evidence: Evidence) -> list[str]:
    """Every violation as a sentence that begins with the invariant's name."""
    return [f"{name}: {sentence}" for name, check in INVARIANTS for sentence in check(evidence)]


# ---------------------------------------------------------------- from the memory alone


def numbers_are_used_once(evidence: Evidence) -> Iterator[str]:
    """The attempts of a test are numbered 1, 2, 3, … and no uid is given twice."""
    uids = Counter(row.uid for row in evidence.memory.attempts if row.uid)
    yield from (f"{uid} is the uid of {count} attempts" for uid, count in uids.items() if count > 1)
    numbers: dict[tuple[int, str], list[int]] = {}
    for row in evidence.memory.attempts:
        numbers.setdefault((row.experiment, row.test), []).append(row.number)
    for (_, test), found in numbers.items():
        if found != list(range(1, len(found) + 1)):
            yield f"the attempts of {test} are numbered {found}"


def one_attempt_is_open(evidence: Evidence) -> Iterator[str]:
    """At most one attempt of an experiment runs, and its life knows it."""
    running: dict[int, list[str]] = {}
    for row in evidence.memory.attempts:
        if row.status == "running":
            running.setdefault(row.experiment, []).append(row.uid)
        elif row.ended is None or row.closed is None:
            yield f"attempt {row.number} of {row.test} is {row.status} and has no end"
    for number, life in evidence.memory.lives.items():
        known = [life["uid"]] if life["uid"] else []
        if running.get(number, []) != known:
            yield f"experiment {number} has {running.get(number, [])} running, its life says {known}"


def rows_end_once(evidence: Evidence) -> Iterator[str]:
    """The finished rows of an experiment are numbered without a gap in the order they ended."""
    places: dict[int, list[int]] = {}
    for row in evidence.memory.attempts:
        if row.closed is not None:
            places.setdefault(row.experiment, []).append(row.closed)
    for number, found in places.items():
        if sorted(found) != list(range(1, len(found) + 1)):
            yield f"the finished rows of experiment {number} have the places {sorted(found)}"


def verdicts_fit_their_attempts(evidence: Evidence) -> Iterator[str]:
    """A test's verdict is the end status of its last attempt; a success has an archive."""
    last = {(row.experiment, row.test): row for row in evidence.memory.attempts}
    for test in evidence.memory.tests:
        if not test.status:
            continue
        row = last.get((test.experiment, test.name))
        if row is None:
            yield f"{test.name} is {test.status} without an attempt"
        elif (row.status, row.number) != (test.status, test.attempts):
            yield (
                f"{test.name} is {test.status} after {test.attempts} attempts, "
                f"but its last attempt is number {row.number}: {row.status}"
            )
    for row in evidence.memory.attempts:
        if row.status in KEPT and not (row.archive and row.sha256):
            yield f"attempt {row.number} of {row.test} is a {row.status} without an archive"


def books_balance(evidence: Evidence) -> Iterator[str]:
    """An experiment's counters are the numbers of its rows."""
    for number, life in evidence.memory.lives.items():
        verdicts = [test.status for test in evidence.memory.tests if test.experiment == number and test.status]
        found = {
            "succeeded": sum(status in KEPT for status in verdicts),
            "skipped": verdicts.count("skipped"),
            "failed": sum(status not in KEPT and status != "skipped" for status in verdicts),
        }
        for name, count in found.items():
            if life[name] != count:
                yield f"experiment {number} says {life[name]} tests {name}, its rows say {count}"
        queued = [test for experiment, test, _ in evidence.memory.requeued if experiment == number]
        if len(set(queued)) != len(queued):
            yield f"experiment {number} has tests queued twice: {queued}"


def every_test_has_its_verdict(evidence: Evidence) -> Iterator[str]:
    """A finished experiment has exactly one verdict for every test from its first on, and none besides."""
    verdicts: dict[int, dict[str, str]] = {}
    for test in evidence.memory.tests:
        verdicts.setdefault(test.experiment, {})[test.name] = test.status
    for number, limits in evidence.limits.items():
        life = evidence.memory.lives.get(number)
        found = verdicts.get(number, {})
        yield from (f"{name} has a verdict and is none of the tests" for name in found.keys() - set(limits.tests))
        if life is None or (life["state"], life["outcome"]) != ("idle", "finished"):
            continue
        for name in limits.tests[limits.first :]:
            if not found.get(name):
                yield f"{name} has no verdict, but experiment {number} is finished"


def one_message_an_incident(evidence: Evidence) -> Iterator[str]:
    """People are told once of a halt."""
    told = Counter(
        (facts.get("experiment"), facts.get("incident"))
        for row in evidence.memory.outbox
        if row.kind == "halt"
        for facts in [json.loads(row.facts)]
    )
    yield from (f"incident {key[1]} of {key[0]} was told {n} times" for key, n in told.items() if n > 1)


def it_ends(evidence: Evidence) -> Iterator[str]:
    """When faults have stopped every experiment ends, or waits for a person."""
    if not evidence.ended:
        return
    for number, life in evidence.memory.lives.items():
        state, outcome = life["state"], life["outcome"]
        if state != "idle" or outcome not in ("finished", "cancelled") or life["sweep_owed"]:
            owed = ", a sweep is owed" if life["sweep_owed"] else ""
            yield f"experiment {number} is {state} ({outcome}{owed}: {life['cause']} {life['reason']}) for good"


# ---------------------------------------------------------------- from the record


def intent_comes_first(evidence: Evidence) -> Iterator[str]:
    """Nothing happens on a machine for an attempt that is not durable yet, nothing starts when it has ended."""
    opened: set[str] = set()
    closed: set[str] = set()
    for entry in evidence.record:
        if isinstance(entry, Did):
            if entry.verb in ("prepared", "started") and entry.uid not in opened:
                yield f"{entry.machine} was told of attempt {entry.uid} before its intent was durable"
        elif isinstance(entry, Committed) and isinstance(entry.write, Happened):
            change = entry.write.change
            if isinstance(change, m.AttemptOpened):
                opened.add(change.uid)
            elif isinstance(change, m.AttemptClosed) and change.uid:
                if change.uid in closed:
                    yield f"attempt {change.uid} was closed twice"
                closed.add(change.uid)


def results_are_of_the_open_attempt(evidence: Evidence) -> Iterator[str]:
    """An attempt opens when none is open, and only the open one is closed."""
    current: dict[int, str] = {}
    for _, number, change in happened(evidence):
        if isinstance(change, m.AttemptOpened):
            if current.get(number):
                yield f"attempt {change.uid} was opened while {current[number]} was open"
            current[number] = change.uid
        elif isinstance(change, m.AttemptClosed) and change.uid:
            if current.get(number) != change.uid:
                yield f"attempt {change.uid} was closed while {current.get(number) or 'none'} was open"
            current[number] = ""


def one_attempt_a_machine(evidence: Evidence) -> Iterator[str]:
    """At most one attempt is alive on a machine, and none starts there twice.

    Only one whose start nobody had confirmed may start again, when all that was known of it went with a boot or the
    machine's files.
    """
    alive: dict[str, set[str]] = {}
    started: dict[tuple[str, str], str] = {}
    current: dict[int, str] = {}
    confirmed: set[str] = set()
    for entry in evidence.record:
        if isinstance(entry, Committed):
            if isinstance(entry.write, SaveHistory) and entry.write.event == "started":
                confirmed.add(current.get(entry.write.experiment, ""))
            elif isinstance(entry.write, Happened) and isinstance(entry.write.change, m.AttemptOpened):
                current[entry.write.experiment] = entry.write.change.uid
        if not isinstance(entry, Did):
            continue
        here, key = alive.setdefault(entry.machine, set()), (entry.machine, entry.uid)
        if entry.verb == "started":
            yield from (f"{entry.uid} started on {entry.machine} while {other} was alive" for other in sorted(here))
            if key in started and (entry.uid in confirmed or started[key] == entry.boot):
                yield f"{entry.uid} started twice on {entry.machine}"
            started[key] = entry.boot
            here.add(entry.uid)
        elif entry.verb == "wiped":
            started[key] = ""
        elif entry.verb.startswith("ended by"):
            here.discard(entry.uid)
    if evidence.ended:
        for machine, left in alive.items():
            yield from (f"{uid} is still alive on {machine}" for uid in sorted(left))


def open_attempts_are_kept(evidence: Evidence) -> Iterator[str]:
    """Nobody removes from a machine what an attempt left there before its result is written down."""
    still_open: set[str] = set()
    for entry in evidence.record:
        if isinstance(entry, Did):
            if entry.verb == "swept" and entry.uid in still_open:
                yield f"{entry.uid} was swept from {entry.machine} while it was open"
        elif isinstance(entry, Committed) and isinstance(entry.write, Happened):
            change = entry.write.change
            if isinstance(change, m.AttemptOpened):
                still_open.add(change.uid)
            elif isinstance(change, m.AttemptClosed):
                still_open.discard(change.uid)


def machines_are_not_shared(evidence: Evidence) -> Iterator[str]:
    """No attempt opens on a machine of another experiment's open attempt."""
    users: dict[int, tuple[str, ...]] = {}
    for _, number, change in happened(evidence):
        if isinstance(change, m.AttemptOpened):
            mine = change.plan.machines()
            for other, theirs in users.items():
                shared = [machine for machine in mine if machine in theirs]
                if other != number and shared:
                    yield f"{change.uid} of experiment {number} was opened on {shared}, which experiment {other} uses"
            users[number] = mine
        elif isinstance(change, m.AttemptClosed) and change.uid:
            users.pop(number, None)


def successes_are_real(evidence: Evidence) -> Iterator[str]:
    """A success ran to its own end on every machine of its plan, in one boot of each, under its own uid."""
    plans: dict[str, tuple[str, ...]] = {}
    starts: dict[tuple[str, str], str] = {}
    ends: dict[tuple[str, str], tuple[str, str]] = {}
    for entry in evidence.record:
        if isinstance(entry, Did):
            key = (entry.uid, entry.machine)
            if entry.verb == "started":
                starts[key] = entry.boot
            elif entry.verb.startswith("ended by"):
                ends[key] = (entry.verb, entry.boot)
        elif isinstance(entry, Committed) and isinstance(entry.write, Happened):
            change = entry.write.change
            if isinstance(change, m.AttemptOpened):
                plans[change.uid] = change.plan.machines()
            elif isinstance(change, m.AttemptClosed) and change.result.end_status in KEPT:
                for machine in plans.get(change.uid, ("?",)):
                    key = (change.uid, machine)
                    if ends.get(key) != ("ended by self", starts.get(key, "")):
                        yield (
                            f"{change.test} number {change.number} is a {change.result.end_status}, but on {machine} "
                            f"it started in {starts.get(key, 'no boot')} and ended as {ends.get(key, 'nothing')}"
                        )


def the_test_pays_for_itself(evidence: Evidence) -> Iterator[str]:
    """Only attempts that failed by the test's own fault use up its budget, and the budget is kept."""
    charged: Counter[tuple[int, str]] = Counter()  # since the test was taken up; a cancelled test keeps what it paid
    for number, change in charges(evidence):
        limits = evidence.limits.get(number)
        key = (number, change if isinstance(change, str) else getattr(change, "test", ""))
        if isinstance(change, str):
            charged.pop(key, None)
        elif limits is None:
            continue
        elif isinstance(change, m.AttemptClosed):
            charged[key] += change.result.blame == "test"
            if charged[key] > limits.retries[1] + 1:
                yield f"{change.test} was charged {charged[key]} times"
        elif isinstance(change, m.TestDecided):
            paid = charged.pop(key, 0)
            if change.status and change.status not in UNCOUNTED and paid <= limits.retries[0]:
                yield f"{change.test} was given up as {change.status} after {paid} charged attempts"
        elif isinstance(change, m.Requeued) and change.charged != charged[key]:
            yield f"{change.test} was queued with {change.charged} charged, {charged[key]} were"


def others_pay_within_bounds(evidence: Evidence) -> Iterator[str]:
    """A test is not tried for ever at the cost of machines, network or controller: that halts."""
    paid: Counter[tuple[int, str]] = Counter()
    for entry in evidence.record:
        if not isinstance(entry, Committed):
            continue
        write = entry.write
        if isinstance(write, SaveHistory) and write.event in ("resume", "answered", "room", "redropped", "cancel"):
            for key in [key for key in paid if key[0] == write.experiment]:
                del paid[key]
        if not isinstance(write, Happened):
            continue
        change = write.change
        if isinstance(change, m.TestDecided):
            paid.pop((write.experiment, change.test), None)
        elif isinstance(change, m.AttemptClosed) and change.result.blame in ("machine", "network", "controller"):
            paid[write.experiment, change.test] += 1
            if paid[write.experiment, change.test] > BLAMELESS_BUDGET:
                yield f"{change.test} was tried {paid[write.experiment, change.test]} times at the cost of others"


def a_verdict_is_final(evidence: Evidence) -> Iterator[str]:
    """A test that has its verdict gets no other, nor another attempt, unless it was queued again."""
    decided: set[tuple[int, str]] = set()
    for _, number, change in happened(evidence):
        if isinstance(change, m.TestDecided):
            if (number, change.test) in decided:
                yield f"{change.test} was decided twice"
            decided.add((number, change.test))
        elif isinstance(change, m.Requeued):
            decided.discard((number, change.test))
        elif isinstance(change, m.AttemptOpened) and (number, change.test) in decided:
            yield f"{change.test} had its verdict and was tried again"


def tests_keep_their_order(evidence: Evidence) -> Iterator[str]:
    """A test is seen through before the next one begins; those that nobody queued come in the sweep's order."""
    current: dict[int, str] = {}
    farthest: dict[int, int] = {}
    queued: set[tuple[int, str]] = set()
    for _, number, change in happened(evidence):
        limits = evidence.limits.get(number)
        if isinstance(change, m.AttemptOpened):
            before = current.get(number)
            if before and before != change.test:
                yield f"{change.test} began before {before} was decided"
            current[number] = change.test
            if before != change.test and (number, change.test) not in queued:
                if change.index < farthest.get(number, limits.first if limits else 0):
                    yield f"{change.test} (place {change.index}) began after place {farthest.get(number)}"
                farthest[number] = change.index + 1
            queued.discard((number, change.test))
        elif isinstance(change, m.TestDecided | m.Requeued):
            if isinstance(change, m.Requeued):
                queued.add((number, change.test))
            if current.get(number) == change.test:
                current[number] = ""


def enough_failures_halt(evidence: Evidence) -> Iterator[str]:
    """The Nth test in a row that is given up halts its experiment, in the same transaction; others do not."""
    row: Counter[int] = Counter()  # at most so many tests in a row
    surely: Counter[int] = Counter()  # at least so many: what a dropped file forgives depends on more than the record
    for _, writes in commits(evidence):
        said = list(steps(writes))
        for write in writes:
            if not isinstance(write, Happened):
                continue
            number, limits = write.experiment, evidence.limits.get(write.experiment)
            if isinstance(write.change, m.Requeued) and any(step.event == "refunded" for step in said):
                row[number], surely[number] = max(0, row[number] - 1), max(0, surely[number] - 1)
            if not isinstance(write.change, m.TestDecided):
                continue
            status = write.change.status
            if status == "success":
                row[number] = surely[number] = 0
            elif status and status not in UNCOUNTED and limits is not None:
                row[number] += 1
                surely[number] += 1
                halted = any(step.event == "failed" and step.after == "halted" for step in said)
                if surely[number] >= limits.halt_after[1] and not halted:
                    yield f"{surely[number]} tests in a row were given up in experiment {number}, and it went on"
                if halted and row[number] < limits.halt_after[0]:
                    yield f"experiment {number} was halted after {row[number]} tests in a row"
        for step in said:
            if step.event in FORGIVING and step.before == "halted":
                row[step.experiment] = surely[step.experiment] = 0
            elif (step.event, step.before) == ("redropped", "idle"):
                surely[step.experiment] = 0


def incidents_are_numbered(evidence: Evidence) -> Iterator[str]:
    """Every halt gives one message, numbered 1, 2, 3, … in its experiment."""
    latest: Counter[str] = Counter()
    for entry in evidence.record:
        if isinstance(entry, Committed) and isinstance(entry.write, OutboxRow) and entry.write.kind == "halt":
            if entry.write.state not in ("waiting", "merged") or entry.write.tries:
                continue  # the same message, later
            facts = json.loads(entry.write.facts)
            name, incident = str(facts["experiment"]), int(facts["incident"])
            if incident != latest[name] + 1:
                yield f"{name} told of incident {incident} after {latest[name]}"
            latest[name] = incident


Check = Callable[[Evidence], Iterator[str]]
INVARIANTS: tuple[tuple[str, Check], ...] = (
    ("I1", numbers_are_used_once),
    ("I1", one_attempt_is_open),
    ("I1", rows_end_once),
    ("I1", verdicts_fit_their_attempts),
    ("I1", books_balance),
    ("I1", every_test_has_its_verdict),
    ("I1", a_verdict_is_final),
    ("I2", successes_are_real),
    ("I4", one_attempt_a_machine),
    ("I4", machines_are_not_shared),
    ("I4", open_attempts_are_kept),
    ("I5", intent_comes_first),
    ("I5", results_are_of_the_open_attempt),
    ("I7", one_message_an_incident),
    ("I7", incidents_are_numbered),
    ("budgets", the_test_pays_for_itself),
    ("budgets", others_pay_within_bounds),
    ("budgets", enough_failures_halt),
    ("order", tests_keep_their_order),
    ("I2", successes_have_archives),
    ("I7", nothing_is_silent),
    ("I7", halts_are_told_once),
    ("I8", what_is_kept_stays_small),
    ("I8", nothing_goes_round_in_circles),
    ("I8", it_does_not_come_back_for_ever),
    ("I10", twice_is_once),
    ("blame", only_the_test_pays),
    ("blame", outages_are_given_back),
    ("blame", outages_in_mid_attempt_are_not_charged),
    ("blame", attempts_open_on_fit_machines),
    ("ladder", rungs_are_used_once),
    ("ladder", attempts_are_not_rebooted_away),
    ("ladder", never_is_never),
    ("clock", a_long_sleep_is_noticed),
    ("I9", it_ends),
)
"""(name in the contract, check)."""
