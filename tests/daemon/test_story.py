"""`why` tells all that happened to a test in words that fit a screen, whatever the memory's rows say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperfd.core import messages as m
from autoperfd.core.messages import EVENTS
from autoperfd.daemon import proof, story
from autoperfd.daemon.views import escaped
from tests.daemon.support import toml
from tests.verify.support import BOOTS, Bench

T100, T200, T300 = (f"4SEC_{length}B_1PUB_1SUB_REL_UC_100LC" for length in (100, 200, 300))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    made.submit(toml(lengths=(100, 200, 300), retries=1, halt_after_consecutive_failures=2))
    return made


def why(bench: Bench, test: str) -> str:
    reply = bench.ask("why", test=test)
    assert reply.ok, reply
    assert all(len(line) <= 100 for line in reply.text.splitlines())
    return reply.text


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_test_that_was_not_tried_yet(bench: Bench) -> None:
    assert why(bench, T300) == (f"{T300} of PCG #1: not tried yet\n\nNext: it is tried after at most 2 other tests.\n")
    assert why(bench, T100).endswith("Next: it is tried as the next test.\n")


def test_a_retried_test_tells_its_attempts_and_what_is_left(bench: Bench) -> None:
    bench.running()
    bench.close("crashed", records={"exit": None, "signal": 11})
    bench.wait(60)
    bench.running()
    bench.wait(2)
    text = why(bench, T100)
    assert text.splitlines()[:13] == [
        f"{T100} of PCG #1: under way, 2 attempts so far",
        "",
        "2023-11-14 (UTC)",
        "  22:13:20  all machines are fit: attempt 1 begins",
        "  22:13:20  every machine confirmed the start",
        "  22:13:30  attempt 1 ended after 10 s: crashed, blamed on the test: CRASHED: =because; -of crashed",
        "            (charged 1 of 2); to be tried again",
        "            - pub_0 on p1: signal 11, by itself after 4.5 s",
        "            - sub_0 on p2: signal 11, by itself after 4.5 s",
        "            - p1 and p2: the same boot before and after",
        "  22:14:30  all machines are fit: attempt 2 begins",
        "  22:14:30  every machine confirmed the start",
        "",
    ]
    assert "Budget: 1 of 2 attempts are charged to the test, 1 left\n" in text
    assert "Next: attempt 2 goes on, 2 s old; failing by its own fault, the test is given up.\n" in text
    bench.close("success")
    text = why(bench, T100)
    assert text.startswith(f"{T100} of PCG #1: succeeded with attempt 2\n")
    assert f"attempt 2 ended after 12 s: success, data/{T100}/attempt-2.tar.gz" in flat(text)
    assert "Budget" not in text and text.endswith("Next: nothing; it needs no further attempt.\n")


def test_a_test_that_was_given_up_says_how_to_try_it_again(bench: Bench) -> None:
    for status in ("timeout", "no-data"):
        bench.running()
        bench.close(status)
    text = flat(why(bench, T100))
    assert f"{T100} of PCG #1: given up after 2 attempts: no-data" in text
    assert "(charged 2 of 2); given up" in text
    assert f"Next: nothing by itself. To try it again: autoperfctl retry {T100}" in text
    bench.wait(5)
    assert bench.ask("retry", test=T100).ok
    text = flat(why(bench, T100))
    assert "to be tried again, 2 attempts so far" in text and "ann wants it tried again" in text
    assert "Budget: 0 of 2 attempts are charged to the test, 2 left Next: it is tried again as the next test." in text


def test_a_long_outage_is_told_in_a_few_lines(bench: Bench) -> None:
    bench.running()
    for _ in range(12):
        bench.wait(3)
        bench.away(reason="p2 is away")
        bench.wait(4)
        bench.answer(1, m.Due())
    text = why(bench, T100)
    assert text.count("p2 is away") == 2
    assert "(10 further looks in 67 s)" in text
    assert "its machines" not in text


def test_an_attempt_that_survives_a_restart_and_a_halt(bench: Bench) -> None:
    bench.running()
    bench.wait(3)
    bench.restart(crashed=True)
    bench.wait(1)
    assert bench.ask("halt", experiment="PCG #1").ok
    text = flat(why(bench, T100))
    assert "22:13:23 the daemon started again and goes on from here" in text
    assert "attempt 1 ended after 4 s: interrupted, blamed on the operator: stopped by ann" in text
    assert "it costs the test nothing, the experiment is halted" in text
    assert "Next: nothing before the experiment goes on. It is halted by operator: halted by ann." in text
    bench.wait(1)
    bench.answer(1, m.Swept())
    bench.wait(1)
    assert bench.ask("resume", experiment="PCG #1").ok
    assert "22:13:26 the experiment was resumed" in flat(why(bench, T100))


@pytest.mark.parametrize(
    ("blame", "machine", "said"),
    [
        ("test", "", "the test"),
        ("test", "p2", "the test, seen on p2"),
        ("machine", "p2", "machine p2"),
        ("network", "", "the network"),
    ],
)
def test_whom_it_is_blamed_on(blame: str, machine: str, said: str) -> None:
    one = story.Try(7, 1, 1.7e9, 1.7e9 + 3, "no-data", blame, machine, "X", "why", "", "{}")
    told = story.Story("E", T100, 1.7e9, (), (one,), "", {"outcome": "waiting", "cursor": 0}, 2, 0)
    assert f"attempt 1 ended after 3 s: no-data, blamed on {said}: X: why" in flat(story.render(told))


def test_what_changed_on_a_machine_between_attempts_is_told_where_it_matters(bench: Bench) -> None:
    def attempt(status: str, **known: str) -> None:
        bench.validated(known={"load": f"{bench.clock.now}", **known})
        bench.answer(1, m.Started())
        bench.close(status)

    attempt("success", governor="ondemand", kernel="6.1")  # T100
    attempt("timeout", governor="performance", kernel="6.1")  # T200: changed just before its first attempt
    attempt("timeout", governor="performance", kernel="6.1")
    attempt("success", governor="performance", kernel="6.2")  # T300
    changed = [f"            - p{n}: governor changed from ondemand to performance" for n in (1, 2)]
    assert "changed" not in why(bench, T100)
    lines = why(bench, T200).splitlines()
    (begun,) = [at for at, line in enumerate(lines) if line.endswith("attempt 1 begins")]
    assert lines[begun + 1 : begun + 3] == changed and sum("changed" in line for line in lines) == 2
    assert "p2: kernel changed from 6.1 to 6.2" in why(bench, T300) and "governor" not in why(bench, T300)
    first, second = bench.ask("why", test=T200).data["attempts"]
    assert first["machines_changed"] == [line[14:] for line in changed] and second["machines_changed"] == []
    assert "id" not in first

    text = bench.ask("status").text
    assert [line.strip() for line in text.splitlines() if "changed" in line] == []  # it is finished: a line for it
    data = bench.ask("status").data["experiments"][0]["changes"]
    assert len(data) == 4 and data[0].startswith("p2: kernel changed from 6.1 to 6.2, seen 2023-11-14 22:13 UTC")


def test_a_test_tried_again_later_tells_what_changed_since_its_attempt_before(bench: Bench) -> None:
    seen = (("timeout", "ondemand"), ("timeout", "ondemand"), ("success", "performance"), ("success", "performance"))
    for status, governor in seen:
        bench.validated(known={"governor": governor})
        bench.answer(1, m.Started())
        bench.close(status)
    assert bench.ask("retry", test=T100).ok
    bench.validated(known={"governor": "performance"})
    bench.answer(1, m.Started())
    assert "p1: governor changed from ondemand to performance" in why(bench, T100)
    assert "changed   p2: governor changed from ondemand to performance, seen" in bench.ask("status").text


def test_a_skipped_test_and_its_neighbour(bench: Bench) -> None:
    bench.running()
    bench.wait(1)
    assert bench.ask("skip", test=T300).ok
    text = flat(why(bench, T300))
    assert f"{T300} of PCG #1: skipped" in text and "attempt 1 ended: skipped by ann" in text
    assert "skip" not in why(bench, T100)


def test_what_a_script_gets(bench: Bench) -> None:
    bench.running()
    bench.close("timeout")
    data = bench.ask("why", test=T100).data
    assert json.loads(json.dumps(data)) == data
    assert (data["experiment"], data["test"], data["verdict"]) == ("PCG #1", T100, None)
    (attempt,) = data["attempts"]
    assert (attempt["number"], attempt["status"], attempt["evidence"]["boot_before"]) == (1, "timeout", BOOTS)
    assert [moment["event"] for moment in data["timeline"]] == ["validated", "started", "failed"]
    assert data["timeline"][2]["at"] == "2023-11-14T22:13:30Z"


def test_unknown_tests_are_refused(bench: Bench) -> None:
    assert bench.ask("why", test="nope").error == "no experiment has a test 'nope'"
    assert bench.ask("why").error == "the command needs test"


# ---------------------------------------------------------------- evidence

RICH: dict[str, Any] = {
    "records": [
        {"name": "pub_0", "machine": "p1", "exit": 0, "signal": None, "ended_by": "self", "started": 1.0, "ended": 5.0},
        {"name": "sub_0", "machine": "p2", "exit": None, "signal": 9, "ended_by": "deadline", "started": 1, "ended": 9},
    ],
    "boot_before": {"p1": "aaaaaaaa-1", "p2": "bbbbbbbb-1"},
    "boot_after": {"p1": "aaaaaaaa-1", "p2": "cccccccc-1"},
    "stagger_secs": 0.1,
    "found": "adopted",
    "problems": {"p2": "LAUNCHER_LOST"},
    "was_away": {"p1": "SSH_HANG"},
    "examined": {
        "p1": {"pinged": True, "ssh": "ok", "boot_id": "aaaaaaaa-1", "hears": {"p2": False}},
        "p2": {"pinged": False, "ssh": "SSH_SILENT", "boot_id": "", "hears": {}},
    },
    "errors": {"p2": {"code": "SSH_SILENT", "reason": "p2: says nothing", "pings": 3}},
    "watch": {
        "before": {"p1": {"users": [], "celsius": 40.0, "link_errors": 1, "throttled": 0}},
        "after": {"p1": {"users": ["ann pts/0"], "celsius": 71.5, "link_errors": 9, "throttled": 0x50005}},
    },
    "undisturbed": {"end_status": "success", "code": "", "reason": ""},
    "last_lines": {"sub_0": ["out: 1", "err: Waiting for data", "err: \x1b[31mred", "err: end"]},
    "weather": {"rain": True},
}


def test_rich_evidence_in_words() -> None:
    assert list(proof.details("rebooted", json.dumps(RICH))) == [
        "it was found running again after a restart of the daemon",
        "sub_0 on p2: signal 9, stopped at the deadline after 8.0 s",
        "1 participant ended by itself with exit 0",
        "p1: the same boot before and after, answers pings, SSH well, does not hear p2, "
        "could not be reached for a while as it ran (SSH_HANG), logged in: ann pts/0, "
        "throttled (bits 0x50005), 72 degrees Celsius, 8 new errors on its links",
        "p2: another boot: bbbbbbbb before, cccccccc after, p2: says nothing, answers no ping, "
        "SSH ill (SSH_SILENT), LAUNCHER_LOST",
        "sub_0 err: Waiting for data",
        "sub_0 err: \x1b[31mred",
        "sub_0 err: end",
        "undisturbed it would have been: success",
        'weather: {"rain": true}',
    ]


def test_many_participants_are_summed_up() -> None:
    records = [{"name": f"sub_{i}", "machine": "p2", "exit": 1, "ended_by": "self"} for i in range(50)]
    told = list(proof.details("crashed", json.dumps({"records": records})))
    assert told[0] == "sub_0 on p2: exit 1, by itself"
    assert told[-1] == "44 more participants that did not end well" and len(told) == 7


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
KEYS = (*RICH, "clock")
EVENT = st.sampled_from([*(event.row for event in EVENTS), "refunded", "accepted", "something new"])
STATE = st.sampled_from(["idle", "validating", "rebooting", "running", "backing-off", "halted", ""])
WALL = st.sampled_from([1.7e9, 1.7e9 + 5, 1.7e9 + 90_000, 0.0])
LINE = st.builds(story.Line, wall=WALL, event=EVENT, before=STATE, after=STATE, note=st.text(max_size=300))
TRY = st.builds(
    story.Try,
    number=st.integers(1, 9),
    started=WALL,
    ended=st.none() | WALL,
    status=st.sampled_from(["success", "timeout", "running", "skipped", "crashed-daemon", "new"]),
    blame=st.sampled_from(["", "test", "machine"]),
    machine=st.sampled_from(["", "p1"]),
    code=st.sampled_from(["", "X"]),
    reason=st.text(max_size=50),
    archive=st.text(max_size=20),
    evidence=st.text(max_size=10)
    | JSON.map(json.dumps)
    | st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)).map(json.dumps),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(LINE, max_size=12), st.lists(TRY, max_size=5), STATE, st.sampled_from(["", "success", "timeout"]))
def test_any_rows_become_a_screen(lines: list[story.Line], tries: list[story.Try], state: str, verdict: str) -> None:
    life = {"state": state, "outcome": "waiting", "test": T100, "number": 1, "cursor": 0, "charged": 0}
    told = story.Story("E #1", T100, 1.7e9, tuple(lines), tuple(tries), verdict, life, 2, 0)
    text = story.render(told)
    assert all(line == escaped(line) and len(line) <= 100 for line in text.split("\n"))
    json.dumps(story.to_data(told))


def test_every_event_has_its_words() -> None:
    assert {event.row for event in EVENTS} <= story.WORDS.keys()
