"""Every write protocol, in every state that a crash may leave of its files: what was promised is there, nothing half.

The protocols are traced as they run, with the real system calls; see disk.py for what a crash may leave.
"""

from __future__ import annotations

import random
import shutil

import pytest

from tests.crashstates.exploring import explore, go_on, perform, protocol, scratch
from tests.crashstates.protocols import COPIES
from tests.faults import Fired, rows_of

pytestmark = [
    pytest.mark.skipif(not shutil.which("strace"), reason="needs strace"),
    pytest.mark.timeout(400),
]
LEAST = {"memory": 2000, "exports": 250, "archives": 250, "intake": 25, "snapshots": 15}  # states, lest it be hollow
KILLS = 5  # of each protocol, at points where something is not durable yet


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("memory", marks=pytest.mark.fault("P1", "D1")),
        pytest.param("exports", marks=pytest.mark.fault("P1", "D1", "D13", "E3")),
        pytest.param("archives", marks=pytest.mark.fault("P1", "D1")),
        pytest.param("intake", marks=pytest.mark.fault("P1", "D1", "D13", "Q11")),
        pytest.param("snapshots", marks=pytest.mark.fault("P1", "D1")),
    ],
)
def test_a_crash_anywhere(name: str, fired: Fired, request: pytest.FixtureRequest) -> None:
    """A kill or a power cut after any event: lost, torn and reordered writes, names without their data."""
    with scratch() as folder:
        disk = perform(protocol(name), folder)
        found = explore(protocol(name), folder, disk)
    assert found.wrong == []
    assert found.states >= LEAST[name] and found.promised >= found.states // 2
    for row in rows_of(request.node):
        fired(row, f"{name}: {found.states} states of {found.events} events")


@pytest.mark.fault("P2")
@pytest.mark.parametrize("name", ["archives", "intake", "memory"])
def test_a_kill_then_a_crash_anywhere_in_the_recovery(name: str, fired: Fired) -> None:
    """What a killed process left is seen by the next one and is not durable by that; twice in a row for the last."""
    rng, states = random.Random(f"kills of {name}"), 0
    for number in range(KILLS):
        with scratch() as folder:
            disk = perform(protocol(name), folder)
            count = rng.choice(disk.pending_after())
            go_on(protocol(name), folder, disk, count)
            if number == KILLS - 1:
                count = rng.choice([after for after in disk.pending_after() if after >= count])
                go_on(protocol(name), folder, disk, count, life=3)
            found = explore(protocol(name), folder, disk, first=count, most=MOST_STATES)
        assert found.wrong == [], f"killed after event {count}"
        states += found.states
    assert states > KILLS
    fired("P2", f"{name}: {states} states after {KILLS} kills")


MOST_STATES = 250  # of one recovery, drawn from all


@pytest.mark.fault("D14")
def test_a_rename_to_another_file_system_becomes_a_copy(fired: Fired) -> None:
    """The queue's folders lie on different file systems: the file is copied, synced and only then removed."""
    with scratch() as folder:
        disk = perform(COPIES, folder, inject="renameat:error=EXDEV:when=1")
        found = explore(COPIES, folder, disk)
    assert found.wrong == []
    fired("D14", f"{found.states} states")


@pytest.mark.parametrize(
    ("error", "row"),
    [
        pytest.param("EIO", "D7", marks=pytest.mark.fault("D7")),
        pytest.param("ENOSPC", "D2", marks=pytest.mark.fault("D2")),
        pytest.param("EDQUOT", "D5", marks=pytest.mark.fault("D5")),
    ],
)
def test_an_fsync_that_fails_is_never_believed(error: str, row: str, fired: Fired) -> None:
    """The sync of an archive fails once, and the process ends: nothing was promised that is not there."""
    with scratch() as folder:
        disk = perform(protocol("archives"), folder, inject=f"fsync:error={error}:when=7", fails=True)
        found = explore(protocol("archives"), folder, disk)
    assert found.wrong == []
    fired(row, f"{error}: {found.states} states")
