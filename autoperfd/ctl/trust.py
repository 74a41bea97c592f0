"""Knows how host keys come to be trusted: the daemon shows what machines offer, a person agrees, the daemon pins it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autoperfd.errors import AutoperfError

ADVICE = "Compare with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` says on the machine itself."

AskDaemon = Callable[[str, dict[str, object]], Mapping[str, object]]  # the whole reply; raises on a refusal


@dataclass(frozen=True, slots=True)
class Offer:
    """What one machine offered. Keys are lines "<type> <base64>"; `error` is why there are none."""

    name: str
    host: str
    port: int
    keys: tuple[str, ...]
    trusted: tuple[str, ...]
    error: str

    @property
    def news(self) -> bool:
        """Whether it offers a key that is not trusted yet."""
        return bool(set(self.keys) - set(self.trusted))


def offers(machines: Sequence[Mapping[str, object]], ask: AskDaemon) -> list[Offer]:
    """Let the daemon look at machines ({name, host, port}) and say which keys they offer. No login happens."""
    data = ask("scan", {"machines": [dict(machine) for machine in machines]}).get("data")
    found = data.get("machines") if isinstance(data, Mapping) else None
    if not isinstance(found, list):
        raise AutoperfError("the daemon's answer to a scan makes no sense")
    return [_offer(item) for item in found if isinstance(item, dict)]


def shown(offer: Offer) -> str:
    """The lines a person reads about one machine."""
    lines = [f"{offer.name} ({offer.host} port {offer.port})"]
    if offer.error:
        lines.append(f"  cannot be looked at: {offer.error}")
    types = {key.split()[0] for key in offer.trusted}
    for key in offer.keys:
        if key in offer.trusted:
            note = "trusted already"
        elif key.split()[0] in types:
            note = "CHANGED: another computer, or it was installed anew"
        else:
            note = "new"
        lines.append(f"  {key.split()[0]} {fingerprint(key)}  {note}")
    lines += [f"  {key.split()[0]} {fingerprint(key)}  trusted until now" for key in offer.trusted if offer.news]
    return "".join(f"{line}\n" for line in lines)


def agreed() -> bool:
    """Ask on the terminal. False when there is none."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    sys.stdout.write(f"{ADVICE}\nTrust these keys, and no others of these machines? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def pin(found: Sequence[Offer], ask: AskDaemon) -> str:
    """Have exactly the keys that were shown pinned; returns the daemon's words."""
    pins = [{"host": o.host, "port": o.port, "keys": list(o.keys)} for o in found if o.keys]
    return str(ask("pin", {"pins": pins}).get("text", ""))


def fingerprint(key: str) -> str:
    """The fingerprint of a key line as OpenSSH writes it: "SHA256:…". AutoperfError when it is no key."""
    try:
        blob = base64.b64decode(key.split()[1], validate=True)
    except (IndexError, binascii.Error) as error:
        raise AutoperfError(f"{key[:60]!r} is not a host key") from error
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _offer(item: Mapping[str, object]) -> Offer:
    port = item.get("port")
    return Offer(
        name=str(item.get("name") or item.get("host")),
        host=str(item.get("host")),
        port=port if isinstance(port, int) else 22,
        keys=_lines(item.get("keys")),
        trusted=_lines(item.get("trusted")),
        error=str(item.get("error") or ""),
    )


def _lines(found: object) -> tuple[str, ...]:
    lines = [str(line).strip() for line in found] if isinstance(found, list) else []
    return tuple(line for line in lines if len(line.split()) >= 2)
