"""Cuts of the lab's wires, each on its own and counted, so that several stand at once and each can prove itself.

Knows nft on the lab's switch; promises that `heal` ends this cut and no other. Blocks for milliseconds; any thread.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from autoperfd.lab import netns

ALL = ""
LOSS = "meta protocol ip numgen random mod 100 < {percent}"


@dataclass(frozen=True)
class Cut:
    """Frames that the switch loses: `ways` are (from, to) names of machines; `match` narrows it (an nft expression)."""

    switch: netns.Switch
    name: str  # of its chain: letters, digits and "_"
    ways: Sequence[tuple[str, str]]
    match: str = ALL

    def make(self) -> None:
        """Begin to lose frames."""
        rules = [
            f'add rule bridge lab {self.name} iifname "{source}" oifname "{target}" {self.match} counter drop'
            for source, target in self.ways
        ]
        chain = f"add chain bridge lab {self.name} {{ type filter hook forward priority 1; }}"
        netns.nft(self.switch.netns, chain, *rules)

    def lost(self) -> int:
        """How many frames were lost so far."""
        argv = ["ip", "netns", "exec", self.switch.netns, "nft", "list", "chain", "bridge", "lab", self.name]
        return sum(int(count) for count in re.findall(r"counter packets (\d+)", netns.run(argv)))

    def heal(self) -> None:
        """End it."""
        netns.nft(self.switch.netns, f"flush chain bridge lab {self.name}", f"delete chain bridge lab {self.name}")


def both(one: str, other: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """The ways between two machines."""
    return (one, other), (other, one)
