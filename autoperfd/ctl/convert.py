"""Knows the experiment files of AutoPerf, which came before, and writes them as ours. Pure; one thread.

Promises that nothing is dropped unsaid: what has no place here stands as a comment where it stood, and is a note.
Understood are its JSON (also written with single quotes, as its specification has it) and its TOML.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from autoperfd.core.config import read_experiments
from autoperfd.core.names import parse_name, test_name
from autoperfd.core.tables import decode, parse, show
from autoperfd.core.text import safe
from autoperfd.ctl.check import MAX_BYTES
from autoperfd.errors import AutoperfError, ConfigError, Problem
from autoperfd.tools import TOOLS

MOST_DEPTH = 20
MOST_SHOWN = 500  # characters of a value in a comment
MOST_BITS = 1100  # of a number: every float fits; Python writes no number of more than 4300 digits
NEVER_HALTS = 1_000_000  # what stands for the predecessor's 0

EXPERIMENT = {
    "experiment_name": ("experiment_name", "campaign_name", "name"),
    "combination_generation_type": ("combination_generation_type", "gen_type", "random_combination_generation"),
    "resuming_test_name": ("resuming_test_name",),
    "rcg_test_count": ("rcg_target_test_count", "total_experiments", "total_tests", "random_combination_count"),
    "retries": ("retry_failed_tests_n_times", "max_retries"),
    "halt_after_consecutive_failures": ("quit_after_n_failed_tests", "max_failures"),
    "tests": ("custom_test_list", "experiment_names", "test_names"),
    "qos_settings": ("qos_settings", "settings"),
    "slave_machines": ("slave_machines", "machines"),
}
SETTINGS = {
    "duration_secs": ("duration_secs", "duration_s"),
    "datalen_bytes": ("datalen_bytes",),
    "pub_count": ("pub_count",),
    "sub_count": ("sub_count",),
    "use_reliable": ("use_reliable", "reliability"),
    "use_multicast": ("use_multicast",),
    "durability_level": ("durability_level", "durability"),
    "latency_count": ("latency_count",),
}
MACHINE = {
    "machine_name": ("machine_name", "hostname", "name"),
    "participant_allocation": ("participant_allocation", "participant_type"),
    "ip": ("ip", "host"),
    "port": ("port",),
    "username": ("username",),
    "ssh_key_path": ("ssh_key_path", "ssh_key"),
    "perftest_exec_path": ("perftest_exec_path", "perftest_path", "perftest"),
}
"""Our key -> the predecessor's, of all its versions."""

_SHAPING = "networks are not shaped here; set it up on the machines for the whole experiment"
_TRIED = "machines are tried until patience_secs of autoperfd.toml are over"
_PLUG = 'describe the plug as [power.NAME] in autoperfd.toml, then write power_cycle = "NAME" here'
UNSUPPORTED = {
    "noise_generation": _SHAPING,
    "noise_gen": _SHAPING,
    "bw_rate": _SHAPING,
    "restart_after_retries": "ill machines are restarted whenever that may help, see reboot",
    "ping_attempts": _TRIED,
    "ssh_attempts": _TRIED,
    "smart_plug_name": _PLUG,
    "smart_plug_ip": _PLUG,
    "custom_tests_file": "list the tests of that file: tests = [...]",
    "home_dir": "a path below it may begin with ~/",
}
"""What has no place here -> what to do instead."""

ROLES = {"publisher": "pub", "subscriber": "sub", "both": "all"}


@dataclass(frozen=True, slots=True)
class Converted:
    """An experiment file of ours. `notes`: what was not carried over as it was; `problems`: what `check` says."""

    text: str
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]


def convert(data: bytes, file: str, power: Collection[str]) -> Converted:
    """Convert a file of the predecessor. ConfigError, AutoperfError where it is none."""
    source = decode(data, file)
    tables, beside = _experiments(_document(source, file), file)
    notes = [f"{words} is not carried over: {why}" for words, why in beside]
    if remarks := _REMARK.findall(source):
        notes.append(f"its own comments are not carried over: {safe(remarks[0].strip(), 100)}, {len(remarks)} in all")
    lines = [
        f"# Converted by autoperfctl from {safe(file, 200)}. What has no place here stands in comments.",
        "# Before every test machines were rebooted there; here once before each experiment (reboot).",
        *(f"# {words}  (not carried over: {why})" for words, why in beside),
    ]
    for number, table in enumerate(tables, 1):
        writer = _Writer(_title(table) or f"experiment {number}")
        lines += ["", *writer.experiment(table)]
        notes += writer.notes
    text = "\n".join(lines) + "\n"
    return Converted(text, tuple(notes), _problems(text, power))


def _problems(text: str, power: Collection[str]) -> tuple[Problem, ...]:
    """What still has to be mended by hand."""
    if len(text.encode()) > MAX_BYTES:
        return (Problem("converted", 0, "text", f"{len(text.encode())} bytes", f"at most {MAX_BYTES}", "split it"),)
    try:
        read_experiments(text.encode(), "converted", TOOLS, power)
    except ConfigError as error:
        return error.problems
    return ()


# ---------------------------------------------------------------- reading


def _document(text: str, file: str) -> object:
    """What the file holds, in whichever language it is written."""
    try:
        document: object = json.loads(text, object_pairs_hook=_no_double)
    except _Double as error:
        raise AutoperfError(f"cannot convert {file}: the key {show(error.args[0])} stands twice in one table") from None
    except (ValueError, RecursionError) as error:
        not_json = error
    else:
        return _sound(document, file)
    try:
        return _sound(parse(text, file), file)
    except ConfigError as not_toml:
        try:
            return _sound(_literal(text), file)
        except _Double as error:
            hint = f"the key {show(error.args[0])} stands twice in one table"
            raise AutoperfError(f"cannot convert {file}: {hint}") from None
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            if not re.match(r"\s*(\{|\[(?!\[))", text):
                raise not_toml from None
            line = getattr(not_json, "lineno", 0)
            found = safe(getattr(not_json, "msg", str(not_json)), 200)
            raise ConfigError([Problem(file, line, "text", found, "JSON or TOML of AutoPerf")]) from None


class _Double(Exception):
    """A key that stands twice in one table."""


def _no_double(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise _Double(key)
        seen[key] = value
    return seen


# A string is ended by the end of its line at the latest, so that no text is looked at twice.
_TOKEN = re.compile(r"""'(?:[^'\\\n]|\\.)*'?|"(?:[^"\\\n]|\\.)*"?|//[^\n]*|\#[^\n]*|\b(?:true|false|null)\b""")
_REMARK = re.compile(r"^[ \t]*(?:#|//).*", re.MULTILINE)  # lines of their own; behind a value they explain that value
_WORDS = {"true": "True", "false": "False", "null": "None"}


def _literal(text: str) -> object:
    """JSON with single quotes, comments or trailing commas. Raises what `ast` raises, and _Double."""

    def plain(token: re.Match[str]) -> str:
        found = token[0]
        return "" if found[0] in "/#" else _WORDS.get(found, found)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes that JSON knows and Python does not
        tree = ast.parse(_TOKEN.sub(plain, text).strip(), mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            _no_double([(str(key.value), None) for key in node.keys if isinstance(key, ast.Constant)])
    return ast.literal_eval(tree)


def _sound(document: object, file: str) -> object:
    """The document, when it holds only what JSON may hold, not too deep."""
    level: list[object] = [document]
    for _ in range(MOST_DEPTH):
        following: list[object] = []
        for value in level:
            if isinstance(value, dict):
                following += [*value, *value.values()]
                if not all(isinstance(key, str) for key in value):
                    raise AutoperfError(f"cannot convert {file}: not every key in it is a string")
            elif isinstance(value, list):
                following += value
            elif isinstance(value, str):
                if any("\ud800" <= char <= "\udfff" for char in value):
                    raise AutoperfError(f"cannot convert {file}: {show(value)} holds half a character")
            elif isinstance(value, int):
                if value.bit_length() > MOST_BITS:
                    raise AutoperfError(f"cannot convert {file}: it holds a number of more than {MOST_BITS} bits")
            elif value is not None and not isinstance(value, float):
                raise AutoperfError(
                    f"cannot convert {file}: it holds a {type(value).__name__} where nothing can be one"
                )
        level = following
        if not level:
            return document
    raise AutoperfError(f"cannot convert {file}: it is nested more than {MOST_DEPTH} deep")


def _experiments(document: object, file: str) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """The tables that are experiments, and what stands beside them: its words, and why it has no place here."""
    beside = []
    found = document
    if isinstance(document, dict):
        keys = [key for key in ("campaigns", "experiments") if key in document]
        found = document[keys[0]] if keys else [document] if document else []
        beside = [
            (_words(key, value), _unknown(key))
            for key, value in document.items()
            if keys and key != keys[0] and not _empty(value)
        ]
    if not isinstance(found, list) or not found or not all(isinstance(table, dict) for table in found):
        raise AutoperfError(
            f"cannot convert {file}: it holds no experiments",
            hint="A JSON list of experiments is expected, or TOML with [[campaigns]]",
        )
    return found, beside


# ---------------------------------------------------------------- writing


def _title(table: Mapping[str, Any]) -> str:
    """What messages call an experiment; "" where it has no name."""
    names = [table[key] for key in EXPERIMENT["experiment_name"] if key in table]
    return safe(names[0], 100) if names and isinstance(names[0], str) else ""


def _generation(found: object) -> object:
    """How tests are generated, as we write it."""
    if isinstance(found, bool):
        return "rcg" if found else "pcg"
    return found.strip().lower() if isinstance(found, str) else found


@dataclass
class _Writer:
    """Writes one experiment."""

    name: str
    notes: list[str] = field(default_factory=list)

    def experiment(self, table: dict[str, Any]) -> Iterator[str]:
        """Its lines."""
        values, rest = self._renamed(table, EXPERIMENT)
        names = self._names(values.pop("tests", None))
        settings, machines = values.pop("qos_settings", None), values.pop("slave_machines", None)
        yield "[[experiments]]"
        yield from self._head(values, listed=names is not None)
        yield from rest
        if names is not None:
            yield from names
        if isinstance(settings, dict):
            yield from self._settings(settings, listed=names is not None)
        elif settings is not None:
            yield self._left("qos_settings", settings, "a table of lists is expected")
        for machine in machines if isinstance(machines, list) else []:
            if isinstance(machine, dict):
                yield from self._machine(machine)
            else:
                yield self._left("slave_machines", machine, "a table is expected")
        if machines is not None and not isinstance(machines, list):
            yield self._left("slave_machines", machines, "a list of tables is expected")

    def _head(self, values: dict[str, Any], *, listed: bool) -> Iterator[str]:
        """What holds for all tests."""
        generation = _generation(values.pop("combination_generation_type", ""))
        count = values.pop("rcg_test_count", 0)
        for key, value in values.items():
            if key == "halt_after_consecutive_failures" and value == 0:
                self.notes.append(f"{self.name}: 0 failures meant never to halt; {key} = {NEVER_HALTS} comes close")
                yield f"{key} = {NEVER_HALTS}"
            elif key == "resuming_test_name" and isinstance(value, str):
                yield f"{key} = {_toml(self._spelt(value) or value)}"
            else:
                yield f"{key} = {_toml(value)}"
        if not listed:
            yield f"combination_generation_type = {_toml(generation)}"
        elif generation:
            yield self._left("combination_generation_type", generation, "the tests are listed, which goes before it")
        if count and generation == "rcg" and not listed:
            yield f"rcg_test_count = {_toml(count)}"
        elif count:
            yield self._left("rcg_test_count", count, "only RCG stops after a number of tests")
        elif generation == "rcg" and not listed:
            self.notes.append(f"{self.name}: without a number of tests, RCG goes on until the space is used up")
        yield 'tool = "perftest"'
        yield 'reboot = "experiment"'

    def _names(self, found: object) -> list[str] | None:
        """The lines of listed tests in our spelling; None where tests are to be generated."""
        if not found:
            return None
        if not isinstance(found, list):
            return [self._left("tests", found, "a list of test names is expected")]
        lines, seen = ["tests = ["], set()
        for name in found:
            spelt = self._spelt(name) if isinstance(name, str) else ""
            if not spelt:
                lines.append("  " + self._left("tests", name, "that is no test name"))
            elif spelt in seen:
                lines.append("  " + self._left("tests", name, "it is there already, and each test is run once"))
            else:
                lines.append(f"  {_toml(spelt)},")
                seen.add(spelt)
        return [*lines, "]"]

    @staticmethod
    def _spelt(name: str) -> str:
        """A test name as we spell it; "" where it is none."""
        try:
            return test_name(parse_name(name.strip()))
        except ValueError:
            return ""

    def _settings(self, found: dict[str, Any], *, listed: bool) -> Iterator[str]:
        values, rest = self._renamed(found, SETTINGS)
        lines = [f"{key} = {_toml(value if isinstance(value, list) else [value])}" for key, value in values.items()]
        yield ""
        if listed:
            self.notes.append(
                f"{self.name}: qos_settings is not carried over: the tests are listed, which goes before it"
            )
            yield "# [experiments.qos_settings]  (not carried over: the tests are listed, which goes before it)"
            yield from (f"# {line}" for line in lines)
        else:
            yield "[experiments.qos_settings]"
            yield from lines
        yield from rest

    def _machine(self, found: dict[str, Any]) -> Iterator[str]:
        values, rest = self._renamed(found, MACHINE)
        role = values.get("participant_allocation")
        if isinstance(role, str):
            values["participant_allocation"] = ROLES.get(role.strip().lower(), role.strip().lower())
        yield ""
        yield "[[experiments.slave_machines]]"
        for key, value in values.items():
            yield f"{key} = {_toml(value)}"
        yield from rest

    def _renamed(
        self, table: Mapping[str, Any], keys: Mapping[str, tuple[str, ...]]
    ) -> tuple[dict[str, Any], list[str]]:
        """The values under our keys, in our order, and comments for everything else; of several names ours wins."""
        ours = {old: key for key, names in keys.items() for old in names}
        given = {key: next((n for n in names if table.get(n) is not None), None) for key, names in keys.items()}
        values = {key: table[name] for key, name in given.items() if name is not None}
        rest = []
        for old, value in table.items():
            key = ours.get(old)
            if value is None or (key is None and _empty(value)):
                continue
            if key is None:
                rest.append(self._left(old, value, _unknown(old)))
            elif old != given[key] and values[key] != value:
                rest.append(self._left(old, value, f"{key} is given already"))
        return values, rest

    def _left(self, key: str, value: object, why: str) -> str:
        """A comment about what is not carried over; it is noted, too."""
        words = _words(key, value)
        self.notes.append(f"{self.name}: {words} is not carried over: {why}")
        return f"# {words}  (not carried over: {why})"


def _words(key: str, value: object) -> str:
    """A key and its value, as one line for people."""
    return f"{safe(key, 100)} = {safe(json.dumps(value, ensure_ascii=False), MOST_SHOWN)}"


def _empty(value: object) -> bool:
    """Whether it says nothing. `false` and 0 do say something."""
    return value is None or value in ("", [], {})


def _unknown(key: str) -> str:
    return UNSUPPORTED.get(key, "there is no such setting here")


def _toml(value: object) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        whole = math.isfinite(value) and value.is_integer()
        return str(int(value)) if whole else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_string(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    return _string(value if isinstance(value, str) else "")


def _string(text: str) -> str:
    """A TOML basic string, in which everything but plain characters is escaped."""
    shown = []
    for char in text:
        code = ord(char)
        if char in '"\\':
            shown.append(f"\\{char}")
        elif char == " " or (char.isprintable() and char.isascii()) or char.isalnum():
            shown.append(char)
        else:
            shown.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(shown) + '"'
