"""Whether the memory and the results beside it are of one time: a disk may have lied, a copy may have been put back.

An older memory is found at the start, before a test runs a second time; so are archives that are gone though the memory
names them. Reads the ends of files only, so the size of an experiment costs nothing. Start-up thread,
the refuge's, and the engine's.
"""

from __future__ import annotations

import csv
import logging
import os
import shlex
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from autoperfd.core.ess import ESS_COLUMNS
from autoperfd.core.names import parse_name, test_name
from autoperfd.daemon import archive, files
from autoperfd.daemon.store import ExperimentRow, Store
from autoperfd.errors import OlderMemory, StoreError

log = logging.getLogger(__name__)

ACCEPT = "accept-older-memory"  # a person puts it there; taken away at the next look, whatever that finds
TAIL_BYTES = 1 << 16  # of ess.csv: a few hundred attempts
LATEST = 20  # archives that are looked at


def check(memory: Store, experiments: Iterable[ExperimentRow], state: Path) -> None:
    """Raises OlderMemory where results tell of attempts that were never opened, unless a person accepted that.

    What lies there is kept then: the sheets as edited copies, the archives as earlier ones.
    """
    accepted = _was_accepted(state)
    for row in experiments:
        sheet = state / "results" / row.folder / "ess.csv"
        unknown = _unknown(memory, row.id, sheet)
        proven = next((told for told in unknown[:LATEST] if not archive.problems(_archive(sheet, *told))), None)
        if proven is None:
            continue
        count = f"{len(unknown)} attempts" if len(unknown) > 1 else "an attempt"
        sentence = (
            f"the memory is older than its results: {sheet} tells of {count} it knows nothing of,"
            f" the last one attempt {proven[1]} of {proven[0]}"
        )
        if not accepted:
            raise OlderMemory(
                sentence,
                hint="Put the newer memory back, if there is one (while autoperfd is stopped). To go on with this one:"
                f" `sudo touch {state / ACCEPT}`; those tests run again, and what lies there is kept beside them",
            )
        log.warning("%s; that was accepted, and is kept aside", sentence)


def strangers(known: Collection[str], results: Path) -> list[str]:
    """Folders of results other than the `known` ones, as sentences: of a life before, brought here, or forgotten."""
    try:
        folders = sorted(path for path in results.iterdir() if path.name not in known)
    except OSError:
        return []
    found = [path for path in folders if not path.is_symlink() and (path / "ess.csv").is_file()]
    if not found:
        return []
    tells = f" and {len(found) - 1} more tell" if len(found) > 1 else " tells"
    return [f"{found[0]}{tells} of an experiment this memory does not know; dropped again, it takes up what was done."]


def gone(memory: Store, row: ExperimentRow, folder: Path) -> str:
    """Which of the latest archives are not what the memory says, as a sentence; "" for none."""
    if not folder.is_dir():
        return ""  # nothing starts there before a person has acted
    latest = [attempt for attempt in memory.latest(row.id, LATEST) if attempt.archive]
    wrong = [attempt.archive for attempt in latest if _size(folder / attempt.archive) != attempt.size]
    if not wrong:
        return ""
    return (
        f"{row.name}: of its {len(latest)} latest archives {len(wrong)} are gone or cut, as {wrong[0]};"
        f" `autoperfctl verify {shlex.quote(row.name)}` names all"
    )


def _was_accepted(state: Path) -> bool:
    word = state / ACCEPT
    try:
        word.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"{word} cannot be taken away: {error.strerror}", hint="Remove it yourself") from error
    files.sync_folder(state)
    return True


def _unknown(memory: Store, experiment: int, sheet: Path) -> list[tuple[str, int]]:
    """(test, number) of attempts with an archive at the end of a sheet that the memory never opened; newest first.

    Both are written after the memory was, so a crash alone leaves none; rows that somebody wrote have no archives.
    A sheet only grows: before a row that is known there is nothing to look for.
    """
    told = takewhile(lambda each: memory.attempt(experiment, *each) is None, _told(sheet))
    return [each for each in dict.fromkeys(told) if _archive(sheet, *each).is_file()]


def _archive(sheet: Path, test: str, number: int) -> Path:
    return sheet.parent / "data" / test / f"attempt-{number}{archive.ENDING}"


def _told(sheet: Path) -> Iterator[tuple[str, int]]:
    """(test, number) of the last rows of a sheet, newest first; nothing where it cannot be read."""
    try:
        fd = os.open(sheet, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor, no path
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return
            header = file.readline(4096)
            skipped = max(0, status.st_size - len(header) - TAIL_BYTES)
            file.seek(len(header) + skipped)
            lines = file.read(TAIL_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return
    columns = header.decode("utf-8-sig", "replace").strip().split(",")
    if not set(ESS_COLUMNS) <= set(columns):
        return
    for text in reversed(lines[1:] if skipped else lines):
        for cells in csv.DictReader([text], columns):
            with suppress(ValueError, TypeError):
                test, number = cells["test_name"], int(cells["attempt_number"])
                if cells["end_status"] != "running" and 0 < number < 10**9 and test_name(parse_name(test)) == test:
                    yield test, number


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
