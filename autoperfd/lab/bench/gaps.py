"""Dead time: from the end of a test's last participant to the start of the next test's first, and where it goes.

Both moments are the launchers' records in the archives; the daemon is a process of its own, on loopback labs that
share this computer's clock. The peer is GNU parallel: the time between two commands that do nothing, on one machine.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from autoperfd.daemon import archive
from autoperfd.lab.bench.rig import Bench, Daemon, daemon, experiment, have, run, ssh_words
from autoperfd.lab.bench.rows import Row
from autoperfd.lab.container import ContainerLab, missing
from autoperfd.lab.loopback import LoopbackLab

TEST_SECS = 20.0  # more than any test of the bench takes, a reboot included
STEPS = ("bring over, judge, pack", "make durable, tell", "record, validate", "record, start")


@dataclass(frozen=True, slots=True)
class Ran:
    """One test as the machines and the archive tell it; Unix seconds."""

    started: float  # its first participant
    ended: float  # its last participant
    packed: float  # last byte of the archive


def measure(bench: Bench) -> Iterator[Row]:
    """Without reboots, 2 and 4 machines."""
    for count in (2,) if bench.quick else (2, 4):
        bench.say(f"dead time between two tests, {count} machines")
        blocks, tests = (1, 2) if bench.quick else (4, 5)
        root = bench.new_folder("gap")
        with bench.lab(count) as lab:
            theirs: list[float] = []
            pairs: list[tuple[Ran, Ran]] = []
            with daemon(root, lab.machines) as live:
                toml = lab.experiment_machines(["pub", "sub"] * (count // 2))
                for block in range(blocks):
                    name = f"gap-{block}"
                    text = experiment(name, toml, tests, pubs=count // 2, subs=count // 2)
                    live.run(name, text, tests * TEST_SECS)
                    ran = tests_of(live, name)
                    pairs += pairwise(ran)
                    theirs += parallel_gaps(bench, lab, tests)
            gaps = [after.started - before.ended for before, after in pairs]
            steps = [steps_of(root / "state" / "autoperf.db", before, after) for before, after in pairs]
        ours = statistics.median(gaps) * 1000
        peer = statistics.median(theirs) * 1000 if theirs else None
        parts = ", ".join(
            f"{what} {statistics.median(step[at] for step in steps) * 1000:.0f}" for at, what in enumerate(STEPS)
        )
        spread = f"{min(gaps) * 1000:.0f}–{max(gaps) * 1000:.0f} ms over {len(gaps)} gaps"
        shared = f"; all {count} machines share this computer's {os.cpu_count()} cores" if count > 2 else ""
        figure = f"dead time, no reboot, {count} machines"
        note = f"{count} machines: {spread}; medians in ms: {parts}{shared}"
        yield Row(figure=figure, ours=ours, unit="ms", peer="(absolute)", theirs=100, limit=100, alone=True, note=note)
        yield Row(figure=figure, ours=ours, unit="ms", peer="parallel --sshlogin, 1 machine", theirs=peer, limit=1.0)


def measure_reboots(bench: Bench) -> Iterator[Row]:
    """With a reboot of every machine before each test; on containers, too, where there can be some."""
    bench.say("dead time with reboots")
    with bench.lab(2) as lab:
        yield _rebooting(bench, "loopback", lab, ())
    reason = "a quick look" if bench.quick else missing()
    if reason:
        bench.say(f"no reboots of containers: {reason}")
        return
    bench.say("dead time with reboots of containers")
    with ContainerLab(bench.new_folder("containers"), 2) as containers:
        yield _rebooting(bench, "container", containers, ["nsenter", f"--net=/run/netns/{containers.switch.netns}"])


def _rebooting(bench: Bench, kind: str, lab: LoopbackLab | ContainerLab, before: Sequence[str]) -> Row:
    gaps: list[float] = []
    boots: list[float] = []
    with daemon(bench.new_folder("reboot"), lab.machines, before=before) as live:
        for block in range(1 if bench.quick else 3):
            name, tests = f"reboot-{block}", 2 if bench.quick else 4
            toml = lab.experiment_machines(["pub", "sub"])
            live.run(name, experiment(name, toml, tests, reboot="test"), (tests + 1) * TEST_SECS)
            ran = tests_of(live, name)
            gaps += [after.started - before.ended for before, after in pairwise(ran)]
            boots.append(boot_secs(lab))
    ours, own = statistics.median(gaps), statistics.median(boots)
    return Row(
        figure=f"dead time beyond the boot, reboot of 2 {kind} machines",
        ours=ours - own,
        unit="s",
        peer="the machines' own boot",
        theirs=own,
        limit=1.0,
        alone=True,
        note="boot: from `reboot` to sshd's banner and a new boot id, both machines at once",
    )


def boot_secs(lab: LoopbackLab | ContainerLab) -> float:
    """How long the machines themselves take to boot, all at once."""
    before = {machine.name: _boot_id(lab, machine.name) for machine in lab.machines}
    began = time.monotonic()
    for machine in lab.machines:
        lab.reboot(machine.name, wait=False)
    for name, boot_id in before.items():
        lab.await_reboot(name, boot_id)
    return time.monotonic() - began


def _boot_id(lab: LoopbackLab | ContainerLab, name: str) -> str:
    return lab.boot_id(name) if isinstance(lab, LoopbackLab) else lab.machine(name).boot_id()


def tests_of(live: Daemon, name: str) -> list[Ran]:
    """The tests of an experiment in the order they ran. Only first attempts, so a failed one shows as a long gap."""
    ran = []
    for path in (live.state / "results" / name / "data").glob("*/attempt-*.tar.gz"):
        evidence = json.loads(archive.read_text(path, "evidence.json") or b"{}")
        records = evidence["records"]
        started, ended = min(r["started"] for r in records), max(r["ended"] for r in records)
        ran.append(Ran(started, ended, path.stat().st_mtime))
    return sorted(ran, key=lambda test: test.started)


def steps_of(memory: Path, before: Ran, after: Ran) -> list[float]:
    """Seconds of each of STEPS, by the history of the memory, whose daemon has ended."""
    with sqlite3.connect(memory) as db:
        rows = db.execute(
            "SELECT event, wall FROM history WHERE wall > ? AND wall < ? ORDER BY id", (before.ended, after.started)
        ).fetchall()
    db.close()
    told = next((wall for event, wall in rows if event in ("succeeded", "failed")), before.packed)
    validated = next((wall for event, wall in rows if event == "validated"), told)
    moments = [before.ended, before.packed, told, validated, after.started]
    return [later - earlier for earlier, later in pairwise(moments)]


def parallel_gaps(bench: Bench, lab: LoopbackLab, commands: int) -> list[float]:
    """Seconds between commands that do nothing but tell the time; [] where GNU parallel is missing."""
    if not have("parallel"):
        return []
    machine = lab.machines[0]
    login = " ".join(["ssh", *ssh_words(lab, machine=machine), f"{machine.username}@{machine.ip}"])
    argv = [
        "parallel",
        "--will-cite",
        "-j1",
        "--sshlogin",
        login,
        "date +%s.%N; : {}",
        ":::",
        *map(str, range(commands + 1)),
    ]
    home = bench.folder / "home"
    home.mkdir(exist_ok=True)
    told = [float(line) for line in run(argv, env={"HOME": str(home)}).split()]
    return [later - earlier for earlier, later in pairwise(told)]
