"""A small sample of `make proof`: damage is seen, clean attempts are let pass, and the proof itself can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools import damage, proof
from tests.tools.proof import Seen


def test_damage_is_seen_and_clean_files_are_let_pass(tmp_path: Path) -> None:
    table, clean = proof.measure(count=6, times=1, seed=3, folder=tmp_path)
    missed = sum(kind.tried - kind.seen for kind in table.values())
    tried = sum(kind.tried for kind in table.values())
    assert len(table) >= 25 and clean.tried == 6 and not clean.seen
    assert missed <= (1 - proof.WANTED_OVERALL) * tried, proof.printed(table, clean)
    # Of so few of a kind one missed says nothing; two would.
    assert all(kind.tried - kind.seen <= 1 for kind in table.values()), proof.printed(table, clean)
    assert sum(kind.naive for kind in table.values()) < tried / 2


def test_thresholds_can_be_missed() -> None:
    assert proof.wrong({"a": Seen(100, 100, 0)}, Seen(5, 0, 0)) == []
    assert len(proof.wrong({"a": Seen(100, 94, 0), "b": Seen(1, 1, 0)}, Seen(5, 1, 0))) == 3
    assert proof.wrong({"a": Seen()}, Seen(5, 0, 0)) == ["a was never tried"]
    assert "94.0%" in proof.printed({"a": Seen(100, 94, 0)}, Seen(5, 0, 0))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b"1, 2.0\n", b"1,    2.00\n\n", True),
        (b"1, 2\n", b"1, 2", False),
        (b"1, 2\n", b"1, nan\n", False),
        (b"1, 10\n", b"1, 1e1\n", False),
        (b"a\n", b"b\n", False),
    ],
)
def test_what_is_equal_in_meaning(one: bytes, other: bytes, same: bool) -> None:
    assert damage.equal({"f": one}, {"f": other}) == same
    assert not damage.equal({"f": one}, {})
