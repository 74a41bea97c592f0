"""Which tests an experiment has: its file enumerated anew, and test names read. Pure but for reading one file."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from autoperfd.verify.findings import Unreadable

MOST_BYTES = 1 << 20

# (setting, its words in a test name: units of a number, or pairs for true and false); in the order of a name.
PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("duration_secs", ("SEC", "s")),
    ("datalen_bytes", ("B",)),
    ("pub_count", ("PUB", "P")),
    ("sub_count", ("SUB", "S")),
    ("use_reliable", ("REL/BE", "rel/be")),
    ("use_multicast", ("MC/UC", "mc/uc")),
    ("durability_level", ("DUR", "dur")),
    ("latency_count", ("LC", "lc")),
    ("latency_test", ("LATENCY/THROUGHPUT",)),
)
_NUMBER = re.compile(r"([0-9]+)([A-Za-z]+)", re.ASCII)

Value = int | bool


def settings_of(name: str) -> dict[str, Value] | None:
    """The settings a test name spells, in its order; None where it is no test name."""
    found: dict[str, Value] = {}
    rest = list(PARTS)
    for word in name.split("_"):
        while rest:
            key, spellings = rest.pop(0)
            value = _value(word, spellings)
            if value is not None:
                found[key] = value
                break
        else:
            return None
    return found


def _value(word: str, spellings: tuple[str, ...]) -> Value | None:
    number = _NUMBER.fullmatch(word)
    for spelling in spellings:
        yes, slash, no = spelling.partition("/")
        if slash and word in (yes, no):
            return word == yes
        if not slash and number and number[2] == spelling:
            return int(number[1])
    return None


def name_of(settings: Mapping[str, Value]) -> str:
    """The name of a test, as it is written."""
    words = []
    for key, spellings in PARTS:
        if key in settings:
            yes, slash, no = spellings[0].partition("/")
            words.append((yes if settings[key] else no) if slash else f"{settings[key]}{yes}")
    return "_".join(words)


@dataclass(frozen=True)
class Axis:
    """One setting: its values, or the ends of its range. `loose`: the tool may leave values of the range out."""

    key: str
    values: tuple[Value, ...]
    ends: tuple[int, int] | None = None
    loose: bool = False

    @cached_property
    def _places(self) -> dict[tuple[type, Value], int]:
        return {(type(value), value): place for place, value in enumerate(self.values)}

    def count(self) -> int:
        """How many values, at most."""
        return self.ends[1] - self.ends[0] + 1 if self.ends else len(self.values)

    def index(self, value: Value) -> int | None:
        """The number of a value; None: not one of them."""
        if self.ends:
            inside = not isinstance(value, bool) and self.ends[0] <= value <= self.ends[1]
            return value - self.ends[0] if inside else None
        return self._places.get((type(value), value))


class Space:
    """The tests of one experiment. `size`: how many, at most where it is not `exact`."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        """`table`: the experiment's table of its file. Raises Unreadable where it makes no sense."""
        self.axes: tuple[Axis, ...] = ()
        self._places: dict[str, int] = {}
        rcg = table.get("combination_generation_type") == "rcg"
        try:
            if "tests" in table:
                named = [settings_of(name) for name in table["tests"]]
                self._places = {name_of(settings or {}): i for i, settings in enumerate(named)}
                self.size, self.exact, self.ordered = len(self._places), True, True
                self.columns = tuple(key for key, _ in PARTS)
                return
            axes = (_axis(key, found, rcg) for key, found in table["qos_settings"].items())
            self.axes = tuple(axis for axis in axes if axis is not None)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Unreadable(f"the experiment's file does not say which tests it has: {error!r}") from error
        self.size = prod(axis.count() for axis in self.axes)
        self.exact = not any(axis.loose for axis in self.axes)
        self.ordered = not rcg and table.get("order", "listed") == "listed"
        self.columns = tuple(axis.key for axis in self.axes)

    def index(self, name: str) -> int | None:
        """The number of a test in the order of the file; None: it is none of the tests, or not written like that."""
        settings = settings_of(name)
        if settings is None or name_of(settings) != name:
            return None
        if not self.axes:
            return self._places.get(name)
        if settings.keys() != set(self.columns):
            return None
        number = 0
        for axis in self.axes:
            digit = axis.index(settings[axis.key])
            if digit is None:
                return None
            number = number * axis.count() + digit
        return number

    def count(self, limit: int | None) -> int | None:
        """How many tests are tried in all, given `rcg_test_count`; None: not to be known without the tool's facts."""
        if self.exact:
            return self.size if limit is None else min(limit, self.size)
        return None


def _axis(key: str, found: Any, rcg: bool) -> Axis | None:
    if isinstance(found, dict):
        return Axis(key, (), (int(found["min"]), int(found["max"])), loose=rcg and found["min"] != found["max"])
    if not found:
        return None
    numbers = all(isinstance(value, int) and not isinstance(value, bool) for value in found)
    if rcg and numbers and len(found) == 2:
        return Axis(key, (), (found[0], found[1]), loose=found[0] != found[1])
    return Axis(key, tuple(found))


def read_table(path: Path, name: str) -> dict[str, Any]:
    """The table of one experiment in its file. Raises Unreadable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise Unreadable(f"{path.name} is no regular file")
        with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor, no path
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"{path.name} cannot be read: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise Unreadable(f"{path.name} is larger than any experiment file may be")
    try:
        tables = tomllib.loads(data.decode("utf-8-sig").replace("\r\n", "\n"))["experiments"]
        table = next(table for table in tables if table["experiment_name"] == name)
    except (ValueError, KeyError, TypeError, RecursionError, StopIteration) as error:
        raise Unreadable(f"{path.name} does not hold the experiment {name!r}") from error
    return dict(table)


def same(table: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Whether a table of a file is the one the memory keeps, in the same order."""
    return json.dumps(table, default=str) == json.dumps(document)
