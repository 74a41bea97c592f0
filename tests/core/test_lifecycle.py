"""The life of an experiment: every row and every absence of the table, and that no row can be lost unnoticed."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperfd.core import lifecycle
from autoperfd.core import messages as m
from autoperfd.core.lifecycle import BUSY, HOLDING, ROWS, STATES, WORK, Life, Row, Tuning, diagram, rows_for
from tests.core.lives import Bench, forget_lives
from tests.core.scenarios import SCENARIOS, Scenario

EVENTS = {event.row: event for event in m.EVENTS}


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    yield
    forget_lives()


# ---------------------------------------------------------------- the table itself


def test_the_table_speaks_of_states_events_and_methods_that_exist() -> None:
    for row in ROWS:
        assert row.event in EVENTS
        assert row.source and set(row.source) <= set(STATES)
        assert row.to == "=" or row.to in STATES
        for name in (*row.only_if, *row.then):
            assert callable(getattr(Life, name, None)), f"{row}: Life has no {name}"
    assert set(WORK) == set(STATES)
    for name in WORK.values():
        assert callable(getattr(Life, name, None))
    assert {row.event for row in ROWS} == set(EVENTS)
    assert len({event.row for event in m.EVENTS}) == len(m.EVENTS)


def test_a_row_behind_one_without_conditions_would_never_be_taken() -> None:
    for event, state in itertools.product(EVENTS, STATES):
        rows = list(rows_for(event, state))
        assert all(row.only_if for row in rows[:-1]), f"{event} in {state}"


def test_every_method_that_only_the_table_can_call_is_in_it() -> None:
    named = {name for row in ROWS for name in (*row.only_if, *row.then)} | set(WORK.values())
    methods = {name: value for name, value in vars(Life).items() if isinstance(value, FunctionType)}
    called = {name for method in methods.values() for name in method.__code__.co_names}
    public = {name for name in methods if not name.startswith("_")}
    used_outside = {"to_json", "restore", "remaining", "holds_machines", "is_ahead"}
    assert public - named - called - used_outside == set()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(scenario: Scenario) -> None:
    scenario()


@functools.cache
def fired() -> dict[tuple[Row, str], list[Scenario]]:
    """Each row and the state it was fired from, with the scenarios that did."""
    seen: dict[tuple[Row, str], list[Scenario]] = {}
    for scenario in SCENARIOS:

        class Watched(Bench):
            def happen(self, event: m.Event, secs: float = 1.0) -> Any:
                step = super().happen(event, secs)
                if step.row is not None:
                    seen.setdefault((step.row, step.before), []).append(scenario)  # noqa: B023 - called at once
                return step

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.core.scenarios.Bench", Watched)
            scenario()
    return seen


def test_the_scenarios_fire_every_row_from_each_of_its_states() -> None:
    missing = {(row, source) for row in ROWS for source in row.source} - set(fired())
    assert not missing, [f"{row.event} {row.only_if} from {source}" for row, source in missing]


# ---------------------------------------------------------------- absences

ABSENT = [(event, state) for event in EVENTS for state in STATES if next(rows_for(event, state), None) is None]
RESULT = m.AttemptResult(end_status="timeout", blame="test")
MORE: dict[str, dict[str, Any]] = {
    "validated": {"boot_ids": {"p1": "x"}, "uid": "f" * 32, "domain": 9},
    "impossible": {"machine": "p1", "reason": "r"},
    "unreachable": {"machine": "p1", "reason": "r"},
    "succeeded": {"result": RESULT},
    "failed": {"result": RESULT},
    "not_cycled": {"machine": "p1", "reason": "r"},
    "skip": {"test": "T", "index": 1},
    "retry": {"tests": (("T", 1, "timeout"),)},
}


@pytest.mark.parametrize(("event", "state"), ABSENT)
def test_where_there_is_no_row_nothing_changes(event: str, state: str) -> None:
    bench = Bench().until(state)
    before = bench.life.to_json()
    step = bench.happen(EVENTS[event](**MORE.get(event, {})))
    assert not step.taken and step.row is None and (step.before, step.after) == (state, state)
    assert not step.changes and step.order is None and not step.replaces_work and not step.reschedule
    assert bench.life.to_json() == before


def test_commands_and_restarts_have_an_answer_in_every_state() -> None:
    for event in ("halt", "skip", "retry", "cancel", "redropped", "restarted"):
        assert {state for state in STATES if next(rows_for(event, state), None)} == set(STATES), event


def test_every_busy_state_can_be_left_by_a_machine_that_is_away() -> None:
    for state in set(BUSY) - {"backing-off"}:
        assert {row.to for row in rows_for("unreachable", state)} == {"halted", "backing-off"}


# ---------------------------------------------------------------- nothing of the table can be lost unnoticed


def without(i: int, source: str) -> tuple[Row, ...]:
    row = ROWS[i]
    left = tuple(state for state in row.source if state != source)
    return (*ROWS[:i], *([row._replace(source=left)] if left else []), *ROWS[i + 1 :])


def changed(i: int, **change: Any) -> tuple[Row, ...]:
    return (*ROWS[:i], ROWS[i]._replace(**change), *ROWS[i + 1 :])


def swapped(i: int, j: int) -> tuple[Row, ...]:
    rows = list(ROWS)
    rows[i], rows[j] = rows[j], rows[i]
    return tuple(rows)


# Guards that never hold together, so the order of their rows says nothing.
APART = [
    {"attempt_open", "nothing_left"},  # an open attempt has a test
    {"rung_reboots", "rung_cycles"},  # one rung comes next
]


def mutants() -> Iterator[tuple[str, int, tuple[Row, ...]]]:
    """(what was done, to which row, the table)."""
    for i, row in enumerate(ROWS):
        for source in row.source:
            yield f"not-from-{source}", i, without(i, source)
        for name in row.only_if:
            yield f"without-{name}", i, changed(i, only_if=tuple(n for n in row.only_if if n != name))
        for name in row.then:
            yield f"without-{name}", i, changed(i, then=tuple(n for n in row.then if n != name))
        for to in sorted({*STATES, "="} - {row.to}):
            if {to, row.to} != {"=", *row.source}:  # "=" and the one state it comes from are the same
                yield f"to-{to}", i, changed(i, to=to)
        yield f"asks-{not row.asks}", i, changed(i, asks=not row.asks)
        for j in range(i + 1, len(ROWS)):
            other = ROWS[j]
            apart = any(pair <= {*row.only_if, *other.only_if} for pair in APART)
            if other.event == row.event and set(other.source) & set(row.source) and not apart:
                yield f"after-row-{j}", i, swapped(i, j)


MUTANTS = list(mutants())


@pytest.mark.parametrize("name,i,rows", MUTANTS, ids=[f"{i}-{ROWS[i].event}-{name}" for name, i, _ in MUTANTS])
def test_a_table_that_is_not_the_table_fails(
    name: str, i: int, rows: tuple[Row, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    likely = [scenario for source in ROWS[i].source for scenario in fired()[ROWS[i], source]]
    monkeypatch.setattr(lifecycle, "ROWS", rows)
    monkeypatch.setattr(lifecycle, "STATE_MACHINE", lifecycle._make_state_machine())
    for scenario in dict.fromkeys((*likely, *SCENARIOS)):
        try:
            scenario()
        except Exception:  # noqa: BLE001 - however it fails, it is noticed
            return
    pytest.fail("no scenario noticed")


def test_the_table_as_it_is_passes_on_a_machine_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "STATE_MACHINE", lifecycle._make_state_machine())
    for scenario in SCENARIOS:
        scenario()


# ---------------------------------------------------------------- any life at all

TESTS = 4
POLICIES = [
    {"reboot": reboot, "retries": retries, "halt_after_consecutive_failures": halt}
    for reboot in ("never", "experiment", "test", "failure")
    for retries, halt in ((0, 2), (1, 3))
]


# How often something comes that means something; what means nothing comes with 1.
OFTEN = {"scheduled": 60, "validated": 60, "rebooted": 40, "succeeded": 20, "failed": 15, "due": 60, "resume": 30}
OFTEN |= {"started": 9, "answered": 30, "restarted": 8, "unreachable": 12, "retry": 20, "skip": 6}


def actions(bench: Bench, i: int) -> list[Callable[[Bench], Any]]:
    """What may happen to a life: events of workers at any time, commands where commands.py lets them through.

    What means something in its state comes more often than what means nothing.
    """
    life, test, decided = bench.life, bench.name(i), bench.decided()
    waiting = any(entry.test == test for entry in life.requeued)
    has_verdict = decided.get(i) and not waiting and test != life.test
    may: list[tuple[str, Callable[[Bench], Any]]] = [("redropped", Bench.redropped)] * (
        40 if life.outcome == "cancelled" else 1
    )
    may += [
        ("scheduled", Bench.schedule),
        ("validated", Bench.validated),
        ("rebooted", Bench.rebooted),
        ("started", Bench.started),
        ("half_started", Bench.half_started),
        ("succeeded", Bench.succeed),
        ("succeeded", lambda b: b.succeed("no-summary")),
        ("failed", lambda b: b.fail("timeout")),
        ("failed", lambda b: b.fail("rebooted")),
        ("failed", lambda b: b.fail("interrupted")),
        ("failed", lambda b: b.fail("wont-start", hopeless=True)),
        ("unreachable", lambda b: b.away(secs=150.0 * i)),
        ("due", Bench.due),
        ("unreachable", lambda b: b.away(secs=300.0, p1="SHELL_HANG", p2="SSH_SILENT")),
        ("cycled", Bench.cycled),
        ("not_cycled", Bench.not_cycled),
        ("impossible", Bench.impossible),
        ("answered", Bench.answered),
        ("swept", Bench.swept),
        ("room", Bench.room),
        ("low_disk", lambda b: b.low_disk(*(["RESULTS_MISSING"] * (i == 1)))),
        ("halt", Bench.halt),
        ("resume", Bench.resume),
        ("cancel", Bench.cancel),
        ("restarted", Bench.restarted),
        ("restarted", lambda b: b.restarted(crashed=True)),
    ]
    if not life.uid and life.state == "validating":
        may += [("validated", lambda b: (b.restart("p2"), b.validated()))] * 3
    if has_verdict and life.outcome != "cancelled":
        attempts = [c.attempts for c in bench.changes if isinstance(c, m.TestDecided) and c.test == test][-1]
        may.append(("retry", lambda b: b.retry((i, attempts, decided[i]))))
    if not has_verdict:
        may.append(("skip", lambda b: b.skip(i)))
    weights = [
        (action, 1 if next(rows_for(event, life.state), None) is None else OFTEN.get(event, 2)) for event, action in may
    ]
    return [action for action, weight in weights for _ in range(weight)]


def sound(bench: Bench) -> None:
    """What holds of every life at every time."""
    life = bench.life
    decided = {test for test, status in bench.decided().items() if status}
    back = {entry.test for entry in life.requeued} | {life.test}
    decided = {i for i in decided if bench.name(i) not in back}
    assert len(back - {""}) == len(life.requeued) + bool(life.test)
    assert life.succeeded + life.failed + life.skipped == len(decided)
    assert life.remaining() == TESTS - len(decided), "no test is lost, none is counted twice"
    assert bool(life.uid) == (life.plan is not None) and (not life.uid or life.holds_machines())
    assert not life.uid or life.state in HOLDING or bench.told()[-1] in ("halt", "over", "resume"), "it stays open"
    assert bool(life.rung) == bool(life.climbing) and (not life.rung or life.state in ("rebooting", "backing-off"))
    assert (life.state == "running") <= bool(life.uid)
    assert life.failures_in_a_row < bench.experiment.policy.halt_after_consecutive_failures or life.state == "halted"
    assert bool(life.cause) == (life.state == "halted")
    if life.state == "idle":
        assert (life.outcome == "finished") <= (life.remaining() == 0)
        assert (life.outcome == "waiting") <= (life.remaining() > 0), "it would wait for ever"
    numbers = [(c.test, c.number) for c in bench.changes if isinstance(c, m.AttemptClosed)]
    assert len(numbers) == len(set(numbers)), "no two attempts have one number"
    opened = {c.uid for c in bench.changes if isinstance(c, m.AttemptOpened)}
    closed = {c.uid for c in bench.changes if isinstance(c, m.AttemptClosed)} - {""}
    assert opened - closed == ({life.uid} if life.uid else set()), "every attempt ends, one at a time is open"


def kind_world(bench: Bench) -> None:
    """Everybody answers and everything works from now on."""
    match bench.life.state:
        case "idle" if bench.life.outcome == "waiting":
            bench.schedule()
        case "idle":
            bench.redropped()
        case "validating":
            bench.validated()
        case "rebooting":
            bench.rebooted()
        case "running":
            bench.succeed()
        case "backing-off" if bench.life.rung:
            bench.cycled(*bench.life.climbing)
        case "backing-off":
            bench.due()
        case "halted":
            bench.resume()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    policy=st.sampled_from(POLICIES),
    auto_resume=st.booleans(),
    seed=st.integers(0, 2**32),
    steps=st.integers(30, 60),
)
def test_any_life_is_sound_outlives_its_process_and_comes_to_an_end(
    policy: dict[str, Any], auto_resume: bool, seed: int, steps: int
) -> None:
    chance = random.Random(seed)
    tuning = Tuning(patience_secs=400, auto_resume=auto_resume)
    lasting = Bench(TESTS, tuning, **policy)
    reborn = Bench(TESTS, tuning, memory=True, **policy)  # made anew from its memory after every event
    for _ in range(steps):
        action, draw = chance.choice(actions(lasting, chance.randrange(TESTS))), chance.random()
        for bench in (lasting, reborn):
            bench.life.draw = draw
            action(bench)
            sound(bench)
        assert (lasting.step.row, lasting.step.order) == (reborn.step.row, reborn.step.order)
        assert lasting.step.changes == reborn.step.changes
        lasting.life.has_next(), reborn.life.has_next()
        lasting.life.away_seen = lasting.life.attempt_since = None  # what a new process cannot know
        reborn.reload()
        assert reborn.life.has_next() == lasting.life.has_next()
        assert reborn.life.to_json() == lasting.life.to_json()
    for _ in range(TESTS * 10 + 10):
        if reborn.life.state == "idle" and reborn.life.outcome == "finished":
            break
        kind_world(reborn)
        sound(reborn)
    assert reborn.life.outcome == "finished" and all(reborn.decided().get(i) for i in range(TESTS))
    forget_lives()


def test_whatever_a_life_knows_is_kept_or_found_elsewhere() -> None:
    given = {"id", "experiment", "sweep", "tool", "tuning"}
    in_other_rows = {"requeued", "decided_ahead", "plan", "facts"}
    of_this_process = {"away_seen", "attempt_since", "draw"}
    assert set(vars(Life(1, *_parts()))) == {*Life.KEPT_FIELDS, *given, *in_other_rows, *of_this_process}


def _parts() -> tuple[Any, ...]:
    life = Bench().life
    return life.experiment, life.sweep, life.tool, life.tuning


def test_what_is_kept_comes_back() -> None:
    bench = Bench(memory=True).until("running")
    for number, name in enumerate(Life.KEPT_FIELDS):
        if isinstance(getattr(bench.life, name), int | float) and name not in ("number", "index"):
            setattr(bench.life, name, number)
    other = Bench().life
    other.restore(bench.life.to_json())
    assert other.state == "running" and other.to_json() == bench.life.to_json()


def test_what_is_kept_does_not_grow() -> None:
    bench = Bench(500)
    sizes = []
    for _ in range(499):
        bench.run().succeed()
        sizes.append(len(bench.life.to_json()))
    assert max(sizes[10:]) - min(sizes[10:]) < 20


def test_the_diagram_shows_every_row() -> None:
    text = diagram()
    assert text.startswith("stateDiagram-v2\n    [*] --> idle\n")
    for row in ROWS:
        for source in row.source:
            to = source if row.to == "=" else row.to
            arrow = f"    {source} --> {to}: ".replace("g-o", "g_o")
            (line,) = [line for line in text.splitlines() if line.startswith(arrow)]
            label = f"{row.event} [{', '.join(row.only_if)}]" if row.only_if else row.event
            assert label in line.removeprefix(arrow).split("<br>")
