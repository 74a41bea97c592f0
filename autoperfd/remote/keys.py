"""Private keys of the controller and host keys of machines: loading, fingerprints, trust. Any thread."""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
from pathlib import Path

import paramiko

from autoperfd.core.instance import place, unit
from autoperfd.errors import MachineImpossible

HOST_KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)
KEY_FOLDER = "keys"  # the unit's credential that is a whole folder, each file of it "keys_<its name>"
RSA_SIGNATURES = ("rsa-sha2-512", "rsa-sha2-256")


class KeyRing:
    """Private keys, each read once. A credential of the same file name wins over the path.

    A credential is one file (`LoadCredential=NAME:…`) or one of the folder `LoadCredential=keys:/etc/autoperf/keys`.
    """

    def __init__(self, credentials: Path | None, home: Path, instance: str = "") -> None:
        self._credentials = credentials
        self._folder = place(Path("/etc/autoperf/keys"), instance)
        self._unit = unit(instance)
        self._home = home
        self._lock = threading.Lock()
        self._keys: dict[str, paramiko.PKey] = {}

    def key(self, machine: str, path: str) -> paramiko.PKey:
        """The key at `path` ("~" is the home given). Raises MachineImpossible naming what to do."""
        with self._lock:
            if path not in self._keys:
                self._keys[path] = self._read(machine, path)
            return self._keys[path]

    def forget(self, path: str) -> None:
        """Read it again next time, it may have been replaced."""
        with self._lock:
            self._keys.pop(path, None)

    def _read(self, machine: str, path: str) -> paramiko.PKey:
        file = self._home / path.removeprefix("~/") if path.startswith("~/") else Path(path)
        drop_in = f"systemctl edit {self._unit}, with: [Service] LoadCredential={file.name}:{file}"
        given: list[Path] = []
        if self._credentials:
            given = [self._credentials / name for name in (file.name, f"{KEY_FOLDER}_{file.name}")]
        try:
            return paramiko.PKey.from_path(next((path for path in given if path.is_file()), file))
        except (paramiko.PasswordRequiredException, TypeError):
            reason, hint = "it has a passphrase", f"Make a key without one: ssh-keygen -p -N '' -f {file}"
        except OSError as error:
            reason, hint = (
                error.strerror or str(error),
                f"Let the daemon have it: put a copy into {self._folder}, or {drop_in}; then restart {self._unit}",
            )
        except (paramiko.SSHException, ValueError) as error:
            reason, hint = f"it is not a private key ({error})", f"Name another file, or {drop_in}"
        raise MachineImpossible(
            machine, f"the SSH key {file} cannot be read: {reason}", code="KEY_UNREADABLE", hint=hint
        )


def split_line(line: str) -> tuple[str, bytes] | None:
    """(type, key) of "ssh-ed25519 AAAA… comment"; None when it is no host key line this program can use."""
    words = line.split()
    if len(words) < 2 or words[0] not in HOST_KEY_TYPES:
        return None
    try:
        return words[0], base64.b64decode(words[1], validate=True)
    except binascii.Error:
        return None


def key_line(key: paramiko.PKey) -> str:
    """A host key as "ssh-ed25519 AAAA…"."""
    return f"{key.get_name()} {base64.b64encode(key.asbytes()).decode('ascii')}"


def fingerprint(key: bytes) -> str:
    """The SHA256 fingerprint as ssh-keygen -l shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode("ascii").rstrip("=")


def algorithms(key_types: list[str]) -> list[str]:
    """The signature algorithms to ask for, given the types of pinned keys."""
    wanted: list[str] = []
    for kind in key_types:
        wanted += [a for a in (RSA_SIGNATURES if kind == "ssh-rsa" else (kind,)) if a not in wanted]
    return wanted
