"""The ties between tests and the fault model hold: a fault that never struck fails its test."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

MARKED = """
import pytest

@pytest.mark.fault("P4")
def test_struck(fired):
    fired("P4", "it was seen")

@pytest.mark.fault("P4", "P5")
def test_half(fired):
    fired("P4", "it was seen")

@pytest.mark.fault("P4")
def test_silent():
    pass

@pytest.mark.fault("P4")
def test_stranger(fired):
    fired("P4", "it was seen")
    fired("D1", "it was seen")

@pytest.mark.fault("P4")
def test_saw_nothing(fired):
    fired("P4", "")

def test_unmarked():
    pass
"""


def test_a_fault_that_never_struck_fails_its_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MARKED)
    pytester.makeconftest("from tests.faults import fired, pytest_pyfunc_call")
    pytester.makeini("[pytest]\nmarkers = fault(row, ...): rows\n")
    done = pytester.runpytest_inprocess("-p", "no:timeout")
    done.assert_outcomes(passed=2, failed=4)
    done.stdout.fnmatch_lines(["*the faults P5 never struck*", "*the faults P4 never struck*"])
