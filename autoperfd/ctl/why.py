"""`autoperfctl why` when no daemon answers: the same story out of a copy of its memory."""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from autoperfd.core.config import recalled
from autoperfd.core.survey import differences
from autoperfd.ctl import copies, terminal
from autoperfd.daemon import story
from autoperfd.errors import AutoperfError, DaemonDown
from autoperfd.results.gather import surveys
from autoperfd.tools import TOOLS


def when_down(options: argparse.Namespace, state: Path, down: DaemonDown) -> int:
    """Print the story of a test; the exit status. Raises DaemonDown where there is no memory to be read."""
    told = read(state, options.test, options.experiment, down)
    if options.json:
        terminal.print_json({**story.to_data(told), "running": False})
    else:
        terminal.print_text(f"autoperfd is not running; its memory was read where it lies.\n\n{story.render(told)}")
    return 0


def read(state: Path, test: str, experiment: str | None, down: DaemonDown) -> story.Story:
    """The story of a test. Raises DaemonDown, AutoperfError."""
    with tempfile.TemporaryDirectory(prefix="autoperfctl-") as scratch:
        copy = copies.take_from_folder(down, state, Path(scratch))
        try:
            with closing(sqlite3.connect(copy.memory)) as db:
                db.row_factory = sqlite3.Row
                return _story(db, test, experiment)
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            hint = "`autoperfctl verify EXPERIMENT` tells what is wrong with it"
            raise AutoperfError(f"the memory in {state} cannot be read: {error}", hint=hint) from error


def _story(db: sqlite3.Connection, wanted: str, name: str | None) -> story.Story:
    rows = [
        row for row in db.execute("SELECT * FROM experiments ORDER BY id") if name in (None, row["name"], row["folder"])
    ]
    if not rows:
        raise AutoperfError(f"there is no experiment {name!r}" if name else "there is no experiment yet")
    found = [
        (row, experiment, sweep, index)
        for row in rows
        for experiment, sweep in [recalled(row["document"], row["name"], row["seed"], TOOLS)]
        if (index := sweep.index_of(wanted)) is not None
    ]
    if not found:
        raise AutoperfError(f"no experiment has a test {wanted!r}", hint="The ESS of an experiment lists names")
    if len(found) > 1:
        names = ", ".join(row["name"] for row, *_ in found)
        raise AutoperfError(
            f"{wanted} is a test of several experiments: {names}", hint="Say which one: --experiment NAME"
        )
    row, experiment, sweep, index = found[0]
    return _told(db, row, sweep.name_at(index), index, experiment.policy.retries)


def _told(db: sqlite3.Connection, row: sqlite3.Row, test: str, index: int, retries: int) -> story.Story:
    here = (row["id"], test)
    life = db.execute("SELECT life FROM lives WHERE experiment = ?", here[:1]).fetchone()
    verdict = db.execute("SELECT status FROM tests WHERE experiment = ? AND name = ?", here).fetchone()
    hold = db.execute("SELECT value FROM meta WHERE key = 'hold'").fetchone()
    queue = db.execute("SELECT * FROM requeued WHERE experiment = ? ORDER BY place", here[:1]).fetchall()
    lines = db.execute("SELECT * FROM history WHERE experiment = ? AND test = ? ORDER BY id", here)
    tries = db.execute("SELECT * FROM attempts WHERE experiment = ? AND test = ? ORDER BY number", here)
    return story.Story(
        experiment=row["name"],
        test=test,
        now=time.time(),
        lines=tuple(story.Line(**{name: line[name] for name in story.Line.__slots__}) for line in lines),
        tries=tuple(story.Try(**{name: one[name] for name in story.Try.__slots__}) for one in tries),
        verdict=verdict["status"] if verdict else "",
        life=json.loads(life["life"]),
        retries=retries,
        index=index,
        queued=next(
            (story.Queued(at, one["number"], one["charged"]) for at, one in enumerate(queue) if one["test"] == test),
            None,
        ),
        hold=hold["value"] if hold else "",
        changes=tuple(differences(surveys(db, row["id"]))),
    )
