"""Network namespaces: a switch with machines on it, sockets inside it, and faults on its wires.

Knows `ip`, `nft` and setns; promises that everything it makes goes with the namespaces' names. `inside`
changes the calling thread only, so a test process can hold sockets in a namespace and stay outside itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from autoperfd.errors import AutoperfError

CLONE_NEWNET = 0x40000000
NAMES = Path("/run/netns")


class Switch:
    """A bridge in a namespace of its own; `gateway` is its address there. Machines hang on it by name."""

    def __init__(self, netns: str, subnet: str) -> None:
        self.netns = netns
        self.subnet = subnet  # the first three numbers: "10.97.0"
        self.gateway = f"{subnet}.1"

    def make(self) -> None:
        run(["ip", "netns", "add", self.netns])
        ip(
            self.netns,
            "link set lo up",
            "link add br0 type bridge mcast_snooping 0",
            f"address add {self.gateway}/24 dev br0",
            "link set br0 up",
        )
        nft(
            self.netns,
            "add table bridge lab",
            "add chain bridge lab forward { type filter hook forward priority 0; }",
        )

    def plug(self, name: str, netns: str, address: str) -> None:
        """Makes the namespace `netns` with the interface host0 there, wired to the bridge as `name`, down."""
        run(["ip", "netns", "add", netns])
        ip(
            self.netns,
            f"link add {name} type veth peer name host0 netns {netns}",
            f"link set {name} master br0",
        )
        ip(
            netns,
            "link set lo up",
            f"address add {address}/24 dev host0",
            "link set host0 up",
            "route add 224.0.0.0/4 dev host0",
        )

    def unplug(self, name: str) -> list[str]:
        """The command that removes a machine's wire."""
        return ["ip", "-n", self.netns, "link", "del", name]

    def port(self, name: str, state: str) -> list[str]:
        """The command that switches a machine's port "up" or "down"."""
        return ["ip", "-n", self.netns, "link", "set", name, state]

    def drop(self, one: str, other: str = "", match: str = "") -> None:
        """Loses every frame between two machines (no `other`: between `one` and everybody).

        match: an nft expression that narrows it: "tcp dport 22", "ip protocol icmp", "numgen random mod
        100 < 30". It is applied to both directions.
        """
        far = (f'oifname "{other}"', f'iifname "{other}"') if other else ("", "")
        nft(
            self.netns,
            f'add rule bridge lab forward iifname "{one}" {far[0]} {match} drop',
            f'add rule bridge lab forward oifname "{one}" {far[1]} {match} drop',
        )

    def heal(self) -> None:
        nft(self.netns, "flush chain bridge lab forward")


def run(argv: list[str], text: str = "", timeout: float = 20.0) -> str:
    """Runs a program to its end and returns its output. Raises AutoperfError with what it said."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise AutoperfError(f"the lab cannot `{' '.join(argv)}`: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def ip(netns: str, *lines: str) -> None:
    run(["ip", "-n", netns, "-batch", "-"], "\n".join(lines) + "\n")


def nft(netns: str, *lines: str) -> None:
    run(["ip", "netns", "exec", netns, "nft", "-f", "-"], "\n".join(lines) + "\n")


def names(prefix: str) -> list[str]:
    """The namespaces whose names start with `prefix`."""
    return [path.name for path in NAMES.glob(f"{prefix}*")] if NAMES.is_dir() else []


def remove(name: str) -> None:
    """Removes a namespace, if it is there."""
    if (NAMES / name).exists():
        run(["ip", "netns", "del", name])


def end_processes(name: str) -> bool:
    """Ends (SIGKILL) every process whose network is this namespace; whether there was one."""
    deadline = time.monotonic() + 10
    found = False
    while pids := run(["ip", "netns", "pids", name]).split():
        found = True
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if time.monotonic() > deadline:
            raise AutoperfError(f"the lab cannot end the processes {' '.join(pids)} of {name}")
        time.sleep(0.01)
    return found


def set_sysctl(netns: str, key: str, value: str) -> None:
    """Sets a net.* sysctl in a namespace."""
    run(["ip", "netns", "exec", netns, "sysctl", "-q", "-w", f"{key}={value}"])


@contextlib.contextmanager
def inside(netns: str) -> Iterator[None]:
    """The calling thread is in `netns`; sockets it makes here stay there for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as here, (NAMES / netns).open("rb") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), netns)
        try:
            yield
        finally:
            if libc.setns(here.fileno(), CLONE_NEWNET):
                os.abort()  # a thread that cannot come home would do everything else in the wrong network


def connect(netns: str, address: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection made in `netns`."""
    with inside(netns):
        return socket.create_connection((address, port), timeout=timeout)
