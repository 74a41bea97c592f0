"""The same work on many machines at once, in threads of its own.

Daemon threads, never an executor: a worker stuck in the network must not keep the process from exiting.
The caller waits; it looks at `cancelled` ten times a second and leaves stuck workers behind.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from autoperfd.core.plan import Machine
from autoperfd.errors import (
    Cancelled,
    FetchFailed,
    MachineAway,
    MachineError,
    MachineImpossible,
    MachineTaken,
    StartFailed,
)
from autoperfd.remote.threads import HINT, NO_THREADS, NoThread, begin

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
WORKERS = 32
SLICE_SECS = 0.1
THREAD_SECS = 0.5  # between two looks for a thread, where there is none to be had
GRAVITY = (MachineImpossible, MachineTaken, StartFailed, FetchFailed, MachineAway, MachineError)


class Call:
    """One call of the fleet: whether it was cancelled, and how to free its workers then."""

    def __init__(self, cancelled: threading.Event | None, interrupt: Callable[[], None]) -> None:
        self.stopped = threading.Event()  # workers wait on it instead of sleeping
        self._cancelled = cancelled
        self._interrupt = interrupt

    def check(self) -> None:
        """Raises Cancelled when the caller asked to stop."""
        if self.stopped.is_set() or (self._cancelled and self._cancelled.is_set()):
            raise Cancelled("stopped on request")

    def stop(self) -> None:
        """Frees the workers."""
        self.stopped.set()
        self._interrupt()

    def each(
        self,
        machines: Sequence[Machine],
        work: Callable[[Machine], Answer],
        *,
        workers: int = WORKERS,
        meanwhile: Callable[[], None] | None = None,
        to_first_error: bool = False,
    ) -> dict[str, Answer | MachineError]:
        """Name of the machine -> what `work` returned, or the MachineError it raised.

        `to_first_error`: do not wait for the others once one machine has failed; they are freed, and missing in
        the answer. `meanwhile` is called ten times a second in the caller's thread. Any other exception of a worker is
        raised here. Raises Cancelled.
        """
        queue = list(reversed(machines))
        answers: dict[str, Answer | MachineError] = {}
        bugs: list[BaseException] = []
        changed = threading.Condition()

        def labour() -> None:
            while True:
                with changed:
                    if not queue or bugs:
                        return
                    machine = queue.pop()
                try:
                    answer: Answer | MachineError = work(machine)
                except MachineError as error:
                    answer = error
                except BaseException as error:  # noqa: BLE001 - the worker's boundary; raised again in the caller
                    with changed:
                        bugs.append(error)
                        changed.notify_all()
                    return
                with changed:
                    answers[machine.name] = answer
                    changed.notify_all()

        self._man(labour, min(workers, len(machines)))
        with changed:
            while len(answers) < len(machines) and not bugs:
                changed.wait(SLICE_SECS)
                if self._cancelled and self._cancelled.is_set():
                    self.stop()
                    self.check()
                if to_first_error and any(isinstance(answer, MachineError) for answer in answers.values()):
                    self.stop()
                    return dict(answers)
                if meanwhile:
                    changed.release()
                    try:
                        meanwhile()
                    finally:
                        changed.acquire()
        if bugs:
            self.stop()
            raise bugs[0]
        return {machine.name: answers[machine.name] for machine in machines}

    def _man(self, labour: Callable[[], None], workers: int) -> None:
        """Start that many workers, or as many as there are threads for; wait for the first one."""
        begun = waited = 0
        while begun < workers:
            try:
                begin(labour, "fleet worker")
                begun += 1
            except NoThread as error:
                if begun:
                    return
                if not waited:
                    log.warning("%s: what is to be done on machines waits: %s. %s", NO_THREADS, error.strerror, HINT)
                waited += 1
                self.check()
                self.stopped.wait(THREAD_SECS)


def gravest(answers: Mapping[str, Answer | MachineError]) -> MachineError | None:
    """The error that matters most, with the rest as its `others`; None when there is none."""
    errors = [answer for answer in answers.values() if isinstance(answer, MachineError)]
    if not errors:
        return None
    first = min(errors, key=lambda error: next(i for i, kind in enumerate(GRAVITY) if isinstance(error, kind)))
    first.others = tuple(error for error in errors if error is not first)
    return first


def whole(answers: Mapping[str, Answer | MachineError]) -> dict[str, Answer]:
    """The answers when all machines gave one; raises the gravest error otherwise."""
    error = gravest(answers)
    if error:
        raise error
    return {name: answer for name, answer in answers.items() if not isinstance(answer, MachineError)}
