"""Results of a small experiment, made by the real engine with real archives in a folder, to be verified and tampered.

`Bench` lets every attempt end as told and packs what the daemon's workers would pack. `verified` verifies a state
folder in this process, as `autoperfctl verify` does when no daemon answers.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoperfd.core import messages as m
from autoperfd.core.policy import KEPT
from autoperfd.ctl import copies
from autoperfd.daemon import archive
from autoperfd.daemon.store import AttemptRow, ExperimentRow, SaveExport, row_sum
from autoperfd.errors import DaemonDown
from autoperfd.verify.findings import Findings
from autoperfd.verify.reader import Taken, verify
from tests.daemon.support import Rig, toml

NAME, FOLDER = "PCG #1", "PCG_1"
BOOTS = {"p1": "boot of 10.0.0.1", "p2": "boot of 10.0.0.2"}


class Bench(Rig):
    """A rig whose attempts leave archives."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **settings)
        (folder / "lock").touch()  # as the daemon's process would

    def close(
        self, status: str = "success", *, records: Mapping[str, Any] | None = None, repeat: int = 3, **more: Any
    ) -> None:
        """The attempt under way ends so, with an archive that tells of it. `records`: what is other in each."""
        self.clock.now += 10
        life = self.life()
        plan = life.plan
        data = self.settings.state / "results" / FOLDER / "data" / life.test
        staging = data / f".attempt-{life.number}.partial"
        staging.mkdir(parents=True, exist_ok=True)
        names, files = {}, []
        for one in plan.participants:
            for name in (*one.files, one.stdout, one.stderr):
                content = f"{name} of {life.uid}\n".encode() * repeat
                (staging / name).write_bytes(content)
                names[name] = hashlib.sha256(content).hexdigest()
                files.append({"name": name, "size": len(content), "sha256": names[name], "machine": one.machine})
        told = {"exit": 0, "signal": None, "ended_by": "self", "started": 5.0, "ended": 9.5, **(records or {})}
        evidence = {
            "records": [{"name": one.name, "machine": one.machine, **told} for one in plan.participants],
            "boot_before": BOOTS,
            "boot_after": BOOTS,
            "stagger_secs": 0.002,
            "problems": {},
        }
        fields: dict[str, Any] = {"end_status": status, "evidence": json.dumps(evidence)}
        if status not in KEPT:
            fields |= {"blame": "test", "code": status.upper(), "reason": f"=because; -of {status}"}
        else:
            fields |= {"figures": {"tool_version": "3.2", "latency_mean_us": 12.5, "total_samples": life.number * 100}}
        result = m.AttemptResult(**{**fields, **more})
        about = {"uid": life.uid, "number": life.number, "plan": json.loads(plan.to_json())}
        texts = {
            "attempt.json": _json(about),
            "evidence.json": _json({**evidence, "files": files}),
            "machines.json": _json({name: {"facts": dict(facts)} for name, facts in life.facts.items()}),
            "result.json": _json({"uid": life.uid, **asdict(result)}),
        }
        target = data / f"attempt-{life.number}.tar.gz"
        sha256, size = archive.build(target, staging, names, texts, self.clock.wall())
        for path in staging.iterdir():
            path.unlink()
        staging.rmdir()
        place = {"archive": f"data/{life.test}/{target.name}", "sha256": sha256, "size": size}
        result = m.AttemptResult(**{**asdict(result), **place})
        self.answer(1, m.Succeeded(result=result) if status in KEPT else m.Failed(result=result))

    def save(self) -> None:
        """Let the memory know how the sheets look, which the engine does with its next commit."""
        for entry in self.engine.entries.values():
            if entry.export_state:
                self.memory.commit([SaveExport(entry.life.id, entry.export_state)])


def finished(folder: Path) -> Path:
    """A finished experiment of five tests: retried, given up, skipped, without a summary, well. The state folder."""
    bench = Bench(folder)
    bench.submit(toml(lengths=(100, 200, 300, 400, 500), retries=1, halt_after_consecutive_failures=5))
    for statuses in (("success",), ("crashed", "success"), ("timeout", "no-data")):
        for status in statuses:
            bench.running()
            bench.close(status)
    assert bench.ask("skip", test=bench.life().sweep.name_at(3)).ok
    bench.running()
    bench.close("no-summary", records={"ended_by": "grace", "exit": None, "signal": 15})
    assert bench.life().outcome == "finished", bench.life().to_json()
    bench.answer(1, m.Swept())
    bench.save()
    bench.stop()
    return folder


def verified(state: Path, *, live: bool = False, name: str = NAME) -> Findings:
    """What the independent reader says of a state folder. `live`: as strictly as when a daemon runs."""

    def nobody(command: str, args: dict[str, object]) -> dict[str, object]:
        raise DaemonDown("autoperfd is not running")

    with tempfile.TemporaryDirectory() as scratch:

        def take() -> Taken:
            copy = copies.take(nobody, state, Path(scratch))
            return Taken(copy.memory, copy.results, live)

        return verify(name, take, Path(scratch))


def sentences(found: Findings) -> list[str]:
    """The problems alone."""
    return [one.sentence for one in found.problems]


def opened(state: Path) -> sqlite3.Connection:
    """The memory, for a tamperer."""
    db = sqlite3.connect(state / "autoperf.db", isolation_level=None)
    db.row_factory = sqlite3.Row
    return db


def dump(state: Path) -> list[str] | str:
    """All that the memory says, its tables included; the error where it cannot be read."""
    db = sqlite3.connect(f"file:{state}/autoperf.db?mode=ro&immutable=1", uri=True)
    db.text_factory = bytes
    try:
        tables = [name.decode() for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        lines = [repr(row) for row in db.execute("SELECT * FROM sqlite_master")]
        for name in tables:
            lines += [
                f"{name} {row!r}"
                for row in db.execute(
                    f"SELECT rowid, * FROM {name} NOT INDEXED"
                    if name in _ROWID
                    else f"SELECT * FROM {name} NOT INDEXED"
                )
            ]
        return lines
    except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite's message quotes what it found
        return str(error)
    finally:
        db.close()


def forge(db: sqlite3.Connection, table: str, where: str, **values: Any) -> int:
    """Change rows and give them the checksum they need. How many there were."""
    keys = {"attempts": AttemptRow.__slots__[1:], "experiments": ExperimentRow.__slots__}
    rows = db.execute(
        f"SELECT rowid AS at, * FROM {table} WHERE {where}"
        if table in _ROWID
        else f"SELECT * FROM {table} WHERE {where}"
    ).fetchall()
    for row in rows:
        names = [name for name in tuple(row.keys()) if name != "at"]
        columns = keys.get(table) or [name for name in names if name not in ("sum", "id")]
        new = {column: values.get(column, row[column]) for column in columns}
        same = " AND ".join(f"{c} IS ?" for c in names)
        old = [row[c] for c in names]
        changed = ", ".join(f"{column} = ?" for column in new)
        db.execute(f"UPDATE {table} SET {changed}, sum = ? WHERE {same}", [*new.values(), row_sum(*new.values()), *old])
    return len(rows)


_ROWID = ("attempts", "history", "requeued")


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"
