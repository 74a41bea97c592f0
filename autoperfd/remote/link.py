"""One machine's SSH link: connected when needed, kept for life, its failures told as errors of that machine.

A link is used by one worker at a time for each of its two conversations ("control" and "bulk"); `interrupt`
and `close` may come from any thread and free whoever is blocked.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeVar

import paramiko

from autoperfd.core.plan import Machine
from autoperfd.core.text import safe
from autoperfd.errors import MachineAway, MachineImpossible
from autoperfd.remote import keys, tcp
from autoperfd.remote.heartbeat import Heartbeat
from autoperfd.remote.shell import COMMAND, Shell, ShellBroken
from autoperfd.remote.threads import HINT, NO_THREADS, NoThread, enter
from autoperfd.remote.values import Pins, Timing

Answer = TypeVar("Answer")
Conversation = Literal["control", "bulk"]

CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
KEY_EXCHANGES = (
    "mlkem768x25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
)
GONE_SECS = 0.5  # for so long a connection is waited for that may be about to end with its conversation


class _Transport(paramiko.Transport):
    # paramiko looks ten times a second whether it was closed; our socket's `close` wakes it by itself.
    if hasattr(paramiko.Transport, "_active_check_timeout"):
        _active_check_timeout = 5.0


class Line:
    """One call's use of a link. Every method that reaches the machine raises MachineAway or MachineImpossible.

    When the call is interrupted, or the link hung up, everything raises MachineAway (ABANDONED) from then on.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.machine = link.machine
        self._epoch = link.hang_ups
        self._interrupted = False
        self._using: dict[Conversation, Shell] = {}

    def ask(
        self,
        verb: str,
        tokens: Sequence[object] = (),
        values: Sequence[str] = (),
        *,
        secs: float | None = None,
        on: Conversation = "control",
        tries: int = 2,
    ) -> str:
        """One answer within `secs` (default: answer_secs); see `use`."""
        limit = self.link.timing.answer_secs if secs is None else secs
        return self.use(on, lambda shell: shell.ask(verb, tokens, values, limit), tries=tries)

    def use(self, on: Conversation, work: Callable[[Shell], Answer], *, tries: int = 2) -> Answer:
        """What `work` returns. It has the conversation for itself, and is called again with a new one (and where
        need be a new link) when the first breaks, so it must be harmless to repeat."""
        with self.link.asking[on]:
            while True:
                tries -= 1
                self._check()
                try:
                    shell = self._using[on] = self.link.shell(on)
                    self._check()
                    return work(shell)
                except ShellBroken as broken:
                    self.link.drop(on, broken.kind)
                    self._check()
                    if not tries or broken.kind != "lost":
                        raise self.broken(broken) from broken
                except MachineAway:
                    self._check()
                    raise
                except OSError:
                    # It was left in the middle of an answer, whose rest must not be taken for the next one.
                    self.link.drop(on, "lost")
                    raise
                finally:
                    self._using.pop(on, None)

    def execute(self, command: str, secs: float) -> int | None:
        """Runs a command, which must be a constant, past the verb loop on a channel of its own.

        Its exit status; None when the connection ended first. Raises MachineAway (SHELL_HANG) after `secs`.
        """
        self.connect()
        try:
            return self.link.execute(command, secs)
        except ShellBroken as broken:
            raise self.broken(broken) from broken
        finally:
            self._check()

    def connect(self, *, tcp_secs: float | None = None, banner_secs: float | None = None) -> None:
        """Makes sure there is a connection, as far as is known.

        `tcp_secs` limits the TCP connect alone, `banner_secs` the wait for the SSH server's first words after it.
        """
        self._check()
        try:
            self.link.connect(tcp_secs, banner_secs)
        finally:
            self._check()

    def interrupt(self) -> None:
        """Frees whoever is blocked in this call, from any thread; other calls on the link go on."""
        self._interrupted = True
        for shell in list(self._using.values()):
            shell.close()
        self.link.stop_connecting()

    def away(self, code: str, message: str, hint: str = "") -> MachineAway:
        """A MachineAway of this machine."""
        return MachineAway(self.machine.name, message, code=code, hint=hint)

    def broken(self, broken: ShellBroken) -> MachineAway:
        """The error that a broken conversation means."""
        said = f" ({safe(broken.detail, 300)})" if broken.detail else ""
        if broken.kind == "hang":
            return self.away("SHELL_HANG", f"its shell does not answer{said}")
        if broken.kind == "mute":
            return self.away("SSH_HANG", "its connection stands, but its SSH server does not answer")
        if broken.kind == "nonsense":
            return self.away("BAD_ANSWER", f"its shell answers nonsense{said}")
        return self.away("LINK_LOST", f"the connection was lost{said}")

    def _check(self) -> None:
        if self._interrupted or self._epoch != self.link.hang_ups:
            raise self.away("ABANDONED", "the connection was given up")


class Link:
    """The connection to one machine. Calls use it through a `Line` each."""

    def __init__(self, machine: Machine, pins: Pins, ring: keys.KeyRing, timing: Timing) -> None:
        self.machine = machine
        self.timing = timing
        self.fingerprint = ""  # of the host key it showed
        self.connections = 0  # made so far
        self.hang_ups = 0
        self.asking: dict[Conversation, threading.Lock] = {
            "control": threading.Lock(),
            "bulk": threading.Lock(),
        }
        self._pins = pins
        self._ring = ring
        self._connecting = threading.Lock()
        self._transport: _Transport | None = None
        self._socket: tcp.TunedSocket | None = None
        self._shells: dict[Conversation, Shell] = {}

    def shell(self, on: Conversation) -> Shell:
        """The conversation, opened where need be. The caller holds `asking[on]`. Raises ShellBroken too."""
        transport = self.connect()
        shell = self._shells.get(on)
        if shell is None:
            shell = self._shells[on] = self._open(transport)
        return shell

    def drop(self, on: Conversation, kind: str) -> None:
        """Gives up a conversation that broke; the connection too, unless only the conversation ended."""
        shell = self._shells.pop(on, None)
        if shell is not None:
            shell.close()
        transport = self._transport
        if kind == "lost" and transport is not None:
            # When the connection ends, its conversations hear of it a little earlier; a busy controller takes a while.
            transport.join(GONE_SECS)
        if kind != "lost" or transport is None or not transport.is_active():
            self.close()

    def hang_up(self) -> None:
        """Closes the connection now, from any thread; every call that uses it ends."""
        self.hang_ups += 1
        self.stop_connecting()
        self.close()

    def stop_connecting(self) -> None:
        """Ends a connection attempt, when one is under way."""
        sock = self._socket
        if self._transport is None and sock is not None:
            sock.close()

    def close(self) -> None:
        """Closes the connection; it is made again when needed."""
        transport, self._transport = self._transport, None
        self._shells.clear()
        if transport is not None:
            transport.close()

    def execute(self, command: str, secs: float) -> int | None:
        """See `Line.execute`. Raises ShellBroken("hang")."""
        transport = self.connect()
        deadline = time.monotonic() + secs
        limit, _ = self._limit(transport, secs)
        ended = -1
        try:
            channel = transport.open_session(timeout=secs)
            channel.set_combine_stderr(True)
            channel.settimeout(secs)
            channel.exec_command(command)
            while channel.recv(4096):
                pass
            if channel.status_event.wait(max(0.0, deadline - time.monotonic())):
                ended = channel.recv_exit_status()  # -1 when the connection ended
            channel.close()
        except (paramiko.SSHException, OSError, EOFError):
            pass
        finally:
            limit.cancel()
        if ended < 0 and time.monotonic() >= deadline:
            raise ShellBroken("hang", f"`{command}` does not end")
        return ended if ended >= 0 else None

    # Inside

    def _open(self, transport: _Transport) -> Shell:
        secs = self.timing.connect_secs
        limit, late = self._limit(transport, secs)
        try:
            channel = transport.open_session(timeout=secs)
            channel.exec_command(COMMAND)
            return Shell(channel, secs, Heartbeat(transport, tcp.silence_secs(self.timing.link_loss_secs)))
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ShellBroken("hang" if late.is_set() else "lost", str(error)) from error
        except ShellBroken as broken:
            raise ShellBroken("hang", broken.detail) if late.is_set() else broken from broken
        finally:
            limit.cancel()

    def connect(self, tcp_secs: float | None = None, banner_secs: float | None = None) -> _Transport:
        """The connection, made where need be. The limits are those of `Line.connect`."""
        with self._connecting:
            transport = self._transport
            if transport is not None and transport.is_active():
                return transport
            self.close()
            machine = self.machine
            key = self._ring.key(machine.name, machine.ssh_key_path)
            lines = self._pins.keys_for(machine.ip, machine.port)
            pinned = [pin for line in lines if (pin := keys.split_line(line))]
            if not pinned:
                raise MachineImpossible(
                    machine.name,
                    f"no host key of {machine.ip} port {machine.port} is trusted yet",
                    code="HOST_KEY_UNKNOWN",
                    hint=f"Look at its fingerprint and trust it: autoperfctl trust {machine.name}",
                )
            transport = self._negotiate(pinned, tcp_secs, banner_secs)
            try:
                self._log_in(transport, key)
            except BaseException:
                transport.close()
                raise
            self._transport = transport
            self._shells.clear()
            self.connections += 1
            return transport

    def _negotiate(
        self, pinned: list[tuple[str, bytes]], tcp_secs: float | None, banner_secs: float | None
    ) -> _Transport:
        def start(kinds: list[str]) -> _Transport:
            asked = keys.algorithms(kinds)
            return start_transport(self.machine, asked, self.timing, self._note_socket, tcp_secs, banner_secs)

        try:
            transport = start([kind for kind, _ in pinned])
        except MachineImpossible as error:
            if error.code != "SSH_INCOMPATIBLE":
                raise
            transport = start(list(keys.HOST_KEY_TYPES))  # it has no key of that type: learn which it has
        try:
            shown = transport.get_remote_server_key()
            if (shown.get_name(), shown.asbytes()) not in pinned:
                trusted = " or ".join(keys.fingerprint(key) for _, key in pinned)
                raise other_key(self.machine, keys.fingerprint(shown.asbytes()), trusted)
        except BaseException:
            transport.close()
            raise
        self.fingerprint = keys.fingerprint(shown.asbytes())
        return transport

    def _limit(self, transport: _Transport, secs: float) -> tuple[threading.Timer, threading.Event]:
        """Ends a connection at that time, and tells that it did; some of paramiko's waits have no limit of their own.

        Raises MachineAway.
        """
        late = threading.Event()

        def end() -> None:
            late.set()  # told first: whoever is freed by the closing asks why before it is done
            transport.close()

        limit = threading.Timer(secs, end)
        limit.daemon = True
        try:
            enter(limit.start)
        except NoThread as error:
            raise _no_thread(self.machine, error) from error
        return limit, late

    def _note_socket(self, sock: tcp.TunedSocket) -> None:
        self._socket = sock

    def _log_in(self, transport: _Transport, key: paramiko.PKey) -> None:
        machine = self.machine
        answered = threading.Event()
        try:
            transport.auth_publickey(machine.username, key, event=answered)
        except paramiko.SSHException as error:
            raise MachineAway(machine.name, "SSH ended before the login", code="SSH_LOST") from error
        if not answered.wait(self.timing.connect_secs):
            raise MachineAway(machine.name, "SSH answers, but not to the login", code="SSH_HANG")
        if transport.is_authenticated():
            return
        problem = transport.get_exception()
        if isinstance(problem, paramiko.AuthenticationException) or (not problem and transport.is_active()):
            self._ring.forget(machine.ssh_key_path)
            raise MachineImpossible(
                machine.name,
                f"it refuses the key {machine.ssh_key_path} for the account {machine.username}",
                code="AUTH_REFUSED",
                hint=f"Add the public key to ~{machine.username}/.ssh/authorized_keys there (ssh-copy-id)",
            )
        raise MachineAway(machine.name, "SSH ended during the login", code="SSH_LOST")


def start_transport(
    machine: Machine,
    host_keys: Sequence[str],
    timing: Timing,
    note: Callable[[tcp.TunedSocket], None],
    tcp_secs: float | None = None,
    banner_secs: float | None = None,
) -> _Transport:
    """A connection to the machine's sshd whose keys are exchanged; nobody is logged in, nothing is trusted.

    `host_keys`: the signature algorithms asked for. `note` gets the socket as soon as there is one. The limits are
    those of `Line.connect`.
    Raises MachineAway; MachineImpossible when the machine has no key of that kind.
    """
    secs = timing.connect_secs
    where = f"{machine.ip} port {machine.port}"

    def away(code: str, message: str, hint: str = "") -> MachineAway:
        return MachineAway(machine.name, message, code=code, hint=hint)

    try:
        sock = tcp.connect(
            machine.ip, machine.port, connect_secs=tcp_secs or secs, link_loss_secs=timing.link_loss_secs
        )
    except socket.gaierror as error:
        raise away("DNS", f"the name {machine.ip} cannot be resolved ({error.strerror})") from error
    except ConnectionRefusedError as error:
        raise away("SSH_REFUSED", f"{where} refuses connections: no sshd there, or not yet") from error
    except NoThread as error:
        raise _no_thread(machine, error) from error
    except OSError as error:
        raise away("SSH_SILENT", f"no connection to {where} ({error.strerror or error})") from error
    note(sock)
    transport = None
    try:
        transport = _Transport(sock)
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = secs
        transport.channel_timeout = secs
        _restrict(transport, host_keys)
        done = threading.Event()
        try:
            enter(partial(transport.start_client, event=done))
        except NoThread as error:
            raise _no_thread(machine, error) from error
        first_secs = min(secs, banner_secs or secs)
        answered = done.wait(first_secs)
        if not answered and transport.remote_version:
            answered = done.wait(secs - first_secs)
        if answered and transport.is_active():
            return transport
        problem = transport.get_exception()
        if isinstance(problem, paramiko.ssh_exception.IncompatiblePeer):
            raise MachineImpossible(
                machine.name,
                f"{where} has no SSH algorithm in common with autoperfd: {safe(str(problem), 300)}",
                code="SSH_INCOMPATIBLE",
                hint="Update its sshd",
            )
        if not transport.remote_version:
            raise away("SSH_NO_BANNER", f"{where} accepts connections, but no SSH server answers")
        raise away("SSH_HANG" if not answered else "SSH_LOST", f"SSH at {where} ends in the key exchange")
    except BaseException:
        if transport is not None:
            transport.close()
        sock.close()
        raise


def _no_thread(machine: Machine, error: NoThread) -> MachineAway:
    return MachineAway(machine.name, f"{error.strerror} to speak with it", code=NO_THREADS, hint=HINT)


def _restrict(transport: _Transport, host_keys: Sequence[str]) -> None:
    options = transport.get_security_options()
    options.ciphers = [name for name in CIPHERS if name in options.ciphers]
    options.digests = [name for name in MACS if name in options.digests]
    options.kex = [name for name in KEY_EXCHANGES if name in options.kex]
    options.key_types = [name for name in host_keys if name in options.key_types]


def other_key(machine: Machine, shown: str, trusted: str) -> MachineImpossible:
    """The error for a machine that shows another host key than the trusted one."""
    return MachineImpossible(
        machine.name,
        f"{machine.ip} port {machine.port} shows the host key {shown}, but trusted is {trusted}: "
        "duplicate IP or reinstalled machine",
        code="HOST_KEY_MISMATCH",
        hint=f"If it was reinstalled: autoperfctl trust {machine.name}",
    )
