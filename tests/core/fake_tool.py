"""A benchmark tool for tests of configs and sweeps: it takes what Perftest takes and refuses one combination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from autoperfd.core.plan import Allowed, Machine, ParticipantRecord, Plan, Settings, Tool, Verdict


class FakeTool:
    """Answers from a table; plans and verdicts are never asked for here."""

    probe_argv = ("-help",)
    probe_exits = (0,)

    def __init__(self, name: str, table: Mapping[str, Allowed]) -> None:
        self.name = name
        self.table = table

    def allowed(self, key: str) -> Allowed | None:
        return self.table.get(key)

    def problems(self, settings: Settings) -> list[tuple[str, str]]:
        if settings.get("latency_test") and settings["pub_count"] > 1:
            return [("latency_test", "a latency test has one publisher")]
        return []

    def plan(
        self,
        test_name: str,
        settings: Settings,
        machines: Sequence[Machine],
        domain: int,
        probes: Mapping[str, str],
    ) -> Plan:
        raise NotImplementedError

    def verdict(self, plan: Plan, folder: Path, records: Sequence[ParticipantRecord]) -> Verdict:
        raise NotImplementedError


FREE = Allowed()
TOOLS: dict[str, Tool] = {
    "perftest": FakeTool(
        "perftest",
        {
            "duration_secs": FREE,
            "datalen_bytes": Allowed(28, 2_147_482_620, ((1262, 1264, "they are control codes"),), "of its header"),
            "pub_count": FREE,
            "sub_count": FREE,
            "use_reliable": FREE,
            "use_multicast": FREE,
            "durability_level": FREE,
            "latency_count": FREE,
            "latency_test": FREE,
        },
    ),
    "ddsperf": FakeTool(
        "ddsperf",
        {
            "duration_secs": FREE,
            "datalen_bytes": Allowed(12, 1_048_576),
            "pub_count": FREE,
            "sub_count": FREE,
            "use_reliable": FREE,
            "use_multicast": FREE,
            "durability_level": Allowed(never="it has no option for it"),
        },
    ),
}
