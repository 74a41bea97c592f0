"""What is known of what happened: the memory's rows, what experiment files say, and a record of the order of things.

Rehearsals have all of it; a test on a lab has the memory's rows, which are enough for some invariants. Pure but for
`read_memory`, which reads a database it is given; any thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from autoperfd.core import messages as m
from autoperfd.daemon.store import AttemptRow, Happened, OutboxRow, SaveHistory, Write


class VerdictRow(NamedTuple):
    """A row of the memory's table of tests."""

    experiment: int
    name: str
    place: int
    status: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What an experiment's file says; ranges because a file may be dropped again with another policy."""

    name: str = ""
    folder: str = ""
    machines: tuple[str, ...] = ()
    reboot: str = "experiment"
    buffer_secs: float = 0.0  # the least
    tests: tuple[str, ...] = ()  # in the order of the sweep
    first: int = 0  # place of the first test to be run
    retries: tuple[int, int] = (2, 2)  # least and most
    halt_after: tuple[int, int] = (10, 10)


@dataclass(slots=True)
class Memory:
    """The rows of a database file."""

    attempts: list[AttemptRow] = field(default_factory=list)  # in the order they were opened
    tests: list[VerdictRow] = field(default_factory=list)
    requeued: list[tuple[int, str, int]] = field(default_factory=list)  # experiment, test, attempts charged
    lives: dict[int, dict[str, object]] = field(default_factory=dict)
    outbox: list[OutboxRow] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Committed:
    """One write of a transaction that became durable; `commit` numbers the transactions."""

    commit: int
    write: Write
    at: float = 0.0  # seconds of a clock that never steps, as everywhere below


@dataclass(frozen=True, slots=True)
class Did:
    """Something that happened on a machine.

    `verb`: probed (and found fit), prepared, started, "ended by …", swept, wiped, "told to reboot, …", power cut,
    booted, missed (by whoever waited there for the end of that attempt).
    """

    machine: str
    verb: str
    uid: str
    boot: str
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Archived:
    """An attempt's verdict lies on the controller, in an archive, whatever the memory knows of it yet."""

    uid: str
    at: float


@dataclass(frozen=True, slots=True)
class Asked:
    """Work for an experiment was started. `life`: the how-manieth daemon did it."""

    experiment: int
    order: m.Order
    life: int
    at: float


@dataclass(frozen=True, slots=True)
class Woke:
    """The controller was suspended for so long."""

    secs: float
    at: float


@dataclass(frozen=True, slots=True)
class Twice:
    """Somebody asked for the same a second time: all lives before and after that."""

    command: str
    before: tuple[str, ...]
    after: tuple[str, ...]


Recorded = Committed | Did | Archived | Asked | Woke | Twice


@dataclass(slots=True)
class Evidence:
    """All that is known of what happened. `ended`: nothing more will happen by itself."""

    memory: Memory
    limits: Mapping[int, Limits] = field(default_factory=dict)  # by experiment
    record: Sequence[Recorded] = ()
    ended: bool = False
    archives: Mapping[tuple[str, str], str] | None = None  # (results folder, path) -> uid it is of; None: not known
    lost: Collection[tuple[str, str]] = ()  # archives that somebody took away


def read_memory(db: sqlite3.Connection) -> Memory:
    """The rows of a database. Raises sqlite3.Error."""
    names = AttemptRow.__slots__
    messages = OutboxRow.__slots__
    return Memory(
        attempts=[
            AttemptRow(**dict(zip(names, row, strict=True)))
            for row in db.execute(f"SELECT {', '.join(names)} FROM attempts ORDER BY id")
        ],
        tests=[VerdictRow(*row) for row in db.execute("SELECT experiment, name, place, status, attempts FROM tests")],
        requeued=list(db.execute("SELECT experiment, test, charged FROM requeued ORDER BY place")),
        lives={number: json.loads(life) for number, life in db.execute("SELECT experiment, life FROM lives")},
        outbox=[
            OutboxRow(**dict(zip(messages, row, strict=True)))
            for row in db.execute(f"SELECT {', '.join(messages)} FROM outbox ORDER BY created")
        ],
    )


def happened(evidence: Evidence) -> Iterator[tuple[int, int, m.Change]]:
    """(transaction, experiment, change) of each change of an experiment's life."""
    for entry in evidence.record:
        if isinstance(entry, Committed) and isinstance(entry.write, Happened):
            yield entry.commit, entry.write.experiment, entry.write.change


def commits(evidence: Evidence) -> list[tuple[float, list[Write]]]:
    """(time, writes) of each transaction, in their order."""
    found: dict[int, tuple[float, list[Write]]] = {}
    for entry in evidence.record:
        if isinstance(entry, Committed):
            found.setdefault(entry.commit, (entry.at, []))[1].append(entry.write)
    return list(found.values())


def steps(writes: Sequence[Write]) -> Iterator[SaveHistory]:
    """What a transaction says of experiments' steps, their asides about other tests included."""
    return (write for write in writes if isinstance(write, SaveHistory))
