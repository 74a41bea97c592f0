"""Every file in tests/data/bad is refused with exactly the problems named beside it, none more and none less."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoperfd.daemon.parse import read_limited
from autoperfd.errors import ConfigError, Problem
from autoperfd.tools import TOOLS
from tests.faults import Fired

BAD = sorted((Path(__file__).parent.parent / "data" / "bad").glob("*.toml"))


def expected(file: Path) -> list[tuple[int, str, str]]:
    """(line, key, words that the problem holds) of each problem."""
    rows = [line.split(" | ") for line in file.with_suffix(".expected").read_text().splitlines()]
    return [(int(line), key, words) for line, key, words in rows]


def matches(problem: Problem, row: tuple[int, str, str]) -> bool:
    line, key, words = row
    return (problem.line, problem.key) == (line, key) and words in str(problem)


def test_there_are_enough_of_them() -> None:
    assert len(BAD) >= 40


@pytest.mark.fault("Q1")
@pytest.mark.parametrize("file", BAD, ids=[file.stem for file in BAD])
def test_refused_with_every_problem_named(file: Path, fired: Fired) -> None:
    with pytest.raises(ConfigError) as caught:
        read_limited(file.read_bytes(), file.name, TOOLS, ["plug-p1"])
    problems = list(caught.value.problems)
    for row in expected(file):
        found = next((problem for problem in problems if matches(problem, row)), None)
        assert found, f"nobody named {row}; left are: " + "\n".join(map(str, problems))
        problems.remove(found)
    assert not problems, "not expected: " + "\n".join(map(str, problems))
    fired("Q1", f"{len(expected(file))} problems")


@pytest.mark.parametrize("file", BAD, ids=[file.stem for file in BAD])
def test_messages_are_plain_lines(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_limited(file.read_bytes(), file.name, TOOLS, ["plug-p1"])
    for problem in caught.value.problems:
        assert str(problem).isprintable()
        assert len(str(problem)) < 1500
        assert problem.file == file.name and problem.key and problem.found and problem.expected
