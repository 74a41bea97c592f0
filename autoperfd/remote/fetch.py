"""Bringing files over: one stream a machine, only names the controller chose, hashes compared. Any worker.

Nothing a machine sends is used as a path before it was found among the names asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoperfd.errors import DiskError, FetchFailed
from autoperfd.remote import answers
from autoperfd.remote.link import Line
from autoperfd.remote.shell import Shell, ShellBroken
from autoperfd.remote.values import FetchedFile, Timing


@dataclass(frozen=True, slots=True)
class Fetched:
    """The files that came, and what could not be sent: name -> "unreadable" or "irregular"."""

    files: tuple[FetchedFile, ...]
    refused: dict[str, str]


class _Mismatch(Exception):
    """What arrived is not what the machine hashed. The conversation is still good."""


def fetch(line: Line, timing: Timing, place: Sequence[str], names: Sequence[str], folder: Path) -> Fetched:
    """Brings `names` from the attempt at `place` (installation, uid) into `folder`; absent ones are left out.

    Raises FetchFailed when they differ from their hashes twice, MachineAway, DiskError.
    """
    machine = line.machine.name
    for slow in (0, 1):
        try:
            return line.use("bulk", lambda shell: _once(shell, timing, place, names, folder, slow, machine))  # noqa: B023
        except _Mismatch as mismatch:
            problem = str(mismatch)
        except OSError as error:
            raise DiskError.of(f"{machine}: a fetched file cannot be written in {folder}", error) from error
    raise FetchFailed(machine, f"{problem} arrived twice with another hash than it has there", code="HASH_MISMATCH")


def _once(
    shell: Shell,
    timing: Timing,
    place: Sequence[str],
    names: Sequence[str],
    folder: Path,
    slow: int,
    machine: str,
) -> Fetched:
    limit = timing.max_file_bytes
    shell.begin("fetch", [*place, limit, slow, *names], (), time.monotonic() + timing.answer_secs)
    offered = answers.manifest(shell.answer(time.monotonic() + timing.answer_secs), set(names), limit)
    sent = [file for file in offered if file.kind in ("whole", "cut")]
    if not slow:
        sent.sort(key=lambda file: file.kind != "whole")  # it sends those first
    arrived: dict[str, FetchedFile] = {}
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for file in sent:
            digest = _receive(shell, directory, file, timing.fetch_stall_secs)
            arrived[file.name] = FetchedFile(machine, file.name, file.size, digest, file.kind == "cut")
    finally:
        os.close(directory)
    # It hashes beside the sending and may need a while after the last byte.
    patience = timing.answer_secs + sum(file.size for file in sent) / 10e6
    theirs = answers.hashes(shell.answer(time.monotonic() + patience))
    for name, fetched in arrived.items():
        if theirs.get(name) != fetched.sha256:
            raise _Mismatch(name)
    return Fetched(
        tuple(arrived[name] for name in names if name in arrived),
        {file.name: file.kind for file in offered if file.name not in arrived},
    )


def _receive(shell: Shell, directory: int, file: answers.Offered, stall_secs: float) -> str:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file.name, dir_fd=directory)  # from a try that did not end well
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    target = os.open(file.name, flags, 0o640, dir_fd=directory)
    digest = hashlib.sha256()
    arrived = 0
    try:
        for piece in shell.stream(file.size, 0.0, stall_secs):
            digest.update(piece)
            arrived += len(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(target, view) :]
    except ShellBroken as broken:
        raise ShellBroken(broken.kind, f"STALLED at {arrived} bytes of {file.name}") from broken
    finally:
        os.close(target)
    return digest.hexdigest()
