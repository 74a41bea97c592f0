"""What one check of `autoperfctl doctor` found. A value; any thread."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """`well` None: this user cannot tell, or it is only worth knowing. `hint`: what to do about it."""

    subject: str
    well: bool | None
    sentence: str
    hint: str = ""
