"""What people are sent: the body of each template, made of facts that may come from anybody."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperfd.core.settings import TABLES
from autoperfd.daemon.message import KINDS, MAX_BODY, MAX_NTFY, TEMPLATES, Fact, address, body, topic
from autoperfd.daemon.webhook import Target
from autoperfd.errors import AutoperfError

NOW = 1_795_000_000.0
PAGE = Path(__file__).parents[2] / "docs" / "MESSAGES.md"
TOPIC = "https://ntfy.example/bench-4711"
HALT: dict[str, Fact] = {
    "controller": "bench",
    "experiment": "PCG #1",
    "sentence": "p3 does not answer",
    "todo": "look at p3, then autoperfctl resume 'PCG #1'",
    "incident": 1,
    "cause": "machine",
    "code": "PING",
    "tests_done": 12,
    "tests_total": 600,
    "machine": "p3",
    "at": NOW,
}
HEAD = "autoperfd on bench: PCG #1 halted"
REST = ["p3 does not answer (12 of 600 tests done)", "To do: look at p3, then autoperfctl resume 'PCG #1'"]


def generic(kind: str, facts: dict[str, Any]) -> bytes:
    return body("generic", kind, facts, "https://hooks.example/")


def made(template: str, kind: str = "halt", facts: dict[str, Fact] | None = None) -> Any:
    return json.loads(body(template, kind, HALT if facts is None else facts, TOPIC))


def seen(template: str, kind: str, facts: dict[str, Fact]) -> list[str]:
    """Every string of a body that a viewer shows."""
    found = made(template, kind, facts)
    if template == "teams":
        (attachment,) = found["attachments"]
        return [run["text"] for block in attachment["content"]["body"] for run in block["inlines"]]
    if template == "ntfy":
        return [found["title"], found["message"]]
    more = [text for one in found.get("attachments", []) for text in (one["text"], one["fallback"])]
    return [found["text"], *more]


def test_the_settings_know_every_template() -> None:
    (row,) = [row for row in TABLES["webhook"][1] if row.key == "template"]
    assert {row.check(name) for name in TEMPLATES} == set(TEMPLATES)
    assert row.default == "generic"


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_page_shows_what_is_sent(template: str) -> None:
    """docs/MESSAGES.md has the body of a halt in every template."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition(f"\n### {template}\n")
    shown = section.partition("```json\n")[2].partition("```")[0]
    assert json.loads(shown) == made(template)


def test_the_page_names_every_kind() -> None:
    rows = PAGE.read_text(encoding="utf-8").partition("## Kinds")[2].partition("## What is sent")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)) == set(KINDS)


# generic


def test_the_body_says_what_happened_and_carries_the_facts() -> None:
    body = json.loads(
        generic(
            "halt",
            {
                "controller": "bench",
                "experiment": "PCG #1",
                "sentence": "p3 does not answer",
                "todo": "look at p3, then autoperfctl resume 'PCG #1'",
                "tests_done": 12,
                "tests_total": 600,
                "machines": ["p3"],
                "at": NOW,
            },
        )
    )
    assert body["text"] == (
        "autoperfd on bench: PCG #1 halted: p3 does not answer (12 of 600 tests done)\n"
        "To do: look at p3, then autoperfctl resume 'PCG #1'"
    )
    assert body["kind"] == "halt"
    assert body["machines"] == ["p3"]
    assert body["at"] == "2026-11-18T11:06:40Z"


@pytest.mark.parametrize(
    ("hostile", "forbidden"),
    [
        ("<!everyone> <@U1> <http://evil|good>", "<"),
        ("&lt;!everyone&gt;", "&lt;!everyone"),
        ("@channel @all @here", "@channel"),
        ("[here](http://evil)", "]("),
        ("red \x1b[31m bell \x07", "\x1b"),
        ("bidi \u202e", "\u202e"),
        ("line\rover", "\r"),
    ],
)
def test_nothing_in_the_text_is_a_mention_a_link_or_a_control(hostile: str, forbidden: str) -> None:
    text = json.loads(generic("halt", {"experiment": "e", "sentence": hostile}))["text"]
    assert forbidden not in text


fact_values = st.one_of(st.none(), st.integers(), st.text(), st.text(min_size=3000), st.lists(st.text(), max_size=50))


@settings(deadline=None)
@given(st.sampled_from(["halt", "resume", "other"]), st.dictionaries(st.text(max_size=20), fact_values, max_size=30))
def test_a_body_is_json_of_at_most_8_kib(kind: str, facts: dict[str, str | int | list[str] | None]) -> None:
    facts = {key.encode(errors="replace").decode(): value for key, value in facts.items()}
    body = generic(kind, facts)
    assert len(body) <= MAX_BODY
    assert json.loads(body)["text"].startswith("autoperfd")


def test_the_biggest_of_texts_fits() -> None:
    body = generic(
        "halt", {"sentence": "\U0001f600&" * 3000, "todo": "\U0001f600" * 3000, "machines": ["x" * 999] * 99}
    )
    assert len(body) <= MAX_BODY
    assert set(json.loads(body)) >= {"text", "kind"}


# Slack, Mattermost, Teams, ntfy


def test_slack_gets_a_line_and_the_rest_beside_a_colour() -> None:
    assert made("slack") == {
        "text": HEAD,
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "attachments": [{"color": "#c0392b", "fallback": "\n".join(REST), "text": "\n".join(REST), "mrkdwn_in": []}],
    }
    assert "attachments" not in made("slack", "finish", {"experiment": "e"})
    assert made("slack", "over")["attachments"][0]["color"] != made("slack")["attachments"][0]["color"]


def test_teams_gets_an_adaptive_card_without_markdown() -> None:
    found = made("teams")
    (attachment,) = found["attachments"]
    assert (found["type"], attachment["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.2")
    assert {block["type"] for block in card["body"]} == {"RichTextBlock"}
    runs = [run for block in card["body"] for run in block["inlines"]]
    assert [run["text"] for run in runs] == [HEAD, *REST]
    assert {run["type"] for run in runs} == {"TextRun"} and runs[0]["color"] == "Attention"


def test_ntfy_gets_title_message_priority_and_tag() -> None:
    assert made("ntfy") == {
        "topic": "bench-4711",
        "title": HEAD,
        "message": "\n".join(REST),
        "priority": 4,
        "tags": ["rotating_light"],
    }
    assert made("ntfy", "over")["priority"] == 3
    assert made("ntfy", "finish", {"experiment": "e"})["message"] == "autoperfd: e finished"


@pytest.mark.parametrize(
    ("url", "called", "name"),
    [
        ("https://ntfy.sh/bench", "https://ntfy.sh/", "bench"),
        ("https://ntfy.sh/bench/", "https://ntfy.sh/", "bench"),
        ("https://ntfy.example:8443/bench?auth=QmVhcmVy", "https://ntfy.example:8443/?auth=QmVhcmVy", "bench"),
        ("https://lab.example/ntfy/bench#x", "https://lab.example/ntfy/", "bench"),
    ],
)
def test_ntfy_is_called_at_its_root(url: str, called: str, name: str) -> None:
    assert (address("ntfy", url), topic(url)) == (called, name)
    assert address("teams", url) == address("slack", url) == address("generic", url) == url
    Target(url, template="ntfy").check()


@pytest.mark.parametrize("path", ["", "/", "/a%20b", "/s3cret.topic", "/" + "x" * 65])
def test_an_address_without_a_topic_is_refused_for_ntfy_alone(path: str) -> None:
    Target(f"https://ntfy.sh{path}").check()
    with pytest.raises(AutoperfError, match="topic of ntfy") as caught:
        Target(f"https://ntfy.sh{path}", template="ntfy").check()
    assert "s3cret" not in caught.value.sentence()


HOSTILE = [
    "<!everyone> <!channel> <@U1> <http://evil|good>",
    "&lt;!everyone&gt;",
    "@channel @all @here",
    "[here](http://evil) ![](http://evil/x.png)",
    "[here][1]\n[1]: http://evil",
    "{{DATE(2026-01-01T00:00:00Z)}} <at>all</at>",
    "red \x1b[31m bell \x07 bidi \u202e line\rover\x00",
]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("where", ["experiment", "sentence", "todo", "controller", "file"])
def test_nothing_of_others_is_markup_in_any_template(template: str, where: str, hostile: str) -> None:
    for text in seen(template, "halt", {where: hostile}):
        assert all(char.isprintable() or char in "\n\u200b" for char in text)
        if template in ("generic", "slack"):
            assert not set(text) & set("<>")
            assert text.replace("&lt;", "").replace("&gt;", "").replace("&amp;", "").count("&") == 0
            assert "&lt;!everyone&gt;" not in text or hostile.startswith("<")
            assert not any(mark in text for mark in ("](", "][", "]:", "@c", "@a", "@h"))
        if template == "teams":
            assert "{{" not in text


@settings(deadline=None)
@given(
    st.sampled_from([*TEMPLATES]),
    st.sampled_from(["halt", "digest", "other"]),
    st.dictionaries(
        st.sampled_from(["experiment", "sentence", "todo", "controller", "file", "tests_done", "tests_total", "x"]),
        st.one_of(fact_values, st.text(alphabet='"\\\U0001f600\n', min_size=1500)),
    ),
)
def test_any_body_is_json_of_at_most_8_kib(template: str, kind: str, facts: dict[str, Fact]) -> None:
    encoded = body(template, kind, facts, TOPIC)
    assert len(encoded) <= MAX_BODY
    assert json.loads(encoded)
    if template == "ntfy":
        assert 0 < len(json.loads(encoded)["message"].encode()) <= MAX_NTFY
