"""What Perftest's verdict says of attempts that went well and of every way in which they do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from autoperfd.core.plan import END_STATUSES, Plan, Setting, Tool, Verdict
from autoperfd.tools import TOOLS
from autoperfd.tools.judging import FIGURES
from tests.faults import Fired
from tests.tools import support
from tests.tools.support import DATA, REAL, records, write

PERFTEST = TOOLS["perftest"]
SAMPLES = DATA / "perftest"
HELP_3_3 = {"p1": "-outputFormat", "p2": "-outputFormat"}


def planned(tool: Tool, probes: Mapping[str, str] | None = None, /, **changes: Setting | None) -> Plan:
    """A plan of as many seconds as the samples have rows for."""
    return support.planned(tool, probes, **{"duration_secs": 30, **changes})


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


PUB_OK, SUB_OK = sample("4.2-4.3/pub_throughput.csv"), sample("4.2-4.3/sub_1pub.csv")
PUB_SAID, SUB_SAID = sample("stderr/pub_0_ok_timer.stderr.txt"), sample("stderr/sub_0_ok.stderr.txt")
SUB_WAITS = sample("stderr/sub_0_peer_never_shows.stderr.txt")
SUB_IN_DATA = SUB_SAID.replace(b"Finishing test...\nTest ended.\n", b"")
PUB_IN_DATA = PUB_SAID.replace(b"Finishing test due to timer...\nTest ended.\n", b"")
PUB_WAITS = PUB_SAID.split(b"Waiting for subscribers announcement")[0]
PUB_ANNOUNCING = PUB_SAID.split(b"Sending 50")[0]

DEADLINE = {"exit": None, "signal": 15, "ended_by": "deadline"}
GRACE = {"exit": None, "signal": 15, "ended_by": "grace", "ended": 100 + 150.0}


def healthy(plan: Plan) -> dict[str, bytes | None]:
    files: dict[str, bytes | None] = {}
    for p in plan.participants:
        pub = p.role == "pub"
        files |= {p.stdout: b"", p.stderr: PUB_SAID if pub else SUB_SAID}
        for name in (*p.files, p.stdout):
            if name.endswith(".csv"):
                files[name] = PUB_OK if pub else SUB_OK
    return files


def judge(
    folder: Path,
    plan: Plan,
    files: Mapping[str, bytes | None] | None = None,
    ends: Mapping[str, Mapping[str, object]] | None = None,
) -> Verdict:
    write(folder, {**healthy(plan), **(files or {})})
    return PERFTEST.verdict(plan, folder, records(plan, **(ends or {})))


def test_a_healthy_attempt(tmp_path: Path) -> None:
    plan = planned(PERFTEST, sub_count=2, use_reliable=False)
    files = {"sub_0.csv": sample("4.0-4.1.1/sub_3pubs.csv"), "sub_1.csv": sample("4.2-4.3/sub_3pubs.csv")}
    verdict = judge(tmp_path, plan, files)
    assert verdict.end_status == "success", verdict
    assert (verdict.reason, verdict.code, verdict.participant) == ("", "", "")
    assert tuple(verdict.figures) == FIGURES
    figures = dict(verdict.figures)
    assert figures["tool_version"] == "RTI Perftest 4.1.1 (RTI Connext DDS 7.3.0)"
    assert (figures["latency_min_us"], figures["latency_99_9999_us"]) == (963, 19586)
    assert figures["sub_samples"] == "1151108;1141912"
    assert (figures["total_samples"], figures["total_lost"]) == (1151108 + 1141912, 1035 + 1030)
    assert figures["total_samples_per_s"] == 37132 + 36835
    assert figures["sub_mbps"] == "29.7;29.5"
    assert figures["sub_lost_percent"] == "0.09;0.09"
    assert figures["total_lost_percent"] == round(100 * 2065 / (2065 + 2293020), 4)


def test_versions_that_print_to_standard_output(tmp_path: Path) -> None:
    plan = planned(PERFTEST, HELP_3_3, duration_secs=10)
    files = {
        "pub_0.csv": sample("3.1-3.3/pub_throughput.csv"),
        "sub_0.csv": sample("abnormal/stdout_redirect_with_dds_log_lines.csv"),
    }
    verdict = judge(tmp_path, plan, files)
    assert verdict.end_status == "success", verdict
    assert verdict.figures["total_samples"] == 144304


@dataclass(frozen=True)
class Case:
    """Changes to a healthy attempt of one publisher and one subscriber, and what must be said of it."""

    id: str
    status: str
    code: str
    participant: str
    says: str
    files: Mapping[str, bytes | None] = field(default_factory=dict)
    ends: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    changes: Mapping[str, Setting] = field(default_factory=dict)
    probes: Mapping[str, str] = field(default_factory=dict)
    halts: bool = False


def sub(content: bytes | None) -> Mapping[str, bytes | None]:
    return {"sub_0.csv": content}


def refused(stderr: bytes) -> dict[str, Any]:
    return {
        "files": {"pub_0.csv": None, "pub_0.stderr": stderr, "sub_0.stderr": SUB_WAITS, "sub_0.csv": b""},
        "ends": {"pub_0": {"exit": 255, "ended": 100.1}, "sub_0": DEADLINE},
    }


BEST_EFFORT: Mapping[str, Setting] = {"use_reliable": False, "pub_count": 2}
BANNER = b"RTI Perftest 4.1.1 (RTI Connext DDS 7.3.0)\n"

CASES = [
    # the end of the processes
    Case("not started", "wont-start", "WONT_START", "pub_0", "127", halts=True,
         files={"pub_0.csv": None, "pub_0.stderr": b"sh: 1: exec: /bin/x: not found\n"},
         ends={"pub_0": {"exit": 127}}),
    Case("not executable", "wont-start", "WONT_START", "sub_0", "126", halts=True,
         files={"sub_0.csv": None, "sub_0.stderr": b""}, ends={"sub_0": {"exit": 126}}),
    Case("library missing", "wont-start", "WONT_START", "sub_0", "libnddsc.so", halts=True,
         files={"sub_0.csv": None, "sub_0.stderr": b"x: error while loading shared libraries: libnddsc.so\n"},
         ends={"sub_0": {"exit": 127}}),
    Case("old C library", "wont-start", "WONT_START", "sub_0", "GLIBC", halts=True,
         files={"sub_0.csv": None, "sub_0.stderr": b"x: version `GLIBC_2.38' not found (required by x)\n"},
         ends={"sub_0": {"exit": 1}}),
    Case("licence", "wont-start", "LICENCE", "pub_0", "license", halts=True,
         **refused(BANNER + b"RTI Connext: license file not found.\nTest ended.\n")),
    Case("option refused", "wont-start", "OPTION_REFUSED", "pub_0", "Cannot use '-numPublishers'",
         **refused(sample("stderr/pub_bad_option.stderr.txt"))),
    Case("length refused", "wont-start", "OPTION_REFUSED", "pub_0", "[28,2147482620]",
         **refused(sample("stderr/sub_bad_datalen.stderr.txt"))),
    Case("participant not created", "wont-start", "NOT_STARTED", "pub_0", "create_participant",
         **refused(BANNER + b"***Error: create_participant failed\nTest ended.\n")),
    Case("crashed", "crashed", "CRASHED", "sub_0", "signal 11", ends={"sub_0": {"exit": None, "signal": 11}}),
    Case("crashed as a shell says it", "crashed", "CRASHED", "sub_0", "signal 8",
         ends={"sub_0": {"exit": 136, "signal": None}}),
    Case("ended by the limit on its files", "crashed", "TOO_LARGE", "sub_0", "max_file_mb",
         ends={"sub_0": {"exit": None, "signal": 25}}),
    Case("255 in mid-test", "crashed", "CRASHED", "pub_0", "exit status 255",
         files={"pub_0.stderr": PUB_IN_DATA}, ends={"pub_0": {"exit": 255}}),
    Case("a crash explains a hang", "crashed", "CRASHED", "pub_0", "signal 6",
         files={"pub_0.csv": b"", "sub_0.csv": b"", "sub_0.stderr": SUB_IN_DATA},
         ends={"pub_0": {"exit": None, "signal": 6}, "sub_0": DEADLINE}),
    Case("hung with data", "timeout", "TIMEOUT", "sub_0", "Waiting for data",
         files={**sub(sample("abnormal/sub_killed_4096_trailing_zero_rate.csv")), "sub_0.stderr": SUB_IN_DATA},
         ends={"sub_0": DEADLINE}),
    Case("never matched", "no-match", "NO_MATCH", "pub_0", "Waiting to discover 2 subscribers",
         files={"pub_0.csv": b"", "pub_0.stderr": PUB_WAITS, "sub_0.csv": b"", "sub_0.stderr": SUB_WAITS},
         ends={"pub_0": DEADLINE, "sub_0": DEADLINE}),
    Case("never announced", "no-match", "NO_MATCH", "pub_0", "announce",
         files={"pub_0.csv": b"", "pub_0.stderr": PUB_ANNOUNCING, "sub_0.csv": b"", "sub_0.stderr": SUB_IN_DATA},
         ends={"pub_0": DEADLINE, "sub_0": DEADLINE}),
    Case("QoS mismatch", "no-match", "NO_MATCH", "sub_0", "QoS is 11",
         files={"sub_0.csv": b"", "sub_0.stderr": sample("stderr/sub_incompatible_qos.stderr.txt")},
         ends={"sub_0": DEADLINE}),
    Case("one waits for one that found nobody", "no-match", "NO_MATCH", "sub_0", "peers",
         files={"pub_0.csv": b"", "pub_0.stderr": PUB_IN_DATA, "sub_0.csv": b"", "sub_0.stderr": SUB_WAITS},
         ends={"pub_0": DEADLINE, "sub_0": DEADLINE}),
    Case("ended early", "early-exit", "EARLY_EXIT", "sub_0", "1.0 s of 30 s", ends={"sub_0": {"ended": 101.0}}),
    Case("ended unfinished", "early-exit", "NOT_FINISHED", "sub_0", "without finishing",
         files={"sub_0.stderr": SUB_IN_DATA + b"Test ended.\n"}),
    Case("numIter", "early-exit", "NUM_ITER_REACHED", "pub_0", "-numIter",
         files={"pub_0.stderr": sample("stderr/pub_0_ended_by_numIter.stderr.txt")}),
    Case("swept", "invalid", "SWEPT", "sub_0", "sweep",
         ends={"sub_0": {"exit": None, "signal": 15, "ended_by": "sweep"}}),
    Case("end unknown", "invalid", "END_UNKNOWN", "pub_0", "not known",
         ends={"pub_0": {"exit": None, "ended_by": "unknown"}}),
    # the files
    Case("no file", "no-data", "MISSING_FILE", "sub_0", "sub_0.csv", files=sub(None)),
    Case("no standard output", "no-data", "MISSING_FILE", "sub_0", "sub_0.stdout", files={"sub_0.stdout": None}),
    Case("empty", "no-data", "EMPTY_FILE", "sub_0", "empty", files=sub(b"")),
    Case("no pongs", "no-data", "NO_PONGS", "pub_0", "latency", files={"pub_0.csv": b""}),
    Case("no pongs in 4.3", "no-data", "NO_PONGS", "pub_0", "latency",
         files={"pub_0.csv": sample("abnormal/pub_no_pongs_4.3.csv")}),
    Case("titles only", "no-data", "NO_ROWS", "sub_0", "no measured row",
         files=sub(b"".join(SUB_OK.splitlines(keepends=True)[:3]))),
    Case("killed file", "truncated", "TRUNCATED", "pub_0", "cut",
         files={"pub_0.csv": sample("abnormal/pub_killed_4096.csv")}),
    Case("cut in the summary", "truncated", "TRUNCATED", "sub_0", "cut", files=sub(SUB_OK[:-1])),
    Case("no summary", "truncated", "TRUNCATED", "sub_0", "summary", files=sub(SUB_OK.split(b"\nThroughput")[0])),
    Case("appended", "bad-data", "APPENDED", "sub_0", "more than one",
         files=sub(sample("abnormal/sub_appended_two_runs.csv"))),
    Case("two streams in one", "bad-data", "BAD_DATA", "pub_0", "no row",
         files={"pub_0.csv": sample("abnormal/pub_stdout_and_stderr_same_file.csv")}, probes=HELP_3_3),
    Case("foreign lines in a file of its own", "bad-data", "FOREIGN_TEXT", "sub_0", "line 7",
         changes={"duration_secs": 10}, files=sub(sample("abnormal/stdout_redirect_with_dds_log_lines.csv"))),
    Case("nan", "bad-data", "BAD_DATA", "sub_0", "line 4", files=sub(SUB_OK.replace(b"16320", b"  nan", 1))),
    Case("binary", "bad-data", "BAD_DATA", "sub_0", "line 4", files=sub(SUB_OK.replace(b"16320", b"\0\xff\0", 1))),
    Case("the other's file", "bad-data", "WRONG_KIND", "sub_0", "throughput", files=sub(PUB_OK)),
    Case("another length", "bad-data", "WRONG_LENGTH", "sub_0", "1000 bytes, not 100", changes={"duration_secs": 10},
         files=sub(sample("abnormal/sub_midrun_stall_zero_rows_then_summary.csv"))),
    Case("counts run backwards", "bad-data", "BAD_DATA", "sub_0", "line 5",
         files=sub(SUB_OK.replace(b"64186", b"47186", 1))),
    Case("the summary says less than the rows", "bad-data", "BAD_DATA", "sub_0", "no row",
         files=sub(SUB_OK.replace(b"507784, ", b"400000, "))),
    Case("subscribers disagree", "bad-data", "COUNTS_DISAGREE", "sub_0", "sub_0 tells of 507784 samples",
         changes={"sub_count": 2}, files={"sub_1.csv": sample("4.2-4.3/sub_3pubs.csv")}),
    Case("rows of a part of the test", "truncated", "TOO_FEW_ROWS", "sub_0", "28 rows", changes={"duration_secs": 39}),
    Case("one side has nothing", "no-data", "EMPTY_FILE", "sub_1", "sub_1", changes={"sub_count": 2},
         files={"sub_1.csv": b""}),
    Case("Perftest 3.0", "bad-data", "LEGACY_FORMAT", "sub_0", "3.1 or later", halts=True,
         changes={"duration_secs": 10}, files=sub(sample("3.1-3.3/legacy_sub.txt")), probes=HELP_3_3),
    # what does not add up
    Case("more rows than seconds lived", "bad-data", "TOO_MANY_ROWS", "sub_0", "28 rows",
         ends={"sub_0": {"ended": 120.0}}, changes={"duration_secs": 20}),
    Case("a summary that is not the rows'", "bad-data", "MISFIT", "pub_0", "line 66",
         files={"pub_0.csv": PUB_OK[:-140] + PUB_OK[-140:].replace(b"2375.3", b"2375.4")}),
    Case("a percentile that is not the rows'", "bad-data", "MISFIT", "pub_0", "90%",
         files={"pub_0.csv": PUB_OK.replace(b"     1212,     1337", b"     1212,     1338")}),
    Case("a latency that is not its average's", "bad-data", "MISFIT", "pub_0", "line 6",
         files={"pub_0.csv": PUB_OK.replace(b"1203", b"1208", 1)}),
    Case("a rate that is not its average's", "bad-data", "MISFIT", "sub_0", "line 5",
         files=sub(SUB_OK.replace(b"      16858", b"      16851", 1))),
    Case("lost samples that are not their share", "bad-data", "MISFIT", "sub_0", "%",
         files=sub(SUB_OK[:-32] + b"          100,             0.00\n")),
    Case("a second without its row", "bad-data", "ROW_MISSING", "sub_0", "line 10",
         files=sub(b"".join(line for i, line in enumerate(SUB_OK.splitlines(keepends=True)) if i != 9))),
    Case("no titles", "bad-data", "WRONG_FORMAT", "pub_0", "without titles",
         files={"pub_0.csv": sample("4.2-4.3/pub_noOutputHeaders.csv")}),
    Case("more answers than samples", "bad-data", "ANSWERS_DISAGREE", "pub_0", "59 latencies",
         changes={"latency_count": 100_000}),
    # the hang of best effort
    Case("data complete", "no-summary", "NO_SUMMARY", "sub_0", "data complete", changes=BEST_EFFORT,
         files={**sub(sample("abnormal/sub_killed_4096_trailing_zero_rate.csv")), "sub_0.stderr": SUB_IN_DATA},
         ends={"sub_0": GRACE}),
    Case("data lost", "truncated", "TRUNCATED", "sub_0", "cut", changes=BEST_EFFORT,
         files={**sub(SUB_OK[:1500]), "sub_0.stderr": SUB_IN_DATA}, ends={"sub_0": GRACE}),
    Case("killed before its first bytes", "no-data", "EMPTY_FILE", "sub_0", "empty", changes=BEST_EFFORT,
         files={**sub(b""), "sub_0.stderr": SUB_IN_DATA}, ends={"sub_0": GRACE}),
]  # fmt: skip


ROWS = {  # of the fault model, by what must be said
    "early-exit": "T3",
    "no-data": "T4",
    "truncated": "T5",
    "bad-data": "T6",
    "COUNTS_DISAGREE": "T7",
    "one side has nothing": "T7",
    "crashed": "T2",
    "TOO_LARGE": "T8",
    "LICENCE": "T13",
    "WONT_START": "T13",
}


def rows(case: Case) -> list[str]:
    """The rows of the fault model that a case shows."""
    return [ROWS[word] for word in (case.status, case.code, case.id) if word in ROWS]


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.fault(*rows(case)), id=case.id) for case in CASES]
)
def test_every_failed_rule_has_its_name(tmp_path: Path, case: Case, fired: Fired) -> None:
    plan = planned(PERFTEST, case.probes, **case.changes)
    verdict = judge(tmp_path, plan, case.files, case.ends)
    assert (verdict.end_status, verdict.code, verdict.participant) == (case.status, case.code, case.participant)
    assert case.says in verdict.reason
    assert verdict.reason.isprintable()
    assert verdict.would_fail_every_test == case.halts
    assert verdict.machine == ("p1" if case.participant.startswith("pub") else "p2")
    assert tuple(verdict.figures) == FIGURES
    for row in rows(case):
        fired(row, f"{case.files} {case.ends}"[:200])


def test_every_status_of_a_tool_is_covered() -> None:
    ours = {"wont-start", "crashed", "timeout", "no-match", "early-exit", "truncated", "bad-data", "no-data"}
    assert {case.status for case in CASES} == ours | {"invalid", "no-summary"}
    assert ours < set(END_STATUSES)


def test_the_figures_of_a_hung_subscriber_are_those_of_its_data(tmp_path: Path) -> None:
    plan = planned(PERFTEST, **BEST_EFFORT)
    hung = sample("abnormal/sub_killed_4096_trailing_zero_rate.csv")
    verdict = judge(tmp_path, plan, {"sub_0.csv": hung, "sub_0.stderr": SUB_IN_DATA}, {"sub_0": GRACE})
    assert verdict.figures["total_samples"] == 1_249_993
    rates = [line.split(b",") for line in hung.splitlines()[3:] if line.count(b",") == 7]
    live = [fields for fields in rates if int(fields[2])]
    assert verdict.figures["total_samples_per_s"] == int(live[-1][3])


def test_a_stall_in_the_middle_is_no_fault(tmp_path: Path) -> None:
    plan = planned(PERFTEST, datalen_bytes=None, duration_secs=10, latency_count=None)
    verdict = judge(tmp_path, plan, sub(sample("abnormal/sub_midrun_stall_zero_rows_then_summary.csv")))
    assert verdict.end_status == "success", verdict


@pytest.mark.fault("T5")
@pytest.mark.parametrize(("name", "whole"), [("pub_0.csv", PUB_OK), ("sub_0.csv", SUB_OK)])
def test_every_cut_of_a_data_file_is_seen(tmp_path: Path, fired: Fired, name: str, whole: bytes) -> None:
    plan = planned(PERFTEST)
    for length in range(0, len(whole), 11):
        verdict = judge(tmp_path, plan, {name: whole[:length]})
        assert verdict.end_status in ("truncated", "no-data"), length
    fired("T5", f"{name} cut every 11 of {len(whole)} bytes")


def test_real_files(tmp_path: Path) -> None:
    folder = REAL / "4.0-4.1.1" / "600s_100B_5P_5S_rel_uc_2dur_100lc"
    if not folder.exists():
        pytest.skip(f"the collection of real Perftest files is not beside this checkout: {folder}")
    plan = planned(PERFTEST, duration_secs=600, pub_count=5, sub_count=2)
    files = {name: (folder / name).read_bytes() for name in ("pub_0.csv", "sub_0.csv", "sub_1.csv")}
    verdict = judge(tmp_path, plan, files)
    assert verdict.end_status == "success", verdict
    assert verdict.figures["total_samples"] == 2 * 6_982_701
    hung = REAL / "4.0-4.1.1" / "600s_100B_5P_1S_be_mc_0dur_100lc_PROLONGED" / "sub_0.csv"
    plan = planned(PERFTEST, duration_secs=600, pub_count=5, use_reliable=False)
    files = {"pub_0.csv": files["pub_0.csv"], "sub_0.csv": hung.read_bytes(), "sub_0.stderr": SUB_IN_DATA}
    verdict = judge(tmp_path, plan, files, {"sub_0": {**GRACE, "ended": 100 + 1600.0}})
    assert verdict.end_status == "no-summary", verdict
    assert verdict.figures["total_lost"] == 42_502_568


def test_a_flood_on_stderr_is_looked_at_from_both_ends(tmp_path: Path) -> None:
    plan = planned(PERFTEST)
    flood = SUB_SAID.split(b"Finishing")[0] + b"x\xff\0\n" * 200_000 + b"Finishing test...\nTest ended.\n"
    assert judge(tmp_path, plan, {"sub_0.stderr": flood}).end_status == "success"
