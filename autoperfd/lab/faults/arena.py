"""Where faults strike: the lab, the daemon in it, which machines belong to which experiment, and the stormy tool.

The tool is a wrapper around the Perftest stand-in. It refuses to run twice at once on a machine, notes each start with
the attempt's uid, and misbehaves in one attempt when told to, of which it leaves a note: so it is known from the
machines' own disks which attempts failed by the tool's fault and which did not. Any thread.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from autoperfd.errors import AutoperfError
from autoperfd.lab.container import UID, ContainerLab, ContainerMachine

HOME = "home/pi"
TOOL = "~/storm/perftest_cpp"
WRAPPER = """#!/bin/sh
# A tool that refuses to run twice at once on this machine, notes each of its starts, and misbehaves once when told to.
case " $* " in *" -help "*) exec "$HOME/perftest_cpp" "$@" ;; esac
cd "$HOME/storm" || exit 98
echo "$AUTOPERF_UID" >>starts
if mv next "did-$AUTOPERF_UID" 2>/dev/null; then
  read -r kind <"did-$AUTOPERF_UID"
  STANDIN_MISBEHAVE="*:$kind;$STANDIN_MISBEHAVE"
  export STANDIN_MISBEHAVE
fi
cd "$OLDPWD" || exit 98
exec flock --nonblock --no-fork --conflict-exit-code 99 "$HOME/storm/only-one" "$HOME/perftest_cpp" "$@"
"""

SMALL_DISK = """
echo 'tmpfs /home/pi/.autoperf tmpfs size=192m,uid=1000,gid=1000,mode=700' >>/etc/fstab
install -d -o pi -g pi -m 700 /home/pi/.autoperf && mount /home/pi/.autoperf
"""
NO_ATTEMPT = ("", 0)


class Daemon(Protocol):
    """What faults and their storm need of the installed daemon."""

    def pid(self) -> int:
        """Its pid on this computer, 0 when it does not run. AutoperfError when the controller is down."""
        ...

    def systemctl(self, verb: str) -> None:
        """`systemctl VERB autoperfd`. AutoperfError when that fails."""
        ...

    def trust(self, *texts: str) -> None:
        """Trust the machines of experiment files anew."""
        ...

    def find_again(self) -> None:
        """Its controller has booted."""
        ...

    def answers(self) -> bool:
        """Whether it answers at its socket."""
        ...

    def experiment(self, name: str) -> dict[str, Any]:
        """One experiment of `list`; OSError or ValueError when nobody answers."""
        ...

    def ask(self, command: str, **args: Any) -> dict[str, Any]:
        """One command; OSError or ValueError when nobody answers."""
        ...


@dataclass
class Arena:
    """The lab, the daemon, and the experiments: name -> (file text, its two machines)."""

    lab: ContainerLab
    daemon: Daemon
    experiments: Mapping[str, tuple[str, Sequence[ContainerMachine]]]
    flood_mb: int = 50
    done: dict[str, int] = field(default_factory=dict)  # tests with a verdict, as last heard
    states: dict[str, dict[str, Any]] = field(default_factory=dict)  # as last heard
    small_disks: tuple[str, ...] = ("p2", "p4")  # machines on which attempts lie on a small disk of their own
    deaf: bool = False  # the daemon stands still: asking it would only wait

    def equip(self) -> None:
        """Put the stormy tool on all machines."""
        for machine in self.lab.machines:
            self.lab.copy_to(machine.name, f"/{HOME}/storm/perftest_cpp", WRAPPER, 0o755, "pi")
            os.chown(self.storm(machine), UID, UID)
            if machine.name in self.small_disks:
                machine.run(SMALL_DISK, check=True)

    def look(self) -> bool:
        """Hear how far the experiments are; whether the daemon answered."""
        if self.deaf:
            return False
        try:
            for found in self.daemon.ask("list")["data"]["experiments"]:
                if found["name"] in self.experiments:
                    self.states[found["name"]] = found
                    self.done[found["name"]] = found["succeeded"] + found["failed"] + found["skipped"]
        except (OSError, ValueError, KeyError):
            return False
        return True

    def ended(self, name: str) -> bool:
        """Whether an experiment had ended when last heard of."""
        return self.states.get(name, {}).get("outcome") in ("finished", "cancelled")

    def attempt(self, name: str) -> tuple[str, int]:
        """Test and number of the attempt an experiment had open when last heard of, or NO_ATTEMPT."""
        current = self.states[name].get("current") or {}
        return current.get("test", ""), current.get("attempt", 0)

    def of(self, machine: str) -> str:
        """The experiment that uses a machine."""
        return next(name for name, (_, machines) in self.experiments.items() if machine in {m.name for m in machines})

    def peer(self, machine: str) -> str:
        """The other machine of its experiment."""
        return next(other.name for other in self.experiments[self.of(machine)][1] if other.name != machine)

    def storm(self, machine: ContainerMachine) -> Path:
        """The tool's folder on a machine, seen from outside. AutoperfError when the machine is down."""
        return Path(f"/proc/{machine.leader()}/root", HOME, "storm")

    def ballast(self, machine: ContainerMachine) -> Path:
        """What takes the room on a machine's small disk. AutoperfError when the machine is down."""
        return Path(f"/proc/{machine.leader()}/root", HOME, ".autoperf", "ballast")

    def misbehave_next(self, machine: ContainerMachine, kind: str) -> None:
        """The tool's next start on a machine goes wrong in that way. AutoperfError when the machine is down."""
        folder = self.storm(machine)
        fresh = folder / "fresh"
        fresh.write_text(f"{kind}\n", encoding="ascii")
        fresh.rename(folder / "next")

    def misbehaved(self, machine: ContainerMachine) -> dict[str, str]:
        """uid -> kind of the attempts in which the tool misbehaved on a machine."""
        notes = self.storm(machine).glob("did-*")
        return {note.name.removeprefix("did-"): note.read_text(encoding="ascii").strip() for note in notes}

    def starts(self, machine: ContainerMachine) -> Counter[str]:
        """How often the tool was started on a machine, by the attempt's uid."""
        with contextlib.suppress(FileNotFoundError):
            return Counter((self.storm(machine) / "starts").read_text(encoding="ascii").split())
        return Counter()

    def up(self, machine: ContainerMachine) -> bool:
        """Whether a machine has a first process of its own."""
        try:
            machine.leader()
        except AutoperfError:
            return False
        return True
