"""Makes the golden memories: what the daemon of each released schema left behind, as its own code wrote it.

`python -m tests.daemon.golden` writes `tests/data/memory/v<n>.db` and `v<n>.json` (every row) for the schema of today,
and refuses to replace them: an old memory can be made by old code only. One thread.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from autoperfd.core import messages as m
from autoperfd.daemon.store import SCHEMA_VERSION, PinRow, SaveMeta
from tests.daemon.support import Rig, toml

MEMORIES = Path(__file__).parents[1] / "data" / "memory"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"
DRAWN = """
[experiments.qos_settings]
duration_secs = [4]
datalen_bytes = { min = 28, max = 1000 }
pub_count = [1]
sub_count = [1]
latency_count = [100]
"""
Rows = dict[str, list[dict[str, Any]]]


def live(rig: Rig) -> None:
    """A short life that leaves something in every table; it ends in the middle of an attempt."""
    rig.memory.commit([SaveMeta("installation", "0011223344556677"), SaveMeta("started", "1700000000.0")])
    rig.engine.trust([PinRow(host=f"10.0.0.{n}", port=22, key=f"{KEY}{n}", who="ann", pinned=1.5) for n in (1, 2, 3)])
    rig.submit(
        toml("PCG #1", lengths=(100, 200, 300, 400, 500, 600), retries=1),
        toml(
            "drawn",
            machines=("10.0.0.3", "10.0.0.4"),
            network="other",
            qos=DRAWN,
            combination_generation_type="rcg",
            rcg_test_count=20,
        ),
    )
    rig.running(1)
    rig.succeed(1)
    for _ in range(2):  # given up: both of its attempts failed
        rig.running(1)
        rig.fail(1, "no-data", machine="p2", code="NO_DATA", evidence='{"exits":{"pub_0":0}}')
    rig.ask("skip", test="4SEC_500B_1PUB_1SUB_REL_UC_100LC", experiment="PCG #1")
    rig.running(2)
    rig.ask("halt", experiment="drawn")
    rig.deliver("failed", "refused with HTTP 500")
    rig.running(1)
    rig.ask("halt", experiment="PCG #1")  # interrupted: to be tried again first
    rig.deliver("sent")
    rig.ask("resume", experiment="PCG #1")
    for _ in range(2):
        rig.running(1)
        rig.fail(1, "timeout", machine="p2")
    rig.answer(1, m.Unreachable(machine="p2", reason="p2: is away", code="PING"))  # each gets its attempts back
    rig.answer(1, m.Due())
    rig.running(1)
    rig.ask("retry", failed=True)


def rows(path: Path) -> Rows:
    """Every row of a memory's tables, as it stands there."""
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
        return {table: [dict(row) for row in db.execute(f"SELECT * FROM {table} ORDER BY 1, 2")] for table in tables}


def main() -> int:
    """Make them for the schema of today."""
    path = MEMORIES / f"v{SCHEMA_VERSION}.db"
    if path.exists():
        print(f"{path} is there already; only the code of that time could make it", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder), webhook=True)
        live(rig)

        rig.stop()
        found = Path(folder, "autoperf.db")
        missing = [table for table, content in rows(found).items() if not content]
        assert not missing, f"nothing is in {missing}"
        MEMORIES.mkdir(exist_ok=True)
        shutil.copyfile(found, path)
        path.with_suffix(".json").write_text(json.dumps(rows(path), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
