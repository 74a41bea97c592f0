"""Reading Perftest's data files: every version's layout, every abnormal sample, real files, hostile bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoperfd.tools import parse_perftest
from tests.faults import Fired
from tests.tools.support import DATA, REAL

SAMPLES = DATA / "perftest"
VERSIONS = ("3.1-3.3", "4.0-4.1.1", "4.2-4.3")

LAYOUTS = [  # file, kind, interval rows
    ("pub_throughput.csv", "latency", 59),
    ("pub_latencytest.csv", "latency", 119),
    ("pub_cpu.csv", "latency", 24),
    ("pub_showSerializationTime.csv", "latency", 11),
    ("pub_noPrintIntervals.csv", "latency", 0),
    ("sub_1pub.csv", "throughput", 28),
    ("sub_3pubs.csv", "throughput", 29),
    ("sub_cpu.csv", "throughput", 12),
    ("sub_noPrintIntervals.csv", "throughput", 0),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("file", "kind", "rows"), LAYOUTS)
def test_every_layout_is_read(version: str, file: str, kind: str, rows: int) -> None:
    data = parse_perftest.read(SAMPLES / version / file)
    assert (data.kinds, data.rows, len(data.summaries)) == ({kind}, rows, 1)
    assert (data.bad_line, data.foreign_lines, data.cut, data.lengths) == (0, 0, False, {100})


@pytest.mark.parametrize("version", VERSIONS)
def test_columns_have_one_name_whatever_the_version(version: str) -> None:
    latency = parse_perftest.read(SAMPLES / version / "pub_throughput.csv").summaries[0]
    assert set(latency) == set(parse_perftest.LATENCY_SUMMARY)
    assert (latency["min"], latency["max"], latency["90%"]) == (963, 19586, 1337)
    throughput = parse_perftest.read(SAMPLES / version / "sub_1pub.csv").summaries[0]
    assert (throughput["total samples"], throughput["ave mbps"]) == (507784, 13.5)


def test_nanosecond_builds() -> None:
    data = parse_perftest.read(SAMPLES / "4.2-4.3" / "pub_4.3_ns_resolution_build.csv")
    assert data.summaries[0]["ave"] == 15.648
    header = parse_perftest.header(b"Length (Bytes), Latency (ns), Ave (ns), Std (ns), Min (ns), Max (ns)")
    assert header is not None
    assert header.read(b"  100, 1500, 2000, 1, 1, 1")["latency"] == 1.5


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pattern", ["json_*", "legacy_*", "*_noOutputHeaders.csv", "latencyFile*"])
def test_other_formats_are_not_taken_for_data(version: str, pattern: str) -> None:
    for path in (SAMPLES / version).glob(pattern):
        data = parse_perftest.read(path)
        assert not data.rows and not data.summaries
        assert data.bad_line or data.foreign_lines
        assert data.legacy == path.name.startswith("legacy")


ABNORMAL = [  # file, rows, headers, summaries, bad line, foreign lines, cut, idle at end
    ("pub_empty_never_matched.csv", 0, 0, 0, 0, 0, False, False),
    ("pub_no_pongs_le_4.2.csv", 0, 0, 0, 0, 0, False, False),
    ("pub_no_pongs_4.3.csv", 0, 0, 1, 0, 0, False, False),
    ("pub_killed_4096.csv", 176, 1, 0, 0, 0, True, False),
    ("sub_killed_4096_trailing_zero_rate.csv", 147, 1, 0, 0, 0, True, True),
    ("sub_appended_two_runs.csv", 20, 2, 2, 0, 0, False, False),
    ("sub_midrun_stall_zero_rows_then_summary.csv", 9, 1, 1, 0, 0, False, False),
    ("stdout_redirect_with_dds_log_lines.csv", 6, 1, 1, 0, 2, False, False),
    ("sub_empty_killed_before_4096_bytes.csv", 0, 0, 0, 0, 0, False, False),
]


@pytest.mark.parametrize(("file", "rows", "headers", "summaries", "bad", "foreign", "cut", "idle"), ABNORMAL)
def test_abnormal_samples(
    file: str, rows: int, headers: int, summaries: int, bad: int, foreign: int, cut: bool, idle: bool
) -> None:
    data = parse_perftest.read(SAMPLES / "abnormal" / file)
    assert (data.rows, data.headers, len(data.summaries)) == (rows, headers, summaries)
    assert (data.bad_line, data.foreign_lines, data.cut, data.idle_at_end) == (bad, foreign, cut, idle)


def test_a_row_cut_in_two_by_other_text_is_spoilt() -> None:
    data = parse_perftest.read(SAMPLES / "abnormal" / "pub_stdout_and_stderr_same_file.csv")
    assert (data.bad_line, data.bad_text) == (92, "100,         1139,     1302, Finishing test due to timer...")
    assert data.foreign_line == 1 and len(data.summaries) == 1


REAL_FILES = [  # file, rows, summaries, total samples (subscribers) or maximum (publishers)
    ("3.3.0/21600SEC_100B_1PUB_1SUB_BE_MC_0DUR_1000LC/sub_0.csv", 883, 1, 100_000_000),
    ("3.3.0/900SEC_100B_75PUB_75SUB_REL_UC_0DUR_1000LC/run3/pub_0_output.csv", 24, 1, 201_738_760),
    ("4.0-4.1.1/300SEC_32B_1P_3S_BE_MC_0DUR_100LC/sub_0.csv", 298, 1, 6_492_159),
    ("4.0-4.1.1/300SEC_32B_1P_3S_BE_MC_0DUR_100LC/sub_1.csv", 0, 0, 0),
    ("4.0-4.1.1/300SEC_128000B_1P_9S_REL_UC_0DUR_100LC/pub_0.csv", 31, 1, 7_250_074),
    ("4.0-4.1.1/300SEC_128000B_1P_9S_REL_UC_0DUR_100LC/sub_0.csv", 296, 1, 3124),
    ("4.0-4.1.1/300SEC_128000B_1P_9S_REL_UC_0DUR_100LC/sub_3.csv", 298, 1, 3124),
    ("4.0-4.1.1/600s_100B_5P_5S_rel_uc_2dur_100lc/pub_0.csv", 11017, 1, 207_086),
    ("4.0-4.1.1/600s_100B_5P_5S_rel_uc_2dur_100lc/sub_0.csv", 598, 1, 6_982_701),
    ("4.0-4.1.1/600s_100B_5P_5S_rel_uc_2dur_100lc/sub_1.csv", 599, 1, 6_982_701),
    ("4.0-4.1.1/600s_100B_5P_1S_be_mc_0dur_100lc_PROLONGED/sub_0.csv", 1488, 0, 20_688_639),
]


@pytest.mark.parametrize(("file", "rows", "summaries", "figure"), REAL_FILES)
def test_real_files(file: str, rows: int, summaries: int, figure: int) -> None:
    path = REAL / file
    if not path.exists():
        pytest.skip(f"the collection of real Perftest files is not beside this checkout: {path}")
    data = parse_perftest.read(path)
    assert (data.rows, len(data.summaries), data.bad_line) == (rows, summaries, 0)
    row = data.summaries[0] if data.summaries else data.live or {}
    assert row.get("total samples", row.get("max", 0)) == figure
    assert data.cut == ("PROLONGED" in file)


def test_what_is_no_regular_file_is_absent(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(SAMPLES / "4.2-4.3" / "sub_1pub.csv")
    os.mkfifo(tmp_path / "fifo")
    for name in ("absent", "folder", "link", "fifo"):
        assert not parse_perftest.read(tmp_path / name).present


WHOLE = (SAMPLES / "4.2-4.3" / "sub_3pubs.csv").read_bytes()
SPOILT = [
    pytest.param(b"nan", id="nan"),
    pytest.param(b"inf", id="inf"),
    pytest.param(b"-150054", id="negative"),
    pytest.param(b"0x10", id="hexadecimal"),
    pytest.param(b"\0\0\0\0\0", id="NUL"),
    pytest.param(b"\xff\xfe", id="not UTF-8"),
    pytest.param(b"9" * 30, id="too many digits"),
    pytest.param(b"9" * 10_000, id="too long a line"),
    pytest.param(b"150054, 1", id="one field more"),
    pytest.param(b"1e9", id="an exponent"),
    pytest.param(b"1", id="less than before"),
    pytest.param("٣".encode(), id="other digits"),
]


@pytest.mark.fault("T6")
@pytest.mark.parametrize("value", SPOILT)
def test_spoilt_rows_are_named_by_line(tmp_path: Path, fired: Fired, value: bytes) -> None:
    (tmp_path / "f").write_bytes(WHOLE.replace(b"150054", value, 1))
    data = parse_perftest.read(tmp_path / "f")
    assert (data.bad_line, data.rows, len(data.summaries)) == (5, 28, 1)
    assert data.bad_text.isprintable()
    fired("T6", f"line 5 holds {value[:40]!r}")


@pytest.mark.fault("T5")
def test_every_cut_of_a_file_lacks_its_end(tmp_path: Path, fired: Fired) -> None:
    path = tmp_path / "f"
    for length in range(len(WHOLE)):
        path.write_bytes(WHOLE[:length])
        data = parse_perftest.read(path)
        assert data.cut or not data.summaries, length
        assert not data.bad_line, length
    fired("T5", f"cut at each of {len(WHOLE)} bytes")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(WHOLE.splitlines(keepends=True))), max_size=40))
def test_no_bytes_make_it_raise(tmp_path: Path, parts: list[bytes]) -> None:
    (tmp_path / "f").write_bytes(b"".join(parts))
    data = parse_perftest.read(tmp_path / "f")
    assert data.size == sum(map(len, parts))
    for row in (*data.summaries, data.last or {}):
        assert all(0 <= value < float("inf") for value in row.values())


def test_a_file_is_not_read_beyond_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse_perftest, "MAX_FILE", 1000)
    (tmp_path / "f").write_bytes(WHOLE)
    assert parse_perftest.read(tmp_path / "f").too_large
