"""Which of several reasons an attempt failed wins, whose fault it is, and what is kept as evidence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoperfd.core.guards import Guards, Watch
from autoperfd.core.plan import Participant, ParticipantRecord, Plan, Verdict
from autoperfd.daemon.judge import Judged, judge, last_lines, never_began, standing
from autoperfd.errors import MachineAway, MachineImpossible, StartFailed
from autoperfd.remote.values import Examination, Outcome
from autoperfd.tools import TOOLS


def participant(name: str, machine: str) -> Participant:
    role: Any = name.partition("_")[0]
    return Participant(name, role, 0, machine, ("/bin/true",), (), f"{name}.out", f"{name}.err")


PLAN = Plan("fixed", "a_test", (), 7, 1, (participant("pub_0", "p1"), participant("sub_0", "p2")))
RECORDS = (
    ParticipantRecord("pub_0", "p1", 0, None, "self", 1.0, 2.0),
    ParticipantRecord("sub_0", "p2", None, 15, "deadline", 1.0, 9.0),
)
CALM = {"p1": Watch(wall=100.0, uptime=10.0), "p2": Watch(wall=100.0, uptime=10.0)}
STEPPED = {**CALM, "p1": Watch(wall=200.0, uptime=11.0)}
SAME = {"p1": "one", "p2": "two"}
WELL = {"p1": Examination(True, "ok", "one", {"p2": True}), "p2": Examination(True, "ok", "two", {"p1": True})}
FAILED = Verdict("timeout", code="TIMEOUT", reason="it did not end in time", machine="p2")


class Fixed:
    """A tool that always says the same."""

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict

    def __getattr__(self, name: str) -> Any:
        return getattr(TOOLS["perftest"], name)

    def verdict(self, plan: Plan, folder: Path, records: Sequence[ParticipantRecord]) -> Verdict:
        return self._verdict


def outcome(**changes: Any) -> Outcome:
    calm: dict[str, Any] = {"watch_before": CALM, "watch_after": CALM}
    return Outcome(RECORDS, (), SAME, SAME, 0.01, {}, "started", **{**calm, **changes})


def judged(
    folder: Path,
    verdict: Verdict = FAILED,
    examined: Mapping[str, Examination] = WELL,
    boots: Mapping[str, str] = SAME,
    was_away: Mapping[str, str] | None = None,
    **changes: Any,
) -> Judged:
    found = outcome(**{key: value for key, value in changes.items() if not key.startswith("boot_")})
    found = replace(found, **{key: value for key, value in changes.items() if key.startswith("boot_")})
    return judge(Fixed(verdict), PLAN, found, folder, Guards(), boots, lambda: examined, was_away)


LOST: dict[str, Any] = {"problems": {"p2": "RECORDS_LOST"}}
REBOOTED: dict[str, Any] = {"boot_after": {**SAME, "p2": "other"}}
DISTURBED: dict[str, Any] = {"watch_after": STEPPED}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("timeout", "test", "TIMEOUT", "p2")),
        (DISTURBED, ("invalid", "machine", "CLOCK_STEP", "p1")),
        ({**DISTURBED, **LOST}, ("machine-lost", "machine", "RECORDS_LOST", "p2")),
        ({**DISTURBED, **LOST, **REBOOTED}, ("rebooted", "machine", "REBOOTED", "p2")),
        ({**LOST, **REBOOTED, "boot_before": {"p1": "one"}}, ("rebooted", "machine", "REBOOTED", "p2")),
    ],
)
def test_what_wins(tmp_path: Path, changes: dict[str, Any], expected: tuple[str, ...]) -> None:
    found = judged(tmp_path, **changes).result
    assert (found.end_status, found.blame, found.code, found.machine) == expected


def test_a_disturbed_success_is_none_and_says_what_it_would_have_been(tmp_path: Path) -> None:
    found = judged(tmp_path, Verdict("success", figures={"samples": 5}), **DISTURBED)
    assert (found.result.end_status, found.result.figures) == ("invalid", {})
    assert found.evidence["undisturbed"] == {"end_status": "success", "code": "", "reason": ""}
    kept = json.loads(found.result.evidence)
    assert kept["watch"]["after"]["p1"]["wall"] == 200.0 and kept["watch"]["before"]["p2"]["uptime"] == 10.0


def test_every_disturbance_is_told(tmp_path: Path) -> None:
    after = {"p1": replace(STEPPED["p1"], throttled=1), "p2": replace(CALM["p2"], users=("ann pts/0 192.0.2.9",))}
    reason = judged(tmp_path, watch_after=after).result.reason
    assert "stepped by" in reason and "throttled" in reason and "ann" in reason


def test_nobody_is_examined_after_a_success(tmp_path: Path) -> None:
    def look() -> Mapping[str, Examination]:
        raise AssertionError("a success needs no look")

    found = judge(Fixed(Verdict("success")), PLAN, outcome(), tmp_path, Guards(), SAME, look)
    assert found.result.end_status == "success" and "examined" not in found.evidence


def test_a_look_may_change_the_blame(tmp_path: Path) -> None:
    deaf = {**WELL, "p1": Examination(True, "ok", "one", {"p2": False})}
    found = judged(tmp_path, examined=deaf)
    assert (found.result.blame, found.result.code, found.result.machine) == ("network", "PARTITION", "p1")
    assert found.evidence["examined"]["p1"]["hears"] == {"p2": False}
    full = judged(tmp_path, Verdict("truncated"), problems={"p2": "REMOTE_DISK_FULL"}).result
    assert (full.end_status, full.blame, full.code, full.machine) == ("truncated", "machine", "REMOTE_DISK_FULL", "p2")


def test_an_outage_that_is_over_is_kept_and_blamed(tmp_path: Path) -> None:
    found = judged(tmp_path, was_away={"p1": "PING"})
    assert (found.result.end_status, found.result.blame, found.result.code) == ("timeout", "machine", "PING")
    assert found.evidence["was_away"] == {"p1": "PING"}
    seen = outcome(was_away={"p2": "LINK_LOST"})
    found = judge(Fixed(FAILED), PLAN, seen, tmp_path, Guards(), SAME, lambda: WELL, {"p2": "PING"})
    assert (found.result.blame, found.result.machine, found.result.code) == ("machine", "p2", "PING")
    assert judged(tmp_path, Verdict("success"), was_away={"p1": "PING"}).result.end_status == "success"


def test_the_last_lines_are_kept_of_those_that_ended_badly_first(tmp_path: Path) -> None:
    (tmp_path / "sub_0.out").write_text("".join(f"line {at}\n" for at in range(1000)))
    (tmp_path / "sub_0.err").write_bytes(b"\x1b[2Jbad \xff\n\n" + b"x" * 5000)
    (tmp_path / "pub_0.out").write_text("")
    lines = last_lines(PLAN.participants, RECORDS, tmp_path)
    assert list(lines) == ["sub_0", "pub_0"] and lines["pub_0"] == []
    assert lines["sub_0"][0] == "out: line 990" and lines["sub_0"][9] == "out: line 999"
    assert all(line.isprintable() for line in lines["sub_0"]) and len(lines["sub_0"]) <= 20
    assert sum(map(len, lines["sub_0"])) < 2400
    many = [participant(f"pub_{at}", "p1") for at in range(1000)]
    assert len(last_lines(many, (), tmp_path)) == 24


def test_errors_tell_how_each_machine_stood(tmp_path: Path) -> None:
    error = MachineImpossible("p1", "there is no tool", code="EXEC_MISSING")
    away = MachineAway("p2", "192.0.2.2 does not answer pings", code="PING")
    error.pings, away.pings, error.others = 1, 3, (away,)
    stood = standing(error)
    assert {name: (at["code"], at["pinged"], at["pings"]) for name, at in stood.items()} == {
        "p1": ("EXEC_MISSING", True, 1),
        "p2": ("PING", False, 3),
    }
    begun = never_began("wont-start", StartFailed("p2", "its disk is full", code="REMOTE_DISK_FULL"), lambda: WELL)
    assert (begun.result.end_status, begun.result.blame, begun.result.machine) == ("wont-start", "machine", "p2")
    kept = json.loads(begun.result.evidence)
    assert kept["examined"]["p1"]["ssh"] == "ok" and kept["errors"]["p2"]["code"] == "REMOTE_DISK_FULL"
