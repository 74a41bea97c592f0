"""Reads one experiment out of a copy of the memory: its tests, planned ones too, their attempts and figures.

Promises to tell of every planned test (of a space beyond MOST_TESTS: of every one that was begun), so that what failed
or is missing is counted beside what succeeded. Reads the copy it is given and nothing else; one thread.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from autoperfd.core.config import Experiment, recalled
from autoperfd.core.ess import spread
from autoperfd.core.names import parse_name
from autoperfd.core.plan import Setting
from autoperfd.core.policy import KEPT
from autoperfd.core.survey import Survey
from autoperfd.core.sweep import Sweep
from autoperfd.errors import AutoperfError
from autoperfd.tools import TOOLS
from autoperfd.tools.judging import FIGURES

MOST_TESTS = 100_000  # planned tests that are listed one by one

State = Literal["ok", "no-summary", "failed", "skipped", "open", "missing"]
STATES: tuple[State, ...] = ("ok", "no-summary", "failed", "skipped", "open", "missing")
"""ok: proven. no-summary: its data are complete, its tool never summed up. failed: given up. skipped: by a person, or
before resuming_test_name. open: begun, and to be tried on. missing: not begun."""

Figure = float | int | str

# Not all columns: what was planned and the evidence are most of a memory, and nothing here asks for them.
_OWN = "test, number, started, ended, status, blame, machine, code, reason, archive"
_ATTEMPTS = "FROM attempts WHERE experiment = ? ORDER BY id"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt. Times in Unix seconds of the controller; `ended` None while it runs."""

    test: str
    number: int
    started: float
    ended: float | None
    end_status: str
    blame: str
    machine: str
    code: str
    reason: str
    archive: str  # path below the results folder, "" for none


@dataclass(frozen=True, slots=True)
class Test:
    """One test and what became of it: by its kept attempt, else by its latest one."""

    __test__ = False  # pytest would take it for tests of its own
    name: str
    settings: Mapping[str, Setting]
    state: State
    attempts: int
    last: Attempt | None
    figures: Mapping[str, Figure]  # FIGURES and the spread of those of subscribers; {} where no data were kept


@dataclass(frozen=True, slots=True)
class Gathered:
    """One experiment. `planned`: how many tests it has; `whole`: whether `tests` holds each of them."""

    name: str
    folder: str  # of its results, below the results folder
    experiment: Experiment
    outcome: str
    accepted: float
    planned: int
    whole: bool
    tests: tuple[Test, ...]
    attempts: tuple[Attempt, ...]  # in the order in which they began
    surveys: tuple[Survey, ...]  # of its machines, each time one had changed

    @property
    def keys(self) -> tuple[str, ...]:
        """The settings its tests have, in their order."""
        return tuple(dict.fromkeys(key for test in self.tests for key in test.settings))

    def counted(self) -> dict[State, int]:
        """state -> how many tests."""
        found: dict[State, int] = dict.fromkeys(STATES, 0)
        for test in self.tests:
            found[test.state] += 1
        if not self.whole:
            found["missing"] = self.planned - sum(found.values())
        return found


def gather(db: sqlite3.Connection, name: str) -> Gathered:
    """Everything about the experiment of that name or folder. AutoperfError where there is none, or it cannot be read.

    `db`: an open copy of the memory, `row_factory` sqlite3.Row.
    """
    try:
        row = db.execute("SELECT * FROM experiments WHERE name = ? OR folder = ? ORDER BY id", (name, name)).fetchone()
        if row is None:
            names = ", ".join(each["name"] for each in db.execute("SELECT name FROM experiments ORDER BY id")) or "none"
            raise AutoperfError(f"there is no experiment {name!r}", hint=f"Known are: {names}")
        return _gathered(db, row)
    except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
        hint = "`autoperfctl verify EXPERIMENT` tells what is wrong with it"
        raise AutoperfError(f"the memory cannot be read: {error}", hint=hint) from error


def _gathered(db: sqlite3.Connection, row: sqlite3.Row) -> Gathered:
    experiment, sweep = recalled(row["document"], row["name"], row["seed"], TOOLS)
    here = (row["id"],)
    life = json.loads(db.execute("SELECT life FROM lives WHERE experiment = ?", here).fetchone()["life"])
    begun = _begun(db, row["id"])
    whole = sweep.count <= MOST_TESTS
    return Gathered(
        name=row["name"],
        folder=row["folder"],
        experiment=experiment,
        outcome=str(life.get("outcome", "")),
        accepted=row["accepted"],
        planned=sweep.count,
        whole=whole,
        tests=tuple(_planned(experiment, sweep, begun) if whole else begun.values()),
        attempts=tuple(_attempts(db, row["id"])),
        surveys=tuple(surveys(db, row["id"])),
    )


def _planned(experiment: Experiment, sweep: Sweep, begun: Mapping[str, Test]) -> Iterator[Test]:
    """Every test of the sweep, in its order."""
    resuming = experiment.policy.resuming_test_name
    first = (sweep.index_of(resuming) or 0) if resuming else 0
    for index in range(sweep.count):
        name = sweep.name_at(index)
        known = begun.get(name)
        yield known or Test(name, sweep.at(index), "skipped" if index < first else "missing", 0, None, {})


def _begun(db: sqlite3.Connection, experiment: int) -> dict[str, Test]:
    """name -> test, of all that have a verdict or an attempt, in the order in which they were begun."""
    verdicts = dict(db.execute("SELECT name, status FROM tests WHERE experiment = ?", (experiment,)).fetchall())
    again = {row["test"] for row in db.execute("SELECT test FROM requeued WHERE experiment = ?", (experiment,))}
    found: dict[str, Test] = {}
    for row in db.execute(f"SELECT {_OWN}, settings, figures {_ATTEMPTS}", (experiment,)):
        before = found.get(row["test"])
        tries = (before.attempts if before else 0) + (row["status"] != "skipped")
        kept = row["status"] in KEPT
        if before and before.figures and not kept:
            found[row["test"]] = Test(before.name, before.settings, before.state, tries, before.last, before.figures)
            continue
        state = _state(verdicts.get(row["test"], ""), row["test"] in again)
        figures = _figures(row["figures"]) if kept else {}
        found[row["test"]] = Test(row["test"], json.loads(row["settings"]), state, tries, _attempt(row), figures)
    for name in verdicts.keys() - found.keys():
        found[name] = Test(name, parse_name(name), _state(verdicts[name], name in again), 0, None, {})
    return found


def _state(verdict: str, again: bool) -> State:
    if again or not verdict:
        return "open"
    if verdict == "success":
        return "ok"
    return "no-summary" if verdict == "no-summary" else "skipped" if verdict == "skipped" else "failed"


def _figures(text: str) -> dict[str, Figure]:
    kept = json.loads(text)
    figures = {name: kept[name] for name in FIGURES if kept.get(name) not in (None, "")}
    return {**figures, **{name: value for name, value in spread(kept, FIGURES).items() if value is not None}}


def _attempts(db: sqlite3.Connection, experiment: int) -> Iterator[Attempt]:
    for row in db.execute(f"SELECT {_OWN} {_ATTEMPTS}", (experiment,)):
        if row["status"] != "skipped":  # that row tells of no attempt
            yield _attempt(row)


def surveys(db: sqlite3.Connection, experiment: int) -> Iterator[Survey]:
    """What was found of the machines of the experiment of that number, oldest first. Raises sqlite3.Error."""
    sql = "SELECT s.machine, s.attempt, a.started, s.facts FROM surveys s JOIN attempts a ON a.id = s.attempt"
    for row in db.execute(f"{sql} WHERE s.experiment = ? ORDER BY s.attempt, s.machine", (experiment,)):
        yield Survey(row["machine"], row["attempt"], row["started"], row["facts"])


def _attempt(row: sqlite3.Row) -> Attempt:
    return Attempt(
        test=row["test"],
        number=row["number"],
        started=row["started"],
        ended=row["ended"],
        end_status=row["status"],
        blame=row["blame"],
        machine=row["machine"],
        code=row["code"],
        reason=row["reason"],
        archive=row["archive"],
    )
