"""Reads experiment files of strangers; promises an answer within bounded time and memory, whatever the bytes.

Parsing happens in a child process (parse_child.py) that is limited in CPU time and memory; what is wrong there
becomes one problem of the file. The child's program is kept in memory from the start: an upgrade replaces its files
while the daemon runs. Validation is linear and happens here. Called by the intake thread; any thread.
"""

from __future__ import annotations

import fcntl
import json
import marshal
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

import tomli

from autoperfd.core.config import Experiment, read_document
from autoperfd.core.plan import Tool
from autoperfd.core.tables import decode, not_toml
from autoperfd.errors import ConfigError, Problem

MOST_BYTES = 1024 * 1024  # of an experiment file
_NO_TIME = bytes(12)  # of the source: PEP 552's header of a compiled module whose source is not beside it
_CHILD = Path(__file__).with_name("parse_child.py").read_text(encoding="utf-8")


def _kept_in_memory(package: Path) -> int:
    """A zip of a package's compiled modules that lives as long as this process; its descriptor."""
    made = os.memfd_create(package.name)
    fd = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 3)  # where we were started without 0, 1 and 2, they stay free
    os.close(made)
    with open(fd, "wb", closefd=False) as file, zipfile.ZipFile(file, "w") as modules:
        for path in package.rglob("*.py"):
            name = path.relative_to(package.parent)
            code = marshal.dumps(compile(path.read_bytes(), str(name), "exec"))
            # With a time of its own: a controller without a clock boots in 1970, which no zip can tell.
            entry = zipfile.ZipInfo(str(name.with_suffix(".pyc")))
            modules.writestr(entry, MAGIC_NUMBER + _NO_TIME + code)
    return fd


_TOMLI = _kept_in_memory(Path(tomli.__file__).parent)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the child may use. Wall time is generous: on a busy controller 2 s of CPU take long."""

    cpu_secs: int = 2
    wall_secs: float = 30
    memory_bytes: int = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file says. `documents`: each experiment's table as JSON, to be kept and read again."""

    experiments: tuple[Experiment, ...]
    documents: tuple[str, ...]


class _Foreign:
    """A TOML value that JSON cannot carry: a date or a time. Wrong wherever it stands."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __str__(self) -> str:
        return self.words


def read_limited(
    data: bytes, file: str, tools: Mapping[str, Tool], power: Collection[str], limits: Limits | None = None
) -> Parsed:
    """The experiments of a file, like core.config.read_experiments but safe for any bytes; ConfigError else."""
    if len(data) > MOST_BYTES:
        found = f"{len(data)} bytes"
        raise ConfigError(
            [Problem(file, 0, "text", found, f"at most {MOST_BYTES} bytes", "split it into several files")]
        )
    words = decode(data, file)
    document = _document(words, file, limits or Limits())
    experiments = read_document(document, words, file, tools, power)
    return Parsed(experiments, tuple(json.dumps(table) for table in document["experiments"]))


def _document(words: str, file: str, limits: Limits) -> Any:
    """What the text says, parsed by the child."""
    path = f"/proc/self/fd/{_TOMLI}"
    argv = [sys.executable, "-I", "-S", "-c", _CHILD, path, str(limits.cpu_secs), str(limits.memory_bytes)]
    try:
        child = subprocess.run(
            argv,
            input=words.encode(),
            capture_output=True,
            timeout=limits.wall_secs,
            pass_fds=[_TOMLI],
            env={},
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise not_toml(file, 0, 0, f"it took more than {limits.wall_secs:g} s to read") from None
    if child.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise not_toml(file, 0, 0, f"it took more than {limits.cpu_secs} s of CPU time to read")
    try:
        answer = json.loads(child.stdout, object_hook=_foreign) if child.returncode == 0 else {}
    except (ValueError, RecursionError):
        answer = {}
    if "error" in answer:
        raise not_toml(file, *answer["error"])
    if "document" not in answer:
        last = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise not_toml(file, 0, 0, f"reading it ended with status {child.returncode} {last}".rstrip())
    return answer["document"]


def _foreign(table: dict[str, Any]) -> Any:
    return _Foreign(table["\0"]) if len(table) == 1 and isinstance(table.get("\0"), str) else table
