"""`make mutants`: a table of the deliberate bugs and of the layers of tests that catch each."""

from __future__ import annotations

import json
import sys

from tests.rehearsal.layers import LIKELY, SEEDS, files, likely, put_in, scenario, simulation
from tests.rehearsal.mutants import MUTANTS

HEAD = ("mutant", "core scenario", "simulation", "memory's rows alone")


def main() -> int:
    """Exit status: 0 every mutant is caught by some layer, 1 one is not."""
    print(f"{HEAD[0]:56} {HEAD[1]:52} {HEAD[2]:22} {HEAD[3]}")
    missed, seeds = [], {}
    for name in MUTANTS:
        patch = put_in(name)
        try:
            told, caught = scenario(), simulation(likely(name))
        finally:
            patch.undo()
        seed = f"seed {caught.seed}: {caught.invariant}" if caught else "-"
        print(f"{name:56} {told or '-':52} {seed:22} {caught.memory if caught and caught.memory else '-'}", flush=True)
        if caught:
            seeds[name] = caught.seed
        if not told and not caught:
            missed.append(name)
    print(f"\n{'mutant of the write protocols':56} crash states of files")
    for name, node in files().items():
        print(f"{name:56} {node or '-'}", flush=True)
        if not node:
            missed.append(name)
    LIKELY.write_text(json.dumps(seeds, indent=1) + "\n", encoding="utf-8")
    print(f"\n{len(MUTANTS)} of the life and the engine, looked for in {SEEDS} seeds; {len(missed)} caught by nobody")
    for name in missed:
        print(f"caught by nobody: {name}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
