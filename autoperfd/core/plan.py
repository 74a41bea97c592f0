"""What passes between tools and machines: machines, plans, records and verdicts, as values.

Pure data and the one rule that places participants on machines. Used from every thread: all frozen.
A `Plan` is what a tool wants started where; it is stored as the attempt's intent (JSON) before anything acts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

Setting = int | bool
Settings = Mapping[str, Setting]  # qos settings of one test, in the order of the experiment's keys
Allocation = Literal["pub", "sub", "all"]
Role = Literal["pub", "sub"]
EndedBy = Literal["self", "deadline", "grace", "sweep", "unknown"]
Blame = Literal["", "test", "machine", "network", "controller", "operator"]

END_STATUSES = (
    "success",
    "rebooted",
    "machine-lost",
    "invalid",
    "wont-start",
    "crashed",
    "timeout",
    "no-match",
    "early-exit",
    "truncated",
    "bad-data",
    "no-data",
    "no-summary",
    "interrupted",
    "skipped",
    "crashed-daemon",
)
"""Every `end_status`; after `success` in order of precedence: the first that applies is the attempt's."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A computer under test, as the experiment file names it."""

    name: str
    allocation: Allocation
    ip: str  # an address or a host name
    port: int
    username: str
    ssh_key_path: str  # on the controller; "~" is the daemon's home
    exec_path: str  # the tool's executable on the machine; "~/" is the machine account's home
    environment: tuple[tuple[str, str], ...] = ()
    power_cycle: str = ""


@dataclass(frozen=True, slots=True)
class Participant:
    """One benchmark process. It is started in the attempt's folder on `machine`, without a shell.

    `argv[0]` is the executable (a leading "~/" is the machine account's home). File names are relative to the
    attempt's folder and match [A-Za-z0-9._-]+; the same file never belongs to two participants.
    """

    name: str  # "pub_0", "sub_3"
    role: Role
    index: int
    machine: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    stdout: str  # file name standard output goes to
    stderr: str
    files: tuple[str, ...] = ()  # further files the process writes by itself


@dataclass(frozen=True, slots=True)
class Plan:
    """What one attempt starts where. Times in seconds."""

    tool: str
    test_name: str
    settings: tuple[tuple[str, Setting], ...]
    domain: int
    duration_secs: int
    participants: tuple[Participant, ...]
    end_subscribers_after_publishers: bool = False  # end them grace_secs after the last publisher ended

    def machines(self) -> tuple[str, ...]:
        """Names of the machines that have participants, in order of first use."""
        return tuple(dict.fromkeys(participant.machine for participant in self.participants))

    def on(self, machine: str) -> tuple[Participant, ...]:
        """The participants of one machine."""
        return tuple(p for p in self.participants if p.machine == machine)

    def to_json(self) -> str:
        """The plan as one JSON text; `from_json` gives the equal plan back."""
        # Not asdict: it copies deeply, which takes the engine long where a test has hundreds of participants.
        fields = {name: getattr(self, name) for name in Plan.__slots__}
        fields["participants"] = [{name: getattr(p, name) for name in Participant.__slots__} for p in self.participants]
        return json.dumps(fields, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Plan:
        """The plan that `to_json` wrote."""
        raw = json.loads(text)
        raw["settings"] = tuple((key, value) for key, value in raw["settings"])
        raw["participants"] = tuple(
            Participant(
                **{
                    **p,
                    "argv": tuple(p["argv"]),
                    "environment": tuple((k, v) for k, v in p["environment"]),
                    "files": tuple(p["files"]),
                }
            )
            for p in raw["participants"]
        )
        return Plan(**raw)


@dataclass(frozen=True, slots=True)
class ParticipantRecord:
    """How one participant ended, as the launcher recorded it. Times: that machine's clock, Unix seconds."""

    name: str
    machine: str
    exit: int | None  # exit status; None: ended by a signal, or not known
    signal: int | None
    ended_by: EndedBy
    started: float | None = None
    ended: float | None = None

    @property
    def elapsed(self) -> float | None:
        """Seconds from start to end, where both are known."""
        if self.started is None or self.ended is None:
            return None
        return self.ended - self.started


@dataclass(frozen=True, slots=True)
class Finding:
    """One named reason why an attempt is not a success, with the evidence in its sentence."""

    status: str  # one of END_STATUSES
    code: str  # stable short reason: what a rule is called
    reason: str  # one sentence for a person
    participant: Participant | None = None
    would_fail_every_test: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A tool's answer: did the attempt work, and its figures."""

    end_status: str
    code: str = ""  # stable short reason, e.g. NO_DATA
    reason: str = ""  # one sentence for a person; "" for success
    machine: str = ""  # the machine it happened on, where one is known
    participant: str = ""
    would_fail_every_test: bool = False  # e.g. the executable will not start: halt
    figures: Mapping[str, float | int | str] = field(default_factory=dict)  # in column order of summary.csv
    findings: tuple[Finding, ...] = ()  # every failed rule, the deciding one first


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a tool takes for one setting: from `low` to `high` (None: no bound) without the `holes`."""

    low: int | None = None
    high: int | None = None
    holes: tuple[tuple[int, int, str], ...] = ()  # (first, last, reason), inclusive, ascending
    reason: str = ""  # why low and high are what they are
    never: str = ""  # the setting cannot be honoured at all, because …


class Tool(Protocol):
    """A benchmark tool: pure answers, no I/O but reading the files it is given."""

    name: str
    probe_argv: tuple[str, ...]  # arguments of a harmless start during validation, e.g. ("-help",)
    probe_exits: tuple[int, ...]  # the exit statuses that show the executable can run

    def allowed(self, key: str) -> Allowed | None:
        """What the tool takes for a setting; None: the tool does not know the setting."""

    def problems(self, settings: Settings) -> list[tuple[str, str]]:
        """(key, reason) for every combination of values the tool cannot take; [] when fine."""

    def warnings(self, settings: Settings) -> list[str]:
        """What a person should know before trying these settings, as sentences; [] when nothing."""

    def plan(
        self,
        test_name: str,
        settings: Settings,
        machines: Sequence[Machine],
        domain: int,
        probes: Mapping[str, str],
    ) -> Plan:
        """What to start where. `probes`: machine name -> output of the probe start ("" when not known)."""

    def verdict(self, plan: Plan, folder: Path, records: Sequence[ParticipantRecord]) -> Verdict:
        """Judge one attempt from its fetched files in `folder` and the participants' records."""


def distribute(publishers: int, subscribers: int, machines: Sequence[Machine]) -> tuple[list[str], list[str]]:
    """Machine names for publishers 0…n-1 and subscribers 0…m-1.

    Publisher i goes to publisher-machine i mod n; subscribers take their machines in reverse order, so
    machines that serve both ("all") are balanced.
    """
    pubs = [m.name for m in machines if m.allocation in ("pub", "all")]
    subs = [m.name for m in machines if m.allocation in ("sub", "all")][::-1]
    return (
        [pubs[i % len(pubs)] for i in range(publishers)],
        [subs[j % len(subs)] for j in range(subscribers)],
    )
