"""check, submit and trust."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autoperfd.ctl import submit, trust
from autoperfd.ctl.main import main
from autoperfd.daemon.control import Reply
from autoperfd.errors import AutoperfError
from tests.ctl.conftest import FILE, Daemon

Capture = pytest.CaptureFixture[str]


# check


@pytest.mark.usefixtures("lab")
def test_check_says_what_a_file_would_do(capsys: Capture) -> None:
    assert main(["check", "good.toml"]) == 0
    out = capsys.readouterr().out
    for line in (
        "good.toml: 1 experiment, no problems.",
        "  tests     8, PCG, listed, with perftest",
        "  time      4 min of measuring; 12 min if every test used up its buffer_secs",
        "  machines  p1 (pub): pi@192.0.2.55 port 22",
        "            p2 (sub): pi@192.0.2.56 port 2222",
        "  first     30SEC_100B_1PUB_1SUB_REL_UC_100LC",
        "  last      30SEC_100B_50PUB_3SUB_BE_UC_100LC",
        "  biggest   30SEC_100B_50PUB_3SUB_REL_UC_100LC",
        "            p1 runs 50 pub",
        "            p2 runs 3 sub",
        "    p1: pub_0",
        "    p2: sub_0",
    ):
        assert f"{line}\n" in out
    assert "LD_LIBRARY_PATH=/opt/rti/lib '~/perftest_cpp' -pub -domain 1 " in out
    assert "      /opt/perftest_cpp -sub -domain 1 " in out


def test_check_says_whether_the_results_fit(lab: Path, capsys: Capture) -> None:
    words = ["check", "good.toml", "--config", str(lab / "autoperfd.toml")]
    assert main(words) == 0
    assert "  data      about 1 MB of results (whether they fit cannot be seen from here)\n" in capsys.readouterr().out
    (lab / "state" / "results").mkdir()
    assert main(words) == 0
    assert re.search(rf"about 1 MB of results; [\d.]+ [GM]B are free in {lab}/state/results\n", capsys.readouterr().out)
    long = FILE.replace("[30]", "[4000000]").replace("[1, 3]", "[1000]").replace("[1, 50]", "[1]")
    (lab / "long.toml").write_text(long)
    assert main(["check", "long.toml", *words[2:]]) == 0
    assert "of results; " in (out := capsys.readouterr().out) and ": TOO LITTLE\n" in out


@pytest.mark.usefixtures("lab")
def test_check_counts_restarts(lab: Path, capsys: Capture) -> None:
    for policy, said in (("test", "12 min of measuring with 8 restarts"), ("never", None)):
        line = f'reboot = "{policy}"\n[experiments.qos_settings]'
        (lab / "r.toml").write_text(FILE.replace("[experiments.qos_settings]", line))
        assert main(["check", "r.toml"]) == 0
        out = capsys.readouterr().out
        assert (said in out) if said else ("restart" not in out)


@pytest.mark.usefixtures("lab")
def test_check_shows_the_command_lines_of_the_test_that_is_asked_for(capsys: Capture) -> None:
    assert main(["check", "good.toml", "--test", "30SEC_100B_1PUB_3SUB_BE_UC_100LC"]) == 0
    out = capsys.readouterr().out
    assert "  test      30SEC_100B_1PUB_3SUB_BE_UC_100LC\n" in out and "    p2: sub_0, sub_1, sub_2\n" in out
    assert main(["check", "good.toml", "--json", "--test", "30SEC_100B_1PUB_3SUB_BE_UC_100LC"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["shown_test"] == "30SEC_100B_1PUB_3SUB_BE_UC_100LC"
    assert main(["check", "good.toml", "--test", "30SEC_1B"]) == 1
    assert "no experiment of the file has a test '30SEC_1B'" in capsys.readouterr().err


def test_check_lets_the_daemon_look_at_the_machines(daemon: Daemon, capsys: Capture) -> None:
    facts = {
        "board": "Raspberry Pi 4",
        "kernel": "6.1",
        "clock_skew": "-0.0123",
        "nic.eth0.mbps": "1000",
        "nic.eth0.duplex": "full",
        "nic.eth0.mtu": "1500",
        "nic.wlan0.mtu": "1400",
    }
    seen: list[dict[str, object]] = [
        {"experiment": "PCG #1", "machine": "p1", "well": True, "facts": facts, "warnings": ["p1: somebody is there"]},
        {"experiment": "PCG #1", "machine": "p2", "well": None, "sentence": "B uses it now"},
    ]
    daemon.replies["probe"] = Reply(data={"machines": seen})
    assert main(["check", "good.toml", "--probe"]) == 0
    assert (
        "Machines as the daemon sees them now:\n"
        "ok  p1: Raspberry Pi 4; 6.1; eth0 1000 Mbit/s full duplex MTU 1500; wlan0 MTU 1400; clock -0.012 s off\n"
        "      p1: somebody is there\n"
        "?   p2: B uses it now\n"
    ) in capsys.readouterr().out
    assert daemon.asked[-1] == ("probe", {"text": FILE})
    ill = {"experiment": "PCG #1", "machine": "p2", "well": False, "sentence": "p2: is away", "hint": "Look at it"}
    daemon.replies["probe"] = Reply(data={"machines": [seen[0], ill]})
    assert main(["check", "good.toml", "--probe"]) == 1
    assert "!   p2: p2: is away\n      Look at it\n" in capsys.readouterr().out
    assert main(["check", "good.toml", "--probe", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["machines"][1] == ill


@pytest.mark.usefixtures("lab")
def test_check_without_a_daemon_cannot_probe(capsys: Capture) -> None:
    assert main(["check", "good.toml", "--probe"]) == 3
    assert "autoperfd is not running" in capsys.readouterr().err


@pytest.mark.usefixtures("lab")
def test_check_for_a_script(capsys: Capture) -> None:
    assert main(["check", "--json", "good.toml"]) == 0
    (experiment,) = json.loads(capsys.readouterr().out)
    assert experiment["tests"] == 8
    assert experiment["measuring_secs"] == 240
    assert experiment["command_lines"][0]["argv"][0] == "~/perftest_cpp"


def test_check_names_every_problem(lab: Path, capsys: Capture) -> None:
    bad = FILE.replace("[30]", '["x"]').replace("tool =", "tol =").replace('"192.0.2.55"', '""')
    (lab / "bad.toml").write_text(bad)
    assert main(["check", "bad.toml"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("autoperfctl: 3 problems:\n")
    assert "bad.toml:5:" in err
    assert "did you mean" in err


def test_check_of_a_space_without_end_takes_no_time(lab: Path, capsys: Capture) -> None:
    huge = FILE.replace('"pcg"', '"rcg"').replace("[1, 50]", "[1, 10000]").replace("[1, 3]", "[1, 10000]")
    (lab / "huge.toml").write_text(huge.replace("[30]", "[1, 10000]"))
    assert main(["check", "huge.toml"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^  tests     1\d{12}, RCG, ", out, re.MULTILINE)
    assert len(re.findall(r"^! .*: a publisher stops after .* of 1000 tests\)$", out, re.MULTILINE)) == 1
    assert "  such as   " in out


@pytest.mark.parametrize("kind", ["absent", "folder", "fifo", "big", "device"])
def test_check_refuses_what_is_no_file(kind: str, lab: Path, capsys: Capture) -> None:
    name = "x.toml"
    if kind == "folder":
        (lab / name).mkdir()
    elif kind == "fifo":
        os.mkfifo(lab / name)
    elif kind == "big":
        (lab / name).write_bytes(b"#" * (1024 * 1024 + 1))
    elif kind == "device":
        name = "/dev/zero"
    assert main(["check", name]) == 1
    assert capsys.readouterr().err.startswith("autoperfctl: autoperfctl cannot ")


# submit


@contextmanager
def taker(queue: Path, take: Callable[[Path], None]) -> Iterator[list[str]]:
    """Another thread that does something with each file that appears in the queue, as the daemon would."""
    over, taken = threading.Event(), []

    def look() -> None:
        while not over.wait(0.005):
            for file in queue.glob("[!.]*.toml"):
                taken.append(file.name)
                take(file)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


def submitting(lab: Path, *more: str) -> int:
    return main(["submit", "good.toml", "--config", str(lab / "autoperfd.toml"), *more])


def test_submit_says_what_was_accepted(lab: Path, daemon: Daemon, capsys: Capture) -> None:
    intake: list[dict[str, object]] = [{"file": "other.toml", "outcome": "rejected", "text": "no"}]

    def accept(file: Path) -> None:
        assert file.read_text() == FILE
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        file.unlink()
        intake.append({"file": file.name, "outcome": "accepted", "text": "PCG #1, 8 tests"})

    daemon.replies["list"] = lambda args: Reply(data={"intake": list(intake)})
    with taker(lab / "queue", accept) as taken:
        assert submitting(lab) == 0
    assert capsys.readouterr().out == "Accepted: PCG #1, 8 tests\n"
    assert len(taken) == 1
    assert taken[0].startswith("good-")
    assert sorted(path.name for path in (lab / "queue").iterdir()) == ["rejected"]


def test_submit_says_what_was_rejected_and_why(lab: Path, daemon: Daemon, capsys: Capture) -> None:
    def reject(file: Path) -> None:
        (lab / "queue" / "rejected" / f"{file.name}.error.txt").write_text("the same name with another space\n")
        file.unlink()

    daemon.replies["list"] = Reply(data={"intake": []})
    with taker(lab / "queue", reject):
        assert submitting(lab) == 1
    assert capsys.readouterr().err == "autoperfctl: good.toml was rejected:\n  the same name with another space\n"


def test_submit_without_a_daemon_leaves_the_file_and_says_so(lab: Path, capsys: Capture) -> None:
    assert submitting(lab) == 3
    (file,) = (lab / "queue").glob("*.toml")
    assert file.read_text() == FILE
    assert f"waits in the queue as {file.name}, but autoperfd is not running" in capsys.readouterr().err


def test_submit_that_gets_no_verdict_in_time(lab: Path, daemon: Daemon, capsys: Capture) -> None:
    daemon.replies["list"] = Reply(data={"intake": []})
    assert submitting(lab, "--wait", "0") == 1
    assert "still waits in the queue" in capsys.readouterr().err


def test_who_may_submit_but_not_ask_learns_what_the_folder_shows(
    lab: Path, daemon: Daemon, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "_UNTOLD_SECS", 0.1)
    daemon.replies["list"] = Reply.refused("you may not command this daemon")
    with taker(lab / "queue", Path.unlink):
        assert submitting(lab) == 0
    assert capsys.readouterr().out == "The daemon took good.toml (PCG #1) and has not rejected it.\n"


def test_a_bad_file_never_reaches_the_queue(lab: Path, capsys: Capture) -> None:
    (lab / "good.toml").write_text(FILE.replace("tool =", "tol ="))
    assert submitting(lab) == 1
    assert not list((lab / "queue").glob("*.toml"))
    assert "good.toml:5" in capsys.readouterr().err


def test_a_queue_that_cannot_be_written(lab: Path, capsys: Capture) -> None:
    (lab / "queue" / "rejected").rmdir()
    (lab / "queue").rmdir()
    assert submitting(lab) == 1
    assert "cannot put a file into" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ä b\n.toml", "-rf.toml", ".hidden.toml", "..", "x" * 300, "a.b.toml"])
def test_the_name_in_the_queue_is_harmless_and_unique(name: str, tmp_path: Path) -> None:
    first, second = submit.put(b"1", name, tmp_path), submit.put(b"2", name, tmp_path)
    assert first != second
    for kept in (first, second):
        assert kept[0].isalnum() or kept[0] == "_"
        assert all(c.isascii() and (c.isalnum() or c in "._-") for c in kept)
        assert len(kept) < 100
    assert sorted(os.listdir(tmp_path)) == sorted([first, second])


def test_a_drop_box_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECTORY:
            raise PermissionError(13, "Permission denied")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    assert (tmp_path / submit.put(b"1", "x.toml", tmp_path)).read_bytes() == b"1"


# trust


def key(kind: str, content: str) -> str:
    return f"{kind} {base64.b64encode(content.encode()).decode()}"


OLD, NEW, RSA = key("ssh-ed25519", "old"), key("ssh-ed25519", "new"), key("ssh-rsa", "rsa")


@pytest.fixture
def machines(daemon: Daemon) -> dict[str, dict[str, object]]:
    """What a scan finds, by host."""
    found: dict[str, dict[str, object]] = {
        "192.0.2.55": {"keys": [NEW, RSA], "trusted": [], "error": ""},
        "192.0.2.56": {"keys": [OLD], "trusted": [OLD], "error": ""},
    }

    def scan(args: Mapping[str, Any]) -> Reply:
        return Reply(data={"machines": [{**machine, **found[machine["host"]]} for machine in args["machines"]]})

    daemon.replies["scan"] = scan
    daemon.replies["addresses"] = Reply(data={"machines": [{"name": "p1", "host": "192.0.2.55", "port": 22}]})
    daemon.replies["pin"] = Reply(text="trusted now\n")
    return found


@pytest.mark.usefixtures("machines")
def test_trust_shows_and_pins_the_keys_of_a_file(daemon: Daemon, capsys: Capture) -> None:
    assert main(["trust", "good.toml", "--yes"]) == 0
    assert capsys.readouterr().out == (
        "p1 (192.0.2.55 port 22)\n"
        f"  ssh-ed25519 {trust.fingerprint(NEW)}  new\n"
        f"  ssh-rsa {trust.fingerprint(RSA)}  new\n"
        "p2 (192.0.2.56 port 2222)\n"
        f"  ssh-ed25519 {trust.fingerprint(OLD)}  trusted already\n"
        "trusted now\n"
    )
    assert daemon.asked == [
        (
            "scan",
            {
                "machines": [
                    {"name": "p1", "host": "192.0.2.55", "port": 22},
                    {"name": "p2", "host": "192.0.2.56", "port": 2222},
                ]
            },
        ),
        ("pin", {"pins": [{"host": "192.0.2.55", "port": 22, "keys": [NEW, RSA]}]}),
    ]


@pytest.mark.usefixtures("machines")
def test_trust_of_a_machine_the_daemon_knows(daemon: Daemon) -> None:
    assert main(["trust", "p1", "--yes"]) == 0
    assert daemon.asked[0] == ("addresses", {"machine": "p1"})
    assert daemon.asked[-1] == ("pin", {"pins": [{"host": "192.0.2.55", "port": 22, "keys": [NEW, RSA]}]})


def test_a_changed_key_is_called_changed(machines: dict[str, dict[str, object]], capsys: Capture) -> None:
    machines["192.0.2.55"] = {"keys": [NEW], "trusted": [OLD], "error": ""}
    assert main(["trust", "p1", "--yes"]) == 0
    out = capsys.readouterr().out
    assert f"{trust.fingerprint(NEW)}  CHANGED: another computer, or it was installed anew\n" in out
    assert f"{trust.fingerprint(OLD)}  trusted until now\n" in out


@pytest.mark.usefixtures("machines")
def test_without_a_terminal_and_without_yes_nothing_is_pinned(daemon: Daemon, capsys: Capture) -> None:
    assert main(["trust", "p1"]) == 1
    assert "repeat it with --yes" in capsys.readouterr().err
    assert "pin" not in [command for command, _ in daemon.asked]


@pytest.mark.usefixtures("machines")
@pytest.mark.parametrize(
    ("answer", "pinned"), [("y\n", True), ("yes\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_on_a_terminal_a_person_is_asked(
    answer: str, pinned: bool, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return answer

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["trust", "p1"]) == (0 if pinned else 1)
    assert ("pin" in [command for command, _ in daemon.asked]) is pinned


def test_machines_that_cannot_be_seen_do_not_stop_the_others(
    machines: dict[str, dict[str, object]], daemon: Daemon, capsys: Capture
) -> None:
    machines["192.0.2.56"] = {"keys": [], "trusted": [OLD], "error": "no answer within 10 s\x1b[2J"}
    assert main(["trust", "good.toml", "--yes"]) == 1
    captured = capsys.readouterr()
    assert "  cannot be looked at: no answer within 10 s\\x1b[2J\n" in captured.out
    assert "p2: no host key seen" in captured.err
    assert daemon.asked[-1][0] == "pin"


def test_when_all_is_trusted_there_is_nothing_to_do(
    machines: dict[str, dict[str, object]], daemon: Daemon, capsys: Capture
) -> None:
    machines["192.0.2.55"]["trusted"] = [RSA, NEW]
    assert main(["trust", "good.toml"]) == 0
    assert "trusted already.\n" in capsys.readouterr().out
    assert [command for command, _ in daemon.asked] == ["scan"]


@pytest.mark.parametrize("bad", ["", "ssh-ed25519", "ssh-ed25519 !!!"])
def test_what_is_no_key_has_no_fingerprint(bad: str) -> None:
    with pytest.raises(AutoperfError):
        trust.fingerprint(bad)


def test_the_fingerprint_is_the_one_of_openssh() -> None:
    known = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    assert trust.fingerprint(known) == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"
