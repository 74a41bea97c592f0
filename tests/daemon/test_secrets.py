"""Addresses of people are secrets: nothing that a real daemon writes holds them, whatever goes wrong with them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from autoperfd.lab.recorder import Recorder
from tests.daemon.support import toml
from tests.e2e.support import LiveDaemon

TOKENS = ("hookT0ken", "hmacT0ken", "beatT0ken")


@pytest.fixture
def receiver() -> Iterator[Recorder]:
    """Refuses messages and heartbeats."""
    made = Recorder("127.0.0.1", status=500)
    yield made
    made.stop()


def settings(receiver: Recorder, template: str, everything: str = '"halt", "resume", "finish", "rejection"') -> str:
    return f"""
[webhook]
url = "{receiver.url}/services/hookT0ken"
template = "{template}"
on = [{everything}]
digest_at = "00:00"
allow_http = true
[heartbeat]
url = "{receiver.url}/ping/beatT0ken?token=beatT0ken"
every_secs = 1
allow_http = true
"""


def written(root: Path, config: Path) -> dict[str, bytes]:
    """All that lies below a folder, but for the settings."""
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file() and path != config}


@pytest.mark.parametrize("template", ["teams", "ntfy"])  # the latter is sent elsewhere than the address says
def test_nothing_a_daemon_writes_holds_an_address(template: str, receiver: Recorder, tmp_path: Path) -> None:
    credentials = tmp_path.parent / f"{tmp_path.name}-credentials"
    credentials.mkdir()
    (credentials / "webhook_secret").write_text("hmacT0ken")
    key = Ed25519PrivateKey.generate()
    (credentials / "id").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    daemon = LiveDaemon(tmp_path, more=settings(receiver, template))
    try:
        daemon.start(CREDENTIALS_DIRECTORY=str(credentials))
        daemon.drop("bad.toml", "nonsense")
        daemon.drop("a.toml", toml("A", machines=("127.0.0.2", "127.0.0.3")))
        daemon.until(lambda: daemon.experiment("A"), "A is there")
        assert daemon.ask("halt", experiment="A")["ok"]

        def failing() -> bool:
            status = daemon.ask("status")["data"]
            beats = any("Heartbeats do not arrive" in warning for warning in status["warnings"])
            return beats and any("not delivered" in sentence for sentence in status["attention"])

        daemon.until(failing, "both failures are told")
        posts = [request for request in receiver.requests if request.method == "POST"]
        gets = [request for request in receiver.requests if request.method == "GET"]
        assert posts and gets and "beatT0ken" in gets[0].path
        assert all("hookT0ken" in request.path for request in posts) == (template != "ntfy")
        said = [daemon.ctl(*words.split()) for words in ("status", "status --json", "show A", "list", "results A")]
        said.append(daemon.ctl("doctor", "--send"))
        assert "a test message was not delivered: HTTP 500" in said[-1].stdout
        receiver.stop()  # from now on nobody is there
        assert daemon.ask("resume", experiment="A")["ok"] and daemon.ask("halt", experiment="A")["ok"]
        daemon.until(lambda: "Connection refused" in daemon.ctl("status").stdout, "that is told, too")
        assert daemon.stop() == 0
    finally:
        daemon.stop()
    shown = {str(done.args): (done.stdout + done.stderr).encode() for done in said}
    found = {**written(tmp_path, daemon.config), **shown}
    assert {"log", "autoperf.db", "ess.csv"} <= {Path(name).name for name in found}
    holding = [(name, token) for name, data in found.items() for token in TOKENS if token.encode() in data]
    assert holding == []
    assert daemon.log.read_text().count("a heartbeat did not arrive") == 1


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("webhook", 'url = "http://hooks.example/hookT0ken"'),
        ("webhook", 'url = "https://hooks.example/hookT0ken'),
        ("heartbeat", 'url = "https://me:hookT0ken@hooks.example/"'),
    ],
)
def test_a_daemon_that_does_not_start_for_it_does_not_say_it(table: str, line: str, tmp_path: Path) -> None:
    config = tmp_path / "autoperfd.toml"
    config.write_text(f"[{table}]\n{line}\n")
    argv = [sys.executable, "-m", "autoperfd.daemon.main", "--config", str(config)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr and f"{config}:2" in done.stderr
    assert "hookT0ken" not in done.stdout + done.stderr


@pytest.mark.parametrize("address", ["hookT0ken", "https://me:hookT0ken@x/"])
def test_a_credential_that_cannot_be_used_is_told_without_it(address: str, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name in ("webhook_url", "heartbeat_url"):
        (credentials / name).write_text(address)
    daemon = LiveDaemon(tmp_path / "lab")
    try:
        daemon.start(CREDENTIALS_DIRECTORY=str(credentials))
        told = daemon.ask("status")["data"]["attention"]
        assert daemon.stop() == 0
    finally:
        daemon.stop()
    assert [sentence.split(":")[0] for sentence in told] == [
        "autoperfd cannot use the webhook",
        "autoperfd cannot use the heartbeat",
    ]
    assert not [name for name, data in written(tmp_path / "lab", daemon.config).items() if b"hookT0ken" in data]
