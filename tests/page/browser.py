"""A headless Chromium that is told what to do through a pipe (its DevTools protocol), for pages of a test's server."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANSWER_SECS = 60.0
# The browser reads 3 and writes 4.
_START = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])"""


class Browser:
    """One page of a browser without a network but this computer. `meanwhile` is called while it is waited for."""

    def __init__(self, program: str, profile: Path, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile
        self.complaints: list[str] = []  # what the page's console says
        theirs_in, self._to = _pipe()
        self._from, theirs_out = _pipe()

        argv = [
            program,
            "--headless=new",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--user-data-dir={profile}",
            "--remote-debugging-pipe",
            *(["--no-sandbox"] if os.getuid() == 0 else []),
            "about:blank",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs_in), str(theirs_out), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs_in, theirs_out),
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._number, self._buffer, self._session = 0, b"", ""
        self._events: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, address: str, width: int, height: int) -> None:
        """Go there, on a screen of so many pixels, and wait until everything is loaded."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if width < 500 else 1,
            mobile=width < 500,
        )
        self._events.clear()
        self._call("Page.navigate", url=address)
        deadline = time.monotonic() + ANSWER_SECS
        while "Page.loadEventFired" not in self._events:
            self._take(deadline)

    def says(self, script: str) -> Any:
        """The value of an expression in the page, awaited."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, path: Path) -> Path:
        """What is seen, as a PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))
        return path

    def close(self) -> None:
        """End it."""
        self._session = ""
        self._send("Browser.close", {})
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait(20)
            os.close(self._to)
            os.close(self._from)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = self._send(method, params)
        deadline = time.monotonic() + ANSWER_SECS
        while True:
            answer = self._take(deadline)
            if answer is not None and answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _send(self, method: str, params: dict[str, Any]) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        return self._number

    def _take(self, deadline: float) -> dict[str, Any] | None:
        """The next message, None where there is none at the moment."""
        assert time.monotonic() < deadline, "the browser does not answer"
        assert self._process.poll() is None, "the browser has ended"
        self._meanwhile()
        if b"\0" not in self._buffer:
            if not select.select([self._from], [], [], 0.02)[0]:
                return None
            self._buffer += os.read(self._from, 1 << 20)
            return None
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._events.append(message.get("method", ""))
        if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(message["params"]))
        return message


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are above the descriptors a browser is given."""
    pair = os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pair]
    for end in pair:
        os.close(end)
    return ends[0], ends[1]
