"""Are the machines of an experiment file fit, and do they hear each other: what the daemon sees of them, judged.

Nothing is changed on a machine, and none that is in use is touched. One thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autoperfd.ctl import check, copies
from autoperfd.ctl.finding import Finding
from autoperfd.errors import AutoperfError

MOST_SKEW_SECS = 1.0
DDS_PORTS = "7400:65535"
MOST_RULES = 3  # that are written out
BOOT_BUDGET_SECS = 600.0  # how long a restart is waited for, if autoperfd.toml does not say otherwise
_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def examine(text: bytes, ask: copies.Ask) -> Iterator[Finding]:
    """What is wrong with the machines of a file, each in one place, and between them."""
    try:
        found = check.looked_at(text, ask, hear=True)
    except AutoperfError as error:
        yield Finding("machines", None, f"they cannot be looked at: {error.message}")
        return
    addresses = {str(seen.get("machine")): str((seen.get("udp") or {}).get("address") or "") for seen in found}
    for seen in found:
        yield from _machine(seen, addresses)


def _machine(seen: Mapping[str, Any], addresses: Mapping[str, str]) -> Iterator[Finding]:
    name = str(seen.get("machine"))
    if not seen.get("well"):
        yield Finding(name, seen.get("well"), str(seen.get("sentence")), str(seen.get("hint") or ""))
        return
    facts: Mapping[str, str] = seen.get("facts") or {}
    ill = [*_clock(name, facts), *_watchdog(name, facts), *_network(name, seen)]
    yield from ill
    if not any(finding.well is False for finding in ill):
        yield Finding(name, True, "answers pings and SSH, may restart, and the tool starts there")
    yield from _udp(name, seen.get("udp") or {}, addresses)


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


def _udp(name: str, udp: Mapping[str, Any], addresses: Mapping[str, str]) -> Iterator[Finding]:
    """Whose datagrams arrive at its port, those to the group of DDS discovery, too. `addresses`: of all machines."""
    if udp.get("why"):
        yield Finding(name, None, f"whether UDP arrives there cannot be told: {udp['why']}")
        return
    unicast, group = (_sorted_out(udp.get(kind) or {}) for kind in ("unicast", "group"))
    if unicast[False]:
        sentence = f"UDP from {', '.join(unicast[False])} does not arrive at its port {udp.get('port')}"
        yield Finding(name, False, sentence, _allow([addresses.get(other, "") for other in unicast[False]]))
    elif unicast[True]:
        yield Finding(name, True, f"UDP from {', '.join(unicast[True])} arrives at its port {udp.get('port')}")
    elif unicast[None]:
        yield Finding(name, None, f"whether UDP from {', '.join(unicast[None])} arrives there cannot be told")
    apart = [other for other in group[False] if other in unicast[True]]
    if apart:
        yield Finding(
            name,
            False if udp.get("multicast") else None,
            f"multicast from {', '.join(apart)} does not arrive, though other UDP does",
            "A switch with IGMP snooping needs a querier; discovery by multicast and tests of multicast need one",
        )


def _sorted_out(heard: Mapping[str, bool | None]) -> dict[bool | None, list[str]]:
    return {well: [other for other, found in heard.items() if found is well] for well in (True, False, None)}


def _allow(addresses: Sequence[str]) -> str:
    """How a machine lets in what DDS sends from these addresses: its ports are 7400 and more."""
    rules = [f"sudo ufw allow proto udp from {address} to any port {DDS_PORTS}" for address in addresses]
    if len(rules) > MOST_RULES:
        rules = [*rules[:MOST_RULES], f"so for {len(rules) - MOST_RULES} more"]
    return f"On it, or on a firewall between them: {'; '.join(rules)} (sudo nft list ruleset shows what else drops it)"
