"""Draws what an experiment has come to, as a report does: a program of its own, given a copy of the memory and a name.

Started by page/figures.py as `python -m autoperfd.page.draw MEMORY NAME`, apart from the daemon, as plots take seconds
and a hundred MB. Writes JSON to its standard output: {"sentences", "cautions", "completeness", "map", "undrawn",
"unproven", "effects", "time_line", "lacking"} or {"error"}. One thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from autoperfd.errors import AutoperfError
from autoperfd.page.answers import NoAnswer
from autoperfd.page.memory import opened
from autoperfd.report import facts
from autoperfd.results.gather import Gathered, State, gather

CPU_SECS = 120
MOST_CELLS = 20_000  # of the map of tests
MOST_UNPROVEN = 100
ACROSS = 100  # cells of a line of the map
CELL = 10  # units from one to the next
COLOURS: dict[State, str] = {
    "ok": "#009e73",
    "no-summary": "#e69f00",
    "failed": "#d55e00",
    "skipped": "#a9b1ba",
    "open": "#56b4e9",
    "missing": "#dfe4ea",
}


def main(argv: Sequence[str]) -> int:
    """Draw; 0 when there is an answer."""
    path, name = argv
    with contextlib.suppress(OSError):  # forbidden by the unit's sandbox, and meant kindly only
        os.nice(15)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECS, hard))
    try:
        with closing(opened(Path(path))) as db:
            answer = drawn(gather(db, name))
    except AutoperfError as error:
        answer = {"error": error.sentence()}
    except NoAnswer as error:
        answer = {"error": error.error}
    json.dump(answer, sys.stdout)
    return 0


def drawn(gathered: Gathered) -> dict[str, Any]:
    """All of it, as plain JSON values."""
    lacking, effects, time_line = "", [], ""
    try:
        from autoperfd.report import plots
    except ModuleNotFoundError as error:
        lacking = f"plots need {error.name}, which is not installed: sudo make install EXTRAS='page report'"
    else:
        effects, time_line = plots.effects(gathered.tests), plots.time_line(gathered)
    return {
        "sentences": facts.sentences(gathered),
        "cautions": facts.cautions(gathered, facts.machines(gathered)),
        "completeness": facts.completeness(gathered),
        "map": completeness_map([test.state for test in gathered.tests[:MOST_CELLS]]),
        "undrawn": max(0, gathered.planned - min(len(gathered.tests), MOST_CELLS)),
        "unproven": [(test.name, test.state, facts.told(test)) for test in facts.unproven(gathered)[:MOST_UNPROVEN]],
        "effects": effects,
        "time_line": time_line,
        "lacking": lacking,
    }


def completeness_map(states: Sequence[State]) -> str:
    """SVG: a square a test, in the order of the experiment, line by line."""
    across = min(ACROSS, max(20, len(states)))
    lines = max(1, -(-len(states) // across))
    paths: dict[State, list[str]] = {}
    for place, state in enumerate(states):
        x, y = place % across * CELL, place // across * CELL
        paths.setdefault(state, []).append(f"M{x} {y}h{CELL - 1}v{CELL - 1}h-{CELL - 1}z")
    drawn = "".join(f'<path fill="{COLOURS[state]}" d="{"".join(found)}"/>' for state, found in paths.items())
    size = f'viewBox="0 0 {across * CELL} {lines * CELL}" width="{across * CELL}" height="{lines * CELL}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} shape-rendering="crispEdges">{drawn}</svg>'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
