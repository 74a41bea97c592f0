"""Which datagrams of the others arrive at this machine: sent to it as text, and run there by its own python3.

Imports nothing of ours and needs no more than Python 3.5. Promises to end by itself after its seconds, never to take a
port that somebody uses, and to leave nothing. One thread. `udp_there.pl` is the same for a machine without python3.
"""

import contextlib
import select
import socket
import sys
import time

GROUP = "239.255.0.1"  # of DDS discovery (RTPS 2.5, 9.6.2.4.1)
EVERY_SECS = 0.25
KINDS = ("unicast", "group")


def opened(address: str, port: int, shared: bool = False) -> "socket.socket | None":
    """A socket bound there; None where that cannot be."""
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setblocking(False)
    try:
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address, port))
    except OSError:
        one.close()
        return None
    return one


def joined(port: int, here: str) -> "socket.socket | None":
    """A socket that hears the group alone, on the interface that has the address."""
    one = opened(GROUP, port, shared=True)
    try:
        if one:
            membership = socket.inet_aton(GROUP) + socket.inet_aton(here)
            one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    except OSError:
        return None
    return one


def main(nonce: str, port: str, secs: str, place: str, *addresses: str) -> None:
    """Send to the others and listen, both for so many seconds; print what was done and which of them were heard."""
    number, own = int(port), addresses[int(place)]
    # Sent from a port of its own: a firewall lets in whatever looks like the answer to something that was sent.
    sender, here = opened(own, 0), own
    if not sender:  # the controller knows it by another machine's address
        here = "0.0.0.0"
        sender = opened(here, 0)
    ears = [opened(here, number), joined(number, here)]
    if sender:
        with contextlib.suppress(OSError):
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(here))
    others = [(address, "unicast") for at, address in enumerate(addresses) if at != int(place)]
    places = [str(at) for at in range(len(addresses)) if at != int(place)]
    heard = set()
    due = now = time.monotonic()
    end = now + float(secs)
    while now < end:
        if now >= due and sender:
            due = now + EVERY_SECS
            for address, kind in [*others, (GROUP, "group")]:
                with contextlib.suppress(OSError):  # its own firewall may refuse it, which the others then tell
                    sender.sendto(" ".join((nonce, place, kind)).encode(), (address, number))
        wait = max(0.0, min(due, end) - now)
        for ready in select.select([ear for ear in ears if ear], [], [], wait)[0]:
            with contextlib.suppress(OSError):
                words = ready.recv(200).decode("ascii", "replace").split()
                if len(words) == 3 and words[0] == nonce and words[1] in places and words[2] in KINDS:
                    heard.add((words[1], words[2]))
        now = time.monotonic()
    for ear, kind in zip(ears, KINDS):  # noqa: B905 - `strict` is newer than the Python there may be
        if sender:
            print("sends", kind)
        print("hears" if ear else "cannot", kind)
    for at, kind in sorted(heard):
        print("heard", at, kind)


if __name__ == "__main__":
    main(*sys.argv[1:])
