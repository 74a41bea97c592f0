"""The control socket, over real sockets, with callers of every bad kind."""

from __future__ import annotations

import errno
import grp
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import autoperfd
from autoperfd.daemon import control
from autoperfd.daemon.control import MAX_LINE, Control, Question, Reply, Who, asker, parse_request
from autoperfd.errors import AutoperfError, Refused
from autoperfd.remote.threads import begin
from tests.bounds import SOON_SECS
from tests.faults import Fired

DEADLINE = 10.0
STATUS = b'{"v":1,"command":"status","args":{}}\n'


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something another thread does."""
    end = time.monotonic() + DEADLINE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        pause.wait(0.005)


class Engine:
    """Answers on the caller's thread; remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, Any], Who]] = []
        self.reply = Reply(text="fine\n", data={"n": 1})

    def __call__(self, command: str, args: Mapping[str, Any], who: Who) -> Reply:
        self.asked.append((command, args, who))
        return self.reply


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def served(path: Path, engine: Engine) -> Iterator[Control]:
    server = Control(path, engine, idle_secs=0.5, look_secs=0.05, max_clients=8)
    server.start()
    yield server
    server.close()
    until(lambda: not callers(), "the callers' threads end")


def callers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "control-caller"]


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(DEADLINE)
    end = time.monotonic() + DEADLINE
    while True:
        try:
            sock.connect(str(path))
        except BlockingIOError:  # the backlog is full for a moment
            assert time.monotonic() < end
        else:
            return sock


def answer(sock: socket.socket) -> dict[str, Any]:
    """The one line that comes back; {} when the daemon hung up."""
    data = b""
    while not data.endswith(b"\n"):
        try:
            part = sock.recv(65536)
        except ConnectionResetError:
            part = b""
        if not part:
            return {}
        data += part
    reply = json.loads(data)
    assert isinstance(reply, dict)
    return reply


def ask(path: Path, line: bytes = STATUS) -> dict[str, Any]:
    with connect(path) as sock:
        sock.sendall(line)
        return answer(sock)


@pytest.mark.usefixtures("served")
def test_a_command_is_answered_and_its_giver_known(path: Path, engine: Engine) -> None:
    assert ask(path, b'{"v":1,"command":"halt","args":{"experiment":"PCG #1"}}\n') == {
        "v": 1,
        "ok": True,
        "exit": 0,
        "text": "fine\n",
        "data": {"n": 1},
    }
    ((command, args, who),) = engine.asked
    assert (command, args) == ("halt", {"experiment": "PCG #1"})
    assert (who.uid, who.gid, who.pid) == (os.getuid(), os.getgid(), os.getpid())


@pytest.mark.usefixtures("served")
def test_the_socket_is_for_the_owner_and_the_group(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.usefixtures("served")
def test_a_refusal_of_the_engine_reaches_the_caller(path: Path, engine: Engine) -> None:
    engine.reply = Reply.refused("there is no experiment 'x'", "Look at `autoperfctl list`")
    reply = ask(path)
    assert reply == {
        "v": 1,
        "ok": False,
        "exit": 1,
        "error": "there is no experiment 'x'",
        "hint": "Look at `autoperfctl list`",
    }


def test_an_error_the_engine_raises_is_a_refusal_too(path: Path) -> None:
    def refuses(command: str, args: Mapping[str, Any], who: Who) -> Reply:
        raise Refused("not now", hint="Wait")

    server = Control(path, refuses, look_secs=0.05)
    server.start()
    try:
        assert ask(path)["error"] == "not now"
    finally:
        server.close()


# requests


@pytest.mark.fault("L5")
@pytest.mark.parametrize("version", [b"2", b"0", b'"1"', b"1.0", b"true", b"null", b"[1]"])
def test_another_version_is_refused_with_both_versions(version: bytes, fired: Fired) -> None:
    reply = parse_request(b'{"v":' + version + b',"command":"status"}')
    assert isinstance(reply, Reply)
    assert f"autoperfd {autoperfd.__version__} speaks version 1" in reply.error
    assert reply.hint
    fired("L5", reply.error)


@pytest.mark.fault("L1")
@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"status",
        b"[]",
        b"3",
        b"\xff\xfe",
        b"[" * MAX_LINE,
        b'{"a":' * 10_000,
        b"9" * 5000,
        b'{"v":1}',
        b'{"v":1,"command":3}',
        b'{"v":1,"command":"status","args":[]}',
        b'{"v":1,"command":"status"',
    ],
)
def test_what_is_not_a_command_is_refused(line: bytes, fired: Fired) -> None:
    reply = parse_request(line)
    assert isinstance(reply, Reply)
    assert not reply.ok
    assert reply.error
    fired("L1", reply.error)


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_command_or_a_refusal(line: bytes) -> None:
    reply = parse_request(line)
    assert isinstance(reply, (Reply, tuple))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["v", "command", "args", "more"]), json_values | st.just(1)))
def test_any_object_gives_a_command_or_a_refusal(request_: dict[str, Any]) -> None:
    reply = parse_request(json.dumps(request_).encode())
    if isinstance(reply, tuple):
        assert isinstance(reply[0], str)
        assert isinstance(reply[1], dict)
    else:
        assert not reply.ok


# bad callers


@pytest.mark.fault("L1")
@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("line", [b"x" * (MAX_LINE + 1), b"x" * 10_000_000])
def test_a_line_without_end_is_cut_off(path: Path, engine: Engine, line: bytes, fired: Fired) -> None:
    with connect(path) as sock:
        try:
            sock.sendall(line)
        except (BrokenPipeError, ConnectionResetError):
            pass
        reply = answer(sock)
    assert reply.get("error", "at most").startswith(("a command is at most", "at most"))
    assert not engine.asked
    fired("L1", f"{len(line)} bytes without a line break")


@pytest.mark.fault("L1")
@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("part", [b"", b'{"v":1,"comm'])
def test_a_silent_caller_is_told_and_let_go(path: Path, engine: Engine, part: bytes, fired: Fired) -> None:
    with connect(path) as sock:
        sock.sendall(part)
        assert answer(sock)["error"] == "no whole line came within 0.5 s"
    assert not engine.asked
    fired("L1", f"{part!r} and nothing more")


@pytest.mark.fault("L1")
@pytest.mark.usefixtures("served")
def test_a_dripping_caller_has_the_same_time(path: Path, fired: Fired) -> None:
    began = time.monotonic()
    with connect(path) as sock:
        sock.settimeout(0.05)
        while time.monotonic() - began < DEADLINE:
            try:
                sock.sendall(b" ")
                if sock.recv(4096):
                    break
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
    assert 0.4 < time.monotonic() - began < DEADLINE
    fired("L1", f"let go after {time.monotonic() - began:.1f} s")


@pytest.mark.fault("L1")
@pytest.mark.usefixtures("served")
def test_a_caller_that_does_not_take_its_answer_is_let_go(path: Path, engine: Engine, fired: Fired) -> None:
    engine.reply = Reply(text="x" * 10_000_000)
    with connect(path) as sock:
        sock.sendall(STATUS)
        until(lambda: engine.asked, "the caller is served")
        until(lambda: not callers(), "the caller is given up")
        assert answer(sock) == {}
    fired("L1", "10 MB of answer not taken")


@pytest.mark.fault("L2")
@pytest.mark.usefixtures("served")
def test_a_caller_that_goes_at_once_harms_nobody(path: Path, engine: Engine, fired: Fired) -> None:
    for _ in range(20):
        with connect(path) as sock:
            sock.sendall(STATUS)
    assert ask(path)["ok"]
    until(lambda: len(engine.asked) == 21, "a whole command counts even when its giver left")
    fired("L2", "20 callers left before their answer")


@pytest.mark.fault("L1")
def test_a_thousand_silent_callers_keep_nobody_waiting(served: Control, path: Path, fired: Fired) -> None:
    served._idle_secs = 60.0  # nobody leaves for being silent, only to make room
    silent = [connect(path) for _ in range(1000)]
    began = time.monotonic()
    assert ask(path)["ok"]
    assert time.monotonic() - began < SOON_SECS
    until(lambda: len(callers()) <= 8, "all but those who have a place are let go")
    for sock in silent:
        sock.close()
    fired("L1", f"{len(silent)} silent connections")


def test_when_all_places_work_the_next_is_told_so(path: Path) -> None:
    go = threading.Event()

    def slow(command: str, args: Mapping[str, Any], who: Who) -> Reply:
        go.wait(DEADLINE)
        return Reply()

    server = Control(path, slow, max_clients=2, look_secs=0.05)
    server.start()
    try:
        busy = [connect(path) for _ in range(2)]
        for sock in busy:
            sock.sendall(STATUS)
        until(lambda: not any(server._clients.values()) and len(server._clients) == 2, "both are being worked for")
        with connect(path) as late:
            assert answer(late)["error"] == "the daemon has too many callers"
        go.set()
        assert all(answer(sock)["ok"] for sock in busy)
        for sock in busy:
            sock.close()
        until(lambda: not callers(), "the places are free")
        assert ask(path)["ok"]
    finally:
        go.set()
        server.close()


# who may


def test_who_may_command(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Control(path, Engine(), group=grp.getgrgid(os.getgid()).gr_name)
    monkeypatch.setattr(os, "geteuid", lambda: 990)
    assert server._may(0, frozenset())
    assert server._may(990, frozenset())
    assert server._may(1000, frozenset({5, os.getgid()}))
    assert not server._may(1000, frozenset({5}))
    nobody = Control(path, Engine(), group="no-such-group-here")
    assert not nobody._may(1000, frozenset({0}))
    server.close()


AS_ANOTHER = """
import os, socket, sys
os.setgroups([int(g) for g in sys.argv[2].split(",") if g]); os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1])
try:
    s.sendall(b'{"v":1,"command":"status","args":{}}\\n')
except BrokenPipeError:
    pass
print(s.makefile().readline())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_the_groups_of_the_caller_decide(path: Path, engine: Engine) -> None:
    group = next(g for g in grp.getgrall() if g.gr_gid not in (0, 65534))
    server = Control(path, engine, group=group.gr_name, look_secs=0.05)
    server.start()
    try:
        assert path.stat().st_gid == group.gr_gid
        path.chmod(0o666)  # what the check inside is for
        folder = path.parent
        while folder != Path("/tmp") and folder != folder.parent:
            folder.chmod(0o755)
            folder = folder.parent

        def call(groups: str) -> dict[str, Any]:
            command = [sys.executable, "-c", AS_ANOTHER, str(path), groups]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
            return dict(json.loads(done.stdout))

        assert call(str(group.gr_gid))["ok"]
        assert engine.asked[-1][2].uid == 65534
        refused = call("")
        assert not refused["ok"]
        assert "may not command" in refused["error"]
        assert len(engine.asked) == 1
    finally:
        server.close()


def test_without_the_kernels_list_of_groups_the_group_file_is_asked(
    path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_SO_PEERGROUPS", 9999)
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        who, groups = control._peer(left)
    assert who.uid == os.getuid()
    assert os.getgid() in groups


# the file


@pytest.mark.fault("L3")
def test_a_socket_left_by_a_dead_daemon_is_replaced(path: Path, engine: Engine, fired: Fired) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = Control(path, engine, look_secs=0.05)
    server.start()
    try:
        assert ask(path)["ok"]
    finally:
        server.close()
    assert not path.exists()
    fired("L3", "somebody else's socket lay there")


@pytest.mark.fault("L3")
@pytest.mark.usefixtures("served")
def test_a_deleted_socket_is_made_again(path: Path, fired: Fired) -> None:
    path.unlink()
    until(path.exists, "the socket is there again")
    assert ask(path)["ok"]
    fired("L3", "it was unlinked")


@pytest.mark.fault("L3")
def test_a_folder_that_is_away_for_a_while(tmp_path: Path, engine: Engine, fired: Fired) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    server = Control(folder / "control.sock", engine, look_secs=0.02)
    server.start()
    try:
        folder.rename(tmp_path / "gone")
        folder.mkdir()
        until((folder / "control.sock").exists, "the socket is there again")
        assert ask(folder / "control.sock")["ok"]
    finally:
        server.close()
    fired("L3", "its folder was renamed")


def test_what_another_daemon_put_there_is_not_removed(path: Path, engine: Engine) -> None:
    server = Control(path, engine, look_secs=30)
    server.start()
    server._stopping.set()
    with connect(path):  # wakes the accepting thread, so it ends before it could take the path back
        server._thread.join(DEADLINE)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        server.close()
        assert path.exists()


def test_closing_drops_callers_and_ends_at_once(path: Path, engine: Engine) -> None:
    server = Control(path, engine, look_secs=30)
    server.start()
    with connect(path) as sock:
        until(callers, "the caller is served")
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < SOON_SECS
        assert answer(sock) == {}
    until(lambda: not callers(), "the caller's thread ends")
    assert not path.exists()


def test_a_path_the_kernel_cannot_take_is_said_before_anything_starts(tmp_path: Path, engine: Engine) -> None:
    with pytest.raises(AutoperfError, match="longer than 106 bytes") as caught:
        Control(tmp_path / ("x" * 107), engine)
    assert "runtime" in caught.value.hint


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, engine: Engine) -> None:
    with pytest.raises(AutoperfError, match="cannot listen"):
        Control(tmp_path / "no" / "control.sock", engine).start()


# questions


WHO = Who(0, 0, 1, "root")


def test_the_engine_thread_answers_through_a_question() -> None:
    box: list[Question] = []
    there = threading.Event()

    def engine_thread() -> None:
        there.wait(DEADLINE)
        assert box[0].take()
        box[0].answer(Reply(text="done"))

    thread = threading.Thread(target=engine_thread)
    thread.start()

    def post(question: Question) -> None:
        box.append(question)
        there.set()

    assert asker(post)("halt", {}, WHO).text == "done"
    thread.join()


def test_a_question_nobody_took_in_time_is_withdrawn() -> None:
    question = Question("halt", {}, WHO)
    reply = question.wait(0.01)
    assert not reply.ok
    assert "will not be carried out" in reply.hint
    assert not question.take()


def test_a_question_that_was_begun_may_still_finish() -> None:
    question = Question("halt", {}, WHO)
    assert question.take()
    reply = question.wait(0.01)
    assert "may still finish" in reply.hint


def test_the_first_answer_counts() -> None:
    question = Question("halt", {}, WHO)
    question.answer(Reply(text="one"))
    question.answer(Reply(text="two"))
    assert question.wait(1).text == "one"


def test_the_groups_option_is_the_kernels() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        try:
            packed = left.getsockopt(socket.SOL_SOCKET, control._SO_PEERGROUPS, 1024)
        except OSError as error:
            assert error.errno in (errno.ENOPROTOOPT, errno.ERANGE)
            pytest.skip("the kernel does not know SO_PEERGROUPS")
    assert {group for (group,) in struct.iter_unpack("I", packed)} == set(os.getgroups())


def test_it_says_that_it_is_stuck_when_a_caller_s_thread_never_begins(
    served: Control, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def stuck(work: Callable[[], object], name: str) -> None:
        go_on.wait(20)
        begin(work, name)

    assert served.stuck() == ""
    monkeypatch.setattr(control, "STUCK_SECS", 0.5)
    with monkeypatch.context() as patched:
        patched.setattr(control, "begin", stuck)
        with connect(path):
            until(lambda: "the control socket has not moved" in served.stuck(), "it says so")
    go_on.set()
    until(lambda: served.stuck() == "", "it moves again")
