"""Enumerates the tests of an experiment lazily; promises O(1) memory and that name and number determine each other.

Test k is computed from k: mixed radix over the axes (last one fastest), through a seeded permutation where the
order is random, so no combination comes twice and no look-up is kept. Pure; any thread.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, product
from math import isqrt, prod
from typing import Protocol

from autoperfd.core.names import parse_name, test_name
from autoperfd.core.plan import Setting, Settings

ROUNDS = 8  # of the permutation; part of what a seed means, never to be changed


class Values(Protocol):
    """The values of one setting, numbered from 0."""

    @property
    def count(self) -> int:
        """How many values."""

    def at(self, i: int) -> Setting:
        """Value number i."""

    def index(self, value: Setting) -> int | None:
        """The number of a value; None: not one of them."""

    def spans(self) -> list[list[int | bool]]:
        """The set of values, the same for equal sets: [first, last] pairs of integers, or booleans singly."""

    def samples(self, most: int) -> list[Setting]:
        """At most `most` (>= 2) values that stand for all: ends first, then evenly between them."""


@dataclass(frozen=True)
class Choice:
    """Values listed one by one, all different."""

    values: tuple[Setting, ...]

    @property
    def count(self) -> int:
        """How many values."""
        return len(self.values)

    def at(self, i: int) -> Setting:
        """Value number i."""
        return self.values[i]

    @cached_property
    def _places(self) -> dict[tuple[type, Setting], int]:
        return {(type(value), value): i for i, value in enumerate(self.values)}

    def index(self, value: Setting) -> int | None:
        """The number of a value; None: not one of them."""
        return self._places.get((type(value), value))

    def spans(self) -> list[list[int | bool]]:
        """Integers as merged [first, last] pairs, booleans as [value]."""
        if any(isinstance(value, bool) for value in self.values):
            return [[value] for value in sorted(self.values)]
        merged: list[list[int | bool]] = []
        for value in sorted(self.values):
            if merged and merged[-1][1] + 1 == value:
                merged[-1][1] = value
            else:
                merged.append([value, value])
        return merged

    def samples(self, most: int) -> list[Setting]:
        """The smallest, the largest and some between."""
        return _spread(sorted(self.values), most)


@dataclass(frozen=True)
class Range:
    """Integers in ascending spans (first, last), inclusive, apart from each other and not empty."""

    pieces: tuple[tuple[int, int], ...]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(last - first + 1 for first, last in self.pieces))

    @property
    def count(self) -> int:
        """How many values."""
        return self._ends[-1]

    def at(self, i: int) -> Setting:
        """Value number i, in ascending order."""
        piece = bisect_right(self._ends, i)
        before = self._ends[piece - 1] if piece else 0
        return self.pieces[piece][0] + i - before

    def index(self, value: Setting) -> int | None:
        """The number of a value; None: not one of them."""
        if isinstance(value, bool):
            return None
        piece = bisect_left(self.pieces, value, key=lambda span: span[1])
        if piece == len(self.pieces) or value < self.pieces[piece][0]:
            return None
        return (self._ends[piece - 1] if piece else 0) + value - self.pieces[piece][0]

    def spans(self) -> list[list[int | bool]]:
        """The pieces, neighbours merged."""
        merged: list[list[int | bool]] = []
        for first, last in self.pieces:
            if merged and merged[-1][1] + 1 == first:
                merged[-1][1] = last
            else:
                merged.append([first, last])
        return merged

    def samples(self, most: int) -> list[Setting]:
        """The ends of the pieces and some between."""
        ends: list[Setting] = sorted({value for piece in self.pieces for value in piece})
        if len(ends) < most:
            steps = [self.at(i * (self.count - 1) // (most - 1)) for i in range(most)]
            ends = sorted({*ends, *steps})
        return _spread(ends, most)


def _spread(values: Sequence[Setting], most: int) -> list[Setting]:
    """At most `most` of the values, first and last among them."""
    if len(values) <= most:
        return list(values)
    return [values[i * (len(values) - 1) // (most - 1)] for i in range(most)]


@dataclass(frozen=True)
class Axis:
    """One setting and the values it takes."""

    key: str
    values: Values


class Space(Protocol):
    """A set of tests, numbered from 0 in its natural order."""

    @property
    def count(self) -> int:
        """How many tests."""

    def at(self, i: int) -> dict[str, Setting]:
        """The settings of test i."""

    def index(self, settings: Settings) -> int | None:
        """The number of the test with these settings; None: not in the space."""

    def identity(self) -> dict[str, object]:
        """What makes the space this one, as JSON-able values; order of keys and values plays no part."""


@dataclass(frozen=True)
class Product:
    """Every combination of the axes' values, the last axis fastest."""

    axes: tuple[Axis, ...]

    @cached_property
    def count(self) -> int:
        """How many tests."""
        return prod(axis.values.count for axis in self.axes)

    def at(self, i: int) -> dict[str, Setting]:
        """The settings of test i, keys in the order of the axes."""
        drawn: list[tuple[str, Setting]] = []
        for axis in reversed(self.axes):
            i, digit = divmod(i, axis.values.count)
            drawn.append((axis.key, axis.values.at(digit)))
        return dict(reversed(drawn))

    def index(self, settings: Settings) -> int | None:
        """The number of the test with exactly these settings; None: not in the space."""
        if len(settings) != len(self.axes):
            return None
        i = 0
        for axis in self.axes:
            value = settings.get(axis.key)
            digit = None if value is None else axis.values.index(value)
            if digit is None:
                return None
            i = i * axis.values.count + digit
        return i

    def identity(self) -> dict[str, object]:
        """The set of values of each key."""
        return {"values": {axis.key: axis.values.spans() for axis in self.axes}}

    def samples(self, budget: int) -> Iterator[dict[str, Setting]]:
        """Combinations that stand for the space: all of them up to `budget`, else of values that stand for all."""
        if self.count <= budget:
            chosen = [[axis.values.at(i) for i in range(axis.values.count)] for axis in self.axes]
        else:
            most = 64
            while True:
                chosen = [axis.values.samples(most) for axis in self.axes]
                if most == 2 or prod(map(len, chosen)) <= budget:
                    break
                most = max(2, most * 3 // 4)
        keys = [axis.key for axis in self.axes]
        for values in product(*chosen):
            yield dict(zip(keys, values, strict=True))


@dataclass(frozen=True)
class Listing:
    """Tests named one by one, as written names, all different."""

    names: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many tests."""
        return len(self.names)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def at(self, i: int) -> dict[str, Setting]:
        """The settings of test i, keys in the order of the name."""
        return parse_name(self.names[i])

    def index(self, settings: Settings) -> int | None:
        """The number of the test with these settings; None: not listed."""
        return self._places.get(test_name(settings))

    def identity(self) -> dict[str, object]:
        """The set of names."""
        return {"tests": sorted(self.names)}


@dataclass(frozen=True)
class Sweep:
    """The tests of an experiment in the order they are tried, numbered from 0 to `count` - 1.

    A shuffled sweep needs its seed bound by `seeded` before its tests can be asked for (ValueError else).
    """

    space: Space
    shuffled: bool = False
    limit: int | None = None
    seed: int | None = None

    @property
    def count(self) -> int:
        """How many tests; known without the seed."""
        return self.space.count if self.limit is None else min(self.limit, self.space.count)

    def at(self, i: int) -> dict[str, Setting]:
        """The settings of test i; IndexError outside the sweep."""
        if not 0 <= i < self.count:
            raise IndexError(f"test {i} is outside the sweep of {self.count} tests")
        return self.space.at(self._permutation.apply(i) if self.shuffled else i)

    def name_at(self, i: int) -> str:
        """The name of test i; IndexError outside the sweep."""
        return test_name(self.at(i))

    def index_of(self, name: str) -> int | None:
        """The number of the test with this name, in any spelling; None: not in the sweep."""
        place = self._place(name)
        if place is None:
            return None
        i = self._permutation.invert(place) if self.shuffled else place
        return i if i < self.count else None

    def covers(self, name: str) -> bool:
        """Whether the name is of a test in the space; needs no seed, so it knows nothing of the limit."""
        return self._place(name) is not None

    def seeded(self, seed: int) -> Sweep:
        """This sweep with its seed bound; one that is not shuffled stays as it is."""
        return replace(self, seed=seed) if self.shuffled else self

    def identity(self, tool: str) -> str:
        """SHA-256 (hex) of the tool and the set of values per key; seed, order and limit play no part."""
        text = json.dumps({"tool": tool, **self.space.identity()}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def _place(self, name: str) -> int | None:
        try:
            return self.space.index(parse_name(name))
        except ValueError:
            return None

    @cached_property
    def _permutation(self) -> Permutation:
        if self.seed is None:
            raise ValueError("a shuffled sweep has no tests before its seed is bound")
        return Permutation(self.space.count, self.seed)


class Permutation:
    """A seeded permutation of 0 … count-1 that is computed, not stored, and can be inverted.

    A Feistel network over a rectangle of about count cells; numbers that land outside walk on until they are in.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.width = isqrt(max(count - 1, 0)) + 1
        self.height = -(-count // self.width)
        self.key = hashlib.sha256(f"autoperf sweep {seed}".encode()).digest()

    def apply(self, i: int) -> int:
        """Where i goes; 0 <= i < count."""
        while True:
            row, column = divmod(i, self.width)
            for turn in range(ROUNDS):
                if turn % 2:
                    row = (row + self._mix(turn, column)) % self.height
                else:
                    column = (column + self._mix(turn, row)) % self.width
            i = row * self.width + column
            if i < self.count:
                return i

    def invert(self, i: int) -> int:
        """What comes to i: invert(apply(i)) == i."""
        while True:
            row, column = divmod(i, self.width)
            for turn in reversed(range(ROUNDS)):
                if turn % 2:
                    row = (row - self._mix(turn, column)) % self.height
                else:
                    column = (column - self._mix(turn, row)) % self.width
            i = row * self.width + column
            if i < self.count:
                return i

    def _mix(self, turn: int, half: int) -> int:
        text = b"%d %d" % (turn, half)
        return int.from_bytes(hashlib.blake2b(text, key=self.key, digest_size=32).digest(), "big")
