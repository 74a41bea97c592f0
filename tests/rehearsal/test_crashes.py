"""Kills the daemon before and after every commit and before every start of work, alone and in pairs."""

from __future__ import annotations

import pytest

from autoperfd.rehearsal.drafts import Draft
from autoperfd.rehearsal.world import Chances, World

SECS = 3000.0
PARTS = 8
DRAFTS = {
    "reboots before each test": [Draft("E1", reboot="test")],
    "fails": [Draft("E1", reboot="failure", retries=1)],
    "halts": [Draft("E1", halt_after=1, retries=0)],
    "two": [Draft("E1", tests=2), Draft("E2", tests=2, machines=("m2", "m3"))],
}
PLAIN = [Draft("E1")]


def lived(drafts: list[Draft], crash_at: tuple[int, ...], bad: float = 0.0) -> World:
    """A world after it was lived through with crashes at these points, and no trouble besides."""
    files = [draft.text().encode() for draft in drafts]
    with World(1, files, drafts=drafts, chances=Chances(bad_tests=bad), crash_at=crash_at) as world:
        world.live(SECS)
        assert world.deaths == len([point for point in crash_at if point <= world.points])
        assert world.conclude() == [], crash_at
    return world


def points(drafts: list[Draft], bad: float = 0.0) -> int:
    """How many points there are when nothing goes wrong."""
    files = [draft.text().encode() for draft in drafts]
    with World(1, files, drafts=drafts, chances=Chances(bad_tests=bad)) as world:
        world.live(SECS)
        return world.points


@pytest.mark.parametrize("name", DRAFTS)
def test_a_crash_at_every_point(name: str) -> None:
    bad = 1.0 if name == "halts" else 0.5 if name == "fails" else 0.0
    last = points(DRAFTS[name], bad)
    assert last > 20
    for point in range(1, last + 1):
        world = lived(DRAFTS[name], (point,), bad)
        assert world.deaths == 1 and f"(point {point})" in world.history


@pytest.mark.parametrize("part", range(PARTS))
def test_a_crash_at_every_pair_of_points(part: int) -> None:
    """The second one also hits the recovery from the first."""
    last = points(PLAIN)
    assert last > 30
    for first in range(1 + part, last + 1, PARTS):
        second = first + 1
        while lived(PLAIN, (first, second)).deaths == 2:
            second += 1
        assert second > last


def test_crashes_in_a_row_are_survived() -> None:
    """Every start of the daemon is killed at its first chance, thirty times."""
    assert lived(PLAIN, tuple(range(5, 35))).deaths == 30


def test_every_kind_of_point_is_hit() -> None:
    told = "".join(lived(PLAIN, (point,)).history for point in range(1, 7))
    for way in ("before a commit", "after a commit", "before a start"):
        assert f"the daemon ends: {way}" in told
