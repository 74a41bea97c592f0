"""The Debian package as a user has it: on a Debian without Python, upgraded under a running test, removed, purged."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import autoperfd
from autoperfd.lab.container import ContainerLab
from tests import documents
from tests.e2e import packages
from tests.e2e.containers import InstalledDaemon, Marksman, experiment, guard, root_of, starts
from tests.programs import needed

pytestmark = pytest.mark.timeout(600)

SETTINGS = """duration_secs = [6]
datalen_bytes = [100, 200, 300]
pub_count = [1]
sub_count = [1]
latency_count = [10]
"""


@pytest.fixture
def bare_lab(container_lab: ContainerLab) -> Iterator[ContainerLab]:
    """The lab with a controller on which nothing is installed; the package and a newer one are in its /root."""
    needed("dh", "debhelper")
    deb = packages.package()
    usual = container_lab.controller_layers
    container_lab.use_controller(packages.bare_controller(deb, packages.newer(deb)))
    try:
        yield container_lab
    finally:
        container_lab.use_controller(usual)


def apt(lab: ContainerLab, *words: str) -> str:
    """`apt-get WORDS`, asking nothing; what it said. It must succeed."""
    argv = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "-q", *words]
    done = lab.controller.run(argv, timeout=180, check=True)
    return done.stdout + done.stderr


def install(lab: ContainerLab, revision: int = 1) -> str:
    """Install the package, which must be there."""
    deb = next((root_of(lab.controller) / "root").glob(f"autoperfd_*-{revision}_*.deb")).name
    return apt(lab, "install", f"/root/{deb}")


def test_the_package_outlives_nothing_it_should_not(bare_lab: ContainerLab) -> None:
    machines, root = bare_lab.machines[:2], root_of(bare_lab.controller)
    assert not (root / "usr/bin/python3").exists(), "what the package needs is to come with it"
    install(bare_lab)
    daemon = InstalledDaemon(bare_lab)
    assert (daemon.property("UnitFileState"), daemon.property("ActiveState")) == ("enabled", "inactive")

    daemon.start()
    longer = SETTINGS.replace("[6]", "[40]").replace("200, 300", "200")  # than it takes to unpack the package
    text = experiment("packaged", longer, machines, "pub sub", reboot="never", exec_path=guard(bare_lab))
    daemon.run(text)
    daemon.until(lambda: daemon.experiment("packaged"), "the experiment is accepted")
    marksman = Marksman(daemon, {"packaged": machines}, seed=7)
    marksman.await_place("waiting")
    settings = (root / "etc/autoperf/autoperfd.toml").read_text()

    said = install(bare_lab, revision=2)
    assert (root / "etc/autoperf/autoperfd.toml").read_text() == settings, said
    daemon.until(daemon.answers, "the new version answers")
    assert daemon.ask("status")["data"]["version"] == f"{autoperfd.__version__}.post2", said
    marksman.check_adoption()
    daemon.await_outcome("packaged", secs=180)
    rows = daemon.ess("packaged")
    assert [(row["end_status"], row["attempt_number"]) for row in rows] == [("success", "1")] * 2, daemon.text()
    archives = [daemon.archive("packaged", row) for row in rows]
    assert archives[0].json("evidence.json")["found"] in ("adopted", "finished"), "no test ran across the upgrade"
    uids = {archive.json("attempt.json")["uid"]: 1 for archive in archives}
    assert [starts(machine) for machine in machines] == [uids, uids], "an attempt was started twice"
    assert daemon.verify("packaged") == []

    apt(bare_lab, "remove", "autoperfd")
    assert daemon.pid() == 0 and not (root / "usr/lib/autoperfd/bin").exists()
    assert (root / "etc/autoperf/autoperfd.toml").read_text() == settings
    assert len(daemon.ess("packaged")) == 2
    said = apt(bare_lab, "purge", "autoperfd")
    assert "left alone: /var/lib/autoperf" in said and len(daemon.ess("packaged")) == 2
    assert not (root / "etc/autoperf/autoperfd.toml").exists() and (root / "etc/autoperf/keys/id_lab").exists()

    install(bare_lab, revision=2)
    daemon.systemctl("start")
    assert daemon.experiment("packaged")["outcome"] == "finished", "it knows what there was"
    bare_lab.controller.run("systemctl enable --now autoperfd@north", check=True)
    answer = "echo 'autoperfd autoperfd/purge-data boolean true' | debconf-set-selections"
    bare_lab.controller.run(answer, check=True)
    apt(bare_lab, "purge", "autoperfd")
    assert daemon.pid() == 0
    assert [path for path in left(root) if "autoperf" in path.name] == []


def left(root: Path) -> list[Path]:
    """What is in the folders where the package and the daemon have their things."""
    places = (
        "etc",
        "var/lib",
        "run",
        "usr/bin",
        "usr/lib",
        "usr/lib/systemd/system",
        "usr/share/doc",
        "etc/systemd/system",
        "etc/systemd/system/multi-user.target.wants",
    )
    return [path for place in places for path in (root / place).iterdir()]


def test_two_daemons_on_one_controller(bare_lab: ContainerLab) -> None:
    install(bare_lab)
    north, south = InstalledDaemon(bare_lab, "north"), InstalledDaemon(bare_lab, "south")
    bare_lab.copy_to("controller", "/root/id_lab", bare_lab.machines[0].key_path.read_bytes(), 0o600)
    bare_lab.controller.run("systemctl enable --now autoperfd@north", check=True)
    bare_lab.controller.run("install -m 600 id_lab /etc/autoperf@north/keys/", check=True)
    bare_lab.controller.run("systemctl restart autoperfd@north", check=True)
    assert "is not running" not in bare_lab.controller.run("autoperfctl --instance north status", check=True).stdout
    north.systemctl("stop")
    pairs = {north: bare_lab.machines[:2], south: bare_lab.machines[2:]}
    for number, (daemon, machines) in enumerate(pairs.items()):
        daemon.start(domains={"first": 1 + 100 * number, "last": 100 + 100 * number})
        daemon.trust(experiment(daemon.instance, SETTINGS, machines, "pub sub", reboot="never"))
    for daemon, machines in pairs.items():
        daemon.drop("a.toml", experiment(daemon.instance, SETTINGS, machines, "pub sub", reboot="never"))
    for daemon in pairs:
        daemon.await_state(daemon.instance, "running")
        said = daemon.ctl("doctor").stdout
        assert ("is not enabled" in said) == (daemon is south) and "DDS domains" not in said, said
    stop = partial(south.controller.run, ["systemctl", "--no-block", "stop", south.unit], check=True)
    south.await_running("south", then=stop)
    south.systemctl("stop")  # and wait for it
    north.await_outcome("north")
    assert south.ctl("status").returncode == 3 and f"systemctl start {south.unit}" in south.ctl("status").stdout
    south.systemctl("start")
    south.await_outcome("south")
    for daemon in pairs:
        assert [row["end_status"] for row in daemon.ess(daemon.instance)] == ["success"] * 3, daemon.text()
        assert daemon.verify(daemon.instance) == []
    assert bare_lab.controller.run("AUTOPERF_INSTANCE=north autoperfctl list").stdout.count("\nnorth ") == 1


def test_the_tutorial(bare_lab: ContainerLab) -> None:
    """A new user's way, as docs/TUTORIAL.md has it: every line is typed here, and what is shown there is compared."""
    you = Newcomer(bare_lab)
    wrong = [sentence for block in tutorial() for sentence in you.follow(block)]
    assert not wrong, "\n\n".join(wrong)
    rows = you.daemon.ess("first")  # ddsperf now and then fails by itself on a busy computer, and is tried again
    assert len({row["test_name"] for row in rows if row["end_status"] == "success"}) == 4, you.daemon.text()
    assert all(row["reason"] for row in rows if row["end_status"] != "success"), rows
    you.daemon.until(
        lambda: "/plot?" in you.browse("/experiment?name=first"), "the plots are drawn, in the sandbox", 90
    )
    report = (you.root / you.home.lstrip("/") / "first-report.html").read_text()
    assert report.startswith("<!doctype html>") and report.count("5SEC_1000B_1PUB_1SUB_BE_UC_10LC") > 0
    page = you.browse("/experiment?name=first")
    plots = [html.unescape(path) for path in re.findall(r'src="(/plot\?[^"]*)"', page)]
    assert plots and all("<svg" in you.browse(path) for path in plots)


def tutorial() -> list[documents.Block]:
    """Its blocks that this test follows, and the experiment it has one write."""
    file = "docs/TUTORIAL.md"
    found = list(documents.blocks(documents.read(file), file))
    followed = [block for block in found if f"{Path(__file__).name}::test_the_tutorial" in block.mark]
    assert len(followed) >= 8
    return [block for block in found if block in followed or block.language == "toml"]


class Newcomer:
    """Somebody who has an account on the controller and on two machines, and the tutorial."""

    NAME = "you"

    def __init__(self, lab: ContainerLab) -> None:
        self.lab, self.daemon, self.home = lab, InstalledDaemon(lab), f"/home/{self.NAME}"
        self.daemon.user(self.NAME)
        self.root = root_of(lab.controller)
        lab.copy_to("controller", f"/etc/sudoers.d/{self.NAME}", f"{self.NAME} ALL=(ALL) NOPASSWD: ALL\n", 0o440)
        deb = next((self.root / "root").glob("autoperfd_*-1_*.deb"))
        lab.copy_to("controller", f"{self.home}/{deb.name}", deb.read_bytes(), owner=self.NAME)

    def follow(self, block: documents.Block) -> list[str]:
        """Do what a block says. What it does not show as it is, as sentences."""
        if block.language == "toml":
            self.lab.copy_to("controller", f"{self.home}/first.toml", block.text, owner=self.NAME)
            return []
        if block.text.startswith("# on each machine\n"):
            for machine in self.lab.machines[:2]:
                machine.run(block.text, timeout=60, check=True)
                slow = "[Service]\nExecStartPre=/bin/sleep 8\n"  # a reboot can be watched, as on a real machine
                self.lab.copy_to(machine.name, "/etc/systemd/system/ssh.service.d/slow.conf", slow)
            return []
        wrong = []
        for line, shown in block.commands():
            said = self.type(line)
            if block.language == "console" and not alike(shown, said):
                wrong.append(f"$ {line}\n{said}")
        return wrong

    def type(self, line: str) -> str:
        """What a command line says; it must succeed."""
        if line.startswith("autoperfctl results"):
            self.daemon.until(lambda: self.daemon.experiment("first").get("outcome") == "finished", "it is done", 240)
        if line == "autoperfctl status" and self.daemon.experiment("first").get("outcome") != "finished":
            self.daemon.await_state("first", "rebooting")
        if line.endswith("--watch"):  # on a terminal, until somebody has seen enough
            line = (
                f"script -qec 'env TERM=xterm COLUMNS=80 LINES=24 timeout --foreground --signal=INT 5 {line}' /dev/null"
            )
        done = self.lab.controller.run(line, user=self.NAME, timeout=180, check="--watch" not in line)
        assert "--watch" not in line or ("every 2 s; Ctrl-C ends it" in done.stdout and "first: " in done.stdout), done
        if line.startswith("ssh-keygen"):  # the next line asks for passwords, which nobody can type here
            public = (self.root / self.home.lstrip("/") / "id_lab.pub").read_text()
            for machine in self.lab.machines[:2]:
                self.lab.copy_to(machine.name, "/home/pi/.ssh/authorized_keys", public, 0o600, "pi")
        return done.stdout + done.stderr

    def browse(self, path: str) -> str:
        """A page, asked for on the controller itself."""
        code = (
            f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:8765{path}', timeout=30).read().decode())"
        )
        return self.lab.controller.run(["python3", "-c", code], check=True, timeout=40).stdout


def alike(shown: str, said: str) -> bool:
    """Whether something was said as a document shows it; "…" there stands for anything, a line of it for lines."""
    lines = (re.escape(line).replace("…", "[^\\n]*") for line in shown.strip().split("\n"))
    pattern = "\n".join("(?s:.*)" if line == "[^\\n]*" else line for line in lines)
    return re.fullmatch(pattern, said.strip()) is not None
