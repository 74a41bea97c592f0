"""What one check of a controller or a machine found, and how a person reads of it. A value; any thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """`well` None: this user cannot tell, or it is only worth knowing. `hint`: what to do about it."""

    subject: str
    well: bool | None
    sentence: str
    hint: str = ""

    def lines(self) -> Iterator[str]:
        """What is shown of it."""
        yield f"{_MARKS[self.well]}{self.subject}: {self.sentence}"
        if self.hint:
            yield f"      {self.hint}"


_MARKS = {True: "ok  ", False: "!   ", None: "?   "}
