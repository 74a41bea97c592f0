"""Knows what all tools judge alike: findings and their precedence, ends of participants, figures, safe reading.

Reads only the files it is given, never raises because of what stands in them, and holds at most 128 KiB of a
text. A tool's verdict is a table of rules over `Evidence`; each rule names what it found or is silent, and the
first finding in the order of END_STATUSES decides. Pure but for reading; any thread.
"""

from __future__ import annotations

import io
import os
import re
import signal
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from autoperfd.core.plan import END_STATUSES, Finding, Participant, ParticipantRecord, Plan, Setting, Verdict

MOST_FINDINGS = 200  # that one verdict tells of
PEEK = 64 << 10  # bytes looked at from either end of a text

LATENCY_COLUMNS = (
    "latency_mean_us",
    "latency_std_us",
    "latency_min_us",
    "latency_max_us",
    "latency_50_us",
    "latency_90_us",
    "latency_99_us",
    "latency_99_99_us",
    "latency_99_9999_us",
)
SUBSCRIBER_COLUMNS = ("samples", "samples_per_s", "mbps", "lost", "lost_percent")
FIGURES = (
    "tool_version",
    *LATENCY_COLUMNS,
    *(f"total_{column}" for column in SUBSCRIBER_COLUMNS),
    *(f"sub_{column}" for column in SUBSCRIBER_COLUMNS),
)
"""The figures of every tool, in column order. Latencies are one way (half the round trip), microseconds;
`total_…` are over all subscribers; `sub_…` hold one value a subscriber in their order, joined by ";".
"" stands where the tool's output does not hold the figure."""

Figure = float | int | str


@dataclass(frozen=True, slots=True)
class Text:
    """The beginning and the end of a file that should be text; `size` -1: there is no such regular file."""

    size: int
    head: str = ""
    tail: str = ""

    @property
    def present(self) -> bool:
        """Whether there is such a file."""
        return self.size >= 0

    def lines(self) -> list[str]:
        """The lines of both ends, without what a cut in between left of a line."""
        if self.tail == self.head:
            return self.head.splitlines()
        return self.head.splitlines()[:-1] + self.tail.splitlines()[1:]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one participant left. `record` is None when nobody knows how it ended."""

    participant: Participant
    record: ParticipantRecord | None
    stdout: Text
    stderr: Text

    @property
    def name(self) -> str:
        """The participant's name."""
        return self.participant.name

    @property
    def finished(self) -> bool:
        """Whether it ended by itself and said that all was well."""
        return self.record is not None and self.record.ended_by == "self" and self.record.exit == 0

    @property
    def failed_exit(self) -> int | None:
        """The exit status it ended with by itself where that is not 0, as a shell gives it; else None."""
        if self.record is None or self.record.ended_by != "self":
            return None
        if self.record.signal:
            return 128 + self.record.signal
        return self.record.exit or None


Rule = Callable[[Evidence], Finding | None]
F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Proof:
    """One rule as a person reads of it: what it proves, and which end status its failures have, by code."""

    tool: str  # "" for all tools
    rule: str
    proves: str
    codes: Mapping[str, str]


PROOFS: list[Proof] = []
"""Every rule, as their modules are imported; docs/RULES.md is written from them."""


def proves(tool: str, **codes: str) -> Callable[[F], F]:
    """Registers a rule with the codes of its findings and their end statuses; its docstring says what it proves."""

    def register(rule: F) -> F:
        PROOFS.append(Proof(tool, rule.__name__, " ".join((rule.__doc__ or "").split()), codes))
        return rule

    return register


def settle(findings: Iterable[Finding], figures: Mapping[str, Figure]) -> Verdict:
    """The verdict of all findings: the first in the order of END_STATUSES, of equal ones the first given."""
    found = sorted(findings, key=lambda finding: END_STATUSES.index(finding.status))
    if not found:
        return Verdict("success", figures=figures)
    first = found[0]
    return Verdict(
        end_status=first.status,
        code=first.code,
        reason=first.reason,
        machine=first.participant.machine if first.participant else "",
        participant=first.participant.name if first.participant else "",
        would_fail_every_test=any(finding.would_fail_every_test for finding in found),
        figures=figures,
        findings=tuple(found[:MOST_FINDINGS]),
    )


def collect(plan: Plan, folder: Path, records: Sequence[ParticipantRecord]) -> list[Evidence]:
    """What each participant of the plan left, in the plan's order."""
    by_name = {record.name: record for record in records}
    return [
        Evidence(
            participant,
            by_name.get(participant.name),
            peek(folder / participant.stdout),
            peek(folder / participant.stderr),
        )
        for participant in plan.participants
    ]


# Rules of all tools


@proves("", END_UNKNOWN="invalid", SWEPT="invalid")
def end_is_known(evidence: Evidence) -> Finding | None:
    """How it ended must be known, and nobody else may have ended it."""
    record = evidence.record
    if record is None or record.ended_by == "unknown" or (record.exit is None and record.signal is None):
        return found("invalid", "END_UNKNOWN", f"how {evidence.name} ended is not known", evidence)
    if record.ended_by == "sweep":
        return found("invalid", "SWEPT", f"{evidence.name} was ended by a sweep", evidence)
    return None


LOADER = re.compile(
    r"error while loading shared libraries|symbol lookup error|version `[^']*' not found"
    r"|exec format error|cannot execute",
    re.IGNORECASE,
)


@proves("", WONT_START="wont-start")
def executable_started(evidence: Evidence) -> Finding | None:
    """Exit status 126 or 127 and the loader's complaints are the machine's fault: no test would start there."""
    status = evidence.failed_exit
    if status is None:
        return None
    said = next((line for line in evidence.stderr.lines()[:20] if LOADER.search(line)), "")
    if status not in (126, 127) and not said:
        return None
    reason = (
        f"{evidence.participant.argv[0]} cannot be started on {evidence.participant.machine} "
        f"(exit status {status}){colon(printable(said) or first_line(evidence.stderr))}"
    )
    return found("wont-start", "WONT_START", reason, evidence, machine=True)


def ended_by_signal(evidence: Evidence, number: int) -> Finding:
    """What it means that a signal ended it; one that floods a file is ended by the launcher's limit on its size."""
    reason = f"{evidence.name} was ended by signal {number}"
    if number == signal.SIGXFSZ:
        return found("crashed", "TOO_LARGE", f"{reason}: it wrote more into one file than max_file_mb allows", evidence)
    return found("crashed", "CRASHED", reason, evidence)


@proves("", MISSING_FILE="no-data")
def streams_are_there(evidence: Evidence) -> Finding | None:
    """Standard output and standard error of every participant must have been brought over."""
    for text, name in (
        (evidence.stdout, evidence.participant.stdout),
        (evidence.stderr, evidence.participant.stderr),
    ):
        if not text.present:
            return found("no-data", "MISSING_FILE", f"{name} of {evidence.name} is missing", evidence)
    return None


def found(status: str, code: str, reason: str, evidence: Evidence, *, machine: bool = False) -> Finding:
    """A finding about one participant. `machine`: its machine would fail every test in this way."""
    return Finding(status, code, reason, evidence.participant, machine)


def asked(plan: Plan, key: str) -> Setting | None:
    """A setting of the plan's test; None: not set."""
    return dict(plan.settings).get(key)


# Figures


def figures(
    latency: Mapping[str, Figure], subscribers: Sequence[Mapping[str, float]], version: str
) -> dict[str, Figure]:
    """All FIGURES in order, from one latency mapping and one mapping a subscriber ({}: nothing known of it)."""
    table: dict[str, Figure] = dict.fromkeys(FIGURES, "")
    table["tool_version"] = version
    table.update({column: tidy(value) for column, value in latency.items() if column in LATENCY_COLUMNS})
    for column in SUBSCRIBER_COLUMNS:
        values = [subscriber.get(column) for subscriber in subscribers]
        if any(value is not None for value in values):
            table[f"sub_{column}"] = ";".join("" if v is None else str(tidy(v)) for v in values)
        if values and None not in values and column != "lost_percent":
            table[f"total_{column}"] = tidy(sum(v for v in values if v is not None))
    received, lost = table["total_samples"], table["total_lost"]
    if isinstance(received, (int, float)) and isinstance(lost, (int, float)):
        table["total_lost_percent"] = tidy(percent(lost, received))
    return table


def percent(lost: float, received: float) -> float:
    """Lost samples as a share of all that were sent to a subscriber, in percent."""
    return 100 * lost / (lost + received) if lost + received else 0.0


def tidy(value: Figure) -> Figure:
    """A whole number as int, any other to 4 decimals, so that equal figures are spelt alike."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else round(value, 4)
    return value


# Reading what machines sent


def open_regular(path: Path) -> BinaryIO | None:
    """A regular file opened to be read, buffered; None when it is not there or is anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return io.BufferedReader(io.FileIO(descriptor), buffer_size=256 << 10)


def peek(path: Path) -> Text:
    """Both ends of a file, whatever stands in it."""
    file = open_regular(path)
    if file is None:
        return Text(-1)
    with file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(PEEK)
        if size <= PEEK:
            text = head.decode("utf-8", "replace")
            return Text(size, text, text)
        file.seek(max(PEEK, size - PEEK))
        return Text(size, head.decode("utf-8", "replace"), file.read(PEEK).decode("utf-8", "replace"))


def printable(text: str, limit: int = 160) -> str:
    """One line that can stand in a sentence: no control or other unprintable characters, at most `limit`."""
    line = "".join(c if c.isprintable() else "?" for c in text.strip())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def first_line(text: Text) -> str:
    """The first line that is not empty, printable."""
    return next((printable(line) for line in text.lines() if line.strip()), "")


def last_line(text: Text) -> str:
    """The last line that is not empty, printable."""
    return next((printable(line) for line in reversed(text.lines()) if line.strip()), "")


def colon(said: str) -> str:
    """What somebody said, to be put at the end of a sentence; nothing when nothing was said."""
    return f": {said}" if said else ""
