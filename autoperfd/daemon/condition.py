"""What the engine's state looks like to a person: fills the views. Engine thread; reads memory, changes nothing."""

from __future__ import annotations

import json
import os
from typing import Any

import autoperfd
from autoperfd.core.ess import timestamp
from autoperfd.core.lifecycle import BUSY
from autoperfd.core.plan import Machine
from autoperfd.core.policy import KEPT, todo
from autoperfd.core.text import coded
from autoperfd.daemon import screen, story, views
from autoperfd.daemon.engine import Engine, Entry
from autoperfd.daemon.gist import Failure

FORESEEN_SECS = 7 * 86_400.0
MOST_COUNTED = 100  # experiments, the latest


def status(engine: Engine) -> views.StatusView:
    """All that `autoperfctl status` says."""
    entries = list(engine.entries.values())
    failures = [failure for entry in reversed(entries) for failure in _failures(engine, entry, 3)]
    failures.sort(key=lambda failure: failure.at or 0.0, reverse=True)
    free = engine.space().free
    undelivered = [f"A {row.kind} message is not delivered yet: {row.why}" for row in engine.undelivered()]
    return views.StatusView(
        now=engine.clock.wall(),
        version=autoperfd.__version__,
        pid=os.getpid(),
        since=engine.since,
        hold=engine.hold,
        experiments=tuple(experiment(engine, entry) for entry in entries),
        failures=tuple(failures[:5]),
        attention=(*engine.attention, *undelivered, *_tight(engine, free), *filter(None, (engine.trouble(),))),
        warnings=tuple(engine.warnings()),
        told=_told(engine),
        free_bytes=free,
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


def numbers(engine: Engine) -> dict[str, Any]:
    """What a monitor counts besides the status: attempts by how they ended, and when one succeeded last."""
    return {
        "experiments": [
            {
                "name": entry.row.name,
                "attempts": engine.store.counted(entry.life.id),
                "latest_success": engine.store.latest_success(entry.life.id),
            }
            for entry in list(engine.entries.values())[-MOST_COUNTED:]
        ]
    }


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
        changes=tuple(entry.gist.changes),
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
        **_foreseen(entry, remaining),
        halted_cause=life.cause,
        halted_reason=coded(life.code, life.reason) if life.state == "halted" else "",
        todo=todo(life.cause, life.probing, entry.row.name, life.code) if life.state == "halted" else "",
        failures_in_a_row=life.failures_in_a_row,
        failures_allowed=life.experiment.policy.halt_after_consecutive_failures,
        machines=tuple(_machine(entry, machine) for machine in life.experiment.machines),
        changes=tuple(f"{each.sentence()}, seen {views.clock(each.wall)}" for each in reversed(entry.gist.changes)),
        ends="".join(entry.gist.ends),
        reasons=_reasons(entry),
        wanted_bytes=_wanted(entry, remaining),
    )


def _sentence(engine: Engine, entry: Entry) -> str:
    life = entry.life
    if life.rung:
        what = {"soft": "reboots", "forced": "reboots by force", "power": "cycles the power of"}[life.rung]
        return f"{what} {', '.join(life.climbing)}, which did not get well by waiting: {coded(life.code, life.reason)}"
    if life.state == "backing-off":
        left = entry.gist.looks_at - engine.clock.wall()
        when = f", which it does in {views.duration(left)}" if left > 0 else ""
        return f"waits before it tries the machines again{when}: {coded(life.code, life.reason)}"
    if life.state == "idle" and life.outcome == "waiting":
        other = engine.blocker(entry)
        return f"waits for {other.row.name}, which uses its machines or network" if other else ""
    return ""


def _tight(engine: Engine, free: int) -> list[str]:
    """Sentences about experiments whose results of the next days will not fit on the controller's disk."""
    found = []
    for entry in engine.entries.values():
        life = entry.life
        measured = life.succeeded + life.failed
        per_hour = entry.gist.pace.per_hour()
        if life.state in BUSY and measured and per_hour:
            tests = min(life.remaining(), int(FORESEEN_SECS / 3600 * per_hour))
            needed = tests * life.kept_bytes // measured
            if needed > free:
                found.append(
                    f"The next results of {entry.row.name} need about {screen.size(needed)} of disk, "
                    f"{screen.size(free)} are free: make room in time, it halts before the disk is full"
                )
    return found


def _foreseen(entry: Entry, remaining: int) -> dict[str, float | None]:
    """When the experiment should be over, and how fast it goes; nothing of one that is not at work."""
    life, gist = entry.life, entry.gist
    if not remaining or life.state not in BUSY:
        return {}
    ahead = life.remaining() - len(life.requeued)
    secs = gist.rest(life.sweep, min(life.cursor, life.sweep.count - 1) if ahead > 0 else 0)
    foreseen = gist.pace.foresee(remaining, secs)
    return {
        "remaining_secs": foreseen.middle,
        "remaining_low_secs": foreseen.low,
        "remaining_high_secs": foreseen.high,
        "tests_per_hour": gist.pace.per_hour(),
    }


def _reasons(entry: Entry) -> tuple[views.ReasonView, ...]:
    """Why attempts failed, the most frequent reason first."""
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in entry.gist.failures:
        if failure.status not in (*KEPT, "skipped"):
            groups.setdefault((failure.code or failure.status, failure.blame), []).append(failure)
    found = [
        views.ReasonView(code, blame, len(failures), failures[-1].reason, failures[-1].test)
        for (code, blame), failures in groups.items()
    ]
    return tuple(sorted(found, key=lambda reason: -reason.attempts))


def _wanted(entry: Entry, remaining: int) -> int | None:
    """Bytes that the results of the rest should take; None: not known yet."""
    life = entry.life
    kept = life.succeeded + life.failed
    return remaining * life.kept_bytes // kept if kept and life.state in BUSY else None


def _told(engine: Engine) -> views.ToldView:
    count, latest = engine.store.told()
    waiting = engine.waiting()
    if latest is None:
        return views.ToldView(count, waiting)
    at, kind, facts = latest
    return views.ToldView(count, waiting, at, kind, str(json.loads(facts).get("experiment", "")))


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
