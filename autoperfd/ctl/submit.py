"""Knows how a file gets into the queue whole (hidden name, then rename) and how its fate is found out."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from autoperfd.errors import AutoperfError

WAIT_SECS = 30.0
_PAUSE_SECS = 0.2
_UNTOLD_SECS = 5.0  # a rejection is written within this after the file was taken
_MOST_REASON = 64 * 1024

Listing = Callable[[], dict[str, object] | None]  # the daemon's `list` data; None: it cannot be asked


def put(data: bytes, name: str, queue: Path) -> str:
    """Put `data` into the queue in one step, on disk when this returns; returns the name it has there.

    The name is made unique: it must not replace a waiting file, and its fate has to be told from that of others.
    Raises AutoperfError when the queue cannot be written.
    """
    stem = Path(name).stem.lstrip(".")
    final = f"{_safe(stem)}-{secrets.token_hex(4)}.toml"
    hidden = queue / f".{final}.part"
    try:
        _write(hidden, data)
        hidden.rename(queue / final)
        _fsync_folder(queue)
    except OSError as error:
        with contextlib.suppress(OSError):  # who may not write there may not remove anything either
            hidden.unlink()
        raise AutoperfError(
            f"autoperfctl cannot put a file into {queue}: {error.strerror}",
            hint="Run it as root or as a member of group autoperf-submit",
        ) from error
    return final


def fate(name: str, queue: Path, listing: Listing, wait_secs: float = WAIT_SECS) -> tuple[str, str]:
    """("accepted" | "rejected" | "waiting" | "unknown", text) of a submitted file, waiting for a verdict.

    "waiting": still in the queue when the time was over; "unknown": taken, and the daemon cannot be asked.
    """
    deadline, untold = time.monotonic() + wait_secs, False
    while True:
        gone = not (queue / name).exists()
        listed = listing()
        if gone and listed is None and not untold:
            untold, deadline = True, min(deadline, time.monotonic() + _UNTOLD_SECS)
        if listed is not None:
            verdict = _listed(listed, name)
            if verdict is not None:
                return verdict
        reason = _rejection(queue, name)
        if reason is not None:
            return "rejected", reason
        if time.monotonic() >= deadline:
            return ("unknown", "") if gone else ("waiting", "")
        time.sleep(_PAUSE_SECS)


def _listed(listed: dict[str, object], name: str) -> tuple[str, str] | None:
    intake = listed.get("intake")
    for item in intake if isinstance(intake, list) else ():
        if isinstance(item, dict) and item.get("file") == name:
            return str(item.get("outcome")), str(item.get("text", ""))
    return None


def _rejection(queue: Path, name: str) -> str | None:
    try:
        with (queue / "rejected" / f"{name}.error.txt").open("rb") as file:
            return file.read(_MOST_REASON).decode("utf-8", "replace").strip() or None
    except OSError:
        return None


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123
        file.write(data)
        # The daemon is another user and only it can look into the queue.
        os.fchmod(descriptor, 0o644)
        file.flush()
        os.fsync(descriptor)


def _fsync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # a drop box: create yes, look no
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _safe(stem: str) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in stem)[:64]
    return kept.lstrip("-.") or "experiment"
