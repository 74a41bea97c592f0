"""Virtual time: what is going to happen and when, and processes of the controller that wait in it.

`now` goes on evenly for everybody; the controller's own clocks can be set and suspended. One thread; nothing sleeps.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Generator
from typing import Any, Protocol

from autoperfd.errors import AutoperfError

Wish = Any  # what a process yields: seconds to wait, an Awaitable, or a list of generators to be done side by side
Work = Generator[Wish, Any, Any]


class Awaitable(Protocol):
    """Something a process can wait for besides the time."""

    def begin(self, answer: Callable[[Any, AutoperfError | None], None]) -> None:
        """Start it; `answer` is called once with its value or its error."""


class Timeline:
    """The clock and everything that will happen. Times in seconds; the same time keeps the order of asking."""

    def __init__(self, wall: float) -> None:
        self.now = 1000.0
        self.step = wall - self.now  # the controller's wall clock minus `now`; faults change it
        self.slept = 0.0  # seconds that the controller was suspended, in which its monotonic clock stood still
        self.awake_at = self.now  # while that lies ahead the controller is suspended
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def wall(self) -> float:
        """Unix seconds UTC."""
        return self.now + self.step

    def monotonic(self) -> float:
        """Seconds that never step, as the controller counts them."""
        return self.now - self.slept

    def suspended(self) -> float:
        """Seconds that the controller was suspended."""
        return self.slept

    @property
    def asleep(self) -> bool:
        """Whether the controller is suspended now."""
        return self.now < self.awake_at

    def suspend(self, secs: float, then: Callable[[], None]) -> None:
        """Suspend the controller: processes stand still, machines do not."""
        self.awake_at = self.now + secs

        def wake() -> None:
            self.slept += secs
            then()

        self.at(self.awake_at, wake)

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Let something happen at a time, now if that is past."""
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, action))

    def after(self, secs: float, action: Callable[[], None]) -> None:
        """Let something happen in so many seconds."""
        self.at(self.now + secs, action)

    def next_time(self) -> float:
        """When the next thing happens; infinity when nothing will."""
        return self._heap[0][0] if self._heap else float("inf")

    def advance(self, until: float) -> Callable[[], None] | None:
        """Move on to what happens next, at most to `until`; None when nothing happens before."""
        if self._heap and self._heap[0][0] <= until:
            self.now, _, action = heapq.heappop(self._heap)
            return action
        self.now = max(self.now, until)
        return None


class Process:
    """A generator that waits in virtual time for what it yields; `done` gets its value or its error."""

    def __init__(
        self, timeline: Timeline, work: Work, done: Callable[[Any, AutoperfError | None], None] | None = None
    ) -> None:
        self._timeline, self._work, self._done = timeline, work, done
        self._children: list[Process] = []
        self._waits = 0  # number of the wait it is in; answers to earlier ones mean nothing
        self.alive = True

    def start(self) -> Process:
        """Begin, up to the first wait."""
        self._resume(0, None, None)
        return self

    def kill(self) -> None:
        """End it without a word."""
        if self.alive:
            self.alive = False
            for child in self._children:
                child.kill()
            self._work.close()

    def _resume(self, wait: int, value: Any, error: AutoperfError | None) -> None:
        if not self.alive or wait != self._waits:
            return
        if self._timeline.asleep:
            self._timeline.at(self._timeline.awake_at, lambda: self._resume(wait, value, error))
            return
        self._waits += 1
        try:
            wish = self._work.send(value) if error is None else self._work.throw(error)
        except StopIteration as stop:
            self._end(stop.value, None)
        except AutoperfError as raised:
            self._end(None, raised)
        else:
            self._grant(wish)

    def _grant(self, wish: Wish) -> None:
        wait = self._waits
        if isinstance(wish, list):
            self._side_by_side(wish, wait)
        elif isinstance(wish, int | float):
            self._timeline.after(float(wish), lambda: self._resume(wait, None, None))
        else:
            wish.begin(lambda value, error: self._resume(wait, value, error))

    def _side_by_side(self, works: list[Work], wait: int) -> None:
        """Goes on when all are done; the answer is a list of values, or errors in their places."""
        answers: list[Any] = [None] * len(works)
        left = len(works)

        def ended(at: int, value: Any, error: AutoperfError | None) -> None:
            nonlocal left
            answers[at] = value if error is None else error
            left -= 1
            if not left:
                self._resume(wait, answers, None)

        if not works:
            self._timeline.after(0.0, lambda: self._resume(wait, answers, None))
        self._children = [Process(self._timeline, work, functools.partial(ended, at)) for at, work in enumerate(works)]
        for child in self._children:
            child.start()

    def _end(self, value: Any, error: AutoperfError | None) -> None:
        self.alive = False
        if self._done is not None:
            self._done(value, error)
        elif error is not None:
            raise error
