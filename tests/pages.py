"""The parts of docs/ that are made from tables of the code: `python -m tests.pages` writes them; all else is pure.

A part stands between `<!-- made: NAME -->` and `<!-- made: end -->`; tests/test_pages.py holds it to be fresh.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from autoperfd.core.lifecycle import ROWS, STATES, WORK
from autoperfd.core.plan import END_STATUSES
from autoperfd.core.policy import AILING, BLAME, KEPT, SILENT, SUSPICIOUS, rungs_for
from autoperfd.daemon.story import WORDS
from tests.documents import ROOT, read

WORK_IN_WORDS = {
    "sweep_if_owed": "nothing; at most what is left on machines is removed",
    "validate": "all machines are pinged, logged in to and probed",
    "reboot": "machines are restarted, by a command",
    "run_attempt": "the attempt is started, waited for, fetched and judged",
    "wait_or_cycle": "time passes, or the power of a machine is cycled",
    "sweep_if_owed_or_probe": "nothing, or a look at the machines now and then",
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


PAGES: Mapping[str, Mapping[str, Callable[[], Iterator[str]]]] = {
    "docs/LIFE.md": {"states": states, "work": work, "events": events, "ends": ends, "ladder": ladder},
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
