"""The program that tells people that systemd starts the daemon no more: in every template, never with the address."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoperfd.lab.recorder import Recorder

PROGRAM = Path(__file__).parents[2] / "systemd" / "autoperfd-failed"


@pytest.fixture(autouse=True)
def nothing_is_left_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", True)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loaded, with settings of its own, and without pauses."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    module = loaded()
    module.SETTINGS = tmp_path / "autoperfd.toml"
    module.PAUSE_SECS = 0.0
    return module


def loaded() -> Any:
    """The program as a module."""
    loader = importlib.machinery.SourceFileLoader("autoperfd_failed", str(PROGRAM))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module: Any = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def receiver() -> Iterator[Recorder]:
    made = Recorder("127.0.0.1")
    yield made
    made.stop()


@pytest.mark.parametrize("template", ["", "generic", "slack", "teams", "ntfy"])
def test_people_are_told_in_their_template(template: str, program: Any, receiver: Recorder) -> None:
    chosen = f'template = "{template}"\n' if template else ""
    program.SETTINGS.write_text(f'[webhook]\nurl = "{receiver.url}/hook/s3cret"\nallow_http = true\n{chosen}')
    assert program.main() == 0
    (request,) = receiver.requests
    assert "systemd starts it no more" in request.body.decode()
    assert request.path == ("/hook/" if template == "ntfy" else "/hook/s3cret")
    key = {"slack": "mrkdwn", "teams": "attachments", "ntfy": "topic"}.get(template, "kind")
    assert key in request.json()


@pytest.mark.parametrize(
    "url",
    [
        "s3cret",
        "ftp://x/s3cret",
        "http://127.0.0.1:1/s3cret",
        "http://127.0.0.1:1/a s3cret",
        "http://me:s3cret@127.0.0.1:1/",
        "http://[s3cret/",
        "http://127.0.0.1:s3cret/",
        "https://127.0.0.1:1/s3cret",
        ["s3cret"],
    ],
)
@pytest.mark.parametrize("template", ["generic", "ntfy"])
def test_what_goes_wrong_is_told_without_the_address(
    url: object, template: str, program: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    program.SETTINGS.write_text(f'[webhook]\nurl = {json.dumps(url)}\nallow_http = true\ntemplate = "{template}"\n')
    assert program.main() == 1
    said = capsys.readouterr()
    assert said.err.startswith("autoperfd has failed") and said.out == ""
    assert "s3cret" not in said.err


def test_an_error_of_the_receiver(program: Any, receiver: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    receiver.status = 403
    program.SETTINGS.write_text(f'[webhook]\nurl = "{receiver.url}/s3cret"\nallow_http = true\n')
    assert program.main() == 1
    assert len(receiver.requests) == program.TRIES
    assert capsys.readouterr().err.endswith("nobody could be told: it answered HTTP 403\n")


def test_one_of_several_daemons_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (loaded().UNIT, str(loaded().SETTINGS)) == ("autoperfd", "/etc/autoperf/autoperfd.toml")
    monkeypatch.setenv("AUTOPERF_INSTANCE", "north")
    program = loaded()
    assert str(program.SETTINGS) == "/etc/autoperf@north/autoperfd.toml"
    body = json.loads(program.message("generic", "")[1])
    assert body["sentence"].startswith("autoperfd@north failed") and "journalctl -u autoperfd@north" in body["todo"]
