"""Knows ddsperf of Eclipse Cyclone DDS 0.10: its command lines, what it cannot take, and whether it worked.

All participants wait until each has found all others (`-Q minmatch`, `-Q initwait`) and only then start their
clocks, so that publishers send for exactly the time asked and subscribers, given a few seconds more, outlive
them; everybody ends by itself. Pure but for reading the files it is given; any thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from autoperfd.core.plan import (
    Allowed,
    Finding,
    Machine,
    Participant,
    ParticipantRecord,
    Plan,
    Role,
    Settings,
    Verdict,
    distribute,
)
from autoperfd.tools import parse_ddsperf
from autoperfd.tools.judging import (
    Evidence,
    Figure,
    asked,
    collect,
    colon,
    end_is_known,
    ended_by_signal,
    executable_started,
    figures,
    found,
    last_line,
    percent,
    proves,
    settle,
    streams_are_there,
)
from autoperfd.tools.parse_ddsperf import LOST, NO_MATCH, Printed
from autoperfd.tools.perftest import latency_test_problems

MATCH_SECS = 30  # how long participants look for each other before they give up
SAME_COUNT = 0.9  # of two subscribers' samples; the end of a test reaches them at different times
OUTLIVE_SECS = 3  # how much longer than publishers subscribers stay

ALLOWED: Mapping[str, Allowed] = {
    "duration_secs": Allowed(low=3, high=4_000_000, reason="its latencies begin in the second second"),
    "datalen_bytes": Allowed(low=12, high=2**31 - 1, reason="12 bytes of every sample are ddsperf's own"),
    "pub_count": Allowed(low=1),
    "sub_count": Allowed(low=1),
    "use_reliable": Allowed(),
    "use_multicast": Allowed(),
    "durability_level": Allowed(never="ddsperf has no durability setting: leave it out or empty"),
    "latency_count": Allowed(low=1, high=10_000_000),
    "latency_test": Allowed(),
}


class Ddsperf:
    """The `ddsperf` executable, all roles."""

    name = "ddsperf"
    probe_argv: tuple[str, ...] = ("help",)
    probe_exits: tuple[int, ...] = (3,)  # what its help ends with

    def allowed(self, key: str) -> Allowed | None:
        """What ddsperf takes for a setting; None: it does not know the setting."""
        return ALLOWED.get(key)

    def problems(self, settings: Settings) -> list[tuple[str, str]]:
        """(key, reason) for every combination of values that ddsperf cannot take."""
        return latency_test_problems(settings)

    def warnings(self, settings: Settings) -> list[str]:
        """Sentences about what a test with these settings may do unasked."""
        if settings.get("latency_count") is None or settings.get("latency_test"):
            return []
        return ["ddsperf has a random share of the samples answered, one in latency_count on average"]

    def plan(
        self,
        test_name: str,
        settings: Settings,
        machines: Sequence[Machine],
        domain: int,
        probes: Mapping[str, str],
    ) -> Plan:
        """What to start where."""
        publishers, subscribers = int(settings["pub_count"]), int(settings["sub_count"])
        pub_machines, sub_machines = distribute(publishers, subscribers, machines)
        by_name = {machine.name: machine for machine in machines}
        busiest = max(Counter(pub_machines + sub_machines).values())
        configuration = _configuration(settings, [by_name[n].ip for n in (*pub_machines, *sub_machines)], busiest)
        common = _common(settings, domain, others=publishers + subscribers - 1)
        duration = int(settings["duration_secs"])

        def participant(role: Role, index: int, on: str, secs: int, mode: tuple[str, ...]) -> Participant:
            machine, name = by_name[on], f"{role}_{index}"
            return Participant(
                name=name,
                role=role,
                index=index,
                machine=on,
                argv=(machine.exec_path, "-D", str(secs), *common, *mode),
                environment=_environment(machine, configuration),
                stdout=f"{name}.stdout",
                stderr=f"{name}.stderr",
            )

        publish = _publisher(settings)
        subscribe = ("pong",) if settings.get("latency_test") else ("sub",)
        return Plan(
            tool=self.name,
            test_name=test_name,
            settings=tuple(settings.items()),
            domain=domain,
            duration_secs=duration,
            participants=(
                *(participant("pub", i, on, duration, publish) for i, on in enumerate(pub_machines)),
                *(participant("sub", j, on, duration + OUTLIVE_SECS, subscribe) for j, on in enumerate(sub_machines)),
            ),
        )

    def verdict(self, plan: Plan, folder: Path, records: Sequence[ParticipantRecord]) -> Verdict:
        """Judge one attempt from what its participants printed and how they ended."""
        left = [
            Left(evidence, parse_ddsperf.read(folder / evidence.participant.stdout))
            for evidence in collect(plan, folder, records)
        ]
        return settle(_findings(plan, left), _figures(plan, left))


# Command lines


def _common(settings: Settings, domain: int, others: int) -> tuple[str, ...]:
    """The options of everybody: who counts as matched is every other participant, in whatever role."""
    argv = ["-i", str(domain), "-Q", f"minmatch:{others}", "-Q", f"initwait:{MATCH_SECS}"]
    if settings.get("use_reliable") is False:
        argv.append("-u")
    return tuple(argv)


def _publisher(settings: Settings) -> tuple[str, ...]:
    """The mode of a publisher: as fast as possible; of one in `latency_count` samples the answer is awaited."""
    length = settings.get("datalen_bytes")
    size = () if length is None else ("size", str(length))
    if settings.get("latency_test"):
        return ("ping", *size)
    count = settings.get("latency_count")
    return ("pub", *size) if count is None else ("pub", *size, share(count))


def share(latency_count: int) -> str:
    """One in `latency_count` as ddsperf reads it: percent, with a sign, and never as a power of ten."""
    return f"{100 / latency_count:.9f}".rstrip("0").rstrip(".") + "%"


def _configuration(settings: Settings, addresses: Sequence[str], busiest: int) -> str:
    """Cyclone's configuration for the test's multicast setting; "" leaves it to its default.

    Without multicast each participant needs a known port, hence an index, and is looked for at every index of
    every machine.
    """
    multicast = settings.get("use_multicast")
    if multicast is None:
        return ""
    if multicast:
        inner = "<General><AllowMulticast>true</AllowMulticast></General>"
    else:
        peers = "".join(f"<Peer Address={quoteattr(address)}/>" for address in dict.fromkeys(addresses))
        inner = (
            "<General><AllowMulticast>false</AllowMulticast></General>"
            "<Discovery><ParticipantIndex>auto</ParticipantIndex>"
            f"<MaxAutoParticipantIndex>{max(9, busiest + 4)}</MaxAutoParticipantIndex>"
            f"<Peers>{peers}</Peers></Discovery>"
        )
    return f'<CycloneDDS><Domain Id="any">{inner}</Domain></CycloneDDS>'


def _environment(machine: Machine, configuration: str) -> tuple[tuple[str, str], ...]:
    """The machine's own environment; its own Cyclone configuration comes first, so that the test's wins."""
    if not configuration:
        return machine.environment
    own = dict(machine.environment)
    before = own.get("CYCLONEDDS_URI", "")
    own["CYCLONEDDS_URI"] = f"{before},{configuration}" if before else configuration
    return tuple(own.items())


# Judging


@dataclass(frozen=True, slots=True)
class Left:
    """What one participant left: how it ended and what it printed."""

    evidence: Evidence
    printed: Printed

    @property
    def participant(self) -> Participant:
        """The participant."""
        return self.evidence.participant

    @property
    def name(self) -> str:
        """The participant's name."""
        return self.evidence.participant.name

    def found(self, status: str, code: str, reason: str) -> Finding:
        """A finding about this participant."""
        return found(status, code, reason, self.evidence)

    @property
    def unmatched(self) -> bool:
        """Whether it ended, or was stopped, without having found the others."""
        if self.evidence.failed_exit == 1:
            return any(NO_MATCH.search(error) for error in self.printed.errors)
        return self.stopped and not self.printed.last_stamp  # its clock starts when all have been found

    @property
    def stopped(self) -> bool:
        """Whether it had to be ended."""
        return self.evidence.record is not None and self.evidence.record.ended_by in ("deadline", "grace")


def _findings(plan: Plan, left: Sequence[Left]) -> Iterator[Finding]:
    """Every rule's finding about every participant, in their order, and those about all together."""
    nobody_unmatched = not any(one.unmatched for one in left)
    for one in left:
        for rule in (end_is_known, executable_started, streams_are_there):
            if finding := rule(one.evidence):
                yield finding
        # A participant that waits for one that found nobody is no time-out of its own.
        if not one.stopped or one.unmatched or nobody_unmatched:
            yield from exit_status(plan, one)
        if one.printed.present:
            yield from (finding for rule_of in PRINTED_RULES if (finding := rule_of(plan, one)))
    yield from subscribers_agree(plan, left)


@proves(
    "ddsperf",
    NO_MATCH="no-match",
    TIMEOUT="timeout",
    EARLY_EXIT="early-exit",
    SAMPLES_LOST="bad-data",
    OPTION_REFUSED="wont-start",
    NOT_STARTED="wont-start",
    CRASHED="crashed",
    TOO_LARGE="crashed",
)
def exit_status(plan: Plan, one: Left) -> Iterator[Finding]:
    """Every participant ended by itself with 0, not before the test's time: ddsperf met all its criteria (-Q)."""
    status, record = one.evidence.failed_exit, one.evidence.record
    said = one.printed.errors[0] if one.printed.errors else last_line(one.evidence.stdout)
    if one.unmatched:
        reason = f"{one.name} saw {one.printed.peers} of {len(plan.participants) - 1} others{colon(said)}"
        yield one.found("no-match", "NO_MATCH", reason)
    elif one.stopped:
        yield one.found("timeout", "TIMEOUT", f"{one.name} had not ended by itself when the time was up")
    elif status is None:
        if record and record.exit == 0 and record.elapsed is not None and record.elapsed < plan.duration_secs:
            reason = f"{one.name} ended after {record.elapsed:.1f} s of {plan.duration_secs} s"
            yield one.found("early-exit", "EARLY_EXIT", reason)
    elif status == 1 and any(LOST.search(error) for error in one.printed.errors):
        yield one.found("bad-data", "SAMPLES_LOST", f"{one.name} lost samples though reliable{colon(said)}")
    elif status == 3:
        reason = f"{one.name} refused its command line{colon(last_line(one.evidence.stderr) or said)}"
        yield one.found("wont-start", "OPTION_REFUSED", reason)
    elif status == 2 and not one.printed.last_stamp:
        reason = f"{one.name} could not start{colon(last_line(one.evidence.stderr) or said)}"
        yield one.found("wont-start", "NOT_STARTED", reason)
    elif status > 127:
        yield ended_by_signal(one.evidence, status - 128)
    elif status not in (126, 127):
        yield one.found("crashed", "CRASHED", f"{one.name} ended with exit status {status}{colon(said)}")


@proves("ddsperf", TRUNCATED="truncated", TOO_LARGE="truncated")
def whole(plan: Plan, one: Left) -> Finding | None:
    """The last line ends, and the file was read to its end."""
    file = one.participant.stdout
    if one.printed.too_large:
        return one.found("truncated", "TOO_LARGE", f"{file} has more than {parse_ddsperf.MAX_FILE} bytes")
    if one.printed.cut:
        return one.found("truncated", "TRUNCATED", f"the last line of {file} is cut")
    return None


@proves("ddsperf", TRUNCATED="truncated")
def long_enough(plan: Plan, one: Left) -> Finding | None:
    """A publisher's lines go on to the end of the test, and so do a subscriber's, whom it outlives."""
    pinged = one.participant.role == "sub" and bool(asked(plan, "latency_test"))
    if pinged or not one.printed.last_stamp or one.printed.last_stamp >= plan.duration_secs - 1.5:
        return None
    reason = f"{one.participant.stdout} ends at {one.printed.last_stamp:.0f} s of {plan.duration_secs} s"
    return one.found("truncated", "TRUNCATED", reason)


@proves("ddsperf", NO_DATA="no-data", NO_PONGS="no-data")
def filled(plan: Plan, one: Left) -> Finding | None:
    """A subscriber received something; where the test measures latencies, every publisher was answered."""
    pinging = bool(asked(plan, "latency_test"))
    if one.participant.role == "sub":
        if pinging or one.printed.samples:
            return None
        return one.found("no-data", "NO_DATA", f"{one.name} received nothing")
    if (pinging or asked(plan, "latency_count") is not None) and not one.printed.pings:
        return one.found("no-data", "NO_PONGS", f"no latency sample of {one.name} was answered")
    return None


@proves("ddsperf", WRONG_LENGTH="bad-data")
def right_length(plan: Plan, one: Left) -> Finding | None:
    """Subscribers tell of samples of the length that was asked for."""
    length = asked(plan, "datalen_bytes")
    if one.participant.role != "sub" or not one.printed.data_lines or length in (None, one.printed.sample_bytes):
        return None
    reason = f"{one.participant.stdout} is about samples of {one.printed.sample_bytes} bytes, not {length}"
    return one.found("bad-data", "WRONG_LENGTH", reason)


@proves("ddsperf", BAD_DATA="bad-data", MISFIT="bad-data")
def adds_up(plan: Plan, one: Left) -> Finding | None:
    """Totals only grow, by what each line says; percentiles stand in order between minimum and maximum."""
    file = one.participant.stdout
    if one.printed.falling:
        return one.found("bad-data", "BAD_DATA", f"the totals in {file} go down")
    if one.printed.misfit:
        return one.found("bad-data", "MISFIT", f"a line of {file} does not fit: {one.printed.misfit}")
    return None


@proves("ddsperf", APPENDED="bad-data")
def one_process(plan: Plan, one: Left) -> Finding | None:
    """All lines are of one process."""
    if len(one.printed.processes) < 2:
        return None
    return one.found("bad-data", "APPENDED", f"{one.participant.stdout} holds lines of more than one process")


@proves("ddsperf", SAMPLES_LOST="bad-data")
def reliable_loses_nothing(plan: Plan, one: Left) -> Finding | None:
    """Where the test is reliable, no subscriber lost a sample, whatever its exit status."""
    if asked(plan, "use_reliable") is not True or not one.printed.lost:
        return None
    if one.evidence.failed_exit == 1 and any(LOST.search(error) for error in one.printed.errors):
        return None  # it said so by its exit status
    return one.found("bad-data", "SAMPLES_LOST", f"{one.name} lost {one.printed.lost} samples though reliable")


@proves("ddsperf", WRITE_BLOCKED="bad-data")
def never_blocked(plan: Plan, one: Left) -> Finding | None:
    """No write of a publisher waited ten seconds in vain."""
    if not one.printed.blocked_writes:
        return None
    reason = f"{one.printed.blocked_writes} writes of {one.name} were blocked for 10 s: a subscriber was stuck"
    return one.found("bad-data", "WRITE_BLOCKED", reason)


PRINTED_RULES = (
    whole,
    long_enough,
    filled,
    right_length,
    adds_up,
    one_process,
    reliable_loses_nothing,
    never_blocked,
)


@proves("ddsperf", COUNTS_DISAGREE="bad-data")
def subscribers_agree(plan: Plan, left: Sequence[Left]) -> Iterator[Finding]:
    """Where the test is reliable, all subscribers received equally much, but for the test's ends."""
    subscribers = [one for one in left if one.participant.role == "sub" and one.printed.samples]
    if asked(plan, "use_reliable") is not True or not subscribers:
        return
    least = min(subscribers, key=lambda one: one.printed.samples)
    most = max(subscribers, key=lambda one: one.printed.samples)
    if least.printed.samples < SAME_COUNT * most.printed.samples:
        reason = (
            f"{least.name} tells of {least.printed.samples} samples and {most.name} of {most.printed.samples}, "
            "though all get the same"
        )
        yield least.found("bad-data", "COUNTS_DISAGREE", reason)


# Figures


def _figures(plan: Plan, left: Sequence[Left]) -> dict[str, Figure]:
    """The figures ddsperf's lines hold: no standard deviation, and percentiles of seconds, not of the test."""
    latency: dict[str, Figure] = {}
    pinged = [one.printed for one in left if one.printed.pings]
    if pinged:
        latency = {
            "latency_mean_us": sum(p.latency_sum for p in pinged) / sum(p.pings for p in pinged),
            "latency_min_us": min(p.latency_min for p in pinged),
            "latency_max_us": max(p.latency_max for p in pinged),
        }
    subscribers = [_throughput(one.printed, plan.duration_secs) for one in left if one.participant.role == "sub"]
    return figures(latency, subscribers, "")


def _throughput(printed: Printed, secs: int) -> dict[str, float]:
    """One subscriber's figures: its totals over the time the publishers were asked to send."""
    if not printed.data_lines:
        return {}
    return {
        "samples": printed.samples,
        "samples_per_s": printed.samples / secs,
        "mbps": printed.samples * printed.sample_bytes * 8 / secs / 1e6,
        "lost": printed.lost,
        "lost_percent": percent(printed.lost, printed.samples),
    }
