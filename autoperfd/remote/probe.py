"""Is a machine fit for tests? One machine's ping, login and probe, and what its answers mean. Any worker."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from autoperfd.core.guards import Guards, Watch, violations
from autoperfd.core.plan import Machine
from autoperfd.core.text import safe
from autoperfd.errors import MachineAway, MachineImpossible, MachineTaken
from autoperfd.remote import answers, ping, restart
from autoperfd.remote.crew import Call
from autoperfd.remote.link import Line
from autoperfd.remote.shell import ShellBroken
from autoperfd.remote.values import MachineReport, Timing

PING_SECS = 1.0
PAUSE_SECS = 0.3  # between two checks of a machine that does not answer
SURVEY_SECS = 60.0  # a machine is described anew before an attempt when that was longer ago
AUTH_PATIENCE_SECS = 10.0  # a booting machine may refuse logins for a while
SYSCTL = "net.ipv4.ping_group_range = 0 2147483647"
OF_EXECUTABLE = ("executable_sha256",)  # facts that only the full probe asks for
LOADER = re.compile(
    r"error while loading shared libraries: [^\n]{0,200}|cannot execute[^\n]{0,100}|Exec format error"
    r"|GLIBC[^\n]{0,100}not found|[Ll]icen[sc]e[^\n]{0,200}(?:not found|expired|invalid)[^\n]{0,100}"
)


@dataclass(frozen=True, slots=True)
class Question:
    """What validation asks of every machine."""

    installation: str
    argv: tuple[str, ...]
    exits: frozenset[int]
    wants_reboot: bool
    uid_open: str
    ping: str
    guards: Guards


@dataclass(slots=True)
class Checks:
    """How often one machine was asked so far."""

    pings: int = 0
    ssh: int = 0
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Known:
    """What a machine's full probe found; holds until its next boot, another connection or another executable.

    `facts`: of the latest survey and that of the executable; `surveyed`: when it was taken, monotonic.
    """

    connection: int
    boot_id: str
    asked: tuple[object, ...]
    stamp: str
    output: str
    facts: Mapping[str, str]
    surveyed: float


def knock(machine: Machine, mode: str, checks: Checks) -> None:
    """One ping. Raises MachineAway; MachineImpossible where pinging is forbidden."""
    checks.pings += 1
    try:
        if mode == "tcp":
            answered = ping.tcp(machine.ip, machine.port, PING_SECS)
        else:
            answered = ping.icmp(machine.ip, PING_SECS)
    except ping.PingForbidden as error:
        if mode == "icmp":
            raise MachineImpossible(
                machine.name,
                "this controller may not send pings",
                code="PING_FORBIDDEN",
                hint=f'Put "{SYSCTL}" into /etc/sysctl.d/50-autoperfd.conf and run sysctl --system, '
                'or set ping = "auto" in autoperfd.toml',
            ) from error
        checks.warnings.append("pings are forbidden on this controller; TCP connects are used in their place")
        answered = ping.tcp(machine.ip, machine.port, PING_SECS)
    except OSError as error:
        raise MachineAway(
            machine.name, f"the name {machine.ip} cannot be resolved ({error.strerror})", code="DNS"
        ) from error
    if not answered:
        raise MachineAway(machine.name, f"{machine.ip} does not answer pings", code="PING")


def fit(
    line: Line,
    timing: Timing,
    call: Call,
    question: Question,
    known: Known | None,
    patience_secs: float,
    hopeless: threading.Event,
) -> tuple[MachineReport, Known | None]:
    """Pings, logs in and probes until the machine answers, patience is used up, or another is `hopeless`.

    Raises what was wrong last, with the counts so far.
    """
    began = time.monotonic()
    checks = Checks()
    while True:
        try:
            call.check()
            knock(line.machine, question.ping, checks)
            checks.ssh += 1
            return _probe(line, timing, question, checks, known)
        except (MachineAway, MachineTaken, MachineImpossible) as error:
            error.pings, error.ssh_checks = checks.pings, checks.ssh
            spent = time.monotonic() - began
            lasting = isinstance(error, MachineImpossible) and (
                error.code != "AUTH_REFUSED" or spent > AUTH_PATIENCE_SECS
            )
            impatient = hopeless.is_set() or spent + PAUSE_SECS > patience_secs
            if lasting or impatient or error.code == "ABANDONED":
                if isinstance(error, MachineAway) and error.code == "PING":
                    raise _silent(line.machine, error) from error
                raise
        if call.stopped.wait(PAUSE_SECS):
            call.check()


def _silent(machine: Machine, error: MachineAway) -> MachineAway:
    if not ping.tcp(machine.ip, machine.port, PING_SECS):
        return error
    better = MachineAway(
        machine.name,
        f"{machine.ip} does not answer pings, though its port {machine.port} does",
        code="PING_LOST",
        hint='Let ICMP echo through on the way, or set ping = "tcp" in autoperfd.toml',
    )
    better.pings, better.ssh_checks = error.pings, error.ssh_checks
    return better


def _probe(
    line: Line, timing: Timing, question: Question, checks: Checks, known: Known | None
) -> tuple[MachineReport, Known | None]:
    machine = line.machine
    line.connect()
    asked = (machine.exec_path, machine.environment, question.argv, question.wants_reboot)
    if known is None or known.connection != line.link.connections or known.asked != asked:
        known = None
    probed = _ask(line, timing, question, known)
    if known is not None and probed.first("stamp") != known.stamp and not question.uid_open:
        known = None  # another executable stands there now
        probed = _ask(line, timing, question, known)
    start = known is None and not question.uid_open
    try:
        seen = answers.watch(probed.lines)
        boot = answers.boot_id(probed.first("boot") or "-")
    except ShellBroken as broken:
        raise line.away("BAD_ANSWER", f"it answers nonsense ({safe(broken.detail, 200)})") from broken
    if not boot:
        raise line.away("BAD_ANSWER", "it does not tell its boot id")
    _judge(machine, probed, question, started=start)
    if not question.uid_open:  # what disturbs an attempt that runs already is told when it has ended
        _guard(machine, seen, question.guards)
    facts, now = answers.surveyed(probed), time.monotonic()
    if start:
        connection, stamp = line.link.connections, probed.first("stamp")
        known = Known(connection, boot, asked, stamp, probed.output, facts, now)
    elif known is not None and known.boot_id != boot:
        known = None
    elif known is not None and facts:
        facts = {**{key: known.facts[key] for key in OF_EXECUTABLE if key in known.facts}, **facts}
        known = replace(known, facts=facts, surveyed=now)
    report = MachineReport(
        machine=machine.name,
        boot_id=boot,
        pings=checks.pings,
        ssh_checks=checks.ssh,
        probe_output=known.output if known else "",
        facts={**(known.facts if known else facts), **_passing(probed, seen)},
        leftovers=tuple(uid for uid in probed.lines.get("leftover", []) if re.fullmatch(r"[0-9a-f]{32}", uid)),
        host_key_fingerprint=line.link.fingerprint,
        warnings=(*dict.fromkeys(checks.warnings), *_disturbances(machine, seen)),
    )
    return report, known


def _ask(line: Line, timing: Timing, question: Question, known: Known | None) -> answers.Probed:
    """One probe: what is not known yet is asked for, unless an attempt runs there, which is not to be disturbed."""
    machine = line.machine
    start = known is None and not question.uid_open
    old = known is not None and time.monotonic() - known.surveyed >= SURVEY_SECS and not question.uid_open
    environment = [f"{key}={value}" for key, value in machine.environment]
    tokens: list[object] = [question.installation, question.uid_open or "-", int(start), int(start or old)]
    tokens += [int(start and question.wants_reboot), int(timing.probe_secs), len(environment)]
    secs = timing.answer_secs + (timing.probe_secs + 2 if start else 0)
    text = line.ask("probe", tokens, [machine.exec_path, *environment, *question.argv], secs=secs)
    try:
        return answers.probed(text)
    except ShellBroken as broken:
        raise line.away("BAD_ANSWER", f"it answers nonsense ({safe(broken.detail, 200)})") from broken


def _judge(machine: Machine, probed: answers.Probed, question: Question, *, started: bool) -> None:
    """Raises MachineImpossible for what would fail in every test."""

    def impossible(code: str, message: str, hint: str) -> MachineImpossible:
        return MachineImpossible(machine.name, message, code=code, hint=hint)

    if "needs" in probed.lines:
        missing = safe(" ".join(probed.lines["needs"]), 200)
        raise impossible(
            "COMMANDS_MISSING",
            f"it lacks {missing}",
            "Install it there, e.g. sudo apt-get install coreutils findutils util-linux grep",
        )
    executable = probed.first("executable")
    path = machine.exec_path
    if executable == "missing":
        raise impossible(
            "EXEC_MISSING", f"there is no {path}", "Install the tool there, or correct its path in the experiment file"
        )
    if executable == "refused":
        raise impossible(
            "EXEC_REFUSED",
            f"{path} is not an executable file for {machine.username}",
            f"On the machine: chmod +x {path}",
        )
    if started and probed.exit is not None and probed.exit not in question.exits:
        command = " ".join([path, *question.argv])
        loader = LOADER.search(probed.output)
        said = safe(loader[0] if loader else _last_line(probed.output), 300)
        how = "does not end" if probed.exit in (124, 137) else f"ends with exit status {probed.exit}"
        raise impossible(
            "WONT_START",
            f"`{safe(command, 300)}` {how}" + (f": {said}" if said else ""),
            "Make it run there by hand; LD_LIBRARY_PATH and the like go into the machine's environment",
        )
    reboot = probed.first("reboot")
    if reboot and reboot != "yes":
        raise impossible(
            "REBOOT_REFUSED",
            f"{machine.username} may not reboot it: {reboot[3:] or 'sudo refuses'}",
            f"Add to sudoers there: {machine.username} ALL=(root) NOPASSWD: /usr/bin/{restart.SOFT}, "
            f"/usr/bin/{restart.FORCED}; "
            'or set reboot = "never"',
        )
    if probed.first("busy"):
        holder, _, uid = probed.first("busy").partition(" ")
        raise taken(machine, holder, uid)
    if probed.first("logind") == "KillUserProcesses=yes":
        raise impossible(
            "KILL_USER_PROCESSES",
            "its systemd-logind ends everything a login started when the connection goes (KillUserProcesses=yes)",
            "Set KillUserProcesses=no in /etc/systemd/logind.conf there, or use a machine account it excludes",
        )


def taken(machine: Machine, holder: str, uid: str) -> MachineTaken:
    """The error for a machine that another installation uses."""
    return MachineTaken(
        machine.name,
        f"an attempt ({uid or 'unknown'}) of another autoperfd installation ({holder or 'unknown'}) runs there",
        code="MACHINE_TAKEN",
        hint="Wait until it has finished, or use other machines for one of the two",
    )


def _guard(machine: Machine, seen: Watch, guards: Guards) -> None:
    """Raises MachineTaken or MachineAway for a machine on which an attempt would be invalid from its start."""
    alone = {machine.name: seen}
    for violation in violations(alone, alone, guards):
        message = violation.reason.removeprefix(f"{machine.name} ")
        kind = MachineTaken if violation.code in ("FOREIGN_PROCESS", "USER_LOGGED_IN") else MachineAway
        raise kind(
            machine.name,
            message,
            code=violation.code,
            hint="It goes on when that is over; [guards] in autoperfd.toml says what is minded",
        )
    if seen.free_kb is not None and seen.free_kb < guards.min_free_mb << 10:
        raise MachineAway(
            machine.name,
            f"its disk is nearly full: {seen.free_kb >> 10} MB are free, an attempt wants {guards.min_free_mb}",
            code="REMOTE_DISK_FULL",
            hint=f"Free space in ~{machine.username} there",
        )


def _passing(probed: answers.Probed, seen: Watch) -> dict[str, str]:
    """Facts that every probe tells, for they are never the same twice."""
    facts = {key: probed.first(key) for key in ("free_kb", "clock", "load", "throttled") if probed.first(key)}
    if seen.celsius is not None:
        facts["temperature"] = f"{seen.celsius:.1f}"
    if re.fullmatch(r"\d{1,12}\.\d{1,9}", facts.get("clock", "")):
        facts["clock_skew"] = f"{float(facts['clock']) - time.time():.3f}"
    return facts


def _disturbances(machine: Machine, seen: Watch) -> list[str]:
    """Sentences about what is not minded, yet worth telling."""
    told = []
    if seen.foreign:
        told.append(f"{machine.name}: somebody else runs there already: {', '.join(seen.foreign)}")
    if seen.users:
        told.append(f"{machine.name}: somebody is logged in there: {', '.join(seen.users)}")
    return told


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def same_machine(reports: Sequence[MachineReport]) -> MachineImpossible | None:
    """The error when two names mean one machine."""
    for kind, hint in (
        ("boot_id", "Give each machine of the experiment its own address"),
        (
            "host_key_fingerprint",
            "Correct the addresses; if one is a copy of the other's disk, give it keys of its own: "
            "sudo rm /etc/ssh/ssh_host_*; sudo ssh-keygen -A",
        ),
    ):
        seen: dict[str, str] = {}
        for report in reports:
            value = getattr(report, kind)
            other = seen.setdefault(value, report.machine)
            if value and other != report.machine:
                what = "the same boot id" if kind == "boot_id" else "the same host key"
                return MachineImpossible(
                    report.machine, f"it and {other} are one machine: {what}", code="SAME_MACHINE", hint=hint
                )
    return None


def exits(values: Collection[int]) -> frozenset[int]:
    """The exit statuses that show a program can run; 0 when none is named."""
    return frozenset(values) or frozenset({0})
