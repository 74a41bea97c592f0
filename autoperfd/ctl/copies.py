"""Knows how to come by a copy of the daemon's memory: from the daemon, or, when none runs, from its state folder.

Nothing is ever written to the state folder. What is copied there itself is copied under the daemon's lock, with the
journal beside it, so that an interrupted transaction is rolled back in the copy and not in the original.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from autoperfd.errors import AutoperfError, DaemonDown

HOLD_SECS = 4.0  # a daemon that starts meanwhile waits five for its lock
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy in a folder of ours. `results`: the folder of all results folders. `live`: a daemon runs."""

    memory: Path
    results: Path
    live: bool


Ask = Callable[[str, dict[str, object]], dict[str, object]]
"""The daemon's reply to a command. Raises DaemonDown, AutoperfError."""


def take(ask: Ask, state: Path, scratch: Path) -> Copy:
    """The memory as it is now, as `scratch`/memory.db.

    Raises DaemonDown where no daemon runs and its memory cannot be read either, AutoperfError.
    """
    target = scratch / "memory.db"
    try:
        return _from_daemon(ask, target)
    except DaemonDown as down:
        _from_folder(state, target, down)
        return Copy(target, state / "results", live=False)


def take_from_folder(down: DaemonDown, state: Path, scratch: Path) -> Copy:
    """The same where `down` has told already that no daemon runs."""

    def nobody(command: str, args: dict[str, object]) -> dict[str, object]:
        raise down

    return take(nobody, state, scratch)


def _from_daemon(ask: Ask, target: Path) -> Copy:
    for left in reversed(range(_TRIES)):
        data = ask("copy", {}).get("data")
        place = data if isinstance(data, dict) else {}
        source = Path(str(place.get("memory", "")))
        try:
            fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if left:
                continue  # somebody else has asked for a copy just now, which took the place of ours
            raise AutoperfError(f"the daemon's copy {source} is not there", hint="Try again") from None
        except OSError as error:
            hint = "Run it as root or as a member of group autoperf, where the daemon runs"
            raise AutoperfError(f"you cannot read the daemon's copy {source}: {error.strerror}", hint=hint) from error
        try:
            _copy(fd, target, None)
        finally:
            os.close(fd)
        return Copy(target, Path(str(place.get("results", ""))), live=True)
    raise AssertionError("unreachable")


def _from_folder(state: Path, target: Path, down: DaemonDown) -> None:
    """Copy memory and journal under the lock that a daemon would hold; roll back in the copy."""
    try:
        with _locked(state):
            deadline = time.monotonic() + HOLD_SECS
            for suffix in ("", "-journal"):
                try:
                    fd = os.open(f"{state}/autoperf.db{suffix}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                except FileNotFoundError:
                    if suffix:
                        continue
                    raise
                try:
                    _copy(fd, target.with_name(f"{target.name}{suffix}"), deadline)
                finally:
                    os.close(fd)
    except FileNotFoundError as error:
        raise DaemonDown(f"{down.message}, and there is no memory in {state}", hint=down.hint) from error
    except OSError as error:
        raise DaemonDown(
            f"{down.message}, and you cannot read the memory in {state}: {error.strerror}",
            hint=f"Run it as root. {down.hint}",
        ) from error
    with contextlib.suppress(sqlite3.Error, UnicodeDecodeError), contextlib.closing(sqlite3.connect(target)) as db:
        db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()  # what cannot be read is told by who reads it


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[None]:
    fd = os.open(state / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise AutoperfError(
            f"autoperfd holds {state}, but does not answer: it starts, ends, or is stuck",
            hint="Try again in a few seconds; then look at `systemctl status 'autoperfd*'`",
        ) from error
    finally:
        os.close(fd)


def _copy(source: int, target: Path, deadline: float | None) -> None:
    """Copy a whole file; a deadline (monotonic) that passes is an AutoperfError."""
    target.unlink(missing_ok=True)
    with target.open("wb") as file:
        while data := os.read(source, 1 << 20):
            file.write(data)
            if deadline is not None and time.monotonic() > deadline:
                raise AutoperfError(
                    "the memory cannot be copied in a moment, and a daemon that starts must not wait for it",
                    hint="Start the daemon, which answers without a copy",
                )
