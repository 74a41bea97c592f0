"""Knows RTI Perftest 3.1 to 4.3: its command lines and what it cannot take; judge_perftest.py says whether it worked.

Perftest has no time-out of its own, does not handle signals, takes any prefix of an option's name, batches by
default and stops after 10^8 samples: hence full option names, `-batchSize 0` and a `-numIter` on every command
line. Pure but for reading the files it is given; any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from autoperfd.core.plan import (
    Allowed,
    Machine,
    Participant,
    ParticipantRecord,
    Plan,
    Role,
    Settings,
    Verdict,
    distribute,
)
from autoperfd.tools.judge_perftest import DATA_FILE, judge, judge_files
from autoperfd.tools.perftest_left import num_iter

__all__ = ["DATA_FILE", "Perftest", "judge_files", "latency_test_problems"]

SHORT_SECS = 10
LARGEST_PLAIN = 65_470  # bytes of a sample

ALLOWED: Mapping[str, Allowed] = {
    "duration_secs": Allowed(
        low=3,
        high=4_000_000,
        reason="a subscriber whose data all arrives within its first second never ends, "
        "and Perftest counts milliseconds in 32 bits",
    ),
    "datalen_bytes": Allowed(
        low=28,
        high=2_147_482_620,
        holes=((1262, 1264, "payloads of 1234 to 1236 bytes are Perftest's own control messages"),),
        reason="28 bytes of every sample are Perftest's own",
    ),
    "pub_count": Allowed(low=1),
    "sub_count": Allowed(low=1),
    "use_reliable": Allowed(),
    "use_multicast": Allowed(),
    "durability_level": Allowed(low=0, high=3, reason="0 volatile, 1 transient local, 2 transient, 3 persistent"),
    "latency_count": Allowed(low=1, high=2**31 - 1),
    "latency_test": Allowed(),
}


class Perftest:
    """The `perftest_cpp` executable of RTI Perftest, both roles."""

    name = "perftest"
    probe_argv: tuple[str, ...] = ("-help",)
    probe_exits: tuple[int, ...] = (0,)

    def allowed(self, key: str) -> Allowed | None:
        """What Perftest takes for a setting; None: it does not know the setting."""
        return ALLOWED.get(key)

    def problems(self, settings: Settings) -> list[tuple[str, str]]:
        """(key, reason) for every combination of values that Perftest cannot take."""
        return latency_test_problems(settings)

    def warnings(self, settings: Settings) -> list[str]:
        """Sentences about what a test with these settings may do unasked."""
        return list(_traps(settings))

    def plan(
        self,
        test_name: str,
        settings: Settings,
        machines: Sequence[Machine],
        domain: int,
        probes: Mapping[str, str],
    ) -> Plan:
        """What to start where. Executables whose help does not offer `-outputFile` print to standard output."""
        publishers, subscribers = int(settings["pub_count"]), int(settings["sub_count"])
        pub_machines, sub_machines = distribute(publishers, subscribers, machines)
        by_name = {machine.name: machine for machine in machines}
        common = _common(settings, domain)

        def participant(role: Role, index: int, on: str, own: tuple[str, ...], writes: bool) -> Participant:
            machine, name = by_name[on], f"{role}_{index}"
            has_output_file = "-outputfile" in probes.get(on, "").lower() or not probes.get(on)
            files = (f"{name}.csv",) if writes and has_output_file else ()
            output = ("-outputFile", f"{name}.csv") if files else ()
            return Participant(
                name=name,
                role=role,
                index=index,
                machine=on,
                argv=(machine.exec_path, f"-{role}", *common, *own, *output),
                environment=machine.environment,
                stdout=f"{name}.csv" if writes and not files else f"{name}.stdout",
                stderr=f"{name}.stderr",
                files=files,
            )

        return Plan(
            tool=self.name,
            test_name=test_name,
            settings=tuple(settings.items()),
            domain=domain,
            duration_secs=int(settings["duration_secs"]),
            participants=(
                *(
                    participant("pub", i, on, _publisher(settings, i), writes=i == 0)
                    for i, on in enumerate(pub_machines)
                ),
                *(
                    participant("sub", j, on, _subscriber(settings, j), writes=True)
                    for j, on in enumerate(sub_machines)
                ),
            ),
            end_subscribers_after_publishers=settings.get("use_reliable") is False and publishers > 1,
        )

    def verdict(self, plan: Plan, folder: Path, records: Sequence[ParticipantRecord]) -> Verdict:
        """Judge one attempt from its files and its participants' ends."""
        return judge(plan, folder, records)


def _traps(settings: Settings) -> Iterator[str]:
    secs, limit = settings["duration_secs"], num_iter(settings)
    if not settings.get("latency_test") and limit < 2_000_000 * secs:
        yield (
            f"a publisher stops after {limit} samples (-numIter, bounded by latency_count): "
            f"the test ends early where one sends more than {limit // secs} samples a second"
        )
    if secs < SHORT_SECS:
        yield (
            f"{secs} s give {secs - 2} rows or so, of which the first ones are still those of the start: "
            f"{SHORT_SECS} s or more are better"
        )
    if settings.get("use_reliable") is False and settings.get("pub_count", 1) > 1:
        yield (
            "best effort with several publishers: subscribers may never end by themselves; they are ended "
            "a while after the publishers, and without their summary the test counts as no-summary"
        )
    if settings.get("datalen_bytes", 0) > LARGEST_PLAIN:
        yield (
            f"above {LARGEST_PLAIN} bytes (63000 in versions up to 3.0.1) Perftest uses another type, and up to 4.1.1 "
            "asynchronous publishing: figures are not comparable with those of smaller samples"
        )


# Command lines


def latency_test_problems(settings: Settings) -> list[tuple[str, str]]:
    """What a ping-pong test cannot be combined with, for either tool."""
    if not settings.get("latency_test"):
        return []
    problems = []
    if settings.get("pub_count", 1) != 1:
        problems.append(("pub_count", "a latency test has one publisher"))
    if settings.get("latency_count", 1) != 1:
        problems.append(("latency_count", "in a latency test every sample is answered: leave it out or give 1"))
    return problems


def _common(settings: Settings, domain: int) -> tuple[str, ...]:
    """The options on which both sides must agree."""
    argv = ["-domain", str(domain), "-transport", "UDPv4", "-noXmlQos"]
    if (length := settings.get("datalen_bytes")) is not None:
        argv += ["-dataLen", str(length)]
    if (durability := settings.get("durability_level")) is not None:
        argv += ["-durability", str(durability)]
    if settings.get("use_reliable") is False:
        argv.append("-bestEffort")
    if settings.get("use_multicast"):
        argv.append("-multicast")
    return tuple(argv)


def _publisher(settings: Settings, index: int) -> tuple[str, ...]:
    """The options of publisher `index`; a subscriber refuses every one of them."""
    argv = [
        *("-pidMultiPubTest", str(index)),
        *("-numSubscribers", str(settings["sub_count"])),
        *("-executionTime", str(settings["duration_secs"])),
        *("-batchSize", "0"),
        *("-numIter", str(num_iter(settings))),
    ]
    if (latency_count := settings.get("latency_count")) is not None:
        argv += ["-latencyCount", str(latency_count)]
    if settings.get("latency_test"):
        argv.append("-latencyTest")
    return tuple(argv)


def _subscriber(settings: Settings, index: int) -> tuple[str, ...]:
    """The options of subscriber `index`; a publisher refuses every one of them."""
    return ("-sidMultiSubTest", str(index), "-numPublishers", str(settings["pub_count"]))
