"""What a silence means: a server that hangs, or a link that is gone. No machine is needed."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from autoperfd.remote.heartbeat import Heartbeat, unacknowledged
from tests.remote.support import until


class Transport:
    """A connection whose server answers when `answering`."""

    def __init__(self, sock: object) -> None:
        self.sock = sock
        self.answering = threading.Event()
        self.closed = threading.Event()

    def global_request(self, kind: str, wait: bool) -> None:
        assert wait and "@" in kind
        while not self.answering.is_set() and not self.closed.wait(0.01):
            pass

    def is_active(self) -> bool:
        return not self.closed.is_set()

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def pair() -> object:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        near = stack.enter_context(socket.create_connection(listener.getsockname()))
        yield near, stack.enter_context(listener.accept()[0])


def beat(transport: Transport, silence_secs: float = 0.02) -> Heartbeat:
    return Heartbeat(transport, silence_secs)  # type: ignore[arg-type]


def end(heartbeat: Heartbeat) -> str:
    """What it says in the end."""
    said = [""]

    def happened() -> str:
        said[0] = heartbeat.silent()
        return said[0]

    until(happened)
    return said[0]


def test_a_server_that_does_not_answer_is_mute(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].send(b"taken by the kernel, read by nobody")
    until(lambda: not unacknowledged(pair[0]))
    transport = Transport(pair[0])
    assert end(beat(transport)) == "mute" and transport.closed.is_set()


def test_a_machine_that_takes_nothing_is_lost(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            pair[0].send(bytes(65536))
    assert unacknowledged(pair[0])
    transport = Transport(pair[0])
    assert end(beat(transport)) == "lost" and transport.closed.is_set()


def test_a_closed_socket_is_lost(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    assert end(beat(Transport(pair[0]))) == "lost"


def test_a_server_that_answers_is_asked_again_and_again(pair: tuple[socket.socket, socket.socket]) -> None:
    transport = Transport(pair[0])
    transport.answering.set()
    heartbeat = beat(transport)
    for _ in range(3):
        assert heartbeat.silent() == ""
        question = heartbeat._question
        assert question and question.answered.wait(5)
    transport.answering.clear()
    assert end(heartbeat) == "mute"


def test_an_answer_that_is_read_late_counts(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the controller stood still: time is up before anybody could read."""
    monkeypatch.setattr("autoperfd.remote.heartbeat.READ_SECS", 10.0)
    transport = Transport(pair[0])
    heartbeat = beat(transport)
    heartbeat.silent()
    question = heartbeat._question
    assert question
    until(lambda: time.monotonic() - question.asked > heartbeat.every)
    reader = threading.Timer(0.05, transport.answering.set)
    reader.start()
    assert heartbeat.silent() == "" and not transport.closed.is_set()
    reader.join()


def test_called_too_soon_it_waits(pair: tuple[socket.socket, socket.socket]) -> None:
    transport = Transport(pair[0])
    heartbeat = beat(transport, 60)
    assert [heartbeat.silent() for _ in range(5)] == [""] * 5 and not transport.closed.is_set()
    transport.close()


def test_what_is_heard_ends_the_silence(pair: tuple[socket.socket, socket.socket]) -> None:
    transport = Transport(pair[0])
    heartbeat = beat(transport)
    heartbeat.silent()
    first = heartbeat._question
    heartbeat.heard()
    assert heartbeat.silent() == "" and heartbeat._question is not first
    transport.close()
