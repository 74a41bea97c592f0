"""One attempt on all its machines: find or prepare, start together, wait, fetch. Blocks its caller's thread.

Knows the order of things and what each answer means; promises that asking again with the same uid goes on
where the attempt stands, and that nothing is started twice. Workers of a `Call` reach the machines.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Literal

from autoperfd.core.plan import Machine, ParticipantRecord
from autoperfd.core.text import safe
from autoperfd.errors import (
    AutoperfError,
    HalfStarted,
    MachineAway,
    MachineError,
    MachineImpossible,
    StartFailed,
)
from autoperfd.remote import answers
from autoperfd.remote.answers import STARTED, Found
from autoperfd.remote.crew import Call, gravest, whole
from autoperfd.remote.fetch import Fetched, fetch
from autoperfd.remote.link import Line
from autoperfd.remote.probe import taken
from autoperfd.remote.shell import ShellBroken
from autoperfd.remote.values import Order, Outcome, Timing

MARGIN_SECS = 10.0  # how long after its hard stop a launcher may still be silent
RECONNECT_PAUSES = (0.1, 1.0)  # a link lost in mid-test is told within seconds when it does not come back
RECONNECT_SECS = 1.5
BANNER_SECS = 5.0  # a machine that takes a connection and says nothing for so long hangs
JUST_STARTED = Found("running", "")
FULL_KB = 64  # less free space than this at the end: the machine's disk is full
VALUES_LIMIT = 1_700_000  # bytes of arguments and environment one machine's participants may have in all
How = Literal["started", "adopted", "finished"]
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}", re.ASCII)


class Attempt:
    """One call of `Fleet.attempt`."""

    def __init__(
        self,
        order: Order,
        lines: Mapping[str, Line],
        installation: str,
        timing: Timing,
        call: Call,
    ) -> None:
        self._order = order
        self._plan = order.plan
        self._lines = lines
        self._timing = timing
        self._call = call
        self._place = (installation, order.uid)
        names = set(order.plan.machines())
        self._machines = [machine for machine in order.machines if machine.name in names]
        self._idle = [machine for machine in order.machines if machine.name not in names]
        self._deadline = math.ceil(order.deadline_secs)
        self._hard = self._deadline + max(timing.grace_secs, timing.stop_secs + 1)
        self._offsets: dict[str, float] = {}  # machine -> its clock minus ours
        self._starts: dict[str, float] = {}  # machine -> its clock at the start
        self._standing: dict[str, Found] = {}  # what was found of it at first; empty when it was started now
        self._publishers: set[str] = set()  # machines whose publishers have not all ended
        self._publishers_failed = False
        self._grace_ends: float | None = None
        self._was_away: dict[str, str] = {}  # machine -> code, where the link was lost as it ran
        self._connected: dict[str, int] = {}  # machine -> connections made to it before it ran

    def make(self, confirmed: bool, on_started: Callable[[], None]) -> Outcome:
        """See Fleet.attempt."""
        self._check()
        how: How
        if confirmed:
            self._standing = whole(self._call.each(self._machines, self._state))
            running = any(found.state == "running" for found in self._standing.values())
            how = "adopted" if running else "finished"
        else:
            how = self._start()
        self._connected = {name: line.link.connections for name, line in self._lines.items()}
        on_started()
        ended = self._wait()
        fetched = self._fetch(ended)
        return self._outcome(how, ended, fetched)

    # Starting

    def _start(self) -> How:
        for _ in range(2):
            standing = self._prepare()
            started = {name for name, found in standing.items() if found is not None and found.state in STARTED}
            if len(started) == len(standing):
                self._standing = {name: found for name, found in standing.items() if found is not None}
                return "adopted" if any(f.state == "running" for f in self._standing.values()) else "finished"
            if started:
                self._end_half(started)
            answered = whole(self._call.each(self._machines, self._go))
            gone = [name for name, went in answered.items() if not went]
            if not gone:
                return "started"
            if len(gone) < len(answered):
                self._end_half(set(answered) - set(gone))
            # All of them had waited too long for the start, which never came: make them ready once more.
        raise StartFailed(gone[0], "its launcher gave up before it was started", code="NEVER_STARTED")

    def _prepare(self) -> dict[str, Found | None]:
        """Machine -> what was found there, None: made ready now. Sweeps older attempts on all machines."""
        found = self._call.each([*self._machines, *self._idle], self._prepare_one)
        refused = [e for e in found.values() if isinstance(e, MachineError) and not isinstance(e, MachineAway)]
        if refused:
            ready = [machine for machine in self._machines if found[machine.name] is None]
            self._call.each(ready, lambda machine: self._end(machine, "sweep", wait=False))
        return {name: answer for name, answer in whole(found).items() if name in self._plan.machines()}

    def _prepare_one(self, machine: Machine) -> Found | None:
        line = self._lines[machine.name]
        if machine in self._idle:
            line.ask("sweep", [self._place[0]])
            return None
        tokens, values = self._question(machine)
        deadline = time.monotonic() + self._timing.answer_secs
        while True:
            text = line.ask("prepare", tokens, values)
            word, _, rest = text.partition("\n")
            kind, _, detail = word.partition(" ")
            if kind == "parked":
                self._note_clock(line)
                return None
            if kind == "found" and not rest.startswith("state starting"):
                return self._read(line, rest)
            if kind == "found" and time.monotonic() < deadline:
                self._call.stopped.wait(0.1)  # an earlier question, whose link was lost, is still at it
                self._call.check()
                continue
            raise self._refusal(machine, kind, safe(detail, 300))

    def _refusal(self, machine: Machine, kind: str, detail: str) -> MachineError:
        name = machine.name
        if kind == "taken":
            holder, _, uid = detail.partition(" ")
            return taken(machine, holder, uid)
        if "No space left" in detail:
            return StartFailed(
                name, "its disk is full", code="REMOTE_DISK_FULL", hint=f"Free space in ~{machine.username} there"
            )
        if detail.startswith("leftovers"):
            return StartFailed(
                name,
                f"processes of an earlier attempt ({detail[10:]}) do not end",
                code="ORPHAN",
                hint="Reboot the machine",
            )
        return StartFailed(name, f"the launcher could not be set up ({detail or kind})", code="LAUNCHER")

    def _question(self, machine: Machine) -> tuple[list[object], list[str]]:
        """Tokens and values of verb prepare."""
        participants = self._plan.on(machine.name)
        values: list[str] = []
        for p in participants:
            environment = [f"{key}={value}" for key, value in p.environment]
            own = [*environment, *p.argv]
            values += [p.role, p.stdout, p.stderr, str(len(environment)), str(len(own)), *own]
        blocks = self._timing.max_file_bytes // 512
        tokens: list[object] = [*self._place, self._deadline, self._timing.stop_secs, self._hard]
        tokens += [self._timing.prepared_secs, blocks, log_name(machine), len(participants), len(values)]
        return tokens, values

    def _go(self, machine: Machine) -> bool:
        """Whether it runs now."""
        word, _, clock = self._lines[machine.name].ask("go", self._place).strip().partition(" ")
        if word == "running":
            try:
                started = answers.seconds(clock)
            except ShellBroken:
                started = None
            if started is not None:
                self._starts[machine.name] = started
        return word == "running"

    def _end_half(self, started: set[str]) -> None:
        self._call.each(self._machines, lambda machine: self._end(machine, "sweep", wait=True))
        missing = [machine.name for machine in self._machines if machine.name not in started]
        raise HalfStarted(
            f"attempt {self._order.uid} had been started on {', '.join(sorted(started))} "
            f"but not on {', '.join(missing)}; all of it was ended",
            hint="The test is tried again",
        )

    # Waiting

    def _wait(self) -> dict[str, Found]:
        if self._plan.end_subscribers_after_publishers:
            self._publishers = {p.machine for p in self._plan.participants if p.role == "pub"}
        return whole(
            self._call.each(
                self._machines,
                self._wait_one,
                workers=len(self._machines),  # each is blocked for the whole test
                meanwhile=self._end_by_grace if self._publishers else None,
                to_first_error=True,  # a machine that is away is told at once, not when the others have ended
            )
        )

    def _wait_one(self, machine: Machine) -> Found:
        found = self._standing.get(machine.name, JUST_STARTED)
        if machine.name not in self._offsets:
            self._note_clock(self._lines[machine.name])
        bound = time.monotonic() + max(0.0, self._hard - found.age) + MARGIN_SECS
        while found.state in ("running", "starting"):
            self._call.check()
            if time.monotonic() > bound:
                return self._end(machine, "sweep", wait=False)
            which = "all"
            if machine.name in self._publishers:
                if self._publishers_ended(machine, found):
                    self._publishers.discard(machine.name)
                else:
                    which = "pubs"
            found = self._await(machine, which, bound)
        if self._lines[machine.name].link.connections > self._connected[machine.name]:
            self._was_away.setdefault(machine.name, "LINK_LOST")  # also where nobody asked anything just then
        if found.state == "lost" and found.before == found.boot:
            found = self._end(machine, "sweep", wait=False)  # nobody is left who would end the participants in time
        if machine.name in self._publishers:
            self._publishers_ended(machine, found)
            self._publishers.discard(machine.name)
        if found.state != "done":
            # It rebooted or lost its records, so the attempt is lost: nobody waits for the others to come to their end.
            others = [other for other in self._machines if other.name != machine.name]
            self._call.each(others, lambda other: self._end(other, "sweep", wait=False))
        return found

    def _await(self, machine: Machine, which: str, bound: float) -> Found:
        line = self._lines[machine.name]
        for pause in (*RECONNECT_PAUSES, None):
            try:
                line.connect(tcp_secs=RECONNECT_SECS, banner_secs=BANNER_SECS)
                secs = max(0.1, bound - time.monotonic())
                return self._read(line, line.ask("await", [*self._place, which], secs=secs, on="bulk", tries=1))
            except MachineAway as away:
                self._call.check()
                if away.code == "SHELL_HANG" and time.monotonic() >= bound:
                    return self._state(machine)  # it should have told by itself long ago
                if pause is None or away.code in ("ABANDONED", "SSH_NO_BANNER"):
                    raise
                self._was_away[machine.name] = away.code
                self._call.stopped.wait(pause)
        raise AssertionError("unreachable")

    def _publishers_ended(self, machine: Machine, found: Found) -> bool:
        records = [found.record(at, p) for at, p in enumerate(self._plan.on(machine.name)) if p.role == "pub"]
        if any(record.ended_by == "unknown" for record in records):
            return False
        if any(record.exit != 0 for record in records):
            self._publishers_failed = True
        return True

    def _end_by_grace(self) -> None:
        """Ends the remaining subscribers grace_secs after the last publisher ended well."""
        if self._publishers or self._publishers_failed:
            return
        now = time.monotonic()
        if self._grace_ends is None:
            self._grace_ends = now + self._timing.grace_secs
        elif now >= self._grace_ends:
            answered = self._call.each(self._machines, lambda machine: self._end(machine, "grace", wait=False))
            self._grace_ends = now + 1 if gravest(answered) else math.inf

    # Fetching

    def _fetch(self, ended: Mapping[str, Found]) -> dict[str, Fetched]:
        present = [machine for machine in self._machines if ended[machine.name].state in STARTED]
        return whole(self._call.each(present, self._fetch_one))

    def _fetch_one(self, machine: Machine) -> Fetched:
        names = [log_name(machine)]
        for p in self._plan.on(machine.name):
            names += [*p.files, p.stdout, p.stderr]
        names = list(dict.fromkeys(names))
        fetched = fetch(self._lines[machine.name], self._timing, self._place, names, self._order.folder)
        if fetched.files and fetched.files[0].name == names[0] and not fetched.files[0].size:
            (self._order.folder / names[0]).unlink()  # a launcher with nothing to say
            return Fetched(fetched.files[1:], fetched.refused)
        return fetched

    # The end

    def _outcome(self, how: How, ended: Mapping[str, Found], fetched: Mapping[str, Fetched]) -> Outcome:
        records: dict[str, ParticipantRecord] = {}
        problems: dict[str, str] = {}
        for machine in self._machines:
            found = ended[machine.name]
            for at, participant in enumerate(self._plan.on(machine.name)):
                records[participant.name] = found.record(at, participant)
            if found.started is not None:
                self._starts[machine.name] = found.started
            problem = self._problem(found, fetched.get(machine.name))
            if problem:
                problems[machine.name] = problem
        starts = [self._starts[m] - self._offsets[m] for m in self._starts if m in self._offsets]
        whole_picture = len(starts) == len(self._machines)
        return Outcome(
            records=tuple(records[p.name] for p in self._plan.participants),
            files=tuple(file for part in fetched.values() for file in part.files),
            boot_before={name: found.before for name, found in ended.items() if found.before},
            boot_after={name: found.after or found.boot for name, found in ended.items()},
            stagger_secs=round(max(starts) - min(starts), 4) if starts and whole_picture else None,
            clock=dict(self._offsets),
            how_found=how,
            problems=problems,
            watch_before={name: found.watch_before for name, found in ended.items() if found.watch_before},
            watch_after={name: found.watch_after for name, found in ended.items() if found.watch_after},
            was_away=dict(self._was_away),
        )

    def _problem(self, found: Found, fetched: Fetched | None) -> str:
        if found.state not in STARTED:
            return "RECORDS_LOST"
        if found.free_kb is not None and found.free_kb < FULL_KB:
            return "REMOTE_DISK_FULL"
        if found.state != "done":
            return "LAUNCHER_LOST"
        if fetched and fetched.refused:
            return "; ".join(f"{kind.upper()} {name}" for name, kind in sorted(fetched.refused.items()))
        return ""

    # Small things

    def _state(self, machine: Machine) -> Found:
        line = self._lines[machine.name]
        return self._read(line, line.ask("state", self._place))

    def _end(self, machine: Machine, why: str, *, wait: bool) -> Found:
        line = self._lines[machine.name]
        secs = self._timing.answer_secs + (self._timing.stop_secs if wait else 0)
        return self._read(line, line.ask("end", [*self._place, why, int(wait)], secs=secs))

    def _read(self, line: Line, text: str) -> Found:
        try:
            found = answers.found(text)
        except ShellBroken as broken:
            raise line.away("BAD_ANSWER", f"it answers nonsense ({safe(broken.detail, 200)})") from broken
        return found

    def _note_clock(self, line: Line) -> None:
        """Compares the clocks; half a round trip is the error."""
        asked = time.time()
        try:
            theirs = answers.seconds(line.ask("clock").strip())
        except ShellBroken:
            return
        if theirs is not None:
            self._offsets[line.machine.name] = round(theirs - (asked + time.time()) / 2, 4)

    def _check(self) -> None:
        """Refuses what the launcher could not carry unchanged. Raises MachineImpossible."""
        plan = self._plan
        strangers = set(plan.machines()) - {machine.name for machine in self._order.machines}
        if strangers or not plan.participants or not re.fullmatch(r"[0-9a-f]{32}", self._order.uid):
            raise AutoperfError(f"the order {self._order.uid!r} does not fit its plan ({sorted(strangers)})")
        names = [name for p in plan.participants for name in (p.stdout, p.stderr, *p.files)]
        for machine in self._machines:
            names.append(log_name(machine))
            participants = plan.on(machine.name)
            words = [word for p in participants for word in (*p.argv, *(f"{k}={v}" for k, v in p.environment))]
            problem = ""
            if any("\0" in word for word in words):
                problem = "an argument or environment value holds a NUL"
            elif any(not p.argv for p in participants):
                problem = "a participant has no executable"
            elif sum(len(word.encode("utf-8", "surrogateescape")) + 20 for word in words) > VALUES_LIMIT:
                problem = "its participants' arguments are too long"
            for key in (key for p in participants for key, _ in p.environment):
                if not _VARIABLE.fullmatch(key) or key.startswith("AUTOPERF_"):
                    problem = f"{key!r} cannot be the name of an environment variable"
            if problem:
                raise MachineImpossible(
                    machine.name, safe(problem), code="CANNOT_CARRY", hint="Change it in the experiment file"
                )
        for name in names:
            if not _NAME.fullmatch(name) or names.count(name) > 1:
                raise AutoperfError(f"the plan's file name {name!r} is not safe or not unique")


def log_name(machine: Machine) -> str:
    """The file name of the machine's launcher log."""
    return f"launcher.{machine.name}.log"
