"""A storm in the container lab from beginning to end: two experiments on four machines, and what must hold after.

Used by `make soak`. One thread; every wait has a deadline.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoperfd.core.policy import KEPT
from autoperfd.daemon import archive
from autoperfd.errors import AutoperfError
from autoperfd.lab import netns
from autoperfd.lab.container import ContainerLab, ContainerMachine
from autoperfd.lab.faults import leftovers
from autoperfd.lab.faults.arena import TOOL, Arena
from autoperfd.lab.faults.kinds import FATAL
from autoperfd.lab.faults.storm import Storm
from autoperfd.lab.plug import Plug
from autoperfd.lab.recorder import Recorder
from autoperfd.rehearsal import evidence, invariants
from autoperfd.rehearsal.evidence import Evidence, Limits, Memory
from tests.e2e.containers import QUICK_RESTARTS, InstalledDaemon, experiment

NAMES = ("one", "other")
REBOOT = {"one": "experiment", "other": "failure"}
RETRIES, BUFFER_SECS, HALT_AFTER = 2, 10, 1000
SIZES = (64, 100, 200, 300, 400, 500, 1000, 2000)
BROKEN = 2000  # tests of this size fail by themselves, in every attempt
PATIENCE = {"restart_after_secs": 8, "patience_secs": 90}  # most outages of the storm are shorter than either
WITH_NAME = re.compile(r'machine_name = "(\w+)"')
ENVIRONMENT = {"STANDIN_FAST": "1", "STANDIN_MISBEHAVE": f"*/dataLen={BROKEN}:crash=11"}


class StormyDaemon(InstalledDaemon):
    """The installed daemon, as faults need it."""

    def find_again(self) -> None:
        """Its controller has booted."""
        self._look()


@dataclass
class Raged:
    """A storm that is over."""

    storm: Storm
    arena: Arena
    daemon: StormyDaemon
    receiver: Recorder
    tests: tuple[str, ...]  # of each experiment
    verified: list[str]  # what `autoperfctl verify` found wrong
    attempts: int = 0
    charged: int = 0

    def summary(self) -> str:
        """What happened, in a line."""
        return (
            f"{len(self.storm.struck)} faults of {len(self.storm.kinds())} kinds struck {2 * len(self.tests)} tests, "
            f"which took {self.attempts} attempts, {self.charged} of them failed by the tool's own fault; "
            f"{len(self.storm.resumed)} times a person had to resume"
        )


def settings(tests: int) -> dict[str, list[int]]:
    """A space of exactly so many tests (a multiple of 8), one eighth of which are broken."""
    assert tests % len(SIZES) == 0, tests
    counts = range(10, 10 + tests // len(SIZES))
    return {
        "duration_secs": [3],
        "datalen_bytes": list(SIZES),
        "pub_count": [1],
        "sub_count": [1],
        "latency_count": list(counts),
    }


def names_of(space: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """The names of its tests in their order, spelt once more."""
    words = {"duration_secs": "SEC", "datalen_bytes": "B", "pub_count": "PUB", "sub_count": "SUB"}
    words["latency_count"] = "LC"
    return tuple(
        "_".join(f"{value}{words[key]}" for key, value in zip(space, values, strict=True))
        for values in itertools.product(*space.values())
    )


def rage(
    lab: ContainerLab, first: int, count: int, tests: int, tell: Callable[[str], None] = print, flood_mb: int = 50
) -> Raged:
    """Let the faults `first` … `first + count - 1` strike two experiments of `tests` tests each, until all have ended.

    The daemon is stopped at the end. Raises AssertionError or AutoperfError when something does not go on.
    """
    space = settings(tests)
    lines = "".join(f"{key} = {json.dumps(values)}\n" for key, values in space.items())
    daemon = StormyDaemon(lab)
    receiver = lab.recorder()
    lab.copy_to("controller", "/etc/credstore/autoperf.webhook_url", f"{receiver.url}/hook\n", 0o600)
    pairs = (lab.machines[:2], lab.machines[2:4])
    texts = [
        experiment(
            name,
            lines,
            machines,
            "pub sub",
            exec_path=TOOL,
            environment=ENVIRONMENT,
            share_network=True,
            reboot=reboot,
            retries=RETRIES,
            buffer_secs=BUFFER_SECS,
            halt_after_consecutive_failures=HALT_AFTER,
        )
        for name, machines, reboot in zip(NAMES, pairs, REBOOT.values(), strict=True)
    ]
    with netns.inside(lab.switch.netns):
        plug = Plug(lab, lab.gateway_ip, 8081)
    texts = [WITH_NAME.sub(r'\g<0>\npower_cycle = "plug-\1"', text) for text in texts]
    arena = Arena(lab, daemon, dict(zip(NAMES, zip(texts, pairs, strict=True), strict=True)), flood_mb)
    arena.equip()
    daemon.drop_in(QUICK_RESTARTS)
    switches = {f"power.plug-{machine.name}": {"url": plug.url(machine.name)} for machine in lab.machines}
    daemon.start(webhook={"allow_http": True}, machines=PATIENCE, **switches)
    daemon.controller.run("systemctl enable autoperfd", check=True)
    daemon.run(*texts)
    daemon.until(lambda: arena.look() and len(arena.states) == 2, "both experiments are accepted")
    storm = Storm(arena, first, count, 2 * tests, tell)
    try:
        storm.rage()
        storm.see_out()
    except AutoperfError as error:
        daemon.find_again()
        error.add_note(
            daemon.controller.run("journalctl -u autoperfd -o short-precise --no-pager | tail -n 300").stdout
        )
        raise
    finally:
        plug.stop()
    daemon.until(lambda: not left(lab.machines), "nothing of ours is left on the machines")
    daemon.until(lambda: _told(daemon), "everybody was told")
    verified = [f"{name}: {problem}" for name in NAMES for problem in daemon.verify(name)]
    daemon.systemctl("stop")
    return Raged(storm, arena, daemon, receiver, names_of(space), verified)


def left(machines: Sequence[ContainerMachine]) -> list[str]:
    """What of ours is on machines still."""
    return [*leftovers.processes(machines), *leftovers.folders(machines)]


def _told(daemon: StormyDaemon) -> bool:
    return not daemon.ask("status")["data"]["attention"]


# ---------------------------------------------------------------- what must hold


def problems(raged: Raged) -> list[str]:
    """Everything that does not hold after a storm, as sentences."""
    memory = read_memory(raged.daemon.state)
    return [
        *raged.verified,
        *_verdicts(raged, memory),
        *_blame(raged, memory),
        *_successes(raged, memory),
        *_starts(raged, memory),
        *_traces(raged),
        *_messages(raged, memory),
    ]


@contextlib.contextmanager
def _copied(state: Path) -> Iterator[sqlite3.Connection]:
    """A copy of a stopped daemon's memory; SQLite itself would follow /proc/PID/root out of the container."""
    with tempfile.TemporaryDirectory() as folder:
        for path in state.glob("autoperf.db*"):
            if path.suffix in (".db", ".db-journal"):
                shutil.copyfile(path, Path(folder, path.name))
        with contextlib.closing(sqlite3.connect(Path(folder, "autoperf.db"))) as db:
            yield db


def read_memory(state: Path) -> Memory:
    """The rows of a stopped daemon's memory."""
    with _copied(state) as db:
        return evidence.read_memory(db)


def _numbers(raged: Raged) -> dict[int, str]:
    with _copied(raged.daemon.state) as db:
        return dict(db.execute("SELECT id, name FROM experiments"))


def _verdicts(raged: Raged, memory: Memory) -> Iterator[str]:
    """Exactly one verdict a test, and the right one."""
    numbers = _numbers(raged)
    misbehaved = _misbehaved(raged)
    unlucky = Counter((row.experiment, row.test) for row in memory.attempts if row.uid in misbehaved)
    limits = {
        number: Limits(
            name=name,
            folder=name,
            machines=tuple(machine.name for machine in raged.arena.experiments[name][1]),
            reboot=REBOOT[name],
            buffer_secs=BUFFER_SECS,
            tests=raged.tests,
            retries=(RETRIES, RETRIES),
            halt_after=(HALT_AFTER, HALT_AFTER),
        )
        for number, name in numbers.items()
    }
    yield from invariants.problems(Evidence(memory, limits, ended=True))
    if sorted(numbers.values()) != sorted(NAMES):
        yield f"the memory has the experiments {sorted(numbers.values())}"
    for number, name in numbers.items():
        verdicts = [test for test in memory.tests if test.experiment == number]
        twice = [test for test, times in Counter(test.name for test in verdicts).items() if times > 1]
        yield from (f"{name}: {test} has two verdicts" for test in twice)
        for test in verdicts:
            broken = f"_{BROKEN}B_" in test.name
            may_fail = broken or unlucky[number, test.name] > RETRIES  # the storm met it in each of its attempts
            if (test.status in KEPT and broken) or (test.status not in KEPT and not may_fail) or not test.status:
                yield f"{name}: the verdict of {test.name} is {test.status!r}"
        rows = raged.daemon.ess(name)
        known = [(row.test, row.number, row.status) for row in memory.attempts if row.experiment == number]
        shown = [(row["test_name"], int(row["attempt_number"]), row["end_status"]) for row in rows]
        if sorted(known) != sorted(shown):
            yield f"{name}: the ESS and the memory differ: {set(known) ^ set(shown)}"


def _blame(raged: Raged, memory: Memory) -> Iterator[str]:
    """Only attempts in which the tool misbehaved are charged to a test; an outage may have given them back once."""
    misbehaved = _misbehaved(raged)
    raged.attempts = len(memory.attempts)
    for row in memory.attempts:
        if row.blame == "test":
            raged.charged += 1
            if f"_{BROKEN}B_" not in row.test and row.uid not in misbehaved:
                yield (
                    f"attempt {row.number} of {row.test} ({row.uid}) is charged to the test as {row.status} "
                    f"({row.reason}), but the tool did nothing wrong in it"
                )
        elif row.status == "success" and any(kind.startswith(FATAL) for kind in misbehaved.get(row.uid, [])):
            yield f"attempt {row.number} of {row.test} is a success, but the tool did {misbehaved[row.uid]} in it"
    charged = Counter((row.experiment, row.test) for row in memory.attempts if row.blame == "test")
    yield from (
        f"{test} was charged {times} times" for (_, test), times in charged.items() if times > 2 * (RETRIES + 1)
    )
    for test in memory.tests:
        if test.status not in KEPT and charged[test.experiment, test.name] <= RETRIES:
            yield f"{test.name} was given up after {charged[test.experiment, test.name]} charged attempts"


def _misbehaved(raged: Raged) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for machine in raged.arena.lab.machines:
        for uid, kind in raged.arena.misbehaved(machine).items():
            found.setdefault(uid, []).append(kind)
    return found


def _successes(raged: Raged, memory: Memory) -> Iterator[str]:
    """Every archive is whole and the attempt's own; every success proves itself."""
    numbers = _numbers(raged)
    for row in memory.attempts:
        if not row.archive:
            continue
        path = raged.daemon.state / "results" / numbers[row.experiment] / row.archive
        yield from archive.problems(path)
        if archive.sha256_of_file(path) != row.sha256:
            yield f"{path.name} of {row.test} is not the one that the memory knows"
        about, found = (_json(path, name) for name in ("attempt.json", "evidence.json"))
        if (about["uid"], about["number"], about["plan"]["test_name"]) != (row.uid, row.number, row.test):
            yield f"{path} holds attempt {about['number']} of {about['plan']['test_name']} ({about['uid']})"
        if row.status == "success":
            if found["boot_before"] != found["boot_after"] or len(found["boot_before"]) != 2:
                yield f"{row.test} is a success, but its machines rebooted: {found}"
            if any(record["exit"] != 0 or record["ended_by"] != "self" for record in found["records"]):
                yield f"{row.test} is a success, but not every participant ended well: {found['records']}"


def _json(path: Path, member: str) -> Any:
    return json.loads(archive.read_text(path, member) or b"{}")


def _starts(raged: Raged, memory: Memory) -> Iterator[str]:
    """No attempt was started twice on a machine, and none that the memory does not know."""
    known = {row.uid: row for row in memory.attempts}
    for number, name in _numbers(raged).items():
        for machine in raged.arena.experiments[name][1]:
            for uid, times in raged.arena.starts(machine).items():
                if times > 1:
                    yield f"attempt {uid} was started {times} times on {machine.name}"
                if uid not in known or known[uid].experiment != number:
                    yield f"attempt {uid}, which ran on {machine.name}, is none of {name}'s"
    started = [raged.arena.starts(machine) for machine in raged.arena.lab.machines]
    for row in memory.attempts:
        if row.status == "success" and sum(found[row.uid] for found in started) != 2:
            yield f"{row.test} is a success, but did not run on two machines"


def _traces(raged: Raged) -> Iterator[str]:
    """No process, no temporary file, no error nobody foresaw."""
    yield from (f"left on {line}" for line in left(raged.arena.lab.machines))
    for path in (raged.daemon.state / "results").rglob("*"):
        if path.name.startswith(".") or ".edited-" in path.name:
            yield f"a file was left: {path.relative_to(raged.daemon.state)}"
    log = raged.daemon.log()
    if "Traceback" in log:
        yield f"the log has a traceback: {log[log.index('Traceback') :][:3000]}"


def _messages(raged: Raged, memory: Memory) -> Iterator[str]:
    """People were told of every halt, and with one message of each, but for what another's message told of."""
    told: dict[tuple[str, str, int], set[str]] = {}
    for request in raged.receiver.requests:
        message = request.json()
        if message["kind"] == "halt":
            key = (message["kind"], message["experiment"], message["incident"])
            told.setdefault(key, set()).add(request.headers["idempotency-key"])
    yield from (f"{key} was told in {len(ids)} messages" for key, ids in told.items() if len(ids) > 1)
    known = {
        ("halt", str(facts["experiment"]), int(facts["incident"]))
        for row in memory.outbox
        if row.kind == "halt" and row.state != "merged"
        for facts in [json.loads(row.facts)]
    }
    yield from (f"nobody was told of {key}" for key in known - told.keys())
    yield from (f"{key} was told, but nobody knows of it" for key in told.keys() - known)
