"""An older memory is told from its results at the start; a crash, an edit or a strange sheet is not taken for one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from autoperfd.core.ess import ESS_COLUMNS
from autoperfd.daemon import archive, behind
from autoperfd.daemon.exports import ess_text
from autoperfd.daemon.store import AttemptRow, ExperimentRow, Happened, Store, closed_row, open_store, opened_row
from autoperfd.errors import OlderMemory
from tests.crashstates.protocols import _closed, _opened
from tests.faults import Fired

ROW = ExperimentRow(id=1, name="PCG #1", folder="PCG_1", identity="i", document="{}", seed=None, owner=0, accepted=1.0)
HEADER = ",".join(ESS_COLUMNS).encode() + b"\n"


class Place:
    """A state folder whose memory knows so many attempts that ended."""

    def __init__(self, state: Path, knows: int) -> None:
        self.state = state
        self.folder = state / "results" / ROW.folder
        self.sheet = self.folder / "ess.csv"
        self.memory: Store = open_store(state / "autoperf.db")
        self.folder.mkdir(parents=True)
        self.memory.commit([ROW])
        for place in range(1, knows + 1):
            row = self.measured(place)
            opened = replace(_opened(place), test=row.test)
            result = replace(_closed(place).result, archive=row.archive, sha256=row.sha256, size=row.size)
            self.memory.commit([Happened(1, opened)])
            self.memory.commit([Happened(1, replace(_closed(place), test=row.test, result=result))])

    def measured(self, place: int) -> AttemptRow:
        """An attempt with its archive, whether the memory knows it or not."""
        test = f"{place}SEC_100B"
        target = self.folder / "data" / test / "attempt-1.tar.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        sha256, size = archive.build(target, self.folder, {}, {"result.json": b"{}"}, 1.0)
        row = closed_row(
            1, replace(_closed(place), test=test), opened_row(1, replace(_opened(place), test=test)), place
        )
        return replace(row, archive=str(target.relative_to(self.folder)), sha256=sha256, size=size)

    def check(self) -> None:
        behind.check(self.memory, [ROW], self.state)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, knows=3)
    with closing(made.memory):
        made.sheet.write_bytes(HEADER + b"".join(map(ess_text, made.memory.latest(1, 9)[::-1])))
        yield made


@pytest.mark.fault("D11")
def test_results_that_the_memory_does_not_know_are_told(place: Place, fired: Fired) -> None:
    place.check()
    with place.sheet.open("ab") as file:
        file.write(ess_text(place.measured(4)) + ess_text(place.measured(5)))
    before = {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    with pytest.raises(OlderMemory, match=r"tells of 2 attempts it knows nothing of.* attempt 1 of 5SEC_100B") as found:
        place.check()
    fired("D11", found.value.sentence())
    assert f"sudo touch {place.state / behind.ACCEPT}" in found.value.hint
    (place.state / behind.ACCEPT).touch()
    place.check()
    assert not (place.state / behind.ACCEPT).exists()
    with pytest.raises(OlderMemory):  # the word held for once; the daemon writes the sheet anew after it
        place.check()
    assert {path: path.read_bytes() for path in before} == before


def test_a_word_that_is_not_needed_does_not_wait_for_another_day(place: Place) -> None:
    (place.state / behind.ACCEPT).touch()
    place.check()
    assert not (place.state / behind.ACCEPT).exists()


def test_only_the_end_of_a_long_sheet_is_read(place: Place) -> None:
    with place.sheet.open("ab") as file:
        while file.tell() < 20 * behind.TAIL_BYTES:
            file.write(ess_text(place.memory.latest(1, 1)[0]))
        file.write(ess_text(place.measured(4)))
    with pytest.raises(OlderMemory, match=r"of an attempt .* attempt 1 of 4SEC_100B"):
        place.check()


def test_what_people_and_crashes_leave_is_no_older_memory(place: Place) -> None:
    strange = ess_text(replace(place.measured(4), test="../../../etc"))
    unproven = ess_text(replace(place.measured(5), number=2))
    running = ess_text(replace(place.measured(6), status="running", ended=None))
    torn = ess_text(place.measured(7))[:40]
    damaged = place.measured(8)
    (place.folder / damaged.archive).write_bytes(b"no archive")
    with place.sheet.open("ab") as file:
        file.write(strange + unproven + running + ess_text(damaged) + b"\xff\0,\n" + torn)
    place.check()
    for content in (b"", b"mine\n1,2\n", HEADER[:20], bytes(5000)):
        place.sheet.write_bytes(content)
        place.check()
    place.sheet.unlink()
    place.check()
    place.sheet.symlink_to("/dev/zero")
    place.check()
    place.sheet.unlink()
    os.mkfifo(place.sheet)
    place.check()
    shutil.rmtree(place.folder)
    place.check()


def test_a_start_costs_the_same_however_many_attempts_there_are(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], Store.attempt

    def attempt(memory: Store, experiment: int, test: str, number: int) -> AttemptRow | None:
        asked.append(test)
        return real(memory, experiment, test, number)

    monkeypatch.setattr(Store, "attempt", attempt)
    rows = b"".join(map(ess_text, place.memory.latest(1, 9)[::-1]))
    place.sheet.write_bytes(HEADER + rows * 200)
    place.check()
    assert len(asked) == 1, "a row that is known ends the look"


def test_folders_of_no_experiment_are_told(place: Place, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert behind.strangers({ROW.folder}, results) == []
    (results / "empty").mkdir()
    (results / "a file").touch()
    (results / "link").symlink_to(place.folder)
    assert behind.strangers({ROW.folder}, results) == []
    told = behind.strangers((), results)
    assert told and f"{place.folder} tells of an experiment this memory does not know" in told[0]
    shutil.copytree(place.folder, results / "more")
    assert f"{place.folder} and 1 more tell of" in behind.strangers((), results)[0]
    assert behind.strangers((), results / "missing") == []


@pytest.mark.fault("D11")
def test_archives_that_are_gone_are_told(place: Place, fired: Fired) -> None:
    assert behind.gone(place.memory, ROW, place.folder) == ""
    (place.folder / "data/2SEC_100B/attempt-1.tar.gz").unlink()
    told = behind.gone(place.memory, ROW, place.folder)
    assert "of its 3 latest archives 1 are gone or cut, as data/2SEC_100B" in told and "verify 'PCG #1'" in told
    os.truncate(place.folder / "data/3SEC_100B/attempt-1.tar.gz", 40)
    assert "2 are gone or cut" in behind.gone(place.memory, ROW, place.folder)
    fired("D11", told)
    shutil.rmtree(place.folder)
    assert behind.gone(place.memory, ROW, place.folder) == "", "that is told by the halt of the next attempt"
