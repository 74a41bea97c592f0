"""What the engine's state looks like to a person: fills the views. Engine thread; reads memory, changes nothing."""

from __future__ import annotations

import json
import os

import autoperfd
from autoperfd.core.ess import timestamp
from autoperfd.core.lifecycle import BUSY
from autoperfd.core.plan import Machine
from autoperfd.core.policy import todo
from autoperfd.core.text import coded
from autoperfd.daemon import story, views
from autoperfd.daemon.engine import Engine, Entry

FORESEEN_SECS = 7 * 86_400.0


def status(engine: Engine) -> views.StatusView:
    """All that `autoperfctl status` says."""
    entries = list(engine.entries.values())
    failures = [failure for entry in reversed(entries) for failure in _failures(engine, entry, 3)]
    failures.sort(key=lambda failure: failure.at or 0.0, reverse=True)
    undelivered = [f"A {row.kind} message is not delivered yet: {row.why}" for row in engine.undelivered()]
    return views.StatusView(
        now=engine.clock.wall(),
        version=autoperfd.__version__,
        pid=os.getpid(),
        since=engine.since,
        hold=engine.hold,
        experiments=tuple(experiment(engine, entry) for entry in entries),
        failures=tuple(failures[:5]),
        attention=(*engine.attention, *undelivered, *_tight(engine), *filter(None, (engine.trouble(),))),
        warnings=tuple(engine.warnings()),
    )


def listing(engine: Engine) -> views.ListView:
    """All that `autoperfctl list` says."""
    return views.ListView(
        now=engine.clock.wall(),
        experiments=tuple(experiment(engine, entry) for entry in engine.entries.values()),
        intake=tuple(
            views.IntakeView(i.file, "accepted" if i.accepted else "rejected", i.sentence, i.wall, i.experiments)
            for i in engine.intake
        ),
    )


def show(engine: Engine, entry: Entry) -> views.ShowView:
    """All that `autoperfctl show` says."""
    life, policy = entry.life, entry.life.experiment.policy
    seed = () if entry.row.seed is None else (("seed", str(entry.row.seed)),)
    facts = (
        ("tool", life.experiment.tool),
        ("combinations", life.experiment.generation),
        ("order", life.experiment.order),
        *seed,
        ("retries", str(policy.retries)),
        ("reboot", policy.reboot),
        ("network", policy.network),
        ("accepted", timestamp(entry.row.accepted)),
        ("submitted by", f"uid {entry.row.owner}"),
    )
    attempts = tuple(
        views.AttemptView(
            test=row.test,
            attempt=row.number,
            end_status=row.status,
            start_timestamp=timestamp(row.started),
            end_timestamp=timestamp(row.ended),
            blame=row.blame,
            machine=row.machine,
            reason=coded(row.code, row.reason),
            archive=row.archive,
        )
        for row in engine.store.latest(life.id, 20)
    )
    return views.ShowView(
        now=engine.clock.wall(),
        experiment=experiment(engine, entry),
        folder=str(engine.results / entry.row.folder),
        facts=facts,
        failures=tuple(_failures(engine, entry, 10)),
        attempts=attempts,
    )


def why(engine: Engine, entry: Entry, test: str, index: int) -> story.Story:
    """All that `autoperfctl why` says of a test."""
    life, memory = entry.life, engine.store
    decided = memory.test_status(life.id, test)
    queue = [requeued.test for requeued in life.requeued]
    place = queue.index(test) if test in queue else None
    queued = None if place is None else story.Queued(place, life.requeued[place].number, life.requeued[place].charged)
    return story.Story(
        experiment=entry.row.name,
        test=test,
        now=engine.clock.wall(),
        lines=tuple(
            story.Line(line.wall, line.event, line.before, line.after, line.note)
            for line in memory.history(life.id, test)
        ),
        tries=tuple(
            story.Try(**{name: getattr(row, name) for name in story.Try.__slots__})
            for row in memory.attempts(life.id, test)
        ),
        verdict=decided[0] if decided else "",
        life=json.loads(life.to_json()),
        retries=life.experiment.policy.retries,
        index=index,
        queued=queued,
        hold=engine.hold,
        changes=tuple(entry.changes),
    )


def experiment(engine: Engine, entry: Entry) -> views.ExperimentView:
    """One experiment."""
    life, now = entry.life, engine.clock.wall()
    allowed = life.experiment.policy.retries + 1
    current = None
    if life.uid and life.plan is not None:
        running_for = max(0.0, now - life.opened)
        left = max(0.0, life.plan.duration_secs - running_for)
        current = views.CurrentView(life.test, life.number, max(allowed, life.number), running_for, left)
    decided = life.succeeded + life.failed + life.skipped
    remaining = life.remaining()
    return views.ExperimentView(
        name=entry.row.name,
        state=life.state,
        outcome=life.outcome if life.state == "idle" else "",
        sentence=_sentence(engine, entry),
        tests_done=decided,
        tests_total=decided + remaining,
        succeeded=life.succeeded,
        failed=life.failed,
        skipped=life.skipped,
        current=current,
        remaining_secs=_remaining_secs(entry, remaining, now),
        halted_cause=life.cause,
        halted_reason=coded(life.code, life.reason) if life.state == "halted" else "",
        todo=todo(life.cause, life.probing, entry.row.name, life.code) if life.state == "halted" else "",
        failures_in_a_row=life.failures_in_a_row,
        failures_allowed=life.experiment.policy.halt_after_consecutive_failures,
        machines=tuple(_machine(entry, machine) for machine in life.experiment.machines),
        changes=tuple(f"{each.sentence()}, seen {views.clock(each.wall)}" for each in reversed(entry.changes)),
    )


def _sentence(engine: Engine, entry: Entry) -> str:
    life = entry.life
    if life.rung:
        what = {"soft": "reboots", "forced": "reboots by force", "power": "cycles the power of"}[life.rung]
        return f"{what} {', '.join(life.climbing)}, which did not get well by waiting: {coded(life.code, life.reason)}"
    if life.state == "backing-off":
        return f"waits before it tries the machines again: {coded(life.code, life.reason)}"
    if life.state == "idle" and life.outcome == "waiting":
        other = engine.blocker(entry)
        return f"waits for {other.row.name}, which uses its machines or network" if other else ""
    return ""


def _tight(engine: Engine) -> list[str]:
    """Sentences about experiments whose results of the next days will not fit on the controller's disk."""
    found, free = [], engine.space().free
    for entry in engine.entries.values():
        life = entry.life
        measured = life.succeeded + life.failed
        if life.state in BUSY and measured and sum(entry.spans) > 0.0:
            tests = min(life.remaining(), int(FORESEEN_SECS * len(entry.spans) / sum(entry.spans)))
            needed = tests * life.kept_bytes // measured
            if needed > free:
                found.append(
                    f"The next results of {entry.row.name} need about {_size(needed)} of disk, {_size(free)} are free: "
                    "make room in time, it halts before the disk is full"
                )
    return found


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GB" if count >= 1 << 30 else f"{max(1, count >> 20)} MB"


def _remaining_secs(entry: Entry, remaining: int, now: float) -> float | None:
    life = entry.life
    if not remaining or life.state not in BUSY:
        return None
    if entry.spans:
        return remaining * sum(entry.spans) / len(entry.spans)
    plan_secs = (
        life.plan.duration_secs if life.plan else life.sweep.at(min(life.cursor, life.sweep.count - 1))["duration_secs"]
    )
    return remaining * (plan_secs + 5.0)


def _machine(entry: Entry, machine: Machine) -> views.MachineView:
    trouble = entry.trouble.get(machine.name, "")
    seen = entry.seen.get(machine.name)
    state = "away" if trouble else ("ok" if seen else "unknown")
    if entry.life.state == "rebooting":
        state = "rebooting"
    return views.MachineView(machine.name, f"{machine.ip}:{machine.port}", state, seen, trouble)


def _failures(engine: Engine, entry: Entry, limit: int) -> list[views.FailureView]:
    return [
        views.FailureView(entry.row.name, row.test, row.status, coded(row.code, row.reason), row.number, row.ended)
        for row in engine.store.failures(entry.life.id, limit)
    ]
