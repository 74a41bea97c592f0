"""Nothing that a terminal or a viewer acts on comes through `safe`."""

from __future__ import annotations

import sys
import time
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from autoperfd.core.text import coded, safe, safe_lines

BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def harmless(text: str) -> bool:
    return not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") or char in BIDI for char in text)


def test_every_code_point_is_harmless_afterwards() -> None:
    for first in range(0, sys.maxunicode, 0x1000):
        assert harmless(safe("".join(map(chr, range(first, first + 0x1000))), 0x1000))


def test_plain_text_stays() -> None:
    for text in ("perftest 4.1", "größer als 漢字 é 🎉", "a\\b 'c' \"d\""):
        assert safe(text) == text


def test_examples() -> None:
    assert safe("\x1b]52;c;aGk=\x07evil\r\nmore") == "\\x1b]52;c;aGk=\\x07evil  more"
    assert safe("abc\u202egnp.exe") == "abc\\u202egnp.exe"
    assert safe("x" * 10, 4) == "xxxx …"
    assert safe_lines("a\r\nb\x00\n") == "a\nb\\x00\n"


@given(st.text())
def test_any_text(text: str) -> None:
    assert harmless(safe(text))
    assert "\n" not in safe(text)
    assert harmless(safe_lines(text).replace("\n", ""))


def test_big_text_is_quick() -> None:
    began = time.process_time()
    safe_lines("\u202e" * 65536)
    assert time.process_time() - began < 0.5


def test_a_code_stands_before_its_reason() -> None:
    assert coded("DISK_FULL", "no room") == "DISK_FULL: no room"
    assert (coded("", "no room"), coded("DISK_FULL", ""), coded("", "")) == ("no room", "DISK_FULL", "")
