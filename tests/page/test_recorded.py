"""What the page shows out of a copy of the memory: the ESS, who failed where, plots; and how seldom a copy is made."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from autoperfd.daemon.control import Reply
from autoperfd.page import attempts, draw, memory
from autoperfd.page.answers import NoAnswer
from autoperfd.page.attempts import Chosen
from autoperfd.page.figures import Figures
from autoperfd.page.memory import Memory
from autoperfd.results.gather import State
from tests.daemon.support import toml
from tests.markup import Elements
from tests.page.support import HOSTILE, Bench, eager
from tests.report.support import gathered

PCG = quote("PCG #1")
LENGTHS = (100, 200, 300, 400)
T100 = "4SEC_100B_1PUB_1SUB_REL_UC_100LC"
T200 = "4SEC_200B_1PUB_1SUB_REL_UC_100LC"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Two tests proven, one given up after two attempts, one under way."""
    made = Bench(tmp_path)
    rig = made.rig
    rig.submit(toml(lengths=LENGTHS, retries=1))
    rig.running()
    rig.succeed()
    rig.running()
    rig.fail(machine="p2", code="TIMEOUT", reason=HOSTILE)
    rig.running()
    rig.fail(machine="p1", code="TIMEOUT", reason=HOSTILE)
    rig.running()
    rig.succeed()
    rig.running()
    yield made
    made.stop()


# ---------------------------------------------------------------- attempts


def rows(bench: Bench, words: str = "") -> list[list[Any]]:
    answer = bench.get(f"/api/v1/attempts?experiment={PCG}{words}")
    assert answer.status_code == 200 and answer.json is not None
    return [[row["test"], row["attempt"], row["end_status"]] for row in answer.json["attempts"]]


def test_the_ess_the_latest_first(bench: Bench) -> None:
    assert [row[2] for row in rows(bench)] == ["success", "timeout", "timeout", "success"]
    found = bench.seen(f"/attempts?experiment={PCG}")
    assert "4 attempts, the latest first." in found.text
    assert f"/test?experiment=PCG+%231&name={T100}" in found.links()
    for filter_ in ("status=timeout", "blame=test", "machine=p1", "code=TIMEOUT", "status=success"):
        assert f"/attempts?experiment=PCG+%231&{filter_}" in found.links(), found.links()


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("&status=timeout", 2),
        ("&status=success", 2),
        ("&status=running", 0),
        ("&machine=p1", 1),
        ("&machine=p1&status=success", 0),
        ("&blame=test&code=TIMEOUT", 2),
        ("&test=200B", 2),
        ("&test=_200B_&machine=p2", 1),
        ("&status=' OR 1=1 --", 0),
        ("&page=0", 4),
        ("&page=9999999", 4),
        ("&page=99999999999999999999999", 4),
        ("&page=-1", 4),
        ("&page=²", 4),
        ("&nothing=1", 4),
    ],
)
def test_filters(bench: Bench, words: str, count: int) -> None:
    assert len(rows(bench, words)) == count
    assert bench.get(f"/attempts?experiment={PCG}{words}").status_code == 200


def test_pages(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MOST_ROWS", 2)
    assert [len(rows(bench, f"&page={page}")) for page in (1, 2, 3)] == [2, 2, 2]
    monkeypatch.setattr(attempts, "MOST_ROWS", 1)
    found = bench.seen(f"/attempts?experiment={PCG}&page=2&test=4SEC")
    assert "Page 2 of 4" in found.text
    for page in (1, 3):
        assert f"/attempts?experiment=PCG+%231&test=4SEC&page={page}" in found.links()


def test_counts_are_those_of_the_rows(bench: Bench) -> None:
    bench.rig.ask("skip", test="4SEC_400B_1PUB_1SUB_REL_UC_100LC")
    found = bench.seen(f"/experiment?name={PCG}")
    with bench.site.memory.reading() as (db, _):
        choices = attempts.choices(db, 1)
        for column, values in choices.items():
            for value, count in values:
                assert attempts.rows(db, 1, Chosen({column: value})).total == count, (column, value)
        assert attempts.rows(db, 1, Chosen({})).total == 5
        assert attempts.by_machine(db, 1) == [
            {"machine": "p1", "end_status": "timeout", "blame": "test", "attempts": 1},
            {"machine": "p2", "end_status": "timeout", "blame": "test", "attempts": 1},
        ]
    assert "Failures by machine" in found.text and "2 timeout" in found.text


def test_an_experiment_that_a_copy_does_not_know_yet(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    eager(monkeypatch)
    rows(bench)
    bench.rig.submit(toml("B", machines=("10.0.0.8", "10.0.0.9")))
    assert bench.get("/api/v1/attempts?experiment=B").status_code == 503
    assert bench.get("/experiment?name=B").status_code == 200


# ---------------------------------------------------------------- copies


def test_a_copy_is_made_seldom_and_goes(bench: Bench, tmp_path: Path) -> None:
    now = [1000.0]
    kept = Memory(bench.ask, tmp_path / "page", lambda: now[0])
    bench.asked.clear()
    for _ in range(9):
        with kept.reading() as (db, copy):
            assert db.execute("SELECT COUNT(*) FROM attempts").fetchone()[0] == 5
    assert bench.asked == ["copy"]
    with pytest.raises(NoAnswer, match="readonly"), kept.reading() as (db, _):
        db.execute("DELETE FROM attempts")
    now[0] += memory.MOST_OFTEN_SECS
    with kept.reading() as (_, newer):
        assert newer.number == copy.number + 1 and not copy.path.exists()
    assert bench.asked == ["copy", "copy"]
    kept.tidy()
    assert newer.path.exists()
    now[0] += memory.KEPT_SECS
    kept.tidy()
    assert list((tmp_path / "page").glob("*")) == []


def test_a_copy_that_took_long_is_made_more_seldom(bench: Bench, tmp_path: Path) -> None:
    now = [1000.0]

    def slow(command: str, args: Mapping[str, Any]) -> Reply:
        now[0] += 3.0
        return bench.ask(command, args)

    kept = Memory(slow, tmp_path / "page", lambda: now[0])
    bench.asked.clear()
    for _ in range(10):
        with kept.reading():
            now[0] += 20.0
    assert bench.asked == ["copy", "copy"]


def test_no_copy_is_told_where_it_is_wanted(tmp_path: Path, bench: Bench) -> None:
    kept = Memory(lambda command, args: Reply.refused("no room for a copy"), tmp_path)
    with pytest.raises(NoAnswer, match="no room"), kept.reading():
        pass
    gone = Memory(lambda command, args: Reply(data={"memory": "/nowhere/x.db"}), tmp_path)
    with pytest.raises(NoAnswer, match="is gone at once"), gone.reading():
        pass
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database" * 1000)
    kept = Memory(lambda command, args: Reply(data={"memory": str(broken)}), tmp_path / "page")
    with pytest.raises(NoAnswer, match="cannot be read: file is not a database"), kept.reading() as (db, _):
        attempts.rows(db, 1, Chosen({}))


def test_a_question_that_takes_too_long_ends(bench: Bench) -> None:
    now = [0.0]

    def later() -> float:
        now[0] += 10.0
        return now[0]

    kept = Memory(bench.ask, bench.rig.settings.state / "page", later)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
    with pytest.raises(NoAnswer, match="interrupted"), kept.reading() as (db, _):
        db.execute(endless).fetchone()


# ---------------------------------------------------------------- figures


def test_figures_are_drawn_by_a_program_of_their_own(bench: Bench) -> None:
    first = bench.seen(f"/experiment?name={PCG}")
    assert "are being gathered" in first.text
    bench.join()
    found = bench.seen(f"/experiment?name={PCG}")
    assert "2 proven" in found.text and "1 given up" in found.text and "1 under way" in found.text
    plots = [value for tag, name, value in found.attributes if (tag, name) == ("img", "src")]
    assert [re.sub(r"&of=.*", "", plot) for plot in plots] == [
        f"/plot?experiment=PCG+%231&plot={name}" for name in ("map", "time", "datalen_bytes")
    ]
    for plot in plots:
        answer = bench.get(plot)
        assert answer.mimetype == "image/svg+xml" and "<svg" in answer.text and "<script" not in answer.text
        assert answer.headers["Content-Security-Policy"] == "default-src 'none'; style-src 'unsafe-inline'; sandbox"
        assert "immutable" in answer.headers["Cache-Control"]
        assert bench.get(plot.partition("&of=")[0]).headers["Cache-Control"] == "no-store"
    told = bench.get(f"/api/v1/figures?experiment={PCG}").json
    assert told is not None and ["ok", "proven", 2] in told["completeness"] and "map" not in told
    assert "<script>" not in "".join(found.tags) and found.tags.count("script") == 1
    assert not list((bench.rig.settings.state / "page").glob("draw*"))


@pytest.mark.parametrize("address", ["map", "time", "nothing", "../../x"])
def test_a_plot_that_is_not_there(bench: Bench, address: str) -> None:
    assert bench.get(f"/plot?experiment={PCG}&plot={quote(address)}").status_code == 404


def test_figures_are_drawn_one_at_a_time_and_seldom(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now, drawn = [0.0], list[str]()

    def draw_one(figures: Figures, path: Path, name: str) -> dict[str, Any]:
        drawn.append(name)
        return {"n": len(drawn)}

    monkeypatch.setattr(Figures, "_drawn", draw_one)
    with bench.site.memory.reading():
        pass
    figures = Figures(bench.site.memory, bench.rig.settings.state / "page", lambda: now[0])

    def look(name: str) -> Any:
        found = figures.of(name)
        bench.join()
        return found and found.facts

    assert look("a") is None and look("a") == {"n": 1} and look("a") == {"n": 1}
    now[0] = 61.0
    assert look("a") == {"n": 1} and look("a") == {"n": 2}
    for name in "bcdef":
        look(name)
    assert figures.kept("a") is None and figures.kept("f") is not None and drawn == ["a", "a", *"bcdef"]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("print('nonsense')", "the figures cannot be drawn: "),
        ("raise SystemExit(3)", "drawing the figures ended with status 3"),
        ("import os; os.kill(os.getpid(), 9)", "drawing the figures ended with status -9"),
        ("import time; time.sleep(60)", "the figures took more than 0 s to draw"),
    ],
)
def test_a_program_that_fails_is_told(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/usr/bin/python3\n{program}\n")
    fake.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(fake))
    monkeypatch.setattr("autoperfd.page.figures.WALL_SECS", 0.3 if "sleep" in program else 30.0)
    (copy := tmp_path / "draw.db").touch()
    figures = Figures(bench.site.memory, tmp_path)
    assert str(figures._drawn(copy, "x")["error"]).startswith(words)
    assert not copy.exists()


def test_what_is_drawn() -> None:
    found = draw.drawn(gathered())
    assert found["lacking"] == "" and len(found["effects"]) == 6 and found["undrawn"] == 0
    assert sum(count for _, _, count in found["completeness"]) == 288
    assert found["map"].count("M") == 288 and found["map"].count(draw.COLOURS["failed"]) == 1


def test_without_matplotlib_the_rest_is_drawn() -> None:
    """In a process of its own: what this one has imported so far depends on the tests before."""
    code = (
        "import json, sys; sys.modules['autoperfd.report.plots'] = None\n"
        "from autoperfd.page import draw; from tests.report.support import gathered\n"
        "json.dump(draw.drawn(gathered()), sys.stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    without = json.loads(done.stdout)
    assert without["effects"] == [] and without["time_line"] == "" and "sudo make install" in without["lacking"]


def test_a_map_is_an_image_that_holds_squares_alone() -> None:
    proven: list[State] = ["ok"]
    svg = draw.completeness_map([*proven * 150, "failed"])
    assert 'viewBox="0 0 1000 20"' in svg and svg.count("<path") == 2 and "M500 10h9v9h-9z" in svg
    assert Elements(draw.completeness_map([])).tags == ["svg"]
