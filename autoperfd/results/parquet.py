"""Writes tests as a Parquet file with typed columns. pyarrow lives here, and nowhere else. One thread.

Settings are integers and booleans, figures doubles, those of each subscriber lists of doubles; the unknown is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from autoperfd.core.names import BY_NAME
from autoperfd.results.gather import Test
from autoperfd.results.select import ABOUT, COLUMNS, value

STARTS = b"PAR1"
LISTS = ("sub_samples", "sub_samples_per_s", "sub_mbps", "sub_lost", "sub_lost_percent")


def is_one(start: bytes) -> bool:
    """Whether a file that begins so is a Parquet file."""
    return start.startswith(STARTS)


def write(file: BinaryIO, experiment: str, tests: Sequence[Test]) -> None:
    """Write the tests, a row each, and the experiment's name as metadata. Raises OSError."""
    fields = [*(pa.field(name, _type(name)) for name in COLUMNS), *_times()]
    schema = pa.schema(fields, metadata={"autoperfd.experiment": experiment})
    columns: list[list[Any]] = [[_cell(test, name) for test in tests] for name in COLUMNS]
    for at in (0, 1):
        columns.append([_when(test)[at] for test in tests])
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)], schema=schema
    )
    pq.write_table(table, file)


def _times() -> list[Any]:
    return [pa.field(name, pa.timestamp("ms", tz="UTC")) for name in ("started", "ended")]


def _when(test: Test) -> tuple[int | None, int | None]:
    """When its kept or latest attempt began and ended, in milliseconds since 1970."""
    last = test.last
    if last is None:
        return None, None
    return round(last.started * 1000), round(last.ended * 1000) if last.ended is not None else None


def _type(name: str) -> Any:
    if name == "attempts":
        return pa.int32()
    if name in ABOUT or name == "tool_version":
        return pa.string()
    if name in BY_NAME:
        return pa.bool_() if BY_NAME[name].boolean else pa.int64()
    return pa.list_(pa.float64()) if name in LISTS else pa.float64()


def _cell(test: Test, name: str) -> Any:
    found = value(test, name)
    if found is None or name in ABOUT or name in BY_NAME or name == "tool_version":
        return found
    if name in LISTS:
        return [float(part) if part else None for part in str(found).split(";")]
    return float(found)
