"""Knows how things are put on the screen: escaped, coloured only on a terminal that wants it. Imports little."""

from __future__ import annotations

import os
import sys

_LOUD, _QUIET = "\x1b[1;31m", "\x1b[0m"


def wide() -> dict[str, object]:
    """How wide the terminal is, for the daemon, which lays the text out; {} where there is none."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal():
        return {"columns": int(told[:6])}
    try:
        return {"columns": os.get_terminal_size(sys.stdout.fileno()).columns}
    except (OSError, ValueError, AttributeError):  # a pipe, a file, or what a test put there
        return {}


def print_reply(reply: dict[str, object], as_json: bool = False) -> int:
    """Print the daemon's reply, a refusal on standard error, and return its exit status."""
    if not reply.get("ok"):
        complain(str(reply.get("error", "the daemon refused without a reason")), str(reply.get("hint", "")))
    elif as_json:
        print_json(reply.get("data"))
    else:
        print_text(str(reply.get("text", "")))
    status = reply.get("exit")
    return status if isinstance(status, int) else 1


def print_text(text: str) -> None:
    """Print text that ends with a newline; every line without anything a terminal obeys."""
    text = printable(text)
    if coloured():
        text = "\n".join(_painted(line) for line in text.split("\n"))
    out = sys.stdout
    try:
        out.write(text)
    except UnicodeEncodeError:  # a locale without these letters
        out.write(text.encode("ascii", "backslashreplace").decode("ascii"))


def print_json(data: object) -> None:
    """Print JSON for a script: ASCII, indented."""
    import json

    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def complain(message: str, hint: str = "") -> None:
    """Say on standard error what is wrong and what to do."""
    lines = printable(message).split("\n")
    text = f"autoperfctl: {lines[0]}\n" + "".join(f"  {line}\n" for line in lines[1:])
    if hint:
        text += f"  {printable(hint)}\n"
    sys.stderr.write(text)  # standard error always escapes what it cannot encode


def printable(text: str) -> str:
    """`text` with all but newlines escaped where a terminal would obey it."""
    if text.replace("\n", "").isprintable():
        return text
    from autoperfd.core.text import safe_lines

    return safe_lines(text, len(text))


def coloured() -> bool:
    """Whether standard output is a terminal that wants colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def moves() -> bool:
    """Whether standard output is a terminal on which the screen can be drawn anew."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def loud(line: str) -> bool:
    """Whether a line of text asks for a person."""
    return line.startswith(("! ", "HELD:", "To do:"))


def _painted(line: str) -> str:
    return f"{_LOUD}{line}{_QUIET}" if loud(line) else line
