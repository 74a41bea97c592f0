"""FAULTS.md is what the fault model and the tests' markers say, and no row of the model is without a test."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fault_table import ROOT, TABLE, by_row, problems, read_model, summary, table
from tests.faults import MARKED

MODEL = [
    {
        "name": "The disk",
        "rows": [
            {"id": "D1", "fault": "it is full", "outcome": "halted"},
            {"id": "D2", "fault": "it is gone", "outcome": "halted"},
            {"id": "D2", "fault": "it is slow", "outcome": "slower"},
        ],
    }
]


@pytest.mark.timeout(300)
def test_every_row_is_shown_by_a_test_and_the_table_is_fresh(pytestconfig: pytest.Config) -> None:
    """Of what this run has collected where that was everything; else the tests are collected once more."""
    everything = pytestconfig.args_source is pytest.Config.ArgsSource.TESTPATHS
    if everything and not pytestconfig.getoption("ignore") and not pytestconfig.getoption("deselect"):
        marked = pytestconfig.stash[MARKED]
        model, shown = read_model(), by_row(marked)
        assert problems(model, shown) == []
        fresh = TABLE.read_text(encoding="utf-8") == table(model, shown)
        assert fresh, "FAULTS.md is not as `make faults` writes it"
        return
    argv = [sys.executable, str(ROOT / ".ci" / "fault_table"), "--check"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n`make faults` writes FAULTS.md anew"


def test_what_is_missing_or_too_much_is_named() -> None:
    shown = by_row(
        [
            ("tests/a/test_disk.py::test_a_full_disk_halts[quota]", ["D1"]),
            ("tests/a/test_disk.py::test_a_full_disk_halts[size]", ["D1"]),
            ("tests/test_more.py::test_of_nothing", ["D7", "D1"]),
        ]
    )
    assert problems(MODEL, shown) == [
        *("no test shows D2", "no test shows D2"),
        "there is no row D7: tests/test_more.py",
        "the row D2 stands there twice",
    ]
    assert summary(MODEL, shown) == "1 of 2 rows are shown by a test"
    written = table(MODEL, shown)
    tests = (
        "[a/test_disk.py](tests/a/test_disk.py): a full disk halts<br>[test_more.py](tests/test_more.py): of nothing"
    )
    assert f"| D1 | it is full | halted | {tests} |\n" in written
    assert "| D2 | it is gone | halted |  |\n" in written
