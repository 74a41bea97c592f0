"""What passes between the daemon and the fleet: timing, pins, orders and what came of them, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from autoperfd.core.guards import Watch
from autoperfd.core.plan import Machine, ParticipantRecord, Plan


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take and how big they may be. Seconds and bytes."""

    connect_secs: float = 10.0  # TCP connect, banner, key exchange, authentication: each
    link_loss_secs: float = 15.0  # unacknowledged data for that long: the peer is gone (noticed <= +5 s)
    answer_secs: float = 20.0  # one answer of a machine's shell
    probe_secs: float = 15.0  # the executable's start during validation
    prepared_secs: int = 60  # a prepared launcher gives up when no `go` came
    boot_budget_secs: float = 600.0  # from the reboot command to an SSH answer with a new boot id
    stop_secs: int = 5  # from TERM to KILL
    grace_secs: int = 45  # after the last publisher, before remaining subscribers are ended; and deadline -> hard stop
    fetch_stall_secs: float = 30.0  # no byte for that long while fetching
    max_file_bytes: int = 2048 << 20  # of one fetched file; more is cut and marked truncated


class Pins(Protocol):
    """The host keys trusted for an address, from the memory or root's known_hosts. Any thread may ask."""

    def keys_for(self, host: str, port: int) -> list[str]:
        """Key lines without the host, "ssh-ed25519 AAAA…"; [] when the address is unknown."""


@dataclass(frozen=True, slots=True)
class MachineReport:
    """What validation or a reboot found on one machine. Text from the machine is already made safe."""

    machine: str
    boot_id: str
    pings: int  # how many pings were sent until one was answered, that one included
    ssh_checks: int  # how many SSH logins were tried until one worked, that one included
    probe_output: str = ""  # standard output and error of the executable's probe start, <= 64 KiB
    facts: Mapping[str, str] = field(default_factory=dict)
    # absent when the machine does not tell: those of the launcher's `survey` (docs/RESULTS.md lists them), which is
    # a minute old at most, and free_kb, clock, clock_skew, load, temperature and throttled, which are of this moment
    leftovers: tuple[str, ...] = ()  # uids of attempts of this installation found there, without the open one
    host_key_fingerprint: str = ""  # "SHA256:…"
    warnings: tuple[str, ...] = ()  # sentences for a person, e.g. ping by TCP, foreign benchmark processes


@dataclass(frozen=True, slots=True)
class Validation:
    """All machines answered and can run the tool."""

    machines: Mapping[str, MachineReport]

    @property
    def boot_ids(self) -> dict[str, str]:
        """Machine name -> boot id."""
        return {name: report.boot_id for name, report in self.machines.items()}

    @property
    def probes(self) -> dict[str, str]:
        """Machine name -> output of the probe start."""
        return {name: report.probe_output for name, report in self.machines.items()}

    @property
    def pings(self) -> int:
        """How many pings the slowest machine needed."""
        return max((report.pings for report in self.machines.values()), default=0)

    @property
    def ssh_checks(self) -> int:
        """How many SSH checks the slowest machine needed."""
        return max((report.ssh_checks for report in self.machines.values()), default=0)


@dataclass(frozen=True, slots=True)
class Order:
    """One attempt to be made. `folder` exists on the controller, is empty or holds only files of this uid."""

    uid: str  # 32 hex digits
    plan: Plan
    machines: tuple[Machine, ...]  # all machines of the experiment; those without participants are swept only
    folder: Path
    deadline_secs: int  # from the launcher's start: duration + buffer


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One file brought over and found whole. `name` is the plan's; it lies in the order's folder."""

    machine: str
    name: str
    size: int  # as it is in the folder
    sha256: str  # of what is in the folder
    truncated: bool = False  # cut at max_file_bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt left, whatever its worth. Clocks are the machines' own."""

    records: tuple[ParticipantRecord, ...]  # one for each participant of the plan, in its order
    files: tuple[FetchedFile, ...]  # a file a participant did not write is simply absent
    boot_before: Mapping[str, str]  # machine name -> boot id when its launcher started
    boot_after: Mapping[str, str]  # … when it ended; the present one where it could not write one
    stagger_secs: float | None  # the spread of the launchers' starts, on the controller's clock; None: not known
    clock: Mapping[str, float]  # machine name -> its clock minus the controller's, seconds
    how_found: Literal["started", "adopted", "finished"]
    problems: Mapping[str, str] = field(default_factory=dict)
    # machine name -> what was not as it should be there: REMOTE_DISK_FULL, LAUNCHER_LOST, RECORDS_LOST, …
    watch_before: Mapping[str, Watch] = field(default_factory=dict)  # a look at each machine just before the start …
    watch_after: Mapping[str, Watch] = field(default_factory=dict)  # … and when its participants had ended
    was_away: Mapping[str, str] = field(default_factory=dict)  # machine name -> code, where a lost link came back


@dataclass(frozen=True, slots=True)
class Examination:
    """How one machine stands, looked at for a few seconds at most."""

    pinged: bool | None  # answers pings; None: cannot tell, this controller may not ping
    ssh: str  # "ok", or the code of what is wrong with it
    boot_id: str = ""  # "" when not known
    hears: Mapping[str, bool | None] = field(default_factory=dict)  # other machine -> answers this one's ping


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Which machines' datagrams arrive at one machine. None: that cannot be told."""

    address: str = ""  # its own, in numbers; "" when there is none
    port: int = 0
    unicast: Mapping[str, bool | None] = field(default_factory=dict)  # other machine -> whether its datagrams arrive
    group: Mapping[str, bool | None] = field(default_factory=dict)  # … those to the group of DDS discovery
    why: str = ""  # why nothing can be told of this one, as a clause
