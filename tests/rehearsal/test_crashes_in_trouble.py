"""Kills the daemon at every point of a way up the ladder, of a full disk and of an outage, alone and in pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from autoperfd.core.settings import DaemonSettings
from autoperfd.rehearsal.drafts import Draft
from autoperfd.rehearsal.world import PLENTY, Chances, World

SECS = 6000.0
SETTINGS = replace(
    DaemonSettings(),
    validation_secs=3.0,
    patience_secs=1800.0,
    backoff_first_secs=1.0,
    backoff_cap_secs=10.0,
    boot_budget_secs=30.0,
    restart_after_secs=0.0,
    grace_secs=5.0,
)
APART = (1, 2, 3, 5, 8, 13, 21)  # how many points lie between the two deaths of a pair


def machine(world: World, name: str) -> Callable[..., None]:
    (found,) = (one for one in world.machines.values() if one.name == name)
    return found.fall_ill


def ladder(world: World) -> None:
    """m1 hangs while an attempt is open, and only its power switch helps."""
    world.when["running"] = [lambda: machine(world, "m1")("SHELL_HANG", ("power",))]


def full_disk(world: World) -> None:
    """There is no room when the first result is to be written."""

    def full() -> None:
        world.free = 0
        world.timeline.after(40.0, lambda: setattr(world, "free", PLENTY))

    world.when["running"] = [full]


def outage(world: World) -> None:
    """A machine goes away after tests have failed, so that it may have been it."""

    def away() -> None:
        (one,) = (one for one in world.machines.values() if one.name == "m2")
        one.cycle(40.0)

    world.when["running"] = [away, lambda: None, lambda: None, lambda: None]


TROUBLE: dict[str, tuple[Callable[[World], None], Draft, float, tuple[str, ...]]] = {
    "ladder": (
        ladder,
        Draft("E1", tests=2, switches=("m1",)),
        0.0,
        (": soft", ": forced", ": power", " cycled, backing-off -> validating", "finish every test"),
    ),
    "full disk": (
        full_disk,
        Draft("E1", tests=2),
        0.0,
        ("low_disk, running -> halted", "room, halted -> idle", "finish every test"),
    ),
    "outage": (
        outage,
        Draft("E1", tests=2, retries=2, reboot="never", halt_after=9),
        1.0,
        ("refunded, ", "finish every test"),
    ),
}


def lived(name: str, crash_at: tuple[int, ...]) -> tuple[World, int]:
    """A world of that trouble that was lived through, and how many points there were."""
    trouble, draft, bad, _ = TROUBLE[name]
    files = [draft.text().encode()]
    chances = Chances(bad_tests=bad)
    with World(2, files, drafts=[draft], settings=SETTINGS, chances=chances, crash_at=crash_at) as world:
        trouble(world)
        world.live(SECS)
        points = world.points
        assert world.deaths == len([point for point in crash_at if point <= points])
        assert world.conclude() == [], crash_at
    return world, points


@pytest.mark.fault("P1")
@pytest.mark.parametrize("name", TROUBLE)
def test_a_crash_at_every_point_of_trouble(name: str, fired: Callable[[str, str], None]) -> None:
    calm, last = lived(name, ())
    assert [line for line in TROUBLE[name][3] if line not in calm.history] == []
    for point in range(1, last + 1):
        world, _ = lived(name, (point,))
        assert world.deaths == 1 and f"(point {point})" in world.history
    fired("P1", f"{last} deaths, one at each point")


@pytest.mark.fault("P2")
@pytest.mark.parametrize("name", TROUBLE)
def test_two_crashes_in_trouble(name: str, fired: Callable[[str, str], None]) -> None:
    """The second one also hits the recovery from the first."""
    (_, last), pairs = lived(name, ()), 0
    for first in range(1, last + 1):
        second = first + APART[first % len(APART)]
        pairs += lived(name, (first, second))[0].deaths == 2
    assert pairs > last // 2
    fired("P2", f"{pairs} pairs of deaths")
