"""What tests bound instead of time: work in lines of Python, which is the same on every computer, and long waits.

Runs in the test's own thread.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SOON_SECS = 15.0  # far more than a busy computer needs, and less than any wait that is not to be sat through


@contextlib.contextmanager
def at_most(lines: int) -> Iterator[None]:
    """Fails where this thread ran more lines of Python. Work within C or a child process is not seen."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
    assert count <= lines, f"{count} lines of Python ran"


def least_cpu_secs(call: Callable[[], object], enough: float) -> float:
    """Processor time of the call in s, within C as well: the least of three tries, or the first below `enough`.

    A collection of garbage or a neighbour can make one try slow, but what is slow by itself is so each time.
    """
    least = float("inf")
    for _ in range(3):
        began = time.process_time()
        call()
        least = min(least, time.process_time() - began)
        if least < enough:
            break
    return least
