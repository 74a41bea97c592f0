"""The daily summary: when, what of, and never twice for a day."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from autoperfd.core import messages as m
from autoperfd.daemon.digest import KEY, MOST_LINES, Digest, Mark, due, read_mark
from autoperfd.daemon.store import OutboxRow, SaveMeta, open_store
from autoperfd.errors import StoreError
from autoperfd.lab.recorder import Recorder
from tests.daemon.support import Rig, toml
from tests.e2e.support import LiveDaemon
from tests.verify.support import Bench

DAY = 86_400.0
OTHERS = ("10.0.0.3", "10.0.0.4")


def at(words: str) -> float:
    return datetime.fromisoformat(words).replace(tzinfo=UTC).timestamp()


class Desk:
    """A rig whose engine sums up at seven."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder, webhook=True, webhook_digest_at="07:00")
        self.daily = Digest(self.rig.engine, "07:00")
        self.set("2026-11-25 06:00")

    def set(self, words: str) -> None:
        """Set the clock."""
        self.rig.clock.step = at(words) - self.rig.clock.now

    def look(self, secs: float = 10.0) -> None:
        """Let time pass and the summary be looked for; what is sent is delivered."""
        self.rig.wait(secs)
        sent = len(self.rig.sent)
        self.daily.look()
        if len(self.rig.sent) > sent:
            self.rig.deliver()

    def restart(self) -> None:
        """Another process."""
        self.rig.restart()
        self.daily = Digest(self.rig.engine, "07:00")

    def told(self) -> list[str]:
        """The sentences that were sent as summaries."""
        return [str(message.facts["sentence"]) for message in self.rig.sent if message.kind == "digest"]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.rig.stop()


def test_what_a_summary_says(desk: Desk) -> None:
    desk.rig.submit(toml(lengths=(100, 200, 300)), toml("B", machines=OTHERS, network="b", retries=0))
    desk.look()
    desk.rig.running()
    desk.rig.succeed()
    desk.rig.running()
    desk.rig.succeed()
    desk.rig.running(2)
    desk.rig.fail(2)
    desk.rig.ask("halt", experiment="B")
    assert desk.told() == []
    desk.set("2026-11-25 07:00")
    desk.look()
    head, halted, busy = desk.told()[0].split("\n")
    assert head == "3 tests done: 2 ok, 1 failed since 2026-11-25 06:00 UTC"
    assert halted == "B: halted, 1 of 2 tests done (1 test done: 0 ok, 1 failed since then); halted by ann"
    assert busy.startswith("PCG #1: validating, 2 of 3 tests done (2 tests done: 2 ok, 0 failed since then); ends ")
    assert "2026-11-25 07:0" in busy.rpartition("; ends ")[2]
    facts = desk.rig.sent[-1].facts
    assert (facts["succeeded"], facts["failed"], facts["skipped"], facts["halted"]) == (2, 1, 0, ["B"])
    assert facts["since"] == "2026-11-25T06:00:10Z" and str(facts["eta"]).startswith("2026-11-25T07:0")
    assert facts["todo"] == "See to what is halted: autoperfctl status"


def test_one_a_day_whatever_restarts_there_are(desk: Desk) -> None:
    desk.rig.submit(toml())
    desk.look()
    for day in ("25", "26", "27"):
        for hour in ("06:59", "07:00", "07:01", "12:00", "23:59"):
            desk.set(f"2026-11-{day} {hour}")
            desk.look()
            desk.restart()
            desk.look()
    assert len(desk.told()) == 3
    assert len({message.id for message in desk.rig.sent}) == 3


def test_a_daemon_that_was_off_at_the_hour_makes_good_for_it_that_day_only(desk: Desk) -> None:
    desk.rig.submit(toml())
    desk.look()
    desk.set("2026-11-25 15:30")
    desk.restart()
    desk.look()
    assert len(desk.told()) == 1
    desk.set("2026-11-28 06:59")  # three days off: nobody wants to read of a day that is over
    desk.restart()
    desk.look()
    assert len(desk.told()) == 1
    desk.set("2026-11-28 07:30")
    desk.look()
    assert len(desk.told()) == 2 and "since 2026-11-25 15:30 UTC" in desk.told()[1]


@pytest.mark.parametrize("back", ["2026-11-26 06:00", "2026-11-25 08:00", "2026-11-25 00:00"])
def test_a_clock_that_is_set_back_brings_no_second_one(back: str, desk: Desk) -> None:
    desk.rig.submit(toml())
    desk.look()
    for day in ("25", "26"):
        desk.set(f"2026-11-{day} 07:00")
        desk.look()
    desk.set(back)
    for _ in range(48):  # half an hour each
        desk.look(1800)
    days = [str(message.facts["since"]) for message in desk.rig.sent if message.kind == "digest"]
    assert len(days) == 2


def test_a_clock_that_was_years_ahead_is_forgiven(desk: Desk) -> None:
    desk.rig.submit(toml())
    desk.look()
    for day in ("2036-01-01", "2026-11-25", "2026-11-26"):
        desk.set(f"{day} 07:00")
        desk.look()
        desk.look()
    assert len(desk.told()) == 3


def test_the_mark_is_committed_with_the_message_or_not_at_all(desk: Desk) -> None:
    desk.rig.submit(toml())
    desk.look()
    desk.set("2026-11-25 07:00")
    desk.rig.memory.refuses = True
    with pytest.raises(StoreError):
        desk.look()
    assert desk.told() == []
    desk.rig.memory.refuses = False
    desk.restart()
    desk.look()
    assert len(desk.told()) == 1
    writes = [what for name, what in desk.rig.diary if name == "commit" and any(isinstance(w, OutboxRow) for w in what)]
    assert any(isinstance(w, SaveMeta) and w.key == KEY for w in writes[0])


def test_nothing_is_sent_when_nothing_runs_and_nothing_happened(desk: Desk) -> None:
    desk.look()
    desk.set("2026-11-25 07:00")
    desk.look()
    assert desk.told() == []
    desk.rig.submit(toml(lengths=(100,)))
    desk.rig.running()
    desk.rig.succeed()
    desk.rig.answer(1, m.Swept())
    assert desk.rig.states() == ["idle"]
    desk.look()
    assert desk.told() == []  # that day's was due, and nothing was to be said
    for day in ("26", "27", "28"):
        desk.set(f"2026-11-{day} 07:00")
        desk.look()
    (one,) = desk.told()  # what had happened was told once
    assert one.split("\n")[1] == "PCG #1: finished, 1 of 1 tests done (1 test done: 1 ok, 0 failed since then)"
    assert desk.rig.sent[-1].facts["todo"] == ""


def test_many_experiments_are_told_of_in_few_lines(desk: Desk) -> None:
    desk.look()
    texts = [toml(f"E{n}", machines=(f"10.1.{n}.1", f"10.1.{n}.2"), network=f"n{n}") for n in range(MOST_LINES + 3)]
    desk.rig.submit(*texts)
    desk.set("2026-11-25 07:00")
    desk.look()
    lines = desk.told()[0].split("\n")
    assert len(lines) == MOST_LINES + 2 and lines[-1] == "3 more: autoperfctl list"


def test_when_it_is_wished_for_it_begins_then(desk: Desk) -> None:
    desk.rig.submit(toml())
    desk.rig.running()
    desk.rig.succeed()
    desk.set("2026-11-25 12:00")
    desk.look()
    assert desk.told() == []
    desk.set("2026-11-26 07:00")
    desk.look()
    assert desk.told()[0].startswith("0 tests done: 0 ok, 0 failed since 2026-11-25 12:00 UTC")


@pytest.mark.parametrize(
    ("now", "days", "day"),
    [
        ("2026-11-25 06:59", (), ""),
        ("2026-11-25 07:00", (), "2026-11-25"),
        ("2026-11-25 23:59", ("2026-11-24",), "2026-11-25"),
        ("2026-11-25 23:59", ("2026-11-24", "2026-11-25"), ""),
        ("2026-11-26 00:00", ("2026-11-25",), ""),
    ],
)
def test_when_one_is_due(now: str, days: tuple[str, ...], day: str) -> None:
    assert due("07:00", at(now), days) == day


def test_a_mark_is_read_as_it_was_written_and_nonsense_is_none() -> None:
    mark = Mark(("2026-11-25",), 5.0, {"PCG #1": (1, 2, 3)})
    assert read_mark(mark.to_json()) == mark
    for words in (
        "",
        "x",
        "[]",
        "{}",
        json.dumps({"days": ["x"], "at": 1, "counts": {}}),
        '{"days":[],"at":1e999,"counts":{}}',
    ):
        assert read_mark(words) is None
    assert read_mark('{"days":[],"at":1,"counts":{"a":[1]}}') is None


def test_a_real_daemon_sums_up_by_itself_and_once(tmp_path: Path) -> None:
    receiver = Recorder("127.0.0.1")
    wish = f'[webhook]\nurl = "{receiver.url}/hook"\nallow_http = true\ndigest_at = "00:00"\n'
    daemon = LiveDaemon(tmp_path, more=wish)

    def kept() -> Mark:
        memory = open_store(tmp_path / "state" / "autoperf.db")
        try:
            mark = read_mark(memory.load().meta[KEY])
            assert mark is not None
            return mark
        finally:
            memory.close()

    try:
        daemon.start()
        assert daemon.stop() == 0
        first = kept()
        assert len(first.days) == 1 and receiver.requests == []  # it begins when it is wished for
        memory = open_store(tmp_path / "state" / "autoperf.db")
        # As if that had been two days ago, and an experiment had since been there that is gone through.
        memory.commit([SaveMeta(KEY, Mark((), first.at - 2 * DAY, {}).to_json())])
        memory.close()
        bench = Bench(tmp_path / "state")
        bench.submit(toml(lengths=(100,)))
        bench.running()
        bench.close("success")
        bench.save()
        bench.stop()
        for _ in range(2):
            daemon.start()
            daemon.until(lambda: daemon.ask("status")["data"]["told"]["delivered"] == 1, "it is delivered")
            assert daemon.stop() == 0
        (request,) = receiver.requests
        assert request.json()["kind"] == "digest" and request.json()["succeeded"] == 1
        assert len(kept().days) == 1
    finally:
        daemon.stop()
        receiver.stop()
