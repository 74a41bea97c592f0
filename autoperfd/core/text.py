"""Making text of others fit to be shown: one function, pure, called from every thread."""

from __future__ import annotations

import unicodedata

_REFUSED = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, bidi marks, surrogates, unassigned


def safe(text: str, limit: int = 2000) -> str:
    """`text` without anything a terminal or viewer would act on, as one line of at most `limit` characters.

    Refused characters are shown as escapes (\\x1b, \\u202e), line breaks and tabs as spaces.
    """
    cut = text[:limit]
    shown = "".join(" " if char in "\n\r\t" else char if _plain(char) else _escaped(char) for char in cut).strip()
    shown = shown[:limit]
    return shown + " …" if len(text) > limit else shown


def safe_lines(text: str, limit: int = 65536) -> str:
    """Like `safe`, but line feeds stay."""
    cut = text[:limit].replace("\r\n", "\n")
    return "".join(char if char == "\n" or _plain(char) else " " if char == "\t" else _escaped(char) for char in cut)


def _plain(char: str) -> bool:
    return " " <= char <= "~" or (char > "\x9f" and unicodedata.category(char) not in _REFUSED)


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def coded(code: str, reason: str) -> str:
    """A reason for a person behind its stable code for a script; the one that is there, where one is missing."""
    return f"{code}: {reason}" if code and reason else code or reason
