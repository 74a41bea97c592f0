"""Knows RTI Perftest 3.1 to 4.3: its command lines, what it cannot take, and whether an attempt with it worked.

Perftest has no time-out of its own, does not handle signals, takes any prefix of an option's name, batches by
default and stops after 10^8 samples: hence full option names, `-batchSize 0` and a `-numIter` on every command
line. Pure but for reading the files it is given; any thread.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

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
from autoperfd.tools import parse_perftest
from autoperfd.tools.judging import (
    Evidence,
    Figure,
    Rule,
    Text,
    asked,
    collect,
    colon,
    end_is_known,
    ended_by_signal,
    executable_started,
    figures,
    first_line,
    found,
    last_line,
    peek,
    printable,
    settle,
    streams_are_there,
)
from autoperfd.tools.parse_perftest import DataFile

DEFAULT_LATENCY_COUNT = 10_000  # what the tool takes when it is not told; 1 in its ping-pong mode

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
        limit = num_iter(settings)
        if settings.get("latency_test") or limit >= 2_000_000 * settings["duration_secs"]:
            return []
        rate = limit // settings["duration_secs"]
        return [
            f"a publisher stops after {limit} samples (-numIter, bounded by latency_count): "
            f"the test ends early where one sends more than {rate} samples a second"
        ]

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
        attempt = Attempt(
            plan,
            tuple(
                Left(
                    evidence,
                    stage(evidence.stderr),
                    parse_perftest.read(folder / name) if (name := data_name(evidence.participant)) else None,
                    name,
                )
                for evidence in collect(plan, folder, records)
            ),
        )
        return settle(attempt.findings(), attempt.figures())


# Old data

DATA_FILE = re.compile(r"(pub|sub)_(0|[1-9]\d{0,3})(?:_output)?\.(?:csv|json|txt)")
STDERR_ENDS = (".stderr", ".stderr.txt", "_stderr.txt", ".err")
MOST_FILES = 10_000  # entries of a folder that are looked at


def judge_files(folder: Path, settings: Settings | None = None) -> Verdict:
    """Judge result files of a test of which nothing else is known: no records of how its participants ended.

    `folder` holds `pub_0.csv` and `sub_<i>.csv` (also `…_output.csv`, `.json`, `.txt`) and, where there are any,
    standard error as `<participant>.stderr`. `settings`: those of the test that are known; what is not known is
    not asked for. With `sub_count` every subscriber must be there and no other, without it those found are judged.
    Rules that need the ends of participants are left out; what standard error says counts. Never raises for content.
    """
    known = settings or {}
    names: dict[tuple[Role, int], str] = {}
    for path in itertools.islice(sorted(folder.iterdir()), MOST_FILES):
        if match := DATA_FILE.fullmatch(path.name):
            names.setdefault(("pub" if match[1] == "pub" else "sub", int(match[2])), path.name)
    subscribers = known.get("sub_count", 1 + max((i for role, i in names if role == "sub"), default=0))
    given = [_given(folder, "pub", 0, names.get(("pub", 0), "pub_0.csv"))]
    given += [_given(folder, "sub", i, names.get(("sub", i), f"sub_{i}.csv")) for i in range(int(subscribers))]
    plan = Plan(
        tool=Perftest.name,
        test_name=folder.name,
        settings=tuple(known.items()),
        domain=0,
        duration_secs=int(known.get("duration_secs", 0)),
        participants=tuple(one.participant for one in given),
    )
    attempt = Attempt(plan, tuple(given), recorded=False)
    strays = [name for (role, i), name in names.items() if role == "sub" and i >= subscribers]
    return settle([*attempt.findings(), *(_stray(name) for name in strays)], attempt.figures())


def _given(folder: Path, role: Role, index: int, file: str) -> Left:
    """What is left of a participant whose end nobody recorded."""
    name = f"{role}_{index}"
    stderr = next((name + end for end in STDERR_ENDS if (folder / (name + end)).exists()), f"{name}.stderr")
    participant = Participant(name, role, index, "", (), (), file, stderr, ())
    said = peek(folder / stderr)
    evidence = Evidence(participant, None, Text(-1), said)
    return Left(evidence, stage(said), parse_perftest.read(folder / file), file)


def _stray(name: str) -> Finding:
    """A file of a participant that the test does not have is left over from another test."""
    return Finding("bad-data", "STRAY_FILE", f"{name} is of no participant of this test: left over from another one")


# Command lines


def num_iter(settings: Settings) -> int:
    """The number of samples after which a publisher stops: enough for 2·10^6 a second.

    Publisher 0 keeps eight bytes for each latency sample it may get, so that 8·10^6 of them are the bound.
    """
    default = 1 if settings.get("latency_test") else DEFAULT_LATENCY_COUNT
    latency_count = settings.get("latency_count", default)
    return min(2_000_000 * settings["duration_secs"], 8_000_000 * latency_count)


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


# Judging

LOST_ROWS = 37  # that a kill takes from a subscriber's file at most: 4095 bytes of rows of 110
MISSING_ROWS = 10  # a healthy subscriber's file has 1 to 6 rows fewer than the test has seconds
SAME_COUNT = 0.9  # of two subscribers' samples, received and lost; the end of a test reaches them at different times

STAGES = (
    ("finished", re.compile(r"Finishing test")),
    ("matched", re.compile(r"Sending \d+ initialization pings|(?:Sending|Publishing) data|Waiting for data")),
    ("announcing", re.compile(r"Waiting for subscribers announcement")),
    ("discovering", re.compile(r"Waiting to discover")),
)
BY_TIMER = "Finishing test due to timer"
MISMATCH = re.compile(r"Found (?:incompatible|inconsistent)")
OPTION_ERROR = re.compile(
    r"Cannot parse '|Missing '.*' after '|In the argument '|Cannot use '|cannot be used with|invalid input",
    re.IGNORECASE,
)
LICENCE = re.compile(
    r"licen[sc]e.*\b(?:expired|not found|invalid|missing|denied|unable|failed|cannot|could not|no valid)"
    r"|\b(?:expired|invalid|missing|no|unable to find|could not find)\b.*licen[sc]e",
    re.IGNORECASE,
)


def stage(stderr: Text) -> str:
    """How far a participant came by its own words: "", "discovering", "announcing", "matched" or "finished"."""
    for line in reversed(stderr.lines()):
        for name, pattern in STAGES:
            if pattern.match(line):
                return name
    return ""


def data_name(participant: Participant) -> str:
    """The file a participant's figures are in; "" for one that has none (publishers but the first)."""
    if participant.files:
        return participant.files[0]
    return participant.stdout if participant.stdout.endswith(".csv") else ""


@dataclass(frozen=True, slots=True)
class Left:
    """What one participant left: how it ended, how far it came, its data (None: it has none to write)."""

    evidence: Evidence
    stage: str
    data: DataFile | None
    file: str  # the name of its data file

    @property
    def participant(self) -> Participant:
        """The participant."""
        return self.evidence.participant

    @property
    def name(self) -> str:
        """The participant's name."""
        return self.evidence.participant.name

    def ended_by(self, *whom: str) -> bool:
        """Whether the launcher says that one of these ended it."""
        return self.evidence.record is not None and self.evidence.record.ended_by in whom

    @property
    def hung(self) -> bool:
        """Whether a subscriber never noticed the end: by its record, or of old data by an idle end that is long."""
        data = self.data
        if data is None or not data.idle_at_end or data.summaries:
            return False
        return self.ended_by("grace") or (self.evidence.record is None and data.idle_rows >= LOST_ROWS)

    @property
    def unmatched(self) -> bool:
        """Whether it was stopped while it was still looking for its peers."""
        return self.ended_by("deadline", "grace") and self.stage in ("discovering", "announcing")

    def found(self, status: str, code: str, reason: str, *, machine: bool = False) -> Finding:
        """A finding about this participant."""
        return found(status, code, reason, self.evidence, machine=machine)


@dataclass(frozen=True, slots=True)
class Attempt:
    """All participants of one attempt, and the rules they are judged by."""

    plan: Plan
    left: tuple[Left, ...]
    recorded: bool = True  # False: nobody recorded how its participants ended

    def findings(self) -> Iterator[Finding]:
        """Every rule's finding about every participant, in their order."""
        for one in self.left:
            if self.recorded:
                for rule in COMMON_RULES:
                    if finding := rule(one.evidence):
                        yield finding
                yield from self._end(one)
            elif one.evidence.stderr.size > 0:
                yield from self._said(one)
            if one.data is not None:
                yield from self._data(one, one.data)
        yield from self._together()

    def _together(self) -> Iterator[Finding]:
        """Every subscriber is sent every sample; where nothing may be lost, they must tell of equally many."""
        if asked(self.plan, "use_reliable") is False:
            return
        counts = [
            (one.data.summaries[0]["total samples"] + one.data.summaries[0]["lost samples"], one)
            for one in self.left
            if one.data is not None and one.data.kinds == {"throughput"} and one.data.summaries
        ]
        if not counts:
            return
        (fewest, least), (most, other) = min(counts, key=itemgetter(0)), max(counts, key=itemgetter(0))
        if fewest < most * SAME_COUNT:
            reason = (
                f"{least.name} tells of {fewest:.0f} samples and {other.name} of {most:.0f}, though all get the same"
            )
            yield least.found("bad-data", "COUNTS_DISAGREE", reason)

    def _end(self, one: Left) -> Iterator[Finding]:
        """How the process ended: refusals, crashes, the deadline, ends before their time."""
        record, status = one.evidence.record, one.evidence.failed_exit
        if record is None:
            return
        if status is not None and status not in (126, 127):
            yield _failed(one, status)
        elif one.unmatched:
            yield _no_match(one)
        elif one.ended_by("deadline") or (one.ended_by("grace") and one.participant.role == "pub"):
            # A participant that found its peers and waits for one that did not is no time-out of its own.
            if not any(other.unmatched for other in self.left):
                reason = (
                    f"{one.name} had not ended by itself when the time was up{colon(last_line(one.evidence.stderr))}"
                )
                yield one.found("timeout", "TIMEOUT", reason)
        elif one.evidence.finished:
            yield from self._early(one, record)

    def _said(self, one: Left) -> Iterator[Finding]:
        """What standard error alone tells of an end that nobody recorded."""
        if refusal := _refused(one):
            yield refusal
        elif one.stage in ("discovering", "announcing"):
            yield _no_match(one)
        elif one.stage != "finished" and not one.hung:
            yield one.found("early-exit", "NOT_FINISHED", _unfinished(one))
        elif one.stage == "finished" and one.participant.role == "pub" and self.plan.duration_secs:
            yield from self._samples_ran_out(one)

    def _early(self, one: Left, record: ParticipantRecord) -> Iterator[Finding]:
        """Exit status 0 alone proves nothing: Perftest must say that it finished, and why."""
        asked_secs = self.plan.duration_secs
        if one.stage != "finished":
            yield one.found("early-exit", "NOT_FINISHED", _unfinished(one))
        elif record.elapsed is not None and record.elapsed < asked_secs:
            reason = f"{one.name} ended after {record.elapsed:.1f} s of {asked_secs} s"
            yield one.found("early-exit", "EARLY_EXIT", reason)
        elif one.participant.role == "pub":
            yield from self._samples_ran_out(one)

    def _samples_ran_out(self, one: Left) -> Iterator[Finding]:
        """A publisher that its timer did not end had sent all the samples it may send."""
        if not any(line.startswith(BY_TIMER) for line in one.evidence.stderr.lines()):
            reason = (
                f"{one.name} had sent all the samples it may send (-numIter) "
                f"before the {self.plan.duration_secs} s were over"
            )
            yield one.found("early-exit", "NUM_ITER_REACHED", reason)

    def _data(self, one: Left, data: DataFile) -> Iterator[Finding]:
        """Presence, emptiness, the end and the summary of a data file, and what does not belong in it."""
        for rule in DATA_RULES:
            if finding := rule(self, one, data):
                yield finding

    def figures(self) -> dict[str, Figure]:
        """The figures as far as the files hold them."""
        latency: Mapping[str, Figure] = {}
        subscribers = []
        for one in self.left:
            if one.data is None:
                continue
            if one.participant.role == "sub":
                subscribers.append(_throughput(one.data))
            elif one.data.kinds == {"latency"} and one.data.summaries and one.data.summaries[0]["length"]:
                summary = one.data.summaries[0]
                latency = {column: summary[name] for column, name in LATENCY_FIGURES if name in summary}
        return figures(latency, subscribers, _version(self.left))


COMMON_RULES: tuple[Rule, ...] = (end_is_known, executable_started, streams_are_there)


def _failed(one: Left, status: int) -> Finding:
    """A participant that ended by itself with another exit status than 0."""
    stderr = one.evidence.stderr
    if status >= 128 and status != 255:
        return ended_by_signal(one.evidence, status - 128)
    if refusal := _refused(one):
        return refusal
    if not one.stage:
        reason = f"{one.name} did not start (exit status {status}){colon(_complaint(stderr))}"
        return one.found("wont-start", "NOT_STARTED", reason)
    reason = f"{one.name} ended with exit status {status}{colon(_complaint(stderr))}"
    return one.found("crashed", "CRASHED", reason)


def _refused(one: Left) -> Finding | None:
    """A licence that is not valid, or a command line that is not understood, by its own words."""
    licence = next((line for line in _all_lines(one) if LICENCE.search(line)), "")
    refused = next((line for line in one.evidence.stderr.lines() if OPTION_ERROR.search(line)), "")
    if licence:
        where = f" on {one.participant.machine}" if one.participant.machine else ""
        reason = f"Perftest finds no valid licence{where}: {printable(licence)}"
        return one.found("wont-start", "LICENCE", reason, machine=True)
    if refused:
        reason = f"{one.name} refused its command line: {printable(refused)}"
        return one.found("wont-start", "OPTION_REFUSED", reason)
    return None


def _unfinished(one: Left) -> str:
    """The reason of an end at which nothing was said of a finished test."""
    return f"{one.name} ended without finishing its test{colon(last_line(one.evidence.stderr))}"


def _no_match(one: Left) -> Finding:
    """A participant that was stopped while it was still looking for its peers."""
    mismatch = next((line for line in one.evidence.stderr.lines() if MISMATCH.match(line)), "")
    waited = "subscribers to announce themselves" if one.stage == "announcing" else "its peers"
    said = printable(mismatch) or last_line(one.evidence.stderr)
    return one.found("no-match", "NO_MATCH", f"{one.name} waited for {waited} until it was stopped{colon(said)}")


def _all_lines(one: Left) -> list[str]:
    """What it said on either stream; the middleware's own messages come on standard output."""
    return one.evidence.stderr.lines() + one.evidence.stdout.lines()


def _complaint(stderr: Text) -> str:
    """The last line that is not the farewell every end has."""
    lines = [line for line in stderr.lines() if line.strip() and not line.startswith("Test ended.")]
    return printable(lines[-1]) if lines else first_line(stderr)


# Rules about data files: each names one way in which a file is no proof, or is silent


def present(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """The file must be there."""
    if data.present:
        return None
    return one.found("no-data", "MISSING_FILE", f"{one.name} left no {one.file}")


def filled(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """There must be measured rows: an empty file, titles alone and a summary of nothing are no data."""
    if data.rows or not data.present:
        return None
    if data.size == 0:
        if one.evidence.finished and one.participant.role == "pub":
            return one.found("no-data", "NO_PONGS", f"{one.file} is empty: no latency sample was ever answered")
        return one.found("no-data", "EMPTY_FILE", f"{one.file} of {one.name} is empty")
    if data.summaries and data.summaries[0]["length"] == 0:
        return one.found("no-data", "NO_PONGS", f"{one.file} sums up nothing: no latency sample was ever answered")
    if data.legacy:
        reason = f"{one.file} is in the text format of Perftest 3.0 or older; 3.1 or later is needed"
        return one.found("bad-data", "LEGACY_FORMAT", reason, machine=True)
    return one.found("no-data", "NO_ROWS", f"{one.file} of {one.name} has no measured row")


def whole(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """The last line must end and the summary must be there.

    Only a subscriber that was ended because its publishers had ended may lack both: what a kill loses of its
    file is younger than the grace time, and if its last whole row is idle, no measured row is lost.
    """
    if not data.present or data.size == 0:
        return None
    if data.too_large:
        return one.found("truncated", "TOO_LARGE", f"{one.file} has more than {parse_perftest.MAX_FILE} bytes")
    if one.hung or (one.ended_by("grace") and data.summaries):
        reason = f"{one.name} never noticed that its publishers had ended: data complete, summary missing"
        return one.found("no-summary", "NO_SUMMARY", reason)
    if data.cut:
        return one.found("truncated", "TRUNCATED", f"the last line of {one.file} is cut")
    if data.rows and not data.summaries and not data.bad_line:  # a spoilt summary is not a missing one
        return one.found("truncated", "TRUNCATED", f"{one.file} ends without its summary")
    return None


def long_enough(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """A subscriber writes a row a second from its first data to the end: fewer are not the whole test."""
    missing = attempt.plan.duration_secs - data.rows
    if data.rows and data.kinds == {"throughput"} and missing > MISSING_ROWS:
        reason = f"{one.file} has {data.rows} rows of one second for a test of {attempt.plan.duration_secs} s"
        return one.found("truncated", "TOO_FEW_ROWS", reason)
    return None


def one_result(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """One block of rows and one summary: more are several results appended to one file."""
    if data.headers > 1 or len(data.summaries) > 1:
        return one.found("bad-data", "APPENDED", f"{one.file} holds more than one result")
    return None


def right_kind(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """A publisher writes latencies, a subscriber throughput, of the sample length that was asked for."""
    kind = "latency" if one.participant.role == "pub" else "throughput"
    if data.kinds - {kind}:
        return one.found("bad-data", "WRONG_KIND", f"{one.file} does not hold {kind} only")
    length = asked(attempt.plan, "datalen_bytes")
    if length is not None and data.rows and data.lengths - {length}:
        reason = f"{one.file} is about samples of {min(data.lengths - {length})} bytes, not {length}"
        return one.found("bad-data", "WRONG_LENGTH", reason)
    return None


def clean(attempt: Attempt, one: Left, data: DataFile) -> Finding | None:
    """No spoilt row anywhere, and nobody else's text in a file that Perftest writes by itself.

    Where the data is standard output, the middleware's messages stand between the rows by right.
    """
    if data.bad_line:
        reason = f"line {data.bad_line} of {one.file} is no row: {data.bad_text}"
        return one.found("bad-data", "BAD_DATA", reason)
    if data.foreign_lines and one.participant.files and not data.legacy:
        reason = f"line {data.foreign_line} of {one.file} is not Perftest's: {data.foreign_text}"
        return one.found("bad-data", "FOREIGN_TEXT", reason)
    return None


DATA_RULES = (present, filled, whole, long_enough, one_result, right_kind, clean)


# Figures

LATENCY_FIGURES = (
    ("latency_mean_us", "ave"),
    ("latency_std_us", "std"),
    ("latency_min_us", "min"),
    ("latency_max_us", "max"),
    ("latency_50_us", "50%"),
    ("latency_90_us", "90%"),
    ("latency_99_us", "99%"),
    ("latency_99_99_us", "99.99%"),
    ("latency_99_9999_us", "99.9999%"),
)


def _throughput(data: DataFile) -> dict[str, float]:
    """A subscriber's figures: its summary's, or without one those of the last row in which data came."""
    row = data.summaries[0] if data.summaries else data.live
    if row is None or "total samples" not in row:
        return {}
    return {
        "samples": row["total samples"],
        "samples_per_s": row["ave samples/s"],
        "mbps": row["ave mbps"],
        "lost": row["lost samples"],
        "lost_percent": row["lost samples (%)"],
    }


def _version(left: Iterable[Left]) -> str:
    """The banner, which is the only place where Perftest says its version."""
    for one in left:
        line = first_line(one.evidence.stderr)
        if line.startswith("RTI Perftest"):
            return line
    return ""
