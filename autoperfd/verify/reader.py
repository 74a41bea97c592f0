"""Verifies one experiment: a copy of the memory, its results folder, and what follows from both. One thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from autoperfd.verify import archives, books, folder, memory, sheets, space
from autoperfd.verify.findings import Findings, Unreadable

TRIES = 4  # looks at sheets and strays that a living daemon may be changing


@dataclass(frozen=True, slots=True)
class Taken:
    """A copy of the memory. `results`: the folder of all results folders. `live`: the daemon goes on meanwhile."""

    memory: Path
    results: Path
    live: bool


def verify(name: str, take: Callable[[], Taken], scratch: Path) -> Findings:
    """All that is wrong with the experiment of that name (or folder).

    `take` copies the memory; it is called again where the daemon lives and may have gone on since. The sheets are
    copied into `scratch`. Raises Unreadable where nothing can be verified.
    """
    findings, strays = Findings(), list[str]()
    look = _Look(name, take(), scratch)
    try:
        memory.check(look.db, findings)
        known = _space(look, findings)
        books.Books(look.db, look.kept, known, findings).check()
        with _told(findings):
            _check_archives(look, findings)
        with _told(findings):
            strays = folder.check(look.db, look.kept, look.place, findings)
        found = look.sheets(known)
    finally:
        look.close()
    for _ in range(TRIES - 1):
        if not look.live or (found.clean and not strays):
            break
        look = _Look(name, take(), scratch)
        try:
            found = look.sheets(known)
            with _told(found):
                seen = folder.check(look.db, look.kept, look.place, Findings())
                strays = [stray for stray in strays if stray in seen]
        finally:
            look.close()
    for stray in strays:
        found.problem(f"{stray} belongs to no attempt of this experiment", file=stray)
    findings.add(found)
    return findings


@contextlib.contextmanager
def _told(findings: Findings) -> Iterator[None]:
    """Rows that cannot be read are a problem, and the end of what needs them."""
    try:
        yield
    except memory.UNREADABLE as error:
        findings.problem(f"the memory's rows cannot be read: {error}", file="autoperf.db")


class _Look:
    """The memory and the sheets of one experiment at one moment."""

    def __init__(self, name: str, taken: Taken, scratch: Path) -> None:
        self.live, self._scratch = taken.live, scratch
        self.db = memory.open_copy(taken.memory)
        try:
            self.kept = books.find(self.db, name)
            self.place = taken.results / self.kept.folder
            sheets.keep(self.place, scratch)
        except BaseException:
            self.db.close()
            raise

    def sheets(self, known: space.Space | None) -> Findings:
        """What is wrong with the sheets."""
        found = Findings()
        with _told(found):
            sheets.check(self.db, self.kept, known, self._scratch, found, live=self.live)
        return found

    def close(self) -> None:
        """Let go of the copy."""
        self.db.close()


def _space(look: _Look, findings: Findings) -> space.Space | None:
    """The tests of the experiment, by its file; by the memory where the file is not what was accepted."""
    try:
        table = space.read_table(look.place / "experiment.toml", look.kept.name)
        if not space.same(table, look.kept.first):
            findings.problem("experiment.toml is not what was accepted", file="experiment.toml")
    except Unreadable as error:
        findings.problem(str(error), file="experiment.toml")
    try:
        return space.Space(look.kept.first)
    except Unreadable as error:
        findings.problem(f"the memory's document makes no sense: {error}", file="autoperf.db")
        return None


def _check_archives(look: _Look, findings: Findings) -> None:
    """Every archive; one whose test was tried again because it was lost is only noted."""
    rows = look.db.execute("SELECT * FROM attempts WHERE experiment = ? AND archive <> '' ORDER BY id", (look.kept.id,))
    surveys = look.db.execute("SELECT * FROM surveys WHERE experiment = ? ORDER BY attempt", (look.kept.id,)).fetchall()
    surveys.reverse()  # the next one is its last
    machines: dict[str, str] = {}
    for row in rows:
        while surveys and surveys[-1]["attempt"] <= row["id"]:
            survey = surveys.pop()
            machines[survey["machine"]] = survey["facts"]
        found = Findings()
        archives.check(row, look.place, machines, found)
        heir = look.db.execute(_HEIR, (row["experiment"], row["test"], row["number"])).fetchone()
        if row["status"] in books.KEPT and heir is not None:
            for one in found.problems:
                sentence = f"{one.sentence}; attempt {heir['number']} has taken its place"
                found.note(sentence, file=one.file, test=one.test, attempt=one.attempt)
            found.problems.clear()
        findings.add(found)


_HEIR = """
    SELECT number FROM attempts WHERE experiment = ? AND test = ? AND number > ?
    AND status IN ('success', 'no-summary') LIMIT 1
"""
