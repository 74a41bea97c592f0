"""The write protocols whose crash states are tried: what each does in a traced process, and what it promised.

Run as a program it does one protocol's work in a folder: `python -m tests.crashstates.protocols NAME ROOT TOLD MUTANT`.
`told` is the world: what was written there has been promised when it was written. `check` recovers in a folder that
holds one crash state and gives what is broken, as sentences; it may be called in any process. One thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from autoperfd.core import messages as m
from autoperfd.core.ess import ESS_COLUMNS
from autoperfd.core.plan import Plan
from autoperfd.daemon import archive, exports, files, store, workers
from autoperfd.daemon.exports import Exports, ess_text
from autoperfd.daemon.parse import Parsed
from autoperfd.daemon.spool import CLAIMED, REJECTED, Drop, Spool
from autoperfd.daemon.store import AttemptRow, Store, open_store
from autoperfd.errors import AutoperfError, ConfigError, Problem

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Protocol:
    """One way of writing files. `each_promise`: the same files must be right for every promise, not just the last."""

    name: str
    prepare: Callable[[Path], None]  # what lies there, durably, before
    act: Callable[[Path, Tell], None]
    check: Callable[[Path, Sequence[str]], list[str]]  # (files, what was told)
    each_promise: bool = False


# ---------------------------------------------------------------- the memory, the outbox and the pins in it

PLAN = Plan(tool="perftest", test_name="4SEC", settings=(), domain=7, duration_secs=4, participants=())


def _experiment(size: int) -> store.ExperimentRow:
    return store.ExperimentRow(
        id=1, name="PCG #1", folder="PCG_1", identity="i", document="d" * size, seed=None, owner=0, accepted=1.0
    )


def _opened(place: int) -> m.AttemptOpened:
    return m.AttemptOpened(
        test=f"t{place}", index=place, number=1, uid=f"{place:032x}", started=float(place), pings=1, ssh_checks=1,
        plan=PLAN, facts={},
    )  # fmt: skip


def _closed(place: int) -> m.AttemptClosed:
    result = m.AttemptResult(end_status="success", archive="a", sha256="0", size=1, evidence="e" * 900)
    return m.AttemptClosed(
        test=f"t{place}", number=1, uid=f"{place:032x}", ended=float(place), settings={}, result=result
    )


def _message(state: str) -> store.OutboxRow:
    return store.OutboxRow(
        id="m1", created=1.0, kind="halt", facts="{}", tries=int(state != "waiting"), next_at=1.0, state=state, why=""
    )


def commits() -> list[list[store.Write]]:
    """The transactions of the protocol: small and large, with rows added, changed and removed."""
    pin = store.PinRow(host="h", port=22, key="ssh-ed25519 A", who="ann", pinned=1.0)
    found: list[list[store.Write]] = [
        [store.SaveMeta("installation", "x")],
        [_experiment(9000), store.SaveLife(1, json.dumps({"uid": ""})), pin],
        [store.Happened(1, _opened(0)), _message("waiting")],
        [store.Happened(1, _closed(0)), store.SaveExport(1, "{}"), store.SaveHistory(1.0, 1, "t0", "e", "a", "b", "")],
        [_message("sent"), store.ForgetPins("h", 22)],
    ]
    found.append([store.Happened(1, change) for place in range(1, 9) for change in (_opened(place), _closed(place))])
    found.append([_experiment(100), store.SaveMeta("stopped", "1")])
    return found


def _nothing(memory: Store) -> None:
    pass


def write_memory(root: Path, tell: Tell, note: Callable[[Store], None] = _nothing) -> None:
    """From wherever the memory is to its end, with one restart in between. Told is which dump may be believed."""
    memory = open_store(root / "autoperf.db")
    note(memory)
    at = 0 if note is not _nothing else _dumps().index(dump(memory))
    tell(str(at))
    for number, writes in list(enumerate(commits(), 1))[at:]:
        if number == 6:
            memory.close()
            memory = open_store(root / "autoperf.db")
        memory.commit(writes)
        note(memory)
        tell(str(number))
    memory.close()


def dump(memory: Store) -> str:
    """All that a memory says."""
    (version,) = memory._db.execute("PRAGMA user_version").fetchone()
    return "\n".join([f"version {version}", *memory._db.iterdump()])


@cache
def _dumps() -> list[str]:
    """What the memory says after each promise."""
    found: list[str] = []
    with TemporaryDirectory() as folder:
        write_memory(Path(folder), lambda what: None, lambda memory: found.append(dump(memory)))
    return found


def check_memory(root: Path, told: Sequence[str]) -> list[str]:
    """Recovering changes nothing that was recovered, so it is done twice."""
    for _ in range(2):
        try:
            with closing(open_store(root / "autoperf.db")) as memory:
                memory.load()
                found = dump(memory)
        except AutoperfError as error:
            return [f"the memory cannot be used: {error.sentence()}"]
        if found not in _dumps()[int(told[-1]) if told else 0 :]:
            older = found in _dumps()
            return [f"{told[-1:]} was told and the memory is {'older than that' if older else 'none it ever was'}"]
    return []


MEMORY = Protocol("memory", lambda root: None, write_memory, check_memory)


# ---------------------------------------------------------------- ess.csv and summary.csv


def _row(place: int) -> AttemptRow:
    """The `place`-th attempt to end."""
    row = store.opened_row(1, replace(_opened(place), test=f"{place:03d}SEC_100B"))
    return store.closed_row(1, replace(_closed(place), test=row.test), row, place)


def _running(place: int) -> AttemptRow:
    return store.opened_row(1, replace(_opened(place), test=f"{place:03d}SEC_100B", plan=PLAN))


def _exports(root: Path, rows: int, state: str) -> Exports:
    """Exports on a memory that holds so many ended attempts."""
    return Exports(root, (), (), lambda place: [_row(number) for number in range(place + 1, rows + 1)], state)


EDIT = b"start_timestamp,comment\n2026-01-01,mine\n"


def _size_alone(status: os.stat_result) -> list[int]:
    """After a power cut a file may have its inode, its size and its time without its data."""
    return [status.st_size]


def write_exports(root: Path, tell: Tell) -> None:
    exports.GrowingCsv._identity = staticmethod(_size_alone)  # type: ignore[method-assign]
    rows, state, kept, edited = 0, "", "", False

    def commit(runs: bool) -> None:
        """The memory is durable by itself; the state of the files is kept one commit later."""
        nonlocal kept
        kept = state
        tell(json.dumps({"rows": rows, "runs": runs, "state": kept, "edited": edited}))

    def export(runs: bool) -> None:
        nonlocal state
        now.rows = rows
        state = now.exports.update(_running(rows + 1) if runs else None)

    now = _Files(root, rows, "")
    for number in range(6):
        commit(runs=True)
        export(runs=True)
        if number == 2:
            (root / "ess.csv").unlink()
        if number == 3:
            files.replace(root / "ess.csv", EDIT)  # somebody saves it, well
            edited = True
        rows += 1
        commit(runs=False)
        export(runs=False)
        if number == 4:
            now = _Files(root, rows, kept)  # a restart
            export(runs=False)


class _Files:
    """The exports of a daemon's life, on a memory of so many rows."""

    def __init__(self, root: Path, rows: int, state: str) -> None:
        self.rows = rows
        self.exports = Exports(
            root, (), (), lambda place: [_row(number) for number in range(place + 1, self.rows + 1)], state
        )


def check_exports(root: Path, told: Sequence[str]) -> list[str]:
    if not told:
        return []
    known = json.loads(told[-1])
    identity = vars(exports.GrowingCsv)["_identity"]  # the staticmethod itself
    exports.GrowingCsv._identity = staticmethod(_size_alone)  # type: ignore[method-assign]
    try:
        return list(_wrong_exports(root, known["rows"], known["runs"], known["state"], known["edited"]))
    finally:
        exports.GrowingCsv._identity = identity  # type: ignore[method-assign]


def _wrong_exports(root: Path, rows: int, runs: bool, state: str, edited: bool) -> Iterator[str]:
    running = _running(rows + 1) if runs else None
    _exports(root, rows, state).update(running)
    expected = b"".join([",".join(ESS_COLUMNS).encode() + b"\n", *(ess_text(_row(n)) for n in range(1, rows + 1))])
    if (root / "ess.csv").read_bytes() != expected + (ess_text(running) if running else b""):
        yield "ess.csv is not what the memory says"
    if (root / "summary.csv").read_bytes().count(b"\n") != rows + 1:
        yield "summary.csv is not what the memory says"
    if edited and EDIT not in [path.read_bytes() for path in root.glob("ess.edited-*")]:
        yield "somebody's edited copy is lost"
    if left := sorted(path.name for path in root.iterdir() if path.name.startswith(".")):
        yield f"left behind: {left}"


EXPORTS = Protocol("exports", lambda root: None, write_exports, check_exports, each_promise=True)


# ---------------------------------------------------------------- archives

CONTENT = {"pub_0.csv": b"1,2,3\n" * 400, "sub_0.stdout": b"", "sub_0.stderr": bytes(range(256)) * 8}


def write_archives(root: Path, tell: Tell) -> None:
    """As the daemon's workers do, an archive that is there already and whole is taken for what it is.

    The last one finds another attempt's archive in its place, as where an older memory was put back.
    """
    results = root / "results" / "PCG_1"
    task = workers._Task(None, 1, 1, None, results, None, threading.Event())  # type: ignore[arg-type]
    for number, test, uid in ((1, "t1", "a"), (2, "t1", "b"), (3, "t2", "c"), (3, "t2", "d")):
        data = results / "data" / test
        target, staging = data / f"attempt-{number}.tar.gz", data / f".attempt-{number}.partial"
        files.make_folder(staging)
        kept = task._kept(target, uid)
        if kept is None:
            for name, content in CONTENT.items():
                (staging / name).write_bytes(content)
            names = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
            texts = {"result.json": json.dumps({"uid": uid, "end_status": "success"}).encode()}
            sha256, _ = archive.build(target, staging, names, texts, 1_700_000_000)
        else:
            sha256 = kept.sha256
        shutil.rmtree(staging)
        tell(f"{target.relative_to(root)} {sha256} {'anywhere' if uid == 'c' else 'there'}")


def check_archives(root: Path, told: Sequence[str]) -> list[str]:
    wrong = []
    for name, sha256, where in (line.split(" ") for line in told):
        path = root / name
        found = {archive.sha256_of_file(other): other for other in path.parent.glob("*.tar.gz")}
        if sha256 not in found:
            wrong.append(f"{name} is lost")
        elif where == "there" and found[sha256] != path:
            wrong.append(f"{name} is another one")
    for path in root.rglob("attempt-*.tar.gz"):
        wrong += archive.problems(path)
    return wrong


ARCHIVES = Protocol("archives", lambda root: None, write_archives, check_archives)


# ---------------------------------------------------------------- the intake

QUEUE = {"good.toml": b"good\n" * 300, "bad.toml": b"bad\n", "refused.toml": b"refused\n", "ugly\n.toml": b"good\n"}


def prepare_queue(root: Path) -> None:
    (root / "queue").mkdir()
    (root / "accepted").mkdir()
    for name, content in QUEUE.items():
        (root / "queue" / name).write_bytes(content)


def _spool(root: Path, tell: Tell) -> Spool:
    """The intake; files that are written durably stand for the memory, whose own protocol is another."""

    def parse(data: bytes, file: str) -> Parsed:
        if data.startswith(b"bad"):
            raise ConfigError([Problem(file, 1, "key", "bad", "good")])
        return Parsed((), (data.decode(),))

    def offer(drop: Drop) -> tuple[Problem, ...]:
        if drop.data.startswith(b"refused"):
            return (Problem(drop.file, 0, "name", "refused", "another"),)
        files.replace(root / "accepted" / drop.file, drop.data)
        tell(f"accepted {drop.file}")
        return ()

    return Spool(root / "queue", parse, offer, lambda file, sentence: tell(f"rejected {file}"), settle_secs=0)


def write_intake(root: Path, tell: Tell) -> None:
    spool = _spool(root, tell)
    for _ in range(3):
        spool.look()


def check_intake(root: Path, told: Sequence[str], *, twice: bool = False) -> list[str]:
    """`twice`: a file may have been rejected a second time."""
    now: list[str] = []
    spool = _spool(root, now.append)
    for _ in range(4):
        spool.look()
    accepted, queue = root / "accepted", root / "queue"
    wrong = [f"trouble: {spool.trouble}"] if spool.trouble else []
    for name, content in QUEUE.items():
        kept = name.replace("\n", "_")
        places = [path for path in (queue / name, queue / CLAIMED / name, accepted / name) if path.exists()]
        rejected = [path for path in (queue / REJECTED).iterdir() if not path.name.endswith(".error.txt")]
        places += [path for path in rejected if path.name.partition("~")[0].removesuffix(".toml") + ".toml" == kept]
        if twice and len(places) > 1:
            places = [path for path in places if "~" not in path.name]
        if len(places) != 1:
            wrong.append(f"{name!r} is at {[str(path.relative_to(root)) for path in places]}")
        elif places[0].read_bytes() != content:
            wrong.append(f"{name!r} has another content at {places[0]}")
        elif places[0].parent not in (accepted, queue / REJECTED):
            wrong.append(f"{name!r} is still at {places[0].relative_to(root)}")
        elif places[0].parent != accepted and not places[0].with_name(f"{places[0].name}.error.txt").exists():
            wrong.append(f"{name!r} was rejected without a word")
    for promise in told:
        verb, _, name = promise.partition(" ")
        if verb == "accepted" and not (accepted / name).exists():
            wrong.append(f"{name!r} was accepted, and is not any more")
    left = [str(path.relative_to(root)) for path in queue.rglob(".*") if path.name != CLAIMED]
    return wrong + ([f"left behind: {left}"] if left else [])


INTAKE = Protocol("intake", prepare_queue, write_intake, check_intake)
# A crash between the copy and the removal leaves both; the second is read once more and comes to the same.
COPIES = Protocol("intake", prepare_queue, write_intake, partial(check_intake, twice=True))


# ---------------------------------------------------------------- status.json


def write_snapshots(root: Path, tell: Tell) -> None:
    for number in range(4):
        files.replace(root / "status.json", json.dumps({"n": number, "more": "x" * 700 * number}).encode())
        tell(str(number))


def check_snapshots(root: Path, told: Sequence[str]) -> list[str]:
    path = root / "status.json"
    if not path.exists():
        return ["status.json is lost"] if told else []
    try:
        found = json.loads(path.read_bytes())["n"]
    except ValueError:
        return [f"status.json cannot be read: {path.read_bytes()[:40]!r}"]
    return [] if not told or found >= int(told[-1]) else [f"status.json is back at {found}, {told[-1]} was told"]


SNAPSHOTS = Protocol("snapshots", lambda root: None, write_snapshots, check_snapshots)

PROTOCOLS = {p.name: p for p in (MEMORY, EXPORTS, ARCHIVES, INTAKE, SNAPSHOTS)}


def main(argv: Sequence[str]) -> None:
    """The traced process."""
    from tests.crashstates.mutants import MUTANTS

    name, root, told, mutant = argv
    if mutant:
        MUTANTS[mutant].put_in()
    world = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    PROTOCOLS[name].act(Path(root), lambda what: (os.write(world, f"{what}\n".encode()), None)[1])


if __name__ == "__main__":
    main(sys.argv[1:])
