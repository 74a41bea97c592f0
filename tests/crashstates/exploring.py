"""Traces a protocol, enumerates the states a crash may leave, and recovers in each of them. Test thread; blocks."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.crashstates.disk import Disk, State, write_tree
from tests.crashstates.protocols import PROTOCOLS, Protocol
from tests.crashstates.tracing import trace

PROJECT = Path(__file__).parents[2]
SHM = Path("/dev/shm")


@dataclass
class Found:
    """What an exploration came to."""

    events: int = 0
    states: int = 0
    promised: int = 0  # of these states, how many came after a promise
    wrong: list[str] = field(default_factory=list)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that costs no disk; it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="crashstates-", dir=SHM if os.access(SHM, os.W_OK) else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def perform(protocol: Protocol, folder: Path, *, mutant: str = "", inject: str = "", fails: bool = False) -> Disk:
    """Run a protocol under trace, from the files it prepares. `fails`: an injected fault ends it."""
    root = folder / "root-1"
    root.mkdir()
    protocol.prepare(root)
    disk = Disk(root)
    _trace(protocol, disk, root, mutant, inject, fails)
    return disk


def go_on(protocol: Protocol, folder: Path, disk: Disk, count: int, life: int = 2, *, mutant: str = "") -> None:
    """Kill the process after so many events, and let another one (the how-manieth: `life`) begin with what is there."""
    root = folder / f"root-{life}"
    write_tree(disk.kill(count), root)
    _trace(protocol, disk, root, mutant, "", fails=False)


def _trace(protocol: Protocol, disk: Disk, root: Path, mutant: str, inject: str, fails: bool) -> None:
    told, log = root.with_name(f"{root.name}-told"), root.with_name(f"{root.name}-trace")
    argv = [sys.executable, "-m", "tests.crashstates.protocols", protocol.name, str(root), str(told), mutant]
    calls = trace(["env", f"--chdir={PROJECT}", *argv], log, inject=inject, fails=fails)
    if inject:
        assert any(call.injected for call in calls), f"{inject} never fired"
    disk.feed(calls, root, told)


def explore(
    protocol: Protocol,
    folder: Path,
    disk: Disk,
    *,
    most_wrong: int = 5,
    first: int = 0,
    lazily: bool = False,
    most: int = 0,
) -> Found:
    """Recover in every state that a crash may leave of what a disk went through.

    `lazily`: in the order of time, the same state with several promises, to find a mistake soon. `most`: so many, drawn
    from all.
    """
    found = Found(events=len(disk.events))
    states: Iterable[State] = disk.states(first=first, each_promise=lazily or protocol.each_promise)
    if most:
        every = list(states)
        states = random.Random(3).sample(every, min(most, len(every)))
    for number, state in enumerate(states):
        found.states += 1
        found.promised += bool(state.told)
        found.wrong += wrong_after(protocol, folder / f"state-{number}", state)
        if len(found.wrong) >= most_wrong:
            break
    return found


def wrong_after(protocol: Protocol, root: Path, state: State) -> list[str]:
    """Recover in one state; what is broken, with what led to it."""
    write_tree(state.tree, root)
    try:
        wrong = protocol.check(root, state.told)
    finally:
        shutil.rmtree(root)
    return [f"after event {state.after}, {state.what}: {sentence}" for sentence in wrong]


def protocol(name: str) -> Protocol:
    """One of the protocols."""
    return PROTOCOLS[name]
