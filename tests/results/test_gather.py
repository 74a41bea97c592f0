"""Every planned test is told of, by its kept attempt or its latest; groups count what failed beside what did not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from autoperfd.errors import AutoperfError
from autoperfd.results import gather as gathering
from autoperfd.results.gather import Gathered, gather
from autoperfd.results.select import COLUMNS, chosen, condition, grouped, value
from tests.daemon.support import toml
from tests.verify.support import NAME, Bench

SUBSCRIBERS = {"tool_version": "4.3", "latency_mean_us": 100.0, "total_samples": 4, "sub_samples": "1;3"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.stop()


@contextmanager
def memory(bench: Bench) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as db:
        db.row_factory = sqlite3.Row
        db.deserialize(bench.memory._db.serialize())
        yield db


def gathered(bench: Bench, name: str = NAME) -> Gathered:
    with memory(bench) as db:
        return gather(db, name)


def test_every_planned_test_has_its_state(bench: Bench) -> None:
    bench.submit(toml(lengths=(100, 200, 300, 400, 500, 600), retries=1, halt_after_consecutive_failures=5))
    for statuses in (("success",), ("crashed", "no-data"), ("no-summary",)):
        for status in statuses:
            bench.running()
            bench.close(status)
    assert bench.ask("skip", test=bench.life().sweep.name_at(4)).ok
    bench.running()
    found = gathered(bench)
    assert [(test.settings["datalen_bytes"], test.state, test.attempts) for test in found.tests] == [
        (100, "ok", 1),
        (200, "failed", 2),
        (300, "no-summary", 1),
        (400, "open", 1),
        (500, "skipped", 0),
        (600, "missing", 0),
    ]
    assert found.planned == 6 and found.whole
    assert found.counted() == {"ok": 1, "no-summary": 1, "failed": 1, "skipped": 1, "open": 1, "missing": 1}
    assert [attempt.end_status for attempt in found.attempts] == [
        *("success", "crashed", "no-data", "no-summary", "running"),
    ]
    last = found.tests[1].last
    assert last and (last.number, last.code, last.blame) == (2, "NO-DATA", "test")
    assert found.tests[4].settings["datalen_bytes"] == 500


def test_a_test_that_was_proven_stays_so_whatever_came_after(bench: Bench) -> None:
    bench.submit(toml(lengths=(100, 200)))
    bench.running()
    bench.close()
    first = bench.life().sweep.name_at(0)
    with memory(bench) as db:
        db.execute("UPDATE attempts SET figures = ?", ('{"latency_mean_us": 7}',))
        columns = [row["name"] for row in db.execute("PRAGMA table_info(attempts)") if row["name"] != "id"]
        changed = [{"number": "2", "status": "'timeout'", "uid": "'x'", "figures": "'{}'"}.get(c, c) for c in columns]
        changed[columns.index("closed")] = "closed + 100"
        db.execute(f"INSERT INTO attempts({', '.join(columns)}) SELECT {', '.join(changed)} FROM attempts LIMIT 1")
        found = gather(db, NAME)
    assert (found.tests[0].name, found.tests[0].state, found.tests[0].attempts) == (first, "ok", 2)
    assert found.tests[0].figures["latency_mean_us"] == 7 and found.tests[0].last
    assert found.tests[0].last.number == 1


def test_what_is_to_be_tried_again_is_open(bench: Bench) -> None:
    bench.submit(toml(lengths=(100, 200), retries=0))
    bench.running()
    bench.close("timeout")
    bench.running()
    assert bench.ask("retry", test=bench.life().sweep.name_at(0)).ok
    assert [test.state for test in gathered(bench).tests] == ["open", "open"]


def test_what_comes_before_the_resuming_test_is_skipped(bench: Bench) -> None:
    bench.submit(toml(lengths=(100, 200, 300), resuming_test_name="4SEC_300B_1PUB_1SUB_REL_UC_100LC"))
    assert [test.state for test in gathered(bench).tests] == ["skipped", "skipped", "missing"]


def test_of_a_space_without_end_what_was_begun_is_listed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MOST_TESTS", 3)
    bench.submit(toml(lengths=(100, 200, 300, 400)))
    bench.running()
    bench.close()
    found = gathered(bench)
    assert not found.whole and found.planned == 4 and [test.state for test in found.tests] == ["ok"]
    assert found.counted()["missing"] == 3


def test_an_unknown_experiment_names_those_there_are(bench: Bench) -> None:
    bench.submit(toml())
    with pytest.raises(AutoperfError) as caught:
        gathered(bench, "x")
    assert caught.value.sentence() == f"there is no experiment 'x'. Known are: {NAME}"
    assert gathered(bench, "PCG_1").name == NAME


def test_figures_of_subscribers_have_their_spread_and_groups_their_means(bench: Bench) -> None:
    bench.submit(toml(lengths=(100, 200, 300), retries=0))
    for status, more in (("success", {}), ("timeout", {}), ("success", {"latency_mean_us": 200.0})):
        bench.running()
        bench.close(status, figures={**SUBSCRIBERS, **more} if status == "success" else {})
    found = gathered(bench)
    ok = found.tests[0]
    assert (ok.figures["sub_samples_mean"], ok.figures["sub_samples_min"], ok.figures["sub_samples_max"]) == (2, 1, 3)
    (group,) = grouped(found.tests, ("use_reliable",))
    assert (group.tests, group.attempted, group.counts["ok"], group.counts["failed"]) == (3, 3, 2, 1)
    assert group.means["latency_mean_us"] == (150.0, 2) and "total_mbps" not in group.means
    assert [g.key for g in grouped(found.tests, ("datalen_bytes", "state"))] == [
        (100, "ok"),
        (200, "failed"),
        (300, "ok"),
    ]


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("datalen_bytes=200", [200]),
        ("datalen_bytes != 200", [100, 300]),
        ("datalen_bytes<=200", [100, 200]),
        ("datalen_bytes>1e2", [200, 300]),
        ("use_reliable=true", [100, 200, 300]),
        ("use_reliable=True", [100, 200, 300]),
        ("use_reliable=1", []),
        ("state=failed", [200]),
        ("latency_mean_us>=100", [100]),
        ("latency_mean_us<1000", [100]),
        ("latency_mean_us!=100", [200, 300]),
        ("datalen_bytes<1" + "0" * 400, [100, 200, 300]),
        ("attempts=0", []),
        ("state=open", [300]),
        ("test_name=4SEC_300B_1PUB_1SUB_REL_UC_100LC", [300]),
        ("durability_level=0", []),
    ],
)
def test_conditions(bench: Bench, text: str, lengths: list[int]) -> None:
    bench.submit(toml(lengths=(100, 200, 300), retries=0))
    for status in ("success", "timeout"):
        bench.running()
        bench.close(status, figures=SUBSCRIBERS if status == "success" else {})
    bench.running()
    found = gathered(bench)
    assert [test.settings["datalen_bytes"] for test in chosen(found.tests, [condition(text)])] == lengths
    assert all(isinstance(value(test, column), int | float | str | None) for test in found.tests for column in COLUMNS)
