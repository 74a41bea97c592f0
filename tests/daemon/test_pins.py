"""Host keys that are trusted: root's file wins, what it revokes nobody trusts, and a changed file counts at once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
from pathlib import Path

import pytest

from autoperfd.daemon.pins import PinBook, fingerprint
from autoperfd.daemon.store import PinRow


def key(text: str, kind: str = "ssh-ed25519") -> str:
    """A key line: the kind, then a blob that begins with it."""
    blob = len(kind).to_bytes(4, "big") + kind.encode() + text.encode()
    return f"{kind} {base64.b64encode(blob).decode()}"


A, B, C = key("a"), key("b"), key("c", "ssh-rsa")


def row(host: str = "10.0.0.1", port: int = 22, line: str = A) -> PinRow:
    return PinRow(host=host, port=port, key=line, who="ann", pinned=1.0)


@pytest.fixture
def known_hosts(tmp_path: Path) -> Path:
    return tmp_path / "known_hosts"


def hashed(name: str) -> str:
    salt = b"0123456789abcdefghij"
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def test_pinned_keys_are_of_one_address(known_hosts: Path) -> None:
    book = PinBook(known_hosts, [row(), row(line=C), row(port=2222, line=B)])
    assert book.keys_for("10.0.0.1", 22) == [A, C]
    assert book.keys_for("10.0.0.1", 2222) == [B]
    assert book.keys_for("10.0.0.2", 22) == []
    assert book.rows_for("10.0.0.1", 22) == [row(), row(line=C)] and book.rows_for("h", 22) == []


def test_keys_are_replaced_and_added(known_hosts: Path) -> None:
    book = PinBook(known_hosts, [row(), row(line=C)])
    book.replace("10.0.0.1", 22, [row(line=B)])
    assert book.keys_for("10.0.0.1", 22) == [B]
    book.pin(row(line=A))
    book.pin(row(line=A))
    assert book.keys_for("10.0.0.1", 22) == [B, A]
    book.replace("10.0.0.1", 22, [])
    assert book.keys_for("10.0.0.1", 22) == []


@pytest.mark.parametrize(
    ("host", "port", "name"),
    [
        ("10.0.0.1", 22, "10.0.0.1"),
        ("10.0.0.1", 2222, "[10.0.0.1]:2222"),
        ("p1.lab", 22, "p1.lab"),
        ("10.0.0.1", 22, "other,10.0.0.1,p1"),
        ("10.0.0.1", 22, hashed("10.0.0.1")),
        ("10.0.0.1", 2222, hashed("[10.0.0.1]:2222")),
        ("fe80::1%eth0", 22, "fe80::1%eth0"),
    ],
)
def test_root_s_file_wins(known_hosts: Path, host: str, port: int, name: str) -> None:
    book = PinBook(known_hosts, [row(host, port, A), row("10.0.0.9", 22, A)])
    assert book.keys_for(host, port) == [A]
    known_hosts.write_text(f"# ours\n\n{name} {B} a comment\n{name} {C}\n")
    assert book.keys_for(host, port) == [B, C]
    assert book.keys_for("10.0.0.9", 22) == [A]
    known_hosts.unlink()
    assert book.keys_for(host, port) == [A]


@pytest.mark.parametrize(
    "line",
    [
        f"10.0.0.10 {B}",
        f"[10.0.0.1]:2222 {B}",
        f"{hashed('10.0.0.2')} {B}",
        f"|1|nonsense {B}",
        f"|1|a|b|c {B}",
        f"@cert-authority 10.0.0.1 {B}",
        f"#10.0.0.1 {B}",
        "10.0.0.1",
        "10.0.0.1 ssh-ed25519",
        "@revoked",
        "\0\0\0",
    ],
)
def test_lines_that_say_nothing_of_an_address(known_hosts: Path, line: str) -> None:
    known_hosts.write_bytes(line.encode() + b"\n\xff\xfe\n")
    assert PinBook(known_hosts, [row()]).keys_for("10.0.0.1", 22) == [A]


def test_what_root_revokes_nobody_trusts(known_hosts: Path) -> None:
    known_hosts.write_text(f"@revoked * {A}\n10.0.0.2 {A}\n10.0.0.2 {B}\n")
    book = PinBook(known_hosts, [row(), row(line=C)])
    assert book.keys_for("10.0.0.1", 22) == [C]
    assert book.keys_for("10.0.0.2", 22) == [B]


def test_a_folder_in_the_file_s_place_says_nothing(known_hosts: Path) -> None:
    known_hosts.mkdir()
    assert PinBook(known_hosts, [row()]).keys_for("10.0.0.1", 22) == [A]


def test_it_may_be_asked_while_it_changes(known_hosts: Path) -> None:
    book, wrong, stop = PinBook(known_hosts), [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            found = book.keys_for("10.0.0.1", 22)
            if found not in ([], [A, B], [C]):
                wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        book.replace("10.0.0.1", 22, [row(line=A), row(line=B)])
        book.replace("10.0.0.1", 22, [row(line=C)])
    stop.set()
    for thread in threads:
        thread.join(10)
    assert not wrong


def test_fingerprints_are_those_of_ssh_keygen() -> None:
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    assert fingerprint(line) == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"


@pytest.mark.parametrize(
    "bad", ["", "x", "ssh-ed25519", "ssh-ed25519 ", "ssh-ed25519 !!!!", "ssh-ed25519 AAAA", "ssh-rsa " + A.split()[1]]
)
def test_what_is_no_key_has_no_fingerprint(bad: str) -> None:
    with pytest.raises(ValueError):
        fingerprint(bad)
