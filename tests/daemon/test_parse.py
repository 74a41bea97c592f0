"""The limited child: whatever the bytes, an answer within bounds, and the parent goes on."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperfd.core.config import read_experiments
from autoperfd.daemon import parse
from autoperfd.daemon.parse import MOST_BYTES, Limits, read_limited
from autoperfd.errors import ConfigError
from autoperfd.tools import TOOLS
from tests.bounds import SOON_SECS, least_cpu_secs
from tests.faults import Fired

EXAMPLE = (Path(__file__).parents[2] / "etc" / "queue-examples" / "pcg.toml").read_bytes()


def refused(data: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read_limited(data, "file.toml", TOOLS, [], limits)
    return str(caught.value)


def test_it_says_what_the_unlimited_reader_says() -> None:
    parsed = read_limited(EXAMPLE, "file.toml", TOOLS, [])
    assert parsed.experiments == read_experiments(EXAMPLE, "file.toml", TOOLS, [])
    assert len(parsed.documents) == 1


def test_it_starts_fast() -> None:
    best = min(spent(lambda: read_limited(EXAMPLE, "file.toml", TOOLS, [])) for _ in range(5))
    assert best < 0.15  # it takes 0.05


def spent(call: Callable[[], object]) -> float:
    """Processor time of this process and its child; the clock on the wall tells how busy the computer is."""
    before = os.times()
    call()
    return sum(os.times()[:4]) - sum(before[:4])


@pytest.mark.fault("P10")
@pytest.mark.parametrize("data", [b"x = " + b"[" * 100_000, b"x = " + b"{a=" * 50_000])
def test_what_exhausts_a_stack_is_refused_in_words(data: bytes, fired: Fired) -> None:
    with pytest.raises(RecursionError):
        tomli.loads(data.decode())
    fired("P10", f"tomli itself does not survive {data[:8]!r}…")
    assert "nested too deeply" in refused(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 10_000,
        b"a" + b".a" * 60_000 + b" = 1",
        b"".join(b"a" + b".a" * 100 + b".b%d = 1\n" % n for n in range(4000)),
        b"".join(b"[a.b%d.c.d]\n" % n for n in range(50_000)),
        b"x = " + b"9" * 100_000,
        b'x = """' + b'"' * 1000,
        b"x = [" + b"1," * 400_000 + b"]",
        b"[[experiments]]\n" * 50_000,
        b"\0" * 1000,
        b"x = 1979-05-27T07:32:00Z\ny = nan\nz = inf",
    ],
    ids=lambda data: data[:12].decode(),
)
def test_pathological_files_are_refused_in_time(data: bytes) -> None:
    assert least_cpu_secs(lambda: refused(data), 2.5) < 2.5  # of this process; the child has its own limit


def test_too_large_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    assert f"at most {MOST_BYTES} bytes" in refused(b"#" * (MOST_BYTES + 1))


SLOW = b"".join(b"[a%d]\nb.c = 1\n" % n for n in range(60_000))


@pytest.mark.fault("Q2")
def test_cpu_time_is_limited(fired: Fired) -> None:
    start = time.perf_counter()
    words = refused(SLOW, Limits(cpu_secs=0))
    assert "more than 0 s of CPU time" in words
    assert time.perf_counter() - start < SOON_SECS
    fired("Q2", words)


@pytest.mark.fault("Q2")
def test_memory_is_limited(fired: Fired) -> None:
    words = refused(SLOW, Limits(memory_bytes=48 * 1024 * 1024))
    assert "memory" in words or "status" in words
    fired("Q2", words)


def test_wall_time_is_limited() -> None:
    assert "more than 0.001 s" in refused(SLOW, Limits(wall_secs=0.001))


@pytest.mark.fault("Q12")
def test_a_child_that_dies_is_a_problem_of_the_file(monkeypatch: pytest.MonkeyPatch, fired: Fired) -> None:
    for code, words in (
        ("import os; os.abort()", "status -6"),
        ("import sys; sys.exit('went wrong')", "status 1 went wrong"),
        ("print('{')", "status 0"),
        ("print('[' * 100000)", "status 0"),
        ("print('{}')", "status 0"),
    ):
        monkeypatch.setattr(parse, "_CHILD", code)
        assert words in refused(EXAMPLE)
        fired("Q12", words)


NOT_TEXT = [b"\xff", "x = '\u202egpj'".encode(), "x = '\u200b'".encode(), b"x = '\0'", "x\u2028y = 1".encode()]


@pytest.mark.fault("Q4")
@pytest.mark.parametrize("line", NOT_TEXT)
def test_characters_that_hide_something_are_refused_and_shown_harmlessly(line: bytes, fired: Fired) -> None:
    words = refused(EXAMPLE + b"\n" + line + b"\n")
    assert all(said.isprintable() for said in words.splitlines())
    fired("Q4", f"{line!r}: {words}")


@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda text: b"experiments = " + text.encode()))
@settings(max_examples=40, deadline=None)
def test_any_bytes_are_refused_with_a_sentence(data: bytes) -> None:
    assert "file.toml" in refused(data)
