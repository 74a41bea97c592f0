"""What must hold of blame, outages, restarts of machines, halts and budgets: checks that `invariants.py` runs.

Each is a function of the evidence that yields sentences, none when all is well. Pure; any thread.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from autoperfd.core import messages as m
from autoperfd.core.policy import COMEBACKS, KEPT, SUSPICIOUS, is_outage
from autoperfd.daemon.store import Happened, OutboxRow, SaveHistory, SaveLife, Write
from autoperfd.rehearsal.evidence import Archived, Asked, Committed, Did, Evidence, Twice, Woke, commits, steps

LIFE_BYTES = 64 * 1024
HOUR = 3600.0
STEPS_AN_HOUR = 800
"""Steps of one experiment in an hour in which no test gets its verdict and nobody asks for anything."""
FORGIVING = ("resume", "answered", "room")  # events that leave a halt
ASKED_FOR = ("accepted", "halt", "resume", "skip", "retry", "cancel", "redropped")
SLEPT_SECS = 5.0  # a shorter suspend changes nothing
NEVER_OF = ("success", "no-summary", "skipped", "crashed-daemon", "")  # verdicts that are no failure of the test


# ---------------------------------------------------------------- from the memory alone


def only_the_test_pays(evidence: Evidence) -> Iterator[str]:
    """A test is given up by its own fault, and charged no more than it failed by its own fault."""
    own: Counter[tuple[int, str]] = Counter()
    last: dict[tuple[int, str], str] = {}
    for row in evidence.memory.attempts:
        own[row.experiment, row.test] += row.blame == "test"
        last[row.experiment, row.test] = row.blame
    for test in evidence.memory.tests:
        key = (test.experiment, test.name)
        if test.status not in NEVER_OF and last.get(key) != "test":
            yield f"{test.name} was given up as {test.status} by the fault of {last.get(key) or 'nobody'}"
    for number, life in evidence.memory.lives.items():
        charged, test_name = life["charged"], str(life["test"])
        if isinstance(charged, int) and charged > own[number, test_name]:
            yield f"{test_name} is charged {charged} attempts, {own[number, test_name]} failed by its own fault"
    for number, test_name, charged in evidence.memory.requeued:
        if charged > own[number, test_name]:
            yield f"{test_name} waits charged {charged} attempts, {own[number, test_name]} failed by its own fault"


def nothing_is_silent(evidence: Evidence) -> Iterator[str]:
    """Whatever went wrong says why."""
    for row in evidence.memory.attempts:
        if row.status not in (*KEPT, "running") and not row.reason:
            yield f"attempt {row.number} of {row.test} is {row.status} and says nothing of it"
    for number, life in evidence.memory.lives.items():
        if life["state"] == "halted" and not (life["reason"] and life["cause"]):
            yield f"experiment {number} is halted and says nothing of it"


def what_is_kept_stays_small(evidence: Evidence) -> Iterator[str]:
    """No book of an experiment grows with the time."""
    for number, life in evidence.memory.lives.items():
        size = len(json.dumps(life))
        if size > LIFE_BYTES:
            yield f"the life of experiment {number} takes {size} bytes"
        limits = evidence.limits.get(number)
        queued = [test for experiment, test, _ in evidence.memory.requeued if experiment == number]
        if limits is not None and len(queued) > len(limits.tests):
            yield f"{len(queued)} tests of experiment {number} are queued, it has {len(limits.tests)}"


def successes_have_archives(evidence: Evidence) -> Iterator[str]:
    """The archive of a success is there and is of that attempt."""
    if evidence.archives is None:
        return
    for row in evidence.memory.attempts:
        limits = evidence.limits.get(row.experiment)
        if row.status not in KEPT or limits is None:
            continue
        key = (limits.folder, row.archive)
        if key not in evidence.lost and evidence.archives.get(key) != row.uid:
            yield f"{row.archive} of {row.uid} is {evidence.archives.get(key, 'not there')}"


# ---------------------------------------------------------------- attempts and outages


def attempts_open_on_fit_machines(evidence: Evidence) -> Iterator[str]:
    """No attempt is consumed while a machine is away: each was found fit since it was last looked at."""
    probed: dict[int, set[str]] = {}
    for entry in evidence.record:
        if isinstance(entry, Asked) and isinstance(entry.order, m.Validate):
            probed[entry.experiment] = set()
        elif isinstance(entry, Did) and entry.verb == "probed":
            for found in probed.values():
                found.add(entry.machine)
        elif isinstance(entry, Committed) and isinstance(entry.write, Happened):
            limits = evidence.limits.get(entry.write.experiment)
            if isinstance(entry.write.change, m.AttemptOpened) and limits is not None:
                away = [name for name in limits.machines if name not in probed.get(entry.write.experiment, set())]
                if away:
                    yield f"attempt {entry.write.change.uid} was opened though {', '.join(away)} had not answered"


def outages_in_mid_attempt_are_not_charged(evidence: Evidence) -> Iterator[str]:
    """What an outage can bring about is not charged to an attempt that was open when one was found, over or not.

    One that is found after the verdict was archived changes nothing of it. Nor is any attempt excused by an outage that
    nobody found. What a worker alone had found is gone with its work.
    """
    kept: set[str] = set()  # uids with an outage that the memory tells of
    late: set[str] = set()  # … that was found after their verdicts were archived
    archived: set[str] = set()
    seen: dict[str, bool] = {}  # uid with one that a worker found -> whether that work goes on
    current: dict[int, str] = {}
    lives: dict[int, str] = {}
    for entry in evidence.record:
        if isinstance(entry, Did) and entry.verb == "missed":
            seen[entry.uid] = True
        elif isinstance(entry, Archived):
            archived.add(entry.uid)
        elif isinstance(entry, Asked) and current.get(entry.experiment) in seen:
            seen[current[entry.experiment]] = False
        elif not isinstance(entry, Committed):
            continue
        elif isinstance(entry.write, SaveLife):
            lives[entry.write.experiment] = entry.write.life
        elif isinstance(entry.write, SaveHistory) and entry.write.event == "unreachable":
            life = json.loads(lives[entry.write.experiment])
            if any(is_outage(code) for code in life["ill"].values()):
                (late if life["uid"] in archived else kept).add(life["uid"])
        elif isinstance(entry.write, Happened):
            change = entry.write.change
            if isinstance(change, m.AttemptOpened):
                current[entry.write.experiment] = change.uid
            elif isinstance(change, m.AttemptClosed) and change.uid:
                known = change.uid in kept or seen.get(change.uid, False)
                yield from _excused(change, known, change.uid in seen or change.uid in late)


def _excused(change: m.AttemptClosed, known: bool, once: bool) -> Iterator[str]:
    """`known`: its judge knew of an outage. `once`: some worker did."""
    result = change.result
    if known and result.blame == "test" and result.end_status in SUSPICIOUS:
        yield f"{change.uid} was charged to {change.test} as {result.end_status}, but machines were away as it ran"
    if json.loads(result.evidence).get("was_away") and not known and not once:
        yield f"{change.uid} was excused by an outage that nobody found"


class _Suspects:
    """Tests of one experiment that were charged for what an outage may have done, since the last success."""

    def __init__(self) -> None:
        self.charged: set[str] = set()
        self.given_back: set[str] = set()  # once for each budget
        self.latest = ""  # the test whose latest attempt an outage may have spoilt
        self.first: set[str] = set()  # given back, and to be tried before any other
        self.current = ""


def outages_are_given_back(evidence: Evidence) -> Iterator[str]:
    """What an outage charged to tests is given back when it is recognised, once each, and they are tried first."""
    all_of: dict[int, _Suspects] = {}
    for _, writes in commits(evidence):
        for number in sorted({w.experiment for w in writes if isinstance(w, Happened | SaveHistory)}):
            mine = [w for w in writes if getattr(w, "experiment", None) == number]
            yield from _given_back(all_of.setdefault(number, _Suspects()), mine)


def _given_back(known: _Suspects, writes: Sequence[Write]) -> Iterator[str]:
    said = list(steps(writes))
    back = {step.test for step in said if step.event == "refunded"}
    for test in sorted(back):
        if test not in known.charged:
            yield f"{test} was given back what no outage can have charged"
        if test in known.given_back:
            yield f"{test} was given back its charge twice"
    outage = _outage(said, writes)
    if outage:
        for test in sorted(known.charged - known.given_back - back):
            yield f"an outage ({outage}) was recognised, and {test} was not given back its charge"
    known.given_back |= back
    known.charged -= back
    for write in writes:
        if isinstance(write, Happened):
            yield from _taken_up(known, write.change, back)
    if any(step.event in FORGIVING and step.before == "halted" for step in said):
        known.charged.clear()
    if any(step.event in ("cancel", "redropped") and step.before in ("idle", "halted") for step in said):
        known.charged.clear()


def _outage(said: Sequence[SaveHistory], writes: Sequence[Write]) -> str:
    """The code of the outage that a transaction recognises; "" for none."""
    for step in said:
        if (step.event, step.after) == ("unreachable", "backing-off"):
            code = next((str(json.loads(w.life).get("code", "")) for w in writes if isinstance(w, SaveLife)), "")
            return code if is_outage(code) else ""
        if (step.event, step.after) == ("failed", "backing-off"):
            closed = [
                w.change.result for w in writes if isinstance(w, Happened) and isinstance(w.change, m.AttemptClosed)
            ]
            status, code = closed[0].end_status, closed[0].code
            return code if status in ("rebooted", "machine-lost") or is_outage(code) else ""
    return ""


def _taken_up(known: _Suspects, change: m.Change, back: set[str]) -> Iterator[str]:
    match change:
        case m.AttemptOpened(test=test):
            if known.first and test not in known.first and test != known.current:
                yield f"{test} was taken up before {', '.join(sorted(known.first))}, which an outage had charged"
            known.first.discard(test)
            known.current = test
        case m.AttemptClosed(test=test, result=result):
            if result.end_status in KEPT:
                known.charged.clear()
            known.latest = ""
            if result.blame == "test" and result.end_status in SUSPICIOUS and test not in known.given_back:
                known.charged.add(test)
                known.latest = test
        case m.TestDecided(test=test, status=status):
            known.first.discard(test)
            if known.current == test:
                known.current = ""
            if status in ("skipped", "crashed-daemon") or known.latest != test:
                known.charged.discard(test)  # it was given up by what no outage does
        case m.Requeued(test=test, refunded=refunded):
            if test in back:
                known.first.add(test)
            elif not refunded:
                known.charged.discard(test)
                known.given_back.discard(test)


# ---------------------------------------------------------------- restarts of machines


def rungs_are_used_once(evidence: Evidence) -> Iterator[str]:
    """Between two successes, or halts that were left, each rung of the ladder is tried once on a machine."""
    used: set[tuple[int, str, str]] = set()
    latest: dict[int, str] = {}  # experiment -> the event of its latest step
    for entry in evidence.record:
        if isinstance(entry, Committed):
            write = entry.write
            if isinstance(write, SaveHistory) and write.event != "refunded":
                latest[write.experiment] = write.event
                if write.event in (*FORGIVING, "redropped", "cancel"):
                    used = {key for key in used if key[0] != write.experiment}
            elif isinstance(write, Happened) and _is_won(write):
                used = {key for key in used if key[0] != write.experiment}
        elif isinstance(entry, Asked) and (rung := _rung(entry.order)):
            if rung != "power" and latest.get(entry.experiment) == "restarted":
                continue  # the same one, gone on with: a machine with another boot id is not told again
            for machine in entry.order.machines:
                key = (entry.experiment, machine.name, rung)
                if key in used:
                    yield f"the rung {rung} was tried on {machine.name} again without a success in between"
                used.add(key)


def _is_won(write: Happened) -> bool:
    return isinstance(write.change, m.AttemptClosed) and write.change.result.end_status in KEPT


def _rung(order: m.Order) -> str:
    if isinstance(order, m.PowerCycle):
        return "power"
    return order.rung if isinstance(order, m.Reboot) else ""


def attempts_are_not_rebooted_away(evidence: Evidence) -> Iterator[str]:
    """No machine is restarted by us while an attempt is open that need not have ended by itself yet."""
    current: dict[int, tuple[str, float]] = {}  # experiment -> (uid, seconds it lasts)
    started: dict[str, float] = {}
    for entry in evidence.record:
        if isinstance(entry, Did) and entry.verb == "started":
            started.setdefault(entry.uid, entry.at)
        elif isinstance(entry, Committed) and isinstance(entry.write, Happened):
            change, number = entry.write.change, entry.write.experiment
            if isinstance(change, m.AttemptOpened):
                current[number] = (change.uid, float(change.plan.duration_secs))
            elif isinstance(change, m.AttemptClosed) and change.uid:
                current.pop(number, None)
        elif isinstance(entry, Asked) and isinstance(entry.order, m.Reboot | m.PowerCycle):
            uid, secs = current.get(entry.experiment, ("", 0.0))
            limits = evidence.limits.get(entry.experiment)
            over = started.get(uid, 0.0) + secs + (limits.buffer_secs if limits else 0.0)
            if uid and entry.at < over:
                yield f"machines were restarted {over - entry.at:.0f} s before attempt {uid} must have ended"


def never_is_never(evidence: Evidence) -> Iterator[str]:
    """An experiment with reboot = "never" restarts no machine."""
    for entry in evidence.record:
        if isinstance(entry, Asked) and isinstance(entry.order, m.Reboot | m.PowerCycle):
            limits = evidence.limits.get(entry.experiment)
            if limits is not None and limits.reboot == "never":
                yield f"experiment {entry.experiment} restarts machines, but its file says never"


# ---------------------------------------------------------------- halts


def halts_are_told_once(evidence: Evidence) -> Iterator[str]:
    """Each halt gives one message in its transaction; of what several meet at once only one reaches people."""
    out: dict[int, tuple[str, str]] = {}  # halted experiment whose message tells of what others may meet -> of what
    for _, writes in commits(evidence):
        halts = [step for step in steps(writes) if step.after == "halted" != step.before]
        rows = [w for w in writes if isinstance(w, OutboxRow) and w.kind == "halt" and not w.tries]
        if len(halts) != len(rows) and not any(w.state in ("sent", "dead") for w in rows):
            yield f"{len(rows)} messages tell of {len(halts)} halts ({', '.join(step.note for step in halts)})"
        for step in steps(writes):
            if step.before == "halted" and (step.after != "halted" or step.event == "halt"):
                out.pop(step.experiment, None)
        for step, row in zip(halts, rows, strict=False):
            facts = json.loads(row.facts)
            everyone, merged = bool(facts.get("everyone")), row.state == "merged"
            what = (str(facts["cause"]), "" if facts["cause"] == "machine" else str(facts["code"]))
            told = what in out.values()
            if merged and not (everyone and told):
                yield f"the halt of experiment {step.experiment} was not told, and no other message tells of it"
            if everyone and told and not merged:
                yield f"experiment {step.experiment} tells of the same once more"
            if everyone and not merged:
                out[step.experiment] = what


def it_does_not_come_back_for_ever(evidence: Evidence) -> Iterator[str]:
    """An experiment goes on by itself only so often without a success."""
    count: Counter[int] = Counter()
    for entry in evidence.record:
        if not isinstance(entry, Committed):
            continue
        write = entry.write
        if isinstance(write, SaveHistory) and write.event in ("answered", "room") and write.before == "halted":
            count[write.experiment] += 1
            if count[write.experiment] > COMEBACKS:
                yield f"experiment {write.experiment} went on by itself {count[write.experiment]} times"
        elif isinstance(write, Happened) and _is_won(write):
            count[write.experiment] = 0


def nothing_goes_round_in_circles(evidence: Evidence) -> Iterator[str]:
    """An experiment takes only so many steps in an hour without a verdict."""
    since: dict[int, float] = {}
    count: Counter[int] = Counter()
    for at, writes in commits(evidence):
        for step in steps(writes):
            number = step.experiment
            decided = any(isinstance(w, Happened) and isinstance(w.change, m.TestDecided) for w in writes)
            if decided or step.event in ASKED_FOR or at - since.get(number, -HOUR) >= HOUR:
                since[number], count[number] = at, 0
            count[number] += 1
            if count[number] == STEPS_AN_HOUR:
                yield f"experiment {number} took {STEPS_AN_HOUR} steps in {at - since[number]:.0f} s and got nowhere"


# ---------------------------------------------------------------- commands and the controller


def twice_is_once(evidence: Evidence) -> Iterator[str]:
    """A command that is given again changes nothing."""
    for entry in evidence.record:
        if isinstance(entry, Twice) and entry.before != entry.after:
            changed = [pair for pair in zip(entry.before, entry.after, strict=True) if pair[0] != pair[1]]
            yield f"{entry.command}, given again, made of {changed[0][0]} {changed[0][1]}"


def a_long_sleep_is_noticed(evidence: Evidence) -> Iterator[str]:
    """After a suspend of the controller nothing is believed before everything was asked for again."""
    waiting: set[int] = set()
    known: set[int] = set()
    for entry in evidence.record:
        if isinstance(entry, Woke) and entry.secs >= SLEPT_SECS:
            waiting = set(known)
        elif isinstance(entry, Committed) and isinstance(entry.write, SaveHistory):
            step = entry.write
            known.add(step.experiment)
            if step.event in ("validated", "succeeded", "failed") and step.experiment in waiting:
                yield f"experiment {step.experiment} {step.event} by an answer from before the suspend"
            if step.event == "restarted" or step.event in ASKED_FOR:
                waiting.discard(step.experiment)


def charges(evidence: Evidence) -> Iterator[tuple[int, m.Change | str]]:
    """(experiment, change) of each change; before those of a transaction the names of tests given back their charge."""
    for _, writes in commits(evidence):
        yield from ((step.experiment, step.test) for step in steps(writes) if step.event == "refunded")
        yield from ((write.experiment, write.change) for write in writes if isinstance(write, Happened))
