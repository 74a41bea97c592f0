"""judge: old result files and our own archives are judged by the same rules, and the words say by which name."""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import asdict
from pathlib import Path

import pytest

from autoperfd.ctl.main import main
from autoperfd.daemon import archive
from autoperfd.tools import TOOLS
from tests.tools.support import DATA, planned, records, write

Capture = pytest.CaptureFixture[str]
PUB = (DATA / "perftest" / "4.2-4.3" / "pub_throughput.csv").read_bytes()
SUB = (DATA / "perftest" / "4.2-4.3" / "sub_1pub.csv").read_bytes()
PUB_SAID = (DATA / "perftest" / "stderr" / "pub_0_ok_timer.stderr.txt").read_bytes()
SUB_SAID = (DATA / "perftest" / "stderr" / "sub_0_ok.stderr.txt").read_bytes()
NAME = "30SEC_100B_1PUB_1SUB_REL_UC_100LC"
GOOD = {"pub_0.csv": PUB, "sub_0.csv": SUB}


def folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    return write(path, dict(files))


def judged(capsys: Capture, *words: str) -> tuple[int, dict[str, object]]:
    status = main(["judge", "--json", *words])
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return status, found


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (NAME, NAME),
        (f"{NAME}/run3", f"by the name of the folder {NAME}"),
        ("30s_100B_1P_1S_rel_uc_100lc", "by the name of the folder 30s_100B_1P_1S_rel_uc_100lc"),
        (f"{NAME}_PROLONGED_2", f"by the name of the folder {NAME}_PROLONGED_2 without _PROLONGED_2"),
    ],
)
def test_the_folder_says_which_test_it_is_of(tmp_path: Path, capsys: Capture, place: str, words: str) -> None:
    assert main(["judge", str(folder(tmp_path / place, GOOD))]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / place}: success\n")
    assert f"test:     {NAME} " in out and words in out
    assert "- latency_mean_us: 1510\n" in out
    assert "- total_samples: 507784\n" in out
    assert "not seen: how the participants ended" in out


def test_without_a_name_it_says_what_it_could_not_see(tmp_path: Path, capsys: Capture) -> None:
    status, found = judged(capsys, str(folder(tmp_path / "old", GOOD)))
    assert (status, found["success"], found["test"]) == (0, True, "")
    assert len(found["unchecked"]) == 5  # type: ignore[arg-type]
    assert main(["judge", str(tmp_path / "old")]) == 0
    assert "Name the test to have more looked at: --test 600SEC_" in capsys.readouterr().out


def test_a_name_that_is_given_goes_before_the_folders(tmp_path: Path, capsys: Capture) -> None:
    place = folder(tmp_path / NAME, GOOD)
    status, found = judged(capsys, str(place), "--test", "60s_100B_1P_2S_rel_uc_100lc")
    assert (status, found["test"]) == (1, "60SEC_100B_1PUB_2SUB_REL_UC_100LC")
    findings = found["findings"]
    assert isinstance(findings, list)
    assert {finding["code"] for finding in findings} == {"TOO_FEW_ROWS", "MISSING_FILE"}
    assert all(finding["reason"] for finding in findings)


def test_every_failed_rule_is_said_with_its_evidence(tmp_path: Path, capsys: Capture) -> None:
    spoilt = SUB.replace(b"\n", b"\nnan, nan\n", 5)
    place = folder(tmp_path / NAME, {"pub_0.csv": PUB[: len(PUB) // 2], "sub_0.csv": spoilt})
    assert main(["judge", str(place)]) == 1
    out = capsys.readouterr().out
    assert f"{place}: no success (truncated)\n" in out
    assert "- TRUNCATED: " in out and "- BAD_DATA: line " in out


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds no result files"),
        ({"notes.txt": b"x"}, "holds no result files"),
    ],
)
def test_nothing_to_judge_is_no_success(tmp_path: Path, capsys: Capture, files: dict[str, bytes], words: str) -> None:
    assert main(["judge", str(folder(tmp_path / "old", files))]) == 1
    assert words in capsys.readouterr().err


def test_a_folder_of_folders_says_where_to_look(tmp_path: Path, capsys: Capture) -> None:
    for number in range(4):
        folder(tmp_path / "old" / f"run{number}", GOOD)
    assert main(["judge", str(tmp_path / "old")]) == 1
    assert "it holds folders (run0, run1, run2, …): judge each of them" in capsys.readouterr().err


def test_strange_places_are_words(tmp_path: Path, capsys: Capture) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(PUB)
    for name, words in (
        ("nothing", "No such file or directory"),
        ("fifo", "Not a directory"),
        ("file", "is no whole archive of ours"),
    ):
        assert main(["judge", str(tmp_path / name)]) == 1
        assert words in capsys.readouterr().err
    assert main(["judge", str(folder(tmp_path / "old", GOOD)), "--test", "x"]) == 1
    assert "'x' is no test name" in capsys.readouterr().err


def test_links_and_fifos_among_the_files_are_none_of_them(tmp_path: Path, capsys: Capture) -> None:
    place = folder(tmp_path / NAME, {"pub_0.csv": PUB})
    os.mkfifo(place / "sub_0.csv")
    status, found = judged(capsys, str(place))
    assert status == 1 and [each["code"] for each in found["findings"]] == ["MISSING_FILE"]  # type: ignore[attr-defined]


def an_archive(tmp_path: Path, files: dict[str, bytes], **ends: dict[str, object]) -> Path:
    plan = planned(TOOLS["perftest"], duration_secs=30)
    staging = folder(tmp_path / "staging", files)
    texts = {
        "attempt.json": json.dumps({"plan": json.loads(plan.to_json())}).encode(),
        "evidence.json": json.dumps({"records": [asdict(record) for record in records(plan, **ends)]}).encode(),
    }
    path = tmp_path / "attempt-1.tar.gz"
    archive.build(path, staging, dict.fromkeys(files, "0" * 64), texts, 0.0)
    return path


WHOLE = {
    **GOOD,
    "pub_0.stderr": PUB_SAID,
    "sub_0.stderr": SUB_SAID,
    "pub_0.stdout": b"",
    "sub_0.stdout": b"",
}


def test_an_archive_of_ours_is_judged_with_its_records(tmp_path: Path, capsys: Capture) -> None:
    path = an_archive(tmp_path, WHOLE)
    status, found = judged(capsys, str(path))
    assert (status, found["success"], found["unchecked"]) == (0, True, [])
    assert main(["judge", str(path), "--test", NAME]) == 1
    assert "Leave --test out" in capsys.readouterr().err


def test_a_crash_in_an_archive_is_told(tmp_path: Path, capsys: Capture) -> None:
    status, found = judged(capsys, str(an_archive(tmp_path, WHOLE, pub_0={"exit": None, "signal": 11})))
    assert (status, found["end_status"]) == (1, "crashed")


def test_an_archive_of_somebody_else_writes_nothing_elsewhere(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "attempt-1.tar.gz"
    (tmp_path / "evil").write_text("x")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "evil", arcname="../escaped")
    assert main(["judge", str(path)]) == 1
    assert "is no archive of ours" in capsys.readouterr().err
    assert not list(tmp_path.parent.rglob("escaped"))


def test_the_example_of_the_readme(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    example = text.partition("$ autoperfctl judge ")[2].partition("…\n```")[0]
    place, _, said = example.partition("\n")
    folder(tmp_path / place, GOOD)
    monkeypatch.chdir(tmp_path)
    assert main(["judge", place]) == 1
    assert capsys.readouterr().out.startswith(said)
