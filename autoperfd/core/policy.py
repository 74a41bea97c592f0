"""Decides whose fault a failed attempt is, how long to back off, and which verdict wins. Pure; any thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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
UNWRITABLE = (CANNOT_WRITE, "DISK_IO", "DISK_READONLY")
"""Codes of an attempt whose result could not be written: the next one could not be either, so the experiment halts."""

PASSING = ("DISK_FULL", "INODES_FULL", "NO_DESCRIPTORS")
"""Codes of a controller that cannot write a result now and will be able to: the attempt stays open on the machines."""

SUSPICIOUS = ("timeout", "no-match", "early-exit", "truncated", "bad-data", "no-data")
"""End statuses that a machine or a network that goes away can bring about: an outage found later gives them back."""

OUTAGE = frozenset({"PARTITION", "NETWORK_DOWN"})
"""Codes of failed attempts that a look at the machines, or what was seen as they ran, explained by the network."""

RUNGS = ("soft", "forced", "power")
"""The ladder for a machine that is ill: asked to reboot, made to reboot, its power cycled."""

SILENT = frozenset(
    {
        "PING",
        "NO_ANSWER",
        "MACHINE_GONE",
        "SSH_SILENT",
        "SSH_REFUSED",
        "SSH_NO_BANNER",
        "SSH_HANG",
        "SSH_LOST",
        "LINK_LOST",
    }
)
"""Codes of machines that no command reaches: only the power switch does."""

AILING = frozenset({"SHELL_HANG", "BAD_ANSWER", "ORPHAN", "REBOOT_IGNORED", "NEVER_STARTED", "LAUNCHER", "WORK_STUCK"})
"""Codes of machines that take a login but do not do what they are asked to."""

OURS = frozenset({"NO_THREADS"})
"""Codes of machines that could not be reached, or looked at, for want of something on the controller."""

FLAPS = 3
"""Restarts of a machine that nobody asked for, without a success in between, before halting."""

SETBACKS = 40
"""How often machines may be found away, without a success in between, before halting."""

COMEBACKS = 10
"""How often an experiment goes on by itself after a halt, without a success in between."""

MARGIN_SECS = 30.0
"""Added to an attempt's hard stop before a machine with an open attempt may be restarted."""

KEPT = ("success", "no-summary")
"""End statuses whose data are complete: the test needs no further attempt."""


def is_outage(code: str) -> bool:
    """Whether a machine or a network that is ill in this way may have spoilt earlier attempts as well."""
    return code in OUTAGE or bool(rungs_for(code))


def rungs_for(code: str) -> tuple[str, ...]:
    """The rungs that may help a machine that is ill in this way; () where a restart helps nothing."""
    if code in AILING:
        return RUNGS
    return ("power",) if code in SILENT else ()


def backoff_secs(tries: int, first: float, cap: float, draw: float) -> float:
    """Seconds to wait before try number `tries` + 1: full jitter over an exponential, never below a tenth.

    `draw` is uniform in [0, 1).
    """
    span = min(cap, first * 2.0 ** min(tries, 30))
    return max(span * 0.1, span * draw)


def todo(cause: str, probing: bool, name: str, code: str = "") -> str:
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
        case "disk" if code == "NO_DESCRIPTORS":
            return "See to what the reason says; it goes on by itself"
        case "disk":
            return "Make room; it goes on by itself"
    return ""


@dataclass(frozen=True, slots=True)
class Examined:
    """How one machine stood right after an attempt failed. None: it cannot be told."""

    pinged: bool | None
    ssh: str  # "ok", or the code of what was wrong
    boot_id: str = ""
    hears: Mapping[str, bool | None] = field(default_factory=dict)  # other machine -> whether a ping to it came back
    disk_full: bool = False


def blamed(
    result: AttemptResult, examined: Mapping[str, Examined], was_away: Mapping[str, str] | None = None
) -> AttemptResult:
    """The result with the blame that a look at the machines gives it: an outage is nobody's test's fault.

    `was_away`: machine -> code, of those that could not be reached for a while as it ran; they may be well now.
    """
    if result.blame != "test" or result.end_status not in SUSPICIOUS:
        return result
    full = [name for name, at in examined.items() if at.disk_full]
    if full:
        reason = f"{result.reason}; the disk of {full[0]} is full"
        return replace(result, blame="machine", machine=full[0], code="REMOTE_DISK_FULL", reason=reason)
    ours = [code for code in (*(at.ssh for at in examined.values()), *(was_away or {}).values()) if code in OURS]
    if ours:
        reason = f"{result.reason}; the controller could not reach every machine ({ours[0]})"
        return replace(result, blame="controller", machine="", code=ours[0], reason=reason)
    away = [name for name, at in examined.items() if at.ssh != "ok"]
    if len(away) > 1 and len(away) == len(examined):
        reason = f"{result.reason}; none of the {len(away)} machines answers now"
        return replace(result, blame="network", machine="", code="NETWORK_DOWN", reason=reason)
    if away:
        code = examined[away[0]].ssh
        reason = f"{result.reason}; {away[0]} does not answer now ({code})"
        return replace(result, blame="machine", machine=away[0], code=code, reason=reason)
    for name, at in examined.items():
        deaf = [other for other, heard in at.hears.items() if heard is False]
        if deaf:
            reason = f"{result.reason}; {name} and {deaf[0]} do not hear each other, though both answer the controller"
            return replace(result, blame="network", machine=name, code="PARTITION", reason=reason)
    if was_away:
        names = ", ".join(was_away)
        reason = f"{result.reason}; {names} could not be reached for a while as it ran"
        if len(was_away) > 1 and len(was_away) == len(examined):
            return replace(result, blame="network", machine="", code="NETWORK_DOWN", reason=reason)
        name, code = next(iter(was_away.items()))
        return replace(result, blame="machine", machine=name, code=code, reason=f"{reason} ({code})")
    return result


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
