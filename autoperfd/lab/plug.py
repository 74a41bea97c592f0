"""A power strip on the network, as Shelly, Tasmota or a PDU's gateway have them: an HTTP call cuts a machine's power.

Knows only how to switch a machine of a lab off and on; promises that a press has had its whole effect before it is
answered, and tells how often each was pressed. One thread of its own, one a request. The socket is made where it is
created (in a network namespace, if the caller is in one).
"""

from __future__ import annotations

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

MAX_BODY = 1 << 16


class Outlets(Protocol):
    """What hangs on the strip: a lab of either kind."""

    def kill(self, name: str) -> None:
        """Cut a machine's power."""

    def boot(self, name: str) -> None:
        """Give it back."""


class Plug:
    """Listens at once. A request for `/relay/MACHINE` cuts that machine's power for `off_secs`.

    `cuts`: whether it really does; `status`: what it answers. Both may change at any time.
    """

    def __init__(self, lab: Outlets, address: str, port: int = 0, *, off_secs: float = 0.5) -> None:
        self.cuts, self.status = True, 200
        self.presses: Counter[str] = Counter()
        self.bodies: list[bytes] = []
        stopping = threading.Event()
        busy = threading.Lock()
        plug = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_POST(self) -> None:
                plug.bodies.append(self.rfile.read(min(int(self.headers.get("Content-Length") or 0), MAX_BODY)))
                name = self.path.partition("?")[0].rpartition("/")[2]
                plug.presses[name] += 1
                if plug.cuts:
                    with busy:
                        lab.kill(name)
                        stopping.wait(off_secs)
                        lab.boot(name)
                said = b'{"ison":true}' if plug.status < 300 else b"relay is stuck"
                self.send_response(plug.status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_GET = do_PUT = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self._stopping = stopping
        self._server = ThreadingHTTPServer((address, port), Handler)
        self._server.daemon_threads = True
        self._url = f"http://{address}:{self._server.server_address[1]}/relay/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def url(self, name: str) -> str:
        """What is to be called to cycle that machine's power."""
        return self._url + name

    def stop(self) -> None:
        """Closes the port."""
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
