"""What the site shows is what autoperfctl says; nothing that is shown does anything; and the rules hold everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from autoperfd.page import guard
from autoperfd.page.answers import Answers
from autoperfd.page.figures import Figures
from tests.daemon.support import Rig, toml
from tests.markup import Elements
from tests.page.support import HOSTILE, Bench

T100 = "4SEC_100B_1PUB_1SUB_REL_UC_100LC"
T200 = "4SEC_200B_1PUB_1SUB_REL_UC_100LC"
PCG = quote("PCG #1")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A site whose figures are not drawn."""
    monkeypatch.setattr(Figures, "_drawn", lambda self, path, name: {"error": f"not drawn here {HOSTILE}"})
    made = Bench(tmp_path)
    yield made
    made.stop()


def busy(bench: Bench) -> Rig:
    """An experiment at its second test, the first of which failed in its only attempt."""
    bench.rig.submit(toml(lengths=(100, 200, 300), retries=0))
    bench.rig.running()
    bench.rig.fail(reason=HOSTILE, machine="p2", code="TIMEOUT")
    return bench.rig


# ---------------------------------------------------------------- what is shown


def test_nothing_ever_run(bench: Bench) -> None:
    text = bench.seen("/").text
    assert "Nothing to do." in text and "No experiment yet" in text


def test_the_overview_says_what_status_says(bench: Bench) -> None:
    busy(bench)
    found = bench.seen("/")
    for words in ("PCG #1", "1 of 3 tests (33 %)", "0 ok", "1 failed", "1 × TIMEOUT", "Failed lately", T100):
        assert words in found.text, words
    assert f"/experiment?name={PCG.replace('%20', '+')}" in found.links()
    assert f"/test?experiment={PCG.replace('%20', '+')}&name={T100}" in found.links()


def test_a_halt_says_what_to_do(bench: Bench) -> None:
    busy(bench)
    bench.rig.ask("halt", experiment="PCG #1")
    found = bench.seen("/")
    assert "To do:" in found.text and "autoperfctl resume" in found.text and "halted" in found.text


def test_an_experiment_and_a_test(bench: Bench) -> None:
    busy(bench)
    one = bench.seen(f"/experiment?name={PCG}")
    assert "combinations pcg" in one.text and "folder" in one.text and T100 in one.text
    why = bench.seen(f"/test?experiment={PCG}&name={T100}")
    assert "given up after 1 attempt: timeout" in why.text and "autoperfctl retry" in why.text


@pytest.mark.parametrize(
    ("address", "command", "args"),
    [
        ("status", "status", {}),
        ("list", "list", {}),
        (f"show?experiment={PCG}", "show", {"experiment": "PCG #1"}),
        (f"why?experiment={PCG}&test={T100}", "why", {"experiment": "PCG #1", "test": T100}),
    ],
)
def test_the_json_is_that_of_autoperfctl(bench: Bench, address: str, command: str, args: dict[str, str]) -> None:
    busy(bench)
    answer = bench.get(f"/api/v1/{address}")
    assert answer.mimetype == "application/json" and answer.json == json.loads(
        json.dumps(dict(bench.ask(command, args).data))
    )


def test_an_engine_is_asked_once_a_second_at_most() -> None:
    asked: list[str] = []
    now = [100.0]
    answers = Answers(lambda command, args: Said(asked, command), lambda: now[0])
    for _ in range(5):
        assert answers.get("status") == {"n": 1}
    assert answers.get("show", experiment="a") == {"n": 2} and answers.get("show", experiment="b") == {"n": 3}
    now[0] += 1.0
    assert answers.get("status") == {"n": 4}
    for number in range(100):
        answers.get("show", experiment=str(number))
    assert answers.get("show", experiment="0") == {"n": 105}
    assert len(answers._kept) == 64


def test_an_answer_that_took_long_is_asked_for_more_seldom() -> None:
    asked: list[str] = []
    now = [100.0]

    def slowly(command: str, args: object) -> Said:
        now[0] += 2.0
        return Said(asked, command)

    answers = Answers(slowly, lambda: now[0])
    for _ in range(41):
        answers.get("numbers")
        now[0] += 1.0
    assert len(asked) == 2


class Said:
    """An answer that tells how many were given."""

    ok, error, hint = True, "", ""

    def __init__(self, asked: list[str], command: str) -> None:
        asked.append(command)
        self.data = {"n": len(asked)}


# ---------------------------------------------------------------- what is not there


@pytest.mark.parametrize(
    "address",
    [
        "/nothing",
        "/experiment",
        "/experiment?name=other",
        f"/experiment?name={quote(HOSTILE)}",
        f"/experiment?name={'x' * 5000}",
        f"/test?experiment={PCG}",
        f"/test?experiment={PCG}&name=4SEC_999B",
        "/api/v1/nothing",
        "/api/v1/show?experiment=other",
        "/static/page.css",
        "/../../etc/passwd",
        "/page.css/..%2f..%2f",
    ],
)
def test_what_is_not_there_is_a_404_in_words(bench: Bench, address: str) -> None:
    busy(bench)
    answer = bench.get(address)
    assert answer.status_code == 404
    if address.startswith("/api/"):
        assert answer.json is not None and answer.json["error"]
    else:
        found = Elements(answer.text)
        assert "Overview" in found.text and found.tags.count("script") == 1
    assert answer.headers["Content-Security-Policy"] == guard.HEADERS["Content-Security-Policy"]


def test_a_daemon_that_cannot_answer_is_a_503_in_words(tmp_path: Path) -> None:
    from autoperfd.daemon.control import Reply
    from autoperfd.page import site

    client = site.make(lambda command, args: Reply.refused("it hangs", "Wait"), tmp_path).app.test_client()
    answer = client.get("/")
    assert answer.status_code == 503 and "it hangs." in Elements(answer.text).text
    assert client.get("/api/v1/status").json == {"error": "it hangs", "hint": "Wait"}


def test_a_mistake_of_the_page_is_a_500_in_words(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Answers, command: str, **args: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Answers, "get", broken)
    answer = bench.get("/")
    assert answer.status_code == 500 and "the daemon goes on" in answer.text and "Traceback" not in answer.text
    assert "frame-ancestors" in answer.headers["Content-Security-Policy"]


# ---------------------------------------------------------------- hostile words


def test_hostile_words_stay_words(bench: Bench) -> None:
    name = "</title><script>alert(1)</script>"
    bench.rig.submit(toml(name=name, lengths=(100, 200), retries=0))
    bench.rig.running()
    bench.rig.fail(reason=HOSTILE, machine="p2", code=HOSTILE)
    bench.rig.engine.warnings = lambda: [HOSTILE]
    bench.rig.engine.attention.append(HOSTILE)
    for address in ("/", f"/experiment?name={quote(name)}", f"/test?experiment={quote(name)}&name={T100}"):
        answer = bench.get(address)
        assert answer.status_code == 200, answer.text
        harmless(answer.text)
        assert "{{7*7}}" in answer.text and "\\u202e" in answer.text and "\u202e" not in answer.text


def harmless(text: str) -> None:
    """No markup but that of our templates."""
    found = Elements(text)
    assert found.tags.count("script") == 1 and ("script", "src", "/page.js?0.1.0") in found.attributes
    assert "img" not in found.tags and "style" not in found.tags and found.tags.count("title") == 1
    assert not [value for _, name, value in found.attributes if name.startswith("on") or name == "style"]
    for value in found.links():
        assert value.startswith("/"), value


# ---------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:8765", "127.1.2.3", "[::1]:8765", "bench.example"]
)
def test_names_it_is_called_by(tmp_path: Path, host: str) -> None:
    bench = Bench(tmp_path, ("bench.example",))
    assert bench.get("/page.css", Host=host).status_code == 200
    bench.rig.stop()


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example:8765", "localhost@evil", "", " ",
     "192.0.2.7", "[::1", "bench.example.", "localhost:x", "localhost:123456"],
)  # fmt: skip
def test_other_names_are_refused(bench: Bench, host: str) -> None:
    for address in ("/", "/api/v1/status", "/page.css", "/nothing"):
        answer = bench.client.open(address, environ_overrides={"HTTP_HOST": host})
        assert answer.status_code == 421 and "PCG" not in answer.text
    assert bench.asked == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_nothing_but_get_and_head(bench: Bench, method: str) -> None:
    for address in ("/", "/api/v1/status", "/page.css", "/nothing"):
        answer = bench.client.open(address, method=method)
        assert answer.status_code == 405 and answer.headers["Allow"] == "GET, HEAD"
    assert bench.asked == []


def test_every_answer_carries_the_rules(bench: Bench) -> None:
    busy(bench)
    addresses = ["/", "/page.css", "/page.js", "/nothing", "/api/v1/status", f"/experiment?name={PCG}"]
    for answer in [bench.get(a) for a in addresses] + [bench.client.head("/"), bench.client.post("/")]:
        for name, value in guard.HEADERS.items():
            if name != "Cache-Control":
                assert answer.headers[name] == value
        assert "Access-Control-Allow-Origin" not in answer.headers and "Set-Cookie" not in answer.headers
    assert bench.get("/").headers["Cache-Control"] == "no-store"
    policy = guard.HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy


def test_only_looks_are_asked_for() -> None:
    answers = Answers(lambda command, args: pytest.fail("asked"))
    for command in ("halt", "copy", "resume", "pin", "cancel"):
        with pytest.raises(AssertionError, match=command):
            answers.get(command)
