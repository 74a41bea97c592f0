"""Result files of which nothing else is known, judged: what is asked of them and what is not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from autoperfd.core.names import parse_name
from autoperfd.core.plan import Setting
from autoperfd.tools.judging import FIGURES
from autoperfd.tools.perftest import judge_files
from tests.tools.support import DATA, REAL, write

SAMPLES = DATA / "perftest"


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


PUB, SUB = sample("4.2-4.3/pub_throughput.csv"), sample("4.2-4.3/sub_1pub.csv")
PUB_SAID, SUB_SAID = sample("stderr/pub_0_ok_timer.stderr.txt"), sample("stderr/sub_0_ok.stderr.txt")
TEST: Mapping[str, Setting] = {"duration_secs": 30, "datalen_bytes": 100, "pub_count": 1, "sub_count": 1}


@pytest.mark.parametrize("settings", [None, TEST])
def test_files_alone_can_prove_a_success(tmp_path: Path, settings: Mapping[str, Setting] | None) -> None:
    verdict = judge_files(write(tmp_path, {"pub_0.csv": PUB, "sub_0.csv": SUB}), settings)
    assert verdict.end_status == "success", verdict
    assert tuple(verdict.figures) == FIGURES and not verdict.findings
    assert verdict.figures["total_samples"] == 507784


CASES: list[tuple[str, dict[str, bytes], dict[str, Setting], set[str]]] = [
    ("nothing", {}, {}, {"MISSING_FILE"}),
    ("fewer than asked", {"pub_0.csv": PUB, "sub_0.csv": SUB}, {"sub_count": 2}, {"MISSING_FILE"}),
    ("more than asked", {"pub_0.csv": PUB, "sub_0.csv": SUB, "sub_1.csv": SUB}, {"sub_count": 1}, {"STRAY_FILE"}),
    ("a gap", {"pub_0.csv": PUB, "sub_1.csv": SUB}, {}, {"MISSING_FILE"}),
    ("short", {"pub_0.csv": PUB, "sub_0.csv": SUB}, {"duration_secs": 60}, {"TOO_FEW_ROWS"}),
    ("empty", {"pub_0.csv": b"", "sub_0.csv": SUB}, {}, {"EMPTY_FILE"}),
    ("waited", {"pub_0.csv": b"", "pub_0.stderr": PUB_SAID.split(b"Waiting for")[0], "sub_0.csv": b""}, {},
     {"NO_MATCH", "EMPTY_FILE"}),
    ("unfinished", {"pub_0.csv": PUB, "sub_0.csv": SUB, "pub_0.stderr": PUB_SAID.split(b"Finishing")[0]}, {},
     {"NOT_FINISHED"}),
    ("refused", {"pub_0.stderr": sample("stderr/pub_bad_option.stderr.txt"), "sub_0.csv": b""}, {},
     {"OPTION_REFUSED", "MISSING_FILE", "EMPTY_FILE"}),
    ("numIter", {"pub_0.csv": PUB, "sub_0.csv": SUB,
                 "pub_0.stderr.txt": sample("stderr/pub_0_ended_by_numIter.stderr.txt")}, {**TEST},
     {"NUM_ITER_REACHED"}),
    ("hung", {"pub_0.csv": PUB, "sub_0.csv": sample("abnormal/sub_killed_4096_trailing_zero_rate.csv"),
              "sub_0.stderr": SUB_SAID.split(b"Finishing")[0]}, {}, {"NO_SUMMARY"}),
]  # fmt: skip


@pytest.mark.parametrize(("files", "settings", "codes"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_every_failed_rule_is_told(
    tmp_path: Path, files: dict[str, bytes], settings: dict[str, Setting], codes: set[str]
) -> None:
    verdict = judge_files(write(tmp_path, files), settings)
    assert codes <= {finding.code for finding in verdict.findings}, verdict
    assert verdict.end_status != "success"
    assert (verdict.end_status, verdict.code) == (verdict.findings[0].status, verdict.findings[0].code)


REAL_TESTS = [  # folder, files, what must be said
    ("3.3.0/21600SEC_100B_1PUB_1SUB_BE_MC_0DUR_1000LC", {"sub_0.csv": "sub_0.csv"},
     "NUM_ITER_REACHED TOO_FEW_ROWS"),
    ("3.3.0/900SEC_100B_75PUB_75SUB_REL_UC_0DUR_1000LC/run3", {"pub_0_output.csv": "pub_0_output.csv"}, ""),
    ("4.0-4.1.1/300SEC_32B_1P_3S_BE_MC_0DUR_100LC", {"sub_0.csv": "sub_0.csv"}, ""),
    ("4.0-4.1.1/300SEC_32B_1P_3S_BE_MC_0DUR_100LC", {"sub_1.csv": "sub_0.csv"}, "EMPTY_FILE"),
    ("4.0-4.1.1/300SEC_128000B_1P_9S_REL_UC_0DUR_100LC",
     {"pub_0.csv": "pub_0.csv", "sub_0.csv": "sub_0.csv", "sub_3.csv": "sub_1.csv"}, ""),
    ("4.0-4.1.1/600s_100B_5P_5S_rel_uc_2dur_100lc",
     {"pub_0.csv": "pub_0.csv", "sub_0.csv": "sub_0.csv", "sub_1.csv": "sub_1.csv"}, ""),
    ("4.0-4.1.1/600s_100B_5P_1S_be_mc_0dur_100lc_PROLONGED", {"sub_0.csv": "sub_0.csv"}, "NO_SUMMARY"),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "files", "codes"), REAL_TESTS)
def test_real_files_are_judged_as_their_collector_says(
    tmp_path: Path, folder: str, files: dict[str, str], codes: str
) -> None:
    """Of each test only some participants' files were kept: findings about the others do not count."""
    if not REAL.exists():
        print("not looked at: the collection of real Perftest files is not beside this checkout")
        return
    name = folder.split("/")[1].removesuffix("_PROLONGED")
    kept = {new: (REAL / folder / old).read_bytes() for old, new in files.items()}
    settings = {**parse_name(name), "sub_count": max(1, sum(name.startswith("sub") for name in kept))}
    verdict = judge_files(write(tmp_path, kept), settings)
    told = [f for f in verdict.findings if f.participant and any(n.startswith(f.participant.name) for n in kept)]
    assert [finding.code for finding in told] == codes.split(), verdict
