"""iperf3 as a benchmark tool of autoperfd: one stream of TCP or UDP from a publisher to a subscriber."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoperfd.core.plan import (
    Allowed,
    Finding,
    Machine,
    Participant,
    ParticipantRecord,
    Plan,
    Settings,
    Verdict,
    distribute,
)  # fmt: skip
from autoperfd.tools import judging
from autoperfd.tools.judging import Evidence, found

FIRST_PORT = 20_000  # plus the attempt's domain, so that no two attempts meet
MOST_JSON = 16 << 20
# The server must listen first. Constant: whatever is asked for comes as arguments, never as shell text.
LATER = 'sleep 1; p=$1; shift; case $p in "~/"*) p=$HOME/${p#"~/"} ;; esac; exec "$p" "$@"'
ALLOWED: Mapping[str, Allowed] = {
    "duration_secs": Allowed(low=1, high=86_400, reason="iperf3 measures for a day at most"),
    "datalen_bytes": Allowed(low=16, high=65_507, reason="a datagram holds no more, and iperf3 needs 16 bytes of it"),
    "pub_count": Allowed(low=1, high=1, reason="an iperf3 server serves one client at a time"),
    "sub_count": Allowed(low=1, high=1, reason="an iperf3 client has one server"),
    "use_reliable": Allowed(),  # true: TCP, false: UDP as fast as possible
}


class Iperf3:
    """The `iperf3` executable: the subscriber is its server, the publisher its client."""

    name = "iperf3"
    probe_argv: tuple[str, ...] = ("--version",)
    probe_exits: tuple[int, ...] = (0,)

    def allowed(self, key: str) -> Allowed | None:
        """What iperf3 takes for a setting; None: it does not know the setting."""
        return ALLOWED.get(key)

    def problems(self, settings: Settings) -> list[tuple[str, str]]:
        """Combinations of values iperf3 cannot take: there are none."""
        return []

    def warnings(self, settings: Settings) -> list[str]:
        """What a person should know before."""
        return [] if settings.get("use_reliable", True) else ["UDP is sent as fast as possible: expect loss"]

    def plan(
        self, test_name: str, settings: Settings, machines: Sequence[Machine], domain: int, probes: Mapping[str, str]
    ) -> Plan:
        """What to start where: the server, and a second later the client, which ends both."""
        (pub_on,), (sub_on,) = distribute(1, 1, machines)
        pub, sub = (next(m for m in machines if m.name == name) for name in (pub_on, sub_on))
        port, secs = str(FIRST_PORT + domain), int(settings["duration_secs"])
        client = ["-c", sub.ip, "-p", port, "-t", str(secs), "--json"]
        if "datalen_bytes" in settings:
            client += ["-l", str(settings["datalen_bytes"])]
        if settings.get("use_reliable") is False:
            client += ["-u", "-b", "0"]
        # Bound to the address that is asked: a machine with several would answer UDP from another one.
        server = (sub.exec_path, "-s", "-1", "-B", sub.ip, "-p", port, "--json")
        return Plan(
            tool=self.name,
            test_name=test_name,
            settings=tuple(settings.items()),
            domain=domain,
            duration_secs=secs + 1,
            participants=(
                Participant("pub_0", "pub", 0, pub.name, ("/bin/sh", "-c", LATER, "sh", pub.exec_path, *client),
                            pub.environment, "pub_0.json", "pub_0.stderr"),
                Participant("sub_0", "sub", 0, sub.name, server, sub.environment, "sub_0.json", "sub_0.stderr"),
            ),
        )  # fmt: skip

    def verdict(self, plan: Plan, folder: Path, records: Sequence[ParticipantRecord]) -> Verdict:
        """A success has two ends in order, and a server that counted for as long as was asked."""
        pub, sub = judging.collect(plan, folder, records)
        said = _json(folder / sub.participant.stdout)
        seconds, figures = _figures(said, _json(folder / pub.participant.stdout))
        return judging.settle(_findings(plan, pub, sub, seconds), figures)


def _findings(plan: Plan, pub: Evidence, sub: Evidence, seconds: float | None) -> Iterator[Finding]:
    for one in (pub, sub):
        for rule in (judging.end_is_known, judging.executable_started, judging.streams_are_there):
            if finding := rule(one):
                yield finding
        if one.record and one.record.ended_by != "self":
            yield found("timeout", "TIMEOUT", f"{one.name} had not ended by itself when the time was up", one)
        elif one.failed_exit:
            yield found("early-exit", "EXIT", f"{one.name} ended with exit status {one.failed_exit}", one)
    if seconds is None:
        yield found("no-data", "NO_SUMMARY", f"{sub.participant.stdout} has no summary of what was received", sub)
    elif seconds < plan.duration_secs - 2:
        yield found("truncated", "TOO_SHORT", f"{sub.name} measured {seconds:.1f} s of {plan.duration_secs - 1}", sub)


def _json(path: Path) -> dict[str, Any]:
    file = judging.open_regular(path)
    if file is None:
        return {}
    with file:
        try:
            value = json.loads(file.read(MOST_JSON))
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _figures(server: dict[str, Any], client: dict[str, Any]) -> tuple[float | None, dict[str, judging.Figure]]:
    """(seconds measured, the figures every tool has) as the server counted them; None where it did not."""
    try:
        end = server["end"]
        total = end.get("sum_received") or end["sum"]
        received = {"mbps": float(total["bits_per_second"]) / 1e6}
        if "packets" in total:
            lost, packets, seconds = int(total["lost_packets"]), int(total["packets"]), float(total["seconds"])
            received |= {"samples": packets - lost, "lost": lost, "lost_percent": float(total["lost_percent"]),
                         "samples_per_s": (packets - lost) / seconds}  # fmt: skip
        version = str(client.get("start", {}).get("version", ""))
        return float(total["seconds"]), judging.figures({}, [received], version)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None, {}
