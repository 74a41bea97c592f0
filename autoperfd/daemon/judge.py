"""Makes an attempt's result out of what it left: the tool's verdict, boot ids, disturbances, a look at the machines.

Knows which of these wins (rebooted, machine-lost, invalid, then the tool's own verdict) and what is kept as evidence.
Reads the fetched files; asks nobody itself. Any worker thread.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autoperfd.core import messages as m
from autoperfd.core.guards import Guards, violations
from autoperfd.core.plan import Participant, ParticipantRecord, Plan, Tool, Verdict
from autoperfd.core.policy import KEPT, Examined, blamed, result_of
from autoperfd.core.text import safe
from autoperfd.errors import MachineError
from autoperfd.remote.values import Examination, Outcome

LAST_LINES, LAST_BYTES = 20, 2048  # of what a participant printed
MOST_TOLD = 24  # participants whose last lines are kept, those that ended badly first
ABOVE_INVALID = ("rebooted", "machine-lost")
Look = Callable[[], Mapping[str, Examination]]


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, and the evidence it stands on, fit for JSON."""

    verdict: m.AttemptResult  # its own `evidence` is empty
    evidence: dict[str, Any]

    @property
    def result(self) -> m.AttemptResult:
        """The verdict with its evidence."""
        return replace(self.verdict, evidence=json.dumps(self.evidence))


def judge(
    tool: Tool,
    plan: Plan,
    outcome: Outcome,
    folder: Path,
    guards: Guards,
    boots: Mapping[str, str],
    look: Look,
    was_away: Mapping[str, str] | None = None,
) -> Judged:
    """Judge what the attempt left in `folder`.

    `boots`: machine -> boot id when it was validated, for machines whose own record of it is lost. `look`: examines
    the machines, asked only when it failed. `was_away`: machine -> code of outages while it was open, besides those
    that `outcome` tells of.
    """
    away = {**outcome.was_away, **(was_away or {})}
    outcome = replace(outcome, boot_before={**_of(boots, plan), **outcome.boot_before})
    verdict = _lost(outcome) or tool.verdict(plan, folder, outcome.records)
    evidence: dict[str, Any] = {
        "records": [asdict(record) for record in outcome.records],
        "boot_before": dict(outcome.boot_before),
        "boot_after": dict(outcome.boot_after),
        "stagger_secs": outcome.stagger_secs,
        "clock": dict(outcome.clock),
        "found": outcome.how_found,
        "problems": dict(outcome.problems),
        "was_away": away,
        "watch": {
            "before": {name: asdict(watch) for name, watch in outcome.watch_before.items()},
            "after": {name: asdict(watch) for name, watch in outcome.watch_after.items()},
        },
    }
    result = result_of(verdict, outcome.boot_before, outcome.boot_after, "{}")
    disturbed = violations(outcome.watch_before, outcome.watch_after, guards)
    if disturbed and result.end_status not in ABOVE_INVALID:
        evidence["undisturbed"] = {"end_status": result.end_status, "code": result.code, "reason": result.reason}
        first = disturbed[0]
        result = m.AttemptResult(
            end_status="invalid",
            blame=first.blame,
            machine=first.machine,
            code=first.code,
            reason="; ".join(violation.reason for violation in disturbed),
        )
    if result.end_status not in KEPT:
        examined = look()
        evidence["examined"] = {name: asdict(examination) for name, examination in examined.items()}
        evidence["last_lines"] = last_lines(plan.participants, outcome.records, folder)
        result = blamed(result, {name: _examined(name, outcome, seen) for name, seen in examined.items()}, away)
    return Judged(result, evidence)


def never_began(status: str, error: MachineError, look: Look) -> Judged:
    """The result of an attempt that ended by an error about one machine, before there was anything to judge."""
    result = m.AttemptResult(
        end_status=status,
        blame="machine" if status == "wont-start" else "network",
        machine=error.machine,
        code=error.code,
        reason=error.sentence(),
    )
    examined = {name: asdict(examination) for name, examination in look().items()}
    return Judged(result, {"examined": examined, "errors": standing(error)})


def standing(error: MachineError) -> dict[str, dict[str, Any]]:
    """How each machine stood that was not fit, as far as an error and its `others` tell: machine -> what is known."""
    return {each.machine: _stood(each) for each in (error, *error.others)}


def _stood(error: MachineError) -> dict[str, Any]:
    pinged = {"PING": False, "PING_LOST": False, "DNS": None}.get(error.code, True) if error.pings else None
    return {
        "code": error.code,
        "reason": error.sentence(),
        "pinged": pinged,
        "pings": error.pings,
        "ssh_checks": error.ssh_checks,
    }


def last_lines(
    participants: Sequence[Participant], records: Sequence[ParticipantRecord], folder: Path
) -> dict[str, list[str]]:
    """Participant -> the last lines it printed, standard output first, made safe."""
    ended = {record.name: record for record in records}

    def well(participant: Participant) -> bool:
        record = ended.get(participant.name)
        return record is not None and record.exit == 0 and record.ended_by == "self"

    told = sorted(participants, key=well)[:MOST_TOLD]
    return {p.name: [*_tail(folder / p.stdout, "out: "), *_tail(folder / p.stderr, "err: ")] for p in told}


def _tail(path: Path, mark: str) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - LAST_BYTES // 2)
            file.seek(start)
            data = file.read(LAST_BYTES // 2)
    except OSError:
        return []  # it wrote none, or none was fetched
    lines = data.decode("utf-8", "replace").split("\n")
    return [mark + safe(line, LAST_BYTES) for line in lines if line.strip()][-LAST_LINES // 2 :]


def _examined(name: str, outcome: Outcome, seen: Examination) -> Examined:
    full = outcome.problems.get(name) == "REMOTE_DISK_FULL"
    return Examined(seen.pinged, seen.ssh, seen.boot_id, seen.hears, disk_full=full)


def _of(boots: Mapping[str, str], plan: Plan) -> dict[str, str]:
    return {name: boots[name] for name in plan.machines() if boots.get(name)}


def _lost(outcome: Outcome) -> Verdict | None:
    """A machine that came back without the attempt's records: rebooted, or its disk was emptied."""
    for machine, problem in outcome.problems.items():
        if problem in ("LAUNCHER_LOST", "RECORDS_LOST"):
            before, after = outcome.boot_before.get(machine), outcome.boot_after.get(machine)
            if before and after and before != after:
                return None  # the boot ids say it better
            reason = f"{machine} lost the records of the attempt ({problem})"
            return Verdict("machine-lost", code=problem, reason=reason, machine=machine)
    return None
