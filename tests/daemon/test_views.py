"""What people see: golden screens, and that nothing foreign reaches a terminal raw."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperfd.daemon.screen import render_list, render_show, render_silent, render_status
from autoperfd.daemon.views import (
    AttemptView,
    CurrentView,
    ExperimentView,
    FailureView,
    IntakeView,
    ListView,
    MachineView,
    ReasonView,
    ShowView,
    StatusView,
    ToldView,
    attention,
    duration,
    escaped,
    read_snapshot,
    snapshot,
    status_exit,
    summary,
    to_data,
)

NOW = 1_795_000_000.0
TEST = "600SEC_100B_15PUB_15SUB_BE_MC_3DUR_100LC"
P1 = MachineView("p1", "169.254.248.55", "ok", NOW - 4)
P2 = MachineView("p2", "169.254.248.56", "ok", NOW - 4)
P3 = MachineView("p3", "169.254.248.57", "away", NOW - 720, "ping is silent; SSH: no route to host")
RUNNING = ExperimentView(
    "PCG #1",
    "running",
    tests_done=12,
    tests_total=600,
    succeeded=11,
    failed=1,
    current=CurrentView(TEST, 2, 3, 14, 646),
    remaining_secs=353_000,
    remaining_low_secs=353_000,
    remaining_high_secs=441_000,
    tests_per_hour=5.2,
    ends="++++x+o+++++x+",
    reasons=(
        ReasonView("TIMEOUT", "test", 2, "sub_0 on p2 did not end in 90 s", "30SEC_100B_1PUB_1SUB_REL_UC_100LC"),
        ReasonView("REBOOTED", "machine", 1, "p2 restarted by itself", "30SEC_200B_1PUB_1SUB_REL_UC_100LC"),
    ),
    wanted_bytes=3_400_000_000,
    failures_in_a_row=1,
    failures_allowed=10,
    machines=(P1, P2),
)
HALTED = ExperimentView(
    "soak",
    "halted",
    tests_done=3,
    tests_total=36,
    halted_cause="machine",
    halted_reason="p3 has not answered for 30 min",
    todo="Look at its power and cable; it goes on by itself when p3 answers.",
    machines=(P3,),
)
WAITING = ExperimentView("RCG #1", "idle", outcome="waiting", tests_total=500, sentence="waits for p1, used by PCG #1")
FINISHED = ExperimentView("old", "idle", outcome="finished", tests_done=36, tests_total=36, succeeded=36)
FAILURE = FailureView("PCG #1", "30SEC_100B_1PUB_1SUB_REL_UC_100LC", "timeout", "sub_0 on p2 did not end in 90 s")
STATUS = StatusView(
    NOW,
    "0.1.0",
    812,
    NOW - 273_600,
    experiments=(RUNNING, HALTED, WAITING, FINISHED),
    failures=(FAILURE,),
    told=ToldView(3, 1, NOW - 7200, "halt", "soak"),
    free_bytes=44_000_000_000,
    attention=("The webhook was refused with HTTP 404: correct its URL in autoperfd.toml.",),
)


def shown(text: str) -> str:
    return dedent(text).lstrip("\n")


def test_the_screen_of_status_answers_what_a_person_asks() -> None:
    assert render_status(STATUS) == shown(
        """
        autoperfd 0.1.0 (pid 812), up 3 d 4 h: running PCG #1 (12 of 600); 1 halted; 1 waiting

        soak: halted  [#...................]  3 of 36 tests (8 %)
          halted    by machine: p3 has not answered for 30 min
          machines  p3 (169.254.248.57) away, seen 12 min ago: ping is silent; SSH: no route to host

        PCG #1: running  [#...................]  12 of 600 tests (2 %), 11 ok, 1 failed
          now       600SEC_100B_15PUB_15SUB_BE_MC_3DUR_100LC, attempt 2 of 3, for 14 s, 11 min left
          left      4 d 2 h to 5 d 2 h, until 2026-11-22 13:10 to 2026-11-23 13:36 UTC; 5.2 tests an hour
          lately    ++++x+o+++++x+  (x failed, o somebody else's fault)
          failed    2 x TIMEOUT: sub_0 on p2 did not end in 90 s; 1 more reason
          machines  p1, p2 ok

        RCG #1: waiting, 0 of 500 tests (0 %); waits for p1, used by PCG #1
        old: finished, 36 of 36 tests (100 %), 36 ok
        Messages: 3 delivered, the latest 2 h ago: soak was halted; 1 not delivered yet.
        Disk: 41.0 GB free, the rest wants about 3.2 GB.

        To do:
        ! soak is halted: p3 has not answered for 30 min. Look at its power and cable; it goes on by itself
          when p3 answers.
        ! The webhook was refused with HTTP 404: correct its URL in autoperfd.toml.
        """
    )
    assert status_exit(STATUS) == 1


def test_the_typical_screen_fits_24_lines_of_100_columns() -> None:
    lines = render_status(STATUS).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100


def test_a_crowd_still_fits_a_screen_or_nearly() -> None:
    many = tuple(replace(RUNNING, name=f"e{i}", machines=(P1,) * 128) for i in range(3))
    crowd = replace(STATUS, experiments=many + (WAITING,) * 50, failures=(FAILURE,) * 50, attention=())
    lines = render_status(crowd).splitlines()
    assert len(lines) <= 32
    assert "... and 46 more: autoperfctl list" in lines
    assert "  machines  128 machines ok" in lines


def test_nothing_there_yet() -> None:
    empty = StatusView(NOW, "0.1.0", 812, NOW - 5)
    assert render_status(empty) == shown(
        """
        autoperfd 0.1.0 (pid 812), up 5 s: waiting for an experiment in the queue

        Nothing to do.
        """
    )
    assert status_exit(empty) == 0


def test_a_hold_is_said_at_once() -> None:
    held = StatusView(NOW, "0.1.0", 812, NOW - 5, hold="held by root since 12:00", experiments=(WAITING,))
    text = render_status(held)
    assert "HELD: held by root since 12:00; nothing starts until `autoperfctl resume`" in text
    assert "1 waiting; held by an operator" in text


def test_when_the_daemon_is_down_the_last_known_is_shown() -> None:
    view, written_at = read_snapshot(snapshot(replace(STATUS, experiments=(RUNNING,), attention=())))
    assert written_at == NOW
    head = "autoperfd is not running; it was last heard of 2 h ago (2026-11-18 11:06 UTC)."
    assert render_silent(view, head, "Start it: sudo systemctl start autoperfd") == shown(
        """
        autoperfd is not running; it was last heard of 2 h ago (2026-11-18 11:06 UTC).
        Start it: sudo systemctl start autoperfd

        The last that is known:
        PCG #1: running  [#...................]  12 of 600 tests (2 %), 11 ok, 1 failed
          now       600SEC_100B_15PUB_15SUB_BE_MC_3DUR_100LC, attempt 2 of 3, for 14 s, 11 min left
          left      4 d 2 h to 5 d 2 h, until 2026-11-22 13:10 to 2026-11-23 13:36 UTC; 5.2 tests an hour
          lately    ++++x+o+++++x+  (x failed, o somebody else's fault)
          failed    2 x TIMEOUT: sub_0 on p2 did not end in 90 s
                    1 x REBOOTED, blamed on the machine: p2 restarted by itself
                    autoperfctl why 30SEC_100B_1PUB_1SUB_REL_UC_100LC
          machines  p1, p2 ok
        """
    )


def test_list() -> None:
    intake = (IntakeView("bad.toml", "rejected", "bad.toml:8: experiments[0].sed: unknown key", NOW),)
    assert render_list(ListView(NOW, STATUS.experiments, intake)) == shown(
        """
        EXPERIMENT  STATE     DONE       FAILED  LEFT
        PCG #1      running   12 of 600  1       4 d 2 h
        soak        halted    3 of 36    0       -
        RCG #1      waiting   0 of 500   0       -
        old         finished  36 of 36   0       -

        Lately in the queue:
        2026-11-18 11:06 UTC  bad.toml: rejected: bad.toml:8: experiments[0].sed: unknown key
        """
    )
    assert render_list(ListView(NOW, ())) == "No experiments yet. Put one into the queue: autoperfctl submit FILE\n"


def test_show() -> None:
    attempts = (
        AttemptView(TEST, 2, "running", "2026-11-18T11:06:26Z"),
        AttemptView(TEST, 1, "timeout", "2026-11-18T10:54:26Z", blame="test", machine="p2", reason="sub_0 hung"),
    )
    facts = (("tool", "perftest"), ("retries", "2"))
    view = ShowView(NOW, RUNNING, "/var/lib/autoperf/results/PCG_1", facts, (FAILURE,), attempts)
    assert render_show(view) == shown(
        """
        PCG #1: running  [#...................]  12 of 600 tests (2 %), 11 ok, 1 failed
          now       600SEC_100B_15PUB_15SUB_BE_MC_3DUR_100LC, attempt 2 of 3, for 14 s, 11 min left
          left      4 d 2 h to 5 d 2 h, until 2026-11-22 13:10 to 2026-11-23 13:36 UTC; 5.2 tests an hour
          lately    ++++x+o+++++x+  (x failed, o somebody else's fault)
          failed    2 x TIMEOUT: sub_0 on p2 did not end in 90 s
                    1 x REBOOTED, blamed on the machine: p2 restarted by itself
                    autoperfctl why 30SEC_100B_1PUB_1SUB_REL_UC_100LC
          machines  p1, p2 ok

          folder   /var/lib/autoperf/results/PCG_1
          tool     perftest
          retries  2

        Machines:
          p1  169.254.248.55  ok  seen 4 s ago
          p2  169.254.248.56  ok  seen 4 s ago

        Tests given up (why: `autoperfctl why TEST`; again: `autoperfctl retry TEST`):
          30SEC_100B_1PUB_1SUB_REL_UC_100LC: timeout, sub_0 on p2 did not end in 90 s

        Attempts:
          START                 TEST                                      #  STATUS   REASON
          2026-11-18T10:54:26Z  600SEC_100B_15PUB_15SUB_BE_MC_3DUR_100LC  1  timeout  sub_0 hung (p2)
          2026-11-18T11:06:26Z  600SEC_100B_15PUB_15SUB_BE_MC_3DUR_100LC  2  running
        """
    )


def test_json_says_what_the_text_says() -> None:
    data = json.loads(json.dumps(to_data(STATUS)))
    assert data["experiments"][0]["eta"] == "2026-11-22T13:10:00Z"
    assert data["experiments"][2]["eta"] is None
    assert data["experiments"][0]["current"]["test"] == TEST
    assert data["attention"] == list(attention(STATUS))
    assert json.loads(json.dumps(to_data(ListView(NOW, (RUNNING,)))))["experiments"][0]["name"] == "PCG #1"


def test_a_snapshot_gives_the_same_view_back() -> None:
    assert read_snapshot(snapshot(STATUS)) == (STATUS, NOW)


def test_a_snapshot_of_another_version_is_read_as_far_as_it_is_known() -> None:
    raw = json.loads(snapshot(STATUS))
    raw["status"]["mood"] = "good"
    raw["status"]["experiments"][0]["colour"] = "blue"
    del raw["status"]["experiments"][0]["sentence"]
    assert read_snapshot(json.dumps(raw).encode())[0] == STATUS


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"schema":2}',
        b'{"schema":1}',
        b'{"schema":1,"status":3,"written_at":1}',
        b'{"schema":1,"status":{"experiments":[1]},"written_at":1}',
        b"\xff",
        b"[" * 100000,
    ],
)
def test_what_is_not_a_snapshot_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_snapshot(data)


@pytest.mark.parametrize(
    ("experiments", "sentence"),
    [
        ((), "waiting for an experiment in the queue"),
        ((FINISHED,), "all experiments are finished"),
        ((RUNNING, FINISHED), "running PCG #1 (12 of 600)"),
        ((HALTED, WAITING), "1 halted; 1 waiting"),
    ],
)
def test_the_sentence_of_systemctl_status(experiments: tuple[ExperimentView, ...], sentence: str) -> None:
    assert summary(experiments) == sentence


@pytest.mark.parametrize(
    ("secs", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (3599, "1 h"),
        (3600, "1 h"),
        (18720, "5 h 12 min"),
        (48 * 3600, "2 d"),
        (273600, "3 d 4 h"),
        (1000000000000.0, "11574074 d 1 h"),
    ],
)
def test_durations(secs: float, text: str) -> None:
    assert duration(secs) == text


def harmless(line: str) -> bool:
    """Whether a terminal would only show it: no control, format, surrogate, private, unassigned, line separator."""
    return not {unicodedata.category(c) for c in line} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


hostile = st.text(st.characters(), max_size=30)


@settings(deadline=None)
@given(hostile)
def test_escaping_leaves_nothing_that_a_terminal_obeys(text: str) -> None:
    assert harmless(escaped(text))
    if text.isprintable():
        assert escaped(text) == text


def test_every_code_point_is_harmless_after_escaping() -> None:
    assert harmless(escaped("".join(map(chr, range(0x110000)))))


@settings(deadline=None)
@given(st.data())
def test_no_view_lets_a_foreign_text_through(data: st.DataObject) -> None:
    def text() -> str:
        return data.draw(hostile)

    machine = MachineView(text(), text(), text(), NOW, text())
    experiment = ExperimentView(
        text(),
        data.draw(st.sampled_from(["running", "halted", "idle", "backing-off"])),
        text(),
        text(),
        current=CurrentView(text(), 1, 2, 3.0),
        halted_cause=text(),
        halted_reason=text(),
        todo=text(),
        machines=(machine, machine),
    )
    failure = FailureView(text(), text(), text(), text())
    status = StatusView(NOW, text(), 1, NOW, text(), text(), (experiment,), (failure,), (text(),))
    attempt = AttemptView(text(), 1, text(), text(), text(), text(), text(), text(), text())
    texts = [
        render_status(status),
        render_silent(status, text(), text(), data.draw(st.integers(1, 200))),
        render_list(ListView(NOW, (experiment,), (IntakeView(text(), text(), text(), NOW),))),
        render_show(ShowView(NOW, experiment, text(), ((text(), text()),), (failure,), (attempt,))),
    ]
    for screen in texts:
        assert all(harmless(line) for line in screen.split("\n"))
    assert read_snapshot(snapshot(status))[0] == status
