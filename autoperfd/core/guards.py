"""Decides whether a machine was undisturbed while an attempt ran, from two looks at it. Pure; any thread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from autoperfd.core.plan import Blame

Policy = Literal["invalid", "record"]

THROTTLED_NOW = 0xF  # of the Raspberry Pi's bits: under-voltage, capped, throttled, soft limit: now
THROTTLED_EVER = 0xF0000  # the same since the boot


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One look at one machine; None and () where it does not tell. Text from it is already made safe."""

    wall: float | None = None  # its clock, Unix seconds
    uptime: float | None = None  # seconds since its boot
    users: tuple[str, ...] = ()  # people logged in from elsewhere, "ann pts/0 192.0.2.9"
    foreign: tuple[str, ...] = ()  # benchmark processes that are not ours, "4711 perftest_cpp"
    celsius: float | None = None
    throttled: int | None = None  # bits as vcgencmd get_throttled gives them
    link_errors: int | None = None  # of all network interfaces but the loopback one, since the boot
    free_kb: int | None = None  # where the account's home is


@dataclass(frozen=True, slots=True)
class Guards:
    """What autoperfd.toml says about disturbances."""

    foreign: Policy = "invalid"
    users: Policy = "invalid"
    throttled: Policy = "invalid"
    clock_step_secs: float = 1.0  # 0: not looked at
    max_celsius: float = 0.0  # 0: not looked at
    max_link_errors: int = 100  # new ones in one attempt; 0: not looked at
    min_free_mb: int = 64


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that makes an attempt's figures doubtful."""

    machine: str
    code: str
    reason: str
    blame: Blame


def violations(before: Mapping[str, Watch], after: Mapping[str, Watch], guards: Guards) -> list[Violation]:
    """What disturbed the attempt between two looks at each machine; [] when nothing did."""
    found = []
    for machine, then in before.items():
        now = after.get(machine)
        if now is not None:
            found += list(_of(machine, then, now, guards))
    return found


def _of(machine: str, then: Watch, now: Watch, guards: Guards) -> Iterator[Violation]:
    foreign = sorted({*then.foreign, *now.foreign})
    if foreign and guards.foreign == "invalid":
        yield Violation(
            machine, "FOREIGN_PROCESS", f"{machine} ran benchmark processes of others: {_few(foreign)}", "operator"
        )
    users = sorted({*then.users, *now.users})
    if users and guards.users == "invalid":
        yield Violation(machine, "USER_LOGGED_IN", f"somebody was logged in on {machine}: {_few(users)}", "operator")
    if None not in (then.wall, then.uptime, now.wall, now.uptime) and guards.clock_step_secs:
        assert then.wall is not None and then.uptime is not None and now.wall is not None and now.uptime is not None
        step = (now.wall - now.uptime) - (then.wall - then.uptime)
        if abs(step) > guards.clock_step_secs:
            yield Violation(machine, "CLOCK_STEP", f"the clock of {machine} stepped by {step:.1f} s", "machine")
    if now.throttled is not None and guards.throttled == "invalid":
        fresh = now.throttled & THROTTLED_EVER & ~(then.throttled or 0)
        if now.throttled & THROTTLED_NOW or fresh:
            yield Violation(
                machine, "THROTTLED", f"{machine} was throttled or under-voltage (bits {now.throttled:#x})", "machine"
            )
    hottest = max((c for c in (then.celsius, now.celsius) if c is not None), default=None)
    if hottest is not None and guards.max_celsius and hottest > guards.max_celsius:
        yield Violation(machine, "TOO_HOT", f"{machine} was {hottest:.1f} degrees Celsius hot", "machine")
    if then.link_errors is not None and now.link_errors is not None and guards.max_link_errors:
        fresh = now.link_errors - then.link_errors
        if fresh > guards.max_link_errors:
            yield Violation(machine, "LINK_ERRORS", f"{machine} had {fresh} errors on its network links", "network")


def _few(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")
