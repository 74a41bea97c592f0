"""Presses a power switch: a program started without a shell, or one HTTP call; tells what it said.

Promises that a switch once pressed is left to do its work until its deadline, whoever waits for it: half of a power
cycle is a machine without power. Whether the machine lost its power is for the caller to see. One daemon thread a
press; any thread asks how it stands. What calls need is imported by `get_ready`, and only where a switch is one.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterable

from autoperfd.core.settings import PowerSwitch
from autoperfd.core.text import safe
from autoperfd.remote.threads import NoThread, begin

SWITCH_SECS = 60.0  # what a switch may take from the press to its last word
SAID_LIMIT = 2000  # bytes of a switch's output or answer that are kept
SLICE_SECS = 0.1


def get_ready(switches: Iterable[PowerSwitch]) -> None:
    """Import what these switches need, so that nothing is imported late."""
    if any(switch.url for switch in switches):
        import autoperfd.remote.call  # noqa: F401


class Press:
    """One press of one switch; it begins at once. `problem` is "" when the switch said that it worked."""

    def __init__(self, switch: PowerSwitch, *, secs: float = SWITCH_SECS) -> None:
        self._switch = switch
        self._deadline = time.monotonic() + secs
        self._secs = secs
        self._ended = threading.Event()
        self.problem = ""
        try:
            begin(self._work, f"power switch {switch.name}")
        except NoThread as error:
            self.problem = f"it was not pressed: {error.strerror}"
            self._ended.set()

    def ended(self) -> bool:
        """Whether the switch has had its say, or its deadline has come; from then on `problem` stays."""
        if self._ended.is_set():
            return True
        if time.monotonic() < self._deadline + 2 * SLICE_SECS:
            return False
        # A call that hangs in a look-up is left behind.
        self.problem = self.problem or self._late
        return True

    @property
    def _late(self) -> str:
        return f"it has not ended after {self._secs:g} s"

    def _work(self) -> None:
        problem = self._run() if self._switch.command else _call(self._switch, self._deadline)
        if time.monotonic() < self._deadline + SLICE_SECS:
            self.problem = problem
        self._ended.set()

    def _run(self) -> str:
        try:
            process = subprocess.Popen(
                self._switch.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            told = getattr(error, "strerror", None) or str(error)
            return f"{safe(self._switch.command[0], 200)} cannot be started: {told}"
        with process:
            said, late = self._listen(process)
            if late:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        shown = f": {said}" if said else ""
        if late:
            return f"{self._late}{shown}"
        if process.returncode < 0:
            return f"it was ended by signal {-process.returncode}{shown}"
        return f"it ended with exit status {process.returncode}{shown}" if process.returncode else ""

    def _listen(self, process: subprocess.Popen[bytes]) -> tuple[str, bool]:
        """The head of what it prints until it ends, and whether it is late. What it left running is not waited for."""
        assert process.stdout is not None
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while time.monotonic() < self._deadline:
                over = process.poll() is not None
                if selector.get_map():
                    ready = bool(selector.select(0.0 if over else SLICE_SECS))
                    if ready:
                        data = os.read(process.stdout.fileno(), 65536)
                        said += data[: SAID_LIMIT - len(said)]
                        if not data:
                            selector.unregister(process.stdout)
                        continue
                    if over:
                        break
                elif over:
                    break
                else:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(SLICE_SECS)
        return safe(said.decode("utf-8", "replace"), 500), process.poll() is None


def _call(switch: PowerSwitch, deadline: float) -> str:
    from autoperfd.remote.call import Call

    return Call(switch, SAID_LIMIT).run(deadline)
