"""Validation of many machines, cold: every connection is new. Peers run one small command on each machine.

Ours does more on every machine (a TCP or ICMP ping, the verb loop, a probe of a dozen facts), and all of it is paid by
the cores of this one computer, where real machines would each pay their own part.
"""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Callable, Iterator

from autoperfd.lab.bench.rig import BOOT_ID, INSTALLATION, KEX, Bench, fleet, have, machines_of, run, ssh_words, timed
from autoperfd.lab.bench.rows import Row, in_turn
from autoperfd.lab.loopback import LoopbackLab
from autoperfd.remote.shell import COMMAND, LAUNCHER

ROUNDS = {2: 9, 8: 7, 32: 5, 128: 3}
OPEN = "f" * 32  # names an attempt as running, so that the executable is not started
NOTE = (
    "ping, login, verb loop and probe, without the start of the executable; peers only read a boot id. With many "
    "machines what falls short is the probe: this one computer pays it for all of them, and each looks for foreign "
    "processes among those of all"
)
LIMITS = {"asyncssh": 1.1, "ssh | xargs -P": 0.75, "ansible -m raw": 0.4}


def measure(bench: Bench) -> Iterator[Row]:
    """2, 8, 32 and 128 machines."""
    for count in (2,) if bench.quick else ROUNDS:
        bench.say(f"validation of {count} machines")
        with bench.lab(count) as lab:
            works: dict[str, Callable[[], float]] = {
                "light": lambda: ours(lab, executable=False),
                "whole": lambda: ours(lab, executable=True),
                **peers(bench, lab),
            }
            found = in_turn(2 if bench.quick else ROUNDS[count], works)
        for peer, limit in LIMITS.items():
            yield Row(
                figure=f"validation, {count} machines, cold",
                ours=found["light"],
                unit="ms",
                peer=peer,
                theirs=found.get(peer),
                limit=limit,
                note=NOTE,
            )
        yield Row(
            figure=f"the same work, {count} machines",
            ours=found["light"],
            unit="ms",
            peer="asyncssh doing our probe",
            theirs=found.get("asyncssh, same work"),
            limit=None,
            note="the peer, too, sends the verb loop and asks it for the probe: what our own SSH costs",
        )
        yield Row(
            figure=f"validation with all of it, {count} machines",
            ours=found["whole"],
            unit="ms",
            peer="without the executable",
            theirs=found["light"],
            limit=None,
            note="with the executable's start (/bin/true), sudo's answer and the machine's description",
        )


def ours(lab: LoopbackLab, *, executable: bool) -> float:
    """Milliseconds of one validation by a fleet that has no connection yet."""
    one = fleet(lab)
    machines = machines_of(lab, "/bin/true")

    def validate() -> None:
        one.validate(
            machines,
            (),
            (),
            wants_reboot=executable,
            uid_open="" if executable else OPEN,
            cancelled=threading.Event(),
            patience_secs=60,
        )

    took = timed(validate)
    one.close()
    return took


def peers(bench: Bench, lab: LoopbackLab) -> dict[str, Callable[[], float]]:
    """Those that are installed: name -> milliseconds of connecting to all machines and running a command there."""
    count = len(lab.machines)
    found: dict[str, Callable[[], float]] = {}
    if importlib.util.find_spec("asyncssh") is not None:
        found["asyncssh"] = lambda: timed(lambda: asyncio.run(_asyncssh(lab, BOOT_ID)))
        found["asyncssh, same work"] = lambda: timed(lambda: asyncio.run(_asyncssh(lab, COMMAND, _probe())))
    if have("ssh"):
        lines = "".join(f"-p {m.port} {m.username}@{m.ip} {BOOT_ID}\n" for m in lab.machines)
        argv = ["xargs", "-P", str(count), "-L", "1", "ssh", *ssh_words(lab)]
        found["ssh | xargs -P"] = lambda: timed(lambda: run(argv, text=lines))
    if have("ansible"):
        found["ansible -m raw"] = _ansible(bench, lab)
    return found


def _probe() -> bytes:
    return LAUNCHER + f"probe -1 {INSTALLATION} {OPEN} 0 0 15 0\n".encode() + b"/bin/true\n"


async def _asyncssh(lab: LoopbackLab, command: str, sent: bytes = b"") -> None:
    import asyncssh

    async def one(ip: str, port: int, username: str) -> None:
        async with asyncssh.connect(
            ip,
            port,
            username=username,
            client_keys=[key],
            known_hosts=known,
            kex_algs=[KEX],
            agent_path=None,
            config=None,
        ) as connection:
            done = await connection.run(command, input=sent, encoding=None, check=True)
            assert done.stdout

    key = asyncssh.read_private_key(lab.machines[0].key_path)
    known = asyncssh.read_known_hosts(str(lab.folder / "known_hosts"))
    await asyncio.gather(*(one(m.ip, m.port, m.username) for m in lab.machines))


def _ansible(bench: Bench, lab: LoopbackLab) -> Callable[[], float]:
    home = bench.new_folder("ansible")
    hosts = home / "hosts.ini"
    hosts.write_text(
        "".join(
            f"{m.name} ansible_host={m.ip} ansible_port={m.port} ansible_user={m.username}\n" for m in lab.machines
        ),
        encoding="utf-8",
    )
    environment = {
        "HOME": str(home),
        "ANSIBLE_SSH_ARGS": " ".join([*ssh_words(lab), "-o", "ControlMaster=no"]),
        "ANSIBLE_NOCOLOR": "1",
    }
    argv = ["ansible", "all", "-i", str(hosts), "-m", "raw", "-a", BOOT_ID, "-f", str(len(lab.machines))]
    return lambda: timed(lambda: run(argv, env=environment, secs=300))
