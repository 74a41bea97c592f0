"""TCP sockets as SSH wants them: no delays, a vanished peer noticed within seconds. Called from any thread."""

from __future__ import annotations

import contextlib
import math
import socket
import time
from typing import Any

from autoperfd.remote.threads import begin

KEEPALIVE_SECS = 5  # a silent link is asked after that long …
KEEPALIVE_AGAIN_SECS = 2  # … and so often until it answers
SILENCE_SHARE = 0.8  # of link_loss_secs; the rest is for reaching the machine once more before it counts as away
READ_AHEAD = 262_144  # SSH asks for a packet in two or three pieces; one system call brings several
Address = tuple[socket.AddressFamily, tuple[Any, ...]]


class TunedSocket(socket.socket):
    """A socket that acknowledges at once, and whose `close` frees a thread blocked in `recv`."""

    _ahead = memoryview(b"")  # received, not yet asked for

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        if not self._ahead:
            self._ahead = memoryview(super().recv(READ_AHEAD, flags))
            self._acknowledge_at_once()
        data, self._ahead = bytes(self._ahead[:size]), self._ahead[size:]
        return data

    def send(self, data: bytes, flags: int = 0, /) -> int:  # type: ignore[override]
        sent = super().send(data, flags)
        self._acknowledge_at_once()
        return sent

    def close(self) -> None:
        # Closing alone does not wake a thread that polls this descriptor.
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)
        super().close()

    def _acknowledge_at_once(self) -> None:
        # The kernel takes TCP_QUICKACK back by itself; delayed acknowledgements cost 40 ms an exchange.
        with contextlib.suppress(OSError):
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def resolve(host: str, port: int, secs: float) -> list[Address]:
    """(family, address) of a host, within `secs` whatever the resolver does. Raises OSError."""
    numeric = socket.AI_NUMERICHOST
    with contextlib.suppress(socket.gaierror):
        return [(f, a) for f, _, _, _, a in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, numeric)]
    found: list[Address] = []
    problem: list[OSError] = []

    def ask() -> None:
        try:
            found.extend((f, a) for f, _, _, _, a in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except OSError as error:
            problem.append(error)

    begin(ask, f"resolve {host}").join(secs)
    if problem:
        raise problem[0]
    if not found:
        raise socket.gaierror(socket.EAI_AGAIN, f"no answer within {secs:g} s")
    return list(found)


def connect(host: str, port: int, *, connect_secs: float, link_loss_secs: float) -> TunedSocket:
    """A connected socket; every address of the host is tried within `connect_secs` in all. Raises OSError."""
    deadline = time.monotonic() + connect_secs
    last: OSError = OSError(f"{host} has no address")
    for family, address in resolve(host, port, connect_secs):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            break
        sock = TunedSocket(family, socket.SOCK_STREAM)
        try:
            _tune(sock, link_loss_secs)
            sock.settimeout(remaining)
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
    raise last


def silence_secs(link_loss_secs: float) -> float:
    """How long a machine may be silent on an open link before the link counts as lost."""
    return max(1.0, link_loss_secs * SILENCE_SHARE)


def _tune(sock: socket.socket, link_loss_secs: float) -> None:
    tcp = socket.IPPROTO_TCP
    sock.setsockopt(tcp, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(tcp, socket.TCP_KEEPIDLE, KEEPALIVE_SECS)
    sock.setsockopt(tcp, socket.TCP_KEEPINTVL, KEEPALIVE_AGAIN_SECS)
    silence = silence_secs(link_loss_secs)
    sock.setsockopt(tcp, socket.TCP_KEEPCNT, max(1, math.ceil(silence / KEEPALIVE_AGAIN_SECS)))
    # Without this, unacknowledged data suspends keepalive and a vanished peer goes unnoticed for minutes.
    sock.setsockopt(tcp, socket.TCP_USER_TIMEOUT, int(silence * 1000))
