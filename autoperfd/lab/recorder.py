"""An HTTP server that records what it is sent: the far end of webhooks in tests.

Knows nothing of labs: the socket is made where it is created (in a network namespace, if the caller is in
one). Runs one thread of its own and one a request; `requests` may be read from any thread.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from autoperfd.lab.machines import until

MAX_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """One request, whole."""

    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    at: float  # time.monotonic()

    def json(self) -> Any:
        return json.loads(self.body)


class Recorder:
    """Listens at once. `status` is what requests are answered with, `delay_secs` how late; both may change."""

    def __init__(self, address: str, port: int = 0, *, status: int = 200) -> None:
        self.status = status
        self.delay_secs = 0.0
        self.requests: list[Request] = []
        self._stopping = threading.Event()
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_POST(self) -> None:
                size = min(int(self.headers.get("Content-Length") or 0), MAX_BODY)
                body = self.rfile.read(size)
                headers = {name.lower(): value for name, value in self.headers.items()}
                recorder.requests.append(Request(self.command, self.path, headers, body, time.monotonic()))
                recorder._stopping.wait(recorder.delay_secs)
                self.send_response(recorder.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_PUT = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((address, port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{address}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def wait(self, count: int, secs: float = 30.0) -> list[Request]:
        """The first `count` requests, once they are there. Raises AutoperfError after `secs`."""
        until(lambda: len(self.requests) >= count, f"{count} requests did not come", secs)
        return self.requests[:count]

    def stop(self) -> None:
        """Closes the port; may be called twice."""
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
