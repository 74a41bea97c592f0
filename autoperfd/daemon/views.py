"""Knows how the daemon's condition is shown to a person and to a script; pure, any thread may call it.

The engine fills the frozen dataclasses below; screen.py makes plain text of them, `to_data` plain JSON.
Times are Unix seconds (UTC), durations seconds; `now` is a field, so an equal view gives an equal text.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from autoperfd.core.text import safe_lines

WIDTH = 100  # columns of the screen `status` is laid out for
BUSY = ("validating", "rebooting", "running", "backing-off")
SNAPSHOT_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class MachineView:
    """One machine as last seen. `state`: "ok", "away", "rebooting", "taken" or "unknown"."""

    name: str
    address: str
    state: str = "unknown"
    last_seen: float | None = None
    trouble: str = ""  # one sentence; "" when there is none


@dataclass(frozen=True, slots=True)
class CurrentView:
    """The attempt that is open now."""

    test: str
    attempt: int
    attempts_allowed: int
    running_for: float
    remaining_secs: float | None = None  # until its participants should be done; None: not known


@dataclass(frozen=True, slots=True)
class ReasonView:
    """Why attempts failed: the same code and blame. `reason` and `test`: of the latest of them."""

    code: str
    blame: str
    attempts: int
    reason: str
    test: str


@dataclass(frozen=True, slots=True)
class ToldView:
    """Messages to people: how many were delivered and wait, and the latest of the former ("" and None for none)."""

    delivered: int = 0
    waiting: int = 0
    at: float | None = None
    kind: str = ""
    experiment: str = ""


@dataclass(frozen=True, slots=True)
class ExperimentView:
    """One experiment. `tests_done` counts tests with a final outcome: succeeded + failed + skipped."""

    name: str
    state: str  # of design §4
    outcome: str = ""  # of idle: "waiting", "finished" or "cancelled"
    sentence: str = ""  # what it does or waits for, e.g. "waits for p1, used by PCG #1"
    tests_done: int = 0
    tests_total: int | None = None
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    current: CurrentView | None = None
    remaining_secs: float | None = None  # of the whole experiment, estimated
    halted_cause: str = ""  # "machine", "failures", "operator", "disk"
    halted_reason: str = ""
    todo: str = ""  # what a person has to do while it is halted; "" when it goes on by itself
    failures_in_a_row: int = 0
    failures_allowed: int = 0
    machines: tuple[MachineView, ...] = ()
    remaining_low_secs: float | None = None  # as most tests go …
    remaining_high_secs: float | None = None  # … and with as many retries, reboots and outages as so far; None: unknown
    tests_per_hour: float | None = None  # lately
    ends: str = ""  # of its latest attempts, newest last, a letter each: see gist.letter
    reasons: tuple[ReasonView, ...] = ()  # of attempts that failed lately, the most frequent first
    wanted_bytes: int | None = None  # that the results of the rest should take
    changes: tuple[str, ...] = ()  # what was not the same on its machines in all attempts, newest first, as sentences


@dataclass(frozen=True, slots=True)
class FailureView:
    """A test that was given up, or an attempt that failed."""

    experiment: str
    test: str
    end_status: str
    reason: str
    attempt: int = 0
    at: float | None = None


@dataclass(frozen=True, slots=True)
class RefugeView:
    """Why the daemon does nothing: its memory cannot be used. `known`: of when the rest of the status is."""

    since: float
    code: str
    sentence: str
    todo: str
    known: float | None = None


@dataclass(frozen=True, slots=True)
class StatusView:
    """All that `status` says. `failures`: newest first. `attention`: what else asks for a person, in sentences.

    `warnings`: what is good to know, in sentences; nobody has to do anything.
    """

    now: float
    version: str
    pid: int
    since: float
    hold: str = ""  # why nothing starts, e.g. "held by root since 12:00"; "" when there is no hold
    sentence: str = ""
    experiments: tuple[ExperimentView, ...] = ()
    failures: tuple[FailureView, ...] = ()
    attention: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refuge: RefugeView | None = None
    told: ToldView = field(default_factory=ToldView)
    free_bytes: int | None = None  # on the disk of the results


@dataclass(frozen=True, slots=True)
class IntakeView:
    """What became of one file of the queue. `outcome`: "accepted" or "rejected"; `text`: what or why."""

    file: str  # its name in the queue
    outcome: str
    text: str
    at: float
    experiments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ListView:
    """All experiments in order of arrival and what lately came through the queue, newest first."""

    now: float
    experiments: tuple[ExperimentView, ...]
    intake: tuple[IntakeView, ...] = ()


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One row of the ESS. Timestamps as there (UTC ISO 8601), "" while it runs."""

    test: str
    attempt: int
    end_status: str
    start_timestamp: str
    end_timestamp: str = ""
    blame: str = ""
    machine: str = ""
    reason: str = ""
    archive: str = ""


@dataclass(frozen=True, slots=True)
class ShowView:
    """One experiment in full. `attempts` and `failures`: newest first, as many as the engine gives."""

    now: float
    experiment: ExperimentView
    folder: str
    facts: tuple[tuple[str, str], ...] = ()  # (label, value): tool, seed, order, policy, accepted by …
    failures: tuple[FailureView, ...] = ()
    attempts: tuple[AttemptView, ...] = ()


# What a person has to do


def attention(view: StatusView) -> tuple[str, ...]:
    """The sentences that ask for a person: halted experiments first, then `view.attention`. () = nothing.

    In refuge there is one only: nothing else can be done.
    """
    if view.refuge:
        return (f"{view.refuge.code}: {stopped(view.refuge.sentence)} {view.refuge.todo}",)
    sentences = []
    for experiment in view.experiments:
        if experiment.state == "halted" and experiment.todo:
            reason = stopped(experiment.halted_reason)
            sentences.append(f"{experiment.name} is halted: {reason} {experiment.todo}")
    return (*sentences, *view.attention)


def status_exit(view: StatusView) -> int:
    """Exit status of `autoperfctl status`: 1 when a person is needed, else 0."""
    return 1 if attention(view) else 0


def summary(experiments: Sequence[ExperimentView], hold: str = "") -> str:
    """One short sentence for `systemctl status` and the head of `status`."""
    if not experiments:
        return "held: nothing starts" if hold else "waiting for an experiment in the queue"
    parts = [_short(e) for e in experiments if e.state in BUSY]
    halted = sum(e.state == "halted" for e in experiments)
    waiting = sum(e.state == "idle" and e.outcome == "waiting" for e in experiments)
    if halted:
        parts.append(f"{halted} halted")
    if waiting:
        parts.append(f"{waiting} waiting")
    if hold:
        parts.append("held by an operator")
    return "; ".join(parts) or "all experiments are finished"


# JSON


def to_data(view: StatusView | ListView | ShowView) -> dict[str, Any]:
    """The view as plain JSON values; a StatusView with `attention` complete and an `eta` an experiment."""
    data = asdict(view)
    if isinstance(view, StatusView):
        data["attention"] = list(attention(view))
        for experiment in data["experiments"]:
            left = experiment["remaining_secs"]
            experiment["eta"] = None if left is None else iso(view.now + left)
    return data


def snapshot(view: StatusView) -> bytes:
    """The content of `status.json`, which `autoperfctl status` reads when no daemon answers."""
    data = {"schema": SNAPSHOT_SCHEMA, "written_at": view.now, "status": asdict(view)}
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def read_snapshot(data: bytes) -> tuple[StatusView, float]:
    """(view, written_at) of what `snapshot` wrote; fields this version does not know are left out.

    Raises ValueError when it is not such a snapshot.
    """
    try:
        raw = json.loads(data)
        if raw["schema"] != SNAPSHOT_SCHEMA:
            raise ValueError(f"a snapshot of schema {raw['schema']!r}; this version reads {SNAPSHOT_SCHEMA}")
        status = dict(raw["status"])
        status["experiments"] = tuple(_read_experiment(e) for e in status.get("experiments", ()))
        status["failures"] = tuple(_read(FailureView, f) for f in status.get("failures", ()))
        status["attention"] = tuple(status.get("attention", ()))
        status["warnings"] = tuple(status.get("warnings", ()))
        status["refuge"] = None  # of a daemon that could write it
        status["told"] = _read(ToldView, status.get("told", {}))
        return _read(StatusView, status), float(raw["written_at"])
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a snapshot of a status: {error!r}") from error


def _read_experiment(raw: Mapping[str, Any]) -> ExperimentView:
    values = dict(raw)
    values["machines"] = tuple(_read(MachineView, machine) for machine in values.get("machines", ()))
    values["changes"] = tuple(values.get("changes", ()))
    values["reasons"] = tuple(_read(ReasonView, reason) for reason in values.get("reasons", ()))
    if values.get("current") is not None:
        values["current"] = _read(CurrentView, values["current"])
    return _read(ExperimentView, values)


_View = TypeVar("_View", StatusView, ExperimentView, MachineView, CurrentView, FailureView, ReasonView, ToldView)


def _read(kind: type[_View], raw: Mapping[str, Any]) -> _View:
    known = {each.name for each in fields(kind)}
    return kind(**{key: value for key, value in raw.items() if key in known})


# Words


def escaped(text: str) -> str:
    """`text` as one line without anything a terminal would act on."""
    return text if text.isprintable() else safe_lines(text, len(text)).replace("\n", " ")


def duration(secs: float) -> str:
    """Seconds in words, two units at most: "14 s", "2 min", "5 h 12 min", "3 d 4 h"."""
    whole = max(0, round(secs))
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def clock(at: float) -> str:
    """A time for a person, to the minute: "2026-11-24 03:12 UTC"."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def iso(at: float) -> str:
    """A time for a script: "2026-11-24T03:12:00Z"."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def rank(state: str, outcome: str) -> int:
    """Where an experiment stands among others that are shown: those that need or do something first."""
    if state == "halted":
        return 0
    return 1 if state in BUSY else 2 if outcome == "waiting" else 3


def state(e: ExperimentView) -> str:
    """The one word for where it is."""
    return e.outcome or e.state if e.state == "idle" else e.state


def _short(e: ExperimentView) -> str:
    return f"{e.state} {e.name} ({of(e)})"


def of(e: ExperimentView) -> str:
    """How many tests of how many."""
    return f"{e.tests_done} of {e.tests_total}" if e.tests_total is not None else f"{e.tests_done}"


def count(n: int, word: str) -> str:
    """A number and what it counts, in the plural where need be."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def stopped(sentence: str) -> str:
    """The sentence with a full stop."""
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
