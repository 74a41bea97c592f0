"""Knows how the page asks the engine: the same questions as the control socket's, each at most once a second.

Promises that any number of browsers costs the engine one answer a second and question, and one that takes long a
twentieth of its time at most. Any thread.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

FRESH_SECS = 1.0
RARELY = 20  # times as long as an answer took it is fresh at the least
MOST_KEPT = 64  # answers
LOOKS = ("status", "list", "show", "why", "numbers")  # all that may be asked: nothing here changes anything


class Reply(Protocol):
    """What the daemon says: data when `ok`, else why not and what to do."""

    @property
    def ok(self) -> bool: ...
    @property
    def data(self) -> Mapping[str, Any]: ...
    @property
    def error(self) -> str: ...
    @property
    def hint(self) -> str: ...


Ask = Callable[[str, Mapping[str, Any]], Reply]


class NoAnswer(Exception):
    """The daemon refused to answer, or could not."""

    def __init__(self, error: str, hint: str = "") -> None:
        super().__init__(error)
        self.error, self.hint = error, hint


class Answers:
    """Answers of the daemon that are fresh."""

    def __init__(self, ask: Ask, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._monotonic = ask, monotonic
        self._lock = threading.Lock()  # also held while the engine is asked, so that it is asked once
        self._kept: OrderedDict[tuple[str, ...], tuple[float, Reply]] = OrderedDict()

    def get(self, command: str, **args: str) -> Mapping[str, Any]:
        """The data of an answer. Raises NoAnswer."""
        assert command in LOOKS, command
        key = (command, *args.values())
        with self._lock:
            until, reply = self._kept.get(key, (0.0, None))
            if reply is None or self._monotonic() >= until:
                began = self._monotonic()
                reply = self._ask(command, args)
                now = self._monotonic()
                self._kept[key] = (now + max(FRESH_SECS, RARELY * (now - began) if reply.ok else 0.0), reply)
                self._kept.move_to_end(key)
                if len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)
        if not reply.ok:
            raise NoAnswer(reply.error, reply.hint)
        return reply.data
