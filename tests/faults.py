"""Ties tests to the rows of the fault model: what a test says it provokes, and that it really struck.

A test marked `@pytest.mark.fault("P4", …)` must call the fixture `fired` for each of its rows, where the fault is known
to have struck; one that passed without is made to fail. FAULTS.md is written from the markers. One thread.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest

FIRED = pytest.StashKey[dict[str, list[str]]]()
MARKED = pytest.StashKey[list[tuple[str, list[str]]]]()  # of a config: every collected test and its rows
Fired = Callable[[str, str], None]


def rows_of(item: pytest.Item) -> list[str]:
    """The rows of the fault model that a test is marked with, in the order of its markers."""
    return [row for mark in item.iter_markers("fault") for row in mark.args]


@pytest.fixture
def fired(request: pytest.FixtureRequest) -> Fired:
    """`fired(row, what was seen)` tells that the fault of that row has struck."""
    told: dict[str, list[str]] = request.node.stash.setdefault(FIRED, {})

    def tell(row: str, seen: str) -> None:
        if row not in rows_of(request.node):
            raise AssertionError(f"{request.node.nodeid} is not marked with the fault {row}")
        if not seen:
            raise AssertionError(f"{request.node.nodeid} saw nothing of the fault {row}")
        told.setdefault(row, []).append(seen)

    return tell


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Fail a test that ended well though a fault of it never struck."""
    done = yield
    missing = [row for row in rows_of(pyfuncitem) if row not in pyfuncitem.stash.get(FIRED, {})]
    if missing:
        raise AssertionError(f"the faults {', '.join(missing)} never struck, so this test shows nothing of them")
    return done
