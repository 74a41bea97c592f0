"""Knows the metrics for Prometheus: what a status and the memory's counts are called there. Any thread.

Names are a promise, listed in docs/PAGE.md. Of many experiments the latest are told, and all that are not over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from autoperfd.core.text import safe
from autoperfd.page.answers import Answers, NoAnswer
from autoperfd.page.shapes import state

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_EXPERIMENTS = 100
MOST_LABEL = 200  # characters
STATES = ("waiting", "validating", "rebooting", "running", "backing-off", "halted", "finished", "cancelled")
_UP = {"ok": 1.0, "away": 0.0, "rebooting": 0.0, "taken": 0.0}

Experiments = Sequence[Mapping[str, Any]]


def text(answers: Answers) -> bytes:
    """All metrics, in Prometheus's text format. Raises NoAnswer."""
    status = answers.get("status")
    try:
        counted = answers.get("numbers")["experiments"]
    except NoAnswer:  # in its refuge the daemon has no memory to count in
        counted = []
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Said([*_of_the_daemon(status), *_of_experiments(status), *_of_attempts(counted, status["now"])]))
    return bytes(generate_latest(registry))


class _Said(Collector):
    """Metrics that are known already."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Sequence[Metric]:
        return self._metrics


def _of_the_daemon(status: Mapping[str, Any]) -> Iterator[Metric]:
    yield InfoMetricFamily("autoperf", "The daemon", {"version": status["version"]})
    yield GaugeMetricFamily("autoperf_start_time_seconds", "When the daemon was started, Unix time", status["since"])
    yield GaugeMetricFamily("autoperf_refuge", "1: it cannot use its memory and does nothing", bool(status["refuge"]))
    yield GaugeMetricFamily("autoperf_held", "1: an operator holds everything", bool(status["hold"]))
    todo = "How many things ask for a person, as `autoperfctl status` says at its end"
    yield GaugeMetricFamily("autoperf_attention", todo, len(status["attention"]))
    waiting = "Messages to people that are not delivered yet"
    yield GaugeMetricFamily("autoperf_messages_undelivered", waiting, status["told"]["waiting"])
    if status["free_bytes"] is not None:
        free = "Free on the disk of the results"
        yield GaugeMetricFamily("autoperf_disk_free_bytes", free, status["free_bytes"])


def _of_experiments(status: Mapping[str, Any]) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "autoperf_experiment_state", "1 for the state an experiment is in", labels=("experiment", "state")
    )
    tests = GaugeMetricFamily("autoperf_tests", "Tests by what became of them", labels=("experiment", "verdict"))
    row = GaugeMetricFamily("autoperf_failures_in_a_row", "Tests given up one after another", labels=("experiment",))
    left = GaugeMetricFamily(
        "autoperf_remaining_seconds", "How long an experiment takes still", labels=("experiment", "bound")
    )
    up = GaugeMetricFamily(
        "autoperf_machine_up", "1: the machine answered when it was asked last", labels=("experiment", "machine")
    )
    for each in _told(status["experiments"]):
        name = safe(each["name"], MOST_LABEL)
        for one in STATES:
            states.add_metric((name, one), state(each) == one)
        done = {"ok": each["succeeded"], "failed": each["failed"], "skipped": each["skipped"]}
        if each["tests_total"] is not None:
            done["left"] = each["tests_total"] - each["tests_done"]
        for verdict, number in done.items():
            tests.add_metric((name, verdict), number)
        row.add_metric((name,), each["failures_in_a_row"])
        for bound in ("low", "high"):
            if each[f"remaining_{bound}_secs"] is not None:
                left.add_metric((name, bound), each[f"remaining_{bound}_secs"])
        for machine in each["machines"]:
            if machine["state"] in _UP:
                up.add_metric((name, safe(machine["name"], MOST_LABEL)), _UP[machine["state"]])
    yield from (states, tests, row, left, up)


def _told(experiments: Experiments) -> Experiments:
    """The latest, and all that are not over."""
    first = len(experiments) - MOST_EXPERIMENTS
    return [
        each
        for number, each in enumerate(experiments)
        if number >= first or state(each) not in ("finished", "cancelled")
    ]


def _of_attempts(counted: Experiments, now: float) -> Iterator[Metric]:
    attempts = CounterMetricFamily(
        "autoperf_attempts", "Attempts that have ended, by how", labels=("experiment", "end_status", "blame")
    )
    age = GaugeMetricFamily(
        "autoperf_last_success_age_seconds", "Since an attempt succeeded last", labels=("experiment",)
    )
    for each in counted:
        name = safe(each["name"], MOST_LABEL)
        for status, blame, number in each["attempts"]:
            attempts.add_metric((name, status, blame or "none"), number)
        if each["latest_success"] is not None:
            age.add_metric((name,), max(0.0, now - each["latest_success"]))
    yield from (attempts, age)
