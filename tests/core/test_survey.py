"""What machines are recorded to be: what lasts is compared, what passes is not."""

from __future__ import annotations

import json

from autoperfd.core.survey import LONGEST, Survey, differences, lasting

FACTS = {"kernel": "6.1", "governor": "ondemand", "load": "0.3", "boot_id": "b", "memory_kb": "997"}


def survey(attempt: int, machine: str = "p1", **facts: str) -> Survey:
    return Survey(machine, attempt, 100.0 + attempt, lasting(facts))


def test_what_passes_is_left_out() -> None:
    assert json.loads(lasting(FACTS)) == {"governor": "ondemand", "kernel": "6.1"}
    assert lasting({"b": "1", "a": "2"}) == lasting({"a": "2", "b": "1"})


def test_each_machine_is_compared_with_itself() -> None:
    found = list(
        differences(
            [
                survey(1, kernel="6.1", mtu="1500"),
                survey(1, "p2", kernel="5.4"),
                survey(4, kernel="6.2", mtu="1500"),
                survey(9, kernel="6.2", governor="performance"),
            ]
        )
    )
    assert [(each.attempt, each.wall, each.sentence()) for each in found] == [
        (4, 104.0, "p1: kernel changed from 6.1 to 6.2"),
        (9, 109.0, "p1: governor changed from nothing to performance"),
        (9, 109.0, "p1: mtu changed from 1500 to nothing"),
    ]


def test_a_long_value_is_cut_in_a_sentence_only() -> None:
    (found,) = differences([survey(1, offloads="a" * 200), survey(2, offloads="b")])
    assert found.before == "a" * 200 and len(found.sentence()) < LONGEST + 60
