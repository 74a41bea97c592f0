"""Knows one HTTP call to an address of people's: to an allowed one only, no redirect, nothing read but the head.

`Post` is a message to a webhook, signed; `Get` a heartbeat.

Promises: `run` never raises for a receiver's fault and never names the URL's path, which often is a secret; `abort`
frees a blocked `run` at once. Imported (with requests) only when a URL is configured. One thread runs a `Post`, any
other may abort it.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  (the first look-up would import it, and nothing may be imported late)
import hashlib
import hmac
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

import autoperfd
from autoperfd.daemon import message
from autoperfd.daemon.notify import Outcome
from autoperfd.daemon.views import escaped
from autoperfd.errors import AutoperfError

TIMEOUTS = (5.0, 5.0)  # connect, and each read; the total is the caller's, by `abort`
_SYSTEM_CAS = Path("/etc/ssl/certs/ca-certificates.crt")
_USELESS_TO_RETRY = range(400, 500)
_WORTH_A_RETRY = (408, 421, 425, 429)

# Addresses that answer with secrets of the computer or its cloud, besides all link-local ones.
_METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")))

_ALWAYS = {"User-Agent": f"autoperfd/{autoperfd.__version__}", "Accept-Encoding": "identity"}

# urllib3 logs the path of every request at DEBUG, and that path is a secret at Slack and its like.
logging.getLogger("urllib3").setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send, and in which form. `allow_http`: plain http is allowed, to loopback and private addresses only."""

    url: str = field(repr=False)
    secret: bytes | None = field(default=None, repr=False)
    allow_http: bool = False
    ca_file: str | None = None  # None: the system's authorities, or else the ones requests brings
    template: str = "generic"  # of message.TEMPLATES
    name: str = "webhook"  # of the table in autoperfd.toml

    def body(self, kind: str, facts: message.Facts) -> bytes:
        """The body of a message."""
        return message.body(self.template, kind, facts, self.url)

    def address(self) -> str:
        """The URL that is called."""
        return message.address(self.template, self.url)

    def check(self) -> None:
        """Raises AutoperfError, without the URL in it, when nothing could ever be sent there."""
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host, parts = None, None
        cannot = f"autoperfd cannot use the {self.name}"
        hint = f"Correct [{self.name}] url in autoperfd.toml or its credential"
        if parts is None or not host or parts.scheme not in ("http", "https"):
            raise AutoperfError(f"{cannot}: it is not an http or https URL", hint=hint)
        if parts.username is not None:
            raise AutoperfError(f"{cannot}: its URL holds a user name", hint=hint)
        if parts.scheme == "http" and not self.allow_http:
            raise AutoperfError(
                f"{cannot}: its URL is plain http",
                hint=f"Use https, or set [{self.name}] allow_http = true for a receiver in the lab",
            )
        if self.template == "ntfy" and not message.topic(self.url):
            raise AutoperfError(
                f"{cannot}: its URL does not end in a topic of ntfy",
                hint="It must be like https://ntfy.sh/topic, the topic of letters, digits, '_' and '-'",
            )
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return  # a name: its addresses are checked at every connection
        if problem := refused_address(str(address), plain=parts.scheme == "http"):
            raise AutoperfError(f"{cannot}: {problem}", hint=hint)


class _Refused(Exception):
    """The address is one we do not talk to. Not an OSError: urllib3 must not take it for a network fault."""


class Post:
    """One try to deliver `body` under `id`."""

    method = "POST"

    def __init__(self, target: Target, id: str, body: bytes, *, clock: Callable[[], float] = time.time) -> None:
        self._target = target
        self._id = id
        self._body = body
        self._clock = clock
        self._lock = threading.Lock()
        self._aborted = False
        self._socket: socket.socket | None = None

    def run(self) -> Outcome:
        """Send it and say what came of it."""
        host = escaped(urlsplit(self._target.url).hostname or "")
        try:
            with requests.Session() as session:
                session.trust_env = False  # no proxy, no netrc, no CA of the environment
                session.mount("http://", _Adapter(self))
                session.mount("https://", _Adapter(self))
                with session.request(
                    self.method,
                    self._target.address(),
                    data=self._body or None,
                    headers={**_ALWAYS, **self._headers()},
                    timeout=TIMEOUTS,
                    allow_redirects=False,
                    stream=True,
                    verify=self._authorities(),
                ) as response:
                    return outcome_of(response.status_code, response.headers.get("Retry-After"), self._clock())
        except _Refused as error:
            return Outcome("dead", f"{host}: {error}")
        except (requests.RequestException, OSError, ValueError) as error:
            # ValueError: urllib3 lets some broken replies through as such.
            return Outcome("failed", f"{host}: {_told(error)}")
        finally:
            self._forget()

    def abort(self) -> None:
        """Free `run` from whatever it is reading or writing; from any thread."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def watch(self, sock: socket.socket, plain: bool) -> None:
        """Called with each new connection before a byte is sent. Raises _Refused for a forbidden address."""
        problem = refused_address(sock.getpeername()[0], plain=plain)
        if problem:
            sock.close()
            raise _Refused(problem)
        with self._lock:
            if self._socket is not None:
                self._socket.close()
            # A second descriptor: TLS takes the first one away, and a shutdown through either ends both.
            self._socket = sock.dup()
            if self._aborted:
                self._socket.shutdown(socket.SHUT_RDWR)

    def _forget(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _headers(self) -> dict[str, str]:
        stamp = str(int(self._clock()))
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": self._id,
            "X-Autoperf-Timestamp": stamp,
        }
        if self._target.secret:
            headers["X-Autoperf-Signature-256"] = signature(self._target.secret, stamp, self._body)
        return headers

    def _authorities(self) -> str | bool:
        if self._target.ca_file:
            return self._target.ca_file
        return str(_SYSTEM_CAS) if _SYSTEM_CAS.is_file() else True


class Get(Post):
    """One heartbeat: a call without a body, of which the status counts."""

    method = "GET"

    def __init__(self, target: Target) -> None:
        super().__init__(target, "", b"")

    def _headers(self) -> dict[str, str]:
        return {}


def signature(secret: bytes, stamp: str, body: bytes) -> str:
    """The value of `X-Autoperf-Signature-256`: "sha256=" and the HMAC of "<timestamp>.<body>" in hex."""
    return "sha256=" + hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def outcome_of(status: int, retry_after: str | None, now: float) -> Outcome:
    """What an HTTP status means for the message: 2xx sent; 3xx and most 4xx dead; the rest worth another try."""
    if 200 <= status < 300:
        return Outcome("sent", status=status)
    if 300 <= status < 400:
        return Outcome("dead", f"WEBHOOK_REDIRECT: HTTP {status}; a redirect is not followed", status)
    if status in _USELESS_TO_RETRY and status not in _WORTH_A_RETRY:
        return Outcome("dead", f"refused with HTTP {status}", status)
    return Outcome("failed", f"HTTP {status}", status, _seconds(retry_after, now))


def refused_address(address: str, *, plain: bool) -> str:
    """Why nothing is sent to this address; "" when it may be. `plain`: without TLS."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in _METADATA:
        return f"{ip} is a link-local, metadata or multicast address"
    if plain and not (ip.is_loopback or ip.is_private):
        return f"{ip} is a public address and the URL is plain http"
    return ""


def _seconds(retry_after: str | None, now: float) -> float | None:
    """Retry-After in seconds, from either of its two forms; None when there is none that makes sense."""
    text = (retry_after or "").strip()[:64]
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now) if text else None
    except (ValueError, OverflowError):
        return None


def _told(error: BaseException) -> str:
    """A fault in words of ours: the library's own texts hold the URL."""
    seen: list[BaseException] = []
    here: BaseException | None = error
    while here is not None and here not in seen and len(seen) < 10:
        seen.append(here)
        reason = getattr(here, "reason", None)
        nested = reason if isinstance(reason, BaseException) else None
        nested = nested or next((a for a in here.args if isinstance(a, BaseException)), None)
        here = nested or here.__cause__ or here.__context__
    for cause in reversed(seen):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not valid: {escaped(cause.verify_message)}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {escaped(cause.reason or 'unknown')}"
        if isinstance(cause, socket.gaierror):
            return f"its name cannot be looked up: {cause.strerror}"
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, requests.RequestException):
            return cause.strerror
    return f"no proper HTTP answer ({type(error).__name__})"


class _Adapter(HTTPAdapter):
    """Makes every connection of the session pass `Post.watch`."""

    def __init__(self, post: Post) -> None:
        self._post = post
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        post = self._post

        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                sock = super()._new_conn()
                post.watch(sock, plain=True)
                return sock

        class Secure(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                sock = super()._new_conn()
                post.watch(sock, plain=False)
                return sock

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
