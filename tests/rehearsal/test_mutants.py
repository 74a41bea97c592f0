"""Shows that the simulator and the core's scenarios find bugs: each mutant is put in, and one of them must tell."""

from __future__ import annotations

import pytest

from tests.rehearsal.layers import likely, put_in, scenario, simulation
from tests.rehearsal.mutants import MUTANTS

# What shows itself only after more trouble than a few minutes of it; the core's scenarios tell.
BY_SCENARIOS = {"it_comes_back_for_ever", "flapping_is_not_recognised"}


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in BY_SCENARIOS])
def test_a_mutant_is_found_by_the_simulator(name: str) -> None:
    patch = put_in(name)
    try:
        caught = simulation(likely(name))
    finally:
        patch.undo()
    assert caught is not None, "no seed tells anything of it"


@pytest.mark.parametrize("name", sorted(BY_SCENARIOS))
def test_a_mutant_is_found_by_a_scenario(name: str) -> None:
    patch = put_in(name)
    try:
        caught = scenario()
    finally:
        patch.undo()
    assert caught


def test_there_are_enough() -> None:
    assert len(MUTANTS) >= 40 and set(MUTANTS) >= BY_SCENARIOS
