"""The bench judges as it says and every figure can be measured; how fast anything is, is not asked here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoperfd.lab.bench import __main__ as bench
from autoperfd.lab.bench import gaps, validation
from autoperfd.lab.bench.rows import Row, cells, in_turn, table

ROW = Row(figure="walking", ours=50.0, unit="ms", peer="running", theirs=100.0, limit=0.5)


@pytest.mark.parametrize(
    ("row", "goal", "measured", "met"),
    [
        (ROW, "≤ 0.5 ×", "0.50 ×", "yes"),
        (replace(ROW, ours=51.0), "≤ 0.5 ×", "0.51 ×", "NO"),
        (replace(ROW, unit="MB/s", limit=1.25, more_is_better=True), "≥ 1.25 ×", "0.50 ×", "NO"),
        (replace(ROW, limit=60.0, alone=True), "≤ 60 ms", "", "yes"),
        (replace(ROW, limit=None), "", "0.50 ×", ""),
        (replace(ROW, theirs=None), "≤ 0.5 ×", "", "?"),
    ],
)
def test_a_row_is_judged_by_its_limit(row: Row, goal: str, measured: str, met: str) -> None:
    assert cells(row)[4:] == (goal, measured, met)


def test_a_missing_peer_and_the_notes_are_told_below_the_table() -> None:
    lines = table([ROW, replace(ROW, theirs=None, note="on foot"), replace(ROW, note="on foot")]).splitlines()
    assert [line.endswith("[1]") for line in lines] == [False, False, True, True, False]
    assert "missing" in lines[2]
    assert lines[-1] == "[1] on foot"


def test_works_are_done_in_turn_and_their_medians_told() -> None:
    done: list[str] = []
    values = iter([1.0, 10.0, 20.0, 3.0, 2.0, 30.0])

    def work(name: str) -> float:
        done.append(name)
        return next(values)

    assert in_turn(3, {"a": lambda: work("a"), "b": lambda: work("b")}) == {"a": 2.0, "b": 20.0}
    assert "".join(done) == "abbaab"


def test_an_unknown_figure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["gap", "mileage"])
    assert ended.value.code == 2
    assert "no figure mileage; known are gap," in capsys.readouterr().err


@pytest.mark.lab
def test_peers_that_are_not_installed_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (bench, gaps, validation):
        monkeypatch.setattr(module, "have", lambda program: False)
    assert bench.main(["--quick", "validation"]) == 0
    told = capsys.readouterr()
    assert "parallel is missing: sudo apt-get install parallel" in told.err
    rows = [line for line in told.out.splitlines() if "ansible -m raw" in line]
    assert rows
    assert all("missing" in line and line.split()[-2] == "?" for line in rows)


def test_reading_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--quick", "reading"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split(",")[-1].split()[0] for line in told[1:3]] == ["time", "memory"]


@pytest.mark.lab
@pytest.mark.parametrize("figure", ["gap", "fetch", "memory", "rest"])
def test_every_figure_can_be_measured(figure: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--quick", figure]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].split()[:3] == ["figure", "ours", "peer"]
    assert len(lines) > 2
    assert "a quick look only" in lines[-1]
