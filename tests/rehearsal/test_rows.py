"""Rows of the fault model shown best on virtual time, a world each; its history tells that the fault struck."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoperfd.core.policy import COMEBACKS
from autoperfd.core.settings import DaemonSettings
from autoperfd.daemon.notify import RETRY_AFTER_CAP_SECS, Message, Outcome
from autoperfd.daemon.store import AttemptRow, OutboxRow, SaveHistory
from autoperfd.rehearsal.drafts import Draft
from autoperfd.rehearsal.evidence import Committed
from autoperfd.rehearsal.machines import VirtualMachine
from autoperfd.rehearsal.world import WALL, Chances, World

ROOT = Path(__file__).parents[2]
QUICK = replace(
    DaemonSettings(),
    validation_secs=3.0,
    patience_secs=60.0,
    backoff_first_secs=1.0,
    backoff_cap_secs=10.0,
    boot_budget_secs=30.0,
    restart_after_secs=0.0,
    grace_secs=5.0,
    probe_secs=10.0,
)
Fired = Callable[[str, str], None]
PAIRS = [Draft("E1", tests=2), Draft("E2", tests=2, machines=("m3", "m4"), network="other")]


def a_world(*drafts: Draft, chances: Chances | None = None, **changed: object) -> World:
    files = [draft.text().encode() for draft in drafts]
    settings = replace(QUICK, **changed)  # type: ignore[arg-type]
    return World(5, files, drafts=drafts, settings=settings, chances=chances)


def on(world: World, name: str) -> VirtualMachine:
    (found,) = (machine for machine in world.machines.values() if machine.name == name)
    return found


def struck(world: World, pattern: str) -> str:
    """The line of the history that tells of it."""
    found = re.search(f"^.*{pattern}.*$", world.history, re.M)
    assert found, pattern
    return found[0]


def rows(world: World) -> list[AttemptRow]:
    assert world.engine is not None
    return [row for number in world.engine.entries for row in world.engine.store.closed_after(number, 0)]


def steps(world: World) -> Iterator[SaveHistory]:
    for entry in world.record:
        if isinstance(entry, Committed) and isinstance(entry.write, SaveHistory):
            yield entry.write


def told(world: World, kind: str) -> list[OutboxRow]:
    """The messages of that kind that go out, as they were first written."""
    written = [entry.write for entry in world.record if isinstance(entry, Committed)]
    return [
        row
        for row in written
        if isinstance(row, OutboxRow) and (row.kind, row.tries, row.state) == (kind, 0, "waiting")
    ]


# ---------------------------------------------------------------- clocks


@pytest.mark.fault("C1")
@pytest.mark.parametrize("wall", [0.0, WALL - 86400, WALL - 3600, WALL + 3600, WALL + 86400, 2_147_483_640.0, 7e9])
def test_a_clock_that_steps_in_mid_test(wall: float, fired: Fired) -> None:
    with a_world(Draft("E1", tests=3)) as world:

        def step() -> None:
            world.say(f"the clock steps to {wall:.0f}")
            world.timeline.step = wall - world.timeline.now

        world.when["running"] = [step, lambda: None]
        world.live(600.0)
        fired("C1", struck(world, "the clock steps to"))
        assert [row.status for row in rows(world)] == ["success"] * 3
        assert [row.closed for row in rows(world)] == [1, 2, 3]
        assert all(row.ended is not None and row.ended >= row.started for row in rows(world)), "a negative duration"
        ended = [float(line.split()[0]) for line in world.lines if line.endswith(": success")]
        assert max(b - a for a, b in itertools.pairwise(ended)) < 30, "a time-out came late"
        assert world.conclude() == []


ZONED = """
import time
from autoperfd.rehearsal.drafts import Draft
from autoperfd.rehearsal.world import World
with World(5, [Draft("E1", tests=3).text().encode()]) as world:
    world.timeline.step = 1774746000 - 40 - world.timeline.now  # Europe puts its clocks forward in mid-experiment
    before = time.localtime(world.timeline.wall()).tm_isdst
    world.live(600.0)
    print(time.localtime(world.timeline.wall()).tm_isdst - before)
    print((world.settings.state / "results" / "E1" / "ess.csv").read_text())
"""


@pytest.mark.fault("C2")
def test_a_time_zone_changes_nothing(fired: Fired) -> None:
    found = []
    for zone in ("UTC", "Europe/Berlin", "Pacific/Apia"):
        environment = {**os.environ, "TZ": zone, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", ZONED]
        found.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    changes = [text.partition("\n")[0] for text in found]
    assert changes[1] == "1"
    fired("C2", "Berlin's clocks went forward between the first and the last row")
    sheets = {text.partition("\n")[2] for text in found}
    assert len(sheets) == 1
    stamps = re.findall(r"\d{4}-\d\d-\d\dT[\d:.]*(.)", sheets.pop())
    assert len(stamps) == 6 and set(stamps) == {"Z"}


@pytest.mark.fault("C3")
def test_a_suspend_in_mid_test(fired: Fired) -> None:
    with a_world(Draft("E1", tests=2)) as world:
        world.when["running"] = [lambda: world.suspend(7200.0)]
        world.live(9000.0)
        fired("C3", struck(world, "the controller wakes up"))
        after = [line for line in world.history.partition("wakes up\n")[2].splitlines() if " [1] " in line]
        assert "restarted, running -> running" in after[0], "something was trusted first"
        assert [row.status for row in rows(world)] == ["success"] * 2
        assert world.conclude() == []


@pytest.mark.fault("C4")
def test_a_machine_with_a_clock_of_another_year(fired: Fired) -> None:
    """Its clock decides nothing; only a step in mid-test makes the attempt invalid."""
    with a_world(Draft("E1", tests=3)) as world:
        machine = on(world, "m2")
        machine.clock -= 20 * 365 * 86400.0
        fired("C4", f"m2 lives in {machine.watch().wall}")

        def step() -> None:
            machine.clock += 3600.0

        world.when["running"] = [step, lambda: None]
        world.live(900.0)
        found = [(row.status, row.blame, row.code) for row in rows(world)]
        won = ("success", "", "")
        assert found == [won, ("invalid", "machine", "CLOCK_STEP"), won, won]
        assert world.conclude() == []


@pytest.mark.fault("C5")
def test_a_controller_that_comes_up_in_1970(fired: Fired) -> None:
    with a_world(Draft("E1", tests=3)) as world:

        def lose() -> None:
            world.kill()
            world.timeline.step = -world.timeline.now

        world.when["running"] = [lambda: None, lose, lambda: None]
        world.live(600.0)
        found = rows(world)
        assert [row.status for row in found] == ["success"] * 3
        assert found[2].started < found[0].started
        fired("C5", f"the last attempt began at {found[2].started}, the first at {found[0].started}")
        assert [row.closed for row in found] == [1, 2, 3] and [row.id for row in found] == [1, 2, 3]
        assert world.conclude() == []


# ---------------------------------------------------------------- the daemon itself


@pytest.mark.fault("P3")
def test_tests_that_make_the_daemon_crash(fired: Fired) -> None:
    with a_world(Draft("E1", tests=3), chances=Chances(poisonous=1.0)) as world:
        world.live(600.0)
        assert world.deaths == 6 and world.history.count("the test is poisonous") == 6
        fired("P3", struck(world, "the test is poisonous"))
        assert [row.status for row in rows(world)] == ["crashed-daemon"] * 2
        assert world.engine is not None
        life = world.engine.entries[1].life
        assert (life.state, life.cause, life.code) == ("halted", "failures", "DAEMON_CRASHES")
        assert len(told(world, "halt")) == 1


@pytest.mark.fault("T14")
def test_failures_in_a_row(fired: Fired) -> None:
    with a_world(Draft("E1", tests=6, halt_after=3, retries=1), chances=Chances(bad_tests=1.0)) as world:
        world.live(900.0)
        fired("T14", struck(world, "3 tests in a row failed"))
        assert len(rows(world)) == 6 and {row.blame for row in rows(world)} == {"test"}
        (message,) = told(world, "halt")
        facts = json.loads(message.facts)
        assert facts["code"] == "CONSECUTIVE_FAILURES" and facts["todo"]


@pytest.mark.fault("L4")
@pytest.mark.parametrize("order", [("halt", "resume"), ("resume", "halt")])
def test_two_people_at_once(order: tuple[str, str], fired: Fired) -> None:
    """Ann and Bob ask at the same instant: one after the other takes effect, and each is told what came of it."""
    with a_world(Draft("E1", tests=2)) as world:
        replies = []

        def both() -> None:
            for who, name in zip(("ann", "bob"), order, strict=True):
                replies.append(world.command_of(who, name, experiment="E1"))

        world.when["running"] = [both]
        world.live(300.0)
        assert len(replies) == 2 and None not in replies
        fired("L4", struck(world, "bob: "))
        known = [(step.event, step.after) for step in steps(world) if step.event in order]
        if order == ("halt", "resume"):
            assert [reply.ok for reply in replies if reply] == [True, True]
            assert known == [("halt", "halted"), ("resume", "idle")]
            assert [row.status for row in rows(world)] == ["interrupted", "success", "success"]
        else:
            assert [reply.ok for reply in replies if reply] == [False, True]
            assert known == [("halt", "halted")]
            assert world.engine is not None and world.engine.entries[1].life.reason == "halted by bob"


# ---------------------------------------------------------------- the network


@pytest.mark.fault("N10", "N1")
@pytest.mark.parametrize("secs", [30.0, 400.0])
def test_the_controller_loses_its_own_network(secs: float, fired: Fired) -> None:
    """One outage, whatever it meets: tests pay nothing, and people are told once, when they can be told."""
    with a_world(*PAIRS) as world:

        def cut() -> None:
            world.say("the controller's network is down")
            world.chances.unheard = 1.0
            for machine in world.machines.values():
                machine.set_cut(True)

        def heal() -> None:
            world.chances.unheard = 0.0
            for machine in world.machines.values():
                machine.set_cut(False)

        world.timeline.after(30.0, cut)
        world.timeline.after(30.0 + secs, heal)
        world.live(3000.0, stop_early=False)
        fired("N10", struck(world, "the controller's network is down"))
        fired("N1", struck(world, "unreachable, running -> backing-off"))
        assert "test" not in {row.blame for row in rows(world)}
        halts = [step for step in steps(world) if step.after == "halted" != step.before]
        assert len(halts) == (0 if secs < 60 else 2) and len(told(world, "halt")) == (0 if secs < 60 else 1)
        verdicts = [row.status for row in rows(world)]
        assert verdicts.count("success") == 4 and (secs > 60 or len(verdicts) == 4)
        if halts:
            (message,) = told(world, "halt")
            assert "look at the network first" in json.loads(message.facts)["reason"]
            assert [result for _, number, result in world.tried if number == message.id][-1] == "sent"
        assert world.conclude() == []


@pytest.mark.fault("M5")
@pytest.mark.parametrize("up_secs", [7.0, 0.5])
def test_a_machine_that_flaps_for_days(up_secs: float, fired: Fired) -> None:
    """It is recognised, told, and costs a bounded number of steps; it does not go on and on by itself."""
    with a_world(Draft("E1", tests=2)) as world:
        machine = on(world, "m2")

        def flap() -> None:
            machine.cycle(2.0)
            world.timeline.after(2.0 + up_secs, flap)

        flap()
        world.live(2 * 86400.0, stop_early=False)
        fired("M5", f"m2 booted {machine.boots} times")
        assert machine.boots > 10_000
        assert world.engine is not None and world.engine.entries[1].life.state == "halted"
        assert 1 <= len(told(world, "halt")) <= COMEBACKS + 1
        assert len(list(steps(world))) < 1500


@pytest.mark.fault("M8")
def test_a_machine_that_never_comes_back(fired: Fired) -> None:
    with a_world(*PAIRS) as world:
        machine = on(world, "m2")
        world.when["running"] = [machine.down, lambda: None]
        world.live(7 * 86400.0, stop_early=False)
        assert not machine.up
        fired("M8", struck(world, "unreachable, .* -> halted"))
        assert len(told(world, "halt")) == 1
        succeeded = {row.experiment for row in rows(world) if row.status == "success"}
        assert 2 in succeeded, "the other machines' tests go on"
        assert len(list(steps(world))) < 200


@pytest.mark.fault("N1")
@pytest.mark.parametrize(
    ("secs", "noticed"), [(2.0, "m2 missed"), (60.0, "unreachable, running -> backing-off")], ids=["worker", "memory"]
)
def test_an_outage_in_mid_attempt_that_is_over_again(secs: float, noticed: str, fired: Fired) -> None:
    """The tool fails by it; when the machines are looked at all is well, and the test pays nothing all the same."""
    with a_world(Draft("E1", tests=1, retries=0, duration_secs=30)) as world:
        one = on(world, "m2")

        def cut() -> None:
            (uid,) = one.alive()
            world.spoil(uid, "no-match")
            one.set_cut(True)
            world.timeline.after(secs, lambda: one.set_cut(False))

        world.when["running"] = [lambda: world.timeline.after(5.0, cut)]
        world.live(900.0)
        fired("N1", struck(world, noticed))
        first, second = rows(world)
        assert (first.status, first.blame, first.machine) == ("no-match", "machine", "m2")
        assert "m2 could not be reached for a while as it ran" in first.reason
        assert second.status == "success"
        assert world.conclude() == []


@pytest.mark.fault("D5")
def test_a_quota_that_no_look_at_the_disk_tells_of(fired: Fired) -> None:
    """It is not tried for ever: a person is asked for, and the attempt waits with its files on the machines."""
    with a_world(Draft("E1", tests=2)) as world:
        world.mischief.quota = 1.0
        world.live(86400.0, stop_early=False)
        fired("D5", struck(world, "low_disk, running -> halted"))
        assert world.problems(ended=False) == []
        assert len(told(world, "halt")) == COMEBACKS + 1 and len(rows(world)) == 0
        world.mischief.quota = 0.0
        world.command("resume")
        world.pass_time(600.0)
        assert [row.status for row in rows(world)] == ["success"] * 2
        assert world.conclude() == []


# ---------------------------------------------------------------- people are told


@pytest.mark.fault("W5")
def test_a_receiver_that_asks_for_patience(fired: Fired) -> None:
    """Retry-After is honoured up to an hour, a storm of errors is answered by back-off, the last word is said."""
    with a_world(Draft("E1", tests=2)) as world:
        answers: Iterator[Outcome] = iter(
            [
                Outcome("failed", "429", 429, retry_after=600.0),
                Outcome("failed", "503", 503, retry_after=1e9),
                *[Outcome("failed", "500", 500)] * 12,
            ]
        )

        def receiver(message: Message) -> Outcome:
            return next(answers, Outcome("sent"))

        world.receiver = receiver
        world.live(20 * 3600.0, stop_early=False)
        fired("W5", f"{len(world.tried)} tries: {[result for *_, result in world.tried]}")
        times = [at for at, number, _ in world.tried if number == world.tried[0][1]]
        assert times[1] - times[0] >= 600.0 and RETRY_AFTER_CAP_SECS <= times[2] - times[1] <= RETRY_AFTER_CAP_SECS + 30
        assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(times))
        assert world.tried[-1][2] == "sent" and len(world.tried) == 15
        assert world.conclude() == []


@pytest.mark.fault("W7")
def test_a_death_between_sending_and_marking(fired: Fired) -> None:
    with a_world(Draft("E1", tests=2)) as world:

        def receiver(message: Message) -> Outcome:
            if len(world.tried) == 0:
                world.kill()  # it arrived, and nobody is left to write that down
            return Outcome("sent")

        world.receiver = receiver
        world.live(900.0, stop_early=False)
        assert world.deaths == 1
        fired("W7", struck(world, "the daemon ends: killed"))
        first, second = world.tried[:2]
        assert first[1] == second[1] and first[2] == second[2] == "sent"
        assert len({number for _, number, _ in world.tried}) == len(world.tried) - 1
        assert world.conclude() == []
