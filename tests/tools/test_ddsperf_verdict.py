"""What ddsperf's verdict says: of captured output, of every way to fail, and of the real program."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from autoperfd.core.plan import Machine, Plan, Setting, Verdict
from autoperfd.tools import TOOLS, parse_ddsperf
from autoperfd.tools.judging import FIGURES
from tests.tools.support import DATA, machine, planned, records, start, write

DDSPERF = TOOLS["ddsperf"]
SAMPLES = DATA / "ddsperf"
THREE_SECONDS: Mapping[str, Setting] = {"duration_secs": 3, "pub_count": 2, "sub_count": 2}


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


def judge(
    folder: Path,
    plan: Plan,
    files: Mapping[str, bytes | None] | None = None,
    ends: Mapping[str, Mapping[str, object]] | None = None,
    captured: str = "2x2",
) -> Verdict:
    healthy: dict[str, bytes | None] = {}
    for p in plan.participants:
        healthy |= {p.stdout: sample(f"{captured}/{p.name}.stdout"), p.stderr: b""}
    write(folder, {**healthy, **(files or {})})
    return DDSPERF.verdict(plan, folder, records(plan, **(ends or {})))


def test_lines_are_read() -> None:
    printed = parse_ddsperf.read(SAMPLES / "2x2" / "sub_0.stdout")
    assert (printed.data_lines, printed.sample_bytes, printed.samples, printed.lost) == (4, 100, 1_329_308, 0)
    assert (printed.peers, printed.errors, printed.cut, printed.falling) == (3, [], False, False)
    printed = parse_ddsperf.read(SAMPLES / "ping" / "pub_0.stdout")
    assert (printed.pings, printed.peers, printed.last_stamp) == (61_886, 3, 3.0)
    assert (printed.latency_min, printed.latency_max) == (11.371, 1082.59)
    assert 39 < printed.latency_sum / printed.pings < 43


def test_a_healthy_attempt(tmp_path: Path) -> None:
    verdict = judge(tmp_path, planned(DDSPERF, **THREE_SECONDS))
    assert verdict.end_status == "success", verdict
    assert tuple(verdict.figures) == FIGURES
    assert verdict.figures["sub_samples"] == "1329308;1329308"
    assert verdict.figures["total_samples"] == 2_658_616
    assert verdict.figures["total_samples_per_s"] == round(2_658_616 / 3, 4)
    assert verdict.figures["total_mbps"] == round(2_658_616 * 800 / 3e6, 4)
    assert verdict.figures["total_lost_percent"] == 0
    assert verdict.figures["latency_std_us"] == ""


def test_a_healthy_latency_test(tmp_path: Path) -> None:
    plan = planned(DDSPERF, duration_secs=3, sub_count=3, latency_test=True, latency_count=None)
    verdict = judge(tmp_path, plan, captured="ping")
    assert verdict.end_status == "success", verdict
    assert verdict.figures["latency_max_us"] == 1082.59
    assert verdict.figures["total_samples"] == ""


@dataclass(frozen=True)
class Case:
    """Changes to the captured attempt of two publishers and two subscribers, and what must be said of it."""

    id: str
    status: str
    code: str
    participant: str
    says: str
    files: Mapping[str, bytes | None] = field(default_factory=dict)
    ends: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    halts: bool = False


DEADLINE = {"exit": None, "signal": 15, "ended_by": "deadline"}
SUB = sample("2x2/sub_0.stdout")
PUB = sample("2x2/pub_0.stdout")
NO_MATCH = sample("no_match/sub_0.stdout")
NOBODY = b"[7] participant vm:7: new (self)\n"

CASES = [
    Case("not installed", "wont-start", "WONT_START", "pub_1", "127", halts=True,
         files={"pub_1.stdout": b"", "pub_1.stderr": b"sh: exec: ddsperf: not found\n"},
         ends={"pub_1": {"exit": 127}}),
    Case("arguments", "wont-start", "OPTION_REFUSED", "pub_0", "too small",
         files={"pub_0.stdout": b"size 5 invalid: too small to allow for overhead\n"}, ends={"pub_0": {"exit": 3}}),
    Case("configuration", "wont-start", "NOT_STARTED", "sub_1", "unknown element",
         files={"sub_1.stdout": b"dds_create_participant(domain 7) failed: -1\n",
                "sub_1.stderr": b"1.2 []    ddsperf: config: //CycloneDDS/Domain: Foo: unknown element\n"},
         ends={"sub_1": {"exit": 2}}),
    Case("crashed", "crashed", "CRASHED", "sub_0", "signal 11", ends={"sub_0": {"exit": None, "signal": 11}}),
    Case("DDS fails in mid-test", "crashed", "CRASHED", "sub_0", "exit status 2", ends={"sub_0": {"exit": 2}}),
    Case("hangs", "timeout", "TIMEOUT", "pub_1", "time was up", ends={"pub_1": DEADLINE}),
    Case("too few", "no-match", "NO_MATCH", "sub_0", "saw 0 of 3 others",
         files={"sub_0.stdout": NO_MATCH}, ends={"sub_0": {"exit": 1}}),
    Case("too few, and others hang", "no-match", "NO_MATCH", "sub_0", "too few",
         files={"sub_0.stdout": NO_MATCH}, ends={"sub_0": {"exit": 1}, "pub_0": DEADLINE}),
    Case("stopped while looking", "no-match", "NO_MATCH", "sub_0", "saw 0 of 3",
         files={"sub_0.stdout": NOBODY}, ends={"sub_0": DEADLINE, "pub_0": DEADLINE}),
    Case("one way only", "no-match", "NO_MATCH", "pub_0", "failed to match pong reader",
         files={"pub_0.stdout": PUB + b"[7] error: vm:8 failed to match pong reader\n"}, ends={"pub_0": {"exit": 1}}),
    Case("lost though reliable", "bad-data", "SAMPLES_LOST", "sub_0", "12 samples lost",
         files={"sub_0.stdout": SUB + b"[7] error: 12 samples lost\n"}, ends={"sub_0": {"exit": 1}}),
    Case("early", "early-exit", "EARLY_EXIT", "pub_0", "1.5 s of 3 s", ends={"pub_0": {"ended": 101.5}}),
    Case("cut", "truncated", "TRUNCATED", "sub_0", "cut", files={"sub_0.stdout": SUB[:-3]}),
    Case("seconds missing", "truncated", "TRUNCATED", "pub_0", "ends at 1 s of 3 s",
         files={"pub_0.stdout": PUB[: PUB.index(b"] 2.00") - 5]}),
    Case("nothing received", "no-data", "NO_DATA", "sub_1", "received nothing", files={"sub_1.stdout": NOBODY}),
    Case("no answers", "no-data", "NO_PONGS", "pub_0", "latency",
         files={"pub_0.stdout": PUB.replace(b" mean ", b" x ")}),
    Case("no output", "no-data", "MISSING_FILE", "sub_1", "sub_1.stdout", files={"sub_1.stdout": None}),
    Case("another length", "bad-data", "WRONG_LENGTH", "sub_0", "64 bytes, not 100",
         files={"sub_0.stdout": SUB.replace(b"size 100", b"size 64")}),
    Case("totals go down", "bad-data", "BAD_DATA", "sub_0", "go down", files={"sub_0.stdout": SUB + SUB}),
    Case("a line is gone", "bad-data", "MISFIT", "sub_0", "does not fit",
         files={"sub_0.stdout": b"".join(x for x in SUB.splitlines(keepends=True) if b"] 2.000  size" not in x)}),
    Case("percentiles out of order", "bad-data", "MISFIT", "pub_0", "does not fit",
         files={"pub_0.stdout": PUB.replace(b"50% 1102.893us", b"50% 9902.893us")}),
    Case("two processes in one file", "bad-data", "APPENDED", "pub_0", "more than one process",
         files={"pub_0.stdout": PUB + b"[7] participant vm:7: gone\n"}),
    Case("lost and silent", "bad-data", "SAMPLES_LOST", "sub_0", "lost 5 samples",
         files={"sub_0.stdout": SUB.replace(b" lost 0 delta 18 lost 0", b" lost 5 delta 18 lost 5")}),
    Case("subscribers disagree", "bad-data", "COUNTS_DISAGREE", "sub_0", "1000 samples",
         files={"sub_0.stdout": b"[7] 3.000  size 100 total 1000 lost 0 delta 1000 lost 0 rate 1.00 kS/s\n"}),
    Case("a subscriber's seconds are missing", "truncated", "TRUNCATED", "sub_0", "ends at 1 s",
         files={"sub_0.stdout": SUB[: SUB.index(b"[7941] 2.000")]}),
    Case("blocked", "bad-data", "WRITE_BLOCKED", "pub_0", "stuck",
         files={"pub_0.stdout": PUB + b"write error: -10\n"}),
    Case("end unknown", "invalid", "END_UNKNOWN", "pub_0", "not known",
         ends={"pub_0": {"exit": None, "ended_by": "unknown"}}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_failed_rule_has_its_name(tmp_path: Path, case: Case) -> None:
    plan = planned(DDSPERF, **THREE_SECONDS)
    verdict = judge(tmp_path, plan, case.files, case.ends)
    assert (verdict.end_status, verdict.code, verdict.participant) == (case.status, case.code, case.participant)
    assert case.says in verdict.reason
    assert verdict.reason.isprintable()
    assert verdict.would_fail_every_test == case.halts


def test_an_overloaded_bench_is_no_success(tmp_path: Path) -> None:
    plan = planned(DDSPERF, **THREE_SECONDS, latency_count=None)
    verdict = judge(tmp_path, plan, {"pub_0.stdout": sample("blocked/pub_0.stdout")})
    assert (verdict.end_status, verdict.code) == ("bad-data", "WRITE_BLOCKED")


@effort(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(SUB.splitlines(keepends=True))), max_size=40))
def test_no_bytes_make_it_raise(tmp_path: Path, parts: list[bytes]) -> None:
    plan = planned(DDSPERF, **THREE_SECONDS)
    assert judge(tmp_path, plan, {"sub_0.stdout": b"".join(parts)}).end_status


# The real program

EXECUTABLE = shutil.which("ddsperf")
LOCAL = (machine("p1", "all", "127.0.0.2"), machine("p2", "all", "127.0.0.3"))


LIVE: list[tuple[str, dict[str, Setting]]] = [
    ("unicast 2x2", {"pub_count": 2, "sub_count": 2, "use_multicast": False, "use_reliable": True}),
    ("default 3x1", {"pub_count": 3, "sub_count": 1, "use_reliable": False}),
    ("latency 1x2", {"pub_count": 1, "sub_count": 2, "latency_test": True, "use_multicast": True}),
]


TRIES = 3  # the program itself gives up on a computer that is busy with other things


@pytest.mark.skipif(EXECUTABLE is None, reason="ddsperf is not installed (Debian package cyclonedds-tools)")
@pytest.mark.parametrize(("name", "changes"), LIVE, ids=[name for name, _ in LIVE])
def test_the_real_program(tmp_path: Path, name: str, changes: dict[str, Setting]) -> None:
    assert EXECUTABLE is not None
    machines: list[Machine] = [replace(m, exec_path=EXECUTABLE) for m in LOCAL]
    settings = {"duration_secs": 3, "datalen_bytes": 1000, **changes}
    if not settings.get("latency_test"):
        settings["latency_count"] = 100
    assert DDSPERF.problems(settings) == []
    verdicts = []
    for number in range(TRIES):
        plan = DDSPERF.plan(name, settings, machines, 101 + (os.getpid() * TRIES + number) % 100, {})
        started = start(plan, tmp_path / str(number))
        verdicts.append(DDSPERF.verdict(plan, started.folder, started.wait(time.monotonic() + 60)))
        if verdicts[-1].end_status == "success":
            break
    verdict = verdicts[-1]
    assert verdict.end_status == "success", verdicts
    mean = verdict.figures["latency_mean_us"]
    assert isinstance(mean, (int, float)) and mean > 0
    if "latency" not in name:
        samples = verdict.figures["total_samples"]
        assert isinstance(samples, int) and samples > 0
