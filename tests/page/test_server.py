"""The server: where it listens, who gets in, that it ends, and that nobody can keep it from answering others."""

from __future__ import annotations

import http.client
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoperfd.daemon.control import Reply
from autoperfd.errors import AutoperfError
from autoperfd.page import server, site
from autoperfd.page.memory import Memory
from autoperfd.page.server import Server

LIST = {"now": 1.0, "experiments": [], "intake": []}


def made(listen: str) -> Server:
    found = Server(listen, site.make(lambda command, args: Reply(data=LIST), Path("/nowhere")))
    found.start()
    return found


@pytest.fixture
def local() -> Iterator[Server]:
    found = made("127.0.0.1:0")
    yield found
    found.close()


def ask(local: Server, address: str = "/api/v1/list", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", local.port(), timeout=10)
    connection.request("GET", address, headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_it_answers_at_a_port_and_ends(local: Server) -> None:
    answer = ask(local)
    assert answer.status == 200 and answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Server"] is None
    assert ask(local, Host="evil.example").status == 421
    local.close()
    with pytest.raises(OSError):
        ask(local)
    assert not [thread for thread in threading.enumerate() if thread.name == "page"]


def test_it_answers_at_a_unix_socket_for_us_and_our_group(tmp_path: Path) -> None:
    path = tmp_path / "page.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    local = made(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(path))
    client.sendall(b"GET /api/v1/list HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = b""
    while data := client.recv(65536):
        answer += data
    client.close()
    assert answer.startswith(b"HTTP/1.1 200 OK") and answer.endswith(b"}\n")
    local.close()
    assert not path.exists()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "page.sock"
    path.write_text("precious")
    with pytest.raises(AutoperfError, match=r"cannot listen at .*page.sock: something else than a socket lies there"):
        made(str(path))
    assert path.read_text() == "precious"


def test_a_port_that_is_taken_is_told(local: Server) -> None:
    with pytest.raises(AutoperfError, match=r"the page cannot listen at 127.0.0.1:.*: Address already in use"):
        made(f"127.0.0.1:{local.port()}")


def test_too_much_is_refused(local: Server) -> None:
    assert ask(local, "/" + "x" * server.MOST_HEADER).status == 431
    connection = http.client.HTTPConnection("127.0.0.1", local.port(), timeout=10)
    connection.request("POST", "/", body=b"x" * 1000)
    assert connection.getresponse().status in (405, 413)
    connection.close()


def test_silent_callers_keep_nobody_from_an_answer(local: Server) -> None:
    silent = [socket.create_connection(("127.0.0.1", local.port()), 10) for _ in range(server.THREADS * 4)]
    for one in silent:
        one.sendall(b"GET / HTTP/1.1\r\nHost: loc")
    assert ask(local).status == 200
    for one in silent:
        one.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is made to end so
def test_a_page_that_has_ended_by_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    local = made("127.0.0.1:0")
    assert local.trouble() == ""
    monkeypatch.setattr(Memory, "tidy", sys.exit)
    threads = [thread for thread in threading.enumerate() if thread.name == "page"]
    socket.create_connection(("127.0.0.1", local.port()), 10).close()  # which wakes it
    for thread in threads:
        thread.join(10)
    assert "has ended by an error of its own" in local.trouble()
    with pytest.raises(OSError):
        ask(local)
    local.close()
    assert local.trouble() == ""
