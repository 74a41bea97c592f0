"""Knows by which rules an end of Perftest's processes is no success: refusals, crashes, hangs, ends before their time.

Of old data nobody recorded the ends; then what standard error says counts, where there is any. Pure; any thread.
"""

from __future__ import annotations

import re

from autoperfd.core.plan import Finding
from autoperfd.tools.judging import Text, colon, ended_by_signal, first_line, last_line, printable, proves
from autoperfd.tools.perftest_left import Attempt, Left

BY_TIMER = "Finishing test due to timer"
MISMATCH = re.compile(r"Found (?:incompatible|inconsistent)")
OPTION_ERROR = re.compile(
    r"Cannot parse '|Missing '.*' after '|In the argument '|Cannot use '|cannot be used with|invalid input",
    re.IGNORECASE,
)
LICENCE = re.compile(
    r"licen[sc]e.*\b(?:expired|not found|invalid|missing|denied|unable|failed|cannot|could not|no valid)"
    r"|\b(?:expired|invalid|missing|no|unable to find|could not find)\b.*licen[sc]e",
    re.IGNORECASE,
)


@proves(
    "perftest",
    LICENCE="wont-start",
    OPTION_REFUSED="wont-start",
    NOT_STARTED="wont-start",
    CRASHED="crashed",
    TOO_LARGE="crashed",
)
def exit_status(attempt: Attempt, one: Left) -> Finding | None:
    """Every participant's exit status is 0; another one is told apart by what was said."""
    if not attempt.recorded:
        return _refused(one) if one.evidence.stderr.size > 0 else None
    status, stderr = one.evidence.failed_exit, one.evidence.stderr
    if status is None or status in (126, 127):
        return None
    if status >= 128 and status != 255:
        return ended_by_signal(one.evidence, status - 128)
    if refusal := _refused(one):
        return refusal
    if not one.stage:
        reason = f"{one.name} did not start (exit status {status}){colon(_complaint(stderr))}"
        return one.found("wont-start", "NOT_STARTED", reason)
    reason = f"{one.name} ended with exit status {status}{colon(_complaint(stderr))}"
    return one.found("crashed", "CRASHED", reason)


@proves("perftest", NO_MATCH="no-match")
def peers_found(attempt: Attempt, one: Left) -> Finding | None:
    """No participant was stopped while it was still looking for its peers."""
    waiting = one.unmatched or (not attempt.recorded and one.stage in ("discovering", "announcing"))
    if not waiting or (not attempt.recorded and _refused(one)):
        return None
    mismatch = next((line for line in one.evidence.stderr.lines() if MISMATCH.match(line)), "")
    waited = "subscribers to announce themselves" if one.stage == "announcing" else "its peers"
    said = printable(mismatch) or last_line(one.evidence.stderr)
    return one.found("no-match", "NO_MATCH", f"{one.name} waited for {waited} until it was stopped{colon(said)}")


@proves("perftest", TIMEOUT="timeout")
def in_time(attempt: Attempt, one: Left) -> Finding | None:
    """Every participant ended by itself before the deadline, but for a subscriber of the best-effort hang."""
    late = one.ended_by("deadline") or (one.ended_by("grace") and one.participant.role == "pub")
    # A participant that found its peers and waits for one that did not is no time-out of its own.
    if not late or any(other.unmatched for other in attempt.left):
        return None
    reason = f"{one.name} had not ended by itself when the time was up{colon(last_line(one.evidence.stderr))}"
    return one.found("timeout", "TIMEOUT", reason)


@proves("perftest", NOT_FINISHED="early-exit", EARLY_EXIT="early-exit")
def finished(attempt: Attempt, one: Left) -> Finding | None:
    """Exit status 0 alone proves nothing: Perftest must say that it finished, and not before the test's time."""
    if not _ended_well(attempt, one):
        return None
    asked_secs, record = attempt.plan.duration_secs, one.evidence.record
    if one.stage != "finished":
        reason = f"{one.name} ended without finishing its test{colon(last_line(one.evidence.stderr))}"
        return one.found("early-exit", "NOT_FINISHED", reason)
    if record is not None and record.elapsed is not None and record.elapsed < asked_secs:
        return one.found("early-exit", "EARLY_EXIT", f"{one.name} ended after {record.elapsed:.1f} s of {asked_secs} s")
    return None


@proves("perftest", NUM_ITER_REACHED="early-exit")
def by_timer(attempt: Attempt, one: Left) -> Finding | None:
    """A publisher says that its timer ended it, not that it had sent all the samples it may send (-numIter)."""
    if one.participant.role != "pub" or one.stage != "finished" or not attempt.plan.duration_secs:
        return None
    if not _ended_well(attempt, one) or finished(attempt, one):
        return None
    if any(line.startswith(BY_TIMER) for line in one.evidence.stderr.lines()):
        return None
    secs = attempt.plan.duration_secs
    reason = f"{one.name} had sent all the samples it may send (-numIter) before the {secs} s were over"
    return one.found("early-exit", "NUM_ITER_REACHED", reason)


END_RULES = (exit_status, peers_found, in_time, finished, by_timer)


def _ended_well(attempt: Attempt, one: Left) -> bool:
    """Whether it ended with 0 by its record; of old data, whether its words tell of anything but an end."""
    if attempt.recorded:
        return one.evidence.finished
    waiting = one.stage in ("discovering", "announcing")
    return one.evidence.stderr.size > 0 and not waiting and not one.hung and not _refused(one)


def _refused(one: Left) -> Finding | None:
    """A licence that is not valid, or a command line that is not understood, by its own words."""
    licence = next((line for line in _all_lines(one) if LICENCE.search(line)), "")
    refused = next((line for line in one.evidence.stderr.lines() if OPTION_ERROR.search(line)), "")
    if licence:
        where = f" on {one.participant.machine}" if one.participant.machine else ""
        reason = f"Perftest finds no valid licence{where}: {printable(licence)}"
        return one.found("wont-start", "LICENCE", reason, machine=True)
    if refused:
        reason = f"{one.name} refused its command line: {printable(refused)}"
        return one.found("wont-start", "OPTION_REFUSED", reason)
    return None


def _all_lines(one: Left) -> list[str]:
    """What it said on either stream; the middleware's own messages come on standard output."""
    return one.evidence.stderr.lines() + one.evidence.stdout.lines()


def _complaint(stderr: Text) -> str:
    """The last line that is not the farewell every end has."""
    lines = [line for line in stderr.lines() if line.strip() and not line.startswith("Test ended.")]
    return printable(lines[-1]) if lines else first_line(stderr)
