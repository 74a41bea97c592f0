"""`make proof`: how much damage the verdict sees, by kind, beside the naive rule, as one table. One thread.

The naive rule is what passes elsewhere: the right number of files, and the first ten rows of each can be read.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autoperfd.core.plan import Plan, Setting
from autoperfd.tools import TOOLS
from tests.tools import damage
from tests.tools.clean import perftest_files
from tests.tools.support import DATA, planned, records, write

PERFTEST = TOOLS["perftest"]
WANTED_OVERALL, WANTED_WORST = 0.99, 0.95
VERSIONS = ((3, 3), (4, 0), (4, 1, 1), (4, 2), (4, 3))
SAMPLES = DATA / "perftest"
SAID = {role: (SAMPLES / "stderr" / name).read_bytes() for role, name in
        (("pub", "pub_0_ok_timer.stderr.txt"), ("sub", "sub_0_ok.stderr.txt"))}  # fmt: skip
HELP: dict[tuple[int, ...], str] = {(3, 3): "-outputFormat"}


@dataclass(frozen=True)
class Clean:
    """An attempt that went well: its plan and its data files."""

    plan: Plan
    files: dict[str, bytes]


@dataclass
class Seen:
    """How one kind of damage fared."""

    tried: int = 0
    seen: int = 0
    naive: int = 0


def made(version: tuple[int, ...], seed: str, changes: dict[str, Setting]) -> Clean:
    """An attempt of the stand-in's printers."""
    said = HELP.get(version, "")
    plan = planned(PERFTEST, {"p1": said, "p2": said} if said else {}, **changes)
    return Clean(plan, perftest_files(plan, version, seed))


def attempts(count: int, seed: int) -> Iterator[tuple[Clean, Clean]]:
    """So many attempts that went well, each with one of another test that is its neighbour."""
    rng = random.Random(seed)
    for number in range(count):
        if number % 10 == 9:
            yield sampled(rng), made((4, 1, 1), f"{seed} {number}", {"duration_secs": 60, "datalen_bytes": 1000})
            continue
        version = rng.choice(VERSIONS)
        changes: dict[str, Setting] = {
            "duration_secs": rng.choice([10, 30, 60, 300]),
            "datalen_bytes": rng.choice([100, 1000, 16384]),
            "pub_count": rng.choice([1, 1, 3]),
            "sub_count": rng.choice([1, 2, 3]),
            "use_reliable": rng.random() < 0.5,
            "latency_count": rng.choice([100, 1000]),
        }
        length = rng.choice([length for length in (100, 1000, 16384) if length != changes["datalen_bytes"]])
        neighbour = {**changes, "datalen_bytes": length, "duration_secs": rng.choice([10, 30, 60])}
        yield made(version, f"{seed} {number} a", changes), made(version, f"{seed} {number} b", neighbour)


def sampled(rng: random.Random) -> Clean:
    """The layout-exact samples, as one attempt."""
    folder = SAMPLES / rng.choice(["4.0-4.1.1", "4.2-4.3"])
    plan = planned(PERFTEST, duration_secs=30)
    names = {"pub_0.csv": "pub_throughput.csv", "sub_0.csv": "sub_1pub.csv"}
    return Clean(plan, {name: (folder / sample).read_bytes() for name, sample in names.items()})


def is_success(folder: Path, clean: Clean, files: damage.Files) -> bool:
    """What our verdict says; every process ended well, so that only the files can tell."""
    for path in folder.iterdir():
        path.unlink()
    said: dict[str, bytes | None] = {}
    for p in clean.plan.participants:
        said |= {p.stdout: b"", p.stderr: SAID[p.role]}
    write(folder, {**{name: text for name, text in said.items() if name not in clean.files}, **files})
    return PERFTEST.verdict(clean.plan, folder, records(clean.plan)).end_status == "success"


# One in forty such changes is within what a figure is printed to (a last digit of a total, of a cut rate), so that
# nobody could see it: its share wants more tries than those that are all or nothing.
OFTEN = {"digit_changed": 5}

ROW = re.compile(rb"\s*\d+(\s*,\s*[-+.\w]+)+\s*")


def naive(clean: Clean, files: damage.Files) -> bool:
    """As many files as there should be, and the first ten rows of each are numbers with commas between."""
    if len(files) != len(clean.files):
        return False
    for content in files.values():
        rows = [line for line in content.splitlines() if b"," in line and b"Bytes" not in line][:10]
        if not rows or not all(ROW.fullmatch(row) for row in rows):
            return False
    return True


def measure(count: int, times: int, seed: int, folder: Path) -> tuple[dict[str, Seen], Seen]:
    """Every kind of damage `times` times on each of `count` attempts; and how the attempts without damage fared."""
    rng = random.Random(f"damage {seed}")
    table = {kind.__name__: Seen() for kind in (*damage.ONE_FILE, *damage.ALL_FILES)}
    clean = Seen()
    for good, other in attempts(count, seed):
        clean.tried += 1
        clean.seen += not is_success(folder, good, good.files)
        clean.naive += not naive(good, good.files)
        for _ in range(times):
            for name, files in damaged(rng, good, other):
                if damage.equal(files, good.files):
                    continue
                kind = table[name]
                kind.tried += 1
                kind.seen += not is_success(folder, good, files)
                kind.naive += not naive(good, files)
    return table, clean


def damaged(rng: random.Random, good: Clean, other: Clean) -> Iterator[tuple[str, dict[str, bytes]]]:
    """One of each kind."""
    for one in damage.ONE_FILE:
        name = rng.choice(sorted(good.files))
        if one is damage.foreign_line and not good.plan.participants[0].files:
            continue  # in a standard output the middleware's messages stand by right
        for _ in range(OFTEN.get(one.__name__, 1)):
            yield one.__name__, {**good.files, name: one(rng, good.files[name])}
    for all_of in damage.ALL_FILES:
        yield all_of.__name__, all_of(rng, good.files, other.files)


def share(seen: int, tried: int) -> float:
    return seen / tried if tried else 1.0


def wrong(table: dict[str, Seen], clean: Seen) -> list[str]:
    """What is not as it should be, as sentences."""
    tried, seen = sum(kind.tried for kind in table.values()), sum(kind.seen for kind in table.values())
    said = [f"{clean.seen} of {clean.tried} attempts without damage were not successes"] if clean.seen else []
    if share(seen, tried) < WANTED_OVERALL:
        said.append(f"{share(seen, tried):.2%} of all damage was seen, not {WANTED_OVERALL:.0%}")
    said += [
        f"{share(kind.seen, kind.tried):.1%} of {name} was seen, not {WANTED_WORST:.0%}"
        for name, kind in table.items()
        if share(kind.seen, kind.tried) < WANTED_WORST
    ]
    return [*said, *(f"{name} was never tried" for name, kind in table.items() if not kind.tried)]


def printed(table: dict[str, Seen], clean: Seen) -> str:
    """The confusion table: damage seen and not seen, clean attempts let pass and not, by both rules."""
    lines = [f"{'damage':<28}{'tried':>7}{'seen':>7}{'missed':>8}{'':>9}{'naive rule sees':>18}"]
    for name, kind in sorted(table.items(), key=lambda item: share(item[1].seen, item[1].tried)):
        lines.append(_line(name.replace("_", " "), kind))
    total = Seen(*(sum(getattr(kind, field) for kind in table.values()) for field in ("tried", "seen", "naive")))
    lines += [
        _line("ALL DAMAGE", total),
        "",
        f"{'without damage':<28}{'tried':>7}{'alarms':>7}{'naive rule alarms':>34}",
    ]
    lines.append(f"{'':<28}{clean.tried:>7}{clean.seen:>7}{clean.naive:>34}")
    return "\n".join(lines)


def _line(name: str, kind: Seen) -> str:
    missed = kind.tried - kind.seen
    ours, theirs = share(kind.seen, kind.tried), share(kind.naive, kind.tried)
    return f"{name:<28}{kind.tried:>7}{kind.seen:>7}{missed:>8}{ours:>9.1%}{theirs:>18.1%}"


def main() -> int:
    """Measures and prints; 1 when a threshold is missed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory(prefix="autoperf-proof-") as folder:
        table, clean = measure(count, 1, 1, Path(folder))
    print(printed(table, clean))
    said = wrong(table, clean)
    print("\n".join(f"NOT PROVEN: {sentence}" for sentence in said) or "thresholds met")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
