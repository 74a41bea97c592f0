"""One conversation with the verb loop on a machine: framed questions and answers over one SSH channel.

Promises that no question takes longer than its time and that an answer is either whole or an error. One
thread at a time asks; any thread may `close`, which frees the one that waits.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.resources import files

import paramiko

from autoperfd.remote.heartbeat import Heartbeat

LAUNCHER = files("autoperfd.remote").joinpath("launcher.sh").read_bytes()
COMMAND = f"exec /bin/sh -c 'AUTOPERF_SH=$(head -c {len(LAUNCHER)}); export AUTOPERF_SH; eval \"$AUTOPERF_SH\"'"
"""The only command ever executed over SSH. A constant; every login shell reads it alike, csh and fish too."""

READY = b"\nautoperf ready\n"
NOISE_LIMIT = 1 << 16  # what a login shell may print before the verb loop speaks
ANSWER_LIMIT = 1 << 20
CHUNK = 262_144
LINES_LIMIT = 2000  # bytes of values that are sent as lines
_HEADER = re.compile(rb"answer (\d{1,3}) (\d{1,8})\n", re.ASCII)


class ShellBroken(Exception):
    """The conversation cannot go on. `kind`: "lost" (closed), "hang" (no answer in time), "mute" (the SSH server
    itself does not answer) or "nonsense"."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail


class Shell:
    """The verb loop at the other end of `channel`, which has been told to execute COMMAND."""

    def __init__(self, channel: paramiko.Channel, secs: float, heartbeat: Heartbeat | None = None) -> None:
        """Sends the launcher and waits until it speaks. `heartbeat`: ends waits for a server that hangs.

        Raises ShellBroken.
        """
        self._channel = channel
        self._heartbeat = heartbeat
        self._slice_secs = heartbeat.every if heartbeat else math.inf
        self._pending = b""
        # Its own waiting counts with the wall clock, which may be set back by years meanwhile.
        self._readable = threading.Event()
        channel.in_buffer.set_event(self._readable)
        deadline = time.monotonic() + secs
        self._send(LAUNCHER, deadline)
        # Whatever the login shell prints stands before the first answer.
        noise = b""
        while READY not in noise:
            if len(noise) > NOISE_LIMIT:
                raise ShellBroken("nonsense", "it prints without end")
            try:
                noise += self._receive(deadline, CHUNK)
            except ShellBroken as broken:
                said = noise or (channel.recv_stderr(2000) if channel.recv_stderr_ready() else b"")
                raise ShellBroken(broken.kind, said[-500:].decode("utf-8", "replace")) from broken
        self._pending = noise.partition(READY)[2]

    def ask(self, verb: str, tokens: Sequence[object], values: Sequence[str], secs: float) -> str:
        """One answer's text. `tokens` are numbers, hex digits and names of ours; `values` may hold anything
        but NUL. Raises ShellBroken."""
        deadline = time.monotonic() + secs
        self.begin(verb, tokens, values, deadline)
        return self.answer(deadline)

    def begin(self, verb: str, tokens: Sequence[object], values: Sequence[str], deadline: float) -> None:
        """Sends a question; the answer is to be read by the caller."""
        encoded = [value.encode("utf-8", "surrogateescape") for value in values]
        size = sum(map(len, encoded))
        # A shell reads lines byte by byte, which is quicker than starting programs as long as there are few.
        as_lines = 0 < size <= LINES_LIMIT and not any(b"\n" in value for value in encoded)
        body = b"".join(value + (b"\n" if as_lines else b"\0") for value in encoded)
        header = " ".join([verb, str(-len(encoded) if as_lines else len(body)), *map(str, tokens)])
        self._send(header.encode("ascii") + b"\n" + body, deadline)

    def answer(self, deadline: float) -> str:
        """The text of one answer frame."""
        while b"\n" not in self._pending:
            if len(self._pending) > 64:
                raise ShellBroken("nonsense", "a header without end")
            self._pending += self._receive(deadline, CHUNK)
        header = _HEADER.match(self._pending)
        if not header or int(header[2]) > ANSWER_LIMIT:
            raise ShellBroken("nonsense", repr(self._pending[:80]))
        self._pending = self._pending[header.end() :]
        text = b"".join(self.stream(int(header[2]), deadline))
        if int(header[1]):
            raise ShellBroken("nonsense", f"status {int(header[1])}: {text[:200]!r}")
        return text.decode("utf-8", "replace")

    def stream(self, size: int, deadline: float, stall_secs: float | None = None) -> Iterator[bytes]:
        """Exactly `size` bytes in pieces, each within `deadline` or, where given, `stall_secs` of the last."""
        while size > 0:
            if stall_secs is not None:
                deadline = time.monotonic() + stall_secs
            data = self._pending or self._receive(deadline, min(size, CHUNK))
            piece, self._pending = data[:size], data[size:]
            size -= len(piece)
            yield piece

    def close(self) -> None:
        """Ends the conversation; a blocked question raises ShellBroken("lost")."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):  # it says goodbye, perhaps to nobody
            self._channel.close()

    def _send(self, data: bytes, deadline: float) -> None:
        try:
            self._channel.settimeout(max(0.001, deadline - time.monotonic()))
            self._channel.sendall(data)
        except TimeoutError as error:
            raise ShellBroken("hang", "it does not read") from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise ShellBroken("lost", str(error)) from error

    def _receive(self, deadline: float, size: int) -> bytes:
        if self._heartbeat:
            self._heartbeat.heard()
        while (remaining := deadline - time.monotonic()) > 0:
            if not self._readable.wait(min(remaining, self._slice_secs)):
                if self._heartbeat and remaining > self._slice_secs and (kind := self._heartbeat.silent()):
                    raise ShellBroken(kind, "the SSH server there is silent")
                continue
            try:
                data = self._channel.recv(size)
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise ShellBroken("lost", str(error)) from error
            if not data:
                raise ShellBroken("lost")
            return data
        raise ShellBroken("hang")
