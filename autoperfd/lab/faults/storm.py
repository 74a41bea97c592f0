"""A storm: one seeded fault after another, some at a time, while experiments go on.

Fault number k is drawn from k alone, so ranges of seeds add up. Faults are paced by the experiments' progress, so that
all of them strike while there is work, and each must be seen to strike. One thread; every wait has a deadline.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autoperfd.errors import AutoperfError
from autoperfd.lab.container import CONTROLLER, ContainerMachine
from autoperfd.lab.faults.arena import Arena
from autoperfd.lab.faults.kinds import KINDS, Course, Draw

TICK_SECS = 0.05
LOOK_SECS = 0.25
STALL_SECS = 300.0  # without a single test getting done; an outage ends far sooner
LONGEST_SECS = 6.0
RESERVE = 12  # tests left when the last fault is due, for many faults strike at the start of an attempt only
FEW = 4  # tests left of an experiment: a fault that needs another start may miss it


@dataclass(frozen=True)
class Struck:
    """A fault that struck."""

    seed: int
    kind: str
    where: str
    at: float  # seconds after the storm's beginning
    seen: str


@dataclass
class _Standing:
    seed: int
    kind: str
    places: frozenset[str]
    course: Course
    where: str
    seen: str = ""


@dataclass
class Storm:
    """Faults of the seeds `first` … `first + count - 1` in an arena whose experiments have `total` tests in all."""

    arena: Arena
    first: int
    count: int
    total: int
    tell: Callable[[str], None] = print
    struck: list[Struck] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)  # reasons of halts that a person had to end
    _standing: list[_Standing] = field(default_factory=list)
    _began: float = 0.0
    _looked: float = 0.0
    _progress: tuple[int, float] = (-1, 0.0)

    def rage(self) -> None:
        """Let all faults strike and end. Raises AutoperfError: one never struck or never ended, or nothing goes on."""
        self._began = time.monotonic()
        self._progress = (-1, self._began)
        try:
            for seed in range(self.first, self.first + self.count):
                draw = random.Random(seed)
                due = (seed - self.first + draw.uniform(-1.5, 0.0)) * self._span() / self.count
                self._wait(lambda due=due: self._done() >= due)  # type: ignore[misc]
                self._pass(draw.uniform(0.0, 2.5))
                self._begin(seed, draw)
            self._wait(lambda: not self._standing)
        finally:
            for standing in self._standing:
                standing.course.close()

    def see_out(self) -> None:
        """Until every experiment has ended; a person resumes those that ask for it."""
        self._wait(lambda: all(self.arena.ended(name) for name in self.arena.experiments))

    def kinds(self) -> Counter[str]:
        """How often each kind struck."""
        return Counter(fault.kind for fault in self.struck)

    # ------------------------------------------------------------ one fault

    def _begin(self, seed: int, draw: random.Random) -> None:
        kind = kind_of(seed)
        needs, course = KINDS[kind]
        machine = draw.choice(self.arena.lab.machines)
        secs = draw.uniform(0.3, LONGEST_SECS)
        if needs != "controller" and self._left(machine) < FEW:
            # Its experiment was quicker than the other one.
            most = max(self._left(m) for m in self.arena.lab.machines)
            machine = draw.choice([m for m in self.arena.lab.machines if self._left(m) == most])
        places = {
            "controller": frozenset({CONTROLLER}),
            "machine": frozenset({machine.name}),
            "machines": frozenset({machine.name, self.arena.peer(machine.name)}),
            "tool": frozenset({f"tool of {machine.name}"}),
        }[needs]
        self._wait(lambda: not any(places & standing.places for standing in self._standing))
        where = CONTROLLER if needs == "controller" else machine.name
        drawn = Draw(seed, machine, secs, draw)
        self._standing.append(_Standing(seed, kind, places, course(self.arena, drawn), where))
        self._step()

    def _step(self) -> None:
        """Let every standing fault go on a little."""
        for standing in list(self._standing):
            try:
                seen = next(standing.course)
            except StopIteration:
                self._standing.remove(standing)
                if not standing.seen:
                    raise AutoperfError(f"the storm: fault {standing.seed} ({standing.kind}) never struck") from None
                continue
            except AutoperfError as error:
                raise AutoperfError(f"fault {standing.seed} ({standing.kind}): {error.sentence()}") from error
            if seen:
                at = time.monotonic() - self._began
                standing.seen = seen
                self.struck.append(Struck(standing.seed, standing.kind, standing.where, at, seen))
                self.tell(f"{at:6.1f} s  fault {standing.seed}, {standing.kind}: {seen}")

    # ------------------------------------------------------------ waiting

    def _left(self, machine: ContainerMachine) -> int:
        """How many tests of a machine's experiment have no verdict yet."""
        return self.total // len(self.arena.experiments) - self.arena.done[self.arena.of(machine.name)]

    def _span(self) -> int:
        """How many tests are done when the last fault is due."""
        return self.total - min(RESERVE, self.total // 4)

    def _done(self) -> int:
        return sum(self.arena.done.values())

    def _pass(self, secs: float) -> None:
        end = time.monotonic() + secs
        self._wait(lambda: time.monotonic() >= end)

    def _wait(self, happened: Callable[[], object]) -> None:
        """Let faults go on until it has happened, or nothing is left that faults could disturb."""
        while not happened():
            self._step()
            self._look()
            time.sleep(TICK_SECS)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECS:
            return
        self._looked = now
        if self.arena.look():
            for name, found in self.arena.states.items():
                if found["state"] == "halted" and "autoperfctl resume" in found["todo"] and self._mended(name):
                    self._resume(name, found["halted_reason"])
        progress = (self._done(), len(self.struck))
        if progress[0] + progress[1] != self._progress[0]:
            self._progress = (progress[0] + progress[1], now)
        elif now - self._progress[1] > STALL_SECS:
            raise AutoperfError(f"the storm: nothing got done for {STALL_SECS:g} s: {self.arena.states}")

    def _mended(self, name: str) -> bool:
        """Whether nothing is wrong with an experiment's machines now."""
        machines = {machine.name for machine in self.arena.experiments[name][1]}
        return not any(machines & standing.places for standing in self._standing)

    def _resume(self, name: str, reason: str) -> None:
        """What a person does who was told that an experiment halted."""
        try:
            reply = self.arena.daemon.ask("resume", experiment=name)
        except (OSError, ValueError):
            return
        if reply.get("ok"):
            self.resumed.append(f"{name}: {reason}")
            self.tell(f"{time.monotonic() - self._began:6.1f} s  a person resumed {name}: {reason}")


def kind_of(seed: int) -> str:
    """The kind of a fault: every len(KINDS) seeds have each kind once, in an order of their own."""
    block, place = divmod(seed, len(KINDS))
    deck: Sequence[str] = random.Random(f"deck {block}").sample(list(KINDS), len(KINDS))
    return deck[place]
