"""Knows how tests are chosen and grouped: conditions such as `use_reliable=true`, and counts beside every mean.

Promises that a group tells of all its tests, so that figures of those that came through are never shown alone. Pure;
any thread.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from autoperfd.core.ess import mean, spread
from autoperfd.core.names import KEYS
from autoperfd.errors import AutoperfError
from autoperfd.results.gather import STATES, State, Test
from autoperfd.tools.judging import FIGURES

Value = bool | int | float | str | None

ABOUT: Mapping[str, Callable[[Test], Value]] = {
    "test_name": lambda test: test.name,
    "state": lambda test: test.state,
    "attempts": lambda test: test.attempts,
    "end_status": lambda test: test.last.end_status if test.last else None,
    "code": lambda test: test.last.code if test.last else None,
    "blame": lambda test: test.last.blame if test.last else None,
    "machine": lambda test: test.last.machine if test.last else None,
}
"""What can be asked of a test besides its settings and figures."""

SETTINGS = tuple(key.name for key in KEYS)
NUMBERS = tuple(name for name in (*FIGURES, *spread({}, FIGURES)) if name != "tool_version")
COLUMNS = (*ABOUT, *SETTINGS, "tool_version", *NUMBERS)
MOST_GROUPS = 10_000

_CONDITION = re.compile(r"\s*([A-Za-z0-9_]+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*")
_ORDER: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def value(test: Test, column: str) -> Value:
    """What a test has there; None where it has nothing."""
    if column in ABOUT:
        return ABOUT[column](test) or None if column != "attempts" else test.attempts
    return test.settings.get(column, test.figures.get(column))


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold of a test."""

    column: str
    sign: str
    wanted: Value

    def holds(self, test: Test) -> bool:
        """Whether it holds; nothing is neither smaller nor larger than anything, nor equal to it."""
        found = value(test, self.column)
        if self.sign in ("=", "!="):
            return (found == self.wanted and isinstance(found, bool) == isinstance(self.wanted, bool)) == (
                self.sign == "="
            )
        wanted = self.wanted
        return isinstance(found, int | float) and isinstance(wanted, int | float) and _ORDER[self.sign](found, wanted)


def condition(text: str) -> Condition:
    """The condition a person wrote, e.g. `datalen_bytes>=1000`. AutoperfError where it is none."""
    match = _CONDITION.fullmatch(text)
    if not match:
        raise AutoperfError(f"{text!r} is no condition", hint="One looks like use_reliable=true or latency_99_us>500")
    name, sign, words = match.groups()
    known(name)
    wanted = _value(words)
    if name == "state" and wanted not in STATES:
        raise AutoperfError(f"no test is ever {words!r}", hint=f"A state is one of {', '.join(STATES)}")
    if sign not in ("=", "!=") and (isinstance(wanted, str | bool) or wanted is None):
        raise AutoperfError(f"{text!r} asks for an order, but {words!r} is no number")
    return Condition(name, sign, wanted)


def columns(text: str) -> tuple[str, ...]:
    """The columns of a list such as `datalen_bytes,use_multicast`. AutoperfError where one is unknown."""
    return tuple(dict.fromkeys(known(name.strip()) for name in text.split(",")))


def known(name: str) -> str:
    """The column of that name. AutoperfError, with what may be meant."""
    if name in COLUMNS:
        return name
    close = difflib.get_close_matches(name, COLUMNS, 3)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"There are {', '.join((*ABOUT, *SETTINGS))} and figures"
    raise AutoperfError(f"there is no column {name!r}", hint=hint)


def _value(words: str) -> Value:
    if words.lower() in ("true", "false"):
        return words.lower() == "true"
    try:
        return int(words)
    except ValueError:
        pass
    try:
        number = float(words)
    except ValueError:
        return words
    return number if math.isfinite(number) else words


def chosen(tests: Iterable[Test], conditions: Sequence[Condition]) -> list[Test]:
    """The tests of which all conditions hold, in their order."""
    return [test for test in tests if all(each.holds(test) for each in conditions)]


# ---------------------------------------------------------------- groups


@dataclass(frozen=True, slots=True)
class Group:
    """Tests that agree in some columns. `means`: figure -> (mean, of how many) over those that are ok."""

    key: tuple[Value, ...]
    counts: Mapping[State, int]
    means: Mapping[str, tuple[float, int]]

    @property
    def tests(self) -> int:
        """How many tests there are."""
        return sum(self.counts.values())

    @property
    def attempted(self) -> int:
        """How many of them were begun."""
        return self.tests - self.counts["missing"] - self.counts["skipped"]


def grouped(tests: Iterable[Test], by: Sequence[str]) -> list[Group]:
    """The groups that the columns make, in order of their values. AutoperfError where there are too many."""
    members: dict[tuple[Value, ...], list[Test]] = {}
    for test in tests:
        members.setdefault(tuple(value(test, column) for column in by), []).append(test)
        if len(members) > MOST_GROUPS:
            raise AutoperfError(f"{', '.join(by)} make more than {MOST_GROUPS} groups", hint="Group by fewer columns")
    return [_group(key, members[key]) for key in sorted(members, key=lambda key: tuple(map(_rank, key)))]


def _group(key: tuple[Value, ...], tests: Sequence[Test]) -> Group:
    counts: dict[State, int] = dict.fromkeys(STATES, 0)
    for test in tests:
        counts[test.state] += 1
    means = {}
    for name in NUMBERS:
        found = [
            number for test in tests if test.state == "ok" and isinstance(number := value(test, name), int | float)
        ]
        if found:
            means[name] = mean(found), len(found)
    return Group(key, counts, means)


def _rank(found: Value) -> tuple[int, float, str]:
    """Where a value stands among others: nothing first, then numbers, then words."""
    if found is None:
        return 0, 0.0, ""
    return (2, 0.0, found) if isinstance(found, str) else (1, float(found), "")
