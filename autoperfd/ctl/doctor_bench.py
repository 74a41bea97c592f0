"""Are the machines of an experiment file fit, and do they hear each other: what the daemon sees of them, judged.

Nothing is changed on a machine, and none that is in use is touched. One thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from autoperfd.ctl import check, copies
from autoperfd.ctl.finding import Finding
from autoperfd.errors import AutoperfError

MOST_SKEW_SECS = 1.0
BOOT_BUDGET_SECS = 600.0  # how long a restart is waited for, if autoperfd.toml does not say otherwise
_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def examine(text: bytes, ask: copies.Ask) -> Iterator[Finding]:
    """What is wrong with the machines of a file, each in one place, and between them."""
    try:
        found = check.looked_at(text, ask, hear=True)
    except AutoperfError as error:
        yield Finding("machines", None, f"they cannot be looked at: {error.message}")
        return
    for seen in found:
        yield from _machine(seen)


def _machine(seen: Mapping[str, Any]) -> Iterator[Finding]:
    name = str(seen.get("machine"))
    if not seen.get("well"):
        yield Finding(name, seen.get("well"), str(seen.get("sentence")), str(seen.get("hint") or ""))
        return
    facts: Mapping[str, str] = seen.get("facts") or {}
    ill = [*_clock(name, facts), *_watchdog(name, facts), *_network(name, seen)]
    yield from ill
    if not any(finding.well is False for finding in ill):
        yield Finding(name, True, "answers pings and SSH, may restart, and the tool starts there")


def _clock(name: str, facts: Mapping[str, str]) -> Iterator[Finding]:
    skew = float(facts.get("clock_skew") or 0)
    if abs(skew) > MOST_SKEW_SECS:
        hint = "On it: sudo apt-get install systemd-timesyncd, and let it reach a time server"
        yield Finding(name, False, f"its clock is {skew:+.1f} s off this computer's", hint)
    elif facts and "clock_sync" not in facts:
        yield Finding(
            name, None, "nothing is known to keep its clock right", "Install systemd-timesyncd or chrony there"
        )


def _watchdog(name: str, facts: Mapping[str, str]) -> Iterator[Finding]:
    """Whether a restart that hangs comes to an end while it is waited for: by default only after ten minutes."""
    if not facts.get("board", "").startswith("Raspberry Pi"):
        return
    said = facts.get("reboot_watchdog", "")
    amount = re.fullmatch(r"(\d+)\s*([a-z]*)", said)
    secs = float(amount[1]) * _UNITS.get(amount[2], 1.0) if amount else BOOT_BUDGET_SECS
    if not 0 < secs < BOOT_BUDGET_SECS:
        hint = "On it, into /etc/systemd/system.conf.d/lab.conf: [Manager] and RebootWatchdogSec=2min"
        yield Finding(name, None, f"a restart that hangs ends only after {said or '10 min'}", hint)


def _network(name: str, seen: Mapping[str, Any]) -> Iterator[Finding]:
    hears: Mapping[str, bool | None] = seen.get("hears") or {}
    deaf = [other for other, heard in hears.items() if heard is False]
    if deaf:
        hint = "Look at firewalls (sudo nft list ruleset, ufw status) and networks of both; DDS needs UDP, too"
        yield Finding(name, False, f"it gets no answer to pings from {', '.join(deaf)}", hint)
