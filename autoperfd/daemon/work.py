"""What passes between the engine and whoever does its work: answers, and how long an order may take. Any thread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autoperfd.core import messages as m

ENDLESS = m.Sweep | m.SlowProbe
"""Orders that go on until machines answer, however long that takes; now and then they are begun anew."""

ANEW_SECS = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What an order came to. The engine ignores it when the ticket is an old one."""

    experiment: int
    ticket: int
    event: m.Event


@dataclass(slots=True)
class Underway:
    """An order that somebody is at. `folder` and `tool`: what it was begun with, to begin it once more."""

    ticket: int
    order: m.Order
    folder: Path
    tool: str
    overdue_at: float  # monotonic


@dataclass(frozen=True, slots=True)
class Crash:
    """A worker met an error nobody foresaw; the daemon ends with it."""

    error: BaseException


class Clock(Protocol):
    """The time, passed in so that tests and rehearsals can have their own."""

    def wall(self) -> float:
        """Unix seconds UTC."""

    def monotonic(self) -> float:
        """Seconds that never step."""

    def suspended(self) -> float:
        """Seconds that the computer was suspended since it booted; `monotonic` does not count them."""


def bound(order: m.Order, *, validation_secs: float, boot_budget_secs: float, grace_secs: float) -> float:
    """Seconds after which an order must have answered by itself, with room to spare.

    One that is ENDLESS is begun anew then: its thread may hang, and nobody else would notice.
    """
    match order:
        case m.Wait(secs=secs):
            return secs + 60
        case m.Reboot() | m.PowerCycle():
            return boot_budget_secs * 1.5 + 180
        case m.RunAttempt(deadline_secs=secs):
            return secs + grace_secs + 3600
        case m.Validate():
            return validation_secs * 2 + 300
        case m.SlowProbe(secs=secs):
            return secs + validation_secs * 2 + ANEW_SECS
    return ANEW_SECS


def stuck(order: m.Order) -> m.Event:
    """The event that stands for an order's answer when it outlived its bound."""
    if isinstance(order, m.Wait):
        return m.Due()
    reason = f"{type(order).__name__} did not end within its time"
    if isinstance(order, m.PowerCycle) or (isinstance(order, m.Reboot) and order.rung):
        return m.NotCycled(machine=order.machines[0].name, reason=reason, code="WORK_STUCK")
    return m.Unreachable(machine=order.machines[0].name, reason=reason, code="WORK_STUCK")
