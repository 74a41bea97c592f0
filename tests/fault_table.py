"""FAULTS.md as text, from the fault model and from what tests are marked with, and what is wrong with the two; pure.

`shown`: row of the model -> file of tests -> names of its tests that show the row.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "FAULTS.md"
HEAD = """# Faults

What this daemon must survive, and the tests that make it happen: a test marked with a row fails unless that row's fault
really struck in it (`tests/faults.py`). Written by `make faults` from `tests/data/faults.toml` and the tests' markers.
"""

Model = Sequence[Mapping[str, Any]]
Shown = dict[str, dict[str, list[str]]]


def read_model() -> Model:
    """The parts of the fault model, each with its rows."""
    parts: Model = tomllib.loads((ROOT / "tests" / "data" / "faults.toml").read_text(encoding="utf-8"))["parts"]
    return parts


def by_row(marked: Iterable[tuple[str, Sequence[str]]]) -> Shown:
    """`shown` of the names of tests, as pytest writes them, and the rows each is marked with."""
    shown: Shown = {}
    for nodeid, rows in marked:
        file, _, test = nodeid.partition("::")
        for row in rows:
            names = shown.setdefault(row, {}).setdefault(file, [])
            if (name := test.partition("[")[0]) not in names:
                names.append(name)
    return shown


def problems(model: Model, shown: Shown) -> list[str]:
    """Rows that no test shows, markers of rows that there are not, rows that stand there twice."""
    ids = [row["id"] for part in model for row in part["rows"]]
    wrong = [f"no test shows {row}" for row in ids if row not in shown]
    wrong += [f"there is no row {row}: {', '.join(shown[row])}" for row in shown if row not in ids]
    return wrong + [f"the row {row} stands there twice" for row in sorted({row for row in ids if ids.count(row) > 1})]


def summary(model: Model, shown: Shown) -> str:
    """How many rows are shown."""
    ids = {row["id"] for part in model for row in part["rows"]}
    return f"{len(ids & set(shown))} of {len(ids)} rows are shown by a test"


def table(model: Model, shown: Shown) -> str:
    """The whole of FAULTS.md."""
    parts = [HEAD]
    for part in model:
        parts += [f"\n## {part['name']}\n\n| | the fault | what must hold | shown by |\n|---|---|---|---|\n"]
        for row in part["rows"]:
            parts.append(f"| {row['id']} | {row['fault']} | {row['outcome']} | {_cell(shown.get(row['id'], {}))} |\n")
    return "".join(parts)


def _cell(shown: Mapping[str, list[str]]) -> str:
    return "<br>".join(
        f"[{file.removeprefix('tests/')}]({file}): {', '.join(map(_words, shown[file]))}" for file in shown
    )


def _words(name: str) -> str:
    """A test's name is a sentence."""
    return name.rpartition("::")[2].removeprefix("test_").replace("_", " ")
