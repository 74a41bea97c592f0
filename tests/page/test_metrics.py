"""The metrics: what Prometheus's own parser reads of them, their values, and that the document names each of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from autoperfd.daemon.control import Reply
from autoperfd.page import metrics, site
from tests.daemon.support import toml
from tests.page.support import Bench, eager

DOCUMENT = Path(__file__).parents[2] / "docs" / "PAGE.md"
NAME = 'a"b\\c'
ORDER = ("experiment", "state", "verdict", "end_status", "blame", "machine", "bound", "version")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    eager(monkeypatch)
    made = Bench(tmp_path)
    yield made
    made.stop()


def read(text: str) -> dict[tuple[str, ...], float]:
    """(name, label value, …) -> value, as Prometheus reads it."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels, key=ORDER.index))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(bench: Bench) -> dict[tuple[str, ...], float]:
    answer = bench.get("/metrics")
    assert answer.status_code == 200 and answer.content_type.startswith("text/plain; version=0.0.4")
    return read(answer.text)


def test_nothing_ever_run(bench: Bench) -> None:
    found = scraped(bench)
    assert found["autoperf_info", "0.1.0"] == 1.0
    assert found["autoperf_attention",] == found["autoperf_refuge",] == found["autoperf_held",] == 0.0
    assert found["autoperf_disk_free_bytes",] == float(1 << 40)


def test_an_experiment_is_counted(bench: Bench) -> None:
    rig = bench.rig
    rig.submit(toml(lengths=(100, 200, 300, 400, 500), retries=1))
    rig.running()
    rig.succeed()
    rig.running()
    rig.fail()
    rig.running()
    rig.fail()
    rig.running()
    rig.away()
    rig.clock.now += 50
    found = scraped(bench)
    pcg = "PCG #1"
    states = {state: found["autoperf_experiment_state", pcg, state] for state in metrics.STATES}
    assert states == {**dict.fromkeys(metrics.STATES, 0.0), "backing-off": 1.0}
    verdicts = {verdict: found["autoperf_tests", pcg, verdict] for verdict in ("ok", "failed", "skipped", "left")}
    assert verdicts == {"ok": 1.0, "failed": 1.0, "skipped": 0.0, "left": 3.0}
    assert found["autoperf_attempts_total", pcg, "success", "none"] == 1.0
    assert found["autoperf_attempts_total", pcg, "timeout", "test"] == 2.0
    assert found["autoperf_machine_up", pcg, "p2"] == 0.0
    assert found["autoperf_failures_in_a_row", pcg] == 1.0
    assert found["autoperf_last_success_age_seconds", pcg] == 70.0
    rig.ask("halt")
    found = scraped(bench)
    assert found["autoperf_held",] == 1.0 and found["autoperf_experiment_state", pcg, "halted"] == 1.0
    assert found["autoperf_attention",] == 1.0


def test_counts_are_those_of_the_ess(bench: Bench) -> None:
    rig = bench.rig
    rig.submit(toml(lengths=tuple(range(100, 140)), retries=0, halt_after_consecutive_failures=50))
    for number in range(30):
        rig.running()
        if number % 3:
            rig.succeed(status="success" if number % 4 else "no-summary")
        else:
            rig.fail(status="timeout" if number % 2 else "truncated")
    rig.ask("skip", test=rig.life().test)
    rows = [row.rpartition(" ")[2] for row in rig.ess()]
    found = scraped(bench)
    for status in set(rows):
        counted = sum(
            v for (name, *labels), v in found.items() if name == "autoperf_attempts_total" and labels[1] == status
        )
        assert counted == rows.count(status), (status, counted, rows)


def test_names_are_escaped(bench: Bench) -> None:
    bench.rig.submit(toml(name="plain").replace('"plain"', f"'{NAME}'"))
    assert scraped(bench)["autoperf_tests", NAME, "left"] == 2.0


def test_of_many_experiments_the_latest_and_those_at_work(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_EXPERIMENTS", 1)
    bench.rig.submit(toml("A"), toml("B"), toml("C"), toml("D"))
    for name in ("A", "C", "D"):
        bench.rig.ask("cancel", experiment=name)
    assert {key[1] for key in scraped(bench) if key[0] == "autoperf_tests"} == {"B", "D"}


def test_a_daemon_in_its_refuge_is_told(bench: Bench, tmp_path: Path) -> None:
    status = {**bench.rig.ask("status").data, "refuge": {"since": 1.0}}

    def ask(command: str, args: object) -> Reply:
        return Reply(data=status) if command == "status" else Reply.refused("in refuge")

    found = read(site.make(ask, tmp_path).app.test_client().get("/metrics").text)
    assert found["autoperf_refuge",] == 1.0 and not [key for key in found if "attempts" in key[0]]


def test_the_document_names_every_metric_and_no_other(bench: Bench) -> None:
    bench.rig.submit(toml(retries=0))
    bench.rig.running()
    bench.rig.succeed()
    bench.rig.running()
    there = {family.name for family in text_string_to_metric_families(bench.get("/metrics").text)}
    there = {f"{name}_total" if name == "autoperf_attempts" else name for name in there}
    there = {"autoperf_info" if name == "autoperf" else name for name in there}
    words = DOCUMENT.read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(autoperf_\w+)` \|", words, re.MULTILINE))
    assert rows == there
    assert set(re.findall(r"\bautoperf_\w+", words)) <= there  # of the rules and panels, too
    labels = dict(re.findall(r"^\| `(autoperf_\w+)` \| ([^|]*)\|", words, re.MULTILINE))
    for family in text_string_to_metric_families(bench.get("/metrics").text):
        for sample in family.samples:
            assert set(re.findall(r"`(\w+)`", labels[sample.name])) == set(sample.labels), sample


def test_the_document_names_every_address(bench: Bench) -> None:
    words = DOCUMENT.read_text(encoding="utf-8")
    for rule in bench.site.app.url_map.iter_rules():
        if rule.rule not in ("/page.css", "/page.js", "/plot"):
            assert f"`{rule.rule}" in words, rule.rule
