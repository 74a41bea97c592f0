"""Shows that the crash states find bugs: each of these is put into the traced process, and some state must tell."""

from __future__ import annotations

import shutil

import pytest

from tests.crashstates.exploring import explore, perform, protocol, scratch
from tests.crashstates.mutants import MUTANTS

pytestmark = [pytest.mark.skipif(not shutil.which("strace"), reason="needs strace"), pytest.mark.timeout(200)]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name: str) -> None:
    mutant = MUTANTS[name]
    with scratch() as folder:
        disk = perform(protocol(mutant.protocol), folder, mutant=name, inject=mutant.inject)
        found = explore(protocol(mutant.protocol), folder, disk, most_wrong=1, lazily=True)
    assert found.wrong, f"{found.states} states tell nothing of it"
