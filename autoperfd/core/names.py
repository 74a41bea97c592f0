"""Knows the settings of a test and how its name spells them; promises that name and settings determine each other.

Three spellings are read (`600SEC_100B_1PUB_1SUB_BE_MC_3DUR_100LC`, `600SEC_100B_1P_1S_BE_MC_3DUR_100LC`,
`600s_100B_1P_1S_be_mc_3dur_100lc`), the first is written. Pure; any thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoperfd.core.plan import Setting, Settings

NAME_LIMIT = 400  # characters of a test name that are looked at; longer ones are none of ours


@dataclass(frozen=True, slots=True)
class Key:
    """One setting: how its part of a test name is spelt and what any tool could take at most.

    An integer's `spellings` follow the number; a boolean's are (true, false) words. The first one is written.
    """

    name: str
    meaning: str
    spellings: tuple[str, ...] = ()
    words: tuple[tuple[str, str], ...] = ()
    low: int = 0
    high: int = 2**31 - 1
    required: bool = False

    @property
    def boolean(self) -> bool:
        """Whether the setting is true or false rather than a number."""
        return bool(self.words)


KEYS: tuple[Key, ...] = (
    Key("duration_secs", "seconds a test lasts", ("SEC", "s"), low=1, high=4_000_000, required=True),
    Key("datalen_bytes", "bytes of one sample", ("B",), low=1),
    Key("pub_count", "number of publishers", ("PUB", "P"), low=1, high=10_000, required=True),
    Key("sub_count", "number of subscribers", ("SUB", "S"), low=1, high=10_000, required=True),
    Key("use_reliable", "reliable or best effort", words=(("REL", "BE"), ("rel", "be"))),
    Key("use_multicast", "multicast or unicast", words=(("MC", "UC"), ("mc", "uc"))),
    Key("durability_level", "0 volatile … 3 persistent", ("DUR", "dur"), high=3),
    Key("latency_count", "samples sent for one latency sample", ("LC", "lc"), low=1),
    Key("latency_test", "ping-pong latency test instead of throughput", words=(("LATENCY", "THROUGHPUT"),)),
)
"""Every setting, in the order of a test name's parts."""

BY_NAME: Mapping[str, Key] = {key.name: key for key in KEYS}

_PLACE = {key.name: place for place, key in enumerate(KEYS)}
_UNITS = {spelling: key for key in KEYS for spelling in key.spellings}
_WORDS = {pair[i]: (key, i == 0) for key in KEYS for pair in key.words for i in (0, 1)}
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,18})([A-Za-z]+)", re.ASCII)


def test_name(settings: Settings) -> str:
    """The name of the test with these settings, its parts in the order of KEYS whatever the order given."""
    parts = []
    for key in KEYS:
        value = settings.get(key.name)
        if value is None:
            continue
        parts.append(key.words[0][0 if value else 1] if key.words else f"{value}{key.spellings[0]}")
    return "_".join(parts)


test_name.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test of its own


def parse_name(name: str) -> dict[str, Setting]:
    """The settings a test name spells, in the order of KEYS; ValueError with a sentence when it is not one."""
    settings: dict[str, Setting] = {}
    last = -1
    for part in name[:NAME_LIMIT].split("_"):
        key, value = _part(part)
        if _PLACE[key.name] <= last:
            raise ValueError(f"{part!r} is not in its place: {pattern()} is the order")
        last = _PLACE[key.name]
        settings[key.name] = value
    if len(name) > NAME_LIMIT:
        raise ValueError(f"a test name has at most {NAME_LIMIT} characters")
    return settings


def _part(part: str) -> tuple[Key, Setting]:
    """The key and value of one part of a name."""
    if part in _WORDS:
        return _WORDS[part]
    match = _NUMBER.fullmatch(part)
    key = _UNITS.get(match.group(2)) if match else None
    if match is None or key is None:
        raise ValueError(f"{part!r} is no part of a test name like {pattern()}")
    return key, int(match.group(1))


def pattern() -> str:
    """A test name to show in messages."""
    return "600SEC_100B_15PUB_15SUB_BE_MC_3DUR_100LC"


def safe_folder(name: str) -> str:
    """A folder name for an experiment: "PCG #1" gives "PCG_1". Not unique: the daemon sees to that."""
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._-")[:64].rstrip("._-")
    return safe or "experiment"
