"""Knows how a message is put: from its kind and facts the body of each template (generic JSON, Slack, Teams, ntfy).

Promises: no fact, whoever it comes from, becomes a mention or a link with other words on it in any of them, or markup
where that can be switched off (not at Mattermost, where `*` stays what it is); a body is JSON of at most 8 KiB; nothing
here raises for a fact. Pure; any thread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from autoperfd.daemon.views import escaped, iso

MAX_BODY = 8 * 1024  # bytes; Teams takes 28 KiB
MAX_NTFY = 4000  # bytes of the text: ntfy makes a file of one of more than 4096

_MAX_TEXT = 2000  # characters
_MAX_FACT = 500
_MAX_FACTS_IN_LIST = 20
_GAP = "\u200b"  # of no width: breaks what a program would take for markup

Fact = str | int | float | bool | None | Sequence[str]
Facts = Mapping[str, Fact]


def body(template: str, kind: str, facts: Facts, url: str) -> bytes:
    """The body of one message. `template`: a row of TEMPLATES; `url`: where it goes, of which ntfy's has the topic."""
    return TEMPLATES[template](kind, facts, url)


def address(template: str, url: str) -> str:
    """Where it is sent: ntfy takes JSON at the server's root, with the topic in the body.

    https://docs.ntfy.sh/publish/#publish-as-json
    """
    if template != "ntfy":
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/").rpartition("/")[0] + "/", fragment=""))


def topic(url: str) -> str:
    """The topic of an ntfy address, the last part of its path; "" where it has none that ntfy takes."""
    name = urlsplit(url).path.rstrip("/").rpartition("/")[2]
    return name if re.fullmatch(r"[-_A-Za-z0-9]{1,64}", name) else ""


# ---------------------------------------------------------------- words


KINDS: Mapping[str, str] = {
    "test": "sends a test message",
    "halt": "halted",
    "resume": "goes on",
    "over": "goes on: what halted it is over",
    "finish": "finished",
    "rejection": "was rejected",
    "digest": "summed up",
}
"""Every kind of message, and what it says of its experiment, file or daemon."""


def _head(kind: str, facts: Facts) -> str:
    what = str(facts.get("experiment") or facts.get("file") or "an experiment")
    who = f"autoperfd on {facts['controller']}: " if facts.get("controller") else "autoperfd: "
    return f"{who}{what} {KINDS.get(kind, kind)}"


def _tests(facts: Facts) -> str:
    if facts.get("tests_done") is None:
        return ""
    total = facts.get("tests_total")
    return f" ({facts['tests_done']}{'' if total is None else f' of {total}'} tests done)"


def _rest(facts: Facts) -> list[str]:
    """What follows the head: the sentence with how many tests are done, then what to do."""
    lines = [f"{facts.get('sentence') or ''}{_tests(facts)}".strip()]
    return [*lines, f"To do: {facts['todo']}"] if facts.get("todo") else lines


def _shown(lines: Sequence[str]) -> list[str]:
    """Lines as any viewer may show them: no control character, all together at most _MAX_TEXT characters."""
    return [escaped(line) for line in "\n".join(lines)[:_MAX_TEXT].split("\n")]


# ---------------------------------------------------------------- generic


def _generic(kind: str, facts: Facts, url: str) -> bytes:
    """`text` for a person, then `kind` and the facts.

    Facts the text is made of, all optional: `controller`, `experiment`, `sentence`, `todo`, `tests_done`,
    `tests_total`, `test`, `at` (Unix seconds). Any other fact is only carried along. `text` is escaped for Slack and
    Mattermost, which show it, too; long values are cut, and the last facts go when it is too big.
    """
    text = _text(kind, facts)
    carried = [(key, _trimmed(value, key)) for key, value in facts.items() if key not in ("text", "kind")]
    while True:
        encoded = _encoded({"text": text, "kind": kind, **dict(carried)})
        if len(encoded) <= MAX_BODY:
            return encoded
        if carried:
            carried.pop()
        else:
            text = text[: len(text) // 2]


def _text(kind: str, facts: Facts) -> str:
    text = _head(kind, facts)
    if facts.get("sentence"):
        text += f": {facts['sentence']}"
    text += _tests(facts)
    if facts.get("todo"):
        text += f"\nTo do: {facts['todo']}"
    return _unmarked("\n".join(_shown([text])))


def _trimmed(value: Fact, key: str) -> object:
    if key == "at" and isinstance(value, (int, float)):
        return iso(value)
    if isinstance(value, str):
        return escaped(value[:_MAX_FACT])
    if isinstance(value, Sequence):
        return [escaped(str(item)[:_MAX_FACT]) for item in value[:_MAX_FACTS_IN_LIST]]
    return value


# ---------------------------------------------------------------- Slack and Mattermost


_COLOURS = {"halt": "#c0392b", "rejection": "#e67e22", "over": "#27ae60", "finish": "#27ae60", "resume": "#27ae60"}


def _slack(kind: str, facts: Facts, url: str) -> bytes:
    """A line of its own and, beside a colour, what there is to say; both Slack and Mattermost show it.

    https://api.slack.com/reference/surfaces/formatting (the three characters to escape, `mrkdwn`),
    https://developers.mattermost.com/integrate/webhooks/incoming/ and …/reference/message-attachments/.
    """

    def made(lines: Sequence[str]) -> dict[str, Any]:
        head, *rest = (_unmarked(line) for line in lines)
        shown: dict[str, Any] = {"text": head, "mrkdwn": False, "unfurl_links": False, "unfurl_media": False}
        if rest:
            text = "\n".join(rest)
            shown["attachments"] = [
                {"color": _COLOURS.get(kind, "#7f8c8d"), "fallback": text, "text": text, "mrkdwn_in": []}
            ]
        return shown

    return _fitted(made, kind, facts)


def _unmarked(text: str) -> str:
    """No `<!everyone>`, `<link|text>` (Slack), `@all` or `[text](link)` (Mattermost) is left in it."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = text.replace("@", f"@{_GAP}")
    return re.sub(r"\](?=[(\[:])", f"]{_GAP}", text)


# ---------------------------------------------------------------- Microsoft Teams


_TEAMS_COLOURS = {"halt": "Attention", "rejection": "Warning", "over": "Good", "finish": "Good", "resume": "Good"}


def _teams(kind: str, facts: Facts, url: str) -> bytes:
    """An Adaptive Card in the envelope that a workflow ("When a Teams webhook request is received") posts.

    The text stands in TextRuns, in which Teams knows no Markdown; only their date macros are broken.
    https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
    https://learn.microsoft.com/adaptive-cards/schema-explorer/text-run
    """

    def block(line: str, **look: str) -> dict[str, Any]:
        run = {"type": "TextRun", "text": line.replace("{{", f"{{{_GAP}{{"), **look}
        return {"type": "RichTextBlock", "inlines": [run]}

    def made(lines: Sequence[str]) -> dict[str, Any]:
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.2",
            "msteams": {"width": "Full"},
            "body": [
                block(lines[0], weight="Bolder", color=_TEAMS_COLOURS.get(kind, "Default")),
                *(block(line) for line in lines[1:]),
            ],
        }
        attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
        return {"type": "message", "attachments": [attachment]}

    return _fitted(made, kind, facts)


# ---------------------------------------------------------------- ntfy


_TAGS = {
    "halt": "rotating_light",
    "over": "white_check_mark",
    "resume": "arrow_forward",
    "finish": "checkered_flag",
    "rejection": "no_entry",
    "digest": "clipboard",
    "test": "wave",
}


def _ntfy(kind: str, facts: Facts, url: str) -> bytes:
    """Plain text with a title, a priority (4 of 5 for a halt, 3 for all else) and a tag that shows as a picture.

    https://docs.ntfy.sh/publish/#publish-as-json, …/publish/#limitations (4096 bytes of text).
    """

    def made(lines: Sequence[str]) -> dict[str, Any]:
        title, *rest = lines
        text = "\n".join(rest) or title
        return {
            "topic": topic(url),
            "title": title[:250],
            "message": text.encode()[:MAX_NTFY].decode(errors="ignore"),
            "priority": 4 if kind == "halt" else 3,
            "tags": [_TAGS.get(kind, "information_source")],
        }

    return _fitted(made, kind, facts)


# ---------------------------------------------------------------- all


def _fitted(made: Callable[[Sequence[str]], object], kind: str, facts: Facts) -> bytes:
    """What is made of as many of the lines' characters as fit into a body."""
    head, rest = _shown([_head(kind, facts)]), _shown(_rest(facts))
    lines = [" ".join(head)[:_MAX_FACT], *filter(None, rest)]
    most = _MAX_TEXT
    while len(encoded := _encoded(made(lines))) > MAX_BODY:
        most //= 2
        lines = [line[:most] for line in lines[:20]]
    return encoded


def _encoded(made: object) -> bytes:
    return json.dumps(made, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


TEMPLATES: Mapping[str, Callable[[str, Facts, str], bytes]] = {
    "generic": _generic,
    "slack": _slack,
    "teams": _teams,
    "ntfy": _ntfy,
}
