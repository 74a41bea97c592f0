"""Knows the figures so far of each experiment: drawn by a program of their own, seldom, one at a time, and kept.

Promises that looking costs nothing: what was drawn last is shown while newer is drawn in the background. Any thread;
drawing has one of its own.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoperfd.page.answers import NoAnswer
from autoperfd.page.memory import Memory
from autoperfd.remote.threads import NoThread, begin

MOST_OFTEN_SECS = 60.0  # between two drawings of an experiment
RARELY = 20  # times as long as a drawing took passes until the next
WALL_SECS = 180.0  # a drawing may take
MOST_KEPT = 4  # experiments
MOST_BYTES = 32 << 20  # of a drawing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn, as page/draw.py tells it; `made`: Unix seconds of the copy; `stamp` tells two apart."""

    facts: dict[str, Any]
    made: float
    stamp: str
    next_at: float  # monotonic: from when on newer ones are drawn


class Figures:
    """Drawings of what lies in the memory. `scratch`: a folder of the page's own."""

    def __init__(self, memory: Memory, scratch: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._memory, self._scratch, self._monotonic = memory, scratch, monotonic
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Drawn] = OrderedDict()
        self._busy = ""  # the experiment that is being drawn

    def of(self, name: str) -> Drawn | None:
        """What was drawn last, None for nothing yet; newer ones are begun where it is time."""
        with self._lock:
            found = self._kept.get(name)
            if found is not None:
                self._kept.move_to_end(name)
            if not self._busy and (found is None or self._monotonic() >= found.next_at):
                self._busy = name
                try:
                    begin(lambda: self._work(name), "page-draw")
                except NoThread:
                    self._busy = ""
            return found

    def kept(self, name: str) -> Drawn | None:
        """What was drawn last; nothing is begun."""
        with self._lock:
            return self._kept.get(name)

    def _work(self, name: str) -> None:
        began, facts, made, number = self._monotonic(), {"error": "the figures could not be drawn"}, time.time(), 0
        try:
            path, copy = self._memory.borrow("draw.db")
            made, number = copy.made, copy.number
            facts = self._drawn(path, name)
        except NoAnswer as error:
            facts = {"error": error.error}
        finally:
            now = self._monotonic()
            next_at = now + max(MOST_OFTEN_SECS, RARELY * (now - began))
            with self._lock:
                self._busy = ""
                self._kept[name] = Drawn(facts, made, f"{number}-{made:.0f}", next_at)
                while len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)

    def _drawn(self, path: Path, name: str) -> dict[str, Any]:
        argv = [sys.executable, "-I", "-m", "autoperfd.page.draw", str(path), name]
        environment = {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "MPLCONFIGDIR": str(self._scratch / "matplotlib"),  # where it keeps its list of fonts
            "OPENBLAS_NUM_THREADS": "1",
        }
        try:
            child = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=WALL_SECS,
                env=environment,
                cwd="/",
                check=False,
            )
            answer = json.loads(child.stdout) if child.returncode == 0 and len(child.stdout) <= MOST_BYTES else None
        except subprocess.TimeoutExpired:
            return {"error": f"the figures took more than {WALL_SECS:.0f} s to draw"}
        except (OSError, ValueError) as error:
            return {"error": f"the figures cannot be drawn: {error}"}
        finally:
            path.unlink(missing_ok=True)
        if isinstance(answer, dict):
            return answer
        last = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        log.warning("page: drawing %r ended with status %d %s", name, child.returncode, last)
        return {"error": f"drawing the figures ended with status {child.returncode}"}
