"""A bench for the commands of the documents: a real daemon on a memory with results, and machines that only offer keys.

The experiment is README.md's own, with other addresses; its memory was made by the real engine. Commands run in one
folder by bash, with the names that the documents use. The daemon is a process; each machine has a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import paramiko

from tests.ctl.test_convert import QUOTED
from tests.documents import ROOT, blocks, read
from tests.e2e.support import LiveDaemon
from tests.programs import needed
from tests.verify.support import Bench

TEST = "30SEC_100B_1PUB_1SUB_REL_UC_100LC"
FILES = ROOT / "tests" / "data" / "perftest" / "4.2-4.3"
SECS = 60.0


class KeyOnly(paramiko.ServerInterface):
    """Lets anybody in and answers no command."""

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.common.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return True


class Machine:
    """An SSH server on loopback with a host key of its own."""

    def __init__(self) -> None:
        self._key = paramiko.ECDSAKey.generate()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.known = f"[127.0.0.1]:{self.port} {self._key.get_name()} {self._key.get_base64()}\n"
        self._links: list[paramiko.Transport] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                link = paramiko.Transport(self._listening.accept()[0])
                self._links.append(link)
                link.add_server_key(self._key)
                with contextlib.suppress(paramiko.SSHException, EOFError):
                    link.start_server(event=threading.Event(), server=KeyOnly())

    def close(self) -> None:
        """Hang up on everybody."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)
        for link in self._links:
            link.close()


class Desk:
    """Where a person sits: a folder, a daemon, two machines. `new`: nothing is trusted yet, nothing was submitted."""

    def __init__(self, root: Path, *, new: bool = False) -> None:
        self.root = root
        self.machines = [Machine(), Machine()]
        self._make_files()
        if not new:
            results(root / "state", (root / "my.toml").read_text(encoding="utf-8"))
            shutil.copy(root / "state" / "autoperf.db", root / "state" / "autoperf.db.v2")  # as an upgrade keeps it
            (root / "known_hosts").write_text("".join(machine.known for machine in self.machines))
        self.daemon = LiveDaemon(root, patience=900, more=f'[page]\nlisten = "{root}/page.sock"')
        self.daemon.start()

    def close(self) -> None:
        """End everything."""
        self.daemon.stop()
        for machine in self.machines:
            machine.close()

    def run(self, line: str, *, yes: bool = False) -> tuple[int, str]:
        """One command line: its exit status and all it prints. `yes`: at a terminal where somebody says so."""
        if service := re.fullmatch(r"sudo systemctl (stop|start|restart) autoperfd *(#.*)?", line):
            return self._service(service[1]), ""
        for there, here in (("/var/lib/autoperf", self.daemon.state), ("/etc/credstore", self.root / "credstore")):
            line = line.replace(there, str(here))
        argv = ["bash", "-o", "pipefail", "-c", line]
        path = f"{self.root}/bin:{os.environ['PATH']}"
        env = {"PATH": path, "HOME": str(self.root), "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
        if yes:
            return _at_a_terminal(argv, env, self.root)
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECS,
            check=False,
            env=env,
            cwd=self.root,
        )
        return done.returncode, done.stdout

    def _service(self, verb: str) -> int:
        """What the service manager would do."""
        status = self.daemon.stop() if verb != "start" else 0
        if verb != "stop":
            self.daemon.start()
        return status

    def _make_files(self) -> None:
        root = self.root
        needed("jq", "jq")  # as the examples have it
        (root / "bin").mkdir()
        for name, program in {
            "autoperfctl": f'{sys.executable} -m autoperfd.ctl.main --config {root}/autoperfd.toml "$@"',
            "curl": f'{needed("curl", "curl")} --unix-socket {root}/page.sock "$@"',
            "sudo": '"$@"',
        }.items():
            (root / "bin" / name).write_text(f"#!/bin/sh\nexec {program}\n")
            (root / "bin" / name).chmod(0o755)
        (root / ".ssh").mkdir()
        paramiko.ECDSAKey.generate().write_private_key_file(str(root / ".ssh" / "id_lab"))
        (root / "my.toml").write_text(experiment(root, [machine.port for machine in self.machines]), encoding="utf-8")
        for place in (f"old/{TEST}", "old/run3"):
            (root / place).mkdir(parents=True)
            shutil.copy(FILES / "pub_throughput.csv", root / place / "pub_0.csv")
            shutil.copy(FILES / "sub_1pub.csv", root / place / "sub_0.csv")
        (root / "old.json").write_text(QUOTED, encoding="utf-8")


def experiment(root: Path, ports: list[int]) -> str:
    """The experiment of README.md on machines of this computer, which are not restarted."""
    (text,) = [b.text for b in blocks(read("README.md")) if b.language == "toml" and "[[experiments]]" in b.text]
    text = text.replace("~/.ssh", f"{root}/.ssh").replace('reboot = "experiment"', 'reboot = "never"')
    for port in ports:
        text = re.sub(r'^ip = "192\.0\.2\.\d+"$', f'ip = "127.0.0.1"\nport = {port}', text, count=1, flags=re.MULTILINE)
    return text


def results(state: Path, text: str) -> None:
    """A memory of that experiment in which some tests succeeded and two were given up."""
    state.mkdir()
    bench = Bench(state)
    bench.submit(text)
    for status in ("success", *("timeout", "no-data", "timeout"), "success", *("crashed", "crashed", "crashed")):
        bench.running()
        bench.close(status)
    bench.save()
    bench.stop()


def _at_a_terminal(argv: list[str], env: dict[str, str], cwd: Path) -> tuple[int, str]:
    mine, theirs = pty.openpty()
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=cwd) as process:
        os.close(theirs)
        os.write(mine, b"yes\n")
        said, deadline = b"", time.monotonic() + SECS
        with contextlib.suppress(OSError):  # nobody is at the other end any more
            while select.select([mine], [], [], max(0.0, deadline - time.monotonic()))[0]:
                said += os.read(mine, 65536)
        os.close(mine)
        try:
            status: Any = process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return status, said.decode().replace("\r\n", "\n")
