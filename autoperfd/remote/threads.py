"""Begins threads, and says so in words where the system has none left: a limit of processes or of memory is reached.

Promises a daemon thread, so that nothing stuck in the network keeps the process from ending. Any thread calls it.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

NO_THREADS = "NO_THREADS"
HINT = "Raise TasksMax= of autoperfd.service, or end what else uses up the controller's processes or memory"


class NoThread(OSError):
    """The system has no thread left for us; it may have one later."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "the controller has no thread left")


def begin(work: Callable[[], object], name: str) -> threading.Thread:
    """A new thread at `work`. Raises NoThread."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    enter(thread.start)
    return thread


def enter(start: Callable[[], None]) -> None:
    """Call what starts a thread. Raises NoThread."""
    try:
        start()
    except RuntimeError as error:  # all that Python says of what the system refused
        raise NoThread from error
