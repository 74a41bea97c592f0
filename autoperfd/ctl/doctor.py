"""`autoperfctl doctor`: is this controller fit to run experiments unattended. Looks, changes nothing.

Each check is one function that gives its finding: well, ill (with what to do) or not to be told by this user.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import autoperfd
from autoperfd.core import instance as instances
from autoperfd.core.settings import DaemonSettings, default_settings, read_settings
from autoperfd.ctl import check, copies
from autoperfd.ctl import doctor_bench as bench
from autoperfd.ctl import doctor_unit as unit
from autoperfd.ctl.finding import Finding
from autoperfd.ctl.places import CONFIG
from autoperfd.daemon.views import count, duration, escaped
from autoperfd.errors import AutoperfError, ConfigError, DaemonDown

PING_GROUPS = Path("/proc/sys/net/ipv4/ping_group_range")
MOUNTS = Path("/proc/self/mounts")
KEYS = Path("/etc/autoperf/keys")
SYNCHRONIZED = (Path("/run/systemd/timesync/synchronized"), Path("/run/chrony/chronyd.pid"), Path("/run/ntpd.pid"))
CONTAINER = Path("/run/systemd/container")  # systemd's word for what it runs in
STALE_SECS = 600.0  # a file is taken in within a minute
_FORGETFUL = ("tmpfs", "ramfs")


def examine(
    config: str | None, ask: copies.Ask, *, instance: str = "", file: str = "", send: bool = False
) -> list[Finding]:
    """All checks, in the order in which a person would mend them.

    `instance`: which of several daemons; `file`: an experiment file whose machines are looked at, too; `send`: whether
    to send a test message. Raises AutoperfError, ConfigError for the file.
    """
    settings, finding = _settings(Path(config) if config else instances.place(CONFIG, instance), instance)
    data, _ = check.read(file, settings.power) if file else (b"", ())
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: _daemon(ask, instances.unit(instance)),
        lambda: unit.examine(instances.unit(instance)),
        lambda: _others(settings),
        lambda: _state(settings),
        lambda: _queue(settings),
        lambda: _keys(instances.place(KEYS, instance)),
        lambda: _ping(settings),
        lambda: _clock(),
        lambda: _messages(ask) if send else iter(()),
        lambda: bench.examine(data, ask) if file else iter(()),
    )
    return [finding, *(found for check in checks for found in check())]


def report(findings: list[Finding]) -> str:
    """The findings as text for a person."""
    lines = [line for found in findings for line in found.lines()]
    ill = sum(found.well is False for found in findings)
    lines += ["", f"{ill} problem{'' if ill == 1 else 's'}." if ill else "Nothing is wrong."]
    return "".join(f"{escaped(line)}\n" for line in lines)


def facts(findings: list[Finding]) -> list[dict[str, object]]:
    """The same for a script."""
    return [asdict(found) for found in findings]


def status(findings: list[Finding]) -> int:
    """The exit status: 3 where the daemon does not run, 1 where something else is ill."""
    ill = [found.subject for found in findings if found.well is False]
    return (
        3 if "daemon" in ill and any(f.sentence.startswith("autoperfd is not running") for f in findings) else bool(ill)
    )


# ---------------------------------------------------------------- checks


def _settings(path: Path, instance: str) -> tuple[DaemonSettings, Finding]:
    try:
        return read_settings(path.read_bytes(), str(path), instance), Finding("settings", True, f"{path} is valid")
    except FileNotFoundError:
        return default_settings(instance), Finding("settings", True, f"there is no {path}; the defaults hold")
    except ConfigError as error:
        return default_settings(instance), Finding(
            "settings", False, str(error.problems[0]), "The daemon does not start with it"
        )
    except OSError as error:
        return default_settings(instance), Finding("settings", None, f"{path} cannot be read: {error.strerror}")


def _daemon(ask: copies.Ask, name: str) -> Iterator[Finding]:
    try:
        data = ask("status", {}).get("data")
    except DaemonDown as error:
        yield Finding("daemon", False, error.message, error.hint)
        return
    except AutoperfError as error:
        yield Finding("daemon", False, error.message, error.hint)
        return
    known = data if isinstance(data, dict) else {}
    version = str(known.get("version", "?"))
    if version != autoperfd.__version__:
        sentence = f"version {version} runs, {autoperfd.__version__} is installed"
        yield Finding("daemon", False, sentence, f"sudo systemctl restart {name}; tests that run go on")
    else:
        yield Finding("daemon", True, f"version {version} answers (pid {known.get('pid')})")
    wanted = known.get("attention")
    for sentence in wanted if isinstance(wanted, list) else ():
        yield Finding("attention", False, str(sentence))


def _others(settings: DaemonSettings) -> Iterator[Finding]:
    """Other daemons of this computer whose DDS domains are ours, too: their participants could meet."""
    ours = set(range(settings.domain_first, settings.domain_last + 1))
    for folder in sorted(CONFIG.parent.parent.glob(f"{CONFIG.parent.name}*")):
        name, at, instance = folder.name.partition("@")
        if name != CONFIG.parent.name or instance == settings.instance or (at and not instance):
            continue
        other, _ = _settings(folder / CONFIG.name, instance)
        shared = ours & set(range(other.domain_first, other.domain_last + 1))
        if shared and other.state.is_dir():
            sentence = f"{instances.unit(instance)} may use DDS domains {min(shared)} to {max(shared)}, as this one may"
            yield Finding(
                "domains", False, sentence, "Give each its own [domains] first and last in its autoperfd.toml"
            )


def _state(settings: DaemonSettings) -> Iterator[Finding]:
    state = settings.state
    try:
        space = os.statvfs(state)
    except OSError as error:
        yield Finding(
            "state folder",
            False,
            f"{state}: {error.strerror}",
            f"The unit makes it: systemctl start {instances.unit(settings.instance)}",
        )
        return
    free, files = space.f_bavail * space.f_frsize >> 20, space.f_favail
    if free < 2 * settings.disk_reserve_mb:
        yield Finding("state folder", False, f"{state} has {free} MB left, too few for results", "Make room there")
    elif space.f_files and files < 10_000:
        yield Finding("state folder", False, f"{state} has room for {files} more files", "Make room there (inodes)")
    else:
        yield Finding("state folder", True, f"{state} has {free} MB left")
    kind = _file_system(state)
    if kind in _FORGETFUL:
        yield Finding(
            "state folder", False, f"{state} is on {kind}: it is lost with the next reboot", "Put it on a disk"
        )


def _file_system(path: Path) -> str:
    """The kind of file system a path is on; "" when not known."""
    best, kind = "", ""
    place = os.path.realpath(path)
    try:
        for line in MOUNTS.read_text().splitlines():
            _, where, what, *_ = line.split(" ")
            inside = place == where or place.startswith(where.rstrip("/") + "/")
            if inside and len(where) >= len(best):
                best, kind = where, what
    except (OSError, ValueError):
        return ""
    return kind


def _queue(settings: DaemonSettings) -> Iterator[Finding]:
    queue = settings.queue
    if not queue.is_dir():
        yield Finding("queue", False, f"there is no folder {queue}", "sudo systemd-tmpfiles --create")
    elif os.access(queue, os.W_OK | os.X_OK):
        yield Finding("queue", True, f"you may submit to {queue}")
    else:
        yield Finding("queue", None, f"you may not submit to {queue}", "Members of group autoperf-submit may")
    yield from _stale(queue)


def _stale(queue: Path) -> Iterator[Finding]:
    """Files that nobody takes in, and those that were refused."""
    waiting = [(name, age) for name, age in _ages(queue) if age >= STALE_SECS]
    if waiting:
        name, age = waiting[0]
        more = f" (and {len(waiting) - 1} more)" if len(waiting) > 1 else ""
        hint = "Is the daemon running? `autoperfctl status` says what keeps it from taking files in"
        yield Finding("queue", False, f"{name} lies in the queue for {duration(age)}{more}", hint)
    refused = _ages(queue / "rejected")
    if refused:
        latest, _ = min(refused, key=lambda file: file[1])
        sentence = f"{count(len(refused), 'file')} in {queue / 'rejected'} were refused, the latest {latest}"
        yield Finding("queue", None, sentence, "The reason lies beside each; remove what is done with")


def _ages(folder: Path) -> list[tuple[str, float]]:
    """(name, seconds since it was written) of the experiment files there, by name; [] where nobody may look."""
    now = time.time()
    try:
        return sorted((path.name, now - path.lstat().st_mtime) for path in folder.glob("*.toml"))
    except OSError:
        return []


def _keys(folder: Path) -> Iterator[Finding]:
    try:
        keys = [path for path in folder.iterdir() if path.is_file()]
    except FileNotFoundError:
        yield Finding("SSH keys", None, f"there is no {folder}: keys must lie where experiments say")
        return
    except OSError:
        yield Finding("SSH keys", None, f"only root sees which keys lie in {folder}")
        return
    open_to_all = [path.name for path in keys if path.suffix != ".pub" and path.stat().st_mode & 0o077]
    if open_to_all:
        names = ", ".join(open_to_all)
        hint = f"sudo chmod 600 {folder}/*; a key that others could read may have been copied: make a new one"
        yield Finding("SSH keys", False, f"others than its owner may read {names} in {folder}", hint)
    locked = [path.name for path in keys if _has_passphrase(path)]
    if locked:
        yield Finding(
            "SSH keys", False, f"{', '.join(locked)} in {folder} want a passphrase", "ssh-keygen -p removes it"
        )
    elif keys:
        yield Finding("SSH keys", True, f"{len(keys)} in {folder}")
    else:
        yield Finding("SSH keys", None, f"none in {folder}: keys must lie where experiments say")


def _has_passphrase(path: Path) -> bool:
    """Whether a private key is encrypted, as far as its first lines tell."""
    import base64
    import binascii

    try:
        text = path.read_text(errors="replace")[:4096]
    except OSError:
        return False
    if "ENCRYPTED" in text.partition("\n\n")[0]:
        return True
    _, begins, body = text.partition("-----BEGIN OPENSSH PRIVATE KEY-----")
    try:
        head = base64.b64decode("".join(body.split())[:64]) if begins else b""
    except binascii.Error:
        return False
    return head.startswith(b"openssh-key-v1\0") and head[15:23] != b"\0\0\0\4none"


def _ping(settings: DaemonSettings) -> Iterator[Finding]:
    if settings.ping == "tcp":
        yield Finding("ping", True, "machines are looked at by TCP, as the settings want it")
        return
    try:
        low, high = (int(word) for word in PING_GROUPS.read_text().split())
    except (OSError, ValueError):
        yield Finding("ping", None, f"{PING_GROUPS} cannot be read")
        return
    if low <= high:
        yield Finding("ping", True, f"groups {low} to {high} may send pings")
    else:
        hint = "sudo sysctl -w 'net.ipv4.ping_group_range=0 2147483647'; `make install` puts it into sysctl.d"
        yield Finding("ping", False, "nobody may send pings without a capability, which the daemon does not have", hint)


def _clock() -> Iterator[Finding]:
    if CONTAINER.exists():
        yield Finding("clock", None, "this is a container, whose host keeps the clock: look there")
    elif any(path.exists() for path in SYNCHRONIZED):
        yield Finding("clock", True, "something keeps this computer's clock right")
    else:
        hint = "sudo apt-get install systemd-timesyncd (or chrony), and let it reach a time server"
        yield Finding("clock", False, "nothing is known to keep this computer's clock right", hint)


def _messages(ask: copies.Ask) -> Iterator[Finding]:
    try:
        data = ask("test_message", {}).get("data")
    except AutoperfError as error:
        yield Finding("messages", None, f"no test message was sent: {error.message}")
        return
    known = data if isinstance(data, dict) else {}
    if known.get("result") == "sent":
        yield Finding("messages", True, "a test message was sent: look whether it has arrived")
    elif known.get("result") == "none":
        hint = "Set [webhook] url in autoperfd.toml, or nobody is told when an experiment halts"
        yield Finding("messages", None, "there is no webhook", hint)
    else:
        hint = "Correct [webhook] in autoperfd.toml or its credential; is the receiver there?"
        yield Finding("messages", False, f"a test message was not delivered: {known.get('why')}", hint)
