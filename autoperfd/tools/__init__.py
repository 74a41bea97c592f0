"""KNOWS ONE BENCHMARK TOOL EACH: what to start where, and whether it worked. `TOOLS` holds them by name."""

from __future__ import annotations

from collections.abc import Mapping

from autoperfd.core.plan import Tool
from autoperfd.tools.ddsperf import Ddsperf
from autoperfd.tools.perftest import Perftest

TOOLS: Mapping[str, Tool] = {tool.name: tool for tool in (Perftest(), Ddsperf())}

__all__ = ["TOOLS"]
