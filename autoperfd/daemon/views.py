"""Knows how the daemon's condition is shown to a person and to a script; pure, any thread may call it.

The engine fills the frozen dataclasses below; `render_*` make plain text of them, `to_data` plain JSON.
Every string that reaches the text is escaped: nothing a machine or a file says can drive a terminal.
Times are Unix seconds (UTC), durations seconds; `now` is a field, so an equal view gives an equal text.
"""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from autoperfd.core.text import safe_lines

WIDTH = 100  # columns of the screen `status` is laid out for
BUSY = ("validating", "rebooting", "running", "backing-off")
SNAPSHOT_SCHEMA = 1

_MOST_DETAILED = 3  # experiments shown with all their lines
_MOST_BRIEF = 4  # further ones, a line each
_MOST_FAILURES = 3
_MOST_MACHINES = 6  # well machines named one by one
_MOST_CHANGES = 3


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
        return (f"{view.refuge.code}: {_stopped(view.refuge.sentence)} {view.refuge.todo}",)
    sentences = []
    for experiment in view.experiments:
        if experiment.state == "halted" and experiment.todo:
            reason = _stopped(experiment.halted_reason)
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


# Text


def render_status(view: StatusView) -> str:
    """The screen of `status`: what runs, how far, how long still, what failed, which machine is ill, what to do."""
    head = f"autoperfd {view.version} (pid {view.pid}), up {duration(view.now - view.since)}"
    if view.refuge:
        return _text(_in_refuge(view, view.refuge, head) + _to_do(attention(view)))
    lines = [f"{head}: {view.sentence or summary(view.experiments, view.hold)}"]
    if view.hold:
        lines.append(f"HELD: {view.hold}; nothing starts until `autoperfctl resume`")
    lines += _experiments(view)
    if view.failures:
        lines += ["", "Failed lately:"]
        lines += [_failure(failure) for failure in view.failures[:_MOST_FAILURES]]
    for warning in view.warnings:
        lines += ["", *_wrapped(f"Note: {warning}", "      ")]
    return _text(lines + _to_do(attention(view)))


def _in_refuge(view: StatusView, refuge: RefugeView, head: str) -> list[str]:
    lines = _wrapped(
        f"{head}: IN REFUGE since {clock(refuge.since)}: it does nothing, for it cannot use its memory.", ""
    )
    lines.append("Tests that run on machines go on and will be found again.")
    if refuge.known is None:
        return [*lines, "", "What it did last is not known."]
    known = [line for line in _experiments(view) if line] or ["no experiment."]
    return [*lines, "", f"The last that is known, of {clock(refuge.known)}:", *known]


def render_down(view: StatusView, written_at: float, now: float, hint: str) -> str:
    """The same screen from memory, when no daemon answers. `hint` says what to do."""
    ago = f"{duration(now - written_at)} ago ({clock(written_at)})"
    gone = f"autoperfd is not running; it was last heard of {ago}."
    known = [line for line in _experiments(view) if line] or ["no experiment."]
    lines = [gone, *_wrapped(hint, ""), "", "The last that is known:", *known]
    return _text(lines + _to_do(attention(view), nothing=""))


def render_list(view: ListView) -> str:
    """A line an experiment, and what lately came through the queue."""
    if not view.experiments and not view.intake:
        return "No experiments yet. Put one into the queue: autoperfctl submit FILE\n"
    rows = [("EXPERIMENT", "STATE", "DONE", "FAILED", "LEFT")]
    for e in view.experiments:
        left = duration(e.remaining_secs) if e.remaining_secs is not None else "-"
        rows.append((e.name, _state(e), _of(e), str(e.failed), left))
    lines = _table(rows) if view.experiments else []
    if view.intake:
        lines += ["", "Lately in the queue:"] if lines else ["Lately in the queue:"]
        for item in view.intake:
            what = item.text if item.text not in ("", item.outcome) else ", ".join(item.experiments)
            lines += _wrapped(f"{clock(item.at)}  {item.file}: {item.outcome}: {what}", "    ")
    return _text(lines)


def render_show(view: ShowView) -> str:
    """Everything about one experiment that a person asks for, newest last where it is a history."""
    e = view.experiment
    facts = (("folder", view.folder), *view.facts)
    wide = max(len(label) for label, _ in facts)
    lines = [*_experiment(e, view.now), ""]
    lines += [f"  {label.ljust(wide)}  {value}" for label, value in facts]
    lines += ["", "Machines:"]
    lines += _table([(f"  {m.name}", m.address, m.state, _seen(m, view.now), m.trouble) for m in e.machines])
    if view.failures:
        lines += ["", "Tests given up (why: `autoperfctl why TEST`; again: `autoperfctl retry TEST`):"]
        lines += [_failure(failure, limit=None) for failure in view.failures]
    if view.attempts:
        lines += ["", "Attempts:"]
        rows = [("  START", "TEST", "#", "STATUS", "REASON")]
        for a in view.attempts[::-1]:
            rows.append((f"  {a.start_timestamp}", a.test, str(a.attempt), a.end_status, _blamed(a)))
        lines += _table(rows)
    return _text(lines)


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
        return _read(StatusView, status), float(raw["written_at"])
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a snapshot of a status: {error!r}") from error


def _read_experiment(raw: Mapping[str, Any]) -> ExperimentView:
    values = dict(raw)
    values["machines"] = tuple(_read(MachineView, machine) for machine in values.get("machines", ()))
    values["changes"] = tuple(values.get("changes", ()))
    if values.get("current") is not None:
        values["current"] = _read(CurrentView, values["current"])
    return _read(ExperimentView, values)


_View = TypeVar("_View", StatusView, ExperimentView, MachineView, CurrentView, FailureView)


def _read(kind: type[_View], raw: Mapping[str, Any]) -> _View:
    known = {field.name for field in fields(kind)}
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


def _experiments(view: StatusView) -> list[str]:
    """The blocks of those that do or need something, then a line each of the others."""
    rank = {"halted": 0, **dict.fromkeys(BUSY, 1)}
    ordered = sorted(view.experiments, key=lambda e: rank.get(e.state, 2 if e.outcome == "waiting" else 3))
    detailed = [e for e in ordered if e.state in rank][:_MOST_DETAILED]
    rest = [e for e in ordered if e not in detailed]
    lines: list[str] = []
    for experiment in detailed:
        lines += ["", *_experiment(experiment, view.now)]
    if rest:
        lines.append("")
    for experiment in rest[:_MOST_BRIEF]:
        lines.append(_cut(_headline(experiment, view.now)))
    if len(rest) > _MOST_BRIEF:
        lines.append(f"... and {len(rest) - _MOST_BRIEF} more: autoperfctl list")
    return lines


def _experiment(e: ExperimentView, now: float) -> list[str]:
    lines = [_cut(_headline(e, now))]
    if e.current:
        c = e.current
        left = "" if c.remaining_secs is None else f", {duration(c.remaining_secs)} left"
        lines.append(f"  now       {c.test}")
        so_far = f"for {duration(c.running_for)}{left}"
        lines.append(f"            attempt {c.attempt} of {c.attempts_allowed}, {so_far}")
    if e.state == "halted":
        lines += _wrapped(f"  halted    by {e.halted_cause or 'the daemon'}: {e.halted_reason}", " " * 12)
    if e.failures_in_a_row:
        limit = f"; halts at {e.failures_allowed}" if e.failures_allowed and e.state != "halted" else ""
        lines.append(f"  in a row  {count(e.failures_in_a_row, 'test')} given up{limit}")
    if e.machines:
        lines += _machines(e.machines, now)
    for number, sentence in enumerate(e.changes[:_MOST_CHANGES]):
        lines += _wrapped(f"  {'' if number else 'changed':<10}{sentence}", " " * 12)
    if len(e.changes) > _MOST_CHANGES:
        lines.append(f"            and {len(e.changes) - _MOST_CHANGES} more: autoperfctl report {e.name}")
    return lines


def _headline(e: ExperimentView, now: float) -> str:
    parts = [f"{_of(e)} tests"]
    if e.tests_total:
        parts[0] += f" ({100 * e.tests_done // e.tests_total} %)"
    parts += [f"{n} {word}" for n, word in ((e.failed, "failed"), (e.skipped, "skipped")) if n]
    text = f"{e.name}: {_state(e)}, {', '.join(parts)}"
    if e.remaining_secs is not None and e.state in BUSY:
        text += f"; {duration(e.remaining_secs)} left, until {clock(now + e.remaining_secs)}"
    return f"{text}; {e.sentence}" if e.sentence else text


def _machines(machines: Sequence[MachineView], now: float) -> list[str]:
    well = [m for m in machines if m.state == "ok" and not m.trouble]
    ill = [m for m in machines if m not in well]
    parts = []
    if well:
        few = len(well) <= _MOST_MACHINES
        parts.append(f"{', '.join(m.name for m in well) if few else count(len(well), 'machine')} ok")
    parts += [f"{m.name} ({m.address}) {m.state}{_because(m, now)}" for m in ill[:_MOST_MACHINES]]
    if len(ill) > _MOST_MACHINES:
        parts.append(f"{len(ill) - _MOST_MACHINES} more not well: autoperfctl list")
    lines = _wrapped(f"  machines  {parts[0]}", " " * 12)
    for part in parts[1:]:
        lines += _wrapped(f"            {part}", " " * 12)
    return lines


def _because(machine: MachineView, now: float) -> str:
    seen = _seen(machine, now)
    text = f", {seen}" if seen and machine.state != "ok" else ""
    return f"{text}: {machine.trouble}" if machine.trouble else text


def _seen(machine: MachineView, now: float) -> str:
    return "" if machine.last_seen is None else f"seen {duration(now - machine.last_seen)} ago"


def _failure(failure: FailureView, limit: int | None = WIDTH) -> str:
    text = f"  {failure.test}: {failure.end_status}, {failure.reason or 'no reason known'}"
    return text if limit is None else _cut(text, limit)


def _blamed(attempt: AttemptView) -> str:
    who = attempt.machine or attempt.blame
    return f"{attempt.reason} ({who})" if attempt.reason and who else attempt.reason


def _to_do(sentences: Sequence[str], nothing: str = "Nothing to do.") -> list[str]:
    if not sentences:
        return ["", nothing] if nothing else []
    lines = ["", "To do:"]
    for sentence in sentences:
        lines += _wrapped(f"! {sentence}", "  ")
    return lines


def _state(e: ExperimentView) -> str:
    return e.outcome or e.state if e.state == "idle" else e.state


def _short(e: ExperimentView) -> str:
    return f"{e.state} {e.name} ({_of(e)})"


def _of(e: ExperimentView) -> str:
    return f"{e.tests_done} of {e.tests_total}" if e.tests_total is not None else f"{e.tests_done}"


def count(n: int, word: str) -> str:
    """A number and what it counts, in the plural where need be."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _stopped(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def _cut(line: str, limit: int = WIDTH) -> str:
    line = escaped(line)
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def _wrapped(line: str, indent: str) -> list[str]:
    return textwrap.wrap(
        escaped(line),
        WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    ) or [""]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    shown = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in shown)
    return ["  ".join(cells).rstrip() for cells in padded]


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{escaped(line)}\n" for line in lines)
