"""Knows how figures of a status become what the page draws: bars, strips, words. Pure; any thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoperfd.daemon import views

WIDE = 1000  # units of a bar

_ENDS = {
    "+": ("ok", "success"),
    "~": ("no-summary", "data complete, summary missing"),
    "-": ("skipped", "skipped"),
    "x": ("failed", "failed by its own fault"),
    "o": ("lost", "lost by somebody else's fault"),
}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar: its look, where it begins and how long it is, in units of WIDE a whole bar."""

    look: str
    at: int
    long: int


def bar(experiment: Mapping[str, Any]) -> list[Part]:
    """How far an experiment is; whatever there is of a kind is at least a unit long."""
    total = experiment["tests_total"] or 0
    parts, at = [], 0
    for look in ("succeeded", "failed", "skipped"):
        number = experiment[look]
        if number and total:
            long = max(4, WIDE * number // total)
            parts.append(Part({"succeeded": "ok"}.get(look, look), at, min(long, WIDE - at)))
            at += parts[-1].long
    return parts


def strip(ends: str) -> list[tuple[str, str]]:
    """(look, words) of each of the latest attempts, oldest first."""
    return [_ENDS.get(letter, ("missing", "unknown")) for letter in ends]


def ordered(experiments: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that need or do something first."""
    return sorted(experiments, key=lambda e: views.rank(e["state"], e["outcome"]))


def state(experiment: Mapping[str, Any]) -> str:
    """Where an experiment is, in a word."""
    return str(experiment["outcome"] or "idle") if experiment["state"] == "idle" else str(experiment["state"])
