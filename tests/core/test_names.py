"""Test names: settings and name determine each other, three spellings are read, one is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoperfd.core.names import KEYS, parse_name, safe_folder, test_name
from autoperfd.core.plan import Setting
from tests.faults import Fired

FULL: dict[str, Setting] = {
    "duration_secs": 600,
    "datalen_bytes": 100,
    "pub_count": 15,
    "sub_count": 9,
    "use_reliable": False,
    "use_multicast": True,
    "durability_level": 3,
    "latency_count": 100,
}
WRITTEN = "600SEC_100B_15PUB_9SUB_BE_MC_3DUR_100LC"
REAL = Path(__file__).parents[3] / "shared" / "perftest" / "samples" / "real"

settings_of_tests = st.fixed_dictionaries(
    {}, optional={key.name: st.booleans() if key.boolean else st.integers(0, 2**31 - 1) for key in KEYS}
).filter(bool)


@pytest.mark.parametrize("name", [WRITTEN, "600SEC_100B_15P_9S_BE_MC_3DUR_100LC", "600s_100B_15P_9S_be_mc_3dur_100lc"])
def test_three_spellings_are_read(name: str) -> None:
    assert parse_name(name) == FULL
    assert test_name(parse_name(name)) == WRITTEN


def test_a_setting_that_is_not_passed_has_no_part() -> None:
    assert test_name({"duration_secs": 30, "pub_count": 1, "sub_count": 2}) == "30SEC_1PUB_2SUB"
    assert parse_name("30SEC_1PUB_2SUB") == {"duration_secs": 30, "pub_count": 1, "sub_count": 2}


def test_parts_have_one_order_whatever_the_order_of_the_keys() -> None:
    assert test_name(dict(reversed(FULL.items()))) == WRITTEN


def test_latency_mode_shows_only_when_given() -> None:
    assert test_name({**FULL, "latency_test": True}) == WRITTEN + "_LATENCY"
    assert parse_name(WRITTEN + "_THROUGHPUT")["latency_test"] is False


@given(settings_of_tests)
def test_name_and_settings_determine_each_other(settings: dict[str, Setting]) -> None:
    back = parse_name(test_name(settings))
    assert back == settings
    assert all(type(back[key]) is type(settings[key]) for key in settings)


@pytest.mark.parametrize(
    "name",
    [
        *("", "_", "600", "SEC", "600SEC_", "600SEC_600SEC", "100B_600SEC", "0600SEC", "-1SEC", "1.5SEC", "600sec"),
        *("600SEC_1PUB_PROLONGED", "600SEC 100B", "６００SEC", "1" * 500 + "SEC", "../x", "600SEC\n"),
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        parse_name(name)


@given(st.text(max_size=60))
def test_anything_else_raises_value_error_only(name: str) -> None:
    try:
        settings = parse_name(name)
    except ValueError:
        return
    assert parse_name(test_name(settings)) == settings


def test_folders_of_other_peoples_results_are_read() -> None:
    if not REAL.is_dir():
        pytest.skip(f"no folder {REAL} with real results")
    names = [folder.name for version in REAL.iterdir() if version.is_dir() for folder in version.iterdir()]
    read = [name for name in names if "PROLONGED" not in name]
    assert len(read) >= 5
    for name in read:
        assert parse_name(name).keys() >= {"duration_secs", "pub_count", "sub_count"}


@pytest.mark.fault("Q7")
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("PCG #1", "PCG_1"),
        ("RCG #1", "RCG_1"),
        ("../../etc", "etc"),
        ("-rf", "rf"),
        ("ä", "experiment"),
        ("...", "experiment"),
        ("a/b\\c d", "a_b_c_d"),
        ("x" * 200, "x" * 64),
        ("x" * 63 + " y", "x" * 63),
    ],
)
def test_folders_are_safe(name: str, folder: str, fired: Fired) -> None:
    assert safe_folder(name) == folder
    fired("Q7", f"{name!r} is {folder!r}")


@given(st.text(max_size=200))
def test_no_name_escapes_its_folder(name: str) -> None:
    folder = safe_folder(name)
    assert 1 <= len(folder) <= 64 and folder.isascii()
    assert "/" not in folder and folder[0] not in ".-" and folder not in ("", ".", "..")
