"""`autoperfctl verify`: brings the independent reader and a copy of the memory together, and shows what it found."""

from __future__ import annotations

import tempfile
import textwrap
from dataclasses import asdict
from pathlib import Path

from autoperfd.ctl import copies
from autoperfd.ctl.terminal import printable
from autoperfd.errors import AutoperfError
from autoperfd.verify.findings import Findings, Found, Unreadable
from autoperfd.verify.reader import Taken, verify

WIDTH = 100


def run(name: str, ask: copies.Ask, state: Path) -> tuple[Findings, bool]:
    """(what was found, whether the daemon runs). Raises DaemonDown, AutoperfError."""
    live = False
    with tempfile.TemporaryDirectory(prefix="autoperfctl-") as scratch:

        def take() -> Taken:
            nonlocal live
            copy = copies.take(ask, state, Path(scratch))
            live = copy.live
            return Taken(copy.memory, copy.results, copy.live)

        try:
            return verify(name, take, Path(scratch)), live
        except Unreadable as error:
            raise AutoperfError(f"{name} cannot be verified: {error}") from error
        except OSError as error:
            raise AutoperfError(f"{name} cannot be verified: {error}") from error


def report(name: str, findings: Findings, live: bool) -> str:
    """What was found, as text for a person."""
    lines = [] if live else ["autoperfd is not running; its memory was read where it lies."]
    count = len(findings.problems) + findings.more_problems
    if count:
        lines.append(f"{name}: {count} problem{'' if count == 1 else 's'} in {_looked_at(findings)}")
    else:
        lines.append(f"{name}: nothing is wrong; looked at {_looked_at(findings)}")
    lines += _list("! ", findings.problems, findings.more_problems)
    lines += _list("note: ", findings.notes, findings.more_notes)
    return "".join(f"{line}\n" for line in lines)


def facts(name: str, findings: Findings, live: bool) -> dict[str, object]:
    """The same for a script."""
    return {
        "experiment": name,
        "clean": findings.clean,
        "running": live,
        "problems": [asdict(one) for one in findings.problems],
        "more_problems": findings.more_problems,
        "notes": [asdict(one) for one in findings.notes],
        "more_notes": findings.more_notes,
        "checked": dict(findings.checked),
    }


def _looked_at(findings: Findings) -> str:
    checked = findings.checked
    parts = [
        f"{checked.get(what, 0)} {what if checked.get(what, 0) != 1 else what[:-1]}"
        for what in ("tests", "attempts", "archives", "lines")
    ]
    return f"{', '.join(parts)} and {checked.get('rows', 0)} rows, {checked.get('bytes', 0) / 1e6:.1f} MB"


def _list(mark: str, found: list[Found], more: int) -> list[str]:
    lines = []
    for one in found:
        text = printable(one.sentence).replace("\n", " ")
        lines += textwrap.wrap(
            f"{mark}{text}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    return [*lines, f"{mark}and {more} more"] if more else lines
