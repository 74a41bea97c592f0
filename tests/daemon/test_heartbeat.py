"""The dead man's switch: calls while the engine moves on, none while it does not, and no address in any text."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoperfd.daemon import heartbeat
from autoperfd.daemon.heartbeat import Heartbeat
from autoperfd.daemon.webhook import Target
from autoperfd.errors import AutoperfError
from autoperfd.lab.machines import until
from autoperfd.lab.recorder import Recorder
from tests.e2e.support import LiveDaemon

PATH = "/ping/s3cret?status=up&token=s3cret"


@pytest.fixture
def monitor() -> Iterator[Recorder]:
    """Who waits for heartbeats."""
    made = Recorder("127.0.0.1")
    yield made
    made.stop()


def target(url: str) -> Target:
    return Target(f"{url}{PATH}", allow_http=True, name="heartbeat")


@contextmanager
def calling(url: str, alive: Callable[[], bool] = lambda: True, **more: float) -> Iterator[Heartbeat]:
    made = Heartbeat(target(url), more.pop("every_secs", 0.05), alive, **more)
    made.start()
    try:
        yield made
    finally:
        made.close()


def test_it_is_called_again_and_again_without_a_body(monitor: Recorder) -> None:
    with calling(monitor.url) as calls:
        requests = monitor.wait(3)
        assert calls.trouble() == ""
    assert {(request.method, request.path, request.body) for request in requests} == {("GET", PATH, b"")}
    assert requests[0].headers["user-agent"].startswith("autoperfd/")
    assert not {"content-type", "idempotency-key", "x-autoperf-timestamp"} & set(requests[0].headers)


def test_no_call_while_the_engine_stands_still(monitor: Recorder) -> None:
    moves, asked = threading.Event(), threading.Semaphore(0)

    def alive() -> bool:
        asked.release()
        return moves.is_set()

    with calling(monitor.url, alive):
        for _ in range(5):
            assert asked.acquire(timeout=10)
        assert monitor.requests == []
        moves.set()
        monitor.wait(1)


def test_closed_means_that_its_thread_ends(monitor: Recorder) -> None:
    with calling(monitor.url):
        monitor.wait(1)
    until(lambda: not [t for t in threading.enumerate() if t.name == "heartbeat"], "the thread has not ended")


def test_a_failure_is_logged_once_and_told_until_it_is_over(
    monitor: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heartbeat, "AGAIN_SECS", 0.05)
    caplog.set_level(logging.DEBUG)
    monitor.status = 500
    with calling(monitor.url, every_secs=30) as calls:  # a failure is tried again sooner than that
        monitor.wait(3)
        until(calls.trouble, "it is not told")
        assert calls.trouble().startswith("Heartbeats do not arrive since 20")
        assert calls.trouble().endswith(" UTC: HTTP 500.")
        monitor.status = 200
        until(lambda: not calls.trouble(), "it is still told")
    told = [record.getMessage() for record in caplog.records if record.name == heartbeat.__name__]
    assert told == ["a heartbeat did not arrive: HTTP 500; said once until they do again", "heartbeats arrive again"]
    assert "s3cret" not in caplog.text


def test_nobody_there_and_a_redirect_are_told_without_the_address(monitor: Recorder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with calling(f"http://127.0.0.1:{port}") as calls:
        until(calls.trouble, "it is not told")
        assert calls.trouble().endswith(": 127.0.0.1: Connection refused.")
    monitor.status = 302
    with calling(monitor.url) as calls:
        until(calls.trouble, "it is not told")
        assert "a redirect is not followed" in calls.trouble() and "s3cret" not in calls.trouble()


def test_a_monitor_that_hangs_costs_the_deadline_and_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with calling(url, send_secs=0.2) as calls:
            until(calls.trouble, "it is not told")
            assert "no answer within" in calls.trouble()


@pytest.mark.parametrize("url", ["http://192.0.2.1/s3cret", "https://u:s3cret@x/", "https://169.254.169.254/s3cret"])
def test_the_rules_of_the_webhook_hold(url: str) -> None:
    with pytest.raises(AutoperfError, match="cannot use the heartbeat") as caught:
        Target(url, name="heartbeat").check()
    assert "s3cret" not in caught.value.sentence() and "[heartbeat]" in caught.value.hint


def test_a_real_daemon_calls_while_it_works_and_not_in_its_refuge(monitor: Recorder, tmp_path: Path) -> None:
    more = (
        "[results]\nmemory_probe_secs = 0.3\n"
        f'[heartbeat]\nurl = "{monitor.url}{PATH}"\nevery_secs = 1\nallow_http = true\n'
    )
    daemon = LiveDaemon(tmp_path, more=more)
    memory = tmp_path / "state" / "autoperf.db"
    try:
        daemon.start()
        monitor.wait(2)
        assert daemon.ask("status")["data"]["warnings"] == []
        assert daemon.stop() == 0
        good, heard = memory.read_bytes(), len(monitor.requests)
        memory.write_bytes(b"no memory")
        daemon.start()
        assert daemon.ask("status")["data"]["refuge"] is not None
        mended = time.monotonic()
        memory.write_bytes(good)
        after = monitor.wait(heard + 1)[heard:]
        assert daemon.ask("status")["data"]["refuge"] is None
        assert all(request.at > mended for request in after), "it was called from the refuge"
        assert daemon.stop() == 0
    finally:
        daemon.stop()
