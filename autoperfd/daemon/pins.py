"""The host keys that are trusted: root's known_hosts file, which wins, and those pinned by `autoperfctl trust`.

`keys_for` may be called from any thread; `pin` and `forget` by the engine thread alone, after its commit.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from autoperfd.daemon.store import PinRow

log = logging.getLogger(__name__)


class PinBook:
    """Trusted host keys by address."""

    def __init__(self, known_hosts: Path, rows: Iterable[PinRow] = ()) -> None:
        self._lock = threading.Lock()
        self._file = known_hosts
        self._pinned: dict[tuple[str, int], dict[str, PinRow]] = {}
        for row in rows:
            self.pin(row)

    def keys_for(self, host: str, port: int) -> list[str]:
        """Key lines "<type> <base64>" of an address; [] when it is unknown. Root's file wins where it knows it."""
        from_root, revoked = self._from_root(host, port)
        if from_root:
            return from_root
        with self._lock:
            return [key for key in self._pinned.get((host, port), ()) if key not in revoked]

    def rows_for(self, host: str, port: int) -> list[PinRow]:
        """The pinned rows of an address."""
        with self._lock:
            return list(self._pinned.get((host, port), {}).values())

    def pin(self, row: PinRow) -> None:
        """Trust one key more."""
        with self._lock:
            self._pinned.setdefault((row.host, row.port), {})[row.key] = row

    def replace(self, host: str, port: int, rows: Iterable[PinRow]) -> None:
        """Trust these keys of an address and no others."""
        with self._lock:
            self._pinned[(host, port)] = {row.key: row for row in rows}

    def _from_root(self, host: str, port: int) -> tuple[list[str], set[str]]:
        """The keys root's file gives an address, and those it revokes for all."""
        try:
            lines = self._file.read_text("utf-8", "replace").splitlines()
        except OSError:
            return [], set()
        wanted = f"[{host}]:{port}" if port != 22 else host
        revoked: set[str] = set()
        keys: list[str] = []
        for line in lines:
            fields = line.split()
            if not fields or fields[0].startswith("#"):
                continue
            mark = fields.pop(0) if fields[0].startswith("@") else ""
            if len(fields) < 3 or mark == "@cert-authority":
                continue
            key = f"{fields[1]} {fields[2]}"
            if mark == "@revoked":
                revoked.add(key)
            elif any(_names(pattern, wanted) for pattern in fields[0].split(",")):
                keys.append(key)
        return [key for key in keys if key not in revoked], revoked


def _names(pattern: str, wanted: str) -> bool:
    """Whether a name of a known_hosts line, plain or hashed, is the wanted one."""
    if not pattern.startswith("|1|"):
        return pattern == wanted
    try:
        salt, digest = (base64.b64decode(part) for part in pattern[3:].split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.new(salt, wanted.encode(), hashlib.sha1).digest(), digest)


def fingerprint(key: str) -> str:
    """The "SHA256:…" of a key line "<type> <base64>", as ssh-keygen shows it. Raises ValueError."""
    kind, _, text = key.partition(" ")
    blob = base64.b64decode(text, validate=True)
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind.encode()):
        raise ValueError(f"{key[:40]!r} is not a host key")
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
