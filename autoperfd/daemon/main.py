"""autoperfd: puts the daemon together, runs the engine on the main thread, and ends in order.

A restart finds everything in the memory; attempts on machines outlive this process. Where the memory cannot be used
the daemon waits in its refuge. The one other place besides the worker boundary where any error is caught.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import math
import os
import queue
import random
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import autoperfd
from autoperfd.core import instance as instances
from autoperfd.core.config import Experiment
from autoperfd.core.plan import Machine
from autoperfd.core.settings import DaemonSettings, default_settings, read_settings
from autoperfd.daemon import behind, commands, condition, copies, files, logs, notify, place, refuge, views
from autoperfd.daemon.control import Ask, Control, Reply, Who, asker
from autoperfd.daemon.digest import Digest
from autoperfd.daemon.engine import Delivered, Engine, Offer, Rejected, Stop
from autoperfd.daemon.heartbeat import Heartbeat
from autoperfd.daemon.imports import read_history
from autoperfd.daemon.looks import Looks
from autoperfd.daemon.parse import read_limited
from autoperfd.daemon.pins import PinBook
from autoperfd.daemon.pulse import Pulse
from autoperfd.daemon.space import Reserve, measure
from autoperfd.daemon.spool import Drop, Spool
from autoperfd.daemon.store import AttemptRow, OutboxRow, SaveMeta, Store, open_store, release_lock, take_lock
from autoperfd.daemon.workers import Workers
from autoperfd.errors import (
    AlreadyRunning,
    AutoperfError,
    ConfigError,
    MachineImpossible,
    NewerMemory,
    Problem,
    Refused,
    StoreError,
)
from autoperfd.remote import power
from autoperfd.remote.fleet import Fleet
from autoperfd.remote.keys import KeyRing
from autoperfd.remote.values import Timing
from autoperfd.tools import BROKEN, TOOLS

if TYPE_CHECKING:
    from autoperfd.daemon.webhook import Target
    from autoperfd.page.server import Server

log = logging.getLogger("autoperfd")

CONFIG = Path("/etc/autoperf/autoperfd.toml")
PAGE_EXTRA = (
    "sudo make install EXTRAS=page, or pip install flask waitress prometheus_client where autoperfd is installed"
)
SNAPSHOT_SECS = 1.0  # after a change; whatever follows the change at once comes first
LOCK_SECS = 5.0
OFFER_SECS = 60.0
TIDY_SECS = 60.0


class SystemClock:
    """The computer's own time."""

    def wall(self) -> float:
        """Unix seconds UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never step."""
        return time.monotonic()

    def suspended(self) -> float:
        """Seconds that the computer was suspended since it booted."""
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic())


def main(argv: list[str] | None = None) -> int:
    """The daemon's process. Exit status: 0 ended in order, 1 cannot run, 2 settings, 3 another one runs, 70 a bug."""
    signals = Signals()
    parser = argparse.ArgumentParser(
        prog="autoperfd",
        description="Runs performance experiments on lab machines. Started by systemd; see autoperfctl.",
        epilog="Example: autoperfd --config /etc/autoperf/autoperfd.toml",
    )
    parser.add_argument("--config", type=Path, help=f"the daemon's settings (default {CONFIG})")
    parser.add_argument("--version", action="version", version=f"autoperfd {autoperfd.__version__}")
    args = parser.parse_args(argv)
    written = logs.to_stderr()
    systemd = notify.Systemd()
    marker: Path | None = None
    try:
        settings = _settings(args.config, instances.checked(os.environ.get(instances.ENVIRONMENT, "")))
        marker = settings.state / "crashed"
        return Daemon(settings, marker, systemd, signals, written).run()
    except AlreadyRunning as error:
        return _cannot(systemd, error.sentence(), 3)
    except ConfigError as error:
        return _cannot(systemd, f"the settings cannot be used:\n{error}", 2)
    except AutoperfError as error:
        return _cannot(systemd, error.sentence(), 1)
    except Exception:  # noqa: BLE001 - the last place: the journal gets the traceback, systemd starts us anew
        log.critical("autoperfd ends by an error of its own:\n%s", traceback.format_exc())
        _mark(marker)
        return 70
    finally:
        logging.shutdown()


def _cannot(systemd: notify.Systemd, sentence: str, status: int) -> int:
    """End with a sentence that the log and `systemctl status` show."""
    log.error("%s", sentence)
    systemd.status(f"ended: {sentence}")
    return status


class Signals:
    """What signals do from the first moment on: some ask to end, some do nothing; none of them is a death.

    SIGABRT stays as it is, for the watchdog. Handlers, not SIG_IGN: what is ignored stays so in programs we start.
    """

    ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
    NOTHING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF)
    NOTHING_EITHER = (signal.SIGIO, signal.SIGPWR, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGXCPU)

    def __init__(self) -> None:
        self.is_asked = False
        self._stop: Callable[[], None] = lambda: None
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self.ENDING:
            signal.signal(number, lambda *_: self._ask())
        for number in (*self.NOTHING, *self.NOTHING_EITHER):
            signal.signal(number, lambda *_: None)

    def let(self, stop: Callable[[], None]) -> None:
        """Call this when asked to end; at once where that has happened already."""
        self._stop = stop
        if self.is_asked:
            stop()

    def _ask(self) -> None:
        self.is_asked = True
        self._stop()


@dataclass(frozen=True)
class Parts:
    """What there is only while the memory can be used."""

    memory: Store
    lock: int  # of the state folder
    engine: Engine
    fleet: Fleet
    workers: Workers


class Daemon:
    """Everything that lives as long as the process."""

    def __init__(
        self,
        settings: DaemonSettings,
        marker: Path,
        systemd: notify.Systemd,
        signals: Signals,
        written: logs.Unblocked,
    ) -> None:
        self.settings, self.marker = settings, marker
        self.reserve = Reserve(settings.state)
        self.systemd, self.signals, self.written = systemd, signals, written
        self.pulse = Pulse(self.systemd)
        self.trouble = [f"{sentence[0].upper()}{sentence[1:]}." for sentence in BROKEN.values()]  # from the start
        self._another_sender: Callable[[Callable[[notify.Message, notify.Outcome], None]], notify.Sender] | None = None
        self.sender = self._sender()
        self.heartbeat = self._heartbeat()
        self.page = self._page()
        self._report: Callable[[notify.Message, notify.Outcome], None] = lambda message, outcome: None
        self._ask: Ask = lambda command, args, who: Reply.refused("autoperfd is only just starting", "Try again")
        self._is_listening = False
        self._past: refuge.Incident | None = None  # of lately, if the memory could not be used then
        self._snapshot_at: float | None = 0.0  # monotonic: when the next one is due, None while nothing has changed
        self._snapshot_data = b""
        self._sentence = ""
        self._tidy_at = 0.0  # monotonic

    def run(self) -> int:
        """Start, decide until asked to stop, end in order."""
        os.umask(0o027)
        lock = _lock(self.settings.runtime)  # also held in the refuge, where the state folder is let go of
        control = Control(self.settings.runtime / "control.sock", lambda *asked: self._ask(*asked))
        if self.sender is not None:
            self.sender.start()
        self._start_page()
        try:
            parts = self._begin(control)
            if parts is None:
                log.info("autoperfd ended in order, from its refuge")
            else:
                self._live(control, parts)
                log.info("autoperfd ended in order; running tests go on and will be found again")
        finally:
            if self.page is not None:
                self.page.close()
            control.close()
        if self.sender is not None:
            self.sender.close()
        release_lock(lock)
        return 0

    # ------------------------------------------------------------ the page

    def _page(self) -> Server | None:
        """The page, where the settings want one. AutoperfError where what it needs is not installed."""
        s = self.settings
        if not s.page_listen:
            return None
        try:
            from autoperfd.page import server, site
        except ModuleNotFoundError as error:
            raise AutoperfError(
                f"the page that [page] listen asks for needs {error.name}, which is not installed", hint=PAGE_EXTRA
            ) from error
        us = Who(os.getuid(), os.getgid(), os.getpid(), "the page")
        made = site.make(lambda command, args: self._ask(command, args, us), s.state / "page", s.page_hosts)
        return server.Server(s.page_listen, made)

    def _start_page(self) -> None:
        """An address that cannot be had is told, as running experiments matter more than looking at them."""
        try:
            if self.page is not None:
                self.page.start()
        except AutoperfError as error:
            self.trouble.append(error.sentence())
            log.error("%s", error.sentence())

    # ------------------------------------------------------------ the memory, or the refuge

    def _begin(self, control: Control) -> Parts | None:
        """Open everything, if need be after a stay in the refuge; None when asked to stop there."""
        failed = refuge.read_note(self.settings.runtime)
        try:
            if failed is None or failed.over_at:
                self._past = failed
                return self._open(())
        except (NewerMemory, AlreadyRunning):
            raise
        except AutoperfError as error:
            fresh = refuge.incident_of(error, self.settings)
            incident, was_tried = refuge.failed_again(self.settings.runtime, fresh), True
            refuge.write_note(self.settings.runtime, incident)
        else:
            incident, was_tried = failed, False
        send = self.sender.submit if self.sender else None
        stay = refuge.Refuge(self.settings, incident, systemd=self.systemd, pulse=self.pulse, send=send)
        self._report, self._ask = stay.told, stay.answer
        self.signals.let(stay.stop)
        self._listen(control)
        opened = stay.wait(partial(self._open, lived=stay.knows_a_memory), was_tried=was_tried)
        self._past = stay.incident
        return opened

    def _listen(self, control: Control) -> None:
        """Let people and systemd know that we are there; once."""
        if not self._is_listening:
            control.start()
            self.pulse.watch(control)
            self._is_listening = True
            self.systemd.ready()

    def _open(self, owed: Sequence[OutboxRow], *, lived: bool = False) -> Parts:
        """Take up what the memory holds, which is to tell `owed` first. AutoperfError: nothing is open then.

        `lived`: there was a memory before. In the refuge the state folder is let go of, so that its disk can be
        unmounted and mended.
        """
        state = self.settings.state
        place.check(state)
        if lived:
            place.must_be_there(state)
        with contextlib.ExitStack() as undo:
            lock = _lock(state)
            undo.callback(release_lock, lock)
            files.remove_leftovers_of(state)
            files.make_folder(state / "results")
            self.reserve.keep()
            memory = open_store(state / place.MEMORY)
            undo.callback(memory.close)
            copies.clear(state)
            parts = self._assemble(memory, lock, owed)
            undo.callback(_forget, parts.engine)
            parts.engine.load()
            parts.engine.attention += _gone(parts.engine)
            undo.pop_all()
        return parts

    # ------------------------------------------------------------ living

    def _live(self, control: Control, parts: Parts) -> None:
        engine = parts.engine
        self._report = lambda message, outcome: engine.post(Delivered(message, outcome))
        domains = range(self.settings.domain_first, self.settings.domain_last + 1)
        power = frozenset(self.settings.power)
        self._ask = Looks(asker(engine.post), parts.fleet, engine.pins, power, self._another_sender, domains)
        intake = Intake(engine, self.settings)
        engine.trouble = lambda: intake.spool.trouble
        self.signals.let(lambda: engine.post(Stop()))
        gc.freeze()
        self._listen(control)
        log.info("autoperfd %s is ready; %d experiments in memory", autoperfd.__version__, len(engine.entries))
        try:
            try:
                engine.restart(crashed=self.marker.exists())
                self.marker.unlink(missing_ok=True)
                intake.spool.start()
                self.pulse.watch(intake)
                if self.heartbeat is not None:
                    self.heartbeat.start()
                self._decide(engine)
            finally:
                self.systemd.stopping()
                if self.heartbeat is not None:
                    self.heartbeat.close()
                control.close()
                intake.spool.stop()
                parts.workers.close()
            engine.store.commit([SaveMeta("stopped", repr(time.time()))])
        except StoreError as error:
            # The memory may be behind what the engine knows: another process takes it up, from the refuge.
            fresh = refuge.incident_of(error, self.settings, self._snapshot_data)
            refuge.write_note(self.settings.runtime, refuge.failed_again(self.settings.runtime, fresh))
            raise
        self._snapshot(engine)
        parts.memory.close()
        parts.fleet.close()
        release_lock(parts.lock)

    def _assemble(self, memory: Store, lock: int, owed: Sequence[OutboxRow]) -> Parts:
        s, clock = self.settings, SystemClock()
        loaded = memory.load()
        installation = loaded.meta.get("installation") or secrets.token_hex(8)
        known = {"installation": installation, "started": repr(time.time()), "version": autoperfd.__version__}
        behind.check(memory, loaded.experiments, s.state)
        memory.commit([*(SaveMeta(key, value) for key, value in known.items()), *owed])
        place.remember(s.state, installation)
        pins = PinBook(s.known_hosts, loaded.pins)
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        timing = Timing(
            connect_secs=s.connect_secs,
            link_loss_secs=s.link_loss_secs,
            boot_budget_secs=s.boot_budget_secs,
            stop_secs=max(1, round(s.stop_secs)),
            grace_secs=max(1, round(s.grace_secs)),
            max_file_bytes=s.max_file_mb << 20,
            fetch_stall_secs=2 * s.link_loss_secs,
        )
        home = _home(s.state)
        fleet = Fleet(
            installation=installation,
            pins=pins,
            timing=timing,
            credentials=Path(credentials) if credentials else None,
            home=home,
            ping=s.ping,
            guards=s.guards,
            instance=s.instance,
        )
        ring = KeyRing(Path(credentials) if credentials else None, home, s.instance)

        def key_problem(machine: Machine) -> str:
            try:
                ring.key(machine.name, machine.ssh_key_path)
            except MachineImpossible as error:
                return error.sentence()
            return ""

        engine = Engine(
            memory,
            s,
            TOOLS,
            clock,
            random.SystemRandom(),
            send=self.sender.submit if self.sender else None,
            pins=pins,
            answer=commands.answer,
            key_problem=key_problem,
            space=lambda: measure(s.state),
            reserve=self.reserve,
            controller=os.uname().nodename,
        )
        workers = Workers(
            fleet,
            TOOLS,
            engine.post,
            clock,
            validation_secs=s.validation_secs,
            boot_budget_secs=s.boot_budget_secs,
            grace_secs=s.grace_secs,
            connect_secs=s.connect_secs,
            guards=s.guards,
            power=s.power,
        )
        power.get_ready(s.power.values())
        engine.workers = workers
        engine.attention += self.trouble
        engine.warnings = lambda: self._warnings(engine)
        return Parts(memory, lock, engine, fleet, workers)

    def _warnings(self, engine: Engine) -> list[str]:
        """What is good to know of this process, for `status`."""
        known = {entry.row.folder for entry in engine.entries.values()}
        found = [*place.warnings(self.settings.state), *behind.strangers(known, engine.results)]
        if self._past is not None and self._past.over_at:
            past, until = self._past, views.clock(self._past.over_at)
            span = f"From {views.clock(past.since)} to {until}"
            found.append(f"{span} the memory could not be used: {past.code}: {past.sentence}.")
        if self.page is not None and (trouble := self.page.trouble()):
            found.append(trouble)
        if self.heartbeat is not None and (trouble := self.heartbeat.trouble()):
            found.append(trouble)
        if self.written.dropped:
            found.append(f"{self.written.dropped} lines of the log were lost: whoever reads it does not keep up.")
        return found

    def _sender(self) -> notify.Sender | None:
        s = self.settings
        secret = _credential(s.webhook_secret_credential).encode() or None
        url = s.webhook_url or _credential(s.webhook_url_credential)
        target = self._target("webhook", url, s.webhook_allow_http, secret=secret, template=s.webhook_template)
        if target is None:
            return None
        self._another_sender = partial(notify.Sender, target)
        return notify.Sender(target, lambda message, outcome: self._report(message, outcome))

    def _heartbeat(self) -> Heartbeat | None:
        s = self.settings
        url = s.heartbeat_url or _credential(s.heartbeat_url_credential)
        target = self._target("heartbeat", url, s.heartbeat_allow_http)
        if target is None:
            return None
        return Heartbeat(target, s.heartbeat_every_secs, lambda: self.pulse.alive(time.monotonic()))

    def _target(self, name: str, url: str, allow_http: bool, **more: Any) -> Target | None:
        """Where that table of the settings sends to; None for nowhere."""
        if not url:
            return None
        from autoperfd.daemon.webhook import Target

        target = Target(url=url, allow_http=allow_http, name=name, **more)
        try:
            target.check()
        except AutoperfError as error:
            # Running experiments matter more than telling; the sentence stays in `status` until it is mended.
            self.trouble.append(error.sentence())
            log.error("%s", error.sentence())
            return None
        return target

    def _decide(self, engine: Engine) -> None:
        hour = self.settings.webhook_digest_at
        daily = Digest(engine, hour) if hour and self.sender is not None else None
        while not engine.stopping:
            self.pulse.beat()
            engine.tick()
            if daily is not None:
                daily.look()
            self._tidy()
            told_at = self._tell(engine)
            try:
                wait = min(engine.next_time(), told_at) - time.monotonic()
                message = engine.inbox.get(timeout=max(0.0, min(wait, 5.0)))
            except queue.Empty:
                continue
            with self.pulse.working():
                engine.handle(message)

    def _tidy(self) -> None:
        """Remove copies of the memory that nobody reads any more."""
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + TIDY_SECS
            copies.clear(self.settings.state, copies.KEPT_SECS)

    def _tell(self, engine: Engine) -> float:
        """Keep systemd's sentence and the snapshot fresh; when (monotonic) the next look is due at the latest."""
        if not engine.changed:
            return math.inf
        now = time.monotonic()
        if self._snapshot_at is None:
            self._snapshot_at = now + SNAPSHOT_SECS
        if now < self._snapshot_at:
            return self._snapshot_at
        engine.changed, self._snapshot_at = False, None
        sentence = self._snapshot(engine)
        if sentence != self._sentence:
            self._sentence = sentence
            self.systemd.status(sentence)
        return math.inf

    def _snapshot(self, engine: Engine) -> str:
        view = condition.status(engine)
        self._snapshot_data = views.snapshot(view)
        try:
            files.replace(self.settings.state / place.SNAPSHOT, self._snapshot_data)
        except AutoperfError as error:
            log.warning("%s", error.sentence())
        return views.summary(view.experiments, view.hold)


class Intake:
    """Ties the queue folder to the engine; its methods are called by the spool's thread, `stuck` by the pulse's."""

    def __init__(self, engine: Engine, settings: DaemonSettings) -> None:
        self._engine, self._settings = engine, settings
        self.spool = Spool(
            settings.queue,
            lambda data, file: read_limited(data, file, TOOLS, settings.power),
            self._offer,
            lambda file, sentence: engine.post(Rejected(file, sentence)),
            rescan_secs=settings.rescan_secs,
            settle_secs=settings.settle_secs,
        )

    def stuck(self) -> str:
        """Why nothing is taken in any more, or ""."""
        silent = time.monotonic() - self.spool.beat
        if not self.spool.alive() or silent > self._settings.rescan_secs + OFFER_SECS + 60:
            return f"the intake has not moved for {silent:.0f} s"
        return ""

    def _offer(self, drop: Drop) -> tuple[Problem, ...]:
        answers: queue.SimpleQueue[tuple[Problem, ...] | AutoperfError] = queue.SimpleQueue()
        histories = tuple(self._history(experiment) for experiment in drop.parsed.experiments)
        self._engine.post(Offer(drop.file, drop.data, drop.parsed.documents, drop.owner, histories, answers.put))
        try:
            answer = answers.get(timeout=OFFER_SECS)
        except queue.Empty:
            raise Refused(f"the engine did not take {drop.file} within {OFFER_SECS:.0f} s") from None
        if isinstance(answer, AutoperfError):
            raise answer
        return answer

    def _history(self, experiment: Experiment) -> list[AttemptRow]:
        known = {entry.row.folder for entry in list(self._engine.entries.values())}
        if experiment.folder in known:
            return []
        return read_history(self._settings.state / "results" / experiment.folder, experiment.sweep)


def _lock(folder: Path) -> int:
    """The lock of a folder; a short wait lets `autoperfctl status` finish its look."""
    deadline = time.monotonic() + LOCK_SECS
    pause = threading.Event()
    while True:
        try:
            return take_lock(folder)
        except AlreadyRunning:
            if time.monotonic() >= deadline:
                raise
            pause.wait(0.1)
        except OSError as error:
            hint = f"Make {folder} a folder the daemon's user can write"
            raise StoreError(f"the lock of {folder} cannot be taken: {error.strerror}", hint=hint) from error


def _forget(engine: Engine) -> None:
    for entry in list(engine.entries.values()):
        engine.forget(entry)


def _gone(engine: Engine) -> list[str]:
    """Archives of unfinished experiments that are not there any more."""
    unfinished = [entry.row for entry in engine.entries.values() if entry.life.outcome == "waiting"]
    found = (behind.gone(engine.store, row, engine.results / row.folder) for row in unfinished)
    return [sentence for sentence in found if sentence]


def _home(state: Path) -> Path:
    """What "~" stands for: the account's home; an account without one lives in the state folder."""
    try:
        return Path.home()
    except RuntimeError:
        return state


def _settings(given: Path | None, instance: str) -> DaemonSettings:
    path = given or instances.place(CONFIG, instance)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if given is None:
            return default_settings(instance)
        raise StoreError(f"there are no settings at {path}", hint="Name the file with --config") from None
    except OSError as error:
        raise StoreError(f"the settings {path} cannot be read: {error.strerror}") from error
    return read_settings(data, str(path), instance)


def _credential(name: str) -> str:
    """The content of a credential systemd handed over; "" where there is none."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder or not name:
        return ""
    try:
        return (Path(folder) / name).read_text().strip()
    except OSError:
        return ""


def _mark(marker: Path | None) -> None:
    try:
        if marker is not None:
            marker.touch()
    except OSError:
        log.error("cannot leave a mark of the crash at %s", marker)


if __name__ == "__main__":
    sys.exit(main())
