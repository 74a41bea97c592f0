"""autoperfctl as a person meets it: every command, over a real socket, with its exit status."""

from __future__ import annotations

import io
import json
import os
import pty
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from autoperfd.ctl import client, commands, down
from autoperfd.ctl.main import main
from autoperfd.daemon.control import Reply
from autoperfd.daemon.views import ExperimentView, StatusView, snapshot
from tests.ctl.conftest import Daemon

Capture = pytest.CaptureFixture[str]
PROGRAM = [sys.executable, "-c", "import sys; from autoperfd.ctl.main import main; sys.exit(main())"]


# the daemon's text


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["status"], ("status", {})),
        (["list"], ("list", {})),
        (["show", "PCG #1"], ("show", {"experiment": "PCG #1"})),
        (["halt"], ("halt", {})),
        (["halt", "PCG #1"], ("halt", {"experiment": "PCG #1"})),
        (["resume"], ("resume", {})),
        (["resume", "e"], ("resume", {"experiment": "e"})),
        (["cancel", "e"], ("cancel", {"experiment": "e"})),
        (["skip", "t"], ("skip", {"test": "t"})),
        (["skip", "t", "--experiment", "e"], ("skip", {"test": "t", "experiment": "e"})),
        (["retry", "t"], ("retry", {"test": "t"})),
        (["retry", "--failed"], ("retry", {"failed": True})),
        (["retry", "--failed", "--experiment", "e"], ("retry", {"failed": True, "experiment": "e"})),
    ],
)
def test_a_command_reaches_the_daemon_and_its_text_is_printed(
    words: list[str], asked: tuple[str, dict[str, object]], daemon: Daemon, capsys: Capture
) -> None:
    assert main(words) == 0
    assert daemon.asked == [asked]
    assert capsys.readouterr() == (f"{words[0]} done\n", "")


@pytest.mark.parametrize("words", [["status"], ["status", "--runtime", "run"], ["--runtime", "run", "status"]])
def test_the_exit_status_is_the_daemons(words: list[str], daemon: Daemon) -> None:
    daemon.replies["status"] = Reply(text="x\n", exit=1)
    assert main(words) == 1


@pytest.mark.parametrize("words", [["status", "--json"], ["list", "--json"], ["show", "--json", "e"]])
def test_json_is_the_data(words: list[str], daemon: Daemon, capsys: Capture) -> None:
    daemon.replies[words[0]] = Reply(text="no", data={"name": "Ä\x1b"})
    assert main(words) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == {"name": "Ä\x1b"}
    assert out.isascii()
    assert "\x1b" not in out


@pytest.mark.parametrize("words", [["halt", "x"], ["status"]])
def test_a_refusal_goes_to_standard_error(words: list[str], daemon: Daemon, capsys: Capture) -> None:
    daemon.replies[words[0]] = Reply.refused("there is no experiment 'x\x1b'", "Look at `autoperfctl list`")
    assert main(words) == 1
    assert capsys.readouterr() == (
        "",
        "autoperfctl: there is no experiment 'x\\x1b'\n  Look at `autoperfctl list`\n",
    )


def test_nothing_raw_reaches_the_terminal(daemon: Daemon, capsys: Capture) -> None:
    daemon.replies["list"] = Reply(text="a\x1b]52;c;eA==\x07\nb\u202ec\rd\n")
    main(["list"])
    assert capsys.readouterr().out == "a\\x1b]52;c;eA==\\x07\nb\\u202ec\\x0dd\n"


def test_the_socket_is_found_through_the_settings(
    lab: Path, daemon: Daemon, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUTOPERF_RUNTIME_DIR")
    assert main(["--config", str(lab / "autoperfd.toml"), "status"]) == 0
    assert main(["status", "--config", str(lab / "autoperfd.toml")]) == 0
    assert capsys.readouterr().out == "status done\n" * 2


def test_one_of_several_daemons_is_meant(
    lab: Path, daemon: Daemon, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUTOPERF_RUNTIME_DIR")
    assert main(["status", "--instance", "nobody-has-this"]) == 3
    assert "systemctl start autoperfd@nobody-has-this`" in capsys.readouterr().err
    monkeypatch.setenv("AUTOPERF_INSTANCE", "nobody-has-this")
    assert main(["status"]) == 3  # not of the first daemon, which the short way would ask
    assert "/run/autoperf@nobody-has-this/control.sock" in capsys.readouterr().err
    assert main(["status", "--instance", "x", "--config", str(lab / "autoperfd.toml")]) == 0
    monkeypatch.setenv("AUTOPERF_INSTANCE", "../etc")
    assert main(["list"]) == 1
    assert "'../etc' is not the name of an instance" in capsys.readouterr().err


def test_settings_that_are_wrong_are_said(lab: Path, capsys: Capture) -> None:
    (lab / "bad.toml").write_text("[paths]\nstatee = 3\n")
    assert main(["list", "--config", "bad.toml"]) == 1
    assert "bad.toml:2" in capsys.readouterr().err
    assert main(["list", "--config", "none.toml"]) == 1
    assert "no such file" in capsys.readouterr().err


# no daemon


@pytest.mark.parametrize("words", [["list"], ["halt"], ["show", "e"], ["trust", "p1"]])
@pytest.mark.usefixtures("lab")
def test_without_a_daemon_the_exit_status_is_3(words: list[str], capsys: Capture) -> None:
    assert main(words) == 3
    err = capsys.readouterr().err
    assert "autoperfd is not running" in err
    assert "systemctl start autoperfd" in err


def test_a_socket_nobody_listens_at_is_no_daemon(lab: Path, capsys: Capture) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(lab / "run" / "control.sock"))
    assert main(["list"]) == 3


STATUS = StatusView(1_795_000_000.0, "0.1.0", 7, 1.0, experiments=(ExperimentView("PCG #1", "running", tests_done=3),))


def test_status_without_a_daemon_tells_what_is_remembered(lab: Path, capsys: Capture) -> None:
    (lab / "state" / "status.json").write_bytes(snapshot(STATUS))
    assert main(["status", "--config", str(lab / "autoperfd.toml")]) == 3
    out = capsys.readouterr().out
    assert out.startswith("autoperfd is not running; it was last heard of ")
    assert "systemctl start autoperfd" in out
    assert "PCG #1: running, 3 tests" in out
    assert main(["status", "--json", "--config", str(lab / "autoperfd.toml")]) == 3
    data = json.loads(capsys.readouterr().out)
    assert data["running"] is False
    assert data["status"]["experiments"][0]["name"] == "PCG #1"


@pytest.mark.parametrize("content", [None, b"", b"{", b"[" * 100_000])
def test_status_without_a_daemon_and_without_a_memory(content: bytes | None, lab: Path, capsys: Capture) -> None:
    if content is not None:
        (lab / "state" / "status.json").write_bytes(content)
    assert down.read_when_down(lab / "state") is None
    assert main(["status", "--config", str(lab / "autoperfd.toml")]) == 3
    assert "no readable" in capsys.readouterr().err
    assert main(["status", "--json", "--config", str(lab / "autoperfd.toml")]) == 3
    assert json.loads(capsys.readouterr().out)["status"] is None


# a daemon of another kind


def answering(path: Path, answer: bytes) -> tuple[socket.socket, threading.Thread]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        for _ in range(2):  # `status` asks twice: quickly, then with the settings
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return listener, thread


@pytest.mark.parametrize("words", [["status"], ["list"]])
@pytest.mark.parametrize("answer", [b"", b"hello\n", b'{"v":2,"ok":true}\n', b"[]\n", b'{"v":1,"ok":tr'])
def test_an_answer_that_makes_no_sense_is_said(words: list[str], answer: bytes, lab: Path, capsys: Capture) -> None:
    listener, _thread = answering(lab / "run" / "control.sock", answer)
    try:
        assert main(words) == 1
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    assert "cannot speak to the daemon" in capsys.readouterr().err


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (PermissionError(13, "Permission denied"), 1, "member of group autoperf"),
        (TimeoutError("timed out"), 1, "does not answer in time"),
        (ConnectionRefusedError(111, "Connection refused"), 3, "systemctl start autoperfd"),
    ],
)
@pytest.mark.parametrize("words", [["list"], ["status"]])
def test_why_the_daemon_was_not_reached_is_said(
    words: list[str], error: OSError, status: int, told: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> dict[str, object]:
        raise error

    monkeypatch.setattr("autoperfd.ctl.client.ask", ask)
    assert main(words) == status
    assert told in capsys.readouterr().err


def test_watch_outlives_a_restart_of_the_daemon(
    daemon: Daemon, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fates = client.ask, iter(["there", "restarting", "there"])

    def ask(runtime: str, command: str, args: dict[str, object] | None = None) -> dict[str, object]:
        fate = next(fates, None)
        if fate is None:
            raise KeyboardInterrupt
        if fate == "restarting":
            raise ConnectionResetError("the daemon ended the connection without an answer")
        return real(runtime, command, args)

    monkeypatch.setattr("autoperfd.ctl.client.ask", ask)
    monkeypatch.setattr("time.sleep", lambda secs: None)
    assert main(["status", "--watch"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("status done") == 2
    assert "cannot speak to the daemon" in captured.err


# help and usage


@pytest.mark.parametrize("row", commands.COMMANDS, ids=lambda row: row.name)
def test_every_command_has_help_with_an_example(row: commands.Command, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main([row.name, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "example:\n" in out
    for example in row.example:
        assert f"  {example}\n" in out
        assert example.startswith(f"autoperfctl {row.name}")


@pytest.mark.parametrize("words", commands.examples(), ids=" ".join)
def test_every_example_of_the_help_is_valid(words: list[str]) -> None:
    assert commands.parser().parse_args(words).row.name == words[0]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["go"],
        ["show"],
        ["cancel"],
        ["check"],
        ["retry"],
        ["retry", "t", "--failed"],
        ["skip"],
        ["status", "x"],
        ["list", "--color"],
        ["submit", "f", "--wait", "-1"],
        ["submit", "f", "--wait", "nan"],
        ["results", "e", "--csv", "--json"],
        ["results", "e", "--parquet", "f", "--csv"],
        ["results", "e", "--json", "--rebuild"],
        ["results", "e", "--rebuild", "--where", "state=ok"],
        ["results", "e", "--by", "state", "--rebuild"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(words: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


# terminals


def on_a_terminal(words: list[str], **environment: str) -> str:
    """What the program writes to a terminal."""
    parent, child = pty.openpty()
    program = subprocess.Popen(
        [*PROGRAM, *words], stdout=child, stderr=child, stdin=child, env={**os.environ, "TERM": "xterm", **environment}
    )
    os.close(child)
    shown = b""
    try:
        while part := os.read(parent, 4096):
            shown += part
    except OSError:  # the terminal's other end is closed
        pass
    os.close(parent)
    program.wait(30)
    return shown.decode().replace("\r\n", "\n")


def watched(until: bytes, **environment: str) -> str:
    """What `status --watch` writes to a terminal until that is seen, it is interrupted and has ended."""
    parent, child = pty.openpty()
    # A shell starts what it puts in the background with SIGINT ignored, perhaps these very tests.
    interruptible = ["env", "--default-signal=INT", *PROGRAM, "status", "--watch"]
    settings = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "60", "LINES": "30", **environment}
    shown, deadline = b"", time.monotonic() + 30
    with subprocess.Popen(interruptible, stdout=child, stderr=child, stdin=child, env=settings) as program:
        os.close(child)
        try:
            while select.select([parent], [], [], max(0, deadline - time.monotonic()))[0]:
                shown += os.read(parent, 4096)
                if until in shown:
                    program.send_signal(signal.SIGINT)
                    until = b"never again"
        except OSError:  # the terminal's other end is closed
            assert program.wait(30) == 0
            return shown.decode()
        finally:
            program.kill()
            os.close(parent)
    pytest.fail(f"it did not end: {shown!r}")


def test_watch_draws_in_place_on_a_terminal(daemon: Daemon) -> None:
    screens = iter([f"number {n}\n" for n in range(1000)])
    daemon.replies["status"] = lambda args: Reply(text=f"{next(screens)}x  [##..]\n  lately    +x\n! p3 is away\n")
    shown = watched(b"number 1")
    assert "\x1b[?1049h" in shown and "\x1b[?1049l" in shown  # a screen of its own, taken away at the end
    assert "number 0" in shown and "\x1b[1;31m! p3 is away\x1b[0m" in shown and "\x1b[32m##\x1b[0m" in shown
    assert ("status", {"columns": 60}) in daemon.asked
    assert "31m" not in watched(b"number", NO_COLOR="1") and "number" in watched(b"number", TERM="dumb")


def test_colours_only_on_a_terminal_that_wants_them(daemon: Daemon, capsys: Capture) -> None:
    daemon.replies["status"] = Reply(text="fine\n! p3 is away\n")
    assert on_a_terminal(["status"]) == "fine\n\x1b[1;31m! p3 is away\x1b[0m\n"
    assert on_a_terminal(["status"], NO_COLOR="1") == "fine\n! p3 is away\n"
    assert on_a_terminal(["status"], TERM="dumb") == "fine\n! p3 is away\n"
    main(["status"])
    assert capsys.readouterr().out == "fine\n! p3 is away\n"


def test_a_locale_without_umlauts_still_works(daemon: Daemon) -> None:
    daemon.replies["list"] = Reply(text="Prüfstand\n")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*PROGRAM, "list"], capture_output=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"Pr\\xfcfstand\n")


def test_a_reader_that_stops_reading_is_no_error(daemon: Daemon) -> None:
    daemon.replies["list"] = Reply(text="x\n" * 100_000)
    with subprocess.Popen([*PROGRAM, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.read(10)
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(60) == 0


def test_watch_shows_it_again_until_it_is_interrupted(
    daemon: Daemon, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = iter([None, None])

    def pause(secs: float) -> None:
        if next(shown, "over"):
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", pause)
    assert main(["status", "--watch"]) == 0
    assert capsys.readouterr().out == "status done\n\n" * 3


# what it costs


def test_status_imports_next_to_nothing(daemon: Daemon) -> None:
    code = (
        "import sys; before = set(sys.modules); from autoperfd.ctl.main import main; main(['status'])\n"
        "print(*sorted(m for m in set(sys.modules) - before if '.' not in m or m.startswith('autoperfd')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert not imported & {"argparse", "dataclasses", "typing", "inspect", "paramiko", "sqlite3", "tomli", "logging"}
    assert {name for name in imported if name.startswith("autoperfd")} == {
        "autoperfd",
        "autoperfd.ctl",
        "autoperfd.ctl.main",
        "autoperfd.ctl.client",
        "autoperfd.ctl.terminal",
    }


def cpu_secs(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, timeout=60, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_status_costs_at_most_four_times_a_bare_python(daemon: Daemon) -> None:
    bare, status = 9.0, 9.0
    for _ in range(30):
        bare = min(bare, cpu_secs([sys.executable, "-c", "pass"]))
        status = min(status, cpu_secs([*PROGRAM, "status"]))
    print(f"bare {bare * 1000:.1f} ms, status {status * 1000:.1f} ms, ratio {status / bare:.2f}")
    assert status <= 4 * bare


def test_the_installed_program_is_this_one() -> None:
    program = shutil.which("autoperfctl", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("the package is not installed in this environment")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("autoperfctl ")


def test_the_help_is_plain_text(capsys: Capture) -> None:
    assert isinstance(sys.stdout, io.TextIOBase)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "\x1b" not in capsys.readouterr().out
