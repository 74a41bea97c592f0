"""The dead man's switch: calls an address every so often while the engine moves on; who does not hear it raises alarm.

Promises: no call while the engine stands still or waits in its refuge; nothing here delays the engine, and nothing is
kept; a failure is logged once, until calls arrive again, and never with the address. Own thread; `trouble` from any.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from autoperfd.daemon.notify import SEND_SECS, Tries
from autoperfd.daemon.views import clock

if TYPE_CHECKING:
    from autoperfd.daemon.webhook import Get, Target

log = logging.getLogger(__name__)

AGAIN_SECS = 30.0  # after a call that failed, where the next would come later


class Heartbeat:
    """One process's. `alive`: whether the engine moves on, asked before each call."""

    def __init__(
        self, target: Target, every_secs: float, alive: Callable[[], bool], *, send_secs: float = SEND_SECS
    ) -> None:
        from autoperfd.daemon.webhook import Get

        self._make: Callable[[], Get] = lambda: Get(target)
        self._every_secs, self._alive = every_secs, alive
        self._tries = Tries(send_secs)
        self._pause = threading.Event()
        self._trouble: tuple[float, str] | None = None  # since when (Unix seconds) no call arrives, and why

    def start(self) -> None:
        """The engine begins: call at once, and from then on."""
        threading.Thread(target=self._call_all, name="heartbeat", daemon=True).start()

    def close(self) -> None:
        """No call after the one that is under way."""
        self._pause.set()

    def trouble(self) -> str:
        """A sentence about calls that do not arrive, for `status`; "" where they do."""
        trouble = self._trouble
        return f"Heartbeats do not arrive since {clock(trouble[0])}: {trouble[1]}." if trouble else ""

    def _call_all(self) -> None:
        wait = 0.0
        while not self._pause.wait(wait):
            wait = self._every_secs
            if self._alive() and not self._call():
                wait = min(wait, AGAIN_SECS)

    def _call(self) -> bool:
        outcome = self._tries.run(self._make())
        if outcome.result == "sent":
            if self._trouble is not None:
                log.info("heartbeats arrive again")
            self._trouble = None
            return True
        if self._trouble is None:
            log.warning("a heartbeat did not arrive: %s; said once until they do again", outcome.why)
        self._trouble = (self._trouble[0] if self._trouble else time.time(), outcome.why)
        return False
