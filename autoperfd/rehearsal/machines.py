"""Machines that exist in memory only: what the launcher does there, what may go wrong, and the links to them.

A machine answers the launcher's verbs with the launcher's meanings: a folder is made once for a uid, an attempt
starts once, ends by itself at its deadline, and is lost with the boot it ran in. One that is ill answers with the
codes of the real remote part, and comes back only by the rungs of the ladder it obeys. One thread, virtual time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from autoperfd.core.guards import Watch
from autoperfd.errors import AutoperfError, MachineAway, MachineError, MachineImpossible, MachineTaken, StartFailed
from autoperfd.rehearsal.timeline import Timeline

STARTED = ("running", "lost", "done")  # states in which the participants have been released
PARKED_SECS = 60.0  # how long a prepared attempt waits for its start
LOSS_SECS = (6.0, 15.0)  # how long it takes to notice that a peer is silent
RUNGS = ("soft", "forced", "power")
MUTE = ("PING", "SSH_SILENT", "SSH_NO_BANNER")  # ill so that no command arrives
DULL = ("SHELL_HANG", "BAD_ANSWER")  # ill so that a command arrives, but only a reboot is carried out
BOOTED_LONG_AGO = 100_000.0  # seconds before the beginning of time

Answer = Callable[[Any, AutoperfError | None], None]
Decide = Callable[[str], tuple[str, float]]  # uid -> (end status, seconds it runs)
Report = Callable[[str, str, str, str], None]  # machine, verb, uid, boot id


@dataclass(slots=True)
class Folder:
    """One attempt on one machine. `processes`: something of it runs."""

    uid: str
    deadline: float  # seconds from the start
    parked_until: float
    before: str  # boot id
    state: str = "parked"  # parked, never, running, lost or done
    after: str = ""
    ended_by: str = ""
    started: float = 0.0
    processes: bool = True
    watch_before: Watch | None = None
    watch_after: Watch | None = None
    waits: list[Callable[[], None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Found:
    """What a machine tells of one attempt."""

    state: str
    boot: str
    before: str = ""
    after: str = ""
    ended_by: str = ""
    watch_before: Watch | None = None
    watch_after: Watch | None = None


class VirtualMachine:
    """One computer under test and its condition; `name` is the world's, experiments may call it otherwise."""

    def __init__(
        self, name: str, timeline: Timeline, rng: random.Random, decide: Decide, report: Report, wall: float = 0.0
    ) -> None:
        """`wall`: what its clock shows at the time 0, Unix seconds."""
        self.name, self._timeline, self._rng, self._decide, self._report = name, timeline, rng, decide, report
        self.folders: dict[str, Folder] = {}
        self.boots = 1
        self.up = True
        self.cut = False  # nothing comes through, neither way; what runs there goes on
        self.cuts = 0
        self.ill = ""  # powered, but not well: the code it is met with; "" for well
        self.obeys: tuple[str, ...] = RUNGS  # the rungs that have an effect on it
        self.relapses = 0  # how many boots leave it as ill as it was
        self.switch = "works"  # its power switch: works, refuses, or is idle (says yes and does nothing)
        self.parted: set[str] = set()  # names of the machines it does not hear
        self.slow = 0.0  # seconds that an answer may take longer
        self.deaf = 0.0  # probability that an answer gets lost
        self.impossible = ""  # why a person must act; "" when nobody must
        self.stranger = False  # it shows another host key: nothing is asked of it
        self.taken = False  # another installation's attempt runs there
        self.stubborn = False  # ended processes do not end before a reboot
        self.disk_full = False
        self.clock = wall  # of its own; steps change it
        self.users: tuple[str, ...] = ()  # people logged in there
        self.foreign: tuple[str, ...] = ()  # benchmark processes of theirs
        self.throttled = 0  # bits
        self.link_errors = 0
        self.never_goes = False  # its launcher ends before it is told to start
        self.forgetful = False  # its files do not outlive a boot
        self.boot_secs = (3.0, 20.0)
        self.traps: dict[str, Callable[[], None]] = {}  # verb -> what happens when it arrives the next time
        self._booted = timeline.now - BOOTED_LONG_AGO
        self._boot = 0  # number of the latest power cycle, so that an older one's end means nothing

    @property
    def boot_id(self) -> str:
        """Another one after each boot."""
        return f"{self.name}-boot-{self.boots}"

    @property
    def reachable(self) -> bool:
        """Whether a command would arrive."""
        return self.up and not self.cut and self.ill not in MUTE

    @property
    def pinged(self) -> bool:
        """Whether a ping would be answered."""
        return self.up and not self.cut and self.ill not in ("PING", "PING_LOST")

    @property
    def fit(self) -> bool:
        """Whether an attempt may begin there."""
        wrong = self.impossible or self.stranger or self.taken or self.disk_full or self.users or self.foreign
        return self.reachable and not self.ill and not wrong

    def hears(self, other: VirtualMachine) -> bool:
        """Whether a ping to another machine comes back."""
        return other.up and other.ill != "PING" and other.name not in self.parted

    def watch(self) -> Watch:
        """A look at itself."""
        return Watch(
            wall=self.clock + self._timeline.now,
            uptime=self._timeline.now - self._booted,
            users=self.users,
            foreign=self.foreign,
            throttled=self.throttled,
            link_errors=self.link_errors,
            free_kb=0 if self.disk_full else 1 << 20,
        )

    def away(self, verb: str) -> MachineAway:
        """What is met instead of an answer."""
        if not self.up or self.cut:
            return MachineAway(self.name, "it does not answer", code="PING" if verb == "probe" else "SSH_SILENT")
        return MachineAway(self.name, "it does not answer as it should", code=self.ill or "LINK_LOST")

    def missed(self, uid: str) -> None:
        """Whoever waited for the end of an attempt here lost the link, and asks again."""
        self._report(self.name, "missed", uid, self.boot_id)

    def alive(self) -> list[str]:
        """Uids of the attempts that have processes here now."""
        return [uid for uid, folder in self.folders.items() if folder.processes and folder.state != "parked"]

    # ------------------------------------------------------------ what may happen to it

    def down(self) -> None:
        """Lose power: what runs is gone, folders stay."""
        self.up = False
        self._boot += 1
        self._lose_processes()

    def _lose_processes(self) -> None:
        for folder in self.folders.values():
            if folder.state == "running":
                self._end(folder, "lost", "unknown")
            elif folder.state == "parked":
                folder.state = "never"
            elif folder.processes:
                self._report(self.name, "ended by unknown", folder.uid, self.boot_id)
            folder.processes = False

    def boot(self) -> None:
        """Come up with a new boot id."""
        self.up = True
        self.boots += 1
        self._booted = self._timeline.now
        if self.forgetful:
            self.folders.clear()
        if self.relapses:
            self.relapses -= 1
        else:
            self.ill = ""
        self._report(self.name, "booted", "", self.boot_id)

    def cycle(self, secs: float | None = None) -> None:
        """Go down and come back after a while."""
        self.down()
        number = self._boot
        secs = self._rng.uniform(*self.boot_secs) if secs is None else secs
        self._timeline.after(secs, lambda: self.boot() if not self.up and self._boot == number else None)

    def fall_ill(self, code: str, obeys: tuple[str, ...] = RUNGS, relapses: int = 0) -> None:
        """Be met with that code from now on, until a boot; "PING": its kernel is dead and runs nothing any more."""
        self.ill, self.obeys, self.relapses = code, obeys, relapses
        if code == "PING":
            self._lose_processes()

    def cycle_power(self) -> bool:
        """Switch it off and on; whether the switch says that it did."""
        if self.switch == "refuses":
            return False
        self._report(self.name, "power cut", "", self.boot_id)
        if self.switch == "works" and "power" in self.obeys:
            self.cycle()
        return True

    def set_cut(self, cut: bool) -> None:
        """Cut it from the network or connect it again."""
        if cut and not self.cut:
            self.cuts += 1
        self.cut = cut

    def mend(self) -> None:
        """Everything is as it should be again, as far as a person or the time can bring it about."""
        self.set_cut(False)
        self.traps.clear()
        self.slow = self.deaf = 0.0
        self.impossible = ""
        self.taken = self.stranger = self.never_goes = self.disk_full = False
        self.parted.clear()
        self.users = self.foreign = ()
        self.throttled, self.relapses, self.obeys, self.switch = 0, 0, RUNGS, "works"
        if self.stubborn or self.ill:
            self.stubborn = False
            self.cycle(5.0)
        elif not self.up:
            self.boot()

    def wipe(self) -> None:
        """Somebody empties its disk; processes go on."""
        for uid, folder in list(self.folders.items()):
            if not folder.processes:
                del self.folders[uid]
                self._report(self.name, "wiped", uid, self.boot_id)

    # ------------------------------------------------------------ the launcher's verbs

    def do(self, verb: str, *args: Any) -> Any:
        """Carry out one verb. Raises MachineError where it refuses."""
        if self.stranger:
            raise MachineImpossible(self.name, "its host key has changed", code="HOST_KEY_MISMATCH")
        return getattr(self, f"_{verb}")(*args)

    def _probe(self) -> str:
        if self.impossible:
            raise MachineImpossible(self.name, self.impossible, code="IMPOSSIBLE")
        if self.taken:
            raise MachineTaken(self.name, "an attempt of another installation runs there", code="MACHINE_TAKEN")
        if self.ill:
            raise self.away("probe")
        if self.users or self.foreign:
            code = "FOREIGN_PROCESS" if self.foreign else "USER_LOGGED_IN"
            raise MachineTaken(self.name, "somebody uses it", code=code)
        if self.disk_full:
            raise MachineAway(self.name, "its disk is full", code="REMOTE_DISK_FULL")
        self._report(self.name, "probed", "", self.boot_id)
        return self.boot_id

    def _boot_id(self) -> str:
        return self.boot_id

    def _reboot(self, rung: str) -> str:
        if self.impossible:
            raise MachineImpossible(self.name, self.impossible, code="REBOOT_REFUSED")
        self._report(self.name, f"told to reboot, {rung}", "", self.boot_id)
        if rung in self.obeys:
            self.cycle()
        return "accepted"

    def _prepare(self, uid: str, deadline: float) -> Found | None:
        """None: made ready now."""
        if self.taken:
            raise MachineTaken(self.name, "an attempt of another installation runs there", code="MACHINE_TAKEN")
        if self.disk_full:
            raise StartFailed(self.name, "its disk is full", code="REMOTE_DISK_FULL")
        if self._sweep(uid):
            raise StartFailed(self.name, "processes of an earlier attempt do not end", code="ORPHAN")
        folder = self.folders.get(uid)
        if folder is not None and self._state(uid).state != "never":
            return self._state(uid)
        parked_until = self._timeline.now + PARKED_SECS
        self.folders[uid] = Folder(uid, deadline, parked_until, self.boot_id, watch_before=self.watch())
        self._report(self.name, "prepared", uid, self.boot_id)
        return None

    def _go(self, uid: str) -> bool:
        """Whether it runs or has run."""
        if self.never_goes:
            self._stop(uid, "unknown")
        state = self._state(uid).state
        if state == "parked":
            self._begin(self.folders[uid])
        return state in ("parked", *STARTED)

    def _state(self, uid: str) -> Found:
        folder = self.folders.get(uid)
        if folder is None:
            return Found("absent", self.boot_id)
        if folder.state == "parked" and folder.parked_until < self._timeline.now:
            folder.state, folder.processes = "never", False
        watches = folder.watch_before, folder.watch_after
        return Found(folder.state, self.boot_id, folder.before, folder.after, folder.ended_by, *watches)

    def _stop(self, uid: str, why: str) -> Found:
        folder = self.folders.get(uid)
        if folder is not None and folder.state == "parked":
            folder.state, folder.processes = "never", False
        if folder is not None and folder.state == "running":
            self._end(folder, "done", why)
        return self._state(uid)

    def _sweep(self, keep: str = "") -> list[str]:
        """Uids that do not end."""
        for uid in [uid for uid in self.folders if uid != keep]:
            self._stop(uid, "sweep")
            if self.folders[uid].processes:
                continue
            del self.folders[uid]
            self._report(self.name, "swept", uid, self.boot_id)
        return [uid for uid in self.folders if uid != keep]

    # ------------------------------------------------------------ inside

    def _begin(self, folder: Folder) -> None:
        folder.state, folder.started, folder.before = "running", self._timeline.now, self.boot_id
        self._report(self.name, "started", folder.uid, self.boot_id)
        _, secs = self._decide(folder.uid)
        by = "self" if secs <= folder.deadline else "deadline"
        self._timeline.after(min(secs, folder.deadline), lambda: self._over(folder, by))

    def _over(self, folder: Folder, by: str) -> None:
        if folder.state == "running":
            self._end(folder, "done", by)

    def _end(self, folder: Folder, state: str, by: str) -> None:
        folder.state, folder.ended_by = state, by
        if state == "done":
            folder.after, folder.watch_after = self.boot_id, self.watch()
        folder.processes = self.stubborn and by not in ("self", "unknown")
        self._report(self.name, f"{'clings, ' if folder.processes else ''}ended by {by}", folder.uid, self.boot_id)
        waits, folder.waits = folder.waits, []
        for wake in waits:
            wake()


class Link:
    """One daemon's connection to one machine: what was sent arrives in order, even when the sender is gone."""

    def __init__(self, machine: VirtualMachine, timeline: Timeline, rng: random.Random) -> None:
        self.machine, self._timeline, self._rng = machine, timeline, rng
        self._latest = 0.0

    def ask(self, verb: str, *args: Any, secs: float | None = None) -> Request:
        """A question to yield from a process; `secs`: how soon silence is noticed."""
        return Request(self, verb, args, self._rng.uniform(*LOSS_SECS) if secs is None else secs)

    def send(self, request: Request, answer: Answer) -> None:
        """Put a request on its way."""
        self._latest = max(self._timeline.now + self._lag(), self._latest)
        self._timeline.at(self._latest, lambda: self._deliver(request, answer))

    def _lag(self) -> float:
        return self._rng.uniform(0.001, 0.02 + self.machine.slow)

    def _deliver(self, request: Request, answer: Answer) -> None:
        machine = self.machine
        trap = machine.traps.pop(request.verb, None)
        if trap is not None:
            trap()
        if not machine.reachable or (machine.ill in DULL and request.verb != "reboot"):
            self._silent(request, answer)
            return
        if request.verb == "await":
            folder = machine.folders.get(request.args[0])
            if folder is not None and folder.state == "running":
                self._wait(folder, request, answer)
                return
            request = Request(self, "state", request.args, request.secs)
        value, error = None, None
        try:
            value = machine.do(request.verb, *request.args)
        except MachineError as raised:
            error = raised
        self._timeline.after(self._lag(), lambda: self._return(request, answer, value, error))

    def _return(self, request: Request, answer: Answer, value: Any, error: AutoperfError | None) -> None:
        if not self.machine.reachable or self._rng.random() < self.machine.deaf:
            self._silent(request, answer)
        else:
            answer(value, error)

    def _silent(self, request: Request, answer: Answer) -> None:
        self._timeline.after(request.secs, lambda: answer(None, self.machine.away(request.verb)))

    def _wait(self, folder: Folder, request: Request, answer: Answer) -> None:
        """Hold the question until the attempt ends there, or the connection is found dead."""
        machine, told = self.machine, [False]
        boots, cuts = machine.boots, machine.cuts

        def wake() -> None:
            if not told[0]:
                told[0] = True
                self._deliver(Request(self, "state", request.args, request.secs), answer)

        def look() -> None:
            """The link's keepalive."""
            if told[0]:
                return
            if not machine.reachable or (machine.boots, machine.cuts) != (boots, cuts):
                told[0] = True
                answer(None, machine.away("await"))
            else:
                self._timeline.after(request.secs, look)

        folder.waits.append(wake)
        self._timeline.after(request.secs, look)


@dataclass(frozen=True, slots=True)
class Request:
    """One verb on its way to one machine; a process yields it and gets the answer."""

    link: Link
    verb: str
    args: tuple[Any, ...]
    secs: float

    def begin(self, answer: Answer) -> None:
        """See Awaitable."""
        self.link.send(self, answer)
