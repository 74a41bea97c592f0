"""Shows that the simulator and the core's scenarios find bugs: each mutant is put in, and one of them must tell."""

from __future__ import annotations

import pytest

from tests.rehearsal.layers import likely, put_in, scenario, simulation
from tests.rehearsal.mutants import MUTANTS

# What shows itself only after more trouble than the simulator makes in a few minutes; the core's scenarios tell.
RARE = {name for name in MUTANTS if not likely(name)}


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in RARE])
def test_a_mutant_is_found_by_the_simulator(name: str) -> None:
    patch = put_in(name)
    try:
        caught = simulation(likely(name))
    finally:
        patch.undo()
    assert caught is not None, "no seed tells anything of it"


@pytest.mark.parametrize("name", sorted(RARE))
def test_a_mutant_is_found_by_a_scenario(name: str) -> None:
    patch = put_in(name)
    try:
        caught = scenario()
    finally:
        patch.undo()
    assert caught


def test_there_are_enough() -> None:
    assert len(MUTANTS) >= 40
    assert len(MUTANTS) - len(RARE) >= 30, "most are found by the simulator"
