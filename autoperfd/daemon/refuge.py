"""The refuge: what the daemon does while its memory cannot be used. It answers from the last good status, and waits.

Nothing is written to the state folder but a probe that is removed at once, or by the next try after a crash; no work is
done, every command but a look is refused with the reason. The incident is kept in the runtime folder, so a restart
neither forgets it nor tells it twice. `wait` runs on the main thread; `answer` on the callers' threads, from values
that are only ever replaced.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import queue
import random
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import autoperfd
from autoperfd.core.settings import DaemonSettings
from autoperfd.daemon import files, message, notify, place, screen, views
from autoperfd.daemon.control import Reply, Who
from autoperfd.daemon.pulse import Pulse
from autoperfd.daemon.store import OutboxRow
from autoperfd.errors import DISK_CODES, AlreadyRunning, AutoperfError, NewerMemory, OlderMemory

log = logging.getLogger(__name__)

NOTE = "refuge.json"
AGAIN_SECS = 600.0  # a memory that fails again so soon after it could be used is tried less and less often
MOST_SECS = 900.0
EVERYTHING = "every experiment"
_PROBE_BYTES = 1 << 20  # what the memory may need to grow by in one commit, and more
# The last is SQLite's word for an EIO of the kernel while reading.
_READS = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS})
_TODO = {
    "DISK_FULL": "Make room on the disk of {state}.",
    "DISK_READONLY": "Make the file system of {state} writable again; `dmesg` says why it is not.",
    "DISK_IO": "See to the disk of {state}; `dmesg` says what is wrong with it.",
}
Opened = TypeVar("Opened")


@dataclass(frozen=True, slots=True)
class Incident:
    """One time of not being able to use the memory. `status`: the last good snapshot, as views.snapshot wrote it."""

    since: float  # Unix seconds
    code: str
    sentence: str
    todo: str
    halt_id: str
    over_id: str
    is_announced: bool = False  # people are being told, so they are told when it is over
    is_told: bool = False  # and nothing more has to be sent
    tries: int = 0
    next_at: float = 0.0  # Unix seconds: when to tell again
    over_at: float = 0.0  # Unix seconds: the memory could be used again; 0: not yet
    relapses: int = 0  # how often in a row it failed again soon after that
    status: str = ""


def incident_of(error: AutoperfError, settings: DaemonSettings, status: bytes = b"") -> Incident:
    """What an error means for people."""
    code = code_of(error, settings.state)
    todo = _TODO[code].format(state=settings.state) if code in _TODO else error.hint
    return Incident(
        since=time.time(),
        code=code,
        sentence=error.message,
        todo=todo if todo.endswith((".", "!", "?")) else f"{todo}.",
        halt_id=secrets.token_hex(12),
        over_id=secrets.token_hex(12),
        status=status.decode(errors="replace"),
    )


def code_of(error: BaseException, state: Path) -> str:
    """The stable code of what keeps the memory from being used, from the error below the sentence."""
    if isinstance(error, OlderMemory):
        return "MEMORY_OLDER"
    here: BaseException | None = error
    while here is not None:
        if isinstance(here, OSError) and here.errno in DISK_CODES:
            return DISK_CODES[here.errno]
        if isinstance(here, sqlite3.Error):
            return _code_of_sqlite(getattr(here, "sqlite_errorcode", 0), state)
        here = here.__cause__
    return "STATE_UNREADABLE"


def _code_of_sqlite(number: int, state: Path) -> str:
    if number & 0xFF == sqlite3.SQLITE_FULL:
        return "DISK_FULL"
    if number & 0xFF == sqlite3.SQLITE_READONLY or (number & 0xFF == sqlite3.SQLITE_IOERR and _is_read_only(state)):
        return "DISK_READONLY"
    if number & 0xFF == sqlite3.SQLITE_IOERR and number not in _READS:
        return "DISK_IO"
    return "STATE_UNREADABLE"


def _is_read_only(state: Path) -> bool:
    """Whether the disk refuses to be written to; one that became so by an error does not say so of itself."""
    path = state / f"{files.TEMPORARY}{secrets.token_hex(4)}"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        path.unlink()
    except OSError as error:
        return error.errno == errno.EROFS
    return False


# ---------------------------------------------------------------- the note in the runtime folder


def write_note(runtime: Path, incident: Incident) -> None:
    """Keep an incident over a restart; where that cannot be, only that it may be told again is lost."""
    try:
        files.replace(runtime / NOTE, json.dumps(asdict(incident)).encode())
    except AutoperfError as error:
        log.warning("%s", error.sentence())


def read_note(runtime: Path) -> Incident | None:
    """The incident an earlier process was in, if there is one that can be read."""
    try:
        raw = json.loads((runtime / NOTE).read_bytes())
        return Incident(**{key: raw[key] for key in Incident.__slots__})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def failed_again(runtime: Path, fresh: Incident) -> Incident:
    """The incident to go on with when the memory failed: the one that is not over, else a new one."""
    known = read_note(runtime)
    if known is None or (known.over_at and time.time() - known.over_at > AGAIN_SECS):
        return fresh
    news = {name: getattr(fresh, name) for name in ("code", "sentence", "todo")}
    if not known.over_at:
        return replace(known, **news, status=fresh.status or known.status)
    # People who were told that it is over have to be told of this one; who was told nothing knows of one at most.
    again = fresh if known.is_announced else replace(known, **news, over_at=0.0)
    return replace(again, relapses=known.relapses + 1, status=fresh.status or known.status)


# ---------------------------------------------------------------- the refuge


class Refuge:
    """One stay. `send` hands a message to the sender, whose outcomes come in through `told`; None: nobody is told."""

    def __init__(
        self,
        settings: DaemonSettings,
        incident: Incident,
        *,
        systemd: notify.Systemd,
        pulse: Pulse,
        send: Callable[[notify.Message], None] | None,
    ) -> None:
        self._settings, self._systemd, self._pulse, self._send = settings, systemd, pulse, send
        self._began = time.time()
        self._inbox: queue.SimpleQueue[tuple[notify.Message, notify.Outcome] | None] = queue.SimpleQueue()
        self._sending = False
        self._is_stopped = False
        self.incident = incident
        self._known = self._last_known()

    def told(self, message: notify.Message, outcome: notify.Outcome) -> None:
        """What a try to tell came to; from any thread."""
        self._inbox.put((message, outcome))

    def stop(self) -> None:
        """Let `wait` return; from a signal handler."""
        self._is_stopped = True
        self._inbox.put(None)

    # ------------------------------------------------------------ waiting

    @property
    def knows_a_memory(self) -> bool:
        """Whether a memory could be used before; it is somewhere then, if not where it is looked for."""
        return self._known is not None

    def wait(self, usable: Callable[[Sequence[OutboxRow]], Opened], *, was_tried: bool) -> Opened | None:
        """Until `usable` returns, which gets the messages that are owed by then; None when asked to stop.

        `was_tried`: it was not usable just now. Raises NewerMemory, AlreadyRunning.
        """
        secs, relapses = self._settings.memory_probe_secs, self.incident.relapses
        first = max(secs, min(secs * 2.0 ** min(relapses, 20), MOST_SECS)) if was_tried or relapses else 0.0
        probe_at = time.monotonic() + first
        said = ""
        while not self._is_stopped:
            self._pulse.beat()
            if time.monotonic() >= probe_at:
                with self._pulse.working():
                    try:
                        self._probe()
                        opened = usable(self._owed())
                    except (NewerMemory, AlreadyRunning):
                        raise
                    except AutoperfError as error:
                        self._keep(failed_again(self._settings.runtime, incident_of(error, self._settings)))
                    else:
                        self._over()
                        return opened
                probe_at = time.monotonic() + secs
            if said != self.incident.sentence:
                said = self.incident.sentence
                self._systemd.status(f"in refuge: {self.incident.code}: {said}")
                log.error("in refuge: %s: %s. %s", self.incident.code, said, self.incident.todo)
            self._tell()
            self._take_outcome(min(5.0, max(0.0, probe_at - time.monotonic())))
        return None

    def _probe(self) -> None:
        """Whether the disk takes what a commit may need. Raises DiskError."""
        path = self._settings.state / f"{files.TEMPORARY}probe"
        try:
            files.replace(path, bytes(_PROBE_BYTES))
        finally:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("cannot remove %s: %s", path, error.strerror)

    def _over(self) -> None:
        self._keep(replace(self.incident, over_at=time.time()))
        log.warning("the memory can be used again; going on")

    def _keep(self, incident: Incident) -> None:
        if incident != self.incident:
            self.incident = incident
            write_note(self._settings.runtime, incident)

    # ------------------------------------------------------------ telling

    def _message(self) -> notify.Message:
        incident = self.incident
        return notify.Message(incident.halt_id, "halt", self._facts(), incident.since)

    def _facts(self) -> dict[str, message.Fact]:
        i = self.incident
        return {
            "controller": os.uname().nodename,
            "experiment": EVERYTHING,
            "sentence": f"{i.code}: {i.sentence}",
            "todo": i.todo,
            "cause": "controller",
            "code": i.code,
            "at": i.since,
        }

    def _tell(self) -> None:
        now, incident = time.time(), self.incident
        if self._send is None or self._sending or incident.is_told or now < incident.next_at <= now + 86400:
            return
        self._keep(replace(incident, is_announced=True))
        self._sending = True
        self._send(replace(self._message(), tries=incident.tries))

    def _take_outcome(self, secs: float) -> None:
        try:
            came = self._inbox.get(timeout=secs)
        except queue.Empty:
            return
        if came is None or came[0].id != self.incident.halt_id:
            return
        outcome, tries = came[1], self.incident.tries + 1
        self._sending = False
        at = None
        if outcome.result == "failed":
            at = notify.next_try(tries, self.incident.since, time.time(), outcome.retry_after, random.random)
        if at is None:
            self._keep(replace(self.incident, is_told=True, tries=tries))
        else:
            self._keep(replace(self.incident, tries=tries, next_at=at))
        if outcome.why:
            log.warning("telling of the refuge: %s", outcome.why)

    def _owed(self) -> list[OutboxRow]:
        """What the memory is to tell once it can be used: that it is over, and before that, if need be, that it was."""
        i, now = self.incident, time.time()
        if not i.is_announced:
            return []
        over = self._facts() | {"sentence": "its memory can be used again", "todo": "", "code": i.code, "at": now}
        rows = [_row(i.over_id, "over", over, max(now, i.since + 0.001))]
        if not i.is_told:
            rows.insert(0, _row(i.halt_id, "halt", self._facts(), i.since))
        return rows

    # ------------------------------------------------------------ answering

    def answer(self, command: str, args: Mapping[str, Any], who: Who) -> Reply:
        """What can be said to a caller; any thread."""
        view = self._view()
        if command == "status":
            text = screen.render_status(view, screen.columns_of(args))
            return Reply(text=text, data=views.to_data(view), exit=views.status_exit(view))
        if command == "list":
            listing = views.ListView(view.now, view.experiments)
            text = screen.render_list(listing) if view.experiments else "No experiment is known.\n"
            return Reply(text=text, data=views.to_data(listing))
        if command == "show":
            wanted = args.get("experiment")
            known = next((e for e in view.experiments if e.name == wanted), None)
            if known is not None:
                show = views.ShowView(view.now, known, str(self._settings.state / "results"))
                return Reply(text=screen.render_show(show), data=views.to_data(show))
        incident = self.incident
        error = f"autoperfd is in refuge since {views.clock(incident.since)} and does nothing: {incident.sentence}"
        return Reply.refused(error, f"{incident.todo} {self._again()}")

    def _view(self) -> views.StatusView:
        i, known = self.incident, self._known
        refuge = views.RefugeView(
            i.since, i.code, i.sentence, f"{i.todo} {self._again()}", known.now if known else None
        )
        return views.StatusView(
            now=time.time(),
            version=autoperfd.__version__,
            pid=os.getpid(),
            since=self._began,
            hold=known.hold if known else "",
            experiments=known.experiments if known else (),
            failures=known.failures if known else (),
            refuge=refuge,
        )

    def _again(self) -> str:
        secs = views.duration(math.ceil(self._settings.memory_probe_secs))
        return f"It is tried again every {secs}; then autoperfd goes on by itself."

    def _last_known(self) -> views.StatusView | None:
        try:
            kept = (self._settings.state / place.SNAPSHOT).read_bytes()
        except OSError:
            kept = b""
        for data in (self.incident.status.encode(), kept):
            try:
                return views.read_snapshot(data)[0]
            except ValueError:
                continue
        return None


def _row(number: str, kind: str, facts: Mapping[str, object], created: float) -> OutboxRow:
    return OutboxRow(
        id=number,
        created=created,
        kind=kind,
        facts=json.dumps(dict(facts)),
        tries=0,
        next_at=created,
        state="waiting",
        why="",
    )
