"""Whatever state an experiment is in, the reader finds nothing wrong with it: no false alarm in the small hours."""

from __future__ import annotations

import random
import shutil
import sqlite3
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from autoperfd.core import messages as m
from autoperfd.daemon.imports import read_history
from autoperfd.rehearsal.faults import trouble
from autoperfd.rehearsal.world import World
from autoperfd.verify import books, memory, sheets, space
from autoperfd.verify.findings import Findings
from tests.daemon.support import toml
from tests.verify.support import FOLDER, NAME, Bench, sentences, verified


def ended(bench: Bench, **more: Any) -> list[str]:
    """What is wrong once the daemon has ended in order."""
    bench.save()
    bench.stop()
    return sentences(verified(bench.settings.state, **more))


def started(folder: Path, **policy: Any) -> Bench:
    folder.mkdir(exist_ok=True)
    bench = Bench(folder)
    bench.submit(toml(**{"lengths": (100, 200, 300, 400), "retries": 1, **policy}))
    return bench


def test_one_that_nobody_began(tmp_path: Path) -> None:
    assert ended(started(tmp_path), live=True) == []


def test_one_that_runs(tmp_path: Path) -> None:
    bench = started(tmp_path)
    bench.running()
    bench.close("crashed")
    entry = bench.running()
    (tmp_path / "results" / FOLDER / "data" / entry.life.test / ".attempt-2.partial").mkdir()
    assert ended(bench, live=True) == []


@pytest.mark.parametrize("event", ["halt", "cancel", "away", "restart"])
def test_one_that_was_interrupted(event: str, tmp_path: Path) -> None:
    bench = started(tmp_path)
    bench.running()
    bench.close("crashed")
    entry = bench.running()
    partial = tmp_path / "results" / FOLDER / "data" / entry.life.test / ".attempt-2.partial"
    partial.mkdir()
    match event:
        case "away":
            bench.away()
        case "restart":
            bench.save()
            bench.restart(crashed=True)
        case _:
            assert bench.ask(event, experiment=NAME).ok
    bench.save()
    bench.stop()
    found = verified(tmp_path, live=True)
    assert sentences(found) == []
    left = [note.sentence for note in found.notes]
    closed = event in ("halt", "cancel")
    assert left == ([f"{partial.relative_to(tmp_path / 'results' / FOLDER)} is left of attempt 2, which ended as "
                     "interrupted; its result was not taken"] if closed else [])  # fmt: skip


def test_one_that_was_cancelled_and_taken_up_again(tmp_path: Path) -> None:
    bench = started(tmp_path)
    bench.running()
    assert bench.ask("cancel", experiment=NAME).ok
    bench.answer(1, m.Swept())
    bench.submit(toml(lengths=(100, 200, 300, 400), retries=0))
    for status in ("crashed", "success", "success", "timeout"):
        bench.running()
        bench.close(status)
    assert bench.life().outcome == "finished"
    assert ended(bench, live=True) == []


def test_tests_that_were_put_back(tmp_path: Path) -> None:
    bench = started(tmp_path, retries=0)
    for status in ("timeout", "success"):
        bench.running()
        bench.close(status)
    first, second, last = (bench.life().sweep.name_at(at) for at in (0, 1, 3))
    assert bench.ask("retry", failed=True).ok
    (tmp_path / "results" / FOLDER / "data" / second / "attempt-1.tar.gz").unlink()
    assert bench.ask("skip", test=last).ok
    assert bench.ask("retry", test=second).ok
    bench.save()
    assert sentences(verified(tmp_path, live=True)) == [
        f"data/{second}/attempt-1.tar.gz is missing; attempt 1 ended as success"
    ]
    while bench.life().outcome != "finished":
        bench.running()
        bench.close("success")
    assert bench.ess()[-3:] == [
        f"{first} 2 success",
        f"{second} 2 success",
        f"{bench.life().sweep.name_at(2)} 1 success",
    ]
    bench.save()
    bench.stop()
    found = verified(tmp_path, live=True)
    assert sentences(found) == []
    assert [note.sentence for note in found.notes] == [
        f"data/{second}/attempt-1.tar.gz is missing; attempt 1 ended as success; attempt 2 has taken its place"
    ]


def test_an_outage_that_gives_back(tmp_path: Path) -> None:
    bench = started(tmp_path, retries=0)
    bench.running()
    bench.close("timeout")
    bench.answer(1, m.Unreachable(machine="p2", reason="p2 says nothing", code="SSH_SILENT"))
    assert [requeued.test for requeued in bench.life().requeued] == [bench.life().sweep.name_at(0)]
    assert ended(bench, live=True) == []


@pytest.mark.parametrize(
    "policy",
    [
        {"order": "shuffled", "seed": 5},
        {"combination_generation_type": "rcg", "seed": 5, "rcg_test_count": 3, "lengths": (100, 200, 300, 500, 700)},
        {"combination_generation_type": "rcg", "seed": 5, "rcg_test_count": 3, "lengths": (100, 2000)},
        {"resuming_test_name": "4SEC_300B_1PUB_1SUB_REL_UC_100LC"},
        {"resuming_test_name": "4s_300B_1P_1S_rel_uc_100lc", "order": "shuffled", "seed": 9},
    ],
    ids=["shuffled", "drawn of values", "drawn of a range", "resuming", "resuming where it is shuffled"],
)
def test_every_way_to_generate_tests(policy: dict[str, Any], tmp_path: Path) -> None:
    bench = started(tmp_path, **policy)
    while bench.life().outcome != "finished":
        bench.running()
        bench.save()
        assert sentences(verified(tmp_path, live=True)) == []
        bench.close("success")
    assert ended(bench, live=True) == []


def test_archives_are_read_one_after_the_other(tmp_path: Path) -> None:
    """However many there are and whatever they unpack to, little of it is held at once."""
    peaks = []
    for tests in (10, 100):
        bench = started(tmp_path / str(tests), lengths=range(2000, 2000 + tests))
        while bench.life().outcome != "finished":
            bench.running()
            bench.close("success", repeat=5000)  # 100 KB a file, which pack well
        bench.save()
        bench.stop()
        tracemalloc.start()
        found = verified(bench.settings.state, live=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (found.problems, found.checked["archives"]) == ([], tests)
    assert peaks[1] < peaks[0] + (1 << 20), peaks


def test_listed_tests(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    names = ["4s_300B_1P_1S_rel_uc_100lc", "4SEC_100B_1PUB_1SUB_BE_100LC"]
    bench.submit(toml(qos=f"\ntests = {names}\n".replace("'", '"')).replace('combination_generation_type = "pcg"', ""))
    for status in ("success", "no-summary"):
        bench.running()
        bench.close(status)
    assert ended(bench, live=True) == []


def test_results_that_were_there_before(tmp_path: Path) -> None:
    """An experiment of a copied results folder: its history is imported, also where it has a success the less."""
    old, new = tmp_path / "old", tmp_path / "new"
    bench = started(old)
    for status in ("success", "crashed", "success", "timeout"):
        bench.running()
        bench.close(status)
    bench.stop()
    shutil.copytree(old / "results", new / "results")
    first = next((new / "results" / FOLDER / "data").glob("4SEC_100B*/attempt-1.tar.gz"))
    first.write_bytes(b"damaged")
    (new / "begin-anew").touch()  # else the memory these results had would be waited for
    bench = Bench(new)
    bench.engine.rng = random.Random(8)  # other uids than before
    place, sweep = new / "results" / FOLDER, bench_sweep(old)
    history = read_history(place, sweep)
    assert len(history) == 4 and history[0].status == "invalid"
    assert bench.offer(toml(lengths=(100, 200, 300, 400), retries=1), histories=[history]) == ()
    while bench.life().outcome != "finished":
        bench.running()
        bench.close("success")
    bench.save()
    bench.stop()
    found = verified(new, live=True)
    assert sentences(found) == []
    assert any("attempt-1.tar.gz is left of attempt 1, which ended as invalid" in note.sentence for note in found.notes)


def bench_sweep(state: Path) -> Any:
    bench = Bench(state)
    sweep = bench.life().sweep
    bench.stop()
    return sweep


@pytest.mark.parametrize("ends", [True, False], ids=["an end", "a beginning"])
def test_a_sheet_that_was_not_written_before_the_daemon_died(ends: bool, tmp_path: Path) -> None:
    """Between a commit and its export: the daemon makes good for it when it starts, so it is only told."""
    bench = started(tmp_path)
    ess = tmp_path / "results" / FOLDER / "ess.csv"
    bench.running()
    if not ends:
        bench.close("crashed")
    before = ess.read_bytes()
    if ends:
        bench.close("crashed")
    else:
        bench.running()
    bench.save()
    bench.stop()
    assert ess.read_bytes() != before
    for cut in (0, 1) if ends else (0,):  # the line of a running attempt may be torn as well
        ess.write_bytes(before[: len(before) - cut])
        found = verified(tmp_path)
        assert sentences(found) == []
        assert [note.sentence.partition(" in line ")[0] for note in found.notes] == ["ess.csv ends"]
        assert any("ess.csv, line " in sentence for sentence in sentences(verified(tmp_path, live=True)))
    ess.write_bytes(before[: before.index(b"\n") + 1])
    assert bool(sentences(verified(tmp_path))) == (not ends)  # what lacks two rows was tampered with


# ---------------------------------------------------------------- whole lives, full of faults

SEEDS, CHUNK = 60, 10


def read_by_itself(world: World, folder: Path) -> list[str]:
    """What the reader finds in the memory and the sheets of a rehearsal, whose archives are not real."""
    copy = folder / "memory.db"
    copy.write_bytes(world._db.serialize() if world.engine is not None else world._bytes)
    found = Findings()
    db = memory.open_copy(copy)
    try:
        memory.check(db, found)
        for (name,) in db.execute("SELECT name FROM experiments").fetchall():
            kept = books.find(db, name)
            place = world.settings.state / "results" / kept.folder
            assert space.same(space.read_table(place / "experiment.toml", name), kept.first)
            known = space.Space(kept.first)
            books.Books(db, kept, known, found).check()
            sheets.keep(place, folder)
            sheets.check(db, kept, known, folder, found, live=world.engine is not None)
    finally:
        db.close()
    return sentences(found)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_books_of_troubled_lives_add_up(first: int, tmp_path: Path) -> None:
    attempts = 0
    for seed in range(first, first + CHUNK):
        with trouble(seed) as world:
            world.live(world.horizon, stop_early=False)
            assert read_by_itself(world, tmp_path) == [], seed
            assert world.conclude() == [], seed
            assert read_by_itself(world, tmp_path) == [], seed
            with sqlite3.connect(tmp_path / "memory.db") as db:
                attempts += db.execute("SELECT COUNT(*) FROM attempts").fetchone()[0]
            db.close()
    assert attempts > 3 * CHUNK
