"""The command `python -m autoperfd.lab.bench`: measures the figures asked for and prints one table. One thread."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from autoperfd.errors import AutoperfError
from autoperfd.lab.bench import gaps, memory, reading, rest, transfer, validation
from autoperfd.lab.bench.rig import Bench, have
from autoperfd.lab.bench.rows import Row, table

FIGURES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "gap": gaps.measure,
    "reboot": gaps.measure_reboots,
    "validation": validation.measure,
    "fetch": transfer.measure,
    "memory": memory.measure,
    "rest": rest.measure,
    "reading": reading.measure,
}
PEERS = {"parallel": "parallel", "ansible": "ansible-core", "ssh": "openssh-client", "scp": "openssh-client"}


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 1 when a figure could not be measured. A missed goal is said in the table."""
    parser = argparse.ArgumentParser(
        prog="python -m autoperfd.lab.bench", description="Our speed beside that of other programs."
    )
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"which ones (default: all): {', '.join(FIGURES)}")
    parser.add_argument("--quick", action="store_true", help="under a minute; shows that it works, measures little")
    given = parser.parse_args(argv)
    unknown = sorted(set(given.figures) - set(FIGURES))
    if unknown:
        parser.error(f"there is no figure {', '.join(unknown)}; known are {', '.join(FIGURES)}")
    for sentence in missing_peers():
        print(f"  ! {sentence}", file=sys.stderr)
    began, load, failed = time.monotonic(), os.getloadavg()[0], False
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="autoperf-bench-") as folder:
        for name in given.figures or FIGURES:
            try:
                rows.extend(FIGURES[name](Bench(Path(folder), given.quick)))
            except AutoperfError as error:
                failed = True
                print(f"  ! {name} cannot be measured: {error.sentence()}", file=sys.stderr)
    print(table(rows))
    print(
        f"({time.monotonic() - began:.0f} s, medians{', a quick look only' if given.quick else ''}; "
        f"{os.cpu_count()} cores, load before {load:.1f})"
    )
    return 1 if failed else 0


def missing_peers() -> list[str]:
    """What is not here to be compared with, as sentences."""
    found = [
        f"{program} is missing: sudo apt-get install {package}"
        for program, package in PEERS.items()
        if not have(program)
    ]
    found += [
        f"{package} is missing: pip install 'autoperfd[bench]'"
        for package in ("asyncssh", "pandas")
        if importlib.util.find_spec(package) is None
    ]
    return found


if __name__ == "__main__":
    sys.exit(main())
