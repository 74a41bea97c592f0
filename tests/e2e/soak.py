"""`make soak`: storm after storm in the container lab, each of 60 seeded faults; what was done is not done again.

Every storm that is over leaves a line in the record file (JSON: its seeds, what struck, what did not hold), so a soak
that was interrupted goes on where it was, ranges add up, and the sums of all lines are the result. One thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from autoperfd.errors import AutoperfError
from autoperfd.lab.container import ContainerLab, missing
from tests.e2e.storms import problems, rage

PROJECT = Path(__file__).parents[2]
RECORDS = PROJECT / ".soak" / "storms.jsonl"
FAULTS = 60  # in one storm
TESTS = 40  # of each of its two experiments
FLOOD_MB = 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 everything held, 1 something did not, 2 it cannot be done here."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="SEED", help="the first fault")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="how many faults")
    parser.add_argument("--records", type=Path, default=RECORDS, metavar="FILE", help="what was done so far")
    parser.add_argument("--flood-mb", type=int, default=FLOOD_MB, metavar="MB", help="what a flooding tool prints")
    args = parser.parse_args(argv)
    if reason := missing():
        print(f"the soak cannot start: {reason}", file=sys.stderr)
        return 2
    args.records.parent.mkdir(parents=True, exist_ok=True)
    wanted = range(args.first, args.first + args.count)
    todo = list(_storms(wanted, _read(args.records)))
    if todo:
        with tempfile.TemporaryDirectory(prefix="autoperf-soak-") as folder:
            lab = ContainerLab(Path(folder, "lab"), machines=4, controller=True)
            lab.install_controller(PROJECT)
            with lab:
                for seeds in todo:
                    _write(args.records, _one(lab, seeds, args.flood_mb))
                    lab.reset()
    return _tell([record for record in _read(args.records) if record["from"] in wanted])


def _storms(wanted: range, records: Sequence[dict[str, Any]]) -> Iterator[range]:
    """The wanted seeds that no record has, FAULTS or fewer in a row."""
    done = {seed for record in records for seed in range(record["from"], record["from"] + record["count"])}
    start = wanted.start
    while start < wanted.stop:
        end = start
        while end < min(start + FAULTS, wanted.stop) and end not in done:
            end += 1
        if end > start:
            yield range(start, end)
        start = max(end, start + 1)


def _one(lab: ContainerLab, seeds: range, flood_mb: int) -> dict[str, Any]:
    """One storm; what came of it."""
    began = time.monotonic()
    record: dict[str, Any] = {"from": seeds.start, "count": len(seeds), "struck": {}}
    record |= {"attempts": 0, "charged": 0, "resumed": 0}
    try:
        raged = rage(lab, seeds.start, len(seeds), TESTS, flood_mb=flood_mb)
        record["problems"] = problems(raged)
        record["struck"] = dict(raged.storm.kinds())
        record["attempts"], record["charged"] = raged.attempts, raged.charged
        record["resumed"] = len(raged.storm.resumed)
    except (AutoperfError, AssertionError) as error:
        record["problems"] = [f"it did not go on: {error}"[:5000]]
    record["secs"] = round(time.monotonic() - began)
    return record


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _write(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
    for problem in record["problems"]:
        print(f"faults {record['from']}: {problem}", flush=True)


def _tell(records: Sequence[dict[str, Any]]) -> int:
    kinds: Counter[str] = Counter()
    for record in records:
        kinds.update(record["struck"])
    for kind, times in sorted(kinds.items()):
        print(f"{times:6} {kind}")
    sums = {key: sum(record[key] for record in records) for key in ("count", "attempts", "charged", "resumed", "secs")}
    wrong = sum(bool(record["problems"]) for record in records)
    print(
        f"{kinds.total()} of {sums['count']} faults struck in {len(records)} storms of {2 * TESTS} tests: "
        f"{sums['attempts']} attempts, {sums['charged']} failed by the tool's own fault, "
        f"{sums['resumed']} times a person had to resume; {sums['secs']} s; {wrong} storms with problems"
    )
    return 1 if wrong or kinds.total() != sums["count"] else 0


if __name__ == "__main__":
    sys.exit(main())
