"""Reads experiment files; promises that a file is either understood whole or refused with every problem named.

Pure: no I/O, no clock. Parsing hostile TOML may take long, so the daemon parses in a limited child process
(daemon/parse.py) and hands the document to `read_document`; `read_experiments` does both here, for trusted
callers. Any thread.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from autoperfd.core.names import BY_NAME, KEYS, Key, parse_name, pattern, safe_folder, test_name
from autoperfd.core.plan import Allowed, Machine, Settings, Tool
from autoperfd.core.settings import DaemonSettings, PowerSwitch, read_settings
from autoperfd.core.sweep import Axis, Choice, Listing, Product, Range, Space, Sweep, Values
from autoperfd.core.tables import (
    REQUIRED,
    Report,
    Row,
    Where,
    Wrong,
    anything,
    boolean,
    decode,
    integer,
    one_of,
    parse,
    several_of,
    show,
    show_text,
    text,
    walk,
)

__all__ = [
    "DaemonSettings",
    "Experiment",
    "Policy",
    "PowerSwitch",
    "continued",
    "read_document",
    "read_experiments",
    "read_settings",
    "recalled",
    "why_another",
]

MOST_EXPERIMENTS = 200  # in one file
MOST_MACHINES = 1000
MOST_TESTS = 100_000  # listed by name
COMBINATIONS = 100_000  # looked at one by one in one file; larger spaces by values that stand for all
SAMPLED = 2_000
SEED_HIGH = 2**63 - 1

Generation = Literal["pcg", "rcg", "listed"]
Reboot = Literal["experiment", "test", "failure", "never"]


@dataclass(frozen=True)
class Policy:
    """How an experiment is paced; no part of its identity."""

    buffer_secs: int = 60
    retries: int = 2
    halt_after_consecutive_failures: int = 10
    reboot: Reboot = "experiment"
    resuming_test_name: str = ""
    network: str = "default"
    share_network: bool = False
    notify: tuple[str, ...] | None = None  # kinds of messages besides halts; None: as autoperfd.toml says


@dataclass(frozen=True)
class Experiment:
    """One experiment as its file says it. `seed` None: to be chosen once, where `sweep.shuffled`."""

    name: str
    folder: str  # safe, but not yet unique
    tool: str
    generation: Generation
    sweep: Sweep
    machines: tuple[Machine, ...]
    policy: Policy
    seed: int | None
    order: Literal["listed", "shuffled"]
    identity: str
    warnings: tuple[str, ...] = ()


def read_experiments(
    data: bytes, file: str, tools: Mapping[str, Tool], power: Collection[str]
) -> tuple[Experiment, ...]:
    """The experiments of a file; ConfigError with all its problems. Unlimited: not for files of strangers."""
    words = decode(data, file)
    return read_document(parse(words, file), words, file, tools, power)


def read_document(
    document: object,
    words: str,
    file: str,
    tools: Mapping[str, Tool],
    power: Collection[str],
    *,
    accepted: bool = False,
) -> tuple[Experiment, ...]:
    """The experiments of a parsed document; `words` is the text it came from, `power` the known power switches.

    `accepted`: it was read before, so what costs time or has changed around it since is not looked at again.
    """
    reader = _Reader(Report(file, words), tools, power, accepted)
    experiments = reader.experiments(document)
    reader.report.finish()
    return experiments


def why_another(first: Experiment, now: Experiment) -> str:
    """Why a file of the same name is not the same experiment, as a sentence; "" when it is."""
    if first.identity != now.identity:
        return (
            f"{show(now.name)} exists with another tool or other values; "
            "give the new one another experiment_name, or cancel and remove the old one"
        )
    before = {machine.name: machine.allocation for machine in first.machines}
    after = {machine.name: machine.allocation for machine in now.machines}
    if before != after:
        names = ", ".join(sorted(name for name in before | after if before.get(name) != after.get(name)))
        return f"{show(now.name)} exists with other machines or roles ({names}); only their addresses may change"
    return ""


def continued(first: Experiment, now: Experiment) -> Experiment:
    """The same experiment dropped again: the order and seed of the first, all else as it is now."""
    return replace(
        now,
        folder=first.folder,
        generation=first.generation,
        sweep=replace(first.sweep, limit=now.sweep.limit),
        seed=first.seed,
        order=first.order,
    )


def recalled(
    documents: str, name: str, seed: int | None, tools: Mapping[str, Tool], power: Collection[str] = ()
) -> tuple[Experiment, Sweep]:
    """The experiment that a memory keeps, as it was last dropped, and its tests in their order.

    `documents`: JSON of the file's table as it was first dropped and as it was last, each JSON itself. `name` is for
    messages, `seed` the one that was drawn. ConfigError where they are not understood.
    """

    def read(text: str) -> Experiment:
        (found,) = read_document({"experiments": [json.loads(text)]}, "", name, tools, power, accepted=True)
        return found

    first, now = json.loads(documents)
    experiment = read(first) if now == first else continued(read(first), read(now))
    return experiment, experiment.sweep.seeded(seed) if seed is not None else experiment.sweep


# ---------------------------------------------------------------- the settings of an experiment file

_SAFE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


def _experiment_name(found: Any) -> str:
    name: str = text("a name of 1 to 128 printable characters", most=128)(found)
    if name != name.strip() or name.startswith("/") or ".." in re.split(r"[/\\]", name):
        raise Wrong('a name that is no path and has no space at its ends, e.g. "PCG #1"')
    return name


def _host(found: Any) -> str:
    host: str = text("an IP address or a host name", r"[A-Za-z0-9:][A-Za-z0-9.:%_-]*", most=253)(found)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.rstrip(".").split(".")
        label = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
        if labels[-1].isdigit() or not all(label.fullmatch(part) for part in labels):
            raise Wrong("an IP address or a host name") from None
    return host


_EXPERIMENT_ROWS = (
    Row("experiment_name", _experiment_name, meaning='a name, e.g. experiment_name = "PCG #1"'),
    Row("combination_generation_type", one_of("pcg", "rcg"), ""),
    Row("resuming_test_name", text(f"a test name like {pattern()}", most=400, empty=True), ""),
    Row("tool", anything, "perftest"),
    Row("buffer_secs", integer(0, 604_800), 60),
    Row("retries", integer(0, 1000), 2),
    Row("halt_after_consecutive_failures", integer(1, 1_000_000), 10),
    Row("reboot", one_of("experiment", "test", "failure", "never"), "experiment"),
    Row("order", one_of("listed", "shuffled"), "listed"),
    Row("rcg_test_count", integer(1, 10**18), None),
    Row("seed", integer(0, SEED_HIGH), None),
    Row("network", text("a name of letters, digits, '.', '_' and '-'", _SAFE), "default"),
    Row("share_network", boolean, False),
    Row("notify", several_of("halt", "resume", "finish"), None),
    Row("tests", anything, None),
    Row("qos_settings", anything, None),
    Row("slave_machines", anything, REQUIRED, "at least one [[experiments.slave_machines]]"),
)

_PATH = "a path that begins with / or ~/"

_MACHINE_ROWS = (
    Row("machine_name", text("a name of letters, digits, '.', '_' and '-'", _SAFE), REQUIRED, "a name"),
    Row("participant_allocation", one_of("pub", "sub", "all"), REQUIRED, '"pub", "sub" or "all"'),
    Row("ip", _host, REQUIRED, "an IP address or a host name"),
    Row("port", integer(1, 65_535), 22),
    Row("username", text("an account's name", r"[A-Za-z_][A-Za-z0-9._-]{0,31}\$?"), REQUIRED, "an account's name"),
    Row("ssh_key_path", text(_PATH, r"~?/.*[^/]", most=1024), REQUIRED, _PATH),
    Row(
        "perftest_exec_path",
        text(f"{_PATH}, or a program's name", r"~?/.*[^/]|[A-Za-z0-9._+-]+", most=1024),
        REQUIRED,
        "the tool's executable on that machine",
    ),
    Row("environment", anything, {}),
    Row("power_cycle", text("the name of a power switch", _SAFE, empty=True), ""),
)

_ELSEWHERE = {
    **{key.name: "[experiments.qos_settings]" for key in KEYS},
    **{row.key: "[[experiments.slave_machines]]" for row in _MACHINE_ROWS},
    **{row.key: "[[experiments]]" for row in _EXPERIMENT_ROWS},
    "experiments": "the top of the file",
}


class _Reader:
    """Reads one document; everything wrong goes into the report."""

    def __init__(self, report: Report, tools: Mapping[str, Tool], power: Collection[str], accepted: bool) -> None:
        self.report = report
        self.tools = tools
        self.power = power
        self.accepted = accepted
        self.combinations = COMBINATIONS

    def experiments(self, document: object) -> tuple[Experiment, ...]:
        """All experiments of the document that are fine."""
        rows = [Row("experiments", anything, REQUIRED, "at least one [[experiments]]")]
        tables = walk(document, rows, (), self.report, _ELSEWHERE).get("experiments")
        if tables is None:
            return ()
        if isinstance(tables, dict):
            self.report.add(("experiments",), "a table", "[[experiments]]", "double the brackets")
            return ()
        if not isinstance(tables, list) or not 1 <= len(tables) <= MOST_EXPERIMENTS:
            found = f"{len(tables)} of them" if isinstance(tables, list) else show(tables)
            self.report.add(("experiments",), found, f"1 to {MOST_EXPERIMENTS} tables [[experiments]]")
            return ()
        read = [self._experiment(table, ("experiments", i)) for i, table in enumerate(tables)]
        self._same_names(tables)
        return tuple(experiment for experiment in read if experiment is not None)

    def _same_names(self, tables: list[Any]) -> None:
        seen: dict[str, int] = {}
        for i, table in enumerate(tables):
            name = table.get("experiment_name") if isinstance(table, dict) else None
            if not isinstance(name, str):
                continue
            if name in seen:
                line = self.report.lines.line(("experiments", seen[name], "experiment_name"))
                where = ("experiments", i, "experiment_name")
                self.report.add(where, show(name), f"a name of its own; line {line} has the same")
            seen.setdefault(name, i)

    def _experiment(self, table: object, where: Where) -> Experiment | None:
        before = self.report.count
        values = walk(table, _EXPERIMENT_ROWS, where, self.report, _ELSEWHERE)
        if not isinstance(table, dict):
            return None
        warnings: list[str] = []
        tool = self._tool(values["tool"], where)
        machines = self._machines(values.get("slave_machines"), (*where, "slave_machines"))
        space = self._space(values, tool, where, warnings)
        self._order(values, where, warnings)
        if space is None or tool is None or self.report.count > before:
            return None
        listed = isinstance(space, Listing)
        generation: Generation = "listed" if listed else values["combination_generation_type"]
        shuffled = not listed and (generation == "rcg" or values["order"] == "shuffled")
        limit = values["rcg_test_count"] if generation == "rcg" else None
        sweep = Sweep(space, shuffled, limit, values["seed"] if shuffled else None)
        self._resuming(values["resuming_test_name"], sweep, where, warnings)
        if values["reboot"] == "never" and any(machine.power_cycle for machine in machines):
            warnings.append('power_cycle is not used: reboot = "never" holds for ill machines, too')
        policy = Policy(**{key: values[key] for key in Policy.__dataclass_fields__})
        return Experiment(
            name=values["experiment_name"],
            folder=safe_folder(values["experiment_name"]),
            tool=tool.name,
            generation=generation,
            sweep=sweep,
            machines=tuple(machines),
            policy=policy,
            seed=sweep.seed,
            order=values["order"],
            identity=sweep.identity(tool.name),
            warnings=tuple(warnings),
        )

    def _tool(self, found: object, where: Where) -> Tool | None:
        try:
            return self.tools[one_of(*self.tools)(found)]
        except Wrong as wrong:
            self.report.add((*where, "tool"), show(found), wrong.expected, wrong.suggestion)
            return None

    # ------------------------------------------------------------ which tests

    def _space(self, values: Mapping[str, Any], tool: Tool | None, where: Where, warnings: list[str]) -> Space | None:
        generation, tests, settings = (
            values.get(key) for key in ("combination_generation_type", "tests", "qos_settings")
        )
        if tests is not None and settings is not None:
            place = (*where, "tests")
            self.report.add(place, "tests and qos_settings", "one of the two", "remove one")
        if tests is not None:
            if generation:
                warnings.append(f'combination_generation_type = "{generation}" is ignored beside tests')
            return self._listing(tests, tool, (*where, "tests"))
        if generation == "":
            place = (*where, "combination_generation_type")
            self.report.add(place, "nothing", '"pcg" or "rcg"', "or list the tests by name: tests = [...]")
        if settings is None:
            place = (*where, "qos_settings")
            self.report.add(place, "nothing", "a table [experiments.qos_settings]", "or tests = [...]")
            return None
        return self._product(settings, generation == "rcg", tool, (*where, "qos_settings"), warnings)

    def _order(self, values: Mapping[str, Any], where: Where, warnings: list[str]) -> None:
        """Settings of the order that fit the way tests are generated."""
        listed = values["tests"] is not None
        rcg = not listed and values.get("combination_generation_type") == "rcg"
        if values.get("rcg_test_count") is not None and not rcg:
            warnings.append("rcg_test_count is ignored: only RCG stops after a number of tests")
        shuffled = values.get("order") == "shuffled"
        if listed and shuffled:
            self.report.add((*where, "order"), '"shuffled"', '"listed" beside tests', "remove it")
        if values.get("seed") is not None and not rcg and not shuffled:
            warnings.append('seed is ignored: only RCG and order = "shuffled" draw anything')

    def _product(
        self, found: object, rcg: bool, tool: Tool | None, where: Where, warnings: list[str]
    ) -> Product | None:
        rows = [
            Row(key.name, anything, REQUIRED if key.required else [], f"a list of values ({key.meaning})")
            for key in KEYS
        ]
        before = self.report.count
        values = walk(found, rows, where, self.report, _ELSEWHERE)
        axes = []
        for name in found if isinstance(found, dict) else ():
            if name in BY_NAME:
                allowed = tool.allowed(name) if tool else Allowed()
                axis = self._axis(BY_NAME[name], values[name], rcg, tool, allowed, (*where, name), warnings)
                if axis is not None:
                    axes.append(axis)
        if self.report.count > before or tool is None:
            return None
        space = Product(tuple(axes))
        if not self.accepted:
            self._combinations(space, tool, where)
        return space

    def _axis(
        self,
        key: Key,
        found: Any,
        rcg: bool,
        tool: Tool | None,
        allowed: Allowed | None,
        where: Where,
        warnings: list[str],
    ) -> Axis | None:
        if found == []:
            if key.required:
                self.report.add(where, "an empty list", "at least one value; a test cannot do without it")
            return None
        name = tool.name if tool else ""
        if allowed is None or allowed.never:
            expected = f"nothing: {_never(allowed, key.name, name)}"
            self.report.add(where, show(found), expected, "remove it or write []")
            return None
        try:
            values, left_out = _values(key, found, rcg, allowed, name)
        except _Wrongs as wrongs:
            for wrong_found, wrong in wrongs.wrongs:
                self.report.add(where, wrong_found, wrong.expected, wrong.suggestion)
            return None
        if left_out:
            warnings.append(f"{key.name}: {left_out}")
        return Axis(key.name, values)

    def _listing(self, found: object, tool: Tool | None, where: Where) -> Listing | None:
        if not isinstance(found, list) or not 1 <= len(found) <= MOST_TESTS:
            what = f"{len(found)} names" if isinstance(found, list) else show(found)
            self.report.add(where, what, f"a list of 1 to {MOST_TESTS} test names")
            return None
        names: dict[str, int] = {}
        for i, name in enumerate(found):
            place = (*where, i)
            try:
                if not isinstance(name, str):
                    raise ValueError(f"like {pattern()}")
                settings = parse_name(name)
                wrong = _refusal_of_test(settings, tool)
            except ValueError as error:
                wrong = str(error)
            written = "" if wrong else test_name(settings)
            if written in names:
                wrong = f"it is the same as tests[{names[written]}]; each test once"
            if wrong:
                self.report.add(place, show(name), f"a test name: {show_text(wrong)}", words=show(name))
            else:
                names[written] = i
        return Listing(tuple(names))

    def _combinations(self, space: Product, tool: Tool, where: Where) -> None:
        """Refuse what the tool cannot take together, naming the first few tests of each reason."""
        exhaustive = space.count <= self.combinations
        budget = space.count if exhaustive else SAMPLED
        self.combinations -= min(budget, self.combinations)
        found: dict[tuple[str, str], list[str]] = {}
        counts: dict[tuple[str, str], int] = {}
        for settings in space.samples(budget):
            for problem in tool.problems(settings):
                counts[problem] = counts.get(problem, 0) + 1
                if counts[problem] <= 3:
                    found.setdefault(problem, []).append(test_name(settings))
        for (key, reason), names in found.items():
            number = counts[key, reason]
            others = f" and {number - len(names)} more" if number > len(names) and exhaustive else ""
            others = others or ("" if exhaustive else " and others")
            expected = f"combinations {tool.name} can take: {show_text(reason)}"
            suggestion = "give values that do not go together an experiment each"
            self.report.add((*where, key), ", ".join(names) + others, expected, suggestion)

    def _resuming(self, name: str, sweep: Sweep, where: Where, warnings: list[str]) -> None:
        if not name:
            return
        known = sweep.seed is not None or not sweep.shuffled
        if (sweep.index_of(name) is None) if known else not sweep.covers(name):
            place = (*where, "resuming_test_name")
            self.report.add(place, show(name), "the name of a test of this experiment, or an empty string")
        elif not known:
            warnings.append("resuming_test_name means little without a seed: the order is drawn at acceptance")

    # ------------------------------------------------------------ on which machines

    def _machines(self, found: object, where: Where) -> list[Machine]:
        if found is None:
            return []  # reported as missing
        if isinstance(found, dict):
            self.report.add(where, "a table", "[[experiments.slave_machines]]", "double the brackets")
            return []
        if not isinstance(found, list) or len(found) > MOST_MACHINES:
            self.report.add(where, show(found), f"1 to {MOST_MACHINES} tables [[experiments.slave_machines]]")
            return []
        tables = [
            self._machine(walk(table, _MACHINE_ROWS, (*where, i), self.report, _ELSEWHERE), (*where, i))
            for i, table in enumerate(found)
        ]
        for role in ("pub", "sub"):
            serving = [values.get("participant_allocation", role) in (role, "all") for values in tables]
            if not any(serving):
                what = "publishers" if role == "pub" else "subscribers"
                expected = f'at least one machine for {what}: participant_allocation = "{role}" or "all"'
                self.report.add(where, f"{len(found)} machines", expected)
        self._unique(tables, where)
        return [
            Machine(
                name=values["machine_name"],
                allocation=values["participant_allocation"],
                ip=values["ip"],
                port=values["port"],
                username=values["username"],
                ssh_key_path=values["ssh_key_path"],
                exec_path=values["perftest_exec_path"],
                environment=values["environment"],
                power_cycle=values["power_cycle"],
            )
            for values in tables
            if len(values) == len(_MACHINE_ROWS)
        ]

    def _machine(self, values: dict[str, Any], where: Where) -> dict[str, Any]:
        """The values of one machine, its environment and power switch checked as well."""
        if "environment" in values:
            values["environment"] = self._environment(values["environment"], (*where, "environment"))
        switch = values.get("power_cycle")
        if switch and switch not in self.power and not self.accepted:
            known = ", ".join(sorted(self.power)) or "none so far"
            expected = f"a power switch named in autoperfd.toml ({known})"
            self.report.add((*where, "power_cycle"), show(switch), expected, f"add [power.{switch}] there")
        return values

    def _environment(self, found: object, where: Where) -> tuple[tuple[str, str], ...]:
        if not isinstance(found, dict) or len(found) > 200:
            self.report.add(where, show(found), 'a table like { LD_LIBRARY_PATH = "/opt/lib" }')
            return ()
        for name, value in found.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name, re.ASCII):
                self.report.add((*where, name), show(name), "a name of letters, digits and '_'")
            if not isinstance(value, str) or not (value.isprintable() and len(value) <= 8192):
                self.report.add((*where, name), show(value), "a string without control characters")
        return tuple((str(name), str(value)) for name, value in found.items())

    def _unique(self, tables: list[dict[str, Any]], where: Where) -> None:
        names: dict[str, int] = {}
        addresses: dict[tuple[str, int], int] = {}
        for i, values in enumerate(tables):
            name, ip, port = (values.get(key) for key in ("machine_name", "ip", "port"))
            if name is not None and (first := names.setdefault(name.lower(), i)) != i:
                line = self.report.lines.line((*where, first, "machine_name"))
                self.report.add((*where, i, "machine_name"), show(name), f"a name of its own; line {line} has it")
            if ip is not None and port is not None:
                first = addresses.setdefault((_address(ip), port), i)
                if first != i:
                    both = f"{tables[first].get('machine_name', '?')} and {name or '?'}"
                    expected = f"one machine for each address; {both} have the same"
                    self.report.add((*where, i, "ip"), f"{show(ip)} port {port}", expected)


def _address(ip: str) -> str:
    """One spelling for equal addresses and host names."""
    try:
        return str(ipaddress.ip_address(ip))
    except ValueError:
        return ip.rstrip(".").lower()


# ---------------------------------------------------------------- the values of one setting


class _Wrongs(Exception):
    """What is wrong with the values of a setting: (found, Wrong) each."""

    def __init__(self, wrongs: list[tuple[str, Wrong]]) -> None:
        super().__init__()
        self.wrongs = wrongs


def _values(key: Key, found: Any, rcg: bool, allowed: Allowed, tool: str) -> tuple[Values, str]:
    """The values and a sentence about what a range leaves out; raises _Wrongs."""
    if isinstance(found, dict):
        return _range(key, _explicit(key, found), found, rcg, allowed, tool)
    if not isinstance(found, list):
        scalar = isinstance(found, bool | int)
        raise _Wrongs([(show(found), Wrong(_kind(key), f"write [{show(found)}]" if scalar else ""))])
    numbers = all(isinstance(value, int) and not isinstance(value, bool) for value in found)
    if rcg and not key.boolean and numbers and len(found) == 2:
        if found[0] > found[1]:
            wrong = Wrong("the lower end first: two integers are a range here", f"write [{found[1]}, {found[0]}]")
            raise _Wrongs([(show(found), wrong)])
        return _range(key, (found[0], found[1]), found, rcg, allowed, tool)
    wrongs: list[tuple[str, Wrong]] = []
    seen: set[object] = set()
    forbidden = _forbidden(key, allowed)
    for value in found:
        refusal = _refusal(key, value, forbidden, tool)
        if refusal:
            wrongs.append((show(value), Wrong(refusal)))
        elif value in seen:
            wrongs.append((f"{show(value)} twice", Wrong("each value once", "remove one")))
        else:
            seen.add(value)
    if wrongs:
        raise _Wrongs(wrongs)
    return Choice(tuple(found)), ""


def _kind(key: Key) -> str:
    return "a list of true and false" if key.boolean else "a list of whole numbers, or { min = 1, max = 100 }"


def _explicit(key: Key, found: dict[str, Any]) -> tuple[int, int]:
    """The ends of { min = …, max = … }."""
    ends = [found.get("min"), found.get("max")]
    good = all(isinstance(end, int) and not isinstance(end, bool) for end in ends)
    if key.boolean or not good or len(found) != 2:
        raise _Wrongs([("a table of " + (", ".join(map(show_text, found)) or "nothing"), Wrong(_kind(key)))])
    low, high = found["min"], found["max"]
    if low > high:
        raise _Wrongs([(f"min = {show(low)}, max = {show(high)}", Wrong("min not above max"))])
    return low, high


def _range(
    key: Key, ends: tuple[int, int], found: object, rcg: bool, allowed: Allowed, tool: str
) -> tuple[Values, str]:
    """The range without what the tool cannot take; in PCG nothing may be left out."""
    low, high = ends
    shown = f"{show(low)} to {show(high)}" if isinstance(found, dict) else show(found)
    if low < key.low or high > key.high:
        raise _Wrongs([(shown, Wrong(f"a range within {key.low} to {key.high}"))])
    holes: list[tuple[int, int, str]] = [
        (first, last, reason) for first, last, reason in _forbidden(key, allowed) if first <= high and last >= low
    ]
    pieces: list[tuple[int, int]] = []
    start = low
    for first, last, _ in holes:
        if first > start:
            pieces.append((start, first - 1))
        start = max(start, last + 1)
    if start <= high:
        pieces.append((start, high))
    words = "; ".join(
        f"{max(first, low)} to {min(last, high)}" + (f": {reason}" if reason else "") for first, last, reason in holes
    )
    if holes and (not rcg or not pieces):
        raise _Wrongs([(shown, Wrong(f"values {tool} can take, without {words}"))])
    return Range(tuple(pieces)), f"{tool} cannot take some values, they are left out ({words})" if holes else ""


def _forbidden(key: Key, allowed: Allowed) -> list[tuple[int, int, str]]:
    """Every span of integers the tool refuses, ascending."""
    spans = list(allowed.holes)
    if allowed.low is not None and allowed.low > key.low:
        spans.append((key.low, allowed.low - 1, allowed.reason))
    if allowed.high is not None and allowed.high < key.high:
        spans.append((allowed.high + 1, key.high, allowed.reason))
    return sorted(spans)


def _refusal(key: Key, value: object, forbidden: Sequence[tuple[int, int, str]], tool: str) -> str:
    """Why a value cannot be used, as what was expected instead; "" when it can."""
    if key.boolean:
        return "" if isinstance(value, bool) else "true or false"
    if not isinstance(value, int) or isinstance(value, bool):
        return "a whole number"
    if not key.low <= value <= key.high:
        return f"a whole number from {key.low} to {key.high}"
    for first, last, reason in forbidden:
        if first <= value <= last:
            span = str(first) if first == last else f"{first} to {last}"
            return f"a value {tool} can take, not {span}" + (f": {reason}" if reason else "")
    return ""


def _never(allowed: Allowed | None, key: str, tool: str) -> str:
    """Why a tool cannot be given a setting at all."""
    return allowed.never if allowed else f"{tool} has no {key}"


def _refusal_of_test(settings: Settings, tool: Tool | None) -> str:
    """Why a listed test cannot be tried; "" when it can."""
    for key in KEYS:
        if key.required and key.name not in settings:
            return f"{key.name} is missing, like in {pattern()}"
        if key.name not in settings or tool is None:
            continue
        allowed = tool.allowed(key.name)
        if allowed is None or allowed.never:
            return _never(allowed, key.name, tool.name)
        refusal = _refusal(key, settings[key.name], _forbidden(key, allowed), tool.name)
        if refusal:
            return f"{key.name} must be {refusal}"
    return "; ".join(reason for _, reason in tool.problems(settings)) if tool else ""
