"""Reads `attempt-N.tar.gz` by itself, within caps: is it the one the memory names, and does it prove what it says.

The reader of the tar format is small and strict: plain files as autoperfd packs them, nothing else. Nothing is
written or extracted. Blocks; one thread.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import sqlite3
import stat
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from autoperfd.core.survey import PASSING
from autoperfd.verify.books import KEPT
from autoperfd.verify.findings import Findings
from autoperfd.verify.memory import parsed

SUMS = "SHA256SUMS"
OURS = ("attempt.json", "machines.json", "evidence.json", "result.json", SUMS)
MOST_MEMBERS = 100_000
MOST_TEXT = 64 << 20  # bytes of one of our own texts
LARGE = 1 << 30  # unpacked bytes above which an archive may not be packed better than
RATIO = 200  # times
_CHUNK = 1 << 18
_BLOCK = 512
_DAMAGED = (OSError, EOFError, ValueError, zlib.error)


class Bad(Exception):
    """An archive is not what it must be; the text says in what way."""


def check(row: sqlite3.Row, folder: Path, machines: Mapping[str, str], findings: Findings) -> None:
    """The archive of one finished attempt; `row`: its row. `folder`: the experiment's results.

    `machines`: of those that had been surveyed before it, what the memory says of each (JSON).
    """
    test, number, name = str(row["test"]), row["number"], str(row["archive"])

    def problem(sentence: str) -> None:
        findings.problem(f"{name} {sentence}", file=name, test=test, attempt=number)

    if name != f"data/{test}/attempt-{number}.tar.gz":
        problem(f"cannot be the archive of attempt {number} of {test}")
        return
    try:
        fd = _open(folder, test, f"attempt-{number}.tar.gz")
    except FileNotFoundError:
        problem(f"is missing; attempt {number} ended as {row['status']}")
        return
    except OSError as error:
        problem(f"cannot be read: {error.strerror}")
        return
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        problem("is no regular file")
        return
    with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor, no path
        findings.count("archives")
        try:
            size = os.fstat(fd).st_size
            if size != row["size"]:
                raise Bad(f"has {size} bytes, the memory says {row['size']}")
            if hashlib.file_digest(file, "sha256").hexdigest() != row["sha256"]:
                raise Bad("is not what was recorded: its SHA-256 is another one")
            findings.count("bytes", size)
            file.seek(0)
            for sentence in _Proof(row, _read(file, size), machines).problems():
                problem(sentence)
        except Bad as bad:
            problem(str(bad))
        except _DAMAGED as error:
            problem(f"cannot be read: {error}")


def _open(folder: Path, test: str, name: str) -> int:
    """A descriptor of `data/test/name`, no part of which may be a link."""
    opened = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        for part in ("data", test):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            opened.append(os.open(part, flags, dir_fd=opened[-1]))
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=opened[-1])
    finally:
        for fd in opened:
            os.close(fd)


# ---------------------------------------------------------------- the format


@dataclass(slots=True)
class _Contents:
    """What stands in an archive: hash and size of each member, the texts autoperfd wrote itself."""

    members: dict[str, tuple[str, int]] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)


class _Unpacked:
    """The unpacked bytes of an archive of `size` bytes, within the caps."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._packed = gzip.GzipFile(fileobj=file, mode="rb")
        self._left = max(LARGE, size * RATIO)

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises Bad where there are fewer, or too many in all."""
        self._left -= count
        if self._left < 0:
            raise Bad(f"unpacks to more than {RATIO} times its size: it is not read on")
        data = self._packed.read(count)
        if len(data) != count:
            raise Bad("ends in the middle of a member")
        return data

    def rest(self) -> Iterator[bytes]:
        """What is left, to the end of the file, where gzip compares its own checksum."""
        while data := self._packed.read(_CHUNK):
            self._left -= len(data)
            if self._left < 0:
                raise Bad(f"unpacks to more than {RATIO} times its size: it is not read on")
            yield data


def _read(file: IO[bytes], size: int) -> _Contents:
    """All members. Raises Bad, or one of _DAMAGED."""
    unpacked, found = _Unpacked(file, size), _Contents()
    longer: dict[str, str] = {}  # what an extended header says of the member after it
    while any(block := unpacked.read(_BLOCK)):
        name, length, kind = _header(block)
        if kind == "x":
            longer = _extended(unpacked, length)
            continue
        if kind not in ("0", "\0"):
            raise Bad(f"holds something that is no plain file: {name!r}")
        name, length = longer.get("path", name), int(longer.get("size", length))
        longer = {}
        if name in found.members:
            raise Bad(f"holds {name!r} twice")
        if len(found.members) >= MOST_MEMBERS:
            raise Bad(f"holds more than {MOST_MEMBERS} files")
        _member(unpacked, name, length, found)
    for data in unpacked.rest():
        if any(data):
            raise Bad("goes on behind its end")
    return found


def _header(block: bytes) -> tuple[str, int, str]:
    """(name, size, kind) of a member. Raises Bad."""
    total = _octal(block[148:156])
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != total:
        raise Bad("holds a header with a wrong checksum")
    name, prefix = (block[a:b].split(b"\0")[0].decode("utf-8", "replace") for a, b in ((0, 100), (345, 500)))
    return (f"{prefix}/{name}" if prefix else name), _octal(block[124:136]), chr(block[156])


def _octal(data: bytes) -> int:
    digits = data.strip(b"\0 ")
    if not digits or not all(48 <= digit < 56 for digit in digits):
        raise Bad("holds a header with a number that is none")
    return int(digits, 8)


def _extended(unpacked: _Unpacked, length: int) -> dict[str, str]:
    """The records "LENGTH KEY=VALUE\\n" of an extended header. Raises Bad."""
    if length > 65536:
        raise Bad("holds an extended header that is too long")
    data = unpacked.read(-(-length // _BLOCK) * _BLOCK)[:length]
    found: dict[str, str] = {}
    while data:
        match = re.match(rb"([1-9][0-9]{0,4}) ", data)
        record = data[: int(match[1])] if match else b""
        if not match or not record.endswith(b"\n"):
            raise Bad("holds an extended header that makes no sense")
        key, _, value = record[match.end() : -1].decode("utf-8", "replace").partition("=")
        found[key] = value
        data = data[len(record) :]
    return found


def _member(unpacked: _Unpacked, name: str, length: int, found: _Contents) -> None:
    digest, left, kept = hashlib.sha256(), length, bytearray()
    if name in OURS and length > MOST_TEXT:
        raise Bad(f"holds {name} of {length} bytes")
    while left:
        data = unpacked.read(min(left, _CHUNK))
        left -= len(data)
        digest.update(data)
        if name in OURS:
            kept += data
    if any(unpacked.read(-length % _BLOCK)):
        raise Bad(f"holds something behind {name!r}")
    found.members[name] = (digest.hexdigest(), length)
    if name in OURS:
        found.texts[name] = bytes(kept)


# ---------------------------------------------------------------- what it proves


class _Proof:
    """The contents of one archive against the row of its attempt."""

    def __init__(self, row: sqlite3.Row, contents: _Contents, machines: Mapping[str, str]) -> None:
        self._row, self._contents, self._machines = row, contents, machines
        self._about = self._text("attempt.json")
        self._result = self._text("result.json")
        self._evidence = self._text("evidence.json")

    def problems(self) -> Iterator[str]:
        """Everything that does not fit, as the rest of a sentence that begins with the archive's name."""
        yield from self._sums()
        for name, value in (
            ("attempt.json", self._about),
            ("result.json", self._result),
            ("evidence.json", self._evidence),
        ):
            if not value:
                yield f"holds no readable {name}"
                return
        try:
            yield from self._attempt()
            yield from self._outcome()
            yield from self._files()
            yield from self._surveys()
            if self._row["status"] in KEPT:
                yield from self._success()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            yield f"holds texts that make no sense: {error!r}"

    def _surveys(self) -> Iterator[str]:
        """What the memory says of the machines, against what the attempt was told of them."""
        told = self._text("machines.json")
        for name, known in self._machines.items():
            facts = dict(told[name]["facts"]) if name in told else {}
            wanted = parsed(known) or {}
            for key in sorted({*wanted, *(key for key in facts if key not in PASSING)}):
                if facts.get(key) != wanted.get(key):
                    found, kept = (each.get(key, "nothing") for each in (facts, wanted))
                    yield f"says {found} for {key} of {name}, the memory says {kept}"

    def _text(self, name: str) -> dict[str, Any]:
        return parsed(self._contents.texts.get(name)) or {}

    def _sums(self) -> Iterator[str]:
        listed: dict[str, str] = {}
        for line in self._contents.texts.get(SUMS, b"").decode("utf-8", "replace").splitlines():
            total, _, name = line.partition("  ")
            listed[name] = total
        if not listed:
            yield f"holds no {SUMS}"
        for name, total in listed.items():
            if name not in self._contents.members:
                yield f"lacks {name}, which its {SUMS} lists"
            elif self._contents.members[name][0] != total:
                yield f"holds {name} with another SHA-256 than its {SUMS} lists"
        for name in self._contents.members:
            if name not in listed and name != SUMS:
                yield f"holds {name}, which its {SUMS} does not list"

    def _attempt(self) -> Iterator[str]:
        row, about, plan = self._row, self._about, self._about["plan"]
        # An attempt from before the memory knew uids has none in its row.
        if about["uid"] != row["uid"] or self._result["uid"] != row["uid"]:
            yield f"is of the attempt {about['uid']}, not of {row['uid'] or 'one without a uid'}"
        if about["number"] != row["number"]:
            yield f"is of an attempt number {about['number']}, not {row['number']}"
        if plan["test_name"] != row["test"]:
            yield f"is of the test {plan['test_name']}, not of {row['test']}"
        if dict(plan["settings"]) != parsed(row["settings"]):
            yield "is of a test with other settings"

    def _outcome(self) -> Iterator[str]:
        row, result = self._row, self._result
        if result["end_status"] != row["status"]:
            yield f"says {result['end_status']}, the memory says {row['status']}"
        if not _alike(result["figures"], parsed(row["figures"])):
            yield "holds other figures than the memory"
        if row["code"] == "IMPORTED":
            return
        for key in ("blame", "machine", "code", "reason"):
            if result[key] != row[key]:
                yield f"says {key} {result[key]!r}, the memory says {row[key]!r}"
        if not _alike(parsed(result["evidence"]), parsed(row["evidence"])):
            yield "holds other evidence than the memory"

    def _files(self) -> Iterator[str]:
        """Every file that was fetched is there as it came."""
        fetched = {file["name"]: file for file in self._evidence["files"]}
        for name, file in fetched.items():
            found = self._contents.members.get(name)
            if found is None:
                yield f"lacks {name}, which was brought over"
            elif found != (file["sha256"], file["size"]):
                yield f"holds {name} otherwise than it was brought over"
        for name in self._contents.members:
            if name not in fetched and name not in OURS:
                yield f"holds {name}, which was never brought over"

    def _success(self) -> Iterator[str]:
        """A success proves itself: whole files, every participant ended by itself, no machine restarted."""
        participants, evidence = self._about["plan"]["participants"], self._evidence
        records = {record["name"]: record for record in evidence["records"]}
        for one in participants:
            name = one["name"]
            for file in (*one["files"], one["stdout"], one["stderr"]):
                if file not in self._contents.members:
                    yield f"lacks {file} of {name}, yet is a {self._row['status']}"
            record = records.get(name)
            if record is None or record["machine"] != one["machine"]:
                yield f"does not say how {name} ended, yet is a {self._row['status']}"
            elif self._row["status"] == "success" and (record["exit"], record["ended_by"]) != (0, "self"):
                ended = f"exit {record['exit']}, signal {record['signal']}, by {record['ended_by']}"
                yield f"is a success, but {name} ended otherwise than by itself with exit 0 ({ended})"
        for machine in sorted({one["machine"] for one in participants}):
            before, after = evidence["boot_before"].get(machine), evidence["boot_after"].get(machine)
            if not before or before != after:
                yield f"is a {self._row['status']}, but {machine} had the boot id {before} before and {after} after"


def _alike(one: object, other: object) -> bool:
    """Equal as JSON; a figure that is no number equals itself."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
