"""What happened to one test, in words: one time line out of the memory's rows. Pure; any thread, and autoperfctl.

The rows come as the plain values below, whether the engine or a copy of the memory gave them. Unknown events and
unknown evidence are shown as they are; what is missing is left out. Times are Unix seconds UTC.
"""

from __future__ import annotations

import json
import re
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autoperfd.core.policy import BLAMELESS_BUDGET, KEPT, todo
from autoperfd.core.survey import Difference
from autoperfd.core.text import coded
from autoperfd.daemon.proof import details
from autoperfd.daemon.views import WIDTH, count, duration, escaped, iso

_MOST_WAITS = 5  # steps of waiting for a machine in a row that are told one by one
_INDENT = " " * 12


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the history."""

    wall: float
    event: str
    before: str
    after: str
    note: str


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt. `id`: in the memory; `evidence`: JSON; `started` and `ended` are those of its ESS row."""

    id: int
    number: int
    started: float
    ended: float | None
    status: str
    blame: str
    machine: str
    code: str
    reason: str
    archive: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Queued:
    """Where a test waits to be tried again: how many come before it, what it used up."""

    before: int
    number: int
    charged: int


@dataclass(frozen=True, slots=True)
class Story:
    """All that is known of one test. `life`: the experiment's, as the memory keeps it."""

    experiment: str
    test: str
    now: float
    lines: tuple[Line, ...]
    tries: tuple[Try, ...]
    verdict: str  # "" for none
    life: Mapping[str, Any]
    retries: int
    index: int  # its place in the sweep
    queued: Queued | None = None
    hold: str = ""
    changes: tuple[Difference, ...] = ()  # of the experiment's machines, oldest first


@dataclass(frozen=True, slots=True)
class Moment:
    """One entry of the time line: what happened, what shows it, the attempt it is about (0: none)."""

    at: float
    event: str
    text: str
    details: tuple[str, ...] = ()
    attempt: int = 0


def render(story: Story) -> str:
    """The story as text of 100 columns."""
    lines = _wrap(f"{story.test} of {story.experiment}: {outcome(story)}", "", "  ")
    day = ""
    for moment in told(story):
        at = time.gmtime(moment.at)
        if day != (day := time.strftime("%Y-%m-%d", at)):
            lines += ["", f"{day} (UTC)"]
        lines += _wrap(moment.text, f"  {time.strftime('%H:%M:%S', at)}  ", _INDENT)
        for detail in moment.details:
            lines += _wrap(detail, f"{_INDENT}- ", f"{_INDENT}  ")
    spent = budget(story)
    lines += ["", *(_wrap(spent, "Budget: ", "  ") if spent else []), *_wrap(upcoming(story), "Next: ", "  ")]
    return "".join(f"{line}\n" for line in lines)


def to_data(story: Story) -> dict[str, Any]:
    """The story for a script."""
    attempts = []
    for one in story.tries:
        fields = asdict(one)
        del fields["id"]  # means nothing outside the memory
        fields["machines_changed"] = [each.sentence() for each in _changed(story, one)]
        fields["evidence"] = _parsed(one.evidence)
        fields["started"], fields["ended"] = iso(one.started), None if one.ended is None else iso(one.ended)
        attempts.append(fields)
    return {
        "experiment": story.experiment,
        "test": story.test,
        "verdict": story.verdict or None,
        "outcome": outcome(story),
        "timeline": [
            {**asdict(moment), "at": iso(moment.at), "details": list(moment.details)} for moment in told(story)
        ],
        "attempts": attempts,
        "budget": budget(story),
        "next": upcoming(story),
    }


# ---------------------------------------------------------------- where it stands


def outcome(story: Story) -> str:
    """What became of the test so far."""
    last = story.tries[-1].number if story.tries else 0
    after = "1 attempt" if last == 1 else f"{last} attempts"
    match story.verdict:
        case "success":
            return f"succeeded with attempt {last}"
        case "no-summary":
            return f"its data are complete, a summary is missing (attempt {last})"
        case "skipped":
            return "skipped"
        case "":
            if story.life.get("test") == story.test:
                return f"under way, {after} so far" if last else "under way"
            if story.queued:
                return f"to be tried again, {after} so far"
            return "not tried yet" if not last else f"no verdict, {after} so far"
    return f"given up after {after}: {story.verdict}"


def budget(story: Story) -> str:
    """What the test has used up of the attempts it is given; "" where that means nothing any more."""
    if story.verdict or (not story.tries and not story.queued):
        return ""
    allowed = story.retries + 1
    current = story.life.get("test") == story.test
    charged = story.life.get("charged", 0) if current else story.queued.charged if story.queued else 0
    left = max(0, allowed - charged)
    text = f"{charged} of {count(allowed, 'attempt')} are charged to the test, {left} left"
    lost = story.life.get("blameless", 0) if current else 0
    return f"{text}; {lost} of {BLAMELESS_BUDGET} lost by somebody else's fault" if lost else text


def upcoming(story: Story) -> str:
    """What happens next, or what a person has to do for it."""
    life, test = story.life, story.test
    if story.verdict in KEPT:
        return "nothing; it needs no further attempt."
    if story.verdict:
        return f"nothing by itself. To try it again: autoperfctl retry {test}"
    if life.get("outcome") == "cancelled":
        return "nothing: the experiment is cancelled. Drop its file again to go on."
    if life.get("state") == "halted":
        why = coded(str(life.get("code", "")), str(life.get("reason", "")))
        cause, code = (str(life.get(key, "")) for key in ("cause", "code"))
        do = todo(cause, bool(life.get("probing")), story.experiment, code)
        return f"nothing before the experiment goes on. It is halted by {life.get('cause')}: {_stopped(why)} {do}"
    if story.hold:
        return f"nothing, for everything is {story.hold}. `autoperfctl resume` lifts that."
    if life.get("test") == test:
        return _goes_on(story)
    if story.queued:
        return f"it is tried again {_when(story.queued.before)}."
    ahead = story.index - int(life.get("cursor", 0))
    if ahead < 0:
        return "nothing: it lies before the experiment's first test."
    return f"it is tried {_when(ahead)}."


def _goes_on(story: Story) -> str:
    life = story.life
    if life.get("state") == "backing-off":
        reason = coded(str(life.get("code", "")), str(life.get("reason", "")))
        return f"its machines are looked at again when the back-off is over. {_stopped(reason)}"
    if life.get("uid"):
        since = duration(story.now - life.get("opened", story.now))
        last = life.get("charged", 0) >= story.retries
        then = "given up" if last else "tried again"
        return f"attempt {life.get('number')} goes on, {since} old; failing by its own fault, the test is {then}."
    if life.get("state") == "idle":
        return "it is tried when the experiment's turn comes."
    return f"attempt {life.get('number', 0) + 1}, when all machines are found fit."


# ---------------------------------------------------------------- the time line


def told(story: Story) -> list[Moment]:
    """The time line, oldest first; long waits are told in one sentence."""
    moments = list(_moments(story))
    shown: list[Moment] = []
    waits: list[Moment] = []
    for moment in [*moments, None]:
        if moment is not None and moment.event in ("unreachable", "due") and not moment.attempt:
            waits.append(moment)
            continue
        shown += _few(waits)
        waits = []
        if moment is not None:
            shown.append(moment)
    return shown


def _few(waits: list[Moment]) -> list[Moment]:
    if len(waits) <= _MOST_WAITS:
        return waits
    hidden = waits[2:-2]
    looks = sum(moment.event == "unreachable" for moment in hidden)
    text = f"({count(looks, 'further look')} in {duration(hidden[-1].at - hidden[0].at)})"
    return [*waits[:2], Moment(hidden[0].at, "waiting", text), *waits[-2:]]


def _moments(story: Story) -> Iterator[Moment]:
    walls = {line.wall for line in story.lines}
    left = [one for one in story.tries if one.ended in walls or one.started in walls]
    for one in story.tries:
        if one not in left and one.ended is not None:  # of a results folder that was there before
            yield _end(one, None)
    for line in story.lines:
        begins = next((one for one in left if _began(one, line)), None)
        ends = next((one for one in left if one.ended == line.wall and line.event not in _BEGINNINGS), None)
        if ends is not None and ends.status in _ENDS.get(line.event, (ends.status,)):
            left.remove(ends)
            yield _end(ends, line)
        elif begins is not None:
            text = f"all machines are fit: attempt {begins.number} begins"
            changed = tuple(each.sentence() for each in _changed(story, begins))
            yield Moment(line.wall, line.event, text, changed, begins.number)
        elif line.note or line.event not in _OWN_WORDS:
            yield Moment(line.wall, line.event, _step(line))


def _changed(story: Story, one: Try) -> Iterator[Difference]:
    """What was another before the test's attempt before, or, for its first, just before this one."""
    earlier = max((other.id for other in story.tries if other.id < one.id), default=one.id - 1)
    return (each for each in story.changes if earlier < each.attempt <= one.id)


_BEGINNINGS = ("accepted", "scheduled", "validated", "rebooted", "started", "resume", "answered", "room", "swept")


def _began(one: Try, line: Line) -> bool:
    return (line.event, line.after, line.wall) == ("validated", "running", one.started)


def _end(one: Try, line: Line | None) -> Moment:
    at, event = (line.wall, line.event) if line is not None else (one.ended or one.started, "attempt")
    return Moment(at, event, _ended(one, line), tuple(details(one.status, one.evidence)), one.number)


def _ended(one: Try, line: Line | None) -> str:
    """An attempt's end, and what was decided then."""
    lasted = duration((one.ended or one.started) - one.started)
    if one.status == "skipped":
        return f"attempt {one.number} ended: {_cause(one, None) or 'skipped'}"
    if one.status in KEPT:
        text = f"attempt {one.number} ended after {lasted}: {one.status}"
        return f"{text}, {one.archive}" if one.archive else text
    blame = f", blamed on {_whom(one)}" if one.blame else ""
    text = f"attempt {one.number} ended after {lasted}: {one.status}{blame}"
    why = _cause(one, line)
    return "; ".join(filter(None, (f"{text}: {why}" if why else text, _decision(one, line))))


def _whom(one: Try) -> str:
    if one.blame == "machine" and one.machine:
        return f"machine {one.machine}"
    return f"the {one.blame}, seen on {one.machine}" if one.machine else f"the {one.blame}"


def _cause(one: Try, line: Line | None) -> str:
    """Why an attempt ended: what its row says, or the history's line, which may say more."""
    own = coded(one.code, one.reason)
    if line is not None and own and own in line.note:
        return line.note
    return own or (line.note if line is not None else "")


def _decision(one: Try, line: Line | None) -> str:
    if line is None:
        return "read from the results folder that was there before the experiment"
    charge = re.search(r"\(charged ([0-9]+) of ([0-9]+)\)$", line.note)
    goes = {"halted": "the experiment is halted", "backing-off": "the machines are given time"}.get(line.after, "")
    if line.event == "failed" and charge:
        decided = "given up" if int(charge[1]) >= int(charge[2]) else "to be tried again"
    elif one.blame == "test":
        decided = ""
    else:
        decided = "it costs the test nothing"
    return ", ".join(filter(None, (decided, goes)))


WORDS: Mapping[str, str] = {
    "accepted": "the experiment was accepted",
    "scheduled": "the machines are free and are looked at",
    "validated": "all machines are fit",
    "rebooted": "the machines have restarted, their boot ids show it",
    "impossible": "no test can be run before a person changes something",
    "started": "every machine confirmed the start",
    "half_started": "only part of the attempt was found after a restart of the daemon; all of it was ended",
    "succeeded": "the attempt succeeded",
    "failed": "the attempt failed",
    "unreachable": "a machine is not fit for work",
    "due": "the machines are looked at again",
    "cycled": "the power was cycled: the machines fell silent and came back with new boot ids",
    "not_cycled": "restarting had no effect",
    "halt": "the experiment was halted",
    "resume": "the experiment was resumed",
    "answered": "all machines answer again, the experiment goes on by itself",
    "swept": "nothing of the experiment is left on the machines",
    "low_disk": "the controller's disk cannot take a result",
    "room": "the disk has room again, the experiment goes on by itself",
    "skip": "a test was skipped",
    "retry": "tests were queued again",
    "refunded": "the test is given back what it was charged",
    "cancel": "the experiment was cancelled",
    "redropped": "the experiment's file was dropped again",
    "restarted": "the daemon started again and goes on from here",
}
"""What an event of lifecycle.py means to the test it is told of."""

_OWN_WORDS = ("refunded", "retry", "skip")  # their notes are whole sentences; without one they are about other tests
_ENDS: Mapping[str, tuple[str, ...]] = {"skip": ("skipped",), "restarted": ("crashed-daemon",)}
"""Events that end an attempt in one way only."""

_AFTERWARDS: Mapping[tuple[str, str], str] = {
    ("validated", "rebooting"): "they are rebooted first",
    ("validated", "running"): "the open attempt goes on",
    ("validated", "halted"): "the experiment is halted",
    ("impossible", "halted"): "the experiment is halted",
    ("unreachable", "halted"): "the experiment is halted",
    ("unreachable", "backing-off"): "it is given time",
    ("low_disk", "halted"): "the experiment is halted",
    ("due", "rebooting"): "restarted first",
}


def _step(line: Line) -> str:
    """A step that neither began nor ended an attempt."""
    if line.event in _OWN_WORDS and not line.note.startswith("by "):
        return line.note
    words = WORDS.get(line.event)
    if words is None:
        words = f"{line.event} ({line.before} -> {line.after})"
    if line.note.startswith("by "):
        return f"{words} {line.note}"
    text = ", ".join(filter(None, (words, _AFTERWARDS.get((line.event, line.after), ""))))
    return f"{text}: {line.note}" if line.note else text


# ---------------------------------------------------------------- small parts


def _wrap(text: str, first: str, then: str) -> list[str]:
    return textwrap.wrap(escaped(text), WIDTH, initial_indent=first, subsequent_indent=then, break_on_hyphens=False)


def _when(before: int) -> str:
    return f"after at most {count(before, 'other test')}" if before else "as the next test"


def _stopped(sentence: str) -> str:
    return sentence if not sentence or sentence.endswith((".", "!", "?")) else f"{sentence}."


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
