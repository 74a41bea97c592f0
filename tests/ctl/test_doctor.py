"""`autoperfctl doctor` finds what is ill with a controller, says what to do, and cries no wolf."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

import autoperfd
from autoperfd.ctl import doctor
from autoperfd.ctl import doctor_unit as unit
from autoperfd.ctl.main import main
from autoperfd.daemon.control import Reply
from tests.ctl.conftest import Daemon


@pytest.fixture(autouse=True)
def well(lab: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller with which all is well."""
    (lab / "ping").write_text("0\t2147483647\n")
    (lab / "mounts").write_text("/dev/sda1 / ext4 rw 0 0\n")
    (lab / "keys").mkdir()
    (lab / "keys" / "id_lab").touch(0o600)
    (lab / "keys" / "id_lab").write_bytes(openssh_key(b"none"))
    (lab / "synchronized").touch()
    systemd(lab, monkeypatch)
    monkeypatch.setattr(doctor, "PING_GROUPS", lab / "ping")
    monkeypatch.setattr(doctor, "MOUNTS", lab / "mounts")
    monkeypatch.setattr(doctor, "KEYS", lab / "keys")
    monkeypatch.setattr(doctor, "SYNCHRONIZED", (lab / "synchronized",))
    monkeypatch.setattr(doctor, "CONTAINER", lab / "container")
    settings = lab / "autoperfd.toml"
    settings.write_text(settings.read_text() + "[results]\ndisk_reserve_mb = 1\n")
    daemon.replies["status"] = status()


def systemd(lab: Path, monkeypatch: pytest.MonkeyPatch, **changed: str) -> None:
    """A systemctl that tells of the unit as it was shipped, but for what has changed."""
    known = {"LoadState": "loaded", "UnitFileState": "enabled", "DropInPaths": "", "Restart": "on-failure"}
    known |= {"WatchdogUSec": "30s", **unit.SANDBOX, **changed}
    program = lab / "bin" / "systemctl"
    program.parent.mkdir(exist_ok=True)
    lines = "\n".join(f"echo '{key}={value}'" for key, value in known.items())
    program.write_text(f"#!/bin/sh\n{lines}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


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


def test_daemons_of_one_computer_have_domains_of_their_own(
    lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CONFIG", lab / "etc" / "autoperf" / "autoperfd.toml")
    other = lab / "etc" / "autoperf@north" / "autoperfd.toml"
    other.parent.mkdir(parents=True)
    for domains, state in (
        ("first = 150", "state"),
        ("first = 201\nlast = 220", "state"),
        ("first = 150", "never started"),
    ):
        other.write_text(f'[paths]\nstate = "{lab}/{state}"\n[domains]\n{domains}\n')
        code, out = run(lab, capsys)
        overlaps = domains == "first = 150" and state == "state"
        assert ("!   domains: autoperfd@north may use DDS domains 150 to 200, as this one may" in out) == overlaps, out
        assert code == overlaps


def test_a_container_has_no_clock_of_its_own(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lab / "container").touch()
    (lab / "synchronized").unlink()
    code, out = run(lab, capsys)
    assert code == 0 and "?   clock: this is a container, whose host keeps the clock" in out


def test_all_is_well(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(lab, capsys)
    assert code == 0
    lines = out.splitlines()
    assert [line[:4] for line in lines[:9]] == ["ok  "] * 9 and lines[9:] == ["", "Nothing is wrong."]
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
    (lab / "keys" / "id_mine").touch(0o600)
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


def test_a_key_that_others_may_read(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lab / "keys" / "id_lab").chmod(0o640)
    (lab / "keys" / "id_lab.pub").touch(0o644)
    told = ill(lab, capsys, "SSH keys")
    assert "may read id_lab in" in told and "chmod 600" in told


def test_nothing_keeps_the_clock_right(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lab / "synchronized").unlink()
    assert "systemd-timesyncd" in ill(lab, capsys, "clock")


@pytest.mark.parametrize(
    ("changed", "subject", "told"),
    [
        ({"UnitFileState": "disabled"}, "unit", "sudo systemctl enable autoperfd"),
        ({"ProtectSystem": "no", "DropInPaths": "/etc/x.conf"}, "sandbox", "ProtectSystem=no | Look at /etc/x.conf"),
        ({"WatchdogUSec": "0"}, "unit", "is not started again"),
        ({"Restart": "no"}, "unit", "is not started again"),
    ],
)
def test_a_unit_that_is_not_as_shipped(
    changed: dict[str, str],
    subject: str,
    told: str,
    lab: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    systemd(lab, monkeypatch, **changed)
    assert told in ill(lab, capsys, subject)


def test_a_unit_that_is_not_there_is_no_problem_of_a_demo(
    lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd(lab, monkeypatch, LoadState="not-found")
    code, out = run(lab, capsys)
    assert code == 0 and "?   unit: autoperfd.service is not installed" in out
    (lab / "bin" / "systemctl").write_text("#!/bin/sh\nexit 1\n")
    assert "?   unit: systemd cannot be asked" in run(lab, capsys)[1]


def test_the_sandbox_is_the_shipped_units() -> None:
    shipped = (Path(__file__).parents[2] / "systemd" / "autoperfd.service").read_text()
    for name, value in unit.SANDBOX.items():
        assert f"\n{name}={value}\n" in shipped, name


def test_files_nobody_takes_in(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, age in (("old.toml", 7200), ("older.toml", 9000), ("new.toml", 5)):
        (lab / "queue" / name).touch()
        os.utime(lab / "queue" / name, (time.time() - age,) * 2)
    assert "old.toml lies in the queue for 2 h (and 1 more)" in ill(lab, capsys, "queue")
    for path in (lab / "queue").glob("*.toml"):
        path.unlink()
    (lab / "queue" / "rejected" / "bad.toml").touch()
    code, out = run(lab, capsys)
    assert code == 0 and "?   queue: 1 file in" in out and "were refused, the latest bad.toml" in out
    (lab / "queue" / "rejected" / "worse.toml").touch()
    os.utime(lab / "queue" / "rejected" / "worse.toml", (time.time() - 60,) * 2)
    assert "2 files in" in (out := run(lab, capsys)[1]) and "were refused, the latest bad.toml" in out


@pytest.mark.parametrize(
    ("data", "fit", "said"),
    [
        ({"result": "sent", "why": ""}, True, "a test message was sent"),
        ({"result": "none", "why": ""}, None, "there is no webhook"),
        ({"result": "dead", "why": "hooks.example: HTTP 404"}, False, "hooks.example: HTTP 404"),
    ],
)
def test_a_test_message(
    data: dict[str, Any], fit: bool | None, said: str, lab: Path, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.replies["test_message"] = Reply(data=data)
    assert "messages" not in run(lab, capsys)[1]
    code, out = run(lab, capsys, "--send", "--json")
    (found,) = [found for found in json.loads(out) if found["subject"] == "messages"]
    assert found["well"] is fit and said in found["sentence"] and code == (fit is False)


FIT = {"clock_skew": "0.01", "clock_sync": "chrony, stratum 3", "board": "Raspberry Pi 4", "reboot_watchdog": "2min"}


@pytest.mark.parametrize(
    ("seen", "fit", "said"),
    [
        ({"well": True, "facts": FIT}, True, "answers pings and SSH"),
        ({"well": True, "facts": {**FIT, "clock_skew": "-3.2"}}, False, "its clock is -3.2 s off"),
        ({"well": True, "facts": {**FIT, "reboot_watchdog": ""}}, None, "a restart that hangs ends only after 10 min"),
        ({"well": True, "facts": {**FIT, "reboot_watchdog": "1h"}}, None, "ends only after 1h"),
        ({"well": True, "facts": {"clock_skew": "0.1"}}, None, "nothing is known to keep its clock right"),
        ({"well": True, "facts": FIT, "hears": {"p2": False}}, False, "it gets no answer to pings from p2"),
        ({"well": True, "facts": FIT, "hears": {"p2": True, "p3": None}}, True, "the tool starts there"),
        ({"well": False, "sentence": "p1 may not reboot", "hint": "Add to sudoers"}, False, "p1 may not reboot"),
        ({"well": None, "sentence": "B uses it now"}, None, "B uses it now"),
    ],
)
def test_machines_of_a_file(
    seen: dict[str, Any], fit: bool | None, said: str, lab: Path, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.replies["probe"] = Reply(data={"machines": [{"experiment": "PCG #1", "machine": "p1", **seen}]})
    code, out = run(lab, capsys, "good.toml", "--json")
    found = [found for found in json.loads(out) if found["subject"] == "p1"]
    ill_ones = [each for each in json.loads(out) if each["well"] is False]
    assert found[0]["well"] is fit and said in found[0]["sentence"]
    assert ill_ones == (found[:1] if fit is False else []) and code == (fit is False)
    assert daemon.asked[-1][1]["hear"] is True


ALLOW = "sudo ufw allow proto udp from 10.0.0.{} to any port 7400:65535"


@pytest.mark.parametrize(
    ("udp", "told"),
    [
        ({"unicast": {"p2": True, "p3": True}, "group": {"p2": True, "p3": True}}, "ok p1: UDP from p2, p3 arrives at"),
        ({"unicast": {"p2": False, "p3": False}, "group": {"p2": False}}, "! p1: UDP from p2, p3 does not arrive at"),
        ({"unicast": {"p2": False, "p3": True}}, "! p1: UDP from p2 does not arrive at its port 7660"),
        ({"unicast": {"p2": None, "p3": True}}, "ok p1: UDP from p3 arrives at its port 7660"),
        ({"unicast": {"p2": None}}, "? p1: whether UDP from p2 arrives there cannot be told"),
        ({"why": "it has no python3"}, "? p1: whether UDP arrives there cannot be told: it has no python3"),
    ],
)
def test_udp_between_the_machines_of_a_file(
    udp: dict[str, Any], told: str, lab: Path, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = heard(udp, lab, daemon, capsys)
    assert found[0]["well"] is True and len(found) == 2, found
    assert said(found[1]).startswith(told) and code == (found[1]["well"] is False)
    if code:
        assert found[1]["hint"].count(ALLOW.format(2)) == 1
        assert (ALLOW.format(3) in found[1]["hint"]) == (udp["unicast"]["p3"] is False)


@pytest.mark.parametrize("used", [True, False])
def test_multicast_alone_that_does_not_arrive(
    used: bool, lab: Path, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    udp = {"unicast": {"p2": True, "p3": True}, "group": {"p2": False, "p3": None}, "multicast": used}
    code, (_, unicast, group) = heard(udp, lab, daemon, capsys)
    assert unicast["well"] is True and code == used
    assert said(group) == ("! " if used else "? ") + "p1: multicast from p2 does not arrive, though other UDP does"
    assert "IGMP snooping needs a querier" in group["hint"]


def heard(
    udp: dict[str, Any], lab: Path, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and what is found of p1, where that is seen of its UDP."""
    others = [
        {"experiment": "PCG #1", "machine": f"p{at}", "well": None, "sentence": "", "udp": {"address": f"10.0.0.{at}"}}
        for at in (2, 3)
    ]
    one = {"experiment": "PCG #1", "machine": "p1", "well": True, "facts": FIT, "udp": {"port": 7660, **udp}}
    daemon.replies["probe"] = Reply(data={"machines": [one, *others]})
    code, out = run(lab, capsys, "good.toml", "--json")
    return code, [found for found in json.loads(out) if found["subject"] == "p1"]


def said(found: dict[str, Any]) -> str:
    mark = {True: "ok", False: "!", None: "?"}[found["well"]]
    return f"{mark} {found['subject']}: {found['sentence']}"


def test_a_file_that_is_none(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "absent.toml", "--config", str(lab / "autoperfd.toml")]) == 1
    assert "cannot read absent.toml" in capsys.readouterr().err
