"""KNOWS ONE BENCHMARK TOOL EACH: what to start where, and whether it worked. `TOOLS` holds them by name.

Others plug in by an entry point of the group `autoperfd.tools`; docs/TOOLS.md says how. What cannot be used is in
`BROKEN` and stops nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

from autoperfd.core.plan import Tool
from autoperfd.tools.ddsperf import Ddsperf
from autoperfd.tools.perftest import Perftest

GROUP = "autoperfd.tools"
PARTS = ("name", "probe_argv", "probe_exits", "allowed", "problems", "warnings", "plan", "verdict")
OWN: tuple[Tool, ...] = (Perftest(), Ddsperf())


def plugged_in(points: Iterable[EntryPoint], own: Iterable[Tool] = OWN) -> tuple[dict[str, Tool], dict[str, str]]:
    """(tools by name, those of others included; what cannot be used: name -> why, in a sentence)."""
    tools, broken = {tool.name: tool for tool in own}, {}
    for point in points:
        whose = f"the benchmark tool {point.name} of {point.dist.name if point.dist else point.value}"
        try:
            tool = point.load()()
            lacking = [part for part in PARTS if not hasattr(tool, part)]
        except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
            broken[point.name] = f"{whose} cannot be loaded: {error}"
            continue
        if lacking:
            broken[point.name] = f"{whose} lacks {', '.join(lacking)}"
        elif tool.name != point.name:
            broken[point.name] = f"{whose} calls itself {tool.name}"
        elif point.name in tools:
            broken[point.name] = f"{whose} has the name of another one"
        else:
            tools[point.name] = tool
    return tools, broken


def _found() -> tuple[Mapping[str, Tool], Mapping[str, str]]:
    return plugged_in(entry_points(group=GROUP))


TOOLS, BROKEN = _found()

__all__ = ["BROKEN", "TOOLS", "plugged_in"]
