"""Knows what the participants of an attempt with Perftest leave behind: how far they came, whose file is which."""

from __future__ import annotations

import re
from dataclasses import dataclass

from autoperfd.core.plan import Finding, Participant, Plan, Settings
from autoperfd.tools.datafile import DataFile
from autoperfd.tools.judging import Evidence, Text, found

DEFAULT_LATENCY_COUNT = 10_000  # what the tool takes when it is not told; 1 in its ping-pong mode
LOST_ROWS = 37  # that a kill takes from a subscriber's file at most: 4095 bytes of rows of 110

STAGES = (
    ("finished", re.compile(r"Finishing test")),
    ("matched", re.compile(r"Sending \d+ initialization pings|(?:Sending|Publishing) data|Waiting for data")),
    ("announcing", re.compile(r"Waiting for subscribers announcement")),
    ("discovering", re.compile(r"Waiting to discover")),
)


def num_iter(settings: Settings) -> int:
    """The number of samples after which a publisher stops: enough for 2·10^6 a second.

    Publisher 0 keeps eight bytes for each latency sample it may get, so that 8·10^6 of them are the bound.
    """
    default = 1 if settings.get("latency_test") else DEFAULT_LATENCY_COUNT
    latency_count = settings.get("latency_count", default)
    return min(2_000_000 * settings["duration_secs"], 8_000_000 * latency_count)


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
