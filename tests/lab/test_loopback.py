"""The loopback lab does what machines do: own homes and keys, real reboots, nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import autoperfd
from autoperfd.errors import AutoperfError
from autoperfd.lab.loopback import LoopbackLab, answers
from autoperfd.lab.machines import LabMachine, start_time

pytestmark = pytest.mark.lab
PACKAGE = Path(autoperfd.__file__).parent


def ssh(lab: LoopbackLab, name: str, command: str) -> subprocess.CompletedProcess[str]:
    machine = lab.machine(name)
    argv = ["ssh", "-F", "none", "-i", str(machine.key_path), "-p", str(machine.port)]
    for option in (f"UserKnownHostsFile={lab.folder}/known_hosts", "StrictHostKeyChecking=yes", "BatchMode=yes"):
        argv += ["-o", option]
    argv += [f"{machine.username}@{machine.ip}", command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL, check=False)


def until(happened: Callable[[], object], secs: float = 10.0) -> None:
    deadline = time.monotonic() + secs
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def gone(pids: list[int]) -> bool:
    return not any(start_time(pid) for pid in pids)


def idle(lab: LoopbackLab, name: str) -> bool:
    """Whether its sshd is all that runs there: the child of the last connection may still be ending."""
    return len(lab.processes(name)) == 1


def first_pid(lab: LoopbackLab, name: str) -> int:
    return int((lab.machine_folder(name) / "init.pid").read_text().split()[0])


def test_each_machine_has_its_own_home_key_and_boot_id(loopback_lab: LoopbackLab) -> None:
    seen = set()
    for machine in loopback_lab.machines:
        said = ssh(loopback_lab, machine.name, 'echo "$HOME"; pwd; cat "$AUTOPERF_BOOT_ID_FILE"')
        assert said.stdout.splitlines() == [
            str(machine.home),
            str(machine.home),
            loopback_lab.boot_id(machine.name),
        ]
        seen |= {*said.stdout.splitlines(), machine.host_key_line, (machine.ip, machine.port)}
    assert len(seen) == 2 * 4


def test_exit_statuses_and_signals_come_through(loopback_lab: LoopbackLab) -> None:
    assert ssh(loopback_lab, "p1", "exit 7").returncode == 7
    assert ssh(loopback_lab, "p1", 'printf %s "a  b" | cat').stdout == "a  b"


@pytest.mark.parametrize("command", ["systemctl reboot", "reboot", "reboot -f", "/usr/bin/systemctl reboot"])
def test_a_reboot_by_sudo_ends_everything_and_changes_the_boot_id(loopback_lab: LoopbackLab, command: str) -> None:
    until(lambda: all(idle(loopback_lab, name) for name in ("p1", "p2")))
    ssh(loopback_lab, "p1", "setsid sleep 600 </dev/null >/dev/null 2>&1 & env -i setsid sleep 601 >/dev/null 2>&1 &")
    until(lambda: len(loopback_lab.processes("p1")) == 3)
    before, running = loopback_lab.boot_id("p1"), loopback_lab.processes("p1")
    others = loopback_lab.boot_id("p2"), loopback_lab.processes("p2")

    # The connection is cut by the reboot: ssh reports 255, the sleep never ends by itself.
    assert ssh(loopback_lab, "p1", f"sudo -n {command}; sleep 600").returncode == 255

    loopback_lab.await_reboot("p1", before)
    assert gone(running)
    assert ssh(loopback_lab, "p1", 'cat "$AUTOPERF_BOOT_ID_FILE"').stdout.strip() != before
    assert (loopback_lab.boot_id("p2"), loopback_lab.processes("p2")) == others


def test_sudo_knows_rebooting_and_nothing_else(loopback_lab: LoopbackLab) -> None:
    assert ssh(loopback_lab, "p1", "sudo -n true").returncode == 0
    assert "systemctl reboot" in ssh(loopback_lab, "p1", "sudo -n -l").stdout
    assert ssh(loopback_lab, "p1", "sudo -n -l /usr/bin/systemctl reboot").returncode == 0
    assert ssh(loopback_lab, "p1", "sudo -n rm -rf /x").returncode == 1
    loopback_lab.set_sudo("p1", asks=True)
    refused = ssh(loopback_lab, "p1", "sudo -n systemctl reboot")
    assert (refused.returncode, refused.stderr) == (1, "sudo: a password is required\n")
    loopback_lab.set_sudo("p1", asks=False)
    assert ssh(loopback_lab, "p1", "sudo -n true").returncode == 0


def test_power(loopback_lab: LoopbackLab) -> None:
    machine, before = loopback_lab.machine("p1"), loopback_lab.boot_id("p1")
    running = loopback_lab.processes("p1")
    loopback_lab.kill("p1")
    assert gone(running) and not answers(machine)
    assert loopback_lab.status() == {"p1": "off", "p2": "up"}
    loopback_lab.boot("p1")
    until(lambda: answers(machine))
    assert loopback_lab.boot_id("p1") != before


def test_a_hanging_sshd_accepts_and_says_nothing(loopback_lab: LoopbackLab) -> None:
    loopback_lab.hang_sshd("p1")
    assert not answers(loopback_lab.machine("p1"))
    loopback_lab.resume_sshd("p1")
    until(lambda: answers(loopback_lab.machine("p1")))


def test_the_command_line_starts_and_stops_leaving_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "a lab"

    def command(action: str) -> str:
        argv = [sys.executable, "-m", "autoperfd.lab", "loopback", action, str(folder), "--machines", "3"]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout

    assert command("start").count("\tup\n") == 3
    lab = LoopbackLab(folder)  # another process finds the lab by its folder
    until(lambda: all(idle(lab, m.name) for m in lab.machines))
    started = [first_pid(lab, m.name) for m in lab.machines]
    started += [pid for m in lab.machines for pid in lab.processes(m.name)]
    assert len(started) == 6
    assert command("start").count("\tup\n") == 3, "starting a started lab changes nothing"
    assert [first_pid(lab, m.name) for m in lab.machines] == started[:3]
    assert command("stop").count("\tstopped\n") == 3
    assert gone(started)
    assert command("stop").count("\tstopped\n") == 3


def test_a_lab_whose_first_process_was_killed_is_cleaned_up(loopback_lab: LoopbackLab) -> None:
    ssh(loopback_lab, "p1", "setsid sleep 600 </dev/null >/dev/null 2>&1 &")
    left = loopback_lab.processes("p1")
    os.kill(first_pid(loopback_lab, "p1"), signal.SIGKILL)
    until(lambda: loopback_lab.status()["p1"] == "stopped")
    assert not gone(left)
    loopback_lab.start()
    assert gone(left)
    assert loopback_lab.status() == {"p1": "up", "p2": "up"}


OWNER = """
import sys, time
from pathlib import Path
from autoperfd.lab.loopback import LoopbackLab
with LoopbackLab(Path(sys.argv[1]), 1):
    print("up", flush=True)
    time.sleep(600)
"""


def test_a_lab_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", OWNER, str(tmp_path / "lab")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "up\n"
        lab = LoopbackLab(tmp_path / "lab")
        pids = [first_pid(lab, "p1"), *lab.processes("p1")]
        process.kill()
    until(lambda: gone(pids))


PLAIN_USER = """
mount --bind "$1/passwd" /etc/passwd
cd "$1/source"
lab() { setpriv --reuid 4242 --regid 4242 --clear-groups python3 -m autoperfd.lab loopback "$1" ../lab; }
lab start && ssh -F none -o BatchMode=yes -o UserKnownHostsFile="$1/lab/known_hosts" \
  -i "$1/lab/user_key" -p "$(sed -n 's/.*\\.11]:\\([0-9]*\\) .*/\\1/p' ../lab/known_hosts)" \
  plain@127.0.0.11 'id -u; pwd'
lab stop
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root; a plain user's run is the test")
def test_a_plain_user_can_have_one() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(PACKAGE / "lab", folder / "source" / "autoperfd" / "lab")
        for file in ("__init__.py", "errors.py"):
            shutil.copy(PACKAGE / file, folder / "source" / "autoperfd")
        (folder / "lab").mkdir()
        os.chown(folder / "lab", 4242, 4242)
        users = Path("/etc/passwd").read_text() + f"plain:x:4242:4242::{folder}:/bin/sh\n"
        (folder / "passwd").write_text(users)
        argv = ["unshare", "--mount", "sh", "-c", PLAIN_USER, "sh", name]
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONDONTWRITEBYTECODE": "1"}
        said = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment, check=False)
        assert said.stdout.count("\tup\n") == 2, said
        assert said.stdout.count("\tstopped\n") == 2, said
        assert f"4242\n{name}/lab/machines/p1/home\n" in said.stdout, said


def test_the_stand_in_is_where_experiments_look_for_it(loopback_lab: LoopbackLab) -> None:
    said = ssh(loopback_lab, "p1", "~/perftest_cpp -help")
    assert said.returncode == 0 and "-dataLen" in said.stdout


def test_stopping_never_touches_a_pid_that_was_reused(loopback_lab: LoopbackLab) -> None:
    with subprocess.Popen(["sleep", "600"]) as bystander:
        try:
            loopback_lab.stop()
            (loopback_lab.machine_folder("p1") / "init.pid").write_text(f"{bystander.pid} 1\n")
            loopback_lab.stop()
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_without_sshd_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_kwargs: None)
    with pytest.raises(AutoperfError) as error:
        LoopbackLab(tmp_path).start()
    assert "apt-get install openssh-server" in error.value.hint


def test_the_toml_names_what_an_experiment_needs(loopback_lab: LoopbackLab) -> None:
    import tomllib

    machines = tomllib.loads(loopback_lab.experiment_machines(["pub", "sub"]))["experiments"]["slave_machines"]
    first: LabMachine = loopback_lab.machines[0]
    assert [m["participant_allocation"] for m in machines] == ["pub", "sub"]
    assert (machines[0]["ip"], machines[0]["port"]) == (first.ip, first.port)
