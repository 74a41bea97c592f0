"""The benchmark tool fails in every way on real sshd machines: each gets its own verdict, and nothing of it stays."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from autoperfd.daemon import archive
from autoperfd.lab.loopback import LoopbackLab
from autoperfd.lab.machines import machines_toml
from tests.e2e.support import LiveDaemon, experiment_toml
from tests.faults import Fired


@dataclass(frozen=True)
class Case:
    """What the stand-in does in the test of one sample length, what must come of it, and the row that this shows."""

    length: int
    who: str
    kinds: str
    status: str
    code: str
    row: str


CASES = [
    Case(101, "sub_0", "hang=data", "timeout", "TIMEOUT", "T1"),
    Case(102, "sub_0", "crash=11", "crashed", "CRASHED", "T2"),
    Case(103, "sub_0", "early-exit", "early-exit", "NOT_FINISHED", "T3"),
    Case(104, "sub_0", "no-file", "no-data", "MISSING_FILE", "T4"),
    Case(105, "sub_0", "header-only", "no-data", "NO_ROWS", "T4"),
    Case(106, "pub_0", "truncated", "truncated", "TRUNCATED", "T5"),
    Case(107, "pub_0", "garbage", "bad-data", "BAD_DATA", "T6"),
    Case(108, "sub_0", "empty", "no-data", "EMPTY_FILE", "T7"),
    Case(109, "sub_0", "ignore-term,hang=end", "timeout", "TIMEOUT", "T9"),
    Case(110, "pub_0", "orphan=300", "success", "", "T9"),
    Case(111, "sub_0", "no-match", "no-match", "NO_MATCH", "T11"),
    Case(112, "pub_0", "slow-start=3", "success", "", "T12"),
    Case(113, "sub_0", "flood=200", "crashed", "TOO_LARGE", "T8"),
    Case(114, "sub_0", "", "success", "", ""),
]
PAIRS = {"first": CASES[::2], "second": CASES[1::2]}  # by experiment; each has two machines of its own
CAP_MB = 8

SETTINGS = """duration_secs = [3]
datalen_bytes = {lengths}
pub_count = [1]
sub_count = [1]
use_reliable = [false]
latency_count = [10]
"""
KEYS = {"reboot": "never", "retries": 0, "buffer_secs": 6, "halt_after_consecutive_failures": 100}


@dataclass
class Watch:
    """How long a daemon took to answer `status`, over and over, and how much its memory grew meanwhile."""

    answers: list[float] = field(default_factory=list)
    grown_mib: float = 0.0


@contextmanager
def watched(daemon: LiveDaemon) -> Iterator[Watch]:
    """Asks all the time."""
    watch, over = Watch(), threading.Event()
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status")

    def most_mib() -> float:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line[:6] == "VmHWM:") / 1024

    def ask() -> None:
        while not over.wait(0.1):
            began = time.monotonic()
            assert daemon.ask("status")["ok"]
            watch.answers.append(time.monotonic() - began)

    before, thread = most_mib(), threading.Thread(target=ask)
    thread.start()
    try:
        yield watch
        watch.grown_mib = most_mib() - before
    finally:
        over.set()
        thread.join(40)


def tables(lab: LoopbackLab, pair: int, cases: Sequence[Case]) -> str:
    """The tables of one pair of machines; its stand-ins see only each other and behave as the cases say."""
    misbehave = ";".join(f"{case.who}/dataLen={case.length}:{case.kinds}" for case in cases if case.kinds)
    environment = f'{{ STANDIN_FAST = "1", STANDIN_NET = "{lab.machines[2 * pair].port}", '
    environment += f'STANDIN_MISBEHAVE = "{misbehave}" }}'
    blocks = machines_toml(lab.machines[2 * pair : 2 * pair + 2], ["pub", "sub"], "~/perftest_cpp")
    return blocks.replace("perftest_exec_path", f"environment = {environment}\nperftest_exec_path")


def left_over(lab: LoopbackLab) -> list[str]:
    """The command lines of benchmark processes on the lab's machines."""
    found = []
    for machine in lab.machines:
        for pid in lab.processes(machine.name):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it has ended
                continue
            found += [line] if "perftest_cpp" in line else []
    return found


@pytest.mark.fault(*sorted({case.row for case in CASES if case.row}))
@pytest.mark.parametrize("loopback_lab", [4], indirect=True)
def test_each_way_to_fail_has_its_verdict(loopback_lab: LoopbackLab, tmp_path: Path, fired: Fired) -> None:
    daemon = LiveDaemon(tmp_path)
    daemon.config.write_text(daemon.config.read_text().replace("[machines]", f"[machines]\nmax_file_mb = {CAP_MB}"))
    daemon.start()
    try:
        daemon.trust(loopback_lab.machines)
        with watched(daemon) as watch:
            for pair, (name, cases) in enumerate(PAIRS.items()):
                settings = SETTINGS.format(lengths=[case.length for case in cases])
                text = experiment_toml(name, settings, tables(loopback_lab, pair, cases), **KEYS, network=name)
                daemon.drop(f"{name}.toml", text)
            for name in PAIRS:
                daemon.await_outcome(name, secs=110)
        for name, cases in PAIRS.items():
            rows = daemon.ess(name)
            assert len(rows) == len(cases)
            for case, row in zip(cases, rows, strict=True):
                assert row["end_status"] == case.status and row["reason"].startswith(case.code), (case, row)
                assert row["blame"] == ("" if case.status == "success" else "test"), (case, row)
                packed = daemon.state / "results" / name / row["archive"]
                said = (archive.read_text(packed, f"{case.who}.stderr", 2 * CAP_MB << 20) or b"").decode()
                assert ("misbehaves: " in said) == bool(case.kinds), (case, said[:1000])
                assert len(said) <= CAP_MB << 20
                if case.row:
                    fired(case.row, f"{said.splitlines()[0]} -> {row['end_status']}: {row['reason']}")
            assert daemon.verify(name) == []
        answers = sorted(watch.answers)
        assert answers[len(answers) * 95 // 100] < 1, answers[-10:]
        assert watch.grown_mib < 32
        daemon.until(lambda: not left_over(loopback_lab), "no benchmark is left on any machine", 10)
    finally:
        daemon.stop()


@pytest.mark.fault("T13")
@pytest.mark.parametrize(("kind", "code"), [("licence", "LICENCE"), ("loader", "WONT_START")])
def test_what_every_test_would_fail_by_halts_at_once(
    loopback_lab: LoopbackLab, tmp_path: Path, kind: str, code: str, fired: Fired
) -> None:
    daemon = LiveDaemon(tmp_path)
    daemon.start()
    try:
        daemon.trust(loopback_lab.machines)
        case = Case(100, "sub_0", f"wont-start={kind}", "wont-start", code, "T13")
        settings = SETTINGS.format(lengths=[100, 101])
        keys = {**KEYS, "retries": 2, "buffer_secs": 2}
        daemon.drop("sick.toml", experiment_toml("sick", settings, tables(loopback_lab, 0, [case]), **keys))
        halted = daemon.await_state("sick", "halted")
        assert halted["halted_cause"] == "machine"
        (row,) = daemon.ess("sick")
        assert (row["end_status"], row["blame"]) == ("wont-start", "machine") and row["reason"].startswith(code)
        fired("T13", row["reason"])
        assert daemon.verify("sick") == []
    finally:
        daemon.stop()
