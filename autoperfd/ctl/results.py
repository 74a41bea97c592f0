"""`autoperfctl results`: the tests of an experiment and their figures, chosen and grouped. Reads a copy of the memory.

Lists failed and missing tests beside the others, and counts them in every group. One thread.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from autoperfd.core.ess import line
from autoperfd.ctl import copies, output
from autoperfd.daemon.views import count, escaped
from autoperfd.errors import AutoperfError
from autoperfd.results.gather import STATES, Gathered, State, Test, gather
from autoperfd.results.select import (
    COLUMNS,
    NUMBERS,
    Condition,
    Group,
    Value,
    chosen,
    columns,
    condition,
    grouped,
    value,
)

SHOWN = 20  # rows of the table of tests: the latest

# (figure, title, decimals)
FIGURES = (
    ("latency_mean_us", "MEAN us", 1),
    ("latency_99_us", "99 % us", 1),
    ("total_samples_per_s", "SAMPLES/s", 0),
    ("total_mbps", "MBIT/s", 2),
    ("total_lost_percent", "LOST %", 3),
)
LEGEND = "latency one way; throughput of all subscribers"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person wants to see."""

    where: tuple[Condition, ...] = ()
    by: tuple[str, ...] = ()

    @staticmethod
    def read(where: Sequence[str], by: str) -> Wanted:
        """From the command line. AutoperfError where it is not understood."""
        return Wanted(tuple(condition(text) for text in where), columns(by) if by else ())


@dataclass(frozen=True, slots=True)
class Results:
    """What is shown: all of the experiment, and the tests that were chosen."""

    gathered: Gathered
    folder: Path
    wanted: Wanted
    tests: tuple[Test, ...]

    @property
    def groups(self) -> list[Group]:
        """The tests that were chosen, in groups."""
        return grouped(self.tests, self.wanted.by)


def read(name: str, wanted: Wanted, ask: copies.Ask, state: Path, scratch: Path) -> Results:
    """Read an experiment's results. Raises DaemonDown, AutoperfError."""
    copy = copies.take(ask, state, scratch)
    with closing(sqlite3.connect(copy.memory)) as db:
        db.row_factory = sqlite3.Row
        gathered = gather(db, name)
    return Results(gathered, copy.results / gathered.folder, wanted, tuple(chosen(gathered.tests, wanted.where)))


# ---------------------------------------------------------------- for a person


def report(results: Results, width: int = 0) -> str:
    """The results as text for a person; tables at most `width` columns wide where that is not 0."""
    return "".join(f"{escaped(text)}\n" for text in _lines(results, width))


def _lines(results: Results, width: int) -> Iterator[str]:
    gathered, wanted = results.gathered, results.wanted
    counts = gathered.counted()
    yield f"{gathered.name}: {results.folder}"
    yield f"  ess.csv      {count(len(gathered.attempts), 'attempt')}"
    yield f"  summary.csv  {count(counts['ok'] + counts['no-summary'], 'test')} with complete data"
    yield "  data/        an archive an attempt: what was started, what was printed, what was measured"
    yield f"  {count(gathered.planned, 'test')}: {_counts(counts)}"
    if not gathered.whole:
        yield "  (of so many tests only those that were begun are listed)"
    yield ""
    if wanted.where:
        yield f"{count(len(results.tests), 'test')} of them chosen."
    if wanted.by:
        yield f"Figures are means over the tests that are ok ({LEGEND}):"
        yield from _fitted(_group_table(results), len(wanted.by) + 5, width)
    elif results.tests:
        few = f", the latest {SHOWN}" if len(results.tests) > SHOWN else ""
        yield f"Figures{few} ({LEGEND}):"
        yield from _fitted(_test_table(results.tests), 3, width)


def _counts(counts: dict[State, int]) -> str:
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "none"


def _test_table(tests: Sequence[Test]) -> list[Sequence[str]]:
    """The tests that were begun last; where none was, the first ones."""
    begun = sorted((test for test in tests if test.last), key=lambda test: test.last.started if test.last else 0.0)
    table: list[Sequence[str]] = [("TEST", "STATE", "TRIES", *(title for _, title, _ in FIGURES))]
    for test in begun[-SHOWN:] or tests[:SHOWN]:
        state = f"{test.state} {test.last.code}" if test.last and test.state == "failed" else test.state
        figures = [_number(value(test, name), decimals) for name, _, decimals in FIGURES]
        table.append((test.name, state.strip(), str(test.attempts), *figures))
    return table


def _group_table(results: Results) -> list[Sequence[str]]:
    by = results.wanted.by
    titles = (*by, "TESTS", "TRIED", "OK", "FAILED", "OTHER")
    table: list[Sequence[str]] = [(*titles, *(title for _, title, _ in FIGURES))]
    for group in results.groups:
        ok, failed = group.counts["ok"], group.counts["failed"]
        numbers = (group.tests, group.attempted, ok, failed, group.tests - ok - failed)
        means = [_number(group.means.get(name, (None,))[0], decimals) for name, _, decimals in FIGURES]
        table.append((*(_word(each) for each in group.key), *map(str, numbers), *means))
    return table


def _fitted(table: list[Sequence[str]], kept: int, width: int) -> Iterator[str]:
    """The table as lines; figures that do not fit are left out from the right, the first `kept` columns never."""
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    shown = len(widths)
    while width and shown > kept and sum(widths[:shown]) + 2 * (shown - 1) > width:
        shown -= 1
    for first, *others in table:
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        yield "  ".join(cells[:shown]).rstrip()
    if shown < len(widths):
        yield f"(no room for {', '.join(table[0][shown:])}: a wider terminal or --csv has them)"


def _number(found: Value, decimals: int) -> str:
    return f"{found:.{decimals}f}" if isinstance(found, int | float) else "-"


def _word(found: Value) -> str:
    if isinstance(found, bool):
        return "true" if found else "false"
    return "-" if found is None else str(found)


def terminal_width() -> int:
    """How wide the terminal is; 0 where standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else 0


# ---------------------------------------------------------------- for a program


def facts(results: Results) -> dict[str, object]:
    """The same for a script: all figures of all tests, or of all groups, that were chosen."""
    gathered = results.gathered
    found: dict[str, object] = {
        "experiment": gathered.name,
        "folder": str(results.folder),
        "planned": gathered.planned,
        "counts": gathered.counted(),
        "attempts": len(gathered.attempts),
    }
    if results.wanted.by:
        return {**found, "groups": [_group_facts(results.wanted.by, group) for group in results.groups]}
    return {**found, "tests": [_test_facts(test) for test in results.tests]}


def _test_facts(test: Test) -> dict[str, Value]:
    return {column: found for column in COLUMNS if (found := value(test, column)) is not None}


def _group_facts(by: Sequence[str], group: Group) -> dict[str, object]:
    return {
        **dict(zip(by, group.key, strict=True)),
        "tests": group.tests,
        "attempted": group.attempted,
        **{str(state): number for state, number in group.counts.items()},
        "means": {name: mean for name, (mean, _) in group.means.items()},
        "of": {name: of for name, (_, of) in group.means.items()},
    }


def csv(results: Results) -> Iterator[str]:
    """The same as lines of CSV that no spreadsheet takes for formulas."""
    by = results.wanted.by
    if by:
        yield line((*by, "tests", "attempted", *STATES, *(f"mean_{name}" for name in NUMBERS)))
        for group in results.groups:
            means = [round(group.means[name][0], 4) if name in group.means else None for name in NUMBERS]
            counts = [group.counts[state] for state in STATES]
            yield line((*group.key, group.tests, group.attempted, *counts, *means))
        return
    yield line(COLUMNS)
    for test in results.tests:
        yield line([value(test, column) for column in COLUMNS])


def parquet(results: Results, path: Path) -> None:
    """Write the tests that were chosen as Parquet. AutoperfError where that cannot be."""
    if results.wanted.by:
        raise AutoperfError("Parquet files hold tests, not groups", hint="Leave --by out, or use --csv")
    try:
        from autoperfd.results import parquet
    except ModuleNotFoundError as error:
        hint = "sudo make install EXTRAS=parquet, or pip install pyarrow where autoperfctl is installed"
        raise AutoperfError(f"Parquet needs {error.name}, which is not installed", hint=hint) from error
    output.write(
        path, "Parquet file", parquet.is_one, lambda file: parquet.write(file, results.gathered.name, results.tests)
    )
