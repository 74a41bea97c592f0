"""Pressing power switches: what they say, how long they may take, how much they may say, and what never happens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from autoperfd.core.settings import PowerSwitch
from autoperfd.remote.power import Press, get_ready
from tests.bounds import SOON_SECS
from tests.remote.support import running, until


def press(switch: PowerSwitch, secs: float = 8.0) -> str:
    pressed = Press(switch, secs=secs)
    until(pressed.ended, secs + 4)
    return pressed.problem


def program(*words: str) -> PowerSwitch:
    return PowerSwitch("plug", command=words)


def python(text: str, *words: str) -> PowerSwitch:
    return program(sys.executable, "-c", text, *words)


def test_a_program_gets_its_words_unchanged_and_no_shell(tmp_path: Path) -> None:
    text = "import sys, os; print(sys.argv[2:], os.getcwd(), os.getpgrp() == os.getpid(), file=open(sys.argv[1], 'w'))"
    assert press(python(text, str(tmp_path / "seen"), "$(id)", "a b", "; x")) == ""
    assert (tmp_path / "seen").read_text() == "['$(id)', 'a b', '; x'] / True\n"


@pytest.mark.parametrize(
    ("switch", "said"),
    [
        (
            python("import sys; sys.exit('the relay\\x1b[2J is stuck')"),
            "it ended with exit status 1: the relay\\x1b[2J",
        ),
        (python("import os; os.kill(os.getpid(), 9)"), "it was ended by signal 9"),
        (program("/nowhere/plug"), "/nowhere/plug cannot be started: No such file or directory"),
        (program("/etc/passwd"), "/etc/passwd cannot be started: Permission denied"),
    ],
)
def test_what_a_program_says_is_told(switch: PowerSwitch, said: str) -> None:
    assert press(switch).startswith(said)


def test_a_flood_is_cut_and_what_is_left_running_is_left_alone(tmp_path: Path) -> None:
    flood = "import os, subprocess, sys; [os.write(1, b'x' * 65536) for _ in range(200)]; sys.exit(3)"
    problem = press(python(flood))
    assert problem.startswith("it ended with exit status 3: xxx") and len(problem) < 1000
    pid = tmp_path / "pid"
    background = f"child = subprocess.Popen(['sleep', '60']); open({str(pid)!r}, 'w').write(str(child.pid))"
    began = time.monotonic()
    assert press(python(f"import subprocess; {background}; print('on in 60 s')")) == ""
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert time.monotonic() - began < SOON_SECS  # the child that holds the pipe is not waited for


def test_a_program_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    text = 'sleep 60 & echo $! >"$1"; wait'
    problem = press(program("sh", "-c", text, "sh", str(tmp_path / "pid")), secs=5.0)
    assert problem == "it has not ended after 5 s"
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not running(pid))


Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def gateway() -> Iterator[Callable[[Answer], str]]:
    """Starts a gateway that answers each request by calling a function; its address."""
    servers = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_POST(self) -> None:
                answer(self)

            do_GET = do_PUT = do_POST

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/cm?cmnd=Power%20Cycle"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answers(status: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def test_a_call_has_its_method_body_and_expected_status(gateway: Callable[[Answer], str]) -> None:
    seen: list[tuple[str, str, bytes]] = []

    def note(request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        seen.append((request.command, request.path, body))
        request.send_response(204)
        request.end_headers()

    switch = PowerSwitch("plug", url=gateway(note), method="PUT", body='{"on": "ü"}', expect=204)
    get_ready([switch])
    assert press(switch) == ""
    assert seen == [("PUT", "/cm?cmnd=Power%20Cycle", '{"on": "ü"}'.encode())]


def test_another_status_is_a_failure_and_its_words_are_told(gateway: Callable[[Answer], str]) -> None:
    switch = PowerSwitch("plug", url=gateway(answers(401, b"who\x1b are you?" + b"x" * 100_000)))
    problem = press(switch)
    assert problem.startswith("it answered HTTP 401, expected 200: who\\x1b are you?xxx") and len(problem) < 700


def test_an_answer_that_repeats_the_call_is_told_without_it(gateway: Callable[[Answer], str]) -> None:
    said = b"cannot POST /cm?cmnd=Power%20Cycle (cmnd=Power%20Cycle) with key=s3cret"
    problem = press(PowerSwitch("plug", url=gateway(answers(404, said)), body="key=s3cret"))
    assert problem.endswith("HTTP 404, expected 200: cannot POST /(not shown) ((not shown)) with (not shown)")


def test_a_redirect_is_not_followed(gateway: Callable[[Answer], str]) -> None:
    followed: list[str] = []

    def note(request: BaseHTTPRequestHandler) -> None:
        followed.append(request.path)
        answers(200)(request)

    elsewhere = gateway(note)
    assert "HTTP 307" in press(PowerSwitch("plug", url=gateway(answers(307, Location=elsewhere)), body="x"))
    assert followed == []


def test_the_environment_has_no_say(gateway: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert press(PowerSwitch("plug", url=gateway(answers(200)))) == ""


def test_nobody_there_and_nonsense_are_told_without_the_address() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/?password=secret"
        problem = press(PowerSwitch("plug", url=url))
    assert problem.startswith("no proper answer: Connection refused") and "secret" not in problem
    with socket.create_server(("127.0.0.1", 0)) as server:

        def nonsense() -> None:
            near = server.accept()[0]
            near.recv(65536)
            near.sendall(b"\x00\xff nonsense\r\n\r\n")
            near.close()

        threading.Thread(target=nonsense, daemon=True).start()
        problem = press(PowerSwitch("plug", url=f"http://127.0.0.1:{server.getsockname()[1]}/?password=secret"))
    assert problem.startswith("no proper answer: ") and "secret" not in problem


def test_an_answer_that_drips_ends_at_the_deadline() -> None:
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            with server.accept()[0] as near, contextlib.suppress(OSError):
                near.recv(65536)
                near.sendall(b"HTTP/1.1 500 Sorry\r\nContent-Length: 1000\r\n\r\n")
                while not stop.wait(0.1):
                    near.sendall(b"x")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        began, before = time.monotonic(), len(os.listdir("/proc/self/fd"))
        problem = press(PowerSwitch("plug", url=f"http://127.0.0.1:{server.getsockname()[1]}/"), secs=1.0)
        assert time.monotonic() - began < SOON_SECS
        assert problem, "a switch that drips did not work"
        stop.set()
        thread.join(5)
        until(lambda: len(os.listdir("/proc/self/fd")) <= before)
