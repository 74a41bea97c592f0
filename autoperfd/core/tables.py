"""Reads a TOML table against rows, one row a setting; promises every problem at once, each with its line.

Pure; any thread. TOML libraries keep no positions of values, so `Lines` finds headers and `key =` lines again
by their look; it is used for messages only, where a wrong line costs little.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomli

from autoperfd.core.text import safe_lines
from autoperfd.errors import ConfigError, Problem

MOST_PROBLEMS = 200  # listed one by one; a file with more is told how many more
MOST_BITS = 256  # of a number that is shown
MOST_GUESSES = 40  # misspelt keys that are compared with all known ones

Where = tuple[str | int, ...]  # ("experiments", 0, "slave_machines", 1, "port")
Check = Callable[[Any], Any]  # takes what was found, gives what is kept, raises Wrong

_HIDDEN = re.compile("[\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_HEADER = re.compile(r"\s*\[(\[)?([^\[\]]+)\]\]?\s*(#.*)?$")
_ASSIGNED = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_KEY_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
_ADDRESS = re.compile(r"([A-Za-z]{1,10}://)(.+)", re.DOTALL)
_AUTHORITY = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:]{2,45}\])(:[0-9]{1,5})?(?=[/?#]|$)", re.ASCII)


class Wrong(Exception):
    """Raised by a check: what was expected instead, and what to write."""

    def __init__(self, expected: str, suggestion: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.suggestion = suggestion


class Required:
    """The default of a setting that has none."""


REQUIRED = Required()


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: its key, how it is checked, what holds when it is absent, and what it means.

    `secret`: what is found there is never shown, of an address no more than scheme and host.
    """

    key: str
    check: Check
    default: object = REQUIRED
    meaning: str = ""
    secret: bool = False


class Lines:
    """Where keys stand in a TOML text."""

    def __init__(self, text: str) -> None:
        self.text = text.splitlines()
        self._lines: dict[Where, int] = {}
        counts: dict[Where, int] = {}
        here: Where = ()
        quotes = 0
        for number, line in enumerate(self.text, 1):
            inside = quotes % 2
            quotes += line.count('"""') + line.count("'''")
            if inside:
                continue
            if header := _HEADER.match(line):
                here = self._resolve(_parts(header.group(2)), counts, bool(header.group(1)))
                self._lines.setdefault(here, number)
                if here[-1:] == (0,):
                    self._lines.setdefault(here[:-1], number)
            elif assigned := _ASSIGNED.match(line):
                self._lines.setdefault(here + _parts(assigned.group(1)), number)

    @staticmethod
    def _resolve(parts: Where, counts: dict[Where, int], array: bool) -> Where:
        """The place a header names: an array of tables stands for its newest element."""
        here: Where = ()
        for depth, part in enumerate(parts):
            here += (part,)
            if array and depth == len(parts) - 1:
                counts[here] = counts.get(here, 0) + 1
            if here in counts:
                here += (counts[here] - 1,)
        return here

    def line(self, where: Where) -> int:
        """The line of a place, or of what it stands in; 0 where nothing is known."""
        while where:
            if where in self._lines:
                return self._lines[where]
            where = where[:-1]
        return 0

    def line_with(self, where: Where, words: str) -> int:
        """The first line from `where` on that holds the words; the line of `where` when there is none."""
        start = self.line(where)
        for number in range(max(start, 1), len(self.text) + 1):
            if words in self.text[number - 1]:
                return number
        return start


def _parts(dotted: str) -> Where:
    return tuple(part.strip("\"'") for part in _KEY_PART.findall(dotted))


class Report:
    """Collects the problems of one file."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.lines = Lines(text)
        self.problems: list[Problem] = []
        self.more = 0
        self._guesses = MOST_GUESSES

    @property
    def count(self) -> int:
        """How many problems so far."""
        return len(self.problems) + self.more

    def add(self, where: Where, found: str, expected: str, suggestion: str = "", *, words: str = "") -> None:
        """Note a problem; `found` as a person would write it (see `show`), `words` to find its line by."""
        if len(self.problems) >= MOST_PROBLEMS:
            self.more += 1
            return
        line = self.lines.line_with(where, words) if words else self.lines.line(where)
        self.problems.append(Problem(self.file, line, dotted(where), found, expected, suggestion))

    def unknown(self, where: Where, known: Sequence[str], elsewhere: Mapping[str, str]) -> None:
        """Note a key that no row knows, with the one that was probably meant."""
        key = str(where[-1])
        suggestion = ""
        if key in elsewhere:
            suggestion = f"it belongs in {elsewhere[key]}"
        elif self._guesses > 0:
            self._guesses -= 1
            close = difflib.get_close_matches(key[:64], known, 1)
            suggestion = f"did you mean {close[0]!r}?" if close else ""
        self.add(where, "an unknown key", "one of " + ", ".join(known), suggestion)

    def finish(self) -> None:
        """Raise ConfigError when there were problems."""
        if not self.problems:
            return
        problems = sorted(self.problems, key=lambda problem: problem.line)
        if self.more:
            problems.append(Problem(self.file, 0, "and more", f"{self.more} further problems", "none"))
        raise ConfigError(problems)


def decode(data: bytes, file: str) -> str:
    """The text of a TOML file: UTF-8, perhaps with a byte order mark; ConfigError where it cannot be one."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{data[error.start]:02x}"
        raise ConfigError([Problem(file, line, "text", found, "UTF-8", "save the file as UTF-8")]) from None
    if hidden := _HIDDEN.search(text):
        line = text.count("\n", 0, hidden.start()) + 1
        found = f"the invisible character U+{ord(hidden.group()):04X}"
        raise ConfigError([Problem(file, line, "text", found, "visible text", "delete it")])
    return text


def parse(text: str, file: str) -> dict[str, Any]:
    """The document of a TOML text; ConfigError where it is none. May take long: see daemon/parse.py."""
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        line = getattr(error, "lineno", 0)
        column = getattr(error, "colno", 0)
        raise not_toml(file, line, column, getattr(error, "msg", str(error))) from None
    except (ValueError, RecursionError) as error:
        raise not_toml(file, 0, 0, str(error)) from None


def not_toml(file: str, line: int, column: int, why: str) -> ConfigError:
    """The one problem of a text that is no TOML."""
    at = f" at column {column}" if column else ""
    return ConfigError([Problem(file, line, "text", f"{show_text(why)}{at}", "TOML 1.0")])


def walk(
    found: object, rows: Sequence[Row], where: Where, report: Report, elsewhere: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The values of a table's settings: checked, defaults filled in; what is wrong is reported and left out."""
    values: dict[str, Any] = {}
    if not isinstance(found, dict):
        is_secret = any(row.secret for row in rows)
        report.add(where, show_secret(found) if is_secret else show(found), "a table")
        return values
    known = [row.key for row in rows]
    for key in found:
        if key not in known:
            report.unknown((*where, key), known, elsewhere or {})
    for row in rows:
        if row.key not in found:
            if row.default is REQUIRED:
                report.add((*where, row.key), "nothing", row.meaning or "a value")
            else:
                values[row.key] = row.default
            continue
        try:
            values[row.key] = row.check(found[row.key])
        except Wrong as wrong:
            shown = show_secret(found[row.key]) if row.secret else show(found[row.key])
            report.add((*where, row.key), shown, wrong.expected, wrong.suggestion)
    return values


# ---------------------------------------------------------------- checks


def integer(low: int, high: int) -> Check:
    """A whole number from low to high; true and false are none."""

    def check(found: Any) -> int:
        if not isinstance(found, int) or isinstance(found, bool) or not low <= found <= high:
            raise Wrong(f"a whole number from {low} to {high}")
        return found

    return check


def number(low: float, high: float) -> Check:
    """A number from low to high, with or without a fraction."""

    def check(found: Any) -> float:
        if not isinstance(found, int | float) or isinstance(found, bool) or not low <= found <= high:  # NaN is not
            raise Wrong(f"a number from {low:g} to {high:g}")
        return float(found)

    return check


def boolean(found: Any) -> bool:
    """true or false."""
    if not isinstance(found, bool):
        raise Wrong("true or false")
    return found


def one_of(*words: str) -> Check:
    """One of a few words."""
    expected = ", ".join(f'"{word}"' for word in words)

    def check(found: Any) -> str:
        if not isinstance(found, str) or found not in words:
            close = difflib.get_close_matches(found[:64].lower(), words, 1) if isinstance(found, str) else []
            raise Wrong(expected, f'did you mean "{close[0]}"?' if close else "")
        return found

    return check


def several_of(*words: str) -> Check:
    """A list of different words out of a few."""
    one = one_of(*words)

    def check(found: Any) -> tuple[str, ...]:
        if not isinstance(found, list) or len(found) > len(words):
            raise Wrong("a list of " + ", ".join(f'"{word}"' for word in words))
        return tuple(dict.fromkeys(one(word) for word in found))

    return check


def text(expected: str, pattern: str = "", *, most: int = 4096, empty: bool = False) -> Check:
    """A string without control characters that does not begin with "-" and matches the whole pattern."""
    compiled = re.compile(pattern or r".*", re.ASCII)

    def check(found: Any) -> str:
        if isinstance(found, str) and found == "" and empty:
            return found
        if not isinstance(found, str) or not found:
            raise Wrong(expected)
        if not found.isprintable():
            raise Wrong(f"{expected}, without control characters")
        if found.startswith("-"):
            raise Wrong(f'{expected}, not beginning with "-"')
        if len(found) > most:
            raise Wrong(f"{expected}, at most {most} characters")
        if not compiled.fullmatch(found):
            raise Wrong(expected)
        return found

    return check


def anything(found: Any) -> Any:
    """Whatever was found; it is looked at elsewhere."""
    return found


# ---------------------------------------------------------------- words


def dotted(where: Where) -> str:
    """A place as a person writes it: experiments[0].slave_machines[1].port."""
    text_ = ""
    for part in where:
        text_ += f"[{part}]" if isinstance(part, int) else f".{show_text(part)}" if text_ else show_text(part)
    return text_


def show(found: object) -> str:
    """What was found, as it would stand in the file: short, on one line, without anything a terminal obeys."""
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, int) and found.bit_length() > MOST_BITS:
        return f"a number of {found.bit_length()} bits"  # Python refuses to write one of many digits
    if isinstance(found, int | float):
        return _short(str(found))
    if isinstance(found, str):
        return _short(f'"{show_text(found)}"') if found else "an empty string"
    if isinstance(found, list):
        return _short("[" + ", ".join("[...]" if isinstance(i, list) else show(i) for i in found[:20]) + "]")
    if isinstance(found, dict):
        return "a table"
    return _short(show_text(str(found)))


def show_secret(found: object) -> str:
    """What was found where a secret belongs: what kind of thing, and of an address scheme and host."""
    if found in ("", [], {}):
        return show(found)
    if isinstance(found, str) and found.lower().startswith(("http://", "https://")):
        return f'"{show_text(found)}"'
    return f"{_KINDS.get(type(found), 'something')} (not shown)"


_KINDS = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list", dict: "a table"}


def show_text(words: str) -> str:
    """Words of others on one line, at most 300 characters, what is not plain written as an escape.

    Of an address (scheme://…) no more than scheme and host, wherever it stands: the rest may be a password.
    """
    return safe_lines(_ADDRESS.sub(_bared, words[:300])).replace("\n", "\\n")


def _bared(address: re.Match[str]) -> str:
    scheme, rest = address.groups()
    host = _AUTHORITY.match(rest)
    # An "@" anywhere may end a password that has a slash in it.
    return f"{scheme}{host.group()}/..." if host and "@" not in rest else f"{scheme}..."


def _short(words: str) -> str:
    return words if len(words) <= 80 else words[:77] + "..."
