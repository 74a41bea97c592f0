"""The daemon's own log: lines for the journal or a terminal, written so that a reader who is stuck stops nobody.

Whoever logs only puts a record into a queue that has an end; one thread of its own writes. When the queue is full the
record is dropped and counted, and how many were dropped is the next thing written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time

from autoperfd.core.text import safe_lines

MOST_WAITING = 2000  # records
FLUSH_SECS = 2.0  # at the end, for what is still waiting


class Unblocked(logging.Handler):
    """Writes to a descriptor from a thread of its own. `dropped`: how many records were lost so far."""

    def __init__(self, fd: int, *, most: int = MOST_WAITING, flush_secs: float = FLUSH_SECS) -> None:
        super().__init__()
        self.dropped = 0
        self._fd, self._flush_secs = fd, flush_secs
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; never waits."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what is waiting, for a short time at most."""
        deadline = time.monotonic() + self._flush_secs
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=self._flush_secs)
            self._thread.join(max(0.0, deadline - time.monotonic()))
        super().close()

    def _write_all(self) -> None:
        told = 0
        while (record := self._waiting.get()) is not None:
            lost = self.dropped - told
            if lost:
                told += lost
                self._write(logging.LogRecord(__name__, logging.WARNING, "", 0, f"{lost} lines were lost", None, None))
            self._write(record)

    def _write(self, record: logging.LogRecord) -> None:
        try:
            data = f"{self.format(record)}\n".encode(errors="replace")
        except (TypeError, ValueError) as error:  # a text and values that do not fit: the place is what counts
            data = f"a line of the log cannot be written: {record.pathname}:{record.lineno}: {error}\n".encode()
        with contextlib.suppress(OSError):  # nobody reads any more
            while data:
                data = data[os.write(self._fd, data) :]


class _Levels(logging.Formatter):
    """The journal's level in front of every line."""

    LEVELS = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}  # noqa: RUF012 - never changed

    def format(self, record: logging.LogRecord) -> str:
        mark = f"<{self.LEVELS.get(record.levelname, 6)}>"
        return "\n".join(mark + line for line in safe_lines(super().format(record)).splitlines())


def to_stderr() -> Unblocked:
    """Let everything that is logged go to standard error, which may be closed or stuck."""
    for fd in (0, 1, 2):  # what is opened next must not become our standard error
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    handler = Unblocked(2)
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(_Levels("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = os.environ.get("AUTOPERF_LOG", "").upper()
    known = logging.getLevelNamesMapping()
    logging.basicConfig(level=known.get(level, logging.INFO), handlers=[handler])
    for noisy in ("paramiko", "transitions", "urllib3", "watchdog"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    return handler
