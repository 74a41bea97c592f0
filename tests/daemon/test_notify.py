"""systemd messages and the webhook, against real sockets and real HTTP servers in each bad mode."""

from __future__ import annotations

import datetime
import json
import os
import queue
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperfd.daemon.notify import (
    GIVE_UP_SECS,
    Message,
    Outcome,
    Sender,
    Systemd,
    next_try,
    plain,
    settle,
)
from autoperfd.daemon.webhook import Post, Target, outcome_of, refused_address, signature
from autoperfd.errors import AutoperfError
from autoperfd.lab.machines import until
from autoperfd.lab.recorder import Recorder
from tests.bounds import SOON_SECS
from tests.faults import Fired

NOW = 1_795_000_000.0


# systemd


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """systemd's end of the notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


@pytest.fixture
def systemd(manager: socket.socket) -> Iterator[Systemd]:
    systemd = Systemd()
    yield systemd
    systemd.close()


def test_systemd_gets_each_message_by_itself_and_in_ascii(manager: socket.socket, systemd: Systemd) -> None:
    systemd.ready()
    systemd.status("PCG #1 — 42 % naïve\nWATCHDOG=1")
    systemd.watchdog()
    systemd.extend_timeout(2.5)
    systemd.stopping()
    got = [manager.recv(4096) for _ in range(5)]
    assert got == [
        b"READY=1",
        b"STATUS=PCG #1 - 42 % naive WATCHDOG=1",
        b"WATCHDOG=1",
        b"EXTEND_TIMEOUT_USEC=2500000",
        b"STOPPING=1",
    ]
    assert systemd.failed == 0


def test_systemd_without_a_manager_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd = Systemd()
    systemd.watchdog()
    assert systemd.failed == 0


def test_a_manager_that_does_not_read_never_blocks_us(systemd: Systemd) -> None:
    began = time.monotonic()
    for _ in range(2000):
        systemd.watchdog()
    assert systemd.failed > 0, "the socket never filled up: the fault did not happen"
    assert time.monotonic() - began < SOON_SECS


def test_a_manager_that_was_started_anew_is_found_again(
    manager: socket.socket, systemd: Systemd, tmp_path: Path
) -> None:
    manager.close()
    systemd.watchdog()
    assert systemd.failed == 1
    (tmp_path / "notify").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as anew:
        anew.bind(str(tmp_path / "notify"))
        anew.settimeout(5)
        systemd.watchdog()
        assert anew.recv(100) == b"WATCHDOG=1"
    assert systemd.failed == 1


@pytest.mark.parametrize(
    ("usec", "pid", "secs"),
    [
        ("30000000", "", 30.0),
        ("30000000", str(os.getpid()), 30.0),
        ("30000000", "1", None),
        ("0", "", None),
        ("", "", None),
    ],
)
def test_watchdog_time_is_taken_only_when_it_is_meant_for_us(
    usec: str, pid: str, secs: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert Systemd().watchdog_secs == secs


@settings(deadline=None)
@given(st.text())
def test_plain_is_one_line_of_printable_ascii(text: str) -> None:
    assert plain(text).isascii()
    assert plain(text).isprintable()


# messages


@pytest.mark.parametrize(("draw", "expected"), [(0.0, [1, 1, 1, 1]), (0.999999, [2, 4, 8, 16])])
def test_backoff_is_full_jitter_from_a_second_up(draw: float, expected: list[int]) -> None:
    waits = [next_try(n, NOW, NOW, None, lambda: draw) for n in (1, 2, 3, 4)]
    assert [round((at or 0) - NOW) for at in waits] == expected


def test_backoff_is_capped_at_15_minutes_and_gives_up_after_a_day() -> None:
    now, tries = NOW, 0
    draw = random.Random(7).random
    while (at := next_try(tries := tries + 1, NOW, now, None, draw)) is not None:
        assert 1 <= at - now <= 900
        now = at
    assert NOW + GIVE_UP_SECS - 900 <= now <= NOW + GIVE_UP_SECS
    assert tries < 1000
    assert next_try(10**9, NOW, NOW, None, lambda: 0.999) == pytest.approx(NOW + 899.1)


@pytest.mark.parametrize(("asked", "wait"), [(0.0, 1.0), (120.0, 120.0), (1e9, 3600.0)])
def test_retry_after_is_honoured_up_to_an_hour(asked: float, wait: float) -> None:
    assert next_try(1, NOW, NOW, asked, lambda: 0.0) == NOW + wait


class Outbox:
    """Remembers what was written into it."""

    def __init__(self) -> None:
        self.rows: list[tuple[object, ...]] = []

    def due(self, now: float) -> list[Message]:
        return []

    def sent(self, id: str) -> None:
        self.rows.append(("sent", id))

    def failed(self, id: str, next_at: float, why: str) -> None:
        self.rows.append(("failed", id, next_at, why))

    def dead(self, id: str, why: str) -> None:
        self.rows.append(("dead", id, why))


def test_settle_writes_each_outcome_into_the_outbox() -> None:
    outbox = Outbox()
    message = Message("m1", "test", {}, NOW, tries=2)
    settle(outbox, message, Outcome("sent"), NOW)
    settle(outbox, message, Outcome("dead", "refused with HTTP 404"), NOW)
    settle(outbox, message, Outcome("failed", "HTTP 500"), NOW, lambda: 0.5)
    settle(outbox, message, Outcome("failed", "HTTP 500"), NOW + GIVE_UP_SECS)
    assert outbox.rows == [
        ("sent", "m1"),
        ("dead", "m1", "refused with HTTP 404"),
        ("failed", "m1", NOW + 4, "HTTP 500"),
        ("dead", "m1", "given up after 24 h: HTTP 500"),
    ]


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (200, "sent"),
        (204, "sent"),
        (301, "dead"),
        (307, "dead"),
        (400, "dead"),
        (401, "dead"),
        (404, "dead"),
        (410, "dead"),
        (408, "failed"),
        (429, "failed"),
        (500, "failed"),
        (503, "failed"),
        (100, "failed"),
    ],
)
def test_what_a_status_means(status: int, result: str) -> None:
    assert outcome_of(status, None, NOW).result == result


@pytest.mark.parametrize(
    ("header", "secs"),
    [
        ("120", 120.0),
        ("Wed, 18 Nov 2026 11:08:40 GMT", 120.0),
        ("Wed, 18 Nov 2020 11:08:40 GMT", 0.0),
        ("-1", None),
        ("soon", None),
        ("9" * 400, float("9" * 64)),
        ("٣", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str | None, secs: float | None) -> None:
    assert outcome_of(503, header, NOW).retry_after == secs


# addresses


@pytest.mark.fault("W3")
@pytest.mark.parametrize("plain_http", [True, False])
@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "fe80::1%eth0",
        "::ffff:169.254.169.254",
        "0.0.0.0",
        "fd00:ec2::254",
        "224.0.0.1",
        "100.100.100.200",
    ],
)
def test_addresses_that_are_never_spoken_to(address: str, plain_http: bool, fired: Fired) -> None:
    assert refused_address(address, plain=plain_http)
    fired("W3", f"asked to speak to {address}")


def test_plain_http_stays_in_the_lab() -> None:
    assert refused_address("127.0.0.1", plain=True) == ""
    assert refused_address("10.1.2.3", plain=True) == ""
    assert refused_address("8.8.8.8", plain=True)
    assert refused_address("8.8.8.8", plain=False) == ""


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/secret",
        "ftp://x/secret",
        "secret",
        "https://",
        "https://u:secret@x/",
        "https://[secret",
        "https://h:secret",
        "https://169.254.169.254/secret",
    ],
)
def test_a_url_nothing_can_be_sent_to_is_refused_without_being_told(url: str) -> None:
    with pytest.raises(AutoperfError) as caught:
        Target(url).check()
    assert "secret" not in caught.value.sentence()
    assert caught.value.hint
    assert "secret" not in repr(Target(url, b"secret"))


# real receivers

Behave = Callable[[socket.socket, "Receiver"], None]


class Receiver:
    """An HTTP server on loopback that reads whole requests and then behaves as it is told."""

    def __init__(self, behave: Behave, context: ssl.SSLContext | None = None) -> None:
        self.requests: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        self.bytes_sent = 0
        self.over = threading.Event()  # the test is: whoever hangs may go
        self._behave = behave
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept_all, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        self._listener.close()

    def _accept_all(self) -> None:
        while not self.over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            self._read(connection)
            self._behave(connection, self)
        except OSError:
            pass
        finally:
            connection.close()

    def _read(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            stream.readline()
            headers = {}
            while line := stream.readline().strip():
                key, _, value = line.decode().partition(": ")
                headers[key] = value
            if not headers:
                raise ConnectionError("the caller left")
            self.requests.put((headers, stream.read(int(headers["Content-Length"]))))

    def send(self, connection: socket.socket, data: bytes) -> None:
        connection.sendall(data)
        self.bytes_sent += len(data)


def answers(status: str, *headers: str) -> Behave:
    head = "\r\n".join([f"HTTP/1.1 {status}", *headers, "Content-Length: 0", "", ""])
    return lambda connection, receiver: receiver.send(connection, head.encode())


def hangs(connection: socket.socket, receiver: Receiver) -> None:
    receiver.over.wait(30)


def drips(connection: socket.socket, receiver: Receiver) -> None:
    receiver.send(connection, b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not receiver.over.wait(0.05):
        receiver.send(connection, b"x")


def floods(connection: socket.socket, receiver: Receiver) -> None:
    receiver.send(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
    while not receiver.over.is_set():
        receiver.send(connection, b"x" * 65536)


def floods_headers(connection: socket.socket, receiver: Receiver) -> None:
    receiver.send(connection, b"HTTP/1.1 200 OK\r\nX: ")
    while not receiver.over.is_set():
        receiver.send(connection, b"x" * 65536)


def breaks_off(connection: socket.socket, receiver: Receiver) -> None:
    receiver.send(connection, b"HTTP/1.1 2")


def talks_nonsense(connection: socket.socket, receiver: Receiver) -> None:
    receiver.send(connection, b"\xff\xfe SSH-2.0 nonsense\r\n\r\n" * 10)


@contextmanager
def receiving(behave: Behave, context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver(behave, context)
    try:
        yield receiver
    finally:
        receiver.close()


class Told:
    """The engine's end of a Sender."""

    def __init__(self, target: Target, send_secs: float = 10.0) -> None:
        self.outcomes: queue.Queue[tuple[Message, Outcome]] = queue.Queue()
        self.sender = Sender(
            target, lambda message, outcome: self.outcomes.put((message, outcome)), send_secs=send_secs
        )
        self.sender.start()

    def send(self, id: str = "m1", sentence: str = "hello") -> Outcome:
        self.sender.submit(Message(id, "test", {"sentence": sentence}, NOW))
        message, outcome = self.outcomes.get(timeout=30)
        assert message.id == id
        return outcome


@contextmanager
def sending(target: Target, send_secs: float = 10.0) -> Iterator[Told]:
    told = Told(target, send_secs)
    try:
        yield told
    finally:
        told.sender.close(10)


def tries_left() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "webhook-try"]


def local(receiver: Receiver, secret: bytes | None = None) -> Target:
    return Target(f"http://127.0.0.1:{receiver.port}/hook/s3cret", secret, allow_http=True)


def test_a_message_is_delivered_signed_and_with_its_id() -> None:
    with receiving(answers("200 OK")) as receiver, sending(local(receiver, b"key")) as told:
        assert told.send("m1", "one") == Outcome("sent", status=200)
        assert told.send("m1", "one").result == "sent"
        headers, body = receiver.requests.get(timeout=5)
        again, _ = receiver.requests.get(timeout=5)
    assert json.loads(body)["sentence"] == "one"
    assert headers["Idempotency-Key"] == again["Idempotency-Key"] == "m1"
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Autoperf-Signature-256"] == signature(b"key", headers["X-Autoperf-Timestamp"], body)
    assert abs(int(headers["X-Autoperf-Timestamp"]) - time.time()) < 60


@pytest.mark.parametrize(
    ("template", "path", "says"),
    [
        ("generic", "/hook/s3cret", "text"),
        ("slack", "/hook/s3cret", "text"),
        ("teams", "/hook/s3cret", "attachments"),
        ("ntfy", "/hook/", "topic"),
    ],
)
def test_each_template_reaches_a_real_server(template: str, path: str, says: str) -> None:
    recorder = Recorder("127.0.0.1")
    try:
        target = Target(f"{recorder.url}/hook/s3cret", b"key", allow_http=True, template=template)
        with sending(target) as told:
            assert told.send().result == "sent"
        (request,) = recorder.wait(1)
        assert (request.method, request.path) == ("POST", path)
        assert says in request.json() and (template == "ntfy") == (b"s3cret" in request.body)
        stamp = request.headers["x-autoperf-timestamp"]
        assert request.headers["x-autoperf-signature-256"] == signature(b"key", stamp, request.body)
    finally:
        recorder.stop()


def test_the_signature_is_what_openssl_computes() -> None:
    script = "printf '1.{}' | openssl dgst -sha256 -hmac k -hex"
    try:
        shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl is not installed")
    assert signature(b"k", "1", b"{}") == "sha256=" + shown.split()[-1]


def test_no_secret_no_signature_no_proxy_no_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with receiving(answers("204 No Content")) as receiver, sending(local(receiver)) as told:
        assert told.send().result == "sent"
        headers, _ = receiver.requests.get(timeout=5)
    assert "Authorization" not in headers
    assert "X-Autoperf-Signature-256" not in headers


@pytest.mark.fault("W3")
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_redirect_is_not_followed(status: str, fired: Fired) -> None:
    with receiving(answers("200 OK")) as elsewhere:
        to = f"Location: http://127.0.0.1:{elsewhere.port}/"
        with receiving(answers(status, to)) as receiver, sending(local(receiver)) as told:
            outcome = told.send()
            assert receiver.requests.qsize() == 1
        assert elsewhere.requests.empty()
    assert outcome.result == "dead"
    assert "WEBHOOK_REDIRECT" in outcome.why
    fired("W3", f"answered {status}")


@pytest.mark.fault("W5")
def test_a_receiver_that_asks_for_time_gets_it(fired: Fired) -> None:
    with receiving(answers("429 Too Many Requests", "Retry-After: 77")) as receiver, sending(local(receiver)) as told:
        assert told.send() == Outcome("failed", "HTTP 429", 429, 77.0)
        fired("W5", f"{receiver.requests.qsize()} request answered 429")


ERRORS = [("500", "failed", "W5"), *((status, "dead", "W4") for status in ("400", "401", "404", "410"))]


@pytest.mark.parametrize(
    ("status", "result", "row"), [pytest.param(*error, marks=pytest.mark.fault(error[2])) for error in ERRORS]
)
def test_errors_of_the_receiver(status: str, result: str, row: str, fired: Fired) -> None:
    with receiving(answers(f"{status} No")) as receiver, sending(local(receiver)) as told:
        assert told.send().result == result
        fired(row, f"{receiver.requests.qsize()} request answered {status}")


@pytest.mark.fault("W1")
def test_refused_connection(fired: Fired) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with sending(Target(f"http://127.0.0.1:{port}/hook/s3cret", allow_http=True)) as told:
        outcome = told.send()
    assert outcome == Outcome("failed", "127.0.0.1: Connection refused")
    fired("W1", outcome.why)


@pytest.mark.fault("W2")
@pytest.mark.parametrize("behave", [hangs, drips])
def test_a_receiver_that_never_finishes_costs_the_deadline_and_no_thread(
    behave: Behave, monkeypatch: pytest.MonkeyPatch, fired: Fired
) -> None:
    monkeypatch.setattr("autoperfd.daemon.webhook.TIMEOUTS", (60.0, 60.0))  # nothing but the deadline frees a try
    with receiving(behave) as receiver, sending(local(receiver), send_secs=1) as told:
        before = threading.active_count()
        tries = 0
        while tries < 2 or receiver.requests.qsize() < 2:  # a stall may use up a try before its request is out
            tries += 1
            assert tries <= 10
            began = time.monotonic()
            outcome = told.send()
            assert time.monotonic() - began < SOON_SECS
            assert outcome.result == "failed"
            assert "no answer within" in outcome.why
            until(lambda: not tries_left(), "the thread of a try was left")
        fired("W2", f"{receiver.requests.qsize()} requests and no end of an answer")
        assert receiver.requests.qsize() <= tries
        receiver.over.set()
    assert threading.active_count() <= before


@pytest.mark.fault("W2")
def test_a_huge_reply_is_not_read(fired: Fired) -> None:
    with receiving(floods) as receiver, sending(local(receiver)) as told:
        began = time.monotonic()
        assert told.send().result == "sent"
        assert time.monotonic() - began < SOON_SECS
        until(lambda: receiver.bytes_sent, "nothing was sent")
        assert receiver.bytes_sent < 16 * 1024 * 1024  # what the kernels' buffers hold
        fired("W2", f"{receiver.bytes_sent} bytes sent of 10 GB")


@pytest.mark.fault("W2")
@pytest.mark.parametrize("behave", [floods_headers, breaks_off, talks_nonsense])
def test_a_reply_that_is_not_http_is_a_failure_in_our_words(behave: Behave, fired: Fired) -> None:
    with receiving(behave) as receiver, sending(local(receiver)) as told:
        outcome = told.send()
    assert outcome.result == "failed"
    assert outcome.why.startswith("127.0.0.1: ")
    assert "s3cret" not in outcome.why
    assert outcome.why.isprintable()
    fired("W2", f"{receiver.bytes_sent} bytes that are no answer")


@pytest.mark.fault("W1")
def test_a_name_that_cannot_be_looked_up(fired: Fired) -> None:
    with sending(Target("https://no-such-name.invalid/s3cret")) as told:
        outcome = told.send()
    assert outcome.result == "failed"
    assert "s3cret" not in outcome.why
    fired("W1", outcome.why)


def certificate(folder: Path, address: str = "127.0.0.1", days: int = 1) -> Path:
    """A key and a certificate, for so many days from now, that nobody signed but itself."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return file


@pytest.mark.fault("W6")
def test_a_certificate_nobody_vouches_for_is_refused_and_a_configured_one_taken(tmp_path: Path, fired: Fired) -> None:
    pem = certificate(tmp_path)
    refused = told_by_one_with(pem, None)
    assert refused.result == "failed"
    assert "certificate" in refused.why
    fired("W6", refused.why)
    assert told_by_one_with(pem, str(pem)).result == "sent"


@pytest.mark.fault("W6")
@pytest.mark.parametrize(("change", "why"), [({"days": -1}, "expired"), ({"address": "127.0.0.2"}, "mismatch")])
def test_a_certificate_that_is_expired_or_another_s_is_refused(
    tmp_path: Path, change: dict[str, Any], why: str, fired: Fired
) -> None:
    pem = certificate(tmp_path, **change)
    outcome = told_by_one_with(pem, str(pem))  # its authority is trusted, itself it is not
    assert outcome.result == "failed"
    assert why in outcome.why
    fired("W6", outcome.why)


def told_by_one_with(pem: Path, ca_file: str | None) -> Outcome:
    """What comes of sending to a receiver with that certificate; nothing reaches one that is refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with receiving(answers("200 OK"), context) as receiver:
        with sending(Target(f"https://127.0.0.1:{receiver.port}/s3cret", ca_file=ca_file)) as told:
            outcome = told.send()
        assert receiver.requests.qsize() == (outcome.result == "sent")
    return outcome


def test_a_tls_handshake_that_hangs_is_freed_by_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoperfd.daemon.webhook.TIMEOUTS", (60.0, 60.0))  # nothing but the deadline frees a try
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with sending(Target(f"https://127.0.0.1:{silent.getsockname()[1]}/"), send_secs=0.5) as told:
            began = time.monotonic()
            assert told.send().result == "failed"
            assert time.monotonic() - began < SOON_SECS
        until(lambda: not tries_left(), "the thread of a try was left")


def test_an_address_is_checked_where_it_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    import autoperfd.daemon.webhook as webhook

    monkeypatch.setattr(webhook, "refused_address", lambda address, plain: f"{address} is not for us")
    with receiving(answers("200 OK")) as receiver:
        outcome = Post(local(receiver), "m1", b"{}").run()
        assert receiver.requests.empty()
    assert outcome == Outcome("dead", "127.0.0.1: 127.0.0.1 is not for us")


def test_a_message_already_waiting_is_not_sent_twice() -> None:
    go = threading.Event()

    def held(connection: socket.socket, receiver: Receiver) -> None:
        go.wait(10)
        answers("200 OK")(connection, receiver)

    with receiving(held) as receiver, sending(local(receiver)) as told:
        for id in ("m1", "m1", "m2", "m1"):
            told.sender.submit(Message(id, "test", {}, NOW))
        go.set()
        assert [told.outcomes.get(timeout=10)[0].id for _ in range(2)] == ["m1", "m2"]
        assert told.send("m3").result == "sent"
        assert receiver.requests.qsize() == 3


def test_requests_is_not_imported_without_a_webhook() -> None:
    code = "import autoperfd.daemon.notify, sys; print('requests' in sys.modules or 'sdnotify' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout == "False\n"
