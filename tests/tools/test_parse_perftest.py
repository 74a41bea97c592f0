"""Reading Perftest's data files: every version's layout, every abnormal sample, real files, hostile bytes."""

from __future__ import annotations

import os
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoperfd.tools import parse_perftest
from autoperfd.tools.datafile import LATENCY_SUMMARY, MOST_WRONG
from tests.bounds import least_cpu_secs
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
    assert set(latency) == set(LATENCY_SUMMARY)
    assert (latency["min"], latency["max"], latency["90%"]) == (963, 19586, 1337)
    throughput = parse_perftest.read(SAMPLES / version / "sub_1pub.csv").summaries[0]
    assert (throughput["total samples"], throughput["ave mbps"]) == (507784, 13.5)


def test_nanosecond_builds() -> None:
    data = parse_perftest.read(SAMPLES / "4.2-4.3" / "pub_4.3_ns_resolution_build.csv")
    assert data.summaries[0]["ave"] == 15.648
    header = parse_perftest.header(b"Length (Bytes), Latency (ns), Ave (ns), Std (ns), Min (ns), Max (ns)")
    assert header is not None
    assert header.read(b"  100, 1500, 2000, 1, 1, 1")["latency"] == 1.5


OTHER_FORMATS = [  # pattern, format, kind, rows, summaries
    ("json_pub_as_printed*", "JSON as printed", "latency", 3, 1),
    ("json_sub_as_printed*", "JSON as printed", "throughput", 2, 1),
    ("json_pub_cpu_noPrintIntervals*", "JSON as printed", "latency", 0, 1),
    ("json_sub_cpu_noPrintIntervals*", "JSON as printed", "throughput", 0, 1),
    ("json_pub_wrapped.json", "JSON", "latency", 3, 1),
    ("json_sub_wrapped.json", "JSON", "throughput", 2, 1),
    ("legacy_pub.txt", "text", "latency", 3, 1),
    ("legacy_sub.txt", "text", "throughput", 2, 1),
    ("pub_noOutputHeaders.csv", "CSV without titles", "latency", 11, 1),
    ("sub_noOutputHeaders.csv", "CSV without titles", "throughput", 8, 1),
    ("latencyFile*", "latency file", "latency file", 20, 0),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("pattern", "format", "kind", "rows", "summaries"), OTHER_FORMATS)
def test_every_format_is_read(version: str, pattern: str, format: str, kind: str, rows: int, summaries: int) -> None:
    found = list((SAMPLES / version).glob(pattern))
    assert len(found) == 1 or pattern == "latencyFile*"
    for path in found:
        data = parse_perftest.read(path)
        assert (data.format, data.kinds, data.rows, len(data.summaries)) == (format, {kind}, rows, summaries)
        assert not data.wrong and not data.cut and not data.foreign_lines


def test_formats_have_one_shape() -> None:
    csv = parse_perftest.read(SAMPLES / "4.2-4.3" / "sub_1pub.csv")
    for name in ("json_sub_wrapped.json", "legacy_sub.txt", "json_sub_as_printed_INVALID.json"):
        other = parse_perftest.read(SAMPLES / "4.2-4.3" / name)
        assert csv.last is not None and other.last is not None
        assert set(other.last) == set(csv.last) and set(other.summaries[0]) == set(csv.summaries[0])
        assert other.last["total samples"] == 49430 and other.summaries[0]["lost samples"] == 7


@pytest.mark.parametrize("version", VERSIONS)
def test_columns_that_are_not_needed_are_kept(version: str) -> None:
    times = parse_perftest.read(SAMPLES / version / "pub_showSerializationTime.csv").summaries[0]
    assert (times["serialization"], times["deserialization"], times["total"]) == (0.343, 0.324, 0.667)
    assert parse_perftest.read(SAMPLES / version / "pub_cpu.csv").summaries[0]["cpu (%)"] == 21.37
    printed = next((SAMPLES / version).glob("json_sub_cpu*"))
    assert parse_perftest.read(printed).summaries[0]["cpu (%)"] == 22.1


def test_a_column_nobody_knows_keeps_its_name(tmp_path: Path) -> None:
    lines = (SAMPLES / "4.2-4.3" / "sub_1pub.csv").read_bytes().splitlines()
    more = [line + (b", 5" if line[-1:].isdigit() else b", Weather (C)" if b"," in line else b"") for line in lines]
    (tmp_path / "f").write_bytes(b"\n".join(more) + b"\n")
    data = parse_perftest.read(tmp_path / "f")
    assert data.summaries[0]["weather (c)"] == 5 and data.rows == 28 and not data.wrong


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


STARTS = [b"", b'{"perftest": [ {', b'"length":100,', b"********** New data length is 100\n", b"Sample Number, Value\n"]
LINES = [
    line
    for name in ("sub_3pubs.csv", "pub_showSerializationTime.csv", "pub_noOutputHeaders.csv", "legacy_pub.txt",
                 "json_pub_wrapped.json", "json_sub_as_printed_INVALID.json")
    for line in (SAMPLES / "4.2-4.3" / name).read_bytes().splitlines(keepends=True)
]  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(STARTS), st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(LINES)), max_size=40))
def test_no_bytes_make_it_raise(tmp_path: Path, start: bytes, parts: list[bytes]) -> None:
    (tmp_path / "f").write_bytes(start + b"".join(parts))
    data = parse_perftest.read(tmp_path / "f")
    assert data.size == len(start) + sum(map(len, parts))
    for row in (*data.summaries, data.last or {}):
        assert all(0 <= value < float("inf") for value in row.values())
    assert len(data.wrong) <= 2 * MOST_WRONG <= MOST_WRONG + data.wrong_count + MOST_WRONG
    assert all(wrong.line > 0 and wrong.text.isprintable() for wrong in data.wrong)


HOSTILE = [  # what is repeated until it is 64 KB
    b"9", b",", b"1,", b"\0", b"[", b'"', b'{"a":1}', b"]", b'{"summary":{', b"1\n", b"100, 1, 1, 1, 1, 1\n",
    b"Throughput Summary:\n", b"Length: 1 Latency: Ave 1 us",
]  # fmt: skip


@pytest.mark.parametrize("start", STARTS)
def test_hostile_files_cost_little(tmp_path: Path, start: bytes) -> None:
    """Processor time is bounded by size: less than 3 s for 64 KB, whatever they are, on a computer that is slow."""
    for unit in HOSTILE:
        path = write_start(tmp_path / "f", start + unit * ((64 << 10) // len(unit)))
        assert least_cpu_secs(partial(parse_perftest.read, path), 3) < 3, unit


@pytest.mark.parametrize("unit", [b"9", b"[", b"100, 1, 1, 1, 1, 1\n"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, unit: bytes) -> None:
    peaks = []
    for size in (300 << 10, 600 << 10):
        path = write_start(tmp_path / "f", unit * (size // len(unit)))
        tracemalloc.start()
        try:
            parse_perftest.read(path)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + (200 << 10), peaks


def write_start(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_file_is_not_read_beyond_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse_perftest, "MAX_FILE", 1000)
    (tmp_path / "f").write_bytes(WHOLE)
    assert parse_perftest.read(tmp_path / "f").too_large
