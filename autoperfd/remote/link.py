"""One machine's SSH link: connected when needed, kept for life, its failures told as errors of that machine.

A link is used by one worker at a time for each of its two conversations ("control" and "bulk"); `interrupt`
and `close` may come from any thread and free whoever is blocked.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Literal

import paramiko

from autoperfd.core.plan import Machine
from autoperfd.core.text import safe
from autoperfd.errors import MachineAway, MachineError, MachineImpossible
from autoperfd.remote import keys, tcp
from autoperfd.remote.shell import COMMAND, Shell, ShellBroken
from autoperfd.remote.values import Pins, Timing

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


class _Transport(paramiko.Transport):
    # paramiko looks ten times a second whether it was closed; our socket's `close` wakes it by itself.
    if hasattr(paramiko.Transport, "_active_check_timeout"):
        _active_check_timeout = 5.0


class Link:
    """The way to one machine. Every method that reaches it raises MachineAway or MachineImpossible."""

    def __init__(self, machine: Machine, pins: Pins, ring: keys.KeyRing, timing: Timing) -> None:
        self.machine = machine
        self.fingerprint = ""  # of the host key it showed
        self._pins = pins
        self._ring = ring
        self._timing = timing
        self._connecting = threading.Lock()
        self._transport: _Transport | None = None
        self._socket: tcp.TunedSocket | None = None
        self._shells: dict[Conversation, Shell] = {}
        self._asking: dict[Conversation, threading.Lock] = {
            "control": threading.Lock(),
            "bulk": threading.Lock(),
        }
        self._interruptions = 0
        self.connections = 0

    @property
    def up(self) -> bool:
        """Whether there is a connection, as far as is known."""
        transport = self._transport
        return transport is not None and transport.is_active()

    def ask(
        self,
        verb: str,
        tokens: Sequence[object] = (),
        values: Sequence[str] = (),
        *,
        secs: float | None = None,
        on: Conversation = "control",
        again: bool = True,
    ) -> str:
        """One answer. A conversation that breaks is opened anew once, and the link with it, unless not `again`."""
        with self.conversation(on, again=again) as use:
            limit = self._timing.answer_secs if secs is None else secs
            return use(lambda shell: shell.ask(verb, tokens, values, limit))

    @contextlib.contextmanager
    def conversation(self, on: Conversation, *, again: bool = True) -> Iterator[_Use]:
        """The conversation, for this caller alone."""
        with self._asking[on]:
            yield _Use(self, on, again)

    def interrupt(self, *, hang_up: bool = False) -> None:
        """Frees whoever is blocked here with MachineAway; `hang_up` closes the connection too."""
        self._interruptions += 1
        for shell in list(self._shells.values()):
            shell.close()
        sock, transport = self._socket, self._transport
        if (hang_up or transport is None) and sock is not None:
            sock.close()
        if hang_up and transport is not None:
            transport.close()

    def close(self) -> None:
        """Closes the connection; it is opened again when needed."""
        transport, self._transport = self._transport, None
        self._shells.clear()
        if transport is not None:
            transport.close()

    # Inside

    def away(self, code: str, message: str, hint: str = "") -> MachineAway:
        return MachineAway(self.machine.name, message, code=code, hint=hint)

    def _broken(self, broken: ShellBroken) -> MachineError:
        said = f" ({safe(broken.detail, 300)})" if broken.detail else ""
        if broken.kind == "hang":
            return self.away("SHELL_HANG", f"its shell does not answer{said}")
        if broken.kind == "nonsense":
            return self.away("BAD_ANSWER", f"its shell answers nonsense{said}")
        return self.away("LINK_LOST", f"the connection was lost{said}")

    def _shell(self, on: Conversation) -> Shell:
        transport = self._connect()
        shell = self._shells.get(on)
        if shell is None:
            shell = self._shells[on] = self._open(transport)
        return shell

    def _drop(self, on: Conversation, kind: str) -> None:
        shell = self._shells.pop(on, None)
        if shell is not None:
            shell.close()
        if kind != "lost" or not self.up:
            self.close()

    def _open(self, transport: _Transport) -> Shell:
        secs = self._timing.connect_secs
        # Some of paramiko's waits have no limit of their own; closing the transport ends them all.
        late = threading.Timer(secs, transport.close)
        late.daemon = True
        late.start()
        try:
            channel = transport.open_session(timeout=secs)
            channel.exec_command(COMMAND)
            return Shell(channel, secs)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ShellBroken("lost" if late.is_alive() else "hang", str(error)) from error
        except ShellBroken as broken:
            raise ShellBroken("hang", broken.detail) if not late.is_alive() else broken from broken
        finally:
            late.cancel()

    def _connect(self) -> _Transport:
        with self._connecting:
            transport = self._transport
            if transport is not None and transport.is_active():
                return transport
            self.close()
            machine = self.machine
            key = self._ring.key(machine.name, machine.ssh_key_path)
            pinned = [pin for line in self._pins.keys_for(machine.ip, machine.port) if (pin := keys.split_line(line))]
            if not pinned:
                raise MachineImpossible(
                    machine.name,
                    f"no host key of {machine.ip} port {machine.port} is trusted yet",
                    code="HOST_KEY_UNKNOWN",
                    hint=f"Look at its fingerprint and trust it: autoperfctl trust {machine.name}",
                )
            transport = self._negotiate(pinned)
            try:
                self._log_in(transport, key)
            except BaseException:
                transport.close()
                raise
            self._transport = transport
            self._shells.clear()
            self.connections += 1
            return transport

    def _negotiate(self, pinned: list[tuple[str, bytes]]) -> _Transport:
        transport = start_transport(
            self.machine, keys.algorithms([kind for kind, _ in pinned]), self._timing, self._note_socket
        )
        try:
            shown = transport.get_remote_server_key()
            self.fingerprint = keys.fingerprint(shown.asbytes())
            if (shown.get_name(), shown.asbytes()) not in pinned:
                trusted = " or ".join(keys.fingerprint(key) for _, key in pinned)
                raise other_key(self.machine, self.fingerprint, trusted)
        except BaseException:
            transport.close()
            raise
        return transport

    def _note_socket(self, sock: tcp.TunedSocket) -> None:
        self._socket = sock

    def _log_in(self, transport: _Transport, key: paramiko.PKey) -> None:
        machine = self.machine
        answered = threading.Event()
        try:
            transport.auth_publickey(machine.username, key, event=answered)
        except paramiko.SSHException as error:
            raise self.away("SSH_LOST", "it closed the connection before the login") from error
        if not answered.wait(self._timing.connect_secs):
            raise self.away("SSH_HANG", "SSH answers, but not to the login")
        if transport.is_authenticated():
            return
        problem = transport.get_exception()
        if isinstance(problem, paramiko.AuthenticationException):
            self._ring.forget(machine.ssh_key_path)
            raise MachineImpossible(
                machine.name,
                f"it refuses the key {machine.ssh_key_path} for the account {machine.username}",
                code="AUTH_REFUSED",
                hint=f"Add the public key to ~{machine.username}/.ssh/authorized_keys there (ssh-copy-id)",
            )
        raise self.away("SSH_LOST", "it closed the connection during the login")


class _Use:
    """One exclusive use of a conversation: calls work with the shell, and once more with a new one."""

    def __init__(self, link: Link, on: Conversation, again: bool) -> None:
        self._link = link
        self._on: Conversation = on
        self._tries = 2 if again else 1

    def __call__[Answer](self, work: Callable[[Shell], Answer]) -> Answer:
        raise NotImplementedError
