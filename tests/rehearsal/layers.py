"""The layers of tests that look for a mutant: each says where it was caught, or "" where it was not. One thread.

A mutant stands as it is put in; the layers of this process run under it, those of files in processes of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from autoperfd.rehearsal.evidence import Evidence
from autoperfd.rehearsal.faults import trouble
from autoperfd.rehearsal.invariants import problems
from tests.core.lives import forget_lives
from tests.core.scenarios import SCENARIOS
from tests.rehearsal.mutants import MUTANTS

ROOT = Path(__file__).parents[2]
SEEDS = 600
LIKELY = Path(__file__).with_name("seeds.json")  # mutant -> the seed that told of it when it was last looked for
FILES = "tests/crashstates/test_mutants.py"


@dataclass(frozen=True, slots=True)
class Caught:
    """By seed and invariant, from all evidence and from the memory's rows alone."""

    seed: int
    invariant: str
    memory: str  # "" where the rows alone tell nothing


def scenario() -> str:
    """The first scenario of the core that fails now."""
    for one in SCENARIOS:
        try:
            one()
        except Exception:  # noqa: BLE001 - however it fails, it is noticed
            return one.__name__
        finally:
            forget_lives()
    return ""


def lived(seed: int) -> Caught | None:
    """What the invariants say of one seed now; None: nothing."""
    with trouble(seed) as world:
        try:
            world.live(world.horizon, stop_early=False)
            found = world.problems(ended=False) or world.conclude()
        except AssertionError as error:
            found = [str(error) or "an assertion of the product"]
        if not found:
            return None
        known = world.evidence(ended=world.is_calm)
        rows = problems(Evidence(known.memory, known.limits, ended=known.ended))
        return Caught(seed, found[0].partition(":")[0], rows[0].partition(":")[0] if rows else "")


def simulation(likely: Iterable[int] = (), seeds: int = SEEDS) -> Caught | None:
    """The first of so many seeds that tells of something now; the likely ones are tried first."""
    for seed in (*likely, *range(seeds)):
        caught = lived(seed)
        if caught is not None:
            return caught
    return None


def likely(name: str) -> list[int]:
    """Seeds to begin with when a mutant is looked for."""
    known = json.loads(LIKELY.read_text(encoding="utf-8"))
    return [known[name]] if name in known else []


def put_in(name: str) -> pytest.MonkeyPatch:
    """Put a mutant in; undo() of what comes back takes it out."""
    patch = pytest.MonkeyPatch()
    MUTANTS[name](patch)
    return patch


def files() -> dict[str, str]:
    """Mutants of the write protocols -> the test that catches each, "" where it does not. Takes minutes."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", FILES, f"--junit-xml={report}"]
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
        cases = list(ElementTree.parse(report).iter("testcase"))
    found = {}
    for case in cases:
        name = str(case.get("name")).partition("[")[2].rstrip("]")
        if name:
            found[name] = FILES if len(case) == 0 else ""
    return found
