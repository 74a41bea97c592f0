"""Knows the socket of the page and the threads that serve it: one that waits, a few that answer, all bounded.

Promises that callers, however many, slow or wrong, cost those threads only; the engine is asked, never touched.
`start` and `close` are for the main thread.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import stat
import threading
from pathlib import Path

import waitress
import waitress.wasyncore

from autoperfd.daemon import own_socket
from autoperfd.daemon.own_socket import OPERATORS
from autoperfd.errors import AutoperfError
from autoperfd.page.site import Site
from autoperfd.remote.threads import HINT, NoThread, begin, enter

THREADS = 4  # that answer; more callers wait in a queue
MOST_CALLERS = 64  # connections at a time
IDLE_SECS = 30.0  # for a caller to send or to take something
MOST_HEADER = 16 * 1024  # bytes of a request
END_SECS = 3.0  # for the threads to end; what an answer still waits for then ends with the process

log = logging.getLogger(__name__)


class Server:
    """Serves `site` at `listen`: "127.0.0.1:8765", "[::1]:8765" or the absolute path of a Unix socket."""

    def __init__(self, listen: str, site: Site) -> None:
        self._listen, self._site = listen, site
        self._inode: tuple[int, int] | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen, replacing the socket an earlier daemon left. Raises AutoperfError when that cannot be."""
        try:
            listener = self._bound()
        except OSError as error:
            raise AutoperfError(
                f"the page cannot listen at {self._listen}: {error.strerror}",
                hint="Set [page] listen in autoperfd.toml to another address",
            ) from error
        # waitress tells of each request that waits a moment, and of each caller that is gone.
        logging.getLogger("waitress").setLevel(logging.ERROR)
        self._sockets: dict[int, object] = {}
        try:
            enter(lambda: self._serve(listener))
            self._thread = begin(self._wait, "page")
        except NoThread as error:
            listener.close()
            raise AutoperfError(f"the page cannot be served: {error.strerror}", hint=HINT) from error

    def port(self) -> int:
        """The port it listens at."""
        return int(self._server.effective_port)

    def trouble(self) -> str:
        """Why nobody is answered any more, or ""."""
        if self._thread is None or self._stopping.is_set() or self._thread.is_alive():
            return ""
        return "The page has ended by an error of its own, which the log tells; a restart of the daemon brings it back."

    def close(self) -> None:
        """Stop listening, drop all callers, remove the Unix socket's file."""
        if self._thread is None:
            return
        self._stopping.set()
        with contextlib.suppress(OSError):  # it has ended by itself
            self._server.pull_trigger()
        self._thread.join(END_SECS)
        self._thread = None
        if self._inode is not None and self._inode == own_socket.inode(Path(self._listen)):
            Path(self._listen).unlink(missing_ok=True)

    def _serve(self, listener: socket.socket) -> None:
        self._server = waitress.create_server(
            self._site.app,
            map=self._sockets,
            sockets=[listener],
            threads=THREADS,
            connection_limit=MOST_CALLERS,
            channel_timeout=IDLE_SECS,
            cleanup_interval=5,
            max_request_header_size=MOST_HEADER,
            max_request_body_size=1,
            clear_untrusted_proxy_headers=True,
            ident="",
        )

    def _wait(self) -> None:
        """The page's own thread: takes what callers send and gives it to the threads that answer."""
        try:
            while not self._stopping.is_set():
                waitress.wasyncore.loop(timeout=5.0, use_poll=True, map=self._sockets, count=1)
                self._site.memory.tidy()
        finally:
            self._server.task_dispatcher.shutdown(timeout=END_SECS / 2)
            waitress.wasyncore.close_all(self._sockets, ignore_all=True)

    # ------------------------------------------------------------ the socket

    def _bound(self) -> socket.socket:
        if self._listen.startswith("/"):
            return self._bound_to_path(Path(self._listen))
        host, _, port = self._listen.rpartition(":")
        listener = socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host.strip("[]"), int(port)))
        except OSError:
            listener.close()
            raise
        return listener

    def _bound_to_path(self, path: Path) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise FileExistsError(17, "something else than a socket lies there")
        listener, self._inode = own_socket.bound(path, own_socket.group_id(OPERATORS), MOST_CALLERS)
        return listener
