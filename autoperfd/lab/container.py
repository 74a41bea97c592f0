"""The container lab: systemd-nspawn machines with a real systemd and sshd, on a network of their own.

Knows how to boot, reboot, cut off and remove them, and the controller machine the daemon is installed in;
promises that a stopped lab leaves no process, mount, namespace or cgroup, and that what a killed lab left is
removed by the next. Needs root. Called from any one thread; every wait has a deadline.

Each machine is an overlay over one shared image, kept by a detached first process (machine_init.py)
that starts systemd-nspawn again when it exits with 133, which is a reboot. The addresses 10.97.INDEX.x exist
only in the lab's namespaces, so labs with different indexes run side by side.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from autoperfd.errors import AutoperfError
from autoperfd.lab import image, netns
from autoperfd.lab.machines import STANDIN, FirstProcess, LabMachine, machines_toml, make_key, start_time, until
from autoperfd.lab.plug import Plug
from autoperfd.lab.recorder import Recorder

RECORDS = Path("/run/autoperf-lab")  # which index belongs to which lab
INDEXES = range(100)
PROGRAMS = ("systemd-nspawn", "mmdebstrap", "ip", "nft", "unshare", "nsenter", "ssh-keygen")
REBOOT_STATUS = 133  # systemd-nspawn's exit status when the machine asked for a reboot
ACCOUNT, UID = "pi", 1000
CONTROLLER = "controller"
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8")


@dataclass(frozen=True)
class ContainerMachine(LabMachine):
    """One machine. `run` reaches it through the kernel, not through its sshd."""

    first: FirstProcess
    netns: str

    def leader(self) -> int:
        """The pid, seen from outside, of its systemd. Raises AutoperfError when it is down."""
        for pid in self.first.processes():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
                ids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
                if len(ids) > 2 and ids[-1] == "1":
                    return pid
        raise AutoperfError(f"{self.name} is down", hint="Boot it first")

    def run(
        self,
        command: str | Sequence[str],
        *,
        user: str = "root",
        stdin: bytes | str = "",
        timeout: float = 30.0,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a shell line, or an argv, as `user` on the machine; killed there after `timeout` seconds.

        Raises AutoperfError when the machine is down, or with `check` when the command fails.
        """
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        home = "/root" if user == "root" else f"/home/{user}"
        argv = ["nsenter", "--target", str(self.leader()), "--all", "--"]
        argv += ["env", "-i", f"--chdir={home}", *ENVIRONMENT, f"HOME={home}", f"USER={user}"]
        if user != "root":
            argv += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        argv += ["timeout", "--signal=KILL", str(timeout), *words]
        raw = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(argv, input=raw, capture_output=True, timeout=timeout + 10, check=False)
        out, err = (data.decode(errors="replace") for data in (done.stdout, done.stderr))
        if check and done.returncode:
            raise AutoperfError(f"{self.name}: `{command}` ended with {done.returncode}: {err or out}")
        return subprocess.CompletedProcess(command, done.returncode, out, err)

    def boot_id(self) -> str:
        """Its /proc/sys/kernel/random/boot_id; "" while it is down."""
        with contextlib.suppress(AutoperfError, OSError):
            path = Path(f"/proc/{self.leader()}/root/proc/sys/kernel/random/boot_id")
            return path.read_text(encoding="ascii").strip()
        return ""

    def answers(self) -> bool:
        """Whether its sshd sends a banner."""
        with contextlib.suppress(OSError), netns.connect(self.netns, self.ip, 22, 2.0) as connection:
            return connection.recv(4) == b"SSH-"
        return False


class ContainerLab:
    """`machines` machines p1, p2, … and, if asked for, a controller, below `folder` (files stay on stop).

    index: None takes the first free one at start. `with ContainerLab(…) as lab:` starts and stops it, and it
    ends with this process, however that ends. Raises AutoperfError where `missing()` has a reason.
    """

    def __init__(self, folder: Path, machines: int = 2, *, controller: bool = False, index: int | None = None) -> None:
        self.folder = folder.absolute()
        self.count = machines
        self.with_controller = controller
        self.index = index
        self.owner = 0
        self.machines: list[ContainerMachine] = []
        self.servers: list[Recorder | Plug] = []
        self.controller_layers: list[Path] = []
        if self._file.exists():
            record = json.loads(self._file.read_text(encoding="utf-8"))
            self.count, self.with_controller = record["machines"], record["controller"]
            self.controller_layers = [Path(layer) for layer in record["controller_layers"]]
            self.index = record["index"]
            self._describe()

    def __enter__(self) -> Self:
        self.start(owner=os.getpid())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Life of the lab

    def start(self, *, owner: int = 0) -> None:
        """Boots everything that is not up; returns when every sshd answers. Builds the image if needed.

        owner: a pid with which the lab ends; 0: it runs until it is stopped.
        """
        if reason := missing():
            raise AutoperfError(f"the container lab cannot start: {reason}")
        layers = [image.base_image()]
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        RECORDS.mkdir(exist_ok=True)
        self.owner = owner
        with image.locked(RECORDS / "lock"):
            self._claim()
            self._describe()
            self._record()
        try:
            self._make_network()
            for machine in self.everyone:
                self._start(machine, layers)
            self.await_answers(self.everyone)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends and removes everything but the files in `folder`. Safe to call at any time, also twice."""
        for server in self.servers:
            server.stop()
        self.servers.clear()
        self._end(self.everyone)
        if self.index is not None and record_of(self.index).get("folder") == str(self.folder):
            remove_leftovers(self.index)

    def reset(self) -> None:
        """Gives every machine a new disk and boots it; heals the network. What a test starts from."""
        for server in self.servers:
            server.stop()
        self.servers.clear()
        self._end(self.everyone)
        for machine in self.everyone:
            shutil.rmtree(machine.first.folder / "upper")
        self.start(owner=self.owner)
        self.heal()

    def status(self) -> dict[str, str]:
        """For each machine: "up", "booting", "off", or "stopped" when it has no first process."""
        return {machine.name: machine.first.state() for machine in self.everyone}

    # The machines

    @property
    def everyone(self) -> list[ContainerMachine]:
        """All machines, the controller (if any) last."""
        return [*self.machines, *([self.controller] if self.with_controller and self.machines else [])]

    @property
    def controller(self) -> ContainerMachine:
        return self._machine(CONTROLLER, 2)

    def machine(self, name: str) -> ContainerMachine:
        return next(machine for machine in self.everyone if machine.name == name)

    def install_controller(self, project: Path, commands: Sequence[str] = ("make install",)) -> None:
        """Has `project` installed on the controller by `commands`; a running one is replaced by a new one."""
        self.use_controller(image.controller_layers(project, commands))

    def use_controller(self, layers: list[Path]) -> None:
        """Has the controller's disk made of other layers over the base; a running one is replaced by a new one."""
        self.controller_layers = layers
        if self.with_controller and self.machines:
            running = self.controller.first.pid()
            self._end([self.controller])
            shutil.rmtree(self.controller.first.folder / "upper", ignore_errors=True)
            if running:
                self.start(owner=self.owner)

    def reboot(self, name: str, *, wait: bool = True) -> None:
        """Has its systemd reboot it; waits until it answers with a new boot id."""
        machine = self.machine(name)
        before = machine.boot_id()
        machine.run("systemctl reboot")
        if wait:
            self.await_reboot(name, before)

    def await_reboot(self, name: str, before: str, patience_secs: float = 30.0) -> None:
        """Waits until the machine answers with a boot id other than `before`."""
        machine = self.machine(name)
        until(
            lambda: machine.boot_id() not in ("", before) and machine.answers(),
            f"{name} did not come back from its reboot",
            patience_secs,
        )

    def kill(self, name: str) -> None:
        """Cuts its power: every process of it is gone when this returns; its disk stays as it was."""
        first = self.machine(name).first
        first.tell("off")
        first.await_state("off")

    def boot(self, name: str) -> None:
        """Switches it on again; waits until it answers."""
        machine = self.machine(name)
        machine.first.tell("on")
        machine.first.await_state("up")
        self.await_answers([machine])

    def hang_sshd(self, name: str) -> None:
        """Stops (SIGSTOP) every sshd process of it: TCP still connects, nobody answers."""
        if not self.machine(name).first.signal_sshd(signal.SIGSTOP):
            raise AutoperfError(f"{name} has no sshd to stop")

    def resume_sshd(self, name: str) -> None:
        self.machine(name).first.signal_sshd(signal.SIGCONT)

    def copy_to(self, name: str, path: str, data: bytes | str, mode: int = 0o644, owner: str = "root") -> None:
        """Writes a file on a machine that is up; folders are made, the name appears with the whole file."""
        script = 'mkdir -p "${1%/*}" && umask 077 && cat >"$1.partial" && chown "$2" "$1.partial"'
        script += ' && chmod "$3" "$1.partial" && mv "$1.partial" "$1"'
        self.machine(name).run(["sh", "-c", script, "sh", path, owner, f"{mode:o}"], stdin=data, check=True)

    def await_answers(self, machines: Iterable[ContainerMachine]) -> None:
        for machine in machines:
            until(machine.answers, f"{machine.name} does not answer")

    # The network

    @property
    def gateway_ip(self) -> str:
        """The switch's own address: what runs in the test process is reachable there."""
        return self.switch.gateway

    @property
    def switch(self) -> netns.Switch:
        return netns.Switch(prefix(self.index), f"10.97.{self.index}")

    def drop(self, one: str, other: str = "", match: str = "") -> None:
        """Loses what goes between two machines, or between one and everybody; see `Switch.drop`."""
        self.switch.drop(one, other, match)

    def drop_loss(self, name: str, percent: int) -> None:
        """Loses that share of the IP packets to and from a machine, at random (each way; ARP is spared)."""
        self.switch.drop(name, match=f"meta protocol ip numgen random mod 100 < {percent}")

    def heal(self) -> None:
        """Ends all drops and hung sshds."""
        self.switch.heal()
        for machine in self.everyone:
            machine.first.signal_sshd(signal.SIGCONT)

    def connect(self, name: str, port: int = 22, timeout: float = 5.0) -> socket.socket:
        """A TCP connection to a machine, made on the switch (no drop applies), for use in this process."""
        return netns.connect(self.switch.netns, self.machine(name).ip, port, timeout)

    def recorder(self, port: int = 8080) -> Recorder:
        """An HTTP server in this process that machines reach at `recorder.url`; ends with the lab."""
        with netns.inside(self.switch.netns):
            recorder = Recorder(self.gateway_ip, port)
        self.servers.append(recorder)
        return recorder

    def plug(self, port: int = 8081) -> Plug:
        """A power strip in this process for all machines, pressed at `plug.url(machine)`; ends with the lab."""
        with netns.inside(self.switch.netns):
            plug = Plug(self, self.gateway_ip, port)
        self.servers.append(plug)
        return plug

    def shape(self, name: str, rate: str) -> None:
        """Lets a machine send no faster than `rate` ("256kbit"); "": as fast as it can."""
        argv = ["ip", "netns", "exec", self.machine(name).netns, "tc", "qdisc"]
        limit = ["tbf", "rate", rate, "burst", "16kb", "latency", "400ms"]
        netns.run(
            [*argv, "replace", "dev", "host0", "root", *limit] if rate else [*argv, "del", "dev", "host0", "root"]
        )

    def filter(self, name: str, rule: str) -> None:
        """Gives a machine's own firewall one rule for what comes in, such as "tcp dport 22 reject with tcp reset"."""
        self.unfilter(name)
        lines = ["add table inet lab", "add chain inet lab input { type filter hook input priority 0; }"]
        netns.nft(self.machine(name).netns, *lines, f"add rule inet lab input {rule}")

    def unfilter(self, name: str) -> None:
        """Takes that rule away."""
        netns.nft(self.machine(name).netns, "add table inet lab", "delete table inet lab")

    def allow_ping(self, name: str, *, allowed: bool = True) -> None:
        """Whether unprivileged ICMP sockets work on a machine (Debian's default: no; controller: yes)."""
        groups = "0 2147483647" if allowed else "1 0"
        netns.set_sysctl(self.machine(name).netns, "net.ipv4.ping_group_range", groups)

    def experiment_machines(
        self, allocations: Sequence[str], exec_path: str = "~/perftest_cpp", key_path: str = ""
    ) -> str:
        """TOML blocks of the first machines, see `machines_toml`."""
        return machines_toml(self.machines, allocations, exec_path, key_path)

    def known_hosts(self) -> str:
        return "".join(f"{machine.known_hosts_line}\n" for machine in self.machines)

    # Inside

    @property
    def _file(self) -> Path:
        return self.folder / "lab.json"

    def _describe(self) -> None:
        self.machines = [self._machine(f"p{number + 1}", 11 + number) for number in range(self.count)]

    def _machine(self, name: str, last: int) -> ContainerMachine:
        folder = self.folder / "machines" / name
        folder.mkdir(parents=True, exist_ok=True)
        make_key(self.folder / "user_key")
        return ContainerMachine(
            name,
            f"10.97.{self.index}.{last}",
            22,
            ACCOUNT,
            self.folder / "user_key",
            Path("/home", ACCOUNT),
            make_key(folder / "host_key"),
            FirstProcess(name, folder),
            f"{prefix(self.index)}-{name}",
        )

    def _claim(self) -> None:
        """Takes the lab's index; removes what a dead lab left under it. Called under the lock."""
        for index in INDEXES if self.index is None else [self.index]:
            record = record_of(index)
            if record.get("folder") == str(self.folder):
                self.index = index
                return
            if not alive(record):
                remove_leftovers(index)
                self.index = index
                return
        raise AutoperfError(
            f"the container lab cannot start: index {self.index} belongs to the lab in {record.get('folder')}",
            hint="Stop that one, or take another index",
        )

    def _record(self) -> None:
        layers = [str(layer) for layer in self.controller_layers]
        record = {
            "folder": str(self.folder),
            "index": self.index,
            "machines": self.count,
            "controller": self.with_controller,
            "controller_layers": layers,
            "starter": [os.getpid(), start_time(os.getpid())],
        }
        for path in (self._file, RECORDS / f"{self.index}.json"):
            path.write_text(json.dumps(record, indent=1), encoding="utf-8")

    def _make_network(self) -> None:
        here = set(netns.names(prefix(self.index)))
        if self.switch.netns not in here:
            for name in here:
                netns.remove(name)
            self.switch.make()
            here = set()
        for machine in self.everyone:
            if machine.netns in here and not machine.first.pid():  # its first process was killed
                netns.end_processes(machine.netns)
                netns.run(self.switch.unplug(machine.name))
                netns.remove(machine.netns)
                here.discard(machine.netns)
            if machine.netns not in here:
                self.switch.plug(machine.name, machine.netns, machine.ip)
        if self.with_controller:
            self.allow_ping(CONTROLLER)

    def _start(self, machine: ContainerMachine, layers: list[Path]) -> None:
        if machine.first.pid():
            if machine.first.state() == "off":
                machine.first.tell("on")
            return
        folder = machine.first.folder
        if machine.name == CONTROLLER:
            layers = [*self.controller_layers, *layers]
        if not (folder / "upper").exists():
            self._seed(machine)
        for name in ("work", "root"):
            (folder / name).mkdir(exist_ok=True)
        nspawn = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"]
        nspawn += [f"--machine={machine.name}", f"--directory={folder}/root", "--link-journal=no"]
        nspawn += [f"--network-namespace-path={netns.NAMES}/{machine.netns}"]
        nspawn += ["--resolv-conf=off", "--timezone=off"]
        spec = {
            "argv": nspawn,
            "before": image.mounts(layers, folder / "upper", folder / "work", folder / "root"),
            # A removed namespace lets go of its wire only some time later, so that goes first.
            "after": [self.switch.unplug(machine.name), ["ip", "netns", "del", machine.netns]],
            # The namespace outlives the machine: unplugged, it does not answer pings, nor say goodbye when
            # the power is cut.
            "up": [self.switch.port(machine.name, "up")],
            "down": [self.switch.port(machine.name, "down")],
            "cgroup": machine.netns,
            "reboot_status": REBOOT_STATUS,
            "owner": self.owner,
        }
        machine.first.start(spec, wrapper=["unshare", "--mount", "--propagation", "slave"])

    def _seed(self, machine: ContainerMachine) -> None:
        """Writes the machine's own files to its new disk."""
        upper = machine.first.folder / "upper"
        names = [f"{other.ip} {other.name}" for other in self.everyone]
        hosts = "\n".join(["127.0.0.1 localhost", f"127.0.1.1 {machine.name}", *names])
        key = machine.first.folder / "host_key"
        user_key = machine.key_path.with_suffix(".pub").read_text(encoding="ascii")
        put(upper, "etc/hostname", f"{machine.name}\n")
        put(upper, "etc/hosts", f"{hosts}\n")
        put(upper, "etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)
        put(upper, "etc/ssh/ssh_host_ed25519_key", key.read_text(encoding="ascii"), 0o600)
        put(upper, f"home/{ACCOUNT}/.ssh/authorized_keys", user_key, 0o600, UID)
        if STANDIN.exists():
            put(upper, f"home/{ACCOUNT}/perftest_cpp", STANDIN.read_text(encoding="utf-8"), 0o755, UID)

    def _end(self, machines: Sequence[ContainerMachine]) -> None:
        for machine in machines:
            machine.first.ask_to_stop()
        for machine in machines:
            machine.first.await_end()


def missing() -> str:
    """Why there can be no container lab on this computer, as half a sentence; "": there can."""
    if os.geteuid() != 0:
        return "it needs root"
    absent = [program for program in PROGRAMS if not shutil.which(program)]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install systemd-container mmdebstrap iproute2 nftables)"
    return ""


def prefix(index: int | None) -> str:
    """What the names of all namespaces and cgroups of a lab start with."""
    return f"autoperf-lab{index}"


def record_of(index: int) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((RECORDS / f"{index}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record


def alive(record: dict[str, Any]) -> bool:
    """Whether the lab of a record has a machine, or is being started."""
    if not record:
        return False
    pid, start = record["starter"]
    folders = Path(record["folder"], "machines").glob("*")
    return start_time(pid) == start or any(FirstProcess(path.name, path).pid() for path in folders)


def remove_leftovers(index: int) -> None:
    """Removes the namespaces and the record of a lab that ended; what still runs there was lost by a crash."""
    own = prefix(index)
    lost = False
    for name in netns.names(own):
        if name == own or name.startswith(f"{own}-"):
            lost = netns.end_processes(name) or lost
            netns.remove(name)
    if lost:
        until(lambda: remove_cgroups(f"{own}-*"), f"the cgroups of {own} are still in use")
    (RECORDS / f"{index}.json").unlink(missing_ok=True)


def cgroups(pattern: str) -> list[Path]:
    """The cgroups whose names match, wherever they are; those that come and go meanwhile may be missing."""
    return [
        Path(place, name)
        for place, names, _ in os.walk("/sys/fs/cgroup")  # which does not mind folders that vanish under it
        for name in names
        if fnmatch.fnmatch(name, pattern)
    ]


def remove_cgroups(pattern: str) -> bool:
    """Removes the cgroups whose names match, with what is below them; whether none is left."""
    found = cgroups(pattern)
    for folder in found:
        for path, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                Path(path).rmdir()
    return not any(folder.exists() for folder in found)


def put(root: Path, name: str, text: str, mode: int = 0o644, uid: int = 0) -> None:
    """Writes a file below `root`; folders below home/ belong to `uid`, .ssh is private."""
    path = root / name
    for folder in reversed(path.relative_to(root).parents[:-1]):
        where = root / folder
        if not where.exists():
            where.mkdir(parents=True)
            where.chmod(0o700 if where.name == ".ssh" else 0o755)
            os.chown(where, *(2 * (uid if len(folder.parts) > 1 else 0,)))
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    os.chown(path, uid, uid)
