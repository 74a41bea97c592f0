"""The fleet: everything the daemon asks of machines. Owns all links; any worker thread may call; blocks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from autoperfd.core.plan import Machine
from autoperfd.remote.values import Order, Outcome, Pins, Timing, Validation


class Fleet:
    """All machines, one persistent link each. Thread-safe; one a daemon; `close` when done.

    Errors of every method: MachineAway (may pass), MachineImpossible (a person must act), Cancelled.
    Where several machines fail, the gravest is raised and the rest are its `others`.
    """

    def __init__(
        self,
        *,
        installation: str,
        pins: Pins,
        timing: Timing,
        credentials: Path | None,
        home: Path,
        ping: str = "icmp",
    ) -> None:
        """`installation`: 16 hex digits; `credentials`: $CREDENTIALS_DIRECTORY; `home`: what "~" of a key means;
        `ping`: "icmp", "tcp" or "auto" (ICMP, by TCP connect where ICMP is forbidden)."""

    def validate(
        self,
        machines: Sequence[Machine],
        probe_argv: Sequence[str],
        probe_exits: Collection[int],
        *,
        wants_reboot: bool,
        uid_open: str = "",
        cancelled: threading.Event,
        patience_secs: float,
    ) -> Validation:
        """Ping, log in and probe all machines in parallel, each again until it answers or patience is used up.

        `uid_open`: the attempt that may be running there, not a leftover; the executable is not started then.
        """
        raise NotImplementedError

    def reboot(
        self, machines: Sequence[Machine], boot_ids: Mapping[str, str], *, cancelled: threading.Event
    ) -> Validation:
        """Reboot every machine whose boot id is still the stored one, and wait until all answer with another.

        A machine whose boot id differs already counts as rebooted: asking again is harmless.
        """
        raise NotImplementedError

    def attempt(
        self,
        order: Order,
        *,
        confirmed: bool,
        on_started: Callable[[], None],
        cancelled: threading.Event,
    ) -> Outcome:
        """Make the attempt of that uid, or go on with it where it stands; returns when its files are here.

        Sweeps older attempts, prepares all machines, starts all together, calls `on_started` (once every launcher
        confirmed; also when adopted), waits, fetches. `confirmed`: an earlier call got as far as `on_started`, so it
        is never started again. `cancelled`: raises Cancelled soon and leaves the attempt alive (see `stop`).

        Also raises HalfStarted, StartFailed, FetchFailed, MachineTaken.
        """
        raise NotImplementedError

    def sweep(self, machines: Sequence[Machine], keep: Collection[str] = ()) -> None:
        """End and remove all attempts of this installation on these machines but those in `keep`."""
        raise NotImplementedError

    def stop(self, machines: Sequence[Machine], uid: str) -> None:
        """End the participants of one attempt; its records and files stay until the next sweep."""
        raise NotImplementedError

    def scan(self, host: str, port: int) -> list[str]:
        """The host keys a machine offers, "ssh-ed25519 AAAA…", one a type, without logging in."""
        raise NotImplementedError

    def abandon(self, machines: Sequence[Machine]) -> None:
        """Close the links of these machines now; blocked calls raise MachineAway. Returns at once."""
        raise NotImplementedError

    def close(self) -> None:
        """Close all links. Blocked calls raise MachineAway."""
        raise NotImplementedError
