"""The page in the daemon's process: there before the daemon says it is ready, gone after it, and never in its way."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from tests.daemon.support import toml
from tests.e2e.support import LiveDaemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[LiveDaemon]:
    made = LiveDaemon(tmp_path, more=f'[page]\nlisten = "{tmp_path}/page.sock"')
    yield made
    made.stop()


def get(path: Path, address: str) -> str:
    """The body of an answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(f"GET {address} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := client.recv(65536):
            answer += data
    return answer.partition(b"\r\n\r\n")[2].decode()


def test_the_daemon_serves_its_page(daemon: LiveDaemon, tmp_path: Path) -> None:
    daemon.start()
    assert "No experiment yet" in get(tmp_path / "page.sock", "/")
    told = json.loads(get(tmp_path / "page.sock", "/api/v1/status"))
    assert daemon.process is not None and told["pid"] == daemon.process.pid and told["attention"] == []
    assert daemon.stop() == 0 and not (tmp_path / "page.sock").exists()
    assert "Traceback" not in daemon.text() and "Warning" not in daemon.text()


def test_an_experiment_of_the_daemon(daemon: LiveDaemon, tmp_path: Path) -> None:
    """All that is shown of one, across the threads and processes that take part."""
    daemon.start()
    paramiko.ECDSAKey.generate().write_private_key_file(str(tmp_path / "id"))
    text = toml(machines=("127.0.0.1", "127.0.0.2")).replace("~/.ssh/id", str(tmp_path / "id"))
    (daemon.queue / "one.toml").write_text(text)
    daemon.until(lambda: daemon.experiment("PCG #1"), "the experiment is known", 30)
    page, one = tmp_path / "page.sock", "/experiment?name=PCG%20%231"
    daemon.until(lambda: "Every square is a test" in get(page, one), "the map is drawn", 90)
    assert "2 not begun" in get(page, one) or "1 not begun" in get(page, one)
    assert json.loads(get(page, "/api/v1/attempts?experiment=PCG%20%231"))["total"] == 0
    assert 'autoperf_tests{experiment="PCG #1",verdict="left"} 2.0' in get(page, "/metrics")
    (copy,) = (daemon.state / "page").glob("*.db")
    daemon.ask("copy")
    assert copy.exists() and "Every square is a test" in get(page, one)
    assert daemon.stop() == 0 and "Traceback" not in daemon.text() and "Warning" not in daemon.text()


def test_an_address_that_cannot_be_had_is_told_and_the_daemon_runs(daemon: LiveDaemon, tmp_path: Path) -> None:
    (tmp_path / "page.sock").write_text("somebody's")
    daemon.start()
    (sentence,) = daemon.ask("status")["data"]["attention"]
    assert "the page cannot listen at" in sentence and "Set [page] listen" in sentence


def test_what_is_not_installed_is_told_in_one_sentence(daemon: LiveDaemon, tmp_path: Path) -> None:
    (tmp_path / "flask.py").write_text("raise ModuleNotFoundError(\"No module named 'flask'\", name='flask')")
    argv = [sys.executable, "-m", "autoperfd.daemon.main", "--config", str(daemon.config)]
    done = subprocess.run(
        argv, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "needs flask, which is not installed. sudo make install EXTRAS=page, or pip install flask" in done.stderr


def test_a_daemon_without_a_page_imports_nothing_for_one() -> None:
    wanted = "{'flask', 'waitress', 'jinja2', 'autoperfd.page'}"
    code = f"import sys, autoperfd.daemon.main; print(*{wanted} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "\n"
