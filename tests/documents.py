"""Knows what stands in README.md and below docs/: blocks with their marks, links, headings. Pure but for reading.

A *mark* is the HTML comment in the line above a block; it says how the block is proven (tests/test_docs.py):

    <!-- runs -->                           each command is executed there, and what the block shows is compared
    <!-- runs, answering yes -->            the same on a terminal at which somebody says yes
    <!-- run by: tests/a.py::test_b, … -->  these do the same; the words of the commands must stand in these files;
                                            a document counts where a test that is named reads it
    <!-- part of: FILE -->                  the block stands in that file, line by line
    <!-- part of an experiment -->          keys that the reader of experiment files takes
    <!-- needs hardware: … -->              nothing here can run it, and this is why
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
KINDS = ("runs", "runs, answering yes", "run by", "part of", "part of an experiment", "needs hardware")
SHELLS = ("sh", "console")
_MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `line`: of its first line, from 1; `mark`: the words of the comment above it, or ""."""

    file: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def where(self) -> str:
        """File and line."""
        return f"{self.file}:{self.line}"

    @property
    def kind(self) -> str:
        """Which of KINDS the mark is, or ""."""
        kind = self.mark.partition(":")[0]
        return kind if kind in KINDS else ""

    @property
    def told(self) -> list[str]:
        """What the mark names behind its colon."""
        return [word.strip() for word in self.mark.partition(":")[2].split(",")]

    def commands(self) -> list[tuple[str, str]]:
        """Each command line, and what the block shows of its output; "" where it shows nothing."""
        if self.language == "sh":
            joined = self.text.replace("\\\n", "")
            return [(line, "") for line in joined.splitlines() if line.strip() and not line.startswith("#")]
        found: list[tuple[str, str]] = []
        for line in self.text.splitlines(keepends=True):
            if line.startswith("$ "):
                found.append((line[2:].rstrip("\n"), ""))
            elif found:
                found[-1] = (found[-1][0], found[-1][1] + line)
        return found


def documents() -> list[str]:
    """README.md and all pages of docs/, as names from the project's folder."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    return ["README.md", *(str(page.relative_to(ROOT)) for page in pages)]


def read(file: str) -> str:
    """A document's text."""
    return (ROOT / file).read_text(encoding="utf-8")


def blocks(text: str, file: str = "") -> Iterator[Block]:
    """The fenced blocks of a document, wherever they stand."""
    mark = ""
    for token in _MARKDOWN.parse(text):
        if token.type == "fence":
            assert token.map
            yield Block(file, token.map[0] + 2, token.info.strip(), token.content, mark)
        comment = re.fullmatch(r"<!-- (.*) -->\n?", token.content, re.DOTALL) if token.type == "html_block" else None
        mark = " ".join(comment[1].split()) if comment else ""


def indented(text: str) -> list[str]:
    """Blocks that no fence shows, but that stand four spaces in."""
    return [token.content for token in _MARKDOWN.parse(text) if token.type == "code_block"]


def links(text: str) -> list[str]:
    """Where its links and images lead."""
    found = []
    for token in _inline(text):
        if token.type in ("link_open", "image"):
            found.append(str(token.attrs.get("href") or token.attrs.get("src")))
        elif token.type in ("html_inline", "html_block"):
            found += re.findall(r'<img src="([^"]+)"', token.content)
    return found


def spans(text: str) -> list[str]:
    """All that stands in it as code within a line."""
    return [token.content for token in _inline(text) if token.type == "code_inline"]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings."""
    found: set[str] = set()
    tokens = _MARKDOWN.parse(text)
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            words = "".join(child.content for child in token.children or ()).lower()
            slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
            found.add(next(name for n in range(len(found) + 1) if (name := f"{slug}-{n}" if n else slug) not in found))
    return found


def broken(file: str, text: str, root: Path = ROOT) -> list[str]:
    """Links of a document that lead nowhere in this project. Those to other places are not looked at."""
    wrong = []
    for link in links(text):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (root / file).parent / path
        if not target.exists():
            wrong.append(f"{file}: {link}: there is no such file")
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8") if path else text):
            wrong.append(f"{file}: {link}: there is no such heading")
    return wrong


def unproven(block: Block, root: Path = ROOT) -> list[str]:
    """What is wrong with the mark of a block that is not executed: what it names does not do what the block says."""
    wrong = []
    if block.kind == "part of":
        lines = (root / block.told[0]).read_text(encoding="utf-8")
        if block.text.strip() not in lines:
            wrong.append(f"{block.where}: it does not stand so in {block.told[0]}")
    if block.kind == "run by":
        known = ""
        for name in block.told:
            path, _, test = name.partition("::")
            if not (root / path).is_file():
                wrong.append(f"{block.where}: there is no file {path}")
                continue
            text = (root / path).read_text(encoding="utf-8")
            known += text
            if test and test not in _functions(text):
                wrong.append(f"{block.where}: {path} has no {test}")
        wrong += [f"{block.where}: nothing it names reads {page}" for page in block.told if _unread(page, block, root)]
        if block.language in SHELLS:
            words = set(re.findall(r"[\w.-]+", known))
            for line, _ in block.commands():
                missing = [word for word in _words(line) if word not in words]
                if missing:
                    wrong.append(f"{block.where}: nothing it names has the words {' '.join(missing)} of {line!r}")
    if block.kind == "needs hardware" and len(block.mark) < 30:
        wrong.append(f"{block.where}: the mark does not say why")
    return wrong


def _inline(text: str) -> Iterator[Token]:
    for token in _MARKDOWN.parse(text):
        yield token
        yield from token.children or ()


def _unread(page: str, block: Block, root: Path) -> bool:
    """Whether a mark names a document that none of its tests speaks of: words in it prove nothing by themselves."""
    tests = [name.partition("::")[0] for name in block.told if "::" in name]
    said = "".join((root / test).read_text(encoding="utf-8") for test in tests if (root / test).is_file())
    return page.endswith(".md") and Path(page).name not in said


def _functions(text: str) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}


def _words(line: str) -> Sequence[str]:
    """The words of a command line, without sudo and the names of tests."""
    parts = [part for part in shlex.split(line, comments=True) if part != "sudo" and not re.search(r"\dSEC_", part)]
    return [word for part in parts for word in re.findall(r"[\w.-]+", part)]
