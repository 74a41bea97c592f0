"""Bringing results over, hashes on both sides included, beside scp. Both connect anew for each round."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from autoperfd.lab.bench.rig import INSTALLATION, Bench, KnownMachines, have, machines_of, run, ssh_words, timed
from autoperfd.lab.bench.rows import Row, in_turn
from autoperfd.lab.loopback import LoopbackLab
from autoperfd.remote.fetch import fetch
from autoperfd.remote.keys import KeyRing
from autoperfd.remote.link import Line, Link
from autoperfd.remote.values import Timing

UID = "c" * 32
MB = 1 << 20


def measure(bench: Bench) -> Iterator[Row]:
    """Many middling files, and a large one."""
    kinds = (("40 CSV files of 2 MB", 40, 2 * MB, 1.25), ("one CSV file of 200 MB", 1, 200 * MB, 0.95))
    with bench.lab(1) as lab:
        for what, count, size, limit in kinds:
            if bench.quick:
                count, size = max(1, count // 10), size // 10
            bench.say(f"fetching {what}")
            names = write_files(lab, count, size)
            works = {"ours": partial(by_us, bench, lab, names)}
            if have("scp"):
                works["scp"] = partial(by_scp, bench, lab, names)
            found = in_turn(3 if bench.quick else 7, works)
            total = count * size / 1e6
            yield Row(
                figure=f"fetching {what}",
                ours=total / found["ours"] * 1000,
                unit="MB/s",
                peer="scp",
                theirs=total / found["scp"] * 1000 if "scp" in found else None,
                limit=limit,
                more_is_better=True,
                note="ours with SHA-256 on both sides and the connection, like scp's, made anew",
            )


def write_files(lab: LoopbackLab, count: int, size: int) -> list[str]:
    """An attempt's folder on the machine that holds `count` files of numbers; their names."""
    folder = lab.machines[0].home / ".autoperf" / INSTALLATION / UID
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "files").mkdir(parents=True)
    os.mkfifo(folder / "hash")
    dice = random.Random(1)
    block = "".join(f"{i},{dice.randrange(20, 900)},{dice.random() * 300:.3f}\n" for i in range(20_000)).encode()
    whole = (block * (size // len(block) + 1))[:size]
    names = [f"data_{number}.csv" for number in range(count)]
    for name in names:
        (folder / "files" / name).write_bytes(whole)
    return names


def by_us(bench: Bench, lab: LoopbackLab, names: list[str]) -> float:
    """Milliseconds."""
    target = bench.new_folder("ours")
    (machine,) = machines_of(lab, "/bin/true")
    link = Link(machine, KnownMachines(lab.machines), KeyRing(None, Path.home()), Timing())
    took = timed(lambda: fetch(Line(link), Timing(), (INSTALLATION, UID), names, target))
    link.close()
    return _checked(target, names, took)


def by_scp(bench: Bench, lab: LoopbackLab, names: list[str]) -> float:
    """Milliseconds."""
    target = bench.new_folder("scp")
    machine = lab.machines[0]
    where = f"{machine.username}@{machine.ip}:{machine.home}/.autoperf/{INSTALLATION}/{UID}/files/data_*.csv"
    argv = ["scp", "-q", *ssh_words(lab, port_option="-P", machine=machine), where, str(target)]
    return _checked(target, names, timed(lambda: run(argv)))


def _checked(target: Path, names: list[str], took: float) -> float:
    assert sorted(path.name for path in target.iterdir()) == sorted(names)
    shutil.rmtree(target)
    return took
