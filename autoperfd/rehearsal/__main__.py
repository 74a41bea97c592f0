"""`python -m autoperfd.rehearsal`: lives through many seeds, or tells the history of one."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from autoperfd.errors import AutoperfError
from autoperfd.rehearsal.faults import Rehearsal, rehearse

CHUNK = 100
TOLD_SECS = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 everything held, 1 something did not, 2 the command or a file cannot be understood."""
    parser = argparse.ArgumentParser(
        prog="python -m autoperfd.rehearsal",
        description="Lets the real engine and memory live through faults on virtual time, without machines.",
        epilog="Example: python -m autoperfd.rehearsal soak --from 0 --count 1000",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    soak = commands.add_parser("soak", help="live through many seeds and say what did not hold")
    soak.add_argument("--from", dest="first", type=int, default=0, metavar="SEED", help="the first seed (default 0)")
    soak.add_argument("--count", type=int, default=1000, metavar="N", help="how many seeds (default 1000)")
    soak.add_argument("--processes", type=int, default=2, metavar="N", help="how many at a time (default 2)")
    one = commands.add_parser("one", help="tell the history of one seed")
    one.add_argument("seed", type=int, metavar="SEED")
    one.add_argument("files", nargs="*", type=Path, metavar="FILE", help="experiment files; none: it draws its own")
    args = parser.parse_args(argv)
    if args.command == "soak":
        return _soak(args.first, args.count, args.processes)
    return _one(args.seed, args.files)


def _one(seed: int, files: Sequence[Path]) -> int:
    try:
        lived = rehearse(seed, [file.read_bytes() for file in files])
    except (AutoperfError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    sys.stdout.write(lived.history)
    for problem in lived.problems:
        print(f"seed {seed}: {problem}", file=sys.stderr)
    return 1 if lived.problems else 0


def _soak(first: int, count: int, processes: int) -> int:
    """Every seed on its own, so that ranges add up: twice 1,000 seeds are 2,000."""
    began = told = time.monotonic()
    done = deaths = commits = failed = 0
    total = hashlib.sha256()
    for lived in _all(first, count, processes):
        done, deaths, commits = done + 1, deaths + lived.deaths, commits + lived.commits
        total.update(lived.digest.encode())
        if lived.problems:
            failed += 1
            print(f"seed {lived.seed}: {lived.problems[0]}")
            print(f"    see it: python -m autoperfd.rehearsal one {lived.seed}", flush=True)
        if time.monotonic() - told >= TOLD_SECS:
            told = time.monotonic()
            print(f"{done} of {count} seeds, {failed} failed, {told - began:.0f} s", flush=True)
    secs = time.monotonic() - began
    print(
        f"seeds {first} to {first + count - 1}: {done} lived through, {failed} failed; "
        f"{commits} commits, {deaths} deaths of the daemon; {secs:.0f} s, {done / max(secs, 0.001) * 3600:.0f} an hour"
    )
    print(f"all histories: {total.hexdigest()}")
    return 1 if failed or done != count else 0


def _all(first: int, count: int, processes: int) -> Iterator[Rehearsal]:
    """What came of each seed, in their order."""
    starts = range(first, first + count, CHUNK)
    ends = [min(start + CHUNK, first + count) for start in starts]
    if processes == 1:
        for start, end in zip(starts, ends, strict=True):
            yield from _some(start, end)
        return
    with ProcessPoolExecutor(processes) as pool:
        for chunk in pool.map(_some, starts, ends):
            yield from chunk


def _some(start: int, end: int) -> list[Rehearsal]:
    lived = []
    for seed in range(start, end):
        try:
            found = rehearse(seed)
        except BaseException:
            print(f"seed {seed} ends with an error (process {os.getpid()})", flush=True)
            raise
        lived.append(found if found.problems else _brief(found))
    return lived


def _brief(found: Rehearsal) -> Rehearsal:
    """Without the history, which nobody reads when all is well."""
    return Rehearsal(found.seed, [], "", found.digest, found.commits, found.deaths)


if __name__ == "__main__":
    sys.exit(main())
