"""Ping from inside the process: ICMP echo by an unprivileged socket, or a TCP connect. Blocks; any thread."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time

from autoperfd.remote.tcp import resolve

_sequence = itertools.count(1)


class PingForbidden(OSError):
    """This process may not open an ICMP socket."""


def icmp(host: str, secs: float) -> bool:
    """Whether `host` answers one echo request within `secs`. Raises PingForbidden; OSError when unresolvable."""
    deadline = time.monotonic() + secs
    family, address = resolve(host, 0, secs)[0]
    six = family == socket.AF_INET6
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    sock, raw = _icmp_socket(family, protocol)
    with sock:
        number = next(_sequence) & 0xFFFF
        token = os.urandom(16)
        kind, reply = (128, 129) if six else (8, 0)
        packet = struct.pack("!BBHHH", kind, 0, 0, os.getpid() & 0xFFFF, number) + token
        if raw and not six:
            packet = packet[:2] + struct.pack("!H", _checksum(packet)) + packet[4:]
        try:
            sock.sendto(packet, address)
            while (remaining := deadline - time.monotonic()) > 0:
                sock.settimeout(remaining)
                data, sender = sock.recvfrom(2048)
                if raw and not six:
                    data = data[(data[0] & 15) * 4 :]
                # The kernel gives datagram sockets their own identifier, so the token tells what is ours.
                if data[:1] == bytes([reply]) and data[8:24] == token and sender[0] == address[0]:
                    return True
        except OSError:  # unreachable, or nothing within the time
            return False
    return False


def tcp(host: str, port: int, secs: float) -> bool:
    """Whether the host's TCP answers at that port; a refusal is an answer too. OSError when unresolvable."""
    return _connect(host, port, secs) in (True, None)


def accepts(host: str, port: int, secs: float) -> bool:
    """Whether somebody listens at that port of the host. OSError when unresolvable."""
    return _connect(host, port, secs) is True


def _connect(host: str, port: int, secs: float) -> bool | None:
    """True: connected, None: refused, False: no answer."""
    family, address = resolve(host, port, secs)[0]
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(secs)
        try:
            sock.connect(address)
        except ConnectionRefusedError:
            return None
        except OSError:
            return False
        return True


def _icmp_socket(family: int, protocol: int) -> tuple[socket.socket, bool]:
    try:
        return socket.socket(family, socket.SOCK_DGRAM, protocol), False
    except PermissionError:
        pass
    try:
        return socket.socket(family, socket.SOCK_RAW, protocol), True
    except PermissionError as error:
        raise PingForbidden(*error.args) from error


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    total += total >> 16
    return ~total & 0xFFFF
