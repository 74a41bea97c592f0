"""Runs in place of the daemon in the shipped unit, and says what the sandbox lets it do: one `name yes|no` a line."""

import ctypes
import fcntl
import mmap
import os
import resource
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

STATE, QUEUE = Path("/var/lib/autoperf"), Path("/etc/autoperf/queue")
libc = ctypes.CDLL(None, use_errno=True)


def call(number: int) -> None:
    """Raise for a C call's error."""
    if number < 0:
        raise OSError(ctypes.get_errno(), "refused")


def limited_child() -> None:
    script = "import resource as r; r.setrlimit(r.RLIMIT_AS, (1 << 28, 1 << 28)); print(r.getrlimit(r.RLIMIT_AS)[0])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"268435456\n"


def parse() -> None:
    from autoperfd.daemon.parse import Limits, read_limited
    from autoperfd.errors import ConfigError
    from autoperfd.tools import TOOLS

    slow = b"".join(b"[b%d%s]\n" % (i, b".x" * 400) for i in range(1200))
    for data, said in ((b"[", "x.toml:1"), (slow, "CPU")):
        try:
            read_limited(data, "x.toml", TOOLS, (), Limits(cpu_secs=1))
        except ConfigError as error:
            assert said in str(error), error
        else:
            raise AssertionError("accepted")


def claim() -> None:
    (QUEUE / "x.toml").write_text("")
    (QUEUE / "x.toml").rename(QUEUE / ".claimed" / "x.toml")
    (QUEUE / ".claimed" / "x.toml").rename(QUEUE / "rejected" / "x.toml")
    (QUEUE / "rejected" / "x.toml").unlink()


def lock_and_sync() -> None:
    with (STATE / "x").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.fsync(file.fileno())
    (STATE / "x").unlink()


def peer_is_known() -> None:
    ends = socket.socketpair()
    found = ends[0].getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    assert int.from_bytes(found[4:8], sys.byteorder) == os.getuid() != 65534


def execute_from(folder: Path) -> Callable[[], object]:
    def work() -> None:
        file = folder / "x.sh"
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
        try:
            subprocess.run([file], check=True)
        finally:
            file.unlink()

    return work


def setuid_bit() -> None:
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o4755)
        assert os.stat(file.name).st_mode & stat.S_ISUID


def others_are_seen() -> None:
    mine = {os.getpid(), os.getppid()}
    assert {int(name) for name in os.listdir("/proc") if name.isdecimal()} - mine


def boot_id() -> None:
    assert len(os.environ["AUTOPERF_BOOT_ID"]) == 32


def thread() -> None:
    worker = threading.Thread(target=int)
    worker.start()
    worker.join()


NEEDED: dict[str, Callable[[], object]] = {
    "ssh and http: a TCP socket": lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM),
    "ping: an ICMP datagram socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    "control: a socket in the runtime folder": lambda: socket.socket(socket.AF_UNIX).bind("/run/autoperf/x.sock"),
    "control: the caller's uid": peer_is_known,
    "state: flock and fsync": lock_and_sync,
    "queue: claim and reject by rename": claim,
    "queue: inotify": lambda: call(libc.inotify_init1(0)),
    "a child that limits itself": limited_child,
    "parsing within limits": parse,
    "threads": thread,
    "paramiko": lambda: __import__("paramiko").Ed25519Key,
    "the webhook's secret, where there is none": lambda: os.listdir(os.environ["CREDENTIALS_DIRECTORY"]),
    "the boot id": boot_id,
}
FORBIDDEN: dict[str, Callable[[], object]] = {
    "write /etc": lambda: Path("/etc/autoperf/x").write_text(""),
    "write /usr": lambda: Path("/usr/lib/autoperfd/x").write_text(""),
    "write /var": lambda: Path("/var/x").write_text(""),
    "read the folder of keys": lambda: os.listdir("/etc/autoperf/keys"),
    "read root's home": lambda: os.listdir("/root"),
    "see homes": lambda: os.listdir("/home/pi"),
    "see other processes": others_are_seen,
    "read /proc/sys": lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
    "execute from the state folder": execute_from(STATE),
    "execute from the queue": execute_from(QUEUE),
    "execute from the runtime folder": execute_from(Path("/run/autoperf")),
    "execute from /tmp": execute_from(Path("/tmp")),
    "execute from /var/tmp": execute_from(Path("/var/tmp")),
    "execute from /dev/shm": execute_from(Path("/dev/shm")),
    "AF_NETLINK": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "AF_PACKET": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "a new namespace": lambda: call(libc.unshare(0x10000000)),
    "writable and executable memory": lambda: mmap.mmap(-1, 4096, prot=7),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "a setuid bit": setuid_bit,
    "become another user": lambda: os.setuid(0),
    "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)),
    "gain privileges": lambda: subprocess.run(["sudo", "-n", "true"], check=True, capture_output=True),
}


def allowed(act: Callable[[], object]) -> bool:
    try:
        act()
    except (OSError, ValueError, AssertionError, subprocess.SubprocessError) as error:
        print(f"# {error!r}")
        return False
    return True


if __name__ == "__main__":
    for name, act in (NEEDED | FORBIDDEN).items():
        print(f"{'needed' if name in NEEDED else 'forbidden'}\t{name}\t{'yes' if allowed(act) else 'no'}", flush=True)
