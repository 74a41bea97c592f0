"""The parts of docs/ that are made from tables of the code are as `make pages` writes them."""

from __future__ import annotations

import pytest

from tests import documents, pages


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
