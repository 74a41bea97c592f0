"""The sign of life for systemd: given only while the engine and the intake really move on. Own thread.

A commit on a slow disk may take long: while the engine is inside one message it counts as alive for 120 s. A
stuck engine or intake gets no further ping, and systemd starts the daemon anew.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from autoperfd.daemon.notify import Systemd

IDLE_SECS = 15.0  # the engine beats every 5 s when nothing happens
WORKING_SECS = 120.0


class Alive(Protocol):
    """Something else that must move on."""

    def stuck(self) -> str:
        """Why it does not move on, or ""."""


class Pulse:
    """Pings the watchdog while `beat` is called often enough; without a watchdog it does nothing."""

    def __init__(self, systemd: Systemd) -> None:
        self._systemd = systemd
        self._beat = time.monotonic()
        self._working_since: float | None = None
        self._others: list[Alive] = []
        self._lock = threading.Lock()
        self._pause = threading.Event()
        secs = systemd.watchdog_secs
        if secs is not None:
            threading.Thread(target=self._ping, args=(secs / 3,), name="pulse", daemon=True).start()

    def beat(self) -> None:
        """The engine is between two messages."""
        self._beat = time.monotonic()

    def watch(self, other: Alive) -> None:
        """Ask this one as well from now on."""
        with self._lock:
            self._others.append(other)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """The engine is inside one message."""
        self._working_since = time.monotonic()
        try:
            yield
        finally:
            self._working_since = None
            self.beat()

    def alive(self, now: float) -> bool:
        """Whether the daemon moves on."""
        since = self._working_since
        if since is not None:
            return now - since < WORKING_SECS
        with self._lock:
            others = list(self._others)
        return now - self._beat < IDLE_SECS and not any(other.stuck() for other in others)

    def _ping(self, secs: float) -> None:
        while not self._pause.wait(secs):
            if self.alive(time.monotonic()):
                self._systemd.watchdog()
