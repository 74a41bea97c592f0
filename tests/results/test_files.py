"""What a researcher opens: Parquet with types, and every example of docs/RESULTS.md run on a real results folder."""

from __future__ import annotations

import contextlib
import io
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from autoperfd.core.ess import SPREAD, summary_columns
from autoperfd.core.names import KEYS
from autoperfd.results import parquet
from autoperfd.results.gather import STATES, Gathered, gather
from autoperfd.results.select import COLUMNS
from autoperfd.tools.judging import FIGURES
from tests.daemon.support import toml
from tests.verify.support import NAME, Bench

DOCUMENT = (Path(__file__).parents[2] / "docs" / "RESULTS.md").read_text(encoding="utf-8")
ENDINGS = {"_std_", "_min_", "_max_", "_min", "_max"}
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
QOS = """
[experiments.qos_settings]
duration_secs = [4]
datalen_bytes = [100, 200]
pub_count = [1]
sub_count = [2]
use_reliable = [true, false]
use_multicast = [true, false]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of an experiment in which one test failed and one is missing, and its Parquet file."""
    bench = Bench(tmp_path_factory.mktemp("state"))
    bench.submit(toml(qos=QOS, retries=0))
    for number in range(7):
        bench.running()
        figures = {
            "tool_version": "RTI Perftest 4.1",
            "latency_mean_us": 100.5 + number,
            "latency_99_us": 300,
            "total_samples": 300,
            "total_mbps": 1.5,
            "sub_samples": "100;200",
            "sub_lost_percent": "0;2.5" if number else "0;",
        }
        bench.close("timeout" if number == 3 else "success", figures={} if number == 3 else figures)
    place = bench.settings.state / "results" / "PCG_1"
    found = gathered(bench)
    with (place / "results.parquet").open("wb") as file:
        parquet.write(file, NAME, found.tests)
    bench.stop()
    return place


MANY = """
[experiments.qos_settings]
duration_secs = [4]
sub_count = [1, 2]
use_reliable = [true, false]
use_multicast = [true]
pub_count = [1]
datalen_bytes = [LENGTHS]
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder whose first 120 tests have whole numbers and one subscriber, and whose last ones have not."""
    bench = Bench(tmp_path_factory.mktemp("many"))
    bench.submit(toml(qos=MANY.replace("LENGTHS", ", ".join(map(str, range(100, 160)))), retries=0))
    for number in range(122):
        bench.running()
        late = {"latency_99_us": 300.5, "total_mbps": 1.5, "sub_samples": "100;200" if number == 120 else "100;"}
        whole = {"latency_99_us": 300, "total_mbps": 1, "sub_samples": 100}
        bench.close("success", figures={"tool_version": "4.1", **(whole if number < 120 else late)})
    bench.stop()
    return bench.settings.state / "results" / "PCG_1"


def gathered(bench: Bench) -> Gathered:
    with closing(sqlite3.connect(":memory:")) as db:
        db.row_factory = sqlite3.Row
        db.deserialize(bench.memory._db.serialize())
        return gather(db, NAME)


def test_parquet_has_types(folder: Path) -> None:
    table = pq.read_table(folder / "results.parquet")
    assert table.column_names == [*COLUMNS, "started", "ended"]
    assert table.schema.metadata[b"autoperfd.experiment"] == NAME.encode()
    kinds = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert kinds["datalen_bytes"] == "int64" and kinds["use_reliable"] == "bool" and kinds["attempts"] == "int32"
    assert kinds["latency_mean_us"] == "double" and kinds["started"] == "timestamp[ms, tz=UTC]"
    assert kinds["sub_samples"].startswith("list<") and kinds["state"] == "string"
    rows = table.to_pylist()
    assert [row["state"] for row in rows] == ["ok", "ok", "ok", "failed", "ok", "ok", "ok", "missing"]
    assert rows[0]["sub_samples"] == [100.0, 200.0] and rows[0]["sub_lost_percent"] == [0.0, None]
    assert rows[1]["sub_lost_percent_max"] == 2.5 and rows[0]["sub_lost_percent_max"] is None
    assert rows[3]["latency_mean_us"] is None and rows[3]["code"] == "TIMEOUT" and rows[7]["started"] is None
    assert rows[1]["ended"] > rows[1]["started"]


def test_there_are_examples_for_both_libraries() -> None:
    assert sum("import pandas" in text for text in EXAMPLES) == sum("import polars" in text for text in EXAMPLES) == 2


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_runs_as_it_stands(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    said, _ = ran(text)
    assert said.strip() and "Empty" not in said


@pytest.mark.parametrize("text", [text for text in EXAMPLES if "summary.csv" in text])
def test_an_example_does_not_judge_columns_by_their_first_rows(
    text: str, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(many)
    _, names = ran(text)
    summary = names["summary"]
    assert len(summary) == 122 and summary["latency_99_us"].max() == 300.5
    assert list(summary["sub_samples"])[-2:] == ["100;200", "100;"]
    if "each" in names:
        assert len(names["each"]) == 124


def ran(text: str) -> tuple[str, dict[str, Any]]:
    """What an example prints, and its names."""
    said, names = io.StringIO(), {"__name__": "__main__"}
    with contextlib.redirect_stdout(said):
        exec(compile(text, "docs/RESULTS.md", "exec"), names)
    return said.getvalue(), names


def test_every_column_is_explained() -> None:
    """By its name; settings, percentiles and figures of subscribers by the first and the last of their kind."""
    told = set(re.findall(r"`([a-z0-9_]+)`", DOCUMENT.partition("## pandas")[0]))
    settings = [key.name for key in KEYS]
    percentiles = [name for name in FIGURES if re.fullmatch(r"latency_[0-9_]+_us", name)]
    of_subscribers = [name for name in FIGURES if name.startswith("sub_")]
    for kind in (settings, percentiles, of_subscribers):
        assert {kind[0], kind[-1]} <= {*told, "latency_99_9999_us"}
    spreads = {f"{name}_{what}" for name in of_subscribers for what in SPREAD}
    moments = {f"latency_{what}_us" for what in ("std", "min", "max")}  # `_std_`, `_min_`, `_max_`
    by_kind = {*settings, *percentiles, *of_subscribers, *spreads, *moments}
    columns = {*summary_columns(settings, FIGURES), *COLUMNS, "started", "ended"}
    assert columns - by_kind <= told and told <= columns | {"no", "success", "missing", *moments, *STATES, *ENDINGS}


def test_what_is_no_parquet_file_is_known() -> None:
    assert parquet.is_one(b"PAR1...") and not parquet.is_one(b"") and not parquet.is_one(b"test_name,")
