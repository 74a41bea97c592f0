"""Between the blocks of README.md and docs/: links lead somewhere; commands, settings and files are there."""

from __future__ import annotations

import argparse
import re
import shlex

import pytest

from autoperfd.core.config import _EXPERIMENT_ROWS, _MACHINE_ROWS
from autoperfd.core.names import KEYS
from autoperfd.core.settings import TABLES
from autoperfd.ctl.commands import COMMANDS, parser
from tests import documents
from tests.documents import ROOT

# ---------------------------------------------------------------- words within lines


@pytest.mark.parametrize("file", documents.documents())
def test_commands_within_lines_are_commands(file: str) -> None:
    """Name and options, also those in brackets, which may be left out."""
    for span in documents.spans(documents.read(file)):
        if re.match(r"(sudo )?autoperfctl [a-z]", span):
            takes(span.partition("autoperfctl ")[2].partition(" > ")[0])


def test_the_table_of_the_readme_has_every_command_and_no_other() -> None:
    table = documents.read("README.md").partition("\n| command | |\n")[2].partition("\n\n")[0]
    spans = [span for line in table.splitlines() for span in documents.spans(line.split("|")[1])]
    for span in spans:
        takes(span)
    told = {span.split()[0] for span in spans}
    asked = {"submit", "convert", "report", "judge"}  # each has a passage of its own
    assert told | asked == {command.name for command in COMMANDS} and not told & asked


def takes(line: str) -> None:
    """AssertionError where autoperfctl has no such command, or not these options."""
    words = shlex.split(re.sub(r"[\[\]|…]", " ", line))
    (subparsers,) = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert words[0] in subparsers.choices, line
    known = subparsers.choices[words[0]]._option_string_actions
    assert [word for word in words if word.startswith("-") and word not in known] == [], line


def test_words_that_are_no_command_are_found() -> None:
    takes("check FILE [--test NAME | --json]")
    for line in ("chek FILE", "check FILE [--tset NAME]"):
        with pytest.raises(AssertionError, match="che"):
            takes(line)


def test_settings_within_lines_are_settings() -> None:
    keys = {row.key for _, rows in TABLES.values() for row in rows} | {key.name for key in KEYS}
    keys |= {row.key for row in (*_EXPERIMENT_ROWS, *_MACHINE_ROWS)}
    for file in ("README.md", "docs/LIFE.md", "docs/FAILURES.md", "docs/UPGRADING.md", "docs/MESSAGES.md"):
        named = {
            span for span in documents.spans(documents.read(file)) if re.fullmatch(r"[a-z_]+_(secs|mb|hours)", span)
        }
        assert named <= keys, (file, named - keys)


# ---------------------------------------------------------------- links


@pytest.mark.parametrize("file", [*documents.documents(), "ARCHITECTURE.md", "FAULTS.md", "RULES.md", "CHANGELOG.md"])
def test_links_lead_somewhere(file: str) -> None:
    assert documents.broken(file, documents.read(file)) == []


@pytest.mark.parametrize("file", documents.documents())
def test_places_in_the_code_are_there(file: str) -> None:
    """Files that are named, and the functions in brackets behind them."""
    named = re.findall(r"`((?:autoperfd|tests|docs|etc|systemd)/[\w./-]*)`(?: \(`(\w+)`\))?", documents.read(file))
    for path, name in named:
        assert (ROOT / path).exists(), path
        assert not name or re.search(
            rf"^ *(?:def |class )?{name}\b", (ROOT / path).read_text(encoding="utf-8"), re.M
        ), name


MADE_UP = """# One

See [this](#one), [that](#two), [there](docs/PAGE.md#metrics), [nowhere](docs/NOWHERE.md), ![x](docs/images/x.png),
`[code](docs/x.md)` and [elsewhere](https://example.org).
"""


def test_links_that_lead_nowhere_are_found() -> None:
    assert documents.broken("README.md", MADE_UP) == [
        "README.md: #two: there is no such heading",
        "README.md: docs/NOWHERE.md: there is no such file",
        "README.md: docs/images/x.png: there is no such file",
    ]


def test_every_page_is_listed() -> None:
    listed = {link.partition("#")[0] for link in documents.links(documents.read("docs/README.md"))}
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    assert pages <= listed, pages - listed
    assert "docs/README.md" in documents.links(documents.read("README.md"))
