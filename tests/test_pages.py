"""The parts of docs/ that are made from tables of the code are as `make pages` writes them."""

from __future__ import annotations

import pytest

from autoperfd.core.plan import END_STATUSES
from autoperfd.core.policy import BLAMELESS_BUDGET, todo
from autoperfd.core.settings import DaemonSettings
from autoperfd.daemon.notify import GIVE_UP_SECS
from tests import documents, fault_table, pages


@pytest.mark.parametrize("page", pages.PAGES)
def test_a_page_is_fresh(page: str) -> None:
    text = documents.read(page)
    assert pages.parts(text).keys() == pages.PAGES[page].keys()
    assert text == pages.made(text, page), "run `make pages`"


def test_no_other_page_says_it_was_made() -> None:
    assert {file for file in documents.documents() if pages.parts(documents.read(file))} == set(pages.PAGES)


def test_a_part_that_is_stale_is_written_anew() -> None:
    text = "a\n<!-- made: ladder -->\nold\n<!-- made: end -->\nb\n"
    assert pages.parts(text) == {"ladder": "old\n"}
    fresh = pages.made(text, "docs/LIFE.md")
    assert fresh.startswith("a\n<!-- made: ladder -->\n| how a machine is ill |") and fresh.endswith("end -->\nb\n")
    assert "its power switch" in fresh and pages.made(fresh, "docs/LIFE.md") == fresh


def test_every_fault_is_told_to_the_person_at_the_bench_once() -> None:
    told = [fault for group in pages.read_failures() for row in group["rows"] for fault in row["faults"]]
    assert sorted(told) == sorted(row["id"] for part in fault_table.read_model() for row in part["rows"])


def test_what_a_failure_says_is_what_the_daemon_says() -> None:
    """Codes and ends are the product's own, and each row has only the keys that are known."""
    product = [documents.ROOT / "autoperfd" / name for name in ("core", "daemon", "remote", "tools")]
    sources = "".join(path.read_text(encoding="utf-8") for folder in product for path in folder.rglob("*.py"))
    known = {"what", "says", "does", "ends", "is_explained", "halt", "at_once", "goes_on", "code", "you", "faults"}
    for row in (row for group in pages.read_failures() for row in group["rows"]):
        assert row.keys() <= known, row
        assert [code for code in row.get("says", ()) if f'"{code}"' not in sources] == []
        assert set(row.get("ends", ())) < set(END_STATUSES)
        assert "halt" not in row or todo(row["halt"], True, "x"), row


def test_numbers_that_pages_tell_are_those_of_the_daemon() -> None:
    unit, told = documents.read("systemd/autoperfd.service"), documents.read("docs/FAILURES.md")
    for words, setting in (
        ("5 starts in 10 min", "\nStartLimitIntervalSec=10min\nStartLimitBurst=5\n"),
        ("ends it after 30 s", "\nWatchdogSec=30\n"),
    ):
        assert words in told and setting in unit
    assert "tries for 24 h" in told and GIVE_UP_SECS == 24 * 3600
    assert "tries every minute" in told and DaemonSettings().memory_probe_secs == 60
    assert "halts after five attempts of a test" in told and BLAMELESS_BUDGET == 5
    assert "Five attempts of a test" in documents.read("docs/LIFE.md")
    assert "notices within 20 s" in told and DaemonSettings().link_loss_secs <= 16  # and two tries more, 4.1 s
