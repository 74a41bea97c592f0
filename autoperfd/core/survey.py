"""Knows what is recorded of machines because figures may depend on it, and which of it should not change. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

PASSING = (
    "boot_id",
    "clock",
    "clock_offset",
    "clock_skew",
    "clock_sync",
    "free_kb",
    "load",
    "memory_kb",
    "temperature",
    "throttled",
)
"""Facts that differ from look to look, or from boot to boot, though nobody changed anything. May only grow: what was
one of them is in no memory."""

LONGEST = 80  # characters of a value that a sentence shows
ABSENT = "nothing"  # stands where a machine no longer tells, or did not tell before


@dataclass(frozen=True, slots=True)
class Survey:
    """What should not change of one machine, as it was found before an attempt and, if the same, before later ones."""

    machine: str
    attempt: int  # the memory's number of that attempt; they rise
    wall: float  # when it was opened
    facts: str  # JSON, see `lasting`


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact of a machine that was not what it had been before an earlier attempt of the experiment."""

    attempt: int  # the first it holds for, as in Survey
    wall: float
    machine: str
    fact: str
    before: str
    after: str

    def sentence(self) -> str:
        """In words, without the time."""
        return f"{self.machine}: {self.fact} changed from {_short(self.before)} to {_short(self.after)}"


def lasting(facts: Mapping[str, str]) -> str:
    """JSON of the facts of one machine that should be the same in every attempt."""
    return json.dumps({key: str(facts[key]) for key in sorted(facts) if key not in PASSING}, ensure_ascii=False)


def differences(surveys: Iterable[Survey]) -> Iterator[Difference]:
    """What changed from survey to survey of each machine; `surveys`: of one experiment, in their order."""
    latest: dict[str, dict[str, str]] = {}
    for survey in surveys:
        now: dict[str, str] = json.loads(survey.facts)
        then = latest.get(survey.machine, now)
        latest[survey.machine] = now
        for fact in sorted({*then, *now}):
            before, after = then.get(fact, ABSENT), now.get(fact, ABSENT)
            if before != after:
                yield Difference(survey.attempt, survey.wall, survey.machine, fact, before, after)


def _short(value: str) -> str:
    return value if len(value) <= LONGEST else value[: LONGEST - 1] + "…"
