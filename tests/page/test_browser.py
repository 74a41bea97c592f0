"""The page in a browser, on a desk and on a phone: it fits, keeps itself fresh, and nothing of what it shows runs."""

from __future__ import annotations

import queue
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from autoperfd.core import messages as m
from autoperfd.daemon.control import Question, Reply
from autoperfd.page import site
from autoperfd.page.server import Server
from tests.daemon.support import ANN, Rig, toml
from tests.page.browser import Browser
from tests.page.support import HOSTILE, eager
from tests.programs import needed
from tests.report.support import figures

SPACE = """
[experiments.qos_settings]
duration_secs = [30]
datalen_bytes = [100, 1000, 10000, 60000]
pub_count = [1, 10]
sub_count = [1, 5]
use_reliable = [true, false]
use_multicast = [true, false]
latency_count = [100]
"""
WAYS = (
    ("timeout", "p3", "TIMEOUT", "sub_3 had not ended by itself when the time was up"),
    ("truncated", "p4", "TOO_FEW_ROWS", "sub_0.csv has 12 rows of one second for a test of 30 s"),
    ("rebooted", "p3", "REBOOTED", "p3 restarted by itself in mid-attempt"),
)
FOUR = ("192.0.2.11", "192.0.2.12", "192.0.2.13", "192.0.2.14")


class Live:
    """A rig's engine, asked by the server's threads and answering on the test's own."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        self._inbox: queue.SimpleQueue[Question] = queue.SimpleQueue()
        self.server = Server("127.0.0.1:0", site.make(self._ask, folder / "page"))
        self.server.start()
        self.address = f"http://127.0.0.1:{self.server.port()}"

    def _ask(self, command: str, args: Mapping[str, Any]) -> Reply:
        question = Question(command, args, ANN)
        self._inbox.put(question)
        return question.wait(30)

    def answer(self) -> None:
        """Answer what has been asked."""
        while not self._inbox.empty():
            self.rig.engine.handle(self._inbox.get())

    def close(self) -> None:
        """End both."""
        self.server.close()
        self.rig.stop()


def measured(live: Live, tests: int = 44) -> None:
    """An experiment two thirds through, as a bench leaves it, and one that waits for it."""
    rig, draw = live.rig, random.Random(3)
    rig.submit(toml(qos=SPACE, machines=FOUR, retries=2, halt_after_consecutive_failures=10))
    for number in range(tests):
        rig.running()
        hard = "_10PUB" in rig.life().test and "_BE" in rig.life().test
        while draw.random() < (0.8 if hard else 0.06):
            rig.clock.now += 25
            status, machine, code, words = draw.choice(WAYS[:2] if hard else WAYS)
            decided = rig.life().succeeded + rig.life().failed
            rig.fail(status=status, machine=machine, code=code, reason=words)
            if rig.life().succeeded + rig.life().failed > decided:
                break
            if rig.life().state == "backing-off":
                rig.answer(1, m.Due())
            rig.running()
        else:
            rig.clock.now += 31
            life = rig.life()
            result = m.AttemptResult(
                end_status="success",
                figures=figures(dict(life.sweep.at(life.index)), draw),
                archive=f"data/{life.test}/attempt-{life.number}.tar.gz",
                sha256="0" * 64,
                size=400_000,
            )
            rig.answer(1, m.Succeeded(result=result))
        assert number < tests
    rig.running()
    rig.clock.now += 12
    rig.submit(toml(name="Long night", lengths=tuple(range(100, 900, 100)), machines=FOUR[:2]))


@pytest.fixture(scope="module")
def program() -> str:
    return needed("chromium", "chromium")


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    eager(monkeypatch)
    made = Live(tmp_path)
    yield made
    made.close()


@pytest.fixture
def browser(live: Live, program: str, tmp_path: Path) -> Iterator[Browser]:
    made = Browser(program, tmp_path / "profile", live.answer)
    yield made
    made.close()


DRAWN = "document.querySelectorAll('figure img').length"
LOADED = "[...document.images].every(each => each.complete && each.naturalWidth > 0)"
COLOURS = {"ok": (0, 158, 115), "failed": (213, 94, 0)}


def test_it_is_seen_on_a_desk_and_on_a_phone(live: Live, browser: Browser, tmp_path: Path) -> None:
    measured(live)
    one = f"{live.address}/experiment?name={quote('PCG #1')}"
    browser.open(one, 1280, 1600)
    for _ in range(100):  # a drawing takes seconds
        if browser.says(DRAWN):
            break
        browser.says("new Promise(done => setTimeout(done, 500))")
        browser.open(one, 1280, 1600)
    failed = f"{live.address}/attempts?experiment={quote('PCG #1')}&blame=test"
    why = f"{live.address}/test?experiment={quote('PCG #1')}&name={live.rig.life().test}"
    for name, width, height in (("desk", 1280, 1120), ("phone", 360, 860)):
        for page, address in (("page", live.address), ("experiment", one), ("attempts", failed), ("test", why)):
            browser.open(address, width, height)
            assert browser.says("document.documentElement.scrollWidth") <= width, (page, width)
            assert browser.says(LOADED), (page, width)
            with Image.open(browser.picture(tmp_path / f"{page}-{name}.png")) as image:
                seen = image.convert("RGB")
            colours = {colour: count for count, colour in seen.getcolors(1 << 24) or []}
            if page in ("page", "experiment"):
                assert colours.get(COLOURS["ok"], 0) > 500 and colours.get(COLOURS["failed"], 0) > 100, (page, width)
    assert browser.complaints == []


def test_it_keeps_itself_fresh(live: Live, browser: Browser) -> None:
    live.rig.submit(toml(retries=0))
    live.rig.running()
    browser.open(live.address, 1280, 800)
    assert "0 of 2 tests" in browser.says("document.body.innerText")
    live.rig.succeed()
    browser.says(
        "new Promise(done => { new MutationObserver(done).observe(document.body, { childList: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }).then(() => 1)"
    )
    assert "1 of 2 tests" in browser.says("document.body.innerText")
    assert browser.says("document.getElementById('told').textContent") == ""
    assert browser.complaints == []


def test_nothing_of_what_it_shows_runs(live: Live, browser: Browser) -> None:
    live.rig.submit(toml(retries=0, lengths=(100, 200)))
    live.rig.running()
    live.rig.fail(reason=HOSTILE, machine="p2", code=HOSTILE)
    live.rig.engine.warnings = lambda: [HOSTILE]
    test = "4SEC_100B_1PUB_1SUB_REL_UC_100LC"
    name = quote("PCG #1")
    for path in (
        "/",
        f"/experiment?name={name}",
        f"/attempts?experiment={name}",
        f"/test?experiment={name}&name={test}",
    ):
        browser.open(live.address + path, 1280, 800)
        assert "owned" not in browser.says("document.title") and "alert(1)" in browser.says("document.body.innerText")
        assert browser.says("document.scripts.length") == 1
    assert browser.complaints == []


def test_a_script_of_somebody_else_would_not_run(live: Live, browser: Browser) -> None:
    """The policy holds by itself, should a word ever become markup."""
    browser.open(live.address, 1280, 800)
    browser.says(
        "(() => { const own = document.createElement('script'); own.textContent = 'window.owned = 1';"
        " document.head.append(own); return 1; })()"
    )
    assert browser.says("window.owned === undefined")
    assert len(browser.complaints) == 1 and "Content Security Policy" in browser.complaints[0]
