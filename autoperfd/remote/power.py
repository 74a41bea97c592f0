"""Presses a power switch: a program started without a shell, or one HTTP call; tells what it said.

Promises that a switch once pressed is left to do its work until its deadline, whoever waits for it: half of a power
cycle is a machine without power. Whether the machine lost its power is for the caller to see. One daemon thread a
press; any thread asks how it stands. `requests` is imported by `get_ready`, and only where a switch needs it.
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
from typing import TYPE_CHECKING

from autoperfd.core.settings import PowerSwitch
from autoperfd.core.text import safe

if TYPE_CHECKING:
    import requests

SWITCH_SECS = 60.0  # what a switch may take from the press to its last word
SAID_LIMIT = 2000  # bytes of a switch's output or answer that are kept
SLICE_SECS = 0.1
HTTP_SECS = (5.0, 10.0)  # connect, and each read; SWITCH_SECS limits all of it


def get_ready(switches: Iterable[PowerSwitch]) -> None:
    """Import what these switches need, so that nothing is imported late."""
    if any(switch.url for switch in switches):
        import encodings.idna  # noqa: F401  (the first look-up would import it)

        import requests  # noqa: F401


class Press:
    """One press of one switch; it begins at once. `problem` is "" when the switch said that it worked."""

    def __init__(self, switch: PowerSwitch, *, secs: float = SWITCH_SECS) -> None:
        self._switch = switch
        self._deadline = time.monotonic() + secs
        self._secs = secs
        self._ended = threading.Event()
        self._response: requests.Response | None = None
        self.problem = ""
        threading.Thread(target=self._work, name=f"power switch {switch.name}", daemon=True).start()

    def ended(self) -> bool:
        """Whether the switch has had its say, or its deadline has come; from then on `problem` stays."""
        if self._ended.is_set():
            return True
        if time.monotonic() < self._deadline + 2 * SLICE_SECS:
            return False
        # A call that drips or hangs in a look-up is left behind.
        self.problem = self.problem or self._late
        response = self._response
        if response is not None:
            with contextlib.suppress(OSError):
                response.close()
        return True

    @property
    def _late(self) -> str:
        return f"it has not ended after {self._secs:g} s"

    def _work(self) -> None:
        problem = self._run() if self._switch.command else self._call()
        if time.monotonic() < self._deadline + SLICE_SECS:
            self.problem = problem
        self._ended.set()

    # ------------------------------------------------------------ a program

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

    # ------------------------------------------------------------ an HTTP call

    def _call(self) -> str:
        import requests

        switch = self._switch
        try:
            with requests.Session() as session:
                session.trust_env = False  # no proxy and no password of the environment
                with session.request(
                    switch.method,
                    switch.url,
                    data=switch.body.encode() or None,
                    timeout=HTTP_SECS,
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    self._response = response
                    if response.status_code == switch.expect:
                        return ""
                    said = self._head(response)
                    shown = f": {said}" if said else ""
                    return f"it answered HTTP {response.status_code}, expected {switch.expect}{shown}"
        except (requests.RequestException, OSError, ValueError) as error:
            # ValueError: urllib3 lets some broken answers through as such.
            return f"no proper answer: {_told(error)}"

    def _head(self, response: requests.Response) -> str:
        said = b""
        for piece in response.iter_content(512):
            said += piece
            if len(said) >= SAID_LIMIT or time.monotonic() > self._deadline:
                break
        return safe(said[:SAID_LIMIT].decode("utf-8", "replace"), 500)


def _told(error: BaseException) -> str:
    """A fault in few words; the URL, which may hold a password, is not among them."""
    seen: list[BaseException] = []
    here: BaseException | None = error
    while here is not None and here not in seen and len(seen) < 10:
        seen.append(here)
        reason = getattr(here, "reason", None)
        nested = reason if isinstance(reason, BaseException) else None
        nested = nested or next((a for a in here.args if isinstance(a, BaseException)), None)
        here = nested or here.__cause__ or here.__context__
    for cause in reversed(seen):
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        if isinstance(cause, OSError) and cause.strerror and cause.__class__.__module__ in ("builtins", "socket"):
            return cause.strerror
    return type(error).__name__
