"""Is the SSH server at the other end alive? TCP cannot tell: the kernel acknowledges for an sshd that hangs.

Promises not to block for more than READ_SECS: a question waits in a thread of its own, which ends with the
connection. Used by the thread that waits for an answer, while nothing comes.
"""

from __future__ import annotations

import contextlib
import fcntl
import struct
import termios
import threading
import time

import paramiko

from autoperfd.remote.threads import NoThread, begin

REQUEST = "keepalive@openssh.com"  # every server answers it, those that do not know it with a refusal
READ_SECS = 0.5  # a controller that stood still has an answer waiting which nobody has read yet


class Heartbeat:
    """Questions to the SSH server behind one connection."""

    def __init__(self, transport: paramiko.Transport, silence_secs: float) -> None:
        """A server that says nothing for `silence_secs` is not alive."""
        self.every = silence_secs / 2  # asked after so long a silence, it has as long again to answer
        self._transport = transport
        self._question: _Question | None = None

    def heard(self) -> None:
        """Something came, or a new wait begins: the silence starts from now."""
        self._question = None

    def silent(self) -> str:
        """To be called after every `every` seconds of silence; asks, and says what the last question told.

        "": alive, as far as is known. "mute": the machine takes what is sent, its SSH server does not answer. "lost":
        the machine does not even take it. In both cases the connection is closed.
        """
        question = self._question
        if question and not question.answered.is_set():
            if time.monotonic() - question.asked < self.every:
                return ""  # called too soon: the wall clock, which others count with, has jumped
            if question.answered.wait(READ_SECS):
                self._question = None
                return ""
            kind = "lost" if unacknowledged(self._transport.sock) else "mute"
            self._transport.close()
            return kind
        with contextlib.suppress(NoThread):  # asked at the next call, then
            self._question = _Question(self._transport)
        return ""


class _Question:
    def __init__(self, transport: paramiko.Transport) -> None:
        self.asked = time.monotonic()
        self.answered = threading.Event()
        self._transport = transport
        begin(self._ask, "ssh heartbeat")

    def _ask(self) -> None:
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            self._transport.global_request(REQUEST, wait=True)  # for as long as the connection is open
            if self._transport.is_active():
                self.answered.set()


def unacknowledged(sock: object) -> int:
    """How many bytes the other end's kernel has not taken yet; 1 when the socket is closed."""
    try:
        held = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))  # type: ignore[attr-defined]
    except (OSError, ValueError):
        return 1
    return int(struct.unpack("i", held)[0])
