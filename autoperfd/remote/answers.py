"""What machines answer, read strictly: whatever does not fit is a ShellBroken("nonsense"). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from autoperfd.core.guards import Watch
from autoperfd.core.plan import EndedBy, Participant, ParticipantRecord
from autoperfd.core.text import safe, safe_lines
from autoperfd.remote.shell import ShellBroken

Value = TypeVar("Value")
STATES = ("absent", "starting", "parked", "never", "running", "lost", "done")
STARTED = ("running", "lost", "done")  # states in which the participants have been released
ENDED_BY: dict[str, EndedBy] = {"deadline": "deadline", "grace": "grace", "sweep": "sweep"}
PROBE_LIMIT = 1 << 16
MOST_FACTS = 200  # of one survey
MOST_NAMED = 20  # people and processes that are told of one look at a machine
_BOOT_ID = re.compile(r"[0-9A-Za-z-]{4,64}", re.ASCII)
_FACT = re.compile(r"[a-z][A-Za-z0-9_.:@-]{0,63}", re.ASCII)
_NUMBER = re.compile(r"\d{1,12}(\.\d{1,9})?", re.ASCII)
_COUNT = re.compile(r"\d{1,15}", re.ASCII)
_DEGREES = re.compile(r"-?\d{1,7}", re.ASCII)
_BITS = re.compile(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})", re.ASCII)  # of vcgencmd, or of the kernel's file
_FOREIGN = re.compile(r"(\d{1,10}) (.{0,64})", re.ASCII)
_WHO = re.compile(r"(\S+) +(\S+) .*\(([^()]*(?:\([^()]*\)[^()]*)?)\)", re.ASCII)  # the last word of `who`: from where
_TERMINAL = re.compile(r"pts/\d+|tty\S+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ending:
    """What the launcher recorded of one participant; None where it has not ended, or nothing is known."""

    status: int | None
    uptime: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Found:
    """All that is known of one attempt on one machine."""

    state: str
    boot: str  # boot id now
    before: str = ""  # boot ids the launcher wrote; "" when it did not
    after: str = ""
    uptime: float | None = None
    started: float | None = None  # that machine's clock
    released: float | None = None  # its uptime at that moment
    free_kb: int | None = None
    endings: tuple[Ending, ...] = ()
    watch_before: Watch | None = None  # looks at the machine; None: not taken, or lost
    watch_after: Watch | None = None

    @property
    def age(self) -> float:
        """Seconds since the start, 0 when not known."""
        if self.uptime is None or self.released is None:
            return 0.0
        return max(0.0, self.uptime - self.released)

    def record(self, at: int, participant: Participant) -> ParticipantRecord:
        """The record of the machine's participant number `at`."""
        ending = self.endings[at] if at < len(self.endings) else Ending(None, None, "")
        exit_status, signal = _split(ending.status)
        ended = None
        if None not in (ending.uptime, self.started, self.released):
            ended = round(self.started + ending.uptime - self.released, 3)  # type: ignore[operator]
        ended_by: EndedBy = ENDED_BY.get(ending.why, "self" if ending.status is not None else "unknown")
        return ParticipantRecord(
            participant.name, participant.machine, exit_status, signal, ended_by, self.started, ended
        )


@dataclass(frozen=True, slots=True)
class Probed:
    """What verb `probe` answered."""

    lines: dict[str, list[str]] = field(default_factory=dict)
    output: str = ""
    exit: int | None = None  # of the executable's probe start; None: not started

    def first(self, key: str) -> str:
        """The first line's text of that key, made safe; "" when there is none."""
        return safe(self.lines.get(key, [""])[0], 300)


@dataclass(frozen=True, slots=True)
class Offered:
    """One file a machine offers to send."""

    name: str
    kind: str  # "whole", "cut", "unreadable" or "irregular"
    size: int  # bytes that follow


def boot_id(text: str) -> str:
    """A boot id, "" for "-"."""
    return "" if text == "-" else _matched(_BOOT_ID, text, str)


def seconds(text: str) -> float | None:
    """A time; None for "-". A clock without fractions ("12.N", "12.%N") is fine."""
    text = re.sub(r"\.%?N?\Z", "", text)
    return None if text in ("", "-") else _matched(_NUMBER, text, float)


def found(text: str) -> Found:
    """The answer of the verbs state, await and end."""
    values: dict[str, list[str]] = {}
    endings: list[Ending] = []
    looks: dict[str, dict[str, list[str]]] = {}
    for line in text.splitlines():
        key, *rest = line.split(" ")
        if key in ("watch0", "watch1"):
            what, _, said = line.partition(" ")[2].partition(" ")
            looks.setdefault(key, {}).setdefault(what, []).append(said)
        elif key == "rec" and len(rest) == 4 and rest[0] == str(len(endings)):
            status = None if rest[1] == "-" else _matched(_COUNT, rest[1], int)
            if status is not None and status > 255:
                raise ShellBroken("nonsense", line[:200])
            endings.append(Ending(status, seconds(rest[2]), "" if rest[3] == "-" else rest[3]))
        elif key in values or key == "rec":
            raise ShellBroken("nonsense", line[:200])
        else:
            values[key] = rest

    def one(key: str, at: int = 0) -> str:
        rest = values.get(key, [])
        return rest[at] if at < len(rest) else "-"

    if one("state") not in STATES:
        raise ShellBroken("nonsense", text[:200])
    free = one("free_kb")
    free_kb = _matched(_COUNT, free, int) if free not in ("-", "") else None
    before, after = (watch(looks[key]) if key in looks else None for key in ("watch0", "watch1"))
    started, released = seconds(one("started")), seconds(one("started", 1))
    return Found(
        state=one("state"),
        boot=boot_id(one("boot")),
        before=boot_id(one("before")),
        after=boot_id(one("after")),
        uptime=seconds(one("uptime")),
        started=started,
        released=released,
        free_kb=free_kb,
        endings=tuple(endings),
        # The start is a moment after the look, and the clocks were read then.
        watch_before=replace(before, wall=started, uptime=released) if before else None,
        watch_after=replace(after, free_kb=free_kb) if after else None,
    )


def watch(lines: Mapping[str, Sequence[str]]) -> Watch:
    """One look at a machine, as the launcher's `watch` prints it: word -> the rests of its lines."""

    def one(key: str) -> str:
        return lines[key][0].strip() if lines.get(key) else ""

    wall, _, uptime = one("clock").partition(" ")
    heat, bits, errors, free = one("millidegrees"), one("throttled"), one("link_errors"), one("free_kb")
    return Watch(
        wall=seconds(wall),
        uptime=seconds(uptime),
        users=tuple(filter(None, map(_visitor, lines.get("user", ()))))[:MOST_NAMED],
        foreign=tuple(_stranger(said) for said in lines.get("foreign", ())[:MOST_NAMED]),
        celsius=_matched(_DEGREES, heat, int) / 1000 if heat else None,
        throttled=_throttled(bits),
        link_errors=_matched(_COUNT, errors, int) if errors else None,
        free_kb=_matched(_COUNT, free, int) if free else None,
    )


def heard(text: str, count: int) -> list[bool | None]:
    """The answer of verb hear to `count` addresses: whether each was heard; None where that cannot be told."""
    heard: list[bool | None] = [None] * count
    for line in text.splitlines():
        place, _, status = line.partition(" ")
        at, ended = _matched(_COUNT, place, int), _matched(_COUNT, status, int)
        if at >= count:
            raise ShellBroken("nonsense", line[:200])
        heard[at] = {0: True, 1: False}.get(ended)
    return heard


def arrived(text: str, count: int) -> tuple[set[str], set[tuple[int, str]]]:
    """The answer of verb udp among `count` machines: what it did ("hears group", …), and (place, kind) it heard."""
    did: set[str] = set()
    heard: set[tuple[int, str]] = set()
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        place, _, kind = rest.partition(" ") if word == "heard" else ("0", "", rest)
        at = _matched(_COUNT, place, int)
        if word not in ("sends", "hears", "cannot", "heard") or kind not in ("unicast", "group") or at >= count:
            raise ShellBroken("nonsense", line[:200])
        if word == "heard":
            heard.add((at, kind))
        else:
            did.add(line)
    return did, heard


def probed(text: str) -> Probed:
    """The answer of verb probe."""
    head, mark, tail = text.partition("\noutput\n")
    lines: dict[str, list[str]] = {}
    for line in head.splitlines()[:1000]:
        key, _, rest = line.partition(" ")
        lines.setdefault(key, []).append(rest)
    if not mark:
        return Probed(lines)
    output, _, last = tail.rpartition("\n")
    if not last.startswith("exit "):
        raise ShellBroken("nonsense", last[:200])
    return Probed(lines, safe_lines(output, PROBE_LIMIT), _matched(_COUNT, last[5:], int))


def surveyed(probed: Probed) -> dict[str, str]:
    """fact -> value of a survey, in the machine's words made safe; {} where none was asked for."""
    facts: dict[str, str] = {}
    for line in probed.lines.get("fact", [])[:MOST_FACTS]:
        key, _, value = line.partition(" ")
        if _FACT.fullmatch(key) and value.strip():
            facts.setdefault(key, safe(value.strip("\"' \t"), 600))
    return facts


def manifest(text: str, asked: set[str], limit: int) -> list[Offered]:
    """The manifest of verb fetch, in the order in which it sends: whole files first, then cut ones.

    Only names that were asked for, each once, none longer than `limit`.
    """
    offered: list[Offered] = []
    left = set(asked)
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) != 3 or words[0] not in ("whole", "cut", "unreadable", "irregular"):
            raise ShellBroken("nonsense", line[:200])
        kind, size, name = words[0], _matched(_COUNT, words[1], int), words[2]
        if name not in left or size > limit:
            raise ShellBroken("nonsense", f"UNEXPECTED_FILE {line[:200]}")
        left.remove(name)
        offered.append(Offered(name, kind, size))
    return offered


def hashes(text: str) -> dict[str, str]:
    """File name -> SHA-256 in hex, from the last answer of verb fetch."""
    result: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and re.fullmatch(r"[0-9a-f]{64}", words[0]):
            result[words[1]] = words[0]
    return result


def _split(status: int | None) -> tuple[int | None, int | None]:
    # A shell cannot tell `exit 139` from death by signal 11; tools do not use those exits.
    if status is None:
        return None, None
    return (None, status - 128) if 128 < status <= 192 else (status, None)


def _visitor(line: str) -> str:
    """ "name terminal from", of somebody who is logged in from elsewhere; "" for everybody else."""
    found = _WHO.fullmatch(line.strip())
    if not found or not _TERMINAL.fullmatch(found[2]) or found[3].startswith((":", "tmux(")):
        return ""  # at the machine's own display, or inside a terminal that is told of by itself
    return safe(" ".join(found.groups()), 100)


def _stranger(said: str) -> str:
    found = _FOREIGN.fullmatch(said)
    if not found:
        raise ShellBroken("nonsense", said[:200])
    return safe(f"{found[1]} {found[2]}", 100)


def _throttled(said: str) -> int | None:
    # A machine whose vcgencmd only complains tells nothing.
    found = _BITS.fullmatch(said.strip())
    return int(found[1], 16) if found else None


def _matched(pattern: re.Pattern[str], text: str, make: Callable[[str], Value]) -> Value:
    if not pattern.fullmatch(text):
        raise ShellBroken("nonsense", text[:200])
    return make(text)
