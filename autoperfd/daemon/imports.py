"""Reads an `ess.csv` the memory does not know (a restored or copied experiment) as history. Intake thread; blocks.

Only a success whose archive verifies counts as done; whatever cannot be read is left out, never guessed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from autoperfd.core.ess import ESS_COLUMNS, text_of
from autoperfd.core.names import parse_name, test_name
from autoperfd.core.plan import END_STATUSES
from autoperfd.core.policy import KEPT
from autoperfd.core.sweep import Sweep
from autoperfd.daemon import archive
from autoperfd.daemon.store import AttemptRow

MOST_BYTES = 1 << 28


def read_history(folder: Path, sweep: Sweep) -> list[AttemptRow]:
    """The attempts an experiment's results folder tells of, in its order; [] where there is no readable ESS.

    A row's `status` is "success" or "no-summary" only where its archive is whole. `experiment` and `id` are 0.
    """
    path = folder / "ess.csv"
    try:
        if path.is_symlink() or path.stat().st_size > MOST_BYTES:
            return []
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file)
            if not set(ESS_COLUMNS) <= set(reader.fieldnames or ()):
                return []
            return list(_numbered(_rows(reader, folder, sweep)))
    except (OSError, csv.Error):
        return []


def _numbered(rows: Iterator[AttemptRow]) -> Iterator[AttemptRow]:
    seen: set[tuple[str, int]] = set()
    place = 0
    for row in rows:
        if (row.test, row.number) not in seen:
            seen.add((row.test, row.number))
            place += 1
            yield replace(row, closed=place)


def _rows(reader: csv.DictReader[str], folder: Path, sweep: Sweep) -> Iterator[AttemptRow]:
    for cells in reader:
        test, status = cells["test_name"], cells["end_status"]
        try:
            settings = parse_name(test)
            number, pings, checks = (int(cells[name]) for name in ("attempt_number", "pings_count", "ssh_check_count"))
            started = datetime.fromisoformat(cells["start_timestamp"]).timestamp()
            ended = datetime.fromisoformat(cells["end_timestamp"]).timestamp() if cells["end_timestamp"] else started
        except (ValueError, TypeError):
            continue
        if not sweep.covers(test) or status not in (*END_STATUSES, "running") or not 0 < number < 10**9:
            continue
        row = AttemptRow(
            id=0,
            experiment=0,
            test=test_name(settings),
            number=number,
            uid="",
            started=started,
            ended=ended,
            status="interrupted" if status == "running" else status,
            blame=cells["blame"],
            machine=text_of(cells["machine"]),
            code="IMPORTED",
            reason=text_of(cells["reason"]),
            pings=pings,
            ssh_checks=checks,
            settings=json.dumps(settings),
            archive="",
            sha256="",
            size=0,
            figures="{}",
            evidence="{}",
            plan="",
            facts="{}",
        )
        yield _with_archive(row, folder)


def _with_archive(row: AttemptRow, folder: Path) -> AttemptRow:
    """The row with what its archive proves; a success without a whole archive is none."""
    path = folder / "data" / row.test / f"attempt-{row.number}.tar.gz"
    wrong = archive.problems(path) if path.is_file() and not path.is_symlink() else ["its archive is missing"]
    if not wrong:
        result = json.loads(archive.read_text(path, "result.json") or b"{}")
        about = json.loads(archive.read_text(path, "attempt.json") or b"{}")
        if about.get("plan", {}).get("test_name") == row.test and result.get("end_status") == row.status:
            return replace(
                row,
                uid=str(result.get("uid", "")),
                figures=json.dumps(result.get("figures", {})),
                archive=str(path.relative_to(folder)),
                sha256=archive.sha256_of_file(path),
                size=path.stat().st_size,
            )
        wrong = ["its archive is of another attempt"]
    if row.status in KEPT:
        return replace(row, status="invalid", blame="operator", reason=f"imported, but {wrong[0]}")
    return row
