"""Knows the control socket: who may speak there, the one JSON line each way, the caps that keep it answering.

Promises: a caller that is slow, silent, wrong or one of a thousand costs a capped thread for a few seconds
and nothing else; an answer is sent only after `ask` returned it, so after the engine has committed.
Runs on daemon threads of its own: one accepts, one serves each connection.

Wire: `{"v":1,"command":"status","args":{}}` and, back,
`{"v":1,"ok":true,"exit":0,"text":"…","data":{…}}` or `{"v":1,"ok":false,"exit":1,"error":"…","hint":"…"}`.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import pwd
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import autoperfd
from autoperfd.daemon import own_socket
from autoperfd.daemon.own_socket import OPERATORS
from autoperfd.errors import AutoperfError
from autoperfd.remote.threads import HINT, NoThread, begin

VERSION = 1
MAX_CLIENTS = 64
MAX_LINE = 64 * 1024
IDLE_SECS = 5.0  # for a caller to deliver its whole line, and again to take its whole answer
STUCK_SECS = 15.0  # without going round, which takes less than `IDLE_SECS` and a look together
ANSWER_SECS = 30.0  # for the engine to answer

_MAX_PATH = 107  # bytes in sockaddr_un.sun_path, less the closing zero
_SO_PEERGROUPS = 59  # asm-generic/socket.h; not among Python's constants
_LOOK_SECS = 2.0  # how often the socket's file is looked for

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Who:
    """Who gave a command, as the kernel says."""

    uid: int
    gid: int
    pid: int
    user: str  # login name, or "uid 1000" where there is none


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a command. `exit` is autoperfctl's exit status; `error` and `hint` only when not `ok`."""

    ok: bool = True
    exit: int = 0
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    hint: str = ""

    @staticmethod
    def refused(error: str, hint: str = "", exit: int = 1) -> Reply:
        """The answer that says no, and why."""
        return Reply(ok=False, exit=exit, error=error, hint=hint)

    def line(self) -> bytes:
        """The answer as it goes over the wire."""
        if self.ok:
            body: dict[str, Any] = {"ok": True, "exit": self.exit, "text": self.text, "data": dict(self.data)}
        else:
            body = {"ok": False, "exit": self.exit, "error": self.error, "hint": self.hint}
        return json.dumps({"v": VERSION, **body}, separators=(",", ":")).encode() + b"\n"


Ask = Callable[[str, Mapping[str, Any], Who], Reply]


class Question:
    """A command on its way to the engine: taken by it at most once, and never after the caller gave up."""

    def __init__(self, command: str, args: Mapping[str, Any], who: Who) -> None:
        self.command = command
        self.args = args
        self.who = who
        self._lock = threading.Lock()
        self._taken = False
        self._gone = False
        self._reply: Reply | None = None
        self._answered = threading.Event()

    def take(self) -> bool:
        """Called by the engine before it acts: False when the caller gave up, then nothing may be done."""
        with self._lock:
            self._taken = not self._gone
            return self._taken

    def answer(self, reply: Reply) -> None:
        """Hand the answer to the waiting caller; from any thread, the first answer counts."""
        with self._lock:
            if self._reply is None:
                self._reply = reply
        self._answered.set()

    def wait(self, deadline_secs: float) -> Reply:
        """The answer, or a refusal that says whether the command may still be carried out."""
        self._answered.wait(deadline_secs)
        with self._lock:
            if self._reply is not None:
                return self._reply
            self._gone = not self._taken
            taken = self._taken
        error = f"the daemon did not answer {self.command!r} within {deadline_secs:.0f} s"
        if taken:
            return Reply.refused(error, "It had begun and may still finish: look at `autoperfctl status`")
        return Reply.refused(error, "It was withdrawn and will not be carried out: try again")


def asker(post: Callable[[Question], None], deadline_secs: float = ANSWER_SECS) -> Ask:
    """An `ask` for `Control` that posts a Question to the engine thread and waits for its answer."""

    def ask(command: str, args: Mapping[str, Any], who: Who) -> Reply:
        question = Question(command, args, who)
        post(question)
        return question.wait(deadline_secs)

    return ask


class Control:
    """The control socket at `path` (mode 0660): `start` once the state lock is held, `close` at the end."""

    def __init__(
        self,
        path: Path,
        ask: Ask,
        *,
        group: str = OPERATORS,
        idle_secs: float = IDLE_SECS,
        look_secs: float = _LOOK_SECS,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        if len(os.fsencode(path)) >= _MAX_PATH:
            raise AutoperfError(
                f"autoperfd cannot listen at {path}: the path is longer than {_MAX_PATH - 1} bytes",
                hint="Set [paths] runtime in autoperfd.toml to a shorter folder",
            )
        self._path = path
        self._ask = ask
        self._group = own_socket.group_id(group)
        self._idle_secs = idle_secs
        self._look_secs = look_secs
        self._max_clients = max_clients
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, bool] = {}  # oldest first; True: still delivering its line
        self._stopping = threading.Event()
        self._beat: float | None = None  # monotonic, when the accepting thread last went round
        self._wake: tuple[socket.socket, ...] = ()  # its second end closed, the accepting thread looks up
        self._listener: socket.socket | None = None
        self._inode: tuple[int, int] | None = None
        self._thread = threading.Thread(target=self._accept_all, name="control", daemon=True)

    def start(self) -> None:
        """Listen, replacing what an earlier daemon left there. Raises AutoperfError when that cannot be."""
        try:
            self._listen()
        except OSError as error:
            raise AutoperfError(
                f"autoperfd cannot listen at {self._path}: {error.strerror}",
                hint=f"Make {self._path.parent} a folder the daemon's user can write",
            ) from error
        self._wake = socket.socketpair()
        self._beat = time.monotonic()
        self._thread.start()

    def stuck(self) -> str:
        """Why nobody is listened to any more, or ""."""
        if self._beat is None or self._stopping.is_set():
            return ""
        silent = time.monotonic() - self._beat
        if not self._thread.is_alive() or silent > STUCK_SECS:
            return f"the control socket has not moved for {silent:.0f} s"
        return ""

    def close(self) -> None:
        """Stop listening, remove the socket's file, drop all callers; returns when nothing is accepted any more."""
        self._stopping.set()
        for end in self._wake[1:]:
            end.close()
        if self._thread.is_alive():
            self._thread.join(self._idle_secs)
        with self._lock:
            for client in self._clients:
                _shut(client)
        if self._listener is not None:
            self._listener.close()
        for end in self._wake:
            end.close()
        if self._inode is not None and self._inode == own_socket.inode(self._path):
            self._path.unlink(missing_ok=True)

    # listening

    def _listen(self) -> None:
        listener, found = own_socket.bound(self._path, self._group, self._max_clients)
        listener.setblocking(False)
        if self._listener is not None:
            self._listener.close()
        self._listener, self._inode = listener, found

    def _accept_all(self) -> None:
        lost = False
        while not self._stopping.is_set():
            self._beat = time.monotonic()
            if own_socket.inode(self._path) != self._inode:
                try:
                    self._listen()
                    log.warning("control: %s was gone and is there again", self._path)
                    lost = False
                except OSError as error:
                    if not lost:
                        log.warning("control: cannot make %s again: %s", self._path, error.strerror)
                    lost = True
            listener = self._listener
            assert listener is not None
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            poll.register(self._wake[0], select.POLLIN)
            if not poll.poll(self._look_secs * 1000) or self._stopping.is_set():
                continue
            try:
                client, _ = listener.accept()
            except BlockingIOError:  # the caller is gone again
                continue
            except OSError as error:
                log.warning("control: cannot accept a caller: %s", error.strerror)
                self._stopping.wait(min(1.0, self._look_secs))
                continue
            self._admit(client)

    def _admit(self, client: socket.socket) -> None:
        """Serve a caller on its own thread; when all places are taken the longest silent one loses its."""
        with self._lock:
            crowded = len(self._clients) >= self._max_clients
            silent = next((c for c, delivering in self._clients.items() if delivering), None)
            if crowded and silent is not None:
                del self._clients[silent]
                _shut(silent)
            admitted = not crowded or silent is not None
            if admitted:
                self._clients[client] = True
        if not admitted:
            self._send(client, Reply.refused("the daemon has too many callers", "Try again in a moment"))
            client.close()
            return
        try:
            begin(partial(self._serve, client), "control-caller")
        except NoThread as error:
            self._send(client, Reply.refused(f"the daemon cannot answer: {error.strerror}", HINT))
            self._dismiss(client)

    def _dismiss(self, client: socket.socket) -> None:
        with self._lock:
            self._clients.pop(client, None)
        client.close()

    # one caller

    def _serve(self, client: socket.socket) -> None:
        try:
            who, groups = _peer(client)
            if not self._may(who.uid, groups):
                log.warning("control: refused %s (uid %d)", who.user, who.uid)
                hint = f"Run it as root or as a member of group {OPERATORS}"
                self._send(client, Reply.refused(f"{who.user} may not command this daemon", hint))
                return
            line = self._receive(client)
            if line is None:
                return
            with self._lock:
                if client in self._clients:
                    self._clients[client] = False
            request = parse_request(line)
            reply = request if isinstance(request, Reply) else self._answer(*request, who)
            self._send(client, reply)
        except OSError as error:  # the caller went away: its own loss
            log.debug("control: caller gone: %s", error)
        finally:
            self._dismiss(client)

    def _may(self, uid: int, groups: frozenset[int]) -> bool:
        return uid in (0, os.geteuid()) or (self._group is not None and self._group in groups)

    def _answer(self, command: str, args: Mapping[str, Any], who: Who) -> Reply:
        try:
            return self._ask(command, args, who)
        except AutoperfError as error:
            return Reply.refused(error.message, error.hint)

    def _receive(self, client: socket.socket) -> bytes | None:
        """The caller's line without its end; None when it went, took too long or said too much."""
        deadline = time.monotonic() + self._idle_secs
        line = bytearray()
        while b"\n" not in line:
            left = deadline - time.monotonic()
            if left <= 0:
                self._send(client, Reply.refused(f"no whole line came within {self._idle_secs:g} s"))
                return None
            client.settimeout(left)
            try:
                part = client.recv(MAX_LINE)
            except TimeoutError:
                continue
            if not part:
                return None
            line += part
            if len(line) > MAX_LINE:
                self._send(client, Reply.refused(f"a command is at most {MAX_LINE} bytes"))
                return None
        return bytes(line[: line.index(b"\n")])

    def _send(self, client: socket.socket, reply: Reply) -> None:
        client.settimeout(self._idle_secs)  # of sendall as a whole
        try:
            client.sendall(reply.line())
        except OSError as error:
            log.debug("control: an answer was not taken: %s", error)


def parse_request(line: bytes) -> tuple[str, Mapping[str, Any]] | Reply:
    """(command, args) of a caller's line, or the refusal to send back."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return Reply.refused("the command is not a line of JSON")
    if not isinstance(request, dict):
        return Reply.refused("the command is not a JSON object")
    version = request.get("v")
    if type(version) is not int or version != VERSION:
        return Reply.refused(
            f"autoperfd {autoperfd.__version__} speaks version {VERSION} of the control protocol,"
            f" the caller version {str(version)[:20]!r}",
            "Use the autoperfctl that was installed with the daemon, and restart the daemon after an upgrade",
        )
    command, args = request.get("command"), request.get("args", {})
    if not isinstance(command, str) or not isinstance(args, dict):
        return Reply.refused('the command lacks "command" (a string) or its "args" are not an object')
    return command, args


def _peer(client: socket.socket) -> tuple[Who, frozenset[int]]:
    """Who is at the other end, and all the groups it had when it connected."""
    packed = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, gid = struct.unpack("3i", packed)
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = f"uid {uid}"
    return Who(uid, gid, pid, user), frozenset({gid, *_peer_groups(client, user, gid)})


def _peer_groups(client: socket.socket, user: str, gid: int) -> list[int]:
    try:
        packed = client.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError as error:
        # More than 256 groups, or a kernel or architecture without the option: the group file knows as well.
        if error.errno not in (errno.ERANGE, errno.ENOPROTOOPT, errno.EINVAL):
            raise
        return os.getgrouplist(user, gid)
    return [group for (group,) in struct.iter_unpack("I", packed)]


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # not connected any more
        pass
