"""What people ask of the daemon: every command's words and refusals, and that no argument can end the daemon."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoperfd.core import messages as m
from autoperfd.daemon import archive, copies
from autoperfd.daemon.commands import COMMANDS
from autoperfd.daemon.control import Question, Reply
from tests.daemon.support import ANN, Rig, toml

T100 = "4SEC_100B_1PUB_1SUB_REL_UC_100LC"
T200 = "4SEC_200B_1PUB_1SUB_REL_UC_100LC"
T300 = "4SEC_300B_1PUB_1SUB_REL_UC_100LC"
OTHERS = ("10.0.0.3", "10.0.0.4")


def key(text: str) -> str:
    return "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519" + text.encode()).decode()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.stop()


def says(reply: Reply, text: str) -> None:
    assert (reply.ok, reply.exit, reply.text) == (True, 0, text + "\n")


def refuses(reply: Reply, error: str, hint: str = "", exit: int = 1) -> None:
    assert (reply.ok, reply.exit, reply.error, reply.hint) == (False, exit, error, hint)


# ---------------------------------------------------------------- looking


def test_status(rig: Rig) -> None:
    reply = rig.ask("status")
    assert reply.ok and reply.exit == 0 and "waiting for an experiment in the queue" in reply.text
    rig.submit(toml(), toml("B"))
    rig.running()
    reply = rig.ask("status")
    assert f"now {T100}, attempt 1 of 3" in " ".join(reply.text.split()) and reply.exit == 0
    first, second = reply.data["experiments"]
    assert (first["name"], first["state"], first["tests_done"], first["tests_total"]) == ("PCG #1", "running", 0, 2)
    assert second["sentence"] == "waits for PCG #1, which uses its machines or network"
    rig.fail()
    rig.answer(1, m.Impossible(machine="p1", reason="p1: sudo asks for a password"))
    reply = rig.ask("status")
    assert reply.exit == 1 and "p1: sudo asks for a password" in reply.text and "because of timeout" in reply.text
    assert "See to the machine; it goes on by itself when all answer" in " ".join(reply.text.split())
    assert json.loads(json.dumps(reply.data))["attention"]


def test_status_counts_a_test_once_however_often_it_is_tried(rig: Rig) -> None:
    rig.submit(toml(retries=0))
    for end in (rig.fail, rig.succeed):
        rig.running()
        end()
    rig.answer(1, m.Swept())
    rig.ask("retry", failed=True)
    (shown,) = rig.ask("status").data["experiments"]
    assert (shown["tests_done"], shown["tests_total"], shown["failed"]) == (1, 2, 0)
    rig.running()
    rig.succeed()
    (shown,) = rig.ask("status").data["experiments"]
    assert (shown["tests_done"], shown["tests_total"], shown["succeeded"], shown["failed"]) == (2, 2, 2, 0)


def test_list(rig: Rig) -> None:
    assert rig.ask("list").text == "No experiments yet. Put one into the queue: autoperfctl submit FILE\n"
    rig.submit(toml())
    rig.offer(toml(lengths=(1000,)), "again.toml")
    reply = rig.ask("list")
    assert reply.text.splitlines()[1].split()[:2] == ["PCG", "#1"]
    assert [(i["file"], i["outcome"]) for i in reply.data["intake"]] == [
        ("again.toml", "rejected"),
        ("0.toml", "accepted"),
    ]


def test_show(rig: Rig) -> None:
    rig.submit(toml(order="shuffled", seed=5, retries=0))
    rig.running()
    rig.fail()
    for name in ("PCG #1", "PCG_1"):
        reply = rig.ask("show", experiment=name)
        facts = dict(reply.data["facts"])
        assert facts["seed"] == "5" and facts["submitted by"] == "uid 1000" and facts["reboot"] == "never"
        (attempt,) = reply.data["attempts"]
        assert (attempt["end_status"], attempt["blame"], attempt["attempt"]) == ("timeout", "test", 1)
        assert str(rig.settings.state / "results" / "PCG_1") in reply.text and "because of timeout" in reply.text
    refuses(rig.ask("show", experiment="x"), "there is no experiment 'x'", "Known are: PCG #1")
    refuses(rig.ask("show"), "the command needs experiment")


# ---------------------------------------------------------------- stopping and going on


def test_halt_and_resume_one(rig: Rig) -> None:
    rig.submit(toml())
    rig.running()
    says(rig.ask("halt", experiment="PCG #1"), "PCG #1 is halted.")
    assert rig.life().reason == "halted by ann"
    says(rig.ask("halt", experiment="PCG_1"), "PCG #1 is halted already.")
    says(rig.ask("resume", experiment="PCG #1"), "PCG #1 goes on.")
    assert rig.states() == ["validating"]
    refuses(
        rig.ask("resume", experiment="PCG #1"),
        "PCG #1 is not halted, it is validating",
        "There is nothing to resume",
    )


@pytest.mark.parametrize("command", ["halt", "resume", "cancel", "show"])
def test_unknown_experiments_are_refused(rig: Rig, command: str) -> None:
    refuses(rig.ask(command, experiment="nope"), "there is no experiment 'nope'", "Known are: none")


def test_halt_everything_is_a_hold(rig: Rig) -> None:
    rig.submit(toml("A"), toml("B"), toml("C", machines=OTHERS, network="c"))
    rig.running(1)
    says(rig.ask("halt"), "Everything is held, new files included, until `autoperfctl resume`.")
    assert rig.states() == ["halted", "idle", "halted"] and rig.engine.hold == "held by ann"
    rig.submit(toml("A"), toml("B"), toml("C", machines=OTHERS, network="c"), toml("D", machines=OTHERS, network="d"))
    rig.answer(1, m.Swept())
    rig.answer(3, m.Swept())
    assert rig.states() == ["halted", "idle", "halted", "idle"]
    says(
        rig.ask("resume", experiment="A"),
        "A goes on. It waits, for everything is held: `autoperfctl resume` lifts that.",
    )
    assert rig.states() == ["idle", "idle", "halted", "idle"]
    assert "HELD: held by ann; nothing starts until `autoperfctl resume`" in rig.ask("status").text
    rig.restart()
    says(rig.ask("resume"), "Going on: C.")
    assert rig.engine.hold == "" and rig.states() == ["validating", "idle", "validating", "idle"]
    refuses(rig.ask("resume"), "nothing is halted or held", "There is nothing to resume")
    rig.ask("halt")
    rig.ask("resume", experiment="A")
    rig.ask("resume", experiment="C")
    says(rig.ask("resume"), "Going on: no experiment was halted.")


def test_a_second_hold_keeps_the_first_one_s_name(rig: Rig) -> None:
    rig.ask("halt")
    rig.ask("halt", who=ANN.__class__(1, 1, 1, "bob"))
    assert rig.engine.hold == "held by ann"


def test_what_is_over_is_not_halted(rig: Rig) -> None:
    rig.submit(toml(lengths=(100,)))
    rig.running()
    rig.succeed()
    refuses(rig.ask("halt", experiment="PCG #1"), "PCG #1 is finished", "There is nothing to halt")
    rig.ask("cancel", experiment="PCG #1")
    refuses(rig.ask("halt", experiment="PCG #1"), "PCG #1 is cancelled", "There is nothing to halt")


def test_cancel(rig: Rig) -> None:
    rig.submit(toml())
    rig.running()
    folder = rig.settings.state / "results" / "PCG_1"
    says(rig.ask("cancel", experiment="PCG #1"), f"PCG #1 is cancelled; its results stay in {folder}.")
    says(rig.ask("cancel", experiment="PCG #1"), "PCG #1 is cancelled already.")
    assert rig.states() == ["idle"] and rig.ess() == [f"{T100} 1 interrupted"]
    refuses(rig.ask("cancel"), "the command needs experiment")
    rig.submit(toml())
    assert rig.states() == ["validating"] and rig.life().remaining() == 2


# ---------------------------------------------------------------- single tests


def test_skip(rig: Rig) -> None:
    rig.submit(toml(lengths=(100, 200, 300), resuming_test_name=T200))
    rig.running()
    says(rig.ask("skip", test=T300.replace("PUB", "P").replace("SUB", "S")), f"{T300} of PCG #1 is skipped.")
    refuses(rig.ask("skip", test=T300), f"{T300} of PCG #1 is decided already: skipped")
    refuses(rig.ask("skip", test=T100), f"{T100} of PCG #1 lies before its first test", "It is not run anyway")
    refuses(
        rig.ask("skip", test="4SEC"), "no experiment has a test '4SEC'", "`autoperfctl show EXPERIMENT` lists names"
    )
    refuses(rig.ask("skip"), "the command needs test")
    says(rig.ask("skip", test=T200, experiment="PCG #1"), f"{T200} of PCG #1 is skipped.")
    assert rig.states() == ["validating"]
    rig.validated()
    assert rig.states() == ["idle"] and rig.life().outcome == "finished"
    assert rig.ess() == [f"{T300} 1 skipped", f"{T200} 1 skipped"]


def test_a_waiting_experiment_of_which_all_is_skipped_is_finished(rig: Rig) -> None:
    rig.submit(toml("A"), toml("B", lengths=(300,)), toml("C", lengths=(400,)))
    rig.ask("skip", test=T300)
    assert rig.states() == ["validating", "idle", "idle"] and rig.life(2).outcome == "finished"
    rig.ask("cancel", experiment="A")
    rig.answer(1, m.Swept())
    assert rig.states() == ["idle", "idle", "validating"]


def test_a_test_of_two_experiments_must_be_said_of_which(rig: Rig) -> None:
    rig.submit(toml("A"), toml("B"))
    for command in ("skip", "retry"):
        refuses(
            rig.ask(command, test=T200),
            f"{T200} is a test of several experiments: A, B",
            "Say which one: --experiment NAME",
        )
    says(rig.ask("skip", test=T200, experiment="B"), f"{T200} of B is skipped.")


def test_retry_of_one(rig: Rig) -> None:
    rig.submit(toml(retries=0))
    no_verdict = (f"{T100} of PCG #1 has no verdict yet", "It will be run anyway")
    refuses(rig.ask("retry", test=T100), *no_verdict)
    rig.running()
    refuses(rig.ask("retry", test=T100), *no_verdict)
    rig.fail()
    says(rig.ask("retry", test=T100), f"{T100} of PCG #1 will be tried again.")
    refuses(rig.ask("retry", test=T100), *no_verdict)
    rig.running()
    assert (rig.life().test, rig.life().number) == (T100, 2)
    refuses(rig.ask("retry", test=T100), *no_verdict)
    rig.succeed()
    rig.ask("skip", test=T200)
    says(rig.ask("retry", test=T200), f"{T200} of PCG #1 will be tried again.")
    rig.ask("cancel", experiment="PCG #1")
    refuses(rig.ask("retry", test=T200), "PCG #1 is cancelled", "Drop its file again to take it up")


def test_a_test_skipped_between_attempts_can_be_tried_again(rig: Rig) -> None:
    rig.submit(toml(retries=3))
    rig.running()
    rig.fail()
    rig.ask("skip", test=T100)
    rig.ask("retry", test=T100)
    rig.running()
    assert (rig.life().test, rig.life().number) == (T100, 3)
    assert rig.ess() == [f"{T100} 1 timeout", f"{T100} 2 skipped", f"{T100} 3 running"]


def test_retry_of_all_that_failed(rig: Rig) -> None:
    nothing = ("no test has failed", "There is nothing to try again")
    refuses(rig.ask("retry", failed=True), *nothing)
    rig.submit(toml("A", retries=0), toml("B", machines=OTHERS, network="b", retries=0))
    rig.running(1)
    rig.fail(1)
    says(rig.ask("retry", failed=True), "1 failed test will be tried again.")
    refuses(rig.ask("retry", failed=True), *nothing)
    for number in (1, 2):
        for _ in range(2):
            rig.running(number)
            rig.fail(number)
    assert [rig.life(n).outcome for n in (1, 2)] == ["finished", "finished"]
    says(rig.ask("retry", failed=True, experiment="A"), "2 failed tests will be tried again.")
    assert rig.states() == ["validating", "idle"]
    rig.ask("cancel", experiment="A")
    says(rig.ask("retry", failed=True), "2 failed tests will be tried again.")
    refuses(rig.ask("retry", failed=True, experiment="A"), *nothing)
    refuses(rig.ask("retry", failed=True, experiment="x"), "there is no experiment 'x'", "Known are: A, B")
    refuses(rig.ask("retry"), "the command needs test")


def test_a_success_is_tried_again_only_where_its_archive_is_damaged(rig: Rig) -> None:
    rig.submit(toml())
    rig.running()
    folder = rig.settings.state / "results" / "PCG_1" / "data" / T100
    staging = folder / "staging"
    staging.mkdir(parents=True)
    (staging / "pub_0.csv").write_bytes(b"x")
    names = {"pub_0.csv": hashlib.sha256(b"x").hexdigest()}
    path = folder / "attempt-1.tar.gz"
    sha256, size = archive.build(path, staging, names, {}, 0.0)
    result = m.AttemptResult(end_status="success", archive=f"data/{T100}/attempt-1.tar.gz", sha256=sha256, size=size)
    rig.answer(1, m.Succeeded(result=result))
    intact = (f"{T100} of PCG #1 succeeded and its archive is intact", "It needs no retry")
    refuses(rig.ask("retry", test=T100), *intact)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    says(rig.ask("retry", test=T100), f"{T100} of PCG #1 will be tried again.")
    rig.ask("skip", test=T100)
    path.unlink()
    says(rig.ask("retry", test=T100), f"{T100} of PCG #1 will be tried again.")


# ---------------------------------------------------------------- host keys


def test_addresses(rig: Rig) -> None:
    rig.submit(toml("A"), toml("B", machines=("10.0.0.9", "10.0.0.2")))
    assert rig.ask("addresses", machine="p1").data == {
        "machines": [{"name": "p1", "host": "10.0.0.1", "port": 22}, {"name": "p1", "host": "10.0.0.9", "port": 22}]
    }
    assert rig.ask("addresses", machine="10.0.0.2").data == {
        "machines": [{"name": "p2", "host": "10.0.0.2", "port": 22}]
    }
    refuses(
        rig.ask("addresses", machine="p9"),
        "no experiment names a machine 'p9'",
        "Trust the machines of a file: trust FILE",
    )


def test_pin(rig: Rig) -> None:
    pins = [
        {"host": "10.0.0.1", "port": 22, "keys": [key("a") + " root@p1", key("b")]},
        {"host": "10.0.0.2", "port": 2222, "keys": [key("c")]},
    ]
    reply = rig.ask("pin", pins=pins)
    lines = reply.text.splitlines()
    assert reply.ok and len(lines) == 3
    assert lines[0].startswith("10.0.0.1 port 22: ssh-ed25519 SHA256:") and lines[0].endswith(" is trusted.")
    assert lines[2].startswith("10.0.0.2 port 2222: ssh-ed25519 SHA256:")
    assert rig.pins.keys_for("10.0.0.1", 22) == [key("a"), key("b")]
    (row,) = rig.pins.rows_for("10.0.0.2", 2222)
    assert row.who == "ann" and row.pinned == rig.clock.wall()
    rig.ask("pin", pins=[{"host": "10.0.0.1", "port": 22, "keys": [key("d")]}])
    assert rig.pins.keys_for("10.0.0.1", 22) == [key("d")]
    rig.restart()
    assert rig.pins.keys_for("10.0.0.1", 22) == [key("d")] and rig.pins.keys_for("10.0.0.2", 2222) == [key("c")]


NEEDS = "the command needs pins, each with host and port"


@pytest.mark.parametrize(
    ("pins", "error"),
    [
        (None, "there is no key to trust"),
        ([], "there is no key to trust"),
        ([{"host": "h", "port": 22, "keys": []}], "there is no key to trust"),
        ([{"host": "h", "port": 22}], "there is no key to trust"),
        ([{"host": "h", "port": 22, "keys": 5}], "there is no key to trust"),
        ([{"host": "h", "port": "22", "keys": [key("a")]}], NEEDS),
        ([{"host": "h", "port": 0, "keys": [key("a")]}], NEEDS),
        ([{"host": "", "port": 22, "keys": [key("a")]}], NEEDS),
        ([{"port": 22}], NEEDS),
        (["x"], NEEDS),
        ([{"host": "h", "port": 22, "keys": [key("a"), "ssh-ed25519 !!"]}], "'ssh-ed25519 !!' is not a host key"),
        ([{"host": "h", "port": 22, "keys": [""]}], "'' is not a host key"),
        ([{"host": "h", "port": 22, "keys": [{"a": 1}]}], "\"{'a': 1}\" is not a host key"),
    ],
)
def test_what_cannot_be_pinned(rig: Rig, pins: Any, error: str) -> None:
    refuses(rig.ask("pin", pins=pins), error)
    assert rig.pins.keys_for("h", 22) == []


# ---------------------------------------------------------------- bad callers


def test_a_copy_of_the_memory_is_whole_and_the_only_one(rig: Rig) -> None:
    rig.submit(toml())
    rig.running()
    first = Path(rig.ask("copy").data["memory"])
    assert first.parent == rig.settings.state / "copies" and first.stat().st_mode & 0o777 == 0o640
    rig.fail()
    reply = rig.ask("copy")
    second = Path(reply.data["memory"])
    assert reply.data["results"] == str(rig.settings.state / "results")
    assert list(first.parent.iterdir()) == [second]
    with contextlib.closing(sqlite3.connect(second)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT status FROM attempts").fetchall() == [("timeout",)]
    copies.clear(rig.settings.state, 60)
    assert second.exists()
    os.utime(second, (second.stat().st_mtime + 3600,) * 2)  # the clock was set back since
    copies.clear(rig.settings.state, 60)
    assert not second.exists()


def test_a_copy_is_refused_where_it_does_not_fit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(rig.settings.state)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=rig.settings.disk_reserve_mb << 20))
    refused = rig.ask("copy")
    assert not refused.ok and refused.error.startswith("a copy of the memory needs ")
    assert list((rig.settings.state / "copies").iterdir()) == []


def test_spreadsheets_are_written_anew_when_they_are_asked_for(rig: Rig) -> None:
    rig.submit(toml())
    rig.running()
    rig.succeed()
    folder = rig.settings.state / "results" / "PCG_1"
    before = {name: (folder / name).read_bytes() for name in ("ess.csv", "summary.csv")}
    (folder / "ess.csv").unlink()
    (folder / "summary.csv").write_text("mine\n")
    said = rig.ask("rebuild", experiment="PCG #1")
    assert said.ok and "written anew from the memory" in said.text
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert [path.read_text() for path in folder.glob("summary.edited-*")] == ["mine\n"]
    assert "an edited copy was kept as summary.edited-" in rig.ask("status").text
    folder.rename(folder.with_name("elsewhere"))
    refuses(rig.ask("rebuild", experiment="PCG #1"), f"{folder} is gone", "Put it back, then `autoperfctl resume`")
    refuses(rig.ask("rebuild", experiment="other"), "there is no experiment 'other'", "Known are: PCG #1")


def test_an_unknown_command_is_a_usage_error(rig: Rig) -> None:
    known = "addresses, cancel, copy, halt, in_use, list, numbers, pin, rebuild, resume, retry, show, skip, status, why"
    refuses(rig.ask("dance"), "there is no command 'dance'", f"Known are: {known}", exit=2)


STRANGE: list[Any] = [None, True, 0, -1, 1e300, "", "x", "\0", "\ud800", "a" * 60_000, [], [[]], {}, {"a": 1}, [None]]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_argument_can_end_the_daemon(rig: Rig, command: str) -> None:
    rig.submit(toml())
    names = ("experiment", "test", "machine", "failed", "pins")
    for name, value in itertools.product(names, STRANGE):
        for more in ({}, {"test": T100}, {"experiment": "PCG #1"}):
            reply = rig.ask(command, **{**more, name: value})
            assert reply.ok or reply.error
            reply.line()
    pins = itertools.product(["h", *STRANGE], [22, *STRANGE], [[key("a")], *STRANGE])
    items = [{"host": host, "port": port, "keys": keys} for host, port, keys in pins]
    for item in items:
        reply = rig.ask(command, pins=[item], machines=[item])
        assert reply.ok or reply.error
    rig.restart()


def test_a_caller_that_gave_up_changes_nothing(rig: Rig) -> None:
    rig.submit(toml())
    question = Question("halt", {"experiment": "PCG #1"}, ANN)
    gone = question.wait(0)
    assert not gone.ok and "withdrawn" in gone.hint
    rig.engine.handle(question)
    assert rig.states() == ["validating"]
