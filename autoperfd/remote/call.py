"""One HTTP call to a power switch: no redirect, no proxy, a deadline for all of it, and little read of the answer.

Promises that nothing it tells holds the address, which may hold a password. Imported only where a switch is an HTTP
call. Runs on the thread of the press; a timer's thread ends it.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401  (the first look-up would import it, and nothing may be imported late)
import http.client
import socket
import threading
import time
from urllib.parse import urlsplit

from autoperfd.core.settings import PowerSwitch
from autoperfd.core.text import safe

STEP_SECS = 10.0  # the connect, and each read
_SHORTEST_SECRET = 4  # characters: what is shorter stands in any answer by chance


class Call:
    """The call of a switch that has a `url`."""

    def __init__(self, switch: PowerSwitch, most_read: int) -> None:
        self._switch = switch
        self._most_read = most_read
        self._socket: socket.socket | None = None

    def run(self, deadline: float) -> str:
        """What went wrong; "" when it answered as expected. Over at `deadline` (monotonic) but for a look-up."""
        end = threading.Timer(deadline - time.monotonic(), self._hang_up)
        end.daemon = True
        end.start()
        try:
            return self._exchange()
        except TimeoutError:
            return "no answer in time"
        except OSError as error:
            return f"no proper answer: {error.strerror or type(error).__name__}"
        except (http.client.HTTPException, ValueError) as error:
            return f"no proper answer: {type(error).__name__}"  # its own text may hold the address
        finally:
            self._socket = None
            end.cancel()

    def _exchange(self) -> str:
        switch, url = self._switch, urlsplit(self._switch.url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        with contextlib.closing(kind(url.hostname or "", url.port, timeout=STEP_SECS)) as connection:
            connection.connect()
            self._socket = connection.sock
            place = (url.path or "/") + (f"?{url.query}" if url.query else "")
            headers = {"User-Agent": "autoperfd", "Connection": "close"}
            connection.request(switch.method, place, switch.body.encode() or None, headers)
            with connection.getresponse() as response:
                if response.status == switch.expect:
                    return ""
                said = self._head(response).decode("utf-8", "replace")
                for secret in (place.strip("/"), url.query, switch.body):
                    if len(secret) >= _SHORTEST_SECRET:
                        said = said.replace(secret, "(not shown)")  # many servers repeat what they were asked
                said = safe(said, 500)
                return f"it answered HTTP {response.status}, expected {switch.expect}" + (f": {said}" if said else "")

    def _head(self, response: http.client.HTTPResponse) -> bytes:
        """What it answers, as much as comes within the deadline."""
        said = b""
        with contextlib.suppress(OSError, http.client.HTTPException):
            while len(said) < self._most_read and (piece := response.read1(self._most_read - len(said))):
                said += piece
        return said

    def _hang_up(self) -> None:
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # closing it would wait for its reader
