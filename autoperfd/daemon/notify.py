"""Knows how the daemon tells others: systemd (readiness, sentence, watchdog) and the webhook.

Promises: nothing here delays an experiment or raises for a receiver's fault; a message is sent again under the same id
until `next_try` gives up; no URL and no secret ever reaches a text. `next_try` and `settle` are pure but for what they
are given and run on the engine thread; `Sender` owns its threads; `Systemd` is for any one thread.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from autoperfd.daemon.message import Facts
from autoperfd.remote.threads import NoThread, begin

if TYPE_CHECKING:
    import sdnotify

    from autoperfd.daemon.webhook import Post, Target

SEND_SECS = 10.0  # the whole of one try, name look-up to answer
GIVE_UP_SECS = 24 * 3600.0
BACKOFF_FIRST_SECS = 1.0
BACKOFF_CAP_SECS = 15 * 60.0
RETRY_AFTER_CAP_SECS = 3600.0


# systemd


class Systemd:
    """The service manager's notification socket; does nothing where there is none. One thread at a time."""

    def __init__(self) -> None:
        self.failed = 0  # messages that could not be handed over
        self._notifier: sdnotify.SystemdNotifier | None = None
        self._connect()

    @property
    def watchdog_secs(self) -> float | None:
        """How long systemd waits between two pings, None when it does not watch this process. Ping at a third."""
        usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
        if not usec.isdecimal() or int(usec) == 0 or pid not in ("", str(os.getpid())):
            return None
        return int(usec) / 1e6

    def ready(self) -> None:
        """The daemon has its settings, its memory and its sockets."""
        self._send("READY=1")

    def status(self, sentence: str) -> None:
        """The sentence `systemctl status` shows."""
        self._send(f"STATUS={plain(sentence)[:400]}")

    def watchdog(self) -> None:
        """A sign of life; always a message of its own, so nothing else in it can lose it."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The daemon is on its way out."""
        self._send("STOPPING=1")

    def extend_timeout(self, secs: float) -> None:
        """Ask for `secs` more, from now, for what is going on (start, stop)."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(secs * 1e6)}")

    def close(self) -> None:
        """Let go of the socket; what is sent afterwards is lost."""
        if self._notifier is not None:
            self._notifier.socket.close()

    def _connect(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        try:
            if self._notifier is not None:
                self._notifier.socket.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            elif address:
                import sdnotify

                self._notifier = sdnotify.SystemdNotifier(debug=True)
                self._notifier.socket.setblocking(False)  # a stuck reader must not stop us
        except OSError:
            pass

    def _send(self, state: str) -> None:
        if not os.environ.get("NOTIFY_SOCKET"):
            return
        for _ in range(2):  # the second time after connecting again: the manager may have been re-executed
            if self._notifier is not None:
                try:
                    self._notifier.notify(state)
                    return
                except BlockingIOError:
                    break
                except OSError:
                    pass
            self._connect()
        self.failed += 1


def plain(text: str) -> str:
    """`text` in printable ASCII on one line: accents dropped, what has no counterpart becomes "?"."""
    text = text.translate(_PLAIN)
    text = unicodedata.normalize("NFKD", text)
    text = "".join(c for c in text if not unicodedata.combining(c))
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in " ".join(text.split()))


_PLAIN = str.maketrans({"—": "-", "–": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "→": "->", "×": "x"})


# messages


@dataclass(frozen=True, slots=True)
class Message:
    """One thing to tell. `id` stays the same when it is sent again; `tries` counts the tries already made.

    What is sent is made of `kind` and `facts` by the receiver's template, at every try.
    """

    id: str
    kind: str
    facts: Facts
    created: float  # Unix seconds
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one try came to. "dead": trying again is of no use. `why`: one sentence without the URL's path."""

    result: Literal["sent", "failed", "dead"]
    why: str = ""
    status: int | None = None
    retry_after: float | None = None  # seconds the receiver asked for


class Outbox(Protocol):
    """The durable outbox; lives in the memory, so only the engine thread may use it."""

    def due(self, now: float) -> list[Message]:
        """Messages whose next try is at or before `now`."""

    def sent(self, id: str) -> None:
        """It was delivered."""

    def failed(self, id: str, next_at: float, why: str) -> None:
        """Count a try; the next is at `next_at`."""

    def dead(self, id: str, why: str) -> None:
        """It will not be tried again; `status` shows it."""


def settle(
    outbox: Outbox, message: Message, outcome: Outcome, now: float, draw: Callable[[], float] = random.random
) -> None:
    """Write the outcome of a try into the outbox. Call it inside the engine's transaction."""
    if outcome.result == "sent":
        outbox.sent(message.id)
        return
    if outcome.result == "dead":
        outbox.dead(message.id, outcome.why)
        return
    at = next_try(message.tries + 1, message.created, now, outcome.retry_after, draw)
    if at is None:
        outbox.dead(message.id, f"given up after {GIVE_UP_SECS / 3600:.0f} h: {outcome.why}")
    else:
        outbox.failed(message.id, at, outcome.why)


def next_try(
    tries: int, created: float, now: float, retry_after: float | None, draw: Callable[[], float]
) -> float | None:
    """When to try again after `tries` failed tries (1…), None: a day has passed.

    Full jitter between 1 s and 2^tries s, at most 15 min; a receiver's Retry-After is honoured up to an hour.
    `draw` gives a number in [0, 1). A clock that was set back makes no wait longer than that.
    """
    ceiling = min(BACKOFF_CAP_SECS, BACKOFF_FIRST_SECS * 2.0 ** min(tries, 20))
    wait = max(BACKOFF_FIRST_SECS, draw() * ceiling)
    if retry_after is not None:
        wait = max(wait, min(retry_after, RETRY_AFTER_CAP_SECS))
    at = now + wait
    return at if at <= created + GIVE_UP_SECS else None


# sending


class Sender:
    """Sends messages one at a time on a thread of its own and reports each outcome.

    Make it before READY (it imports requests) and only when a URL is configured. `post_result` is called on the
    sender's thread with the message and its outcome, exactly once for each message taken; it must only hand over.
    """

    def __init__(
        self, target: Target, post_result: Callable[[Message, Outcome], None], *, send_secs: float = SEND_SECS
    ) -> None:
        from autoperfd.daemon.webhook import Post

        self._make: Callable[[Message], Post] = lambda message: Post(
            target, message.id, target.body(message.kind, message.facts)
        )
        self._post_result = post_result
        self._tries = Tries(send_secs)
        self._waiting: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._known: set[str] = set()  # ids waiting or being sent
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._send_all, name="webhook", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, message: Message) -> None:
        """Send it when its turn comes; from any thread. One that is already waiting or being sent is left alone."""
        with self._lock:
            if message.id in self._known:
                return
            self._known.add(message.id)
        self._waiting.put(message)

    def close(self, timeout_secs: float = 0.0) -> None:
        """Let the thread end after the try it is in; waits at most `timeout_secs` for it."""
        self._waiting.put(None)
        if timeout_secs > 0 and self._thread.is_alive():
            self._thread.join(timeout_secs)

    def _send_all(self) -> None:
        while (message := self._waiting.get()) is not None:
            outcome = self._tries.run(self._make(message))
            with self._lock:
                self._known.discard(message.id)
            self._post_result(message, outcome)


class Tries:
    """Makes one try after another, each on a thread that is given up after `secs`; one thread at a time calls it.

    No time-out of the library is a total one.
    """

    def __init__(self, secs: float) -> None:
        self._secs = secs
        self._lost: threading.Thread | None = None  # a try that outlived its deadline, in a name look-up

    def run(self, post: Post) -> Outcome:
        """What came of one try."""
        if self._lost is not None and self._lost.is_alive():
            return Outcome("failed", "the try before this one still hangs in a name look-up")
        outcome: list[Outcome] = []
        began = time.monotonic()
        try:
            thread = begin(lambda: outcome.append(post.run()), "webhook-try")
        except NoThread as error:
            return Outcome("failed", str(error.strerror))
        thread.join(self._secs)
        if not outcome:
            post.abort()
            thread.join(1.0)
            self._lost = thread if thread.is_alive() else None
            return Outcome("failed", f"no answer within {time.monotonic() - began:.0f} s")
        return outcome[0]
