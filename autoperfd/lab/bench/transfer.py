from __future__ import annotations
def measure(bench): yield from ()
