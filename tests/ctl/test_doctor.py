"""`autoperfctl doctor` finds what is ill with a controller, says what to do, and cries no wolf."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

import autoperfd
from autoperfd.ctl import doctor
from autoperfd.ctl.main import main
from autoperfd.daemon.control import Reply
from tests.ctl.conftest import Daemon


@pytest.fixture(autouse=True)
def well(lab: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller with which all is well."""
    (lab / "ping").write_text("0\t2147483647\n")
    (lab / "mounts").write_text("/dev/sda1 / ext4 rw 0 0\n")
    (lab / "keys").mkdir()
    (lab / "keys" / "id_lab").write_bytes(openssh_key(b"none"))
    monkeypatch.setattr(doctor, "PING_GROUPS", lab / "ping")
    monkeypatch.setattr(doctor, "MOUNTS", lab / "mounts")
    monkeypatch.setattr(doctor, "KEYS", lab / "keys")
    settings = lab / "autoperfd.toml"
    settings.write_text(settings.read_text() + "[results]\ndisk_reserve_mb = 1\n")
    daemon.replies["status"] = status()


def status(version: str = autoperfd.__version__, *attention: str) -> Reply:
    return Reply(text="x", data={"version": version, "pid": 7, "attention": list(attention)})


def openssh_key(cipher: bytes) -> bytes:
    blob = b"openssh-key-v1\0" + len(cipher).to_bytes(4, "big") + cipher + b"\0" * 90
    lines = base64.encodebytes(blob)
    return b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + lines + b"-----END OPENSSH PRIVATE KEY-----\n"


def run(lab: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["--config", str(lab / "autoperfd.toml"), "doctor", *words])
    out, err = capsys.readouterr()
    assert err == ""
    return code, out


def test_all_is_well(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(lab, capsys)
    assert code == 0
    lines = out.splitlines()
    assert [line[:4] for line in lines[:6]] == ["ok  "] * 6 and lines[6:] == ["", "Nothing is wrong."]
    assert f"ok  daemon: version {autoperfd.__version__} answers (pid 7)" in lines
    code, out = run(lab, capsys, "--json")
    assert code == 0 and all(found["well"] for found in json.loads(out))


def ill(lab: Path, capsys: pytest.CaptureFixture[str], subject: str) -> str:
    """The one thing that is ill."""
    code, out = run(lab, capsys, "--json")
    (found,) = [found for found in json.loads(out) if found["well"] is False]
    assert (code, found["subject"]) == (1, subject)
    return f"{found['sentence']} | {found['hint']}"


def test_nobody_may_ping(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lab / "ping").write_text("1\t0\n")
    assert "sysctl -w 'net.ipv4.ping_group_range=0 2147483647'" in ill(lab, capsys, "ping")


def test_another_version_runs(lab: Path, daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.replies["status"] = status("0.0.9")
    assert "systemctl restart" in ill(lab, capsys, "daemon")


def test_it_asks_for_a_person(lab: Path, daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.replies["status"] = status(autoperfd.__version__, "PCG #1 is halted")
    assert ill(lab, capsys, "attention") == "PCG #1 is halted | "


def test_a_state_folder_that_forgets(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lab / "mounts").write_text(f"/dev/sda1 / ext4 rw 0 0\ntmpfs {lab.resolve()} tmpfs rw 0 0\n")
    assert "is on tmpfs" in ill(lab, capsys, "state folder")


def test_a_disk_that_is_nearly_full(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = lab / "autoperfd.toml"
    settings.write_text(settings.read_text().replace("reserve_mb = 1\n", "reserve_mb = 1000000000\n"))
    assert "MB left, too few for results" in ill(lab, capsys, "state folder")


def test_places_that_are_not_there(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lab / "queue" / "rejected").rmdir()
    (lab / "queue").rmdir()
    assert "there is no folder" in ill(lab, capsys, "queue")
    (lab / "queue").mkdir()
    (lab / "state").rmdir()
    assert "No such file" in ill(lab, capsys, "state folder")


@pytest.mark.parametrize(
    "key", [openssh_key(b"aes256-ctr"), b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nx"]
)
def test_a_key_with_a_passphrase(key: bytes, lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lab / "keys" / "id_mine").write_bytes(key)
    assert "id_mine" in ill(lab, capsys, "SSH keys")


def test_settings_that_are_wrong(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--config", str(lab / "autoperfd.toml"), "doctor"])
    assert code == 0
    capsys.readouterr()
    findings = doctor.examine(str(lab / "good.toml"), lambda command, args: {"data": {}})
    assert findings[0].well is False and findings[0].subject == "settings"


def test_no_daemon(lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPERF_RUNTIME_DIR", str(lab / "other"))
    code, out = run(lab, capsys)
    assert code == 3 and "!   daemon: autoperfd is not running" in out and "1 problem." in out
