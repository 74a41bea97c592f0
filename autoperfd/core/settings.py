"""Knows the daemon's own settings, `autoperfd.toml`: one row a setting. Pure; any thread.

The shipped file is written from these rows by `render`, so what it says of a setting is what holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from autoperfd.core import instance as instances
from autoperfd.core.guards import Guards
from autoperfd.core.tables import (
    Report,
    Row,
    Where,
    Wrong,
    anything,
    boolean,
    decode,
    integer,
    number,
    one_of,
    parse,
    several_of,
    show,
    show_secret,
    text,
    walk,
)

DAY = 86_400


@dataclass(frozen=True)
class PowerSwitch:
    """What cuts the power of a machine and gives it back: a program started without a shell, or an HTTP call."""

    name: str
    command: tuple[str, ...] = field(default=(), repr=False)
    url: str = field(default="", repr=False)
    method: str = "POST"
    body: str = field(default="", repr=False)
    expect: int = 200  # the HTTP status that means it worked


@dataclass(frozen=True)
class DaemonSettings:
    """`autoperfd.toml` as read; the rows below say what each means. Times in seconds. Its repr holds no secret."""

    state: Path = Path("/var/lib/autoperf")
    queue: Path = Path("/etc/autoperf/queue")
    runtime: Path = Path("/run/autoperf")
    known_hosts: Path = Path("/etc/autoperf/known_hosts")
    instance: str = ""  # not in the file: which of several daemons on this computer, see core/instance.py
    validation_secs: float = 30
    patience_secs: float = 1800
    backoff_first_secs: float = 5
    backoff_cap_secs: float = 300
    boot_budget_secs: float = 600
    restart_after_secs: float = 300
    auto_resume: bool = True
    probe_secs: float = 300
    grace_secs: float = 45
    stop_secs: float = 5
    connect_secs: float = 10
    link_loss_secs: float = 15
    ping: Literal["icmp", "tcp", "auto"] = "icmp"
    max_file_mb: int = 2048
    disk_reserve_mb: int = 1024
    memory_probe_secs: float = 60
    domain_first: int = 1
    domain_last: int = 200
    webhook_url: str = field(default="", repr=False)
    webhook_url_credential: str = field(default="webhook_url", repr=False)
    webhook_secret_credential: str = field(default="webhook_secret", repr=False)
    webhook_template: Literal["generic", "slack", "teams", "ntfy"] = "generic"
    webhook_on: tuple[str, ...] = ("halt",)
    webhook_digest_at: str = ""
    webhook_allow_http: bool = False
    heartbeat_url: str = field(default="", repr=False)
    heartbeat_url_credential: str = field(default="heartbeat_url", repr=False)
    heartbeat_every_secs: float = 60
    heartbeat_allow_http: bool = False
    page_listen: str = ""
    page_hosts: tuple[str, ...] = ()
    rescan_secs: float = 60
    settle_secs: float = 1
    guards: Guards = field(default_factory=Guards)
    power: Mapping[str, PowerSwitch] = field(default_factory=dict)


_DEFAULTS = DaemonSettings()


def _row(key: str, check: Any, default: object, meaning: str, *, secret: bool = False) -> Row:
    return Row(key, check, default, meaning, secret)


def _folder(found: Any) -> Path:
    return Path(text("an absolute path", r"/.*")(found))


def _argv(found: Any) -> tuple[str, ...]:
    expected = 'a list of strings, the program\'s absolute path first, e.g. ["/usr/local/bin/plug", "p1"]'
    good = isinstance(found, list) and found and all(isinstance(word, str) for word in found)
    if not good or len(found) > 100 or not found[0].startswith("/"):
        raise Wrong(expected)
    if any(not word.isprintable() or len(word) > 4096 for word in found):
        raise Wrong(f"{expected}, without control characters")
    return tuple(found)


def _listen(found: Any) -> str:
    expected = 'a loopback address and port such as "127.0.0.1:8765" or "[::1]:8765", a path for a Unix socket, or ""'
    words = str(text(expected, most=255, empty=True)(found))
    inet = _LOOPBACK.fullmatch(words)
    if inet and 0 < int(inet["port"]) < 65536 and all(int(part) < 256 for part in (inet["v4"] or "0").split(".")):
        return words
    if words and not (words.startswith("/") and len(words.encode()) <= _MOST_SOCKET_PATH):
        raise Wrong(f"{expected}: whoever reaches it reads everything, so it listens to this computer only")
    return words


def _hosts(found: Any) -> tuple[str, ...]:
    expected = 'a list of at most 20 host names, e.g. ["bench.example"]'
    if not isinstance(found, list) or len(found) > 20:
        raise Wrong(expected)
    return tuple(str(text(expected, r"[A-Za-z0-9.-]+", most=253)(name)).lower() for name in found)


_LOOPBACK = re.compile(r"(?:(?P<v4>127(?:\.[0-9]{1,3}){3})|\[::1\]):(?P<port>[0-9]{1,5})", re.ASCII)
_MOST_SOCKET_PATH = 106  # bytes: what the kernel takes, less the closing zero and the dot while it is made
_CREDENTIAL = text("a credential's name", r"[A-Za-z0-9._-]+", most=64, empty=True)
_ANY_URL = r"https?://[^/?#@\s]+([/?#]\S*)?"
_URL = text("an http or https address", _ANY_URL, most=2048)
_URL_OR_NONE = text("an http or https address", _ANY_URL, most=2048, empty=True)
_HOUR = text('an hour and minute in UTC such as "07:00"', r"([01][0-9]|2[0-3]):[0-5][0-9]", empty=True)
_POLICY = one_of("invalid", "record")
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

TABLES: Mapping[str, tuple[str, Sequence[Row]]] = {
    "paths": (
        "Where things lie.",
        (
            _row("state", _folder, _DEFAULTS.state, "the daemon's memory and the results"),
            _row("queue", _folder, _DEFAULTS.queue, "experiment files are dropped here"),
            _row("runtime", _folder, _DEFAULTS.runtime, "the control socket"),
            _row("known_hosts", _folder, _DEFAULTS.known_hosts, "root's host keys; they win over pinned ones"),
        ),
    ),
    "machines": (
        "How machines are reached and how long they are waited for.",
        (
            _row("validation_secs", number(0.1, DAY), 30.0, "one validation of all machines may take this long"),
            _row("patience_secs", number(0, 30 * DAY), 1800.0, "machines may be away this long before halting"),
            _row("backoff_first_secs", number(0.01, DAY), 5.0, "first wait when a machine does not answer"),
            _row("backoff_cap_secs", number(0.01, DAY), 300.0, "longest wait between two tries"),
            _row("boot_budget_secs", number(1, DAY), 600.0, "a reboot may take this long"),
            _row(
                "restart_after_secs", number(0, 30 * DAY), 300.0, "a machine ill this long is restarted, rung by rung"
            ),
            _row("auto_resume", boolean, True, "go on by itself when the machines that caused a halt answer again"),
            _row("probe_secs", number(0.1, DAY), 300.0, "time between two looks at machines while halted for them"),
            _row("grace_secs", number(0.1, DAY), 45.0, "participants may take this long to end after the others"),
            _row("stop_secs", number(0.1, 600), 5.0, "from asking a participant to end (TERM) to forcing it (KILL)"),
            _row("connect_secs", number(0.1, 600), 10.0, "one SSH connect, each of its steps"),
            _row("link_loss_secs", number(1, 600), 15.0, "a silent link counts as lost after this"),
            _row("ping", one_of("icmp", "tcp", "auto"), "icmp", "auto: icmp, and tcp where icmp is forbidden"),
            _row("max_file_mb", integer(1, 1_000_000), 2048, "largest result file that is fetched"),
        ),
    ),
    "domains": (
        "DDS domains; each attempt leases one, distinct among those running.",
        (
            _row("first", integer(1, 200), 1, "lowest domain used"),
            _row("last", integer(1, 200), 200, "highest domain used"),
        ),
    ),
    "results": (
        "What is kept.",
        (
            _row("disk_reserve_mb", integer(0, 10**9), 1024, "no attempt starts with less free space than this"),
            _row(
                "memory_probe_secs", number(0.05, DAY), 60.0, "time between two tries at a memory that cannot be used"
            ),
        ),
    ),
    "guards": (
        "What makes an attempt invalid: it is told, blamed on nobody's test, and tried again.",
        (
            _row("foreign", _POLICY, "invalid", 'benchmark processes of others on a machine; or "record"'),
            _row("users", _POLICY, "invalid", 'people logged in from elsewhere on a machine; or "record"'),
            _row("throttled", _POLICY, "invalid", 'a machine says it was throttled or under-voltage; or "record"'),
            _row("clock_step_secs", number(0, DAY), 1.0, "a machine's clock steps by more than this; 0: never mind"),
            _row("max_celsius", number(0, 1000), 0.0, "a machine gets hotter than this; 0: never mind"),
            _row("max_link_errors", integer(0, 10**9), 100, "new errors on a machine's network links; 0: never mind"),
            _row("min_free_mb", integer(0, 10**9), 64, "no attempt starts on a machine with less free space"),
        ),
    ),
    "webhook": (
        "Who is told.",
        (
            _row(
                "url",
                _URL_OR_NONE,
                "",
                "empty: the credential's content, and nobody is told where there is none",
                secret=True,
            ),
            # Also secret: who mistakes a name for the thing itself writes the thing there.
            _row(
                "url_credential",
                _CREDENTIAL,
                "webhook_url",
                "name given to LoadCredential= for the address",
                secret=True,
            ),
            _row(
                "secret_credential",
                _CREDENTIAL,
                "webhook_secret",
                "name given to LoadCredential= for the secret",
                secret=True,
            ),
            _row(
                "template",
                one_of("generic", "slack", "teams", "ntfy"),
                "generic",
                'JSON with all facts; "slack" (also Mattermost), "teams" or "ntfy"',
            ),
            _row("on", several_of("halt", "resume", "finish", "rejection"), ("halt",), "a halt is always told"),
            _row("digest_at", _HOUR, "", 'empty: never; "07:00": a summary once a day, at that hour in UTC'),
            _row("allow_http", boolean, False, "allow an address without TLS (a lab's own receiver)"),
        ),
    ),
    "heartbeat": (
        "A dead man's switch: an address that is called while the daemon works, and raises alarm when it is not.",
        (
            _row(
                "url",
                _URL_OR_NONE,
                "",
                "empty: the credential's content, and none is called where there is none",
                secret=True,
            ),
            _row(
                "url_credential",
                _CREDENTIAL,
                "heartbeat_url",
                "name given to LoadCredential= for the address",
                secret=True,
            ),
            _row("every_secs", number(1, DAY), 60.0, "time between two calls"),
            _row("allow_http", boolean, False, "allow an address without TLS (a lab's own receiver)"),
        ),
    ),
    "page": (
        "A page for browsers that shows everything and changes nothing; for this computer only.",
        (
            _row("listen", _listen, "", 'empty: no page; "127.0.0.1:8765", or the path of a Unix socket'),
            _row("hosts", _hosts, (), "names that a proxy before it passes on, besides localhost"),
        ),
    ),
    "queue": (
        "The queue folder.",
        (
            _row("rescan_secs", number(0.05, 3600), 60.0, "time between two looks at the whole folder"),
            _row("settle_secs", number(0.01, 600), 1.0, "a file that stood still this long is complete"),
        ),
    ),
}

_POWER_ROWS: Sequence[Row] = (
    Row("command", _argv, (), "program and arguments", secret=True),
    Row("url", _URL, "", "address to call", secret=True),
    Row("method", one_of("GET", "POST", "PUT"), "POST", "HTTP method"),
    Row("body", text("a string", most=8192, empty=True), "", "what is sent", secret=True),
    Row("expect", integer(100, 599), 200, "HTTP status that means it worked"),
)

_FIELDS = {
    ("domains", "first"): "domain_first",
    ("domains", "last"): "domain_last",
    **{(name, row.key): f"{name}_{row.key}" for name in ("webhook", "heartbeat", "page") for row in TABLES[name][1]},
}


def default_settings(instance: str = "") -> DaemonSettings:
    """What holds where there is no `autoperfd.toml`; the places are the instance's own."""
    return read_settings(b"", "", instance)


def read_settings(data: bytes, file: str, instance: str = "") -> DaemonSettings:
    """The daemon's settings from the bytes of `autoperfd.toml`; ConfigError with all problems."""
    words = decode(data, file)
    report = Report(file, words)
    document = parse(words, file)
    values: dict[str, Any] = {}
    top = [Row(name, anything, {}, about) for name, (about, _) in TABLES.items()]
    tables = walk(document, [*top, Row("power", anything, {}, "power switches")], (), report, _HOMES)
    for name, (_, rows) in TABLES.items():
        if name == "paths":
            rows = [replace(row, default=instances.place(Path(str(row.default)), instance)) for row in rows]
        for key, value in walk(tables[name], rows, (name,), report).items():
            values[_FIELDS.get((name, key), key)] = value
    values["guards"] = Guards(**{row.key: values.pop(row.key) for row in TABLES["guards"][1] if row.key in values})
    values["power"] = _power(tables["power"], ("power",), report)
    _cross(values, report)
    report.finish()
    return DaemonSettings(**values, instance=instance)


_HOMES = {row.key: f"[{name}]" for name, (_, rows) in TABLES.items() for row in rows}


def _power(found: object, where: Where, report: Report) -> dict[str, PowerSwitch]:
    switches: dict[str, PowerSwitch] = {}
    if not isinstance(found, dict):
        report.add(where, show_secret(found), "tables [power.<name>]")
        return switches
    named = text("a name of letters, digits, '.', '_' and '-'", _NAME)
    for name, table in found.items():
        try:
            named(name)
        except Wrong as wrong:
            report.add((*where, name), show(name), wrong.expected)
        values = walk(table, _POWER_ROWS, (*where, name), report)
        if isinstance(table, dict) and ("command" in table) == ("url" in table):
            report.add((*where, name), "both" if "url" in table else "neither", "either command or url")
        if len(values) == len(_POWER_ROWS):
            switches[name] = PowerSwitch(name, **values)
    return switches


def _cross(values: Mapping[str, Any], report: Report) -> None:
    """What no row can see alone."""
    first, last = values.get("domain_first"), values.get("domain_last")
    if first is not None and last is not None and first > last:
        report.add(("domains", "last"), str(last), f"at least first, {first}")
    for name in ("webhook", "heartbeat"):
        url, allow = values.get(f"{name}_url", ""), values.get(f"{name}_allow_http", True)
        if url.startswith("http://") and not allow:
            report.add((name, "url"), show_secret(url), "an https address", f"or set allow_http = true in [{name}]")
    low, cap = values.get("backoff_first_secs"), values.get("backoff_cap_secs")
    if low is not None and cap is not None and low > cap:
        report.add(("machines", "backoff_cap_secs"), f"{cap:g}", f"at least backoff_first_secs, {low:g}")


def render() -> str:
    """The shipped `autoperfd.toml`: every setting with its default and meaning, commented out."""
    parts = [
        "# autoperfd's own settings. Every line is commented out and shows the default; a change takes",
        "# effect with `systemctl restart autoperfd`, which leaves running tests alone. Times are in seconds.",
    ]
    for name, (about, rows) in TABLES.items():
        parts += ["", f"# {about}", f"[{name}]"]
        parts += [f"#{row.key} = {_toml(row.default)}".ljust(46) + f"  # {row.meaning}" for row in rows]
    return "\n".join(parts) + _POWER_WORDS


_POWER_WORDS = """

# Power switches that experiments may name (power_cycle = "plug-p1"): a program, started without a shell, or an
# HTTP call. One table each.
#[power.plug-p1]
#command = ["/usr/local/bin/plug", "cycle", "p1"]
#[power.plug-p2]
#url = "http://192.0.2.7/relay/0?turn=off&timer=5"
#method = "POST"
#body = ""
#expect = 200
"""


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value) if isinstance(value, int) else f'"{value}"'
