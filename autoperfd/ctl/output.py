"""Writes a file a person asked for: whole or not at all, and never over a file that is none of ours. One thread."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from autoperfd.errors import AutoperfError

LOOKED_AT = 2048  # bytes of a file that is there already


def write(path: Path, what: str, is_ours: Callable[[bytes], bool], fill: Callable[[BinaryIO], object]) -> None:
    """Write `path` by `fill`. What is there already must begin as `is_ours` says; `what` names it: "report".

    Raises AutoperfError.
    """
    _refuse_others(path, what, is_ours)
    try:
        fd, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        try:
            with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor, no path
                fill(file)
                os.fchmod(fd, 0o644)
            Path(partial).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(partial).unlink()
            raise
    except OSError as error:
        raise AutoperfError(f"autoperfctl cannot write {path}: {error.strerror}") from error


def _refuse_others(path: Path, what: str, is_ours: Callable[[bytes], bool]) -> None:
    if not os.path.lexists(path):
        return
    try:
        if path.is_file():
            with path.open("rb") as file:
                if is_ours(file.read(LOOKED_AT)):
                    return
    except OSError as error:
        raise AutoperfError(f"autoperfctl cannot look at {path}: {error.strerror}") from error
    raise AutoperfError(f"{path} is there, and it is no {what}", hint="Name another file")
