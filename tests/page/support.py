"""A site on a real engine in a folder, and what stands in a page of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from werkzeug.test import TestResponse

from autoperfd.daemon.control import Reply
from autoperfd.page import site
from tests.daemon.support import Rig

HOSTILE = (
    "</title><script>document.title='owned'</script><img src=http://192.0.2.1/x onerror=alert(1)>'\"&{{7*7}}\u202e"
)


class Elements(HTMLParser):
    """What stands in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        """Note words."""
        self.words.append(data)

    @property
    def text(self) -> str:
        """All words, with single spaces between."""
        return " ".join(" ".join(self.words).split())

    def links(self) -> list[str]:
        """Where links lead."""
        return [value for tag, name, value in self.attributes if (tag, name) == ("a", "href")]


class Bench:
    """A site whose questions a rig's engine answers, at once and on this thread."""

    def __init__(self, folder: Path, hosts: tuple[str, ...] = ()) -> None:
        self.rig = Rig(folder)
        self.asked: list[str] = []
        self.site = site.make(self.ask, folder / "page", hosts)
        self.client = self.site.app.test_client()

    def join(self) -> None:
        """Wait for what is being drawn."""
        for thread in threading.enumerate():
            if thread.name == "page-draw":
                thread.join(90)
                assert not thread.is_alive()

    def stop(self) -> None:
        """Forget the engine once nothing is being drawn."""
        self.join()
        self.rig.stop()

    def ask(self, command: str, args: Mapping[str, Any]) -> Reply:
        """As the daemon answers."""
        self.asked.append(command)
        return self.rig.ask(command, **args)

    def get(self, address: str, **headers: str) -> TestResponse:
        """One answer."""
        return self.client.get(address, headers=headers)

    def seen(self, address: str) -> Elements:
        """What stands in a page that is there."""
        answer = self.get(address)
        assert answer.status_code == 200, answer.text
        return Elements(answer.text)
