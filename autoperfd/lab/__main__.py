"""The labs from the command line: `python -m autoperfd.lab loopback|container start|stop|status …`.

Knows the arguments only; promises exit code 0 when done, 1 with one sentence when not. One thread.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autoperfd.errors import AutoperfError


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m autoperfd.lab",
        description="Machines on one computer, for the demo and the tests.",
        epilog="example: python -m autoperfd.lab loopback start ~/lab --machines 3",
    )
    labs = parser.add_subparsers(dest="lab", required=True)
    loopback = labs.add_parser("loopback", help="sshd processes on 127.0.0.x; no root needed")
    loopback.add_argument("action", choices=["start", "stop", "status"])
    loopback.add_argument("--boot-secs", type=float, default=1.0, help="how long a reboot takes, default 1")
    container = labs.add_parser("container", help="systemd-nspawn machines with a real systemd; needs root")
    container.add_argument("action", choices=["start", "stop", "status", "image"])
    container.add_argument("--index", type=int, help="which lab: addresses 10.97.INDEX.x; default: the first free")
    container.add_argument("--controller", action="store_true", help="with a machine for the daemon")
    for lab in (loopback, container):
        lab.add_argument("folder", type=Path, nargs="?", default=Path("lab"), help="where it lives, default ./lab")
        lab.add_argument("--machines", type=int, default=2, help="how many, default 2")
    return parser


def main(argv: list[str] | None = None) -> int:
    given = arguments().parse_args(argv)
    try:
        if given.lab == "loopback":
            loopback(given)
        else:
            container(given)
    except AutoperfError as error:
        print(error.sentence(), file=sys.stderr)
        return 1
    return 0


def loopback(given: argparse.Namespace) -> None:
    from autoperfd.lab.loopback import LoopbackLab

    lab = LoopbackLab(given.folder, given.machines, boot_secs=given.boot_secs)
    if given.action == "start":
        lab.start()
    elif given.action == "stop":
        lab.stop()
    states = lab.status()
    for machine in lab.machines:
        print(f"{machine.name}\t{machine.username}@{machine.ip}:{machine.port}\t{states[machine.name]}")


def container(given: argparse.Namespace) -> None:
    from autoperfd.lab import image
    from autoperfd.lab.container import ContainerLab

    if given.action == "image":
        print(image.base_image())
        return
    lab = ContainerLab(given.folder, given.machines, controller=given.controller, index=given.index)
    if given.action == "start":
        lab.start()
    elif given.action == "stop":
        lab.stop()
    states = lab.status()
    for machine in lab.everyone:
        print(f"{machine.name}\t{machine.username}@{machine.ip}:{machine.port}\t{states[machine.name]}")


if __name__ == "__main__":
    sys.exit(main())
