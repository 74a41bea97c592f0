"""Decides whose fault a failed attempt is, how long to back off, and which verdict wins. Pure; any thread."""

from __future__ import annotations

from collections.abc import Mapping

from autoperfd.core.messages import AttemptResult
from autoperfd.core.plan import Blame, Verdict

BLAME: Mapping[str, Blame] = {
    "success": "",
    "rebooted": "machine",
    "machine-lost": "machine",
    "invalid": "machine",
    "wont-start": "machine",
    "crashed": "test",
    "timeout": "test",
    "no-match": "test",
    "early-exit": "test",
    "truncated": "test",
    "bad-data": "test",
    "no-data": "test",
    "no-summary": "",
    "interrupted": "controller",
    "skipped": "operator",
    "crashed-daemon": "controller",
}
"""Whose budget an end status spends: only `test` spends the test's retries."""

BLAMELESS_BUDGET = 5
"""Attempts of one test that may fail by the fault of machines, network or controller before halting."""

CANNOT_WRITE = "CANNOT_WRITE"
"""Code of an attempt whose result could not be written: the next one could not be either, so the experiment halts."""

KEPT = ("success", "no-summary")
"""End statuses whose data are complete: the test needs no further attempt."""


def backoff_secs(tries: int, first: float, cap: float, draw: float) -> float:
    """Seconds to wait before try number `tries` + 1: full jitter over an exponential, never below a tenth.

    `draw` is uniform in [0, 1).
    """
    span = min(cap, first * 2.0 ** min(tries, 30))
    return max(span * 0.1, span * draw)


def todo(cause: str, probing: bool, name: str) -> str:
    """What a person has to do about a halt; `probing`: the daemon looks by itself whether it is over."""
    shown = name if name.isalnum() else f"'{name}'"
    match cause:
        case "machine" if probing:
            return "See to the machine; it goes on by itself when all answer"
        case "machine":
            return f"Mend what the reason says, then: autoperfctl resume {shown}"
        case "failures":
            return f"Look at the reasons, mend them, then: autoperfctl resume {shown}"
        case "controller":
            return f"Mend the controller's disk, then: autoperfctl resume {shown}"
        case "operator":
            return f"When it may go on: autoperfctl resume {shown}"
        case "disk":
            return "Make room; it goes on by itself"
    return ""


def result_of(
    verdict: Verdict, boot_before: Mapping[str, str], boot_after: Mapping[str, str], evidence: str
) -> AttemptResult:
    """The attempt's result: a boot id that changed during the attempt outranks whatever the files look like."""
    for machine, before in boot_before.items():
        after = boot_after.get(machine, "")
        if after and after != before:
            return AttemptResult(
                end_status="rebooted",
                blame="machine",
                machine=machine,
                code="REBOOTED",
                reason=f"{machine} rebooted during the attempt, so its data cannot be trusted",
                evidence=evidence,
            )
    return AttemptResult(
        end_status=verdict.end_status,
        blame=BLAME.get(verdict.end_status, "test"),
        machine=verdict.machine,
        code=verdict.code,
        reason=verdict.reason,
        would_fail_every_test=verdict.would_fail_every_test,
        figures=dict(verdict.figures),
        evidence=evidence,
    )
