"""Knows how to ask the daemon: one JSON line each way over its socket, within a time. Imports little on purpose."""

from __future__ import annotations

import json
import socket
import time

VERSION = 1
ANSWER_SECS = 35.0  # the daemon itself gives up after 30
QUICK_SECS = 12.0  # for what it answers out of its head; then it hangs
_MOST = 64 * 1024 * 1024


def ask(
    runtime: str, command: str, args: dict[str, object] | None = None, timeout: float | None = None
) -> dict[str, object]:
    """The daemon's reply as it stands on the wire.

    Raises OSError when there is no daemon or it may not be asked (TimeoutError: it does not answer), ValueError when
    what answers is not a daemon of this version.
    """
    timeout = timeout or (QUICK_SECS if command == "status" else ANSWER_SECS)
    deadline = time.monotonic() + timeout
    line = json.dumps({"v": VERSION, "command": command, "args": args or {}}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(f"{runtime}/control.sock")
        try:
            sock.sendall(line)
        except BrokenPipeError:  # refused unread: the reason is waiting to be read
            pass
        data = bytearray()
        while not data.endswith(b"\n"):
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            part = sock.recv(1 << 20)
            if not part:
                raise ConnectionResetError("the daemon ended the connection without an answer")
            data += part
            if len(data) > _MOST:
                raise ValueError("the daemon's answer does not end")
    reply = json.loads(data)
    if not isinstance(reply, dict) or reply.get("v") != VERSION:
        raise ValueError("what answers is not an autoperfd of this version")
    return reply
