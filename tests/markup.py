"""What stands in a page of HTML, for tests that look whether hostile words became markup."""

from __future__ import annotations

from html.parser import HTMLParser


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
