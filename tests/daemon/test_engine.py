"""The engine: offers, side by side, tickets, holds, messages; nothing acts before it is durable; any restart is one."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoperfd.core import messages as m
from autoperfd.daemon import store
from autoperfd.daemon.engine import HOUSEKEEPING_SECS, Rejected, Stop
from autoperfd.daemon.message import body
from autoperfd.daemon.space import RESERVE_BYTES, Reserve
from autoperfd.daemon.store import AttemptRow, OutboxRow, PinRow, SaveHistory, SaveLife
from autoperfd.daemon.work import Answer, Crash
from autoperfd.errors import ConfigError, DiskError, Problem, Refused, StoreError
from tests.bounds import at_most
from tests.daemon.support import Given, Rig, toml
from tests.faults import Fired

T100 = "4SEC_100B_1PUB_1SUB_REL_UC_100LC"
T200 = "4SEC_200B_1PUB_1SUB_REL_UC_100LC"
SUCCESS = m.AttemptResult(end_status="success", archive="data/x/attempt-1.tar.gz", sha256="ab", size=1)
OTHERS = ("10.0.0.3", "10.0.0.4")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Rig]:
    """A rig that tells people everything it can tell."""
    made = Rig(tmp_path, webhook=True, webhook_on=("halt", "resume", "finish", "rejection"))
    yield made
    made.stop()


# ---------------------------------------------------------------- files of the queue


def test_an_experiment_from_its_file_to_its_end(rig: Rig) -> None:
    text = toml()
    assert rig.offer(text) == ()
    entry = rig.engine.find("PCG #1")
    assert (entry.row.id, entry.row.folder, entry.row.owner, entry.row.seed) == (1, "PCG_1", 1000, None)
    folder = rig.settings.state / "results" / "PCG_1"
    assert (folder / "experiment.toml").read_text() == text and rig.ess() == []
    assert rig.states() == ["validating"] and isinstance(rig.order(), m.Validate)
    rig.running()
    assert rig.ess() == [f"{T100} 1 running"]
    given = rig.workers.at_work[1]
    assert given.folder == folder and given.tool == "perftest" and isinstance(given.order, m.RunAttempt)
    assert given.order.facts["p1"]["boot_id"] == "boot of 10.0.0.1"
    rig.succeed()
    assert rig.ess() == [f"{T100} 1 success"]
    rig.running()
    rig.fail()
    assert rig.ess() == [f"{T100} 1 success", f"{T200} 1 timeout"]
    rig.running()
    rig.succeed()
    assert isinstance(rig.order(), m.Sweep) and entry.life.outcome == "finished"
    rig.answer(1, m.Swept())
    assert rig.workers.at_work == {}
    summary = (folder / "summary.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in summary[1:]] == [[T100, "1", "success"], [T200, "2", "success"]]
    assert [row.event for row in rig.memory.history(1, T200)] == [
        *("validated", "started", "failed", "validated", "started", "succeeded")
    ]


def test_a_file_is_accepted_whole_or_not_at_all(rig: Rig) -> None:
    rig.bad_key = lambda machine: "no key" if machine.ip == "10.0.0.4" else ""
    problems = rig.offer(toml("A") + toml("B", machines=OTHERS), "two.toml")
    assert isinstance(problems, tuple) and len(problems) == 1
    assert str(problems[0]) == (
        "two.toml: B: p2.ssh_key_path: found ~/.ssh/id, expected a key the daemon can read; no key"
    )
    assert rig.engine.entries == {} and rig.engine.intake[0].accepted is False
    assert rig.engine.intake[0].sentence == str(problems[0])
    rig.bad_key = lambda machine: ""
    assert rig.offer(toml("A") + toml("B", machines=OTHERS), "two.toml") == ()
    assert rig.engine.intake[0].experiments == ("A", "B") and rig.states() == ["validating", "idle"]


@pytest.mark.fault("E6")
def test_folders_are_unique(rig: Rig, fired: Fired) -> None:
    first, second, third = rig.submit(toml("PCG #1"), toml("PCG 1"), toml("PCG/1"))
    assert [e.row.folder for e in (first, second, third)] == ["PCG_1", "PCG_1-2", "PCG_1-3"]
    assert rig.engine.find("PCG_1-2") is second and rig.engine.find("PCG/1") is third
    with pytest.raises(Refused, match="there is no experiment 'x'") as refused:
        rig.engine.find("x")
    assert refused.value.hint == "Known are: PCG #1, PCG 1, PCG/1"
    fired("E6", "three names of one folder name")


@pytest.mark.fault("Q6")
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"lengths": (100, 300)}, "exists with another tool or other values"),
        ({"machines": ("10.0.0.1", "10.0.0.2", "10.0.0.3")}, "exists with other machines or roles (p3)"),
        ({"machines": ("10.0.0.1", "10.0.0.9")}, "its machines may change only while it is idle: halt it first"),
    ],
)
def test_another_experiment_of_the_same_name_is_refused(
    rig: Rig, change: dict[str, Any], why: str, fired: Fired
) -> None:
    rig.submit(toml())
    before = rig.everything()
    problems = rig.offer(toml(**change), "again.toml")
    assert isinstance(problems, tuple) and why in str(problems[0]) and "'PCG #1'" not in str(problems[0])[:30]
    assert rig.everything() == before
    fired("Q6", str(problems[0]))


@pytest.mark.fault("Q6")
def test_dropped_again_the_policy_changes_and_the_rest_goes_on(rig: Rig, fired: Fired) -> None:
    rig.submit(toml(retries=2, buffer_secs=60))
    rig.running()
    given = rig.workers.at_work[1]
    assert rig.offer(toml(lengths=(200, 100), retries=0, buffer_secs=5)) == ()
    assert len(rig.engine.entries) == 1 and rig.workers.at_work[1] == given
    assert rig.life().experiment.policy.retries == 0 and rig.life().sweep.name_at(0) == T100  # the first order stays
    rig.fail()
    assert rig.memory.test_status(1, T100) == ("timeout", 1)
    rig.restart()
    assert rig.life().experiment.policy.buffer_secs == 5 and rig.life().sweep.name_at(0) == T100
    rig.running()
    order = rig.order()
    assert isinstance(order, m.RunAttempt) and order.deadline_secs == 9
    fired("Q6", "dropped twice")


def test_addresses_may_change_while_it_is_halted(rig: Rig) -> None:
    rig.submit(toml())
    rig.ask("halt", experiment="PCG #1")
    assert rig.offer(toml(machines=("10.0.0.1", "10.0.0.9"))) != ()  # what is owed there is not swept yet
    rig.answer(1, m.Swept())
    assert rig.offer(toml(machines=("10.0.0.1", "10.0.0.9"))) == ()
    rig.ask("resume", experiment="PCG #1")
    order = rig.order()
    assert isinstance(order, m.Validate) and [machine.ip for machine in order.machines] == ["10.0.0.1", "10.0.0.9"]
    rig.restart()
    assert rig.life().experiment.machines[1].ip == "10.0.0.9"


def test_it_starts_at_the_test_asked_for(rig: Rig) -> None:
    (entry,) = rig.submit(
        toml(lengths=(100, 200, 300), resuming_test_name=T200.replace("PUB", "P").replace("SUB", "S"))
    )
    assert entry.life.cursor == 1 and entry.life.remaining() == 2
    (note,) = (row.note for row in rig.memory.history(1) if row.event == "accepted")
    assert note.endswith("the 1 tests before it are not run")
    rig.running()
    assert entry.life.test == T200 and rig.memory.test_status(1, T100) is None


def test_a_seed_is_chosen_once(rig: Rig) -> None:
    (entry,) = rig.submit(toml(order="shuffled", lengths=range(100, 200)))
    seed = entry.row.seed
    names = [entry.life.sweep.name_at(i) for i in range(100)]
    assert seed is not None and names != sorted(names)
    assert rig.offer(toml(order="shuffled", lengths=range(100, 200), seed=5)) == ()
    rig.restart()
    assert rig.engine.entries[1].row.seed == seed
    assert [rig.life().sweep.name_at(i) for i in range(100)] == names


def test_a_full_disk_asks_the_intake_to_come_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise DiskError("cannot write", hint="look at the disk")

    with monkeypatch.context() as patch:
        patch.setattr("autoperfd.daemon.files.replace", full)
        assert isinstance(rig.offer(toml()), DiskError)
    assert rig.engine.entries == {}
    assert rig.offer(toml()) == () and rig.states() == ["validating"]


def test_a_space_of_10_to_the_12_is_accepted_at_once(rig: Rig) -> None:
    numbers = "{ min = 3, max = 102 }"
    qos = f"""
[experiments.qos_settings]
duration_secs = {numbers}
datalen_bytes = {{ min = 100, max = 1099 }}
pub_count = {numbers}
sub_count = {numbers}
latency_count = {{ min = 1, max = 10000 }}
use_reliable = [true]
use_multicast = [false]
"""
    rcg = {"combination_generation_type": "rcg"}
    policies: list[dict[str, Any]] = [{}, {"order": "shuffled"}, rcg, {**rcg, "seed": 1}]
    for number, policy in enumerate(policies):
        text = toml(
            f"E{number}", qos=qos, machines=(f"10.0.{number}.1", f"10.0.{number}.2"), network=f"n{number}", **policy
        )
        with at_most(100_000):
            assert rig.offer(text) == ()
            rig.running(number + 1)
            rig.succeed(number + 1)
        life = rig.life(number + 1)
        assert life.sweep.count == 10**13 and life.remaining() == 10**13 - 1
    last = rig.life(1).sweep.name_at(10**13 - 1)
    with at_most(100_000):
        assert rig.ask("skip", test=last, experiment="E0").ok
        rig.restart()
    assert rig.life(1).remaining() == 10**13 - 2 and last in rig.life(1).decided_ahead


def test_a_space_larger_than_sqlite_s_numbers(rig: Rig) -> None:
    wide = "{ min = 1, max = 10000 }"
    qos = f"""
[experiments.qos_settings]
duration_secs = {{ min = 1, max = 4000000 }}
datalen_bytes = [100]
pub_count = {wide}
sub_count = {wide}
latency_count = {{ min = 1, max = 2000000000 }}
"""
    rig.submit(toml(qos=qos, combination_generation_type="rcg", seed=3))
    life = rig.life()
    assert life.sweep.count > 2**63
    assert rig.ask("skip", test=life.sweep.name_at(2**63 + 5)).ok
    rig.restart()
    rig.running()


# ---------------------------------------------------------------- a results folder that is known to nobody


def imported(test: str, number: int, status: str) -> AttemptRow:
    """One attempt of a results folder, as imports.read_history tells it."""
    good = status == "success"
    return AttemptRow(
        id=0,
        experiment=0,
        test=test,
        number=number,
        uid="",
        started=1.0 * number,
        ended=2.0 * number,
        status=status,
        blame="" if good else "test",
        machine="",
        code="IMPORTED",
        reason="",
        pings=1,
        ssh_checks=1,
        settings='{"duration_secs": 4}',
        archive=f"data/{test}/attempt-{number}.tar.gz" if good else "",
        sha256="0" * 64,
        size=1,
        figures="{}",
        evidence="{}",
        plan="",
        facts="{}",
    )


def history(*rows: AttemptRow) -> list[list[AttemptRow]]:
    return [[replace(row, closed=place) for place, row in enumerate(rows, 1)]]


def test_successes_of_a_copied_experiment_are_not_run_again(rig: Rig) -> None:
    t300 = T100.replace("100B", "300B")
    rows = history(imported(T200, 1, "timeout"), imported(T200, 2, "success"), imported(t300, 4, "no-data"))
    rig.offer(toml(lengths=(100, 200, 300)), histories=rows)
    life = rig.life()
    assert (life.succeeded, life.remaining(), life.attempts) == (1, 2, 3)
    assert rig.ess() == [f"{T200} 1 timeout", f"{T200} 2 success", f"{t300} 4 no-data"]
    ran = []
    for _ in range(2):
        rig.running()
        ran.append((life.test, life.number))
        rig.restart()
        life = rig.life()
        rig.succeed()
    assert ran == [(t300, 5), (T100, 1)] and life.outcome == "finished" and life.succeeded == 3


def test_a_copied_experiment_that_is_done_is_finished(rig: Rig) -> None:
    rig.offer(toml(), histories=history(imported(T100, 1, "success"), imported(T200, 1, "success")))
    assert (rig.states(), rig.life().outcome, rig.life().remaining()) == (["idle"], "finished", 0)
    assert rig.workers.at_work == {}


def test_what_lies_before_the_first_test_stays_there(rig: Rig) -> None:
    text = toml(resuming_test_name=T200)
    rig.offer(text, histories=history(imported(T100, 1, "timeout")))
    assert rig.life().remaining() == 1
    rig.running()
    assert rig.life().test == T200


# ---------------------------------------------------------------- side by side


def test_experiments_on_other_machines_and_networks_run_side_by_side(rig: Rig) -> None:
    rig.submit(toml("A"), toml("B", machines=OTHERS, network="b"))
    assert rig.states() == ["validating", "validating"]
    rig.running(1)
    rig.running(2)
    assert rig.life(1).domain != rig.life(2).domain
    rig.succeed(2)
    rig.succeed(1)
    assert rig.states() == ["validating", "validating"]


MORE = ("10.0.0.5", "10.0.0.6")
MIDDLE, END = ("10.0.0.2", "10.0.0.3"), ("10.0.0.3", "10.0.0.4")


@pytest.mark.parametrize(
    ("second", "third", "states"),
    [
        ({}, {"machines": OTHERS}, ["idle", "idle"]),  # the default network is one
        ({"machines": OTHERS, "network": "b"}, {"machines": MORE, "network": "b"}, ["validating", "idle"]),
        ({"machines": MIDDLE, "network": "b"}, {"machines": END, "network": "c"}, ["idle", "validating"]),
        ({"machines": OTHERS, "share_network": True}, {"machines": END, "network": "x"}, ["validating", "idle"]),
    ],
)
def test_who_may_run_beside_whom(rig: Rig, second: Any, third: Any, states: list[str]) -> None:
    rig.submit(toml("A", share_network=True), toml("B", **second), toml("C", **third))
    assert rig.states() == ["validating", *states]


def test_sharing_a_network_takes_two(rig: Rig) -> None:
    rig.submit(toml("A", share_network=True), toml("B", machines=OTHERS))
    assert rig.states() == ["validating", "idle"]


def test_the_next_one_starts_when_machines_are_swept_in_the_order_they_came(rig: Rig) -> None:
    rig.submit(toml("A", lengths=(100,)), toml("B"), toml("C", machines=("10.0.0.2", "10.0.0.3")))
    rig.running(1)
    rig.succeed(1)
    assert rig.states() == ["idle", "idle", "idle"] and isinstance(rig.order(1), m.Sweep)
    rig.answer(1, m.Swept())
    assert rig.states() == ["idle", "validating", "idle"]
    rig.ask("cancel", experiment="B")
    assert rig.states() == ["idle", "idle", "idle"]
    rig.answer(2, m.Swept())
    assert rig.states() == ["idle", "idle", "validating"]


def test_a_halt_for_a_machine_keeps_its_machines_one_by_a_person_does_not(rig: Rig) -> None:
    rig.submit(toml("A"), toml("B"))
    rig.away(1)
    rig.wait(101)
    rig.answer(1, m.Due())
    rig.away(1)
    assert rig.states() == ["halted", "idle"] and isinstance(rig.order(1), m.SlowProbe)
    rig.ask("halt", experiment="A")
    assert rig.states() == ["halted", "validating"]
    rig.ask("resume", experiment="A")
    assert rig.states() == ["idle", "validating"]


def test_one_computer_under_two_addresses_is_one_machine(rig: Rig) -> None:
    rig.submit(toml("A"), toml("B", machines=OTHERS, network="b"))
    rig.running(1)
    rig.validated(2, keys=("another", "key of 10.0.0.1"))
    life = rig.life(2)
    assert life.state == "backing-off" and life.uid == ""
    assert life.reason == "p2 is the same computer as p1 of A, which uses it now"
    rig.succeed(1)
    rig.ask("cancel", experiment="A")
    rig.answer(1, m.Swept())
    rig.answer(2, m.Due())
    rig.validated(2, keys=("another", "key of 10.0.0.1"))
    assert life.state == "running"


@pytest.mark.fault("T10")
def test_domains_are_distinct_and_change(tmp_path: Path, fired: Fired) -> None:
    rig = Rig(tmp_path, domain_first=5, domain_last=7)
    names = "ABC"
    rig.submit(
        *(
            toml(n, machines=(f"10.0.{i}.1", f"10.0.{i}.2"), network=n, lengths=range(100, 130))
            for i, n in enumerate(names)
        )
    )
    before: dict[int, int] = {}
    for _ in range(8):
        for number in (1, 2):
            rig.running(number)
        domains = {number: rig.life(number).domain for number in (1, 2)}
        assert len(set(domains.values())) == 2 and all(5 <= domain <= 7 for domain in domains.values())
        assert all(before.get(number) != domain for number, domain in domains.items())
        before = domains
        rig.succeed(1)
        rig.succeed(2)
    rig.stop()
    fired("T10", "two experiments took turns through three domains")


def test_a_uid_is_128_random_bits(rig: Rig) -> None:
    rig.submit(toml(lengths=range(100, 120)))
    uids = set()
    for _ in range(20):
        rig.running()
        uids.add(rig.life().uid)
        rig.succeed()
    assert len(uids) == 20 and all(len(uid) == 32 and int(uid, 16) >= 0 for uid in uids)


# ---------------------------------------------------------------- tickets


def test_a_late_answer_is_ignored(rig: Rig) -> None:
    rig.submit(toml())
    old = rig.workers.at_work[1]
    rig.running()
    before, ticket = rig.everything(), rig.life().ticket
    for event in (m.Validated(boot_ids={}), m.Unreachable(machine="p1", reason="r"), m.Due(), m.Swept()):
        rig.answer(1, event, old.ticket)
        rig.answer(1, event, ticket + 1)
        rig.answer(9, event, 1)
    assert rig.everything() == before and rig.order() is not None


def test_an_answer_twice_counts_once(rig: Rig) -> None:
    rig.submit(toml())
    rig.running()
    ticket = rig.life().ticket
    rig.succeed()
    result = m.AttemptResult(end_status="success")
    before = rig.everything()
    rig.answer(1, m.Succeeded(result=result), ticket)
    assert rig.everything() == before and rig.ess() == [f"{T100} 1 success"]


def test_work_that_was_replaced_is_cancelled_first(rig: Rig) -> None:
    rig.submit(toml())
    rig.running()
    rig.diary.clear()
    rig.ask("halt", experiment="PCG #1")
    kinds = [kind for kind, _ in rig.diary]
    assert kinds == ["commit", "cancel", "start"]
    given = rig.diary[-1][1]
    assert isinstance(given, Given) and isinstance(given.order, m.Sweep) and given.ticket == rig.life().ticket


def test_overdue_work_is_given_up(rig: Rig) -> None:
    rig.submit(toml())
    assert rig.engine.next_time() <= rig.clock.now + HOUSEKEEPING_SECS
    rig.engine.tick()
    rig.workers.overdue_at = rig.clock.now + 1
    assert rig.engine.next_time() == rig.clock.now + 1
    event = m.Unreachable(machine="p1", reason="Validate did not end within its time", code="WORK_STUCK")
    rig.workers.overdue.append(Answer(1, rig.life().ticket, event))
    rig.wait(1)
    assert rig.states() == ["backing-off"] and rig.engine.entries[1].trouble == {"p1": f"WORK_STUCK: {event.reason}"}


# ---------------------------------------------------------------- the disk's room


def test_no_attempt_opens_on_a_full_disk(rig: Rig) -> None:
    rig.submit(toml(), toml("B", machines=OTHERS, network="b"))
    rig.running(2)
    rig.free_bytes = (1024 << 20) - 1
    rig.validated(1)
    assert rig.states() == ["halted", "running"] and rig.life(1).cause == "disk"
    assert rig.life(1).reason == f"only 1023 MB are free in {rig.settings.state}, the next attempt may need 1024 MB"
    rig.away(2)
    rig.answer(2, m.Due())
    rig.validated(2)
    assert rig.states() == ["halted", "running"]  # one under way goes on
    rig.free_bytes = 1024 << 20
    rig.wait(10)
    assert rig.states() == ["halted", "running"]
    rig.free_bytes = 2048 << 20
    rig.wait(10)
    assert rig.states() == ["validating", "running"]


def test_an_attempt_needs_twice_what_the_largest_has_taken(rig: Rig) -> None:
    rig.submit(toml())
    rig.running()
    rig.answer(1, m.Succeeded(result=replace(SUCCESS, size=300 << 20)))
    rig.free_bytes = (1024 + 600 << 20) - 1
    rig.validated()
    assert rig.states() == ["halted"] and rig.life().code == "DISK_FULL"
    rig.free_bytes = 2 * (1024 + 600 << 20)
    rig.wait(10)
    assert rig.states() == ["validating"]


@pytest.mark.fault("D3")
def test_a_disk_that_will_be_too_small_is_told_in_time(rig: Rig, fired: Fired) -> None:
    rig.submit(toml().replace("[100, 200]", "[100, 200, 300, 400]"))
    rig.running()
    rig.clock.now += 10
    rig.answer(1, m.Succeeded(result=replace(SUCCESS, size=100 << 20)))
    rig.free_bytes = 300 << 20
    assert "To do" not in rig.ask("status").text
    rig.free_bytes -= 1
    said = " ".join(rig.ask("status").text.split())
    assert "The next results of PCG #1 need about 300 MB of disk, 299 MB are free: make room in time" in said
    fired("D3", said)
    rig.free_bytes = 100 << 30
    rig.validated()
    assert rig.states() == ["running"]


@pytest.mark.fault("D4")
def test_no_attempt_opens_without_inodes(rig: Rig, fired: Fired) -> None:
    rig.submit(toml())
    rig.inodes = 3
    rig.validated()
    assert rig.states() == ["halted"] and (rig.life().cause, rig.life().code) == ("disk", "INODES_FULL")
    assert "only 3 more files (inodes) fit" in rig.life().reason
    fired("D4", rig.life().reason)
    rig.inodes = 399
    rig.wait(10)
    assert rig.states() == ["halted"]
    rig.inodes = 400
    rig.wait(10)
    assert rig.states() == ["validating"]


def test_an_attempt_without_descriptors_for_its_end_stays_open_until_there_are(rig: Rig) -> None:
    rig.submit(toml())
    rig.running()
    rig.can_open = False
    rig.answer(1, m.LowDisk(reason="Too many open files", code="NO_DESCRIPTORS"))
    rig.wait(10)
    assert rig.states() == ["halted"] and rig.life().uid
    assert "See to what the reason says" in rig.ask("status").text
    rig.can_open = True
    rig.wait(10)
    assert rig.states() == ["validating"] and rig.life().uid


@pytest.mark.fault("D15")
def test_results_that_are_taken_away_are_not_begun_anew_in_secret(rig: Rig, fired: Fired) -> None:
    rig.submit(toml())
    rig.running()
    rig.answer(1, m.Succeeded(result=SUCCESS))
    folder = rig.settings.state / "results" / rig.engine.entries[1].row.folder
    shutil.rmtree(folder)
    rig.validated()
    assert rig.states() == ["halted"] and (rig.life().cause, rig.life().code) == ("controller", "RESULTS_MISSING")
    assert str(folder) in rig.life().reason and not folder.exists()
    fired("D15", rig.life().reason)
    rig.wait(10)
    rig.restart()
    assert rig.states() == ["halted"] and not folder.exists()
    rig.ask("resume", experiment="PCG #1")
    rig.validated()
    assert rig.states() == ["running"]
    lines = (folder / "ess.csv").read_text().splitlines()
    assert [line.split(",")[5] for line in lines] == ["end_status", "success", "running"]  # as the memory has it


def test_a_halt_for_the_disk_gives_up_the_reserve(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path)
    reserve.keep()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= RESERVE_BYTES
    rig = Rig(tmp_path, reserve=reserve)
    rig.submit(toml())
    rig.free_bytes = 0
    rig.validated()
    assert rig.states() == ["halted"] and (tmp_path / "reserve").stat().st_size == 0
    rig.free_bytes = 1 << 40
    rig.wait(10)
    assert rig.states() == ["validating"] and (tmp_path / "reserve").stat().st_size == RESERVE_BYTES
    rig.stop()


# ---------------------------------------------------------------- suspend


@pytest.mark.fault("C3")
def test_after_a_suspend_everything_is_looked_at_anew(rig: Rig, fired: Fired) -> None:
    rig.submit(toml())
    rig.running()
    uid, ticket = rig.life().uid, rig.life().ticket
    rig.clock.asleep = 4.0
    rig.wait(1)
    assert rig.life().ticket == ticket
    rig.clock.asleep = 3604.0
    rig.wait(1)
    order = rig.workers.at_work[1].order
    assert rig.life().ticket == ticket + 1 and isinstance(order, m.RunAttempt) and order.uid == uid
    fired("C3", "the clocks tell of a suspend of an hour")
    rig.wait(1)
    assert rig.life().ticket == ticket + 1


@pytest.mark.fault("C3")
def test_no_answer_from_before_a_suspend_is_believed(rig: Rig, fired: Fired) -> None:
    """It may be the first thing that the engine finds when it wakes up."""
    rig.submit(toml())
    rig.running()
    uid, ticket = rig.life().uid, rig.life().ticket
    rig.clock.asleep = 3600.0
    rig.succeed()
    fired("C3", "an answer was waiting when the controller woke up")
    assert rig.states() == ["running"] and (rig.life().uid, rig.life().ticket) == (uid, ticket + 1)
    rig.succeed()
    assert rig.states() == ["validating"]


# ---------------------------------------------------------------- an outage that several meet


def test_an_outage_of_everything_is_told_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path, webhook=True, patience_secs=0)
    rig.submit(toml(), toml("B", machines=OTHERS, network="b"))

    def nobody(number: int) -> m.Unreachable:
        names = [machine.name for machine in rig.engine.entries[number].life.experiment.machines]
        return m.Unreachable(machine=names[0], reason="no ping", code="PING", ill=dict.fromkeys(names, "PING"))

    for number in (1, 2):
        rig.answer(number, nobody(number))
    assert rig.states() == ["halted", "halted"]
    assert [message.kind for message in rig.sent] == ["halt"]
    assert "none of the 2 machines answers" in str(rig.sent[0].facts["sentence"])
    rig.deliver()
    for number in (2, 1):
        rig.answer(number, m.Answered())
    assert [message.kind for message in rig.sent] == ["halt", "over"]
    assert rig.sent[1].facts["experiment"] == "PCG #1"
    rig.deliver()
    rig.answer(2, replace(nobody(2), ill={}))  # one machine alone is an incident of its own
    rig.answer(1, nobody(1))
    assert [message.kind for message in rig.sent][2:] == ["halt", "halt"]
    rig.stop()


def test_exports_that_cannot_be_written_stop_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.submit(toml())
    exports = rig.engine.entries[1].exports

    def full(running: AttemptRow | None) -> str:
        raise DiskError("cannot write ess.csv: No space left on device", hint="look at the disk")

    with monkeypatch.context() as patch:
        patch.setattr(exports, "update", full)
        rig.running()
        rig.succeed()
    assert rig.engine.attention == ["cannot write ess.csv: No space left on device. look at the disk"] * 2
    rig.running()
    assert rig.ess() == [f"{T100} 1 success", f"{T200} 1 running"]


def test_an_edited_export_is_told(rig: Rig) -> None:
    rig.submit(toml())
    (rig.settings.state / "results" / "PCG_1" / "ess.csv").write_text("mine")
    rig.running()
    (said,) = rig.engine.attention
    assert said.startswith("PCG #1: an edited copy was kept as ess.edited-")


# ---------------------------------------------------------------- holds


def test_a_hold_lets_nothing_start_and_survives(rig: Rig) -> None:
    rig.submit(toml("A"))
    rig.engine.set_hold("held by ann")
    rig.submit(toml("A"), toml("B", machines=OTHERS, network="b"))
    assert rig.states() == ["validating", "idle"]  # what was under way is not its business
    rig.restart()
    assert rig.engine.hold == "held by ann" and rig.states() == ["validating", "idle"]
    rig.engine.set_hold("")
    rig.engine.schedule()
    assert rig.states() == ["validating", "validating"]
    rig.restart()
    assert rig.engine.hold == ""


def test_a_daemon_that_ends_starts_nothing_more(rig: Rig) -> None:
    rig.engine.handle(Stop())
    rig.submit(toml())
    assert rig.states() == ["idle"] and rig.engine.stopping
    rig.restart()
    assert rig.states() == ["validating"]


# ---------------------------------------------------------------- nothing acts before it is durable


def test_every_order_and_message_comes_after_the_commit_that_says_so(told: Rig) -> None:
    told.submit(toml(retries=0, halt_after_consecutive_failures=1), toml("B", machines=OTHERS, network="b"))
    told.running(1)
    told.fail(1)
    told.answer(1, m.Swept())
    told.ask("resume")
    told.running(2)
    told.away(2)
    told.ask("cancel", experiment="B")
    durable: dict[int, dict[str, Any]] = {}
    uids: set[str] = set()
    outbox: set[str] = set()
    starts = sends = 0
    for kind, what in told.diary:
        if kind == "commit":
            for write in what:
                match write:
                    case SaveLife(number, text):
                        durable[number] = json.loads(text)
                    case store.Happened(_, m.AttemptOpened(uid=uid)):
                        uids.add(uid)
                    case OutboxRow(id=number):
                        outbox.add(number)
        elif kind == "start":
            starts += 1
            kept = durable[what.experiment]
            assert kept["ticket"] == what.ticket
            expected = {
                "idle": m.Sweep,
                "validating": m.Validate,
                "running": m.RunAttempt,
                "backing-off": m.Wait,
                "halted": m.Sweep,
            }
            assert isinstance(what.order, expected[kept["state"]])
            if isinstance(what.order, m.RunAttempt):
                assert what.order.uid == kept["uid"] and what.order.uid in uids
        elif kind == "send":
            sends += 1
            assert what.id in outbox
    assert starts >= 8 and sends >= 2


def test_each_step_is_one_commit_with_its_history(rig: Rig) -> None:
    rig.submit(toml())
    rig.diary.clear()
    rig.validated()
    commits = [writes for kind, writes in rig.diary if kind == "commit"]
    assert len(commits) == 1
    kinds = [type(write) for write in commits[0]]
    assert kinds.count(SaveLife) == kinds.count(SaveHistory) == kinds.count(store.Happened) == 1


@pytest.mark.parametrize("when", ["validated", "succeeded", "halt", "offer", "hold", "rejected", "trust"])
def test_where_the_memory_cannot_be_written_nothing_acts(told: Rig, when: str) -> None:
    told.submit(toml())
    if when in ("succeeded", "halt"):
        told.running()
    told.diary.clear()
    told.sent.clear()
    told.memory.refuses = True
    with pytest.raises(StoreError):
        match when:
            case "validated":
                told.validated()
            case "succeeded":
                told.succeed()
            case "halt":
                told.ask("halt", experiment="PCG #1")
            case "offer":
                told.offer(toml("B", machines=OTHERS, network="b"), "b.toml")
            case "hold":
                told.engine.set_hold("held")
            case "rejected":
                told.engine.handle(Rejected("x.toml", "bad"))
            case "trust":
                told.engine.trust([PinRow(host="h", port=22, key="k", who="ann", pinned=1.0)])
    assert [kind for kind, _ in told.diary] == [] and told.sent == []
    assert told.engine.hold == "" and told.pins.keys_for("h", 22) == []
    told.memory.refuses = False
    told.restart()  # and another process finds what was before
    assert told.states() == ["running" if when in ("succeeded", "halt") else "validating"]
    assert len(told.engine.entries) == 1


def test_an_error_nobody_foresaw_ends_the_engine(rig: Rig) -> None:
    with pytest.raises(ZeroDivisionError):
        rig.engine.handle(Crash(ZeroDivisionError("x")))


# ---------------------------------------------------------------- restarts


def _halt(rig: Rig) -> None:
    rig.ask("halt", experiment="PCG #1")


def _disk(rig: Rig) -> None:
    rig.free_bytes = 0
    rig.validated()


def _put_back(rig: Rig) -> None:
    rig.ask("skip", test=T200)
    rig.ask("retry", test=T200)


WAYS: dict[str, list[Callable[[Rig], object]]] = {
    "validating": [],
    "running, not confirmed": [Rig.validated],
    "running": [Rig.running],
    "second attempt": [Rig.running, Rig.fail, Rig.running],
    "between attempts": [Rig.running, Rig.fail],
    "backing off": [Rig.away],
    "backing off with an attempt": [Rig.running, Rig.away],
    "validating with an attempt": [Rig.running, Rig.away, lambda r: r.answer(1, m.Due())],
    "halted by a person": [_halt],
    "halted and swept": [_halt, lambda r: r.answer(1, m.Swept())],
    "halted for a machine": [lambda r: r.answer(1, m.Impossible(machine="p1", reason="no licence"))],
    "halted for the disk": [_disk],
    "a test ahead skipped": [lambda r: r.ask("skip", test=T200)],
    "a test put back": [_put_back],
    "a test put back runs": [_put_back, Rig.running],
    "cancelled": [Rig.running, lambda r: r.ask("cancel", experiment="PCG #1")],
    "finished": [Rig.running, Rig.succeed, Rig.running, Rig.succeed],
    "held": [lambda r: r.ask("halt")],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_restart_in_the_middle_of_it_changes_nothing(told: Rig, way: str) -> None:
    told.submit(toml(retries=3), toml("B", machines=OTHERS, network="b"))
    for step in WAYS[way]:
        step(told)
    before, orders = told.everything(), {n: given.order for n, given in told.workers.at_work.items()}
    for number, order in orders.items():
        if isinstance(order, m.Wait):  # nobody knows how long it has lasted
            orders[number] = replace(order, secs=0.0)
        elif isinstance(order, m.RunAttempt):
            orders[number] = replace(order, confirmed=told.life(number).confirmed)
    ess = told.ess()
    told.stop()
    told.start()
    assert told.everything() == before and told.workers.at_work == {}
    told.engine.restart(crashed=False)
    assert {n: given.order for n, given in told.workers.at_work.items()} == orders
    assert told.ess() == ess and not told.engine.attention
    after = told.everything()
    told.restart()
    again = told.everything()
    for number in after["lives"]:  # another restart is one more ticket
        assert again["lives"][number][2:] == after["lives"][number][2:]


def test_a_crash_is_counted_against_the_running_test(rig: Rig) -> None:
    rig.submit(toml())
    rig.running()
    for _ in range(2):
        rig.restart(crashed=True)
        assert rig.states() == ["running"]
    rig.restart(crashed=True)
    assert rig.states() == ["validating"] and rig.memory.test_status(1, T100) == ("crashed-daemon", 1)
    assert rig.ess() == [f"{T100} 1 crashed-daemon"]


def test_any_weeks_with_kills_give_the_weeks_without(tmp_path: Path) -> None:
    """Random answers; one rig is killed after every message, the other never."""
    rigs = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        rigs.append(Rig(tmp_path / name, patience_secs=10**6))
    for seed in range(6):
        chance = random.Random(seed)
        for rig in rigs:
            rig.rng.seed(seed)
            text = toml(
                f"E{seed}",
                lengths=range(100, 106),
                retries=seed % 3,
                network=f"n{seed}",
                reboot=("test", "never")[seed % 2],
            )
            assert rig.offer(text.replace("10.0.0.", f"10.0.{seed}."), f"{seed}.toml") == ()
        number = seed + 1
        for _ in range(40):
            action = chance.choice(ACTIONS[rigs[0].life(number).state])
            for rig in rigs:
                if number in rig.workers.at_work or action in COMMANDS:
                    action(rig, number)
            kept = rigs[0].rng.getstate()
            rigs[1].restart()
            rigs[1].rng.setstate(kept)
            assert rigs[0].states()[number - 1] == rigs[1].states()[number - 1]
            left, right = (
                {k: v for k, v in json.loads(rig.life(number).to_json()).items() if k not in UNLIKE} for rig in rigs
            )
            assert left == right
            assert [r.remaining() for r in (rigs[0].life(number), rigs[1].life(number))] == [
                left_of(rigs[0], number)
            ] * 2
        assert rigs[0].ess(f"E{seed}") == rigs[1].ess(f"E{seed}")
    for rig in rigs:
        rig.stop()


UNLIKE = {"ticket", "away_secs"}  # a restart is a ticket of its own; when it looked last, no new process knows


def left_of(rig: Rig, number: int) -> int:
    life = rig.life(number)
    return int(life.sweep.count - life.succeeded - life.failed - life.skipped)


def _skip(rig: Rig, number: int) -> None:
    life = rig.life(number)
    if life.test:
        assert rig.ask("skip", test=life.test, experiment=life.experiment.name).ok


def _named(command: str) -> Callable[[Rig, int], None]:
    def give(rig: Rig, number: int) -> None:
        rig.ask(command, experiment=rig.life(number).experiment.name)

    return give


def _sweep_or_probe(rig: Rig, number: int) -> None:
    order = rig.order(number)
    rig.answer(number, m.Swept() if isinstance(order, m.Sweep) else m.Answered())


HALT, RESUME = _named("halt"), _named("resume")
COMMANDS = {HALT, RESUME, _skip}
ACTIONS: dict[str, list[Callable[[Rig, int], None]]] = {
    "idle": [_sweep_or_probe, HALT],
    "validating": [Rig.validated, Rig.validated, Rig.validated, Rig.away, HALT, _skip],
    "rebooting": [lambda r, n: r.answer(n, m.Rebooted()), Rig.away, _skip],
    "running": [
        Rig.succeed,
        Rig.fail,
        Rig.fail,
        lambda r, n: r.fail(n, "rebooted"),
        lambda r, n: r.answer(n, m.HalfStarted()),
        lambda r, n: r.answer(n, m.Started()),
        Rig.away,
        HALT,
        _skip,
    ],
    "backing-off": [lambda r, n: r.answer(n, m.Due()), lambda r, n: r.answer(n, m.Due()), HALT, _skip],
    "halted": [RESUME, _sweep_or_probe, _skip],
}


# ---------------------------------------------------------------- telling people


def bodies(rig: Rig) -> list[dict[str, Any]]:
    return [json.loads(body("generic", message.kind, message.facts, "")) for message in rig.sent]


def test_a_halt_is_told_with_the_facts_to_act_on(told: Rig) -> None:
    told.submit(toml(retries=0, halt_after_consecutive_failures=1))
    told.running()
    told.fail(machine="p2")
    (body,) = bodies(told)
    assert body["kind"] == "halt" and body["controller"] == "bench" and body["cause"] == "failures"
    assert body["text"] == (
        "autoperfd on bench: PCG #1 halted: 1 tests in a row failed with all their attempts; "
        "the last one: because of timeout (1 of 2 tests done)\n"
        "To do: Look at the reasons, mend them, then: autoperfctl resume 'PCG #1'"
    )


def test_every_kind_is_told_where_it_is_wished(told: Rig) -> None:
    told.submit(toml(lengths=(100,)))
    told.answer(1, m.Impossible(machine="p1", reason="p1: sudo asks for a password"))
    told.answer(1, m.Answered())
    told.ask("halt", experiment="PCG #1")
    told.ask("resume", experiment="PCG #1")
    told.running()
    told.succeed()
    told.engine.handle(Rejected("bad.toml", "bad.toml:1: nonsense"))
    assert [body["kind"] for body in bodies(told)] == ["halt", "over", "halt", "resume", "finish", "rejection"]
    assert bodies(told)[1]["text"].endswith("what halted it is over: p1: sudo asks for a password (0 of 1 tests done)")
    assert bodies(told)[-1]["text"] == "autoperfd on bench: bad.toml was rejected: bad.toml:1: nonsense"
    assert len({message.id for message in told.sent}) == 6


def test_by_default_only_halts_and_their_end_are_told(tmp_path: Path) -> None:
    rig = Rig(tmp_path, webhook=True)
    rig.submit(toml(lengths=(100,)))
    rig.answer(1, m.Impossible(machine="p1", reason="r"))
    rig.answer(1, m.Answered())
    rig.ask("halt", experiment="PCG #1")
    rig.ask("resume", experiment="PCG #1")
    rig.running()
    rig.succeed()
    rig.engine.handle(Rejected("bad.toml", "x"))
    assert [body["kind"] for body in bodies(rig)] == ["halt", "over", "halt"]
    rig.stop()


@pytest.mark.parametrize(
    ("daemon", "wish", "kinds"),
    [
        (("halt",), ["resume", "finish"], ["halt", "resume", "finish"]),
        (("halt", "resume", "finish"), [], ["halt"]),
        (("halt", "resume"), ["finish"], ["halt", "finish"]),
        (("halt", "finish"), None, ["halt", "finish"]),
    ],
)
def test_an_experiment_adds_and_silences_kinds_but_never_halts(
    daemon: tuple[str, ...], wish: list[str] | None, kinds: list[str], tmp_path: Path
) -> None:
    rig = Rig(tmp_path, webhook=True, webhook_on=daemon)
    wishes: dict[str, Any] = {} if wish is None else {"notify": wish}
    rig.submit(toml(lengths=(100,), **wishes))
    rig.restart()  # the wish is kept
    rig.ask("halt", experiment="PCG #1")
    rig.ask("resume", experiment="PCG #1")
    rig.running()
    rig.succeed()
    assert [message.kind for message in rig.sent] == kinds
    rig.stop()


def test_a_wish_may_change_when_the_file_is_dropped_again(told: Rig) -> None:
    told.submit(toml(notify=[]))
    assert told.offer(toml(notify=["resume"]), "again.toml") == ()
    told.ask("halt", experiment="PCG #1")
    told.ask("resume", experiment="PCG #1")
    assert [message.kind for message in told.sent] == ["halt", "resume"]


def test_a_cause_has_at_most_one_open_incident(tmp_path: Path) -> None:
    rig = Rig(tmp_path, webhook=True)
    sudo = m.Impossible(machine="p1", reason="p1: sudo asks for a password", code="NO_SUDO")
    rig.submit(toml(), toml("B", machines=OTHERS, network="b"))

    def told() -> list[tuple[str, object, object]]:
        return [(message.kind, message.facts["experiment"], message.facts["cause"]) for message in rig.sent]

    rig.answer(1, sudo)
    first = [("halt", "PCG #1", "machine")]
    assert told() == first
    rig.deliver()
    for crashed in (False, True):  # nothing is told again, whatever a worker of before still says
        ticket = rig.workers.at_work[1].ticket
        rig.restart(crashed=crashed)
        rig.answer(1, sudo, ticket)
        rig.wait(HOUSEKEEPING_SECS)
    assert rig.states()[0] == "halted" and told() == first
    rig.answer(1, m.Answered())
    over = [*first, ("over", "PCG #1", "machine")]
    assert told() == over
    rig.deliver()
    rig.answer(1, sudo)  # the same cause once more is another incident
    assert told() == [*over, *first] and rig.sent[-1].facts["incident"] == 2
    rig.deliver()
    rig.ask("halt", experiment="B")  # another cause, whoever else is halted
    assert told()[-1] == ("halt", "B", "operator")
    rig.restart()
    assert len(rig.sent) == 4 and len({message.id for message in rig.sent}) == 4
    rig.stop()


def test_a_full_disk_is_told_once_however_many_it_halts(tmp_path: Path) -> None:
    rig = Rig(tmp_path, webhook=True)
    rig.submit(
        toml(), toml("B", machines=OTHERS, network="b"), toml("C", machines=("10.0.0.5", "10.0.0.6"), network="c")
    )

    def told() -> list[tuple[str, object, object]]:
        return [(message.kind, message.facts["experiment"], message.facts["code"]) for message in rig.sent]

    rig.free_bytes = 0
    rig.validated(1)
    rig.deliver()
    rig.restart()  # what was told is known after a restart
    rig.validated(2)
    rig.free_bytes, rig.inodes = 1 << 40, 0
    rig.validated(3)  # another lack is another incident
    assert rig.states() == ["halted"] * 3
    halts = [("halt", "PCG #1", "DISK_FULL"), ("halt", "C", "INODES_FULL")]
    assert told() == halts
    rig.deliver()
    rig.inodes = None
    rig.wait(HOUSEKEEPING_SECS)
    assert rig.states() == ["validating"] * 3
    overs = [(message.kind, message.facts["experiment"]) for message in rig.sent[2:]]
    assert overs == [("over", "PCG #1"), ("over", "C")]
    rig.free_bytes = 0
    rig.validated(2)  # the next one is told of by whom it halts first
    rig.validated(1)
    assert told()[4:] == [("halt", "B", "DISK_FULL")]
    rig.stop()


def test_a_results_folder_that_is_gone_is_its_experiment_s_own(tmp_path: Path) -> None:
    rig = Rig(tmp_path, webhook=True)
    rig.submit(toml(), toml("B", machines=OTHERS, network="b"))
    for number, folder in ((1, "PCG_1"), (2, "B")):
        shutil.rmtree(tmp_path / "results" / folder)
        rig.validated(number)
    assert [message.facts["code"] for message in rig.sent] == ["RESULTS_MISSING"] * 2
    rig.stop()


def test_without_a_receiver_nothing_is_kept(rig: Rig) -> None:
    rig.submit(toml())
    rig.ask("halt", experiment="PCG #1")
    rig.engine.handle(Rejected("bad.toml", "x"))
    assert rig.memory.load().outbox == []


def test_a_message_is_sent_until_it_is_delivered(told: Rig) -> None:
    told.submit(toml())
    told.ask("halt", experiment="PCG #1")
    (first,) = told.sent
    told.deliver("failed", "refused")
    (row,) = told.engine.undelivered()
    assert (row.tries, row.why, row.state) == (1, "refused", "waiting") and row.next_at > told.clock.wall()
    told.restart()
    assert told.engine.undelivered() == [row] and len(told.sent) == 1
    told.wait(row.next_at - told.clock.wall() + HOUSEKEEPING_SECS)
    again = told.sent[-1]
    assert len(told.sent) == 2 and (again.id, again.facts, again.tries) == (first.id, first.facts, 1)
    told.deliver()
    assert told.engine.undelivered() == [] and told.memory.load().outbox == []
    kept = told.memory.message(first.id)
    assert kept is not None and (kept.state, kept.tries) == ("sent", 2)
    told.wait(1000)
    told.deliver()  # an outcome that comes twice
    assert len(told.sent) == 2


@pytest.mark.fault("W7")
def test_a_message_kept_but_never_sent_goes_out_after_a_restart(told: Rig, fired: Fired) -> None:
    told.submit(toml())
    told.ask("halt", experiment="PCG #1")
    told.sent.clear()
    told.restart()
    told.engine.tick()
    assert len(told.sent) == 1
    fired("W7", "the engine ended before it was noted as sent")


@pytest.mark.fault("W5")
def test_a_receiver_s_wish_to_wait_is_heard(told: Rig, fired: Fired) -> None:
    told.submit(toml())
    told.ask("halt", experiment="PCG #1")
    told.deliver("failed", "status 429", retry_after=600)
    told.wait(590)
    assert len(told.sent) == 1
    told.wait(10 + HOUSEKEEPING_SECS)
    assert len(told.sent) == 2
    fired("W5", "asked to wait")


@pytest.mark.fault("W1")
def test_after_a_day_a_message_is_given_up_and_shown(told: Rig, fired: Fired) -> None:
    told.submit(toml())
    told.ask("halt", experiment="PCG #1")
    tries = 0
    while told.engine.undelivered() or not tries:
        told.deliver("failed", "refused")
        tries += 1
        told.wait(1800)
        assert tries < 100
    assert 40 < tries < 60 and told.engine.attention == ["a halt message could not be delivered: refused"]
    kept = told.memory.message(told.sent[0].id)
    assert kept is not None and (kept.state, kept.why) == ("dead", "refused")
    fired("W1", "never taken in 24 h")


@pytest.mark.fault("W4")
def test_a_message_nobody_will_ever_take_is_given_up_at_once(told: Rig, fired: Fired) -> None:
    told.submit(toml())
    told.ask("halt", experiment="PCG #1")
    told.deliver("dead", "status 404")
    assert told.engine.undelivered() == [] and told.engine.attention == [
        "a halt message could not be delivered: status 404"
    ]
    fired("W4", "refused for good")


def test_a_clock_set_back_delays_no_message(told: Rig) -> None:
    told.submit(toml())
    told.ask("halt", experiment="PCG #1")
    told.deliver("failed", "refused")
    told.clock.step -= 10 * 86_400
    told.wait(HOUSEKEEPING_SECS)
    assert len(told.sent) == 2


# ---------------------------------------------------------------- trust and probes


def test_trusting_a_host_key_has_the_machines_looked_at_soon(rig: Rig) -> None:
    rig.submit(toml())
    rig.answer(1, m.Impossible(machine="p1", reason="its host key is not known"))
    order = rig.order()
    assert isinstance(order, m.SlowProbe) and order.secs == 300
    pin = PinRow(host="10.0.0.1", port=22, key="ssh-ed25519 AAAA", who="ann", pinned=1.0)
    rig.engine.trust([pin])
    order = rig.order()
    assert isinstance(order, m.SlowProbe) and order.secs == 1.0
    assert rig.pins.keys_for("10.0.0.1", 22) == ["ssh-ed25519 AAAA"] and rig.memory.load().pins == [pin]
    rig.engine.trust([replace(pin, key="ssh-ed25519 BBBB")])
    assert rig.pins.keys_for("10.0.0.1", 22) == ["ssh-ed25519 BBBB"]
    rig.answer(1, m.Answered())
    assert rig.states() == ["validating"]
    rig.restart()
    assert rig.pins.keys_for("10.0.0.1", 22) == ["ssh-ed25519 BBBB"]


def test_the_problems_of_a_refused_file_are_all_told(told: Rig) -> None:
    told.bad_key = lambda machine: f"no key for {machine.name}"
    problems = told.offer(toml())
    assert isinstance(problems, tuple) and [type(problem) for problem in problems] == [Problem, Problem]
    assert bodies(told)[-1]["kind"] == "rejection" and str(ConfigError(problems)) in told.engine.intake[0].sentence
