"""The parts of docs/ that are made from tables of the code: `python -m tests.pages` writes them, all else is pure.

A part stands between `<!-- made: NAME -->` and `<!-- made: end -->`; tests/test_pages.py holds it to be fresh.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import autoperfd
from autoperfd.core.lifecycle import ROWS, STATES, WORK
from autoperfd.core.plan import END_STATUSES
from autoperfd.core.policy import AILING, BLAME, KEPT, SILENT, SUSPICIOUS, rungs_for, todo
from autoperfd.daemon.control import VERSION
from autoperfd.daemon.store import MIGRATIONS, SCHEMA_VERSION, open_store
from autoperfd.daemon.story import WORDS
from autoperfd.daemon.views import SNAPSHOT_SCHEMA
from autoperfd.errors import NewerMemory
from autoperfd.remote.answers import STATES as STANDINGS
from tests.documents import ROOT, read

WORK_IN_WORDS = {
    "sweep_if_owed": "nothing; at most what is left on machines is removed",
    "validate": "all machines are pinged, logged in to and probed",
    "reboot": "machines are restarted, by a command",
    "run_attempt": "the attempt is started, waited for, fetched and judged",
    "wait_or_cycle": "time passes, or the power of a machine is cycled",
    "sweep_if_owed_or_probe": "nothing, or a look at the machines now and then",
}
ON_A_MACHINE = {
    "absent": ("there is no folder of it", "it is made ready; where its start was confirmed, it has failed"),
    "starting": ("its folder is being made", "it is asked for again"),
    "parked": ("its launcher waits for the start", "it is started, on all machines together"),
    "never": ("its launcher waited too long and gave up", "it is removed and made ready again"),
    "running": ("its participants run", "their end is waited for"),
    "lost": ("it was started, and its launcher is gone without an end", "it has failed; boot ids tell why"),
    "done": ("files, exit statuses and boot ids lie there", "they are fetched"),
}
RUNGS_IN_WORDS = {
    "soft": "`sudo systemctl reboot`",
    "forced": "`sudo systemctl reboot --force --force`",
    "power": "its power switch",
}
ILL_IN_WORDS = {
    "it takes a login and does not do what it is asked to": AILING,
    "no command reaches it": SILENT,
    "anything else, such as a full disk or somebody at work there": frozenset({"REMOTE_DISK_FULL", "MACHINE_TAKEN"}),
}


def rows(*cells: tuple[str, ...]) -> Iterator[str]:
    """A table of Markdown; the first row is its head."""
    for at, row in enumerate(cells):
        yield f"| {' | '.join(row)} |"
        if not at:
            yield "|---" * len(row) + "|"


def _moves() -> dict[tuple[str, str], list[str]]:
    """(from, to) -> the events that lead there, of two different states."""
    moves: dict[tuple[str, str], list[str]] = {}
    for row in ROWS:
        for source in row.source:
            events = moves.setdefault((source, row.to), [])
            if row.to not in ("=", source) and row.event not in events:
                events.append(row.event)
    return {pair: events for pair, events in moves.items() if events}


def states() -> Iterator[str]:
    """The states of an experiment as a diagram: which event leads from where to where."""
    yield from ("```mermaid", "stateDiagram-v2", "    direction LR", "    [*] --> idle")
    for state in STATES:
        for (source, to), events in _moves().items():
            if source == state:
                yield f"    {source.replace('-', '_')} --> {to.replace('-', '_')}: {', '.join(events)}"
    yield from ("    idle --> [*]", "```")


def work() -> Iterator[str]:
    """What goes on in each state, and where it may lead."""
    head = ("state", "what goes on", "leads to")
    yield from rows(
        head,
        *(
            (
                f"`{state}`",
                WORK_IN_WORDS[WORK[state]],
                ", ".join(f"`{to}`" for source, to in _moves() if source == state),
            )
            for state in STATES
        ),
    )


def events() -> Iterator[str]:
    """What each event means, in the words of `why`."""
    named = dict.fromkeys(row.event for row in ROWS)
    yield from rows(("event", "means"), *((f"`{event}`", WORDS[event]) for event in named))


def attempts() -> Iterator[str]:
    """What an attempt can be on a machine, and what the daemon makes of it."""
    head = ("on a machine an attempt is", "that is", "then")
    yield from rows(head, *((f"`{state}`", *ON_A_MACHINE[state]) for state in STANDINGS))


def ends() -> Iterator[str]:
    """How an attempt may end, whose fault that is taken for, and what it costs the test."""
    head = ("`end_status`", "blamed at first on", "what it costs the test")
    yield from rows(head, *((f"`{status}`", BLAME[status] or "nobody", _costs(status)) for status in END_STATUSES))


def _costs(status: str) -> str:
    if status in KEPT:
        return "nothing: it has its verdict"
    if status == "skipped":
        return "it is left out"
    if status == "crashed-daemon":
        return "it is given up, after three crashes of the daemon"
    if BLAME[status] != "test":
        return "nothing"
    return "an attempt; given back where an outage explains it" if status in SUSPICIOUS else "an attempt"


def ladder() -> Iterator[str]:
    """Which restarts may help a machine that is ill."""
    head = ("how a machine is ill", "codes", "what is tried, one after another")
    yield from rows(
        head,
        *(
            (
                how,
                ", ".join(f"`{code}`" for code in sorted(codes)) if len(codes) > 2 else "",
                ", then ".join(RUNGS_IN_WORDS[rung] for rung in rungs_for(min(codes))) or "nothing; it is waited for",
            )
            for how, codes in ILL_IN_WORDS.items()
        ),
    )


def read_failures() -> list[dict[str, Any]]:
    """The groups of tests/data/failures.toml, each with its rows."""
    groups: list[dict[str, Any]] = tomllib.loads(read("tests/data/failures.toml"))["groups"]
    return groups


def failures() -> Iterator[str]:
    """What happens when something fails, as a person meets it: a table a group."""
    head = ("what happens", "`status` says", "the daemon, by itself", "you", "costs at most", "rows")
    for group in read_failures():
        yield from (f"## {group['name']}", "")
        yield from rows(
            head,
            *(
                (
                    row["what"],
                    ", ".join(f"`{code}`" for code in row.get("says", ())),
                    row["does"],
                    _to_do(row),
                    _cost(row),
                    ", ".join(row["faults"]),
                )
                for row in group["rows"]
            ),
        )
        yield ""


def _to_do(row: Mapping[str, Any]) -> str:
    """What a person has to do: what the row says, and the words of `status` where an experiment is halted."""
    own = row.get("you", "")
    if "halt" not in row:
        return own or "nothing"
    words = todo(row["halt"], row.get("goes_on", False), "NAME", row.get("code", ""))
    words = words[0].lower() + words[1:].replace("autoperfctl resume NAME", "`autoperfctl resume NAME`")
    when = "" if row.get("at_once") else "only when it halts: "
    return f"{when}{words}" + (f" ({own})" if own else "")


def _cost(row: Mapping[str, Any]) -> str:
    """What it costs the test that was under way, from whose fault each end is."""
    ends = row.get("ends", ())
    if not ends:
        return "nothing"
    named = ", ".join(f"`{end}`" for end in ends)
    charged = any(BLAME[end] == "test" for end in ends) and not row.get("is_explained")
    if "crashed-daemon" in ends:
        return f"the test ({named})"
    return f"the attempt ({named})" + (" and a retry of the test" if charged else ", no retry of the test")


def memories() -> Iterator[str]:
    """The versions of the memory, and which tables each brought."""
    made = [", ".join(f"`{name}`" for name in re.findall(r"CREATE TABLE (\w+)", text)) for text in MIGRATIONS]
    head = ("version of the memory", "brought the tables", f"autoperfd {autoperfd.__version__}")
    now = [*["brings it up to date"] * (SCHEMA_VERSION - 1), "writes it"]
    yield from rows(
        head, *((str(at), tables, does) for at, (tables, does) in enumerate(zip(made, now, strict=True), 1))
    )


def formats() -> Iterator[str]:
    """What else has a version, and what becomes of another one."""
    yield from rows(
        ("what", "version", "another one"),
        ("`status.json`, the last status", str(SNAPSHOT_SCHEMA), "is not shown; the daemon writes it anew"),
        ("what `autoperfctl` and the daemon speak", str(VERSION), "is refused, with both versions"),
    )


def refusal() -> Iterator[str]:
    """What is said of a memory that a newer version has written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "autoperf.db")
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
        try:
            open_store(path)
        except NewerMemory as error:
            said = error.sentence().replace(folder, "/var/lib/autoperf")
    yield from ("```text", *textwrap.wrap(said, 110), "```")


PAGES: Mapping[str, Mapping[str, Callable[[], Iterator[str]]]] = {
    "docs/LIFE.md": {
        "states": states,
        "work": work,
        "events": events,
        "attempts": attempts,
        "ends": ends,
        "ladder": ladder,
    },
    "docs/FAILURES.md": {"failures": failures},
    "docs/UPGRADING.md": {"memories": memories, "formats": formats, "refusal": refusal},
}


def parts(text: str) -> dict[str, str]:
    """The made parts of a page as they stand there."""
    return dict(re.findall(r"^<!-- made: (\w+) -->\n(.*?)^<!-- made: end -->$", text, re.DOTALL | re.MULTILINE))


def made(text: str, page: str) -> str:
    """A page with its made parts as they should be."""
    for name, make in PAGES[page].items():
        part = "".join(f"{line}\n" for line in make())
        whole = f"<!-- made: {name} -->\n{part}<!-- made: end -->"
        pattern = rf"^<!-- made: {name} -->\n.*?^<!-- made: end -->$"
        text = re.sub(pattern, lambda _, whole=whole: whole, text, flags=re.DOTALL | re.MULTILINE)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(made(read(page), page), encoding="utf-8")
