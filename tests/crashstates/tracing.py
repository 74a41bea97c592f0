"""Runs a program under strace and tells, call by call, what it did to the files below one folder. Test thread; blocks.

Calls are given at the moment they return, in the order they did. Reads are not traced: a plain write() to a file that
may also be read must follow an lseek(), else the trace is refused rather than guessed at.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MUTATING = (
    "open,openat,creat,close,write,pwrite64,writev,pwritev,pwritev2,truncate,ftruncate,fallocate,rename,renameat,"
    "renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,fsync,fdatasync,sync,syncfs,"
    "sync_file_range,dup,dup2,dup3,fcntl,lseek,copy_file_range,sendfile,splice"
)
_CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(?: (\w+))?(.*)")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")


@dataclass(frozen=True, slots=True)
class Call:
    """One finished system call. `args` as strace prints them, strings in hex; `result` is -1 on an error."""

    name: str
    args: tuple[str, ...]
    result: int
    error: str = ""
    injected: bool = False

    def text(self, place: int) -> bytes:
        """An argument that is a string or a buffer."""
        word = self.args[place]
        if not word.startswith('"') or not word.endswith('"'):
            raise ValueError(f"strace did not print all of {self.name}({word[:60]})")
        return bytes.fromhex(word[1:-1].replace("\\x", ""))


def trace(argv: Sequence[str], log: Path, *, inject: str = "", fails: bool = False, timeout: float = 60) -> list[Call]:
    """Run a program to its end and give all its mutating calls. `inject`: an expression of strace's --inject.

    Raises AssertionError where the program fails, or with `fails` where it does not.
    """
    command = ["strace", "-f", "-o", str(log), "-xx", "-s", str(1 << 24), "-e", f"trace={MUTATING}"]
    command += ["-e", f"inject={inject}"] if inject else ["--seccomp-bpf"]  # never both: injection would not fire
    done = subprocess.run([*command, *argv], capture_output=True, timeout=timeout, check=False)
    assert bool(done.returncode) == fails, (argv, done.stdout.decode(), done.stderr.decode())
    with log.open(encoding="ascii") as file:
        return list(parse(file))


def parse(lines: Iterator[str]) -> Iterator[Call]:
    """The finished calls of strace's output."""
    begun: dict[str, str] = {}
    for text in lines:
        line = text.rstrip("\n")
        if half := _BEGUN.fullmatch(line):
            begun[half[1]] = half[3]
            continue
        if rest := _RESUMED.fullmatch(line):
            line = f"{rest[1]} {rest[2]}({begun.pop(rest[1])}{rest[3]}"
        found = _CALL.fullmatch(line)
        if found is None or found[4] == "?":  # a signal, an exit, or a call that ended with its process
            continue
        args = tuple(word.strip() for word in found[3].split(", "))
        yield Call(found[2], args, int(found[4]), found[5] or "", "(INJECTED)" in found[6])
