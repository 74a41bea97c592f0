"""What happened (events), what is wanted (orders) and what must be written (changes), as values.

Events enter the life of an experiment, orders leave it for the workers, changes leave it for the memory.
Pure data, used from every thread. Times called `wall` are Unix seconds UTC; `now` is a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from autoperfd.core.plan import Blame, Machine, Plan

# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened to one experiment. `row` is the event's name in the table of lifecycle.py."""

    row: ClassVar[str] = ""
    wall: float = 0.0
    now: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled(Event):
    """The scheduler looked at a waiting experiment; `free`: its machines and network are free now."""

    row: ClassVar[str] = "scheduled"
    free: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated(Event):
    """Every machine answered and can do its part. `uid` and `domain` are for the attempt that may open now."""

    row: ClassVar[str] = "validated"
    boot_ids: Mapping[str, str]
    pings: int = 1
    ssh_checks: int = 1
    probes: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    uid: str = ""
    domain: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebooted(Event):
    """Every machine has a boot id that differs from the one stored before."""

    row: ClassVar[str] = "rebooted"
    boot_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Impossible(Event):
    """Every test would fail on a machine until a person changes something."""

    row: ClassVar[str] = "impossible"
    machine: str
    reason: str
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable(Event):
    """A machine is not fit for work now; it may be again by itself, or after a restart.

    `ill`: code of every machine that was not fit, `machine` (the gravest) among them. `evidence`: JSON, how each
    machine stood.
    """

    row: ClassVar[str] = "unreachable"
    machine: str
    reason: str
    code: str = ""
    pings: int = 0
    ssh_checks: int = 0
    ill: Mapping[str, str] = field(default_factory=dict)
    evidence: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """Every launcher of the open attempt confirmed its start."""

    row: ClassVar[str] = "started"


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfStarted(Event):
    """After a restart only some machines knew the open attempt; all of it was ended."""

    row: ClassVar[str] = "half_started"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptResult:
    """How an attempt ended: the verdict, whose fault, and where its archive lies."""

    end_status: str
    blame: Blame = ""
    machine: str = ""
    code: str = ""
    reason: str = ""
    would_fail_every_test: bool = False
    figures: Mapping[str, float | int | str] = field(default_factory=dict)
    archive: str = ""  # path relative to the experiment's results folder
    sha256: str = ""
    size: int = 0
    evidence: str = "{}"  # JSON: participants' records, boot ids, stagger


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded(Event):
    """The open attempt proved its result; `no-summary` counts here: complete data, no retry."""

    row: ClassVar[str] = "succeeded"
    result: AttemptResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The open attempt ended without a proven result."""

    row: ClassVar[str] = "failed"
    result: AttemptResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Due(Event):
    """The back-off is over."""

    row: ClassVar[str] = "due"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycled(Event):
    """Every machine whose power was cycled fell silent and came back with another boot id."""

    row: ClassVar[str] = "cycled"
    boot_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotCycled(Event):
    """A rung of the ladder had no effect: `machine` was not restarted by it."""

    row: ClassVar[str] = "not_cycled"
    machine: str
    reason: str
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt(Event):
    """Somebody wants the experiment to stop now."""

    row: ClassVar[str] = "halt"
    who: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume(Event):
    """Somebody wants a halted experiment to go on."""

    row: ClassVar[str] = "resume"
    who: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Event):
    """While halted for a machine's fault, every machine answered the slow probe."""

    row: ClassVar[str] = "answered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept(Event):
    """Nothing of this experiment is left running on its machines."""

    row: ClassVar[str] = "swept"


@dataclass(frozen=True, slots=True, kw_only=True)
class LowDisk(Event):
    """The controller's disk cannot take another attempt, or the result of the open one, which stays open then."""

    row: ClassVar[str] = "low_disk"
    reason: str = ""
    code: str = "DISK_FULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Room(Event):
    """The controller's disk has room again."""

    row: ClassVar[str] = "room"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip(Event):
    """Somebody wants one test left out. `index` is its place in the sweep."""

    row: ClassVar[str] = "skip"
    test: str
    index: int
    who: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry(Event):
    """Somebody wants tests tried again, with a fresh budget. (name, last attempt number used, verdict) each."""

    row: ClassVar[str] = "retry"
    tests: tuple[tuple[str, int, str], ...]
    who: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Event):
    """Somebody wants the experiment to end for good."""

    row: ClassVar[str] = "cancel"
    who: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redropped(Event):
    """The same experiment was submitted again: its policy may have changed, its tests have not."""

    row: ClassVar[str] = "redropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted(Event):
    """The daemon started and found this experiment in its memory. `crashed`: it had ended by an error of its own."""

    row: ClassVar[str] = "restarted"
    crashed: bool = False


EVENTS: tuple[type[Event], ...] = (
    Scheduled,
    Validated,
    Rebooted,
    Impossible,
    Unreachable,
    Started,
    HalfStarted,
    Succeeded,
    Failed,
    Due,
    Cycled,
    NotCycled,
    Halt,
    Resume,
    Answered,
    Swept,
    LowDisk,
    Room,
    Skip,
    Retry,
    Cancel,
    Redropped,
    Restarted,
)

# ---------------------------------------------------------------- orders: the work a state asks for


@dataclass(frozen=True, slots=True)
class Order:
    """Work for one experiment; its answer is one event that carries the same ticket."""

    machines: tuple[Machine, ...]


@dataclass(frozen=True, slots=True)
class Validate(Order):
    """Ping, SSH and one probe on every machine. Answers: Validated, Unreachable, Impossible."""

    wants_reboot: bool
    open_uid: str  # the attempt that may be running there; "" for none


@dataclass(frozen=True, slots=True)
class Reboot(Order):
    """Reboot every machine whose boot id is still the stored one. Answers: Rebooted, Unreachable, Impossible.

    `rung`: "" for a reboot that the policy asks for. "soft" (asked of systemd) and "forced" (without it) are rungs of
    the ladder for ill machines; whatever does not work there is NotCycled.
    """

    boot_ids: Mapping[str, str]
    rung: str = ""


@dataclass(frozen=True, slots=True)
class PowerCycle(Order):
    """Cut the power of these machines and give it back. Answers: Cycled, NotCycled.

    `boot_ids`: the latest known ones; a machine that is not in it counts as back when it was silent and answers.
    """

    boot_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RunAttempt(Order):
    """Find, start or go on with the attempt `uid`, fetch and judge it.

    Answers: Started (once, in between), then Succeeded, Failed, HalfStarted, Unreachable or Impossible.
    """

    uid: str
    number: int
    plan: Plan
    deadline_secs: float  # after the launchers' start
    confirmed: bool  # every launcher is known to have started: never start again
    opened: float  # wall: when the intent was written
    facts: Mapping[str, Mapping[str, str]]  # machine name -> what validation learned of it
    was_away: Mapping[str, str] = field(default_factory=dict)  # machine -> code, of outages since it was opened


@dataclass(frozen=True, slots=True)
class Wait(Order):
    """Nothing for `secs` seconds, then Due."""

    secs: float


@dataclass(frozen=True, slots=True)
class SlowProbe(Order):
    """Look every `secs` seconds whether all machines answer. Answer: Answered."""

    secs: float


@dataclass(frozen=True, slots=True)
class Sweep(Order):
    """End and remove whatever attempts of ours are left on the machines. Answer: Swept."""


# ---------------------------------------------------------------- changes: rows for the memory


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOpened:
    """The intent: written before anything acts on a machine."""

    uid: str
    test: str
    index: int
    number: int
    started: float  # wall
    pings: int
    ssh_checks: int
    plan: Plan
    facts: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptClosed:
    """How the open attempt ended."""

    uid: str
    test: str
    number: int
    ended: float  # wall
    result: AttemptResult
    settings: Mapping[str, int | bool] = field(default_factory=dict)  # of a test that was never opened


@dataclass(frozen=True, slots=True, kw_only=True)
class TestDecided:
    """A test needs no further attempt: its final status, or "" when it was put back."""

    test: str
    index: int
    status: str
    attempts: int
    wall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Requeued:
    """A test to be tried before the sweep goes on, with what it used up so far."""

    test: str
    number: int  # attempts made
    charged: int  # attempts charged to the test's budget
    first: bool = True  # before the others that wait
    refunded: bool = False  # an outage has given it back what it was charged, which happens once


@dataclass(frozen=True, slots=True, kw_only=True)
class Unqueued:
    """A requeued test was taken up or dropped."""

    test: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something people may be told: kind is halt, over, resume or finish. `incident` is one per halt."""

    kind: str
    facts: Mapping[str, str | int | float]


Change = AttemptOpened | AttemptClosed | TestDecided | Requeued | Unqueued | Notice
