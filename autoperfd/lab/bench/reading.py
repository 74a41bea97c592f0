"""What reading 1,000,000 latency rows costs, beside pandas reading the same file: processor time and memory.

Each reader is a process of its own. Ours also checks every row against those before and all percentiles, pandas only
reads; both need the whole of the file and no more of it than there is.
"""

from __future__ import annotations

import importlib.util
import math
import random
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from autoperfd.errors import AutoperfError
from autoperfd.lab import perftest_standin as standin
from autoperfd.lab.bench.rig import Bench, run
from autoperfd.lab.bench.rows import Row, in_turn

ROWS = 1_000_000
ROUNDS = 5
NOTE = (
    "processor time of reading the file of one publisher, and the largest memory of a process that does so, its "
    "imports included; ours checks while it reads "
    "that each row's averages follow from the rows before it, and keeps none of them"
)
# The peak of a process by its own count: what getrusage says begins with the memory of who started it.
COST = """
secs = time.process_time() - began
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(secs, int(peak.split()[1]) / 1024)
"""
OURS = f"""
import pathlib, sys, time
from autoperfd.tools import parse_perftest
began = time.process_time()
data = parse_perftest.read(pathlib.Path(sys.argv[1]))
assert data.rows == int(sys.argv[2]) and len(data.summaries) == 1 and not data.wrong, data
{COST}"""
PANDAS = f"""
import sys, time
import pandas
began = time.process_time()
frame = pandas.read_csv(sys.argv[1], skiprows=2, nrows=int(sys.argv[2]), skipinitialspace=True)
assert len(frame) == int(sys.argv[2]) and len(frame.columns) == 6
{COST}"""


def measure(bench: Bench) -> Iterator[Row]:
    """Time and memory, the median of some readings in turn."""
    count = ROWS // 100 if bench.quick else ROWS
    bench.say(f"reading {count:,} rows")
    path = bench.new_folder("reading") / "pub_0.csv"
    write(path, count)
    programs = {"ours": OURS}
    if importlib.util.find_spec("pandas") is not None:
        programs["pandas"] = PANDAS
    memory: dict[str, list[float]] = {name: [] for name in programs}

    def read(name: str) -> float:
        said = run([sys.executable, "-c", programs[name], str(path), str(count)]).split()
        if len(said) != 2:
            raise AutoperfError(f"{name} did not read {path}")
        memory[name].append(float(said[1]))
        return float(said[0])

    secs = in_turn(1 if bench.quick else ROUNDS, {name: partial(read, name) for name in programs})
    most = {name: max(values) for name, values in memory.items()}
    kinds: tuple[tuple[str, Literal["s", "MB"], dict[str, float]], ...] = (("time", "s", secs), ("memory", "MB", most))
    for figure, unit, found in kinds:
        yield Row(
            figure=f"reading {count:,} latency rows, {figure}",
            ours=found["ours"],
            unit=unit,
            peer="pandas.read_csv",
            theirs=found.get("pandas"),
            limit=None,
            note=NOTE,
        )


def write(path: Path, count: int) -> None:
    """A publisher's file of so many rows, as the stand-in prints it."""
    rng, out = random.Random(1), standin.CsvPrinter((4, 3), 100)
    values: list[int] = []
    total = squares = 0
    mean = deviation = 0.0
    low, high = 1 << 60, 0
    with path.open("w", encoding="utf-8") as file:
        file.write(out.latency_title())
        for number in range(1, count + 1):
            x = 50 + int(rng.lognormvariate(6, 0.8))
            values.append(x)
            total, squares, low, high = total + x, squares + x * x, min(low, x), max(high, x)
            mean = total / number
            deviation = math.sqrt(max(0.0, squares / number - mean * mean))
            file.write(out.latency_row(x, mean, deviation, low, high))
        values.sort()
        shares = (0.5, 0.9, 0.99, 0.9999, 0.999999)
        percentiles = tuple(values[int(count * share)] for share in shares)
        file.write(out.latency_summary(standin.Latencies(mean, deviation, low, high, percentiles)))
