"""Builds and reads `attempt-N.tar.gz`: everything that explains an attempt, with SHA256SUMS. Worker threads; blocks.

Members are files we wrote ourselves under names the controller chose. Reading extracts nothing to disk.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from autoperfd.daemon.files import sync_folder
from autoperfd.errors import DiskError

log = logging.getLogger(__name__)

SUMS = "SHA256SUMS"
ENDING = ".tar.gz"
MOST_EARLIER = 1000  # archives of one name
MOST_BYTES = 1 << 36  # of all members of one of our own archives
DAMAGED = (OSError, EOFError, ValueError, tarfile.TarError, zlib.error)


class _Hashing(io.RawIOBase):
    """Passes bytes on to a file and hashes them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        chunk = memoryview(cast(bytes, data))
        self._file.write(chunk)
        self.sha256.update(chunk)
        self.size += len(chunk)
        return len(chunk)


def build(
    target: Path, folder: Path, names: Mapping[str, str], texts: Mapping[str, bytes], mtime: float
) -> tuple[str, int]:
    """Write the archive durably: the files `names` (name -> sha256) of `folder`, then `texts` as further members.

    An archive that is there already is of another attempt or damaged; it is kept as `attempt-N.earlier.tar.gz`.
    Returns (sha256, size in bytes) of the archive. Raises DiskError.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        with open(fd, "wb", buffering=1 << 16) as file:  # noqa: PTH123 - a descriptor, no path
            hashing = _Hashing(file)
            with (
                gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=hashing, mtime=mtime) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                sums = dict(names)
                for name in names:
                    with (folder / name).open("rb") as source:
                        info = _info(name, os.fstat(source.fileno()).st_size, mtime)
                        tar.addfile(info, source)
                for name, text in texts.items():
                    sums[name] = hashlib.sha256(text).hexdigest()
                    tar.addfile(_info(name, len(text), mtime), io.BytesIO(text))
                listing = "".join(f"{total}  {name}\n" for name, total in sums.items()).encode()
                tar.addfile(_info(SUMS, len(listing), mtime), io.BytesIO(listing))
            file.flush()
            os.fsync(file.fileno())
        _keep_earlier(target)
        partial.replace(target)
        sync_folder(target.parent)
    except (OSError, DiskError) as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, DiskError):
            raise
        raise DiskError.of(f"cannot write the archive {target}", error) from error
    return hashing.sha256.hexdigest(), hashing.size


def _keep_earlier(target: Path) -> None:
    """Make way for an archive: who put back an older memory, or began anew, still has what was measured before."""
    if not os.path.lexists(target):
        return
    for number in range(1, MOST_EARLIER + 1):
        again = f"-{number}" if number > 1 else ""
        aside = target.with_name(f"{target.name.removesuffix(ENDING)}.earlier{again}{ENDING}")
        if not os.path.lexists(aside):
            target.rename(aside)
            sync_folder(target.parent)  # before another file takes its name
            log.warning("%s was there already, of another attempt or damaged; it is kept as %s", target, aside.name)
            return
    raise DiskError(f"cannot keep {target} aside, as {MOST_EARLIER} others were", hint="Move them away")


def _info(name: str, size: int, mtime: float) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, int(mtime), 0o644
    return info


def members(path: Path, cap: int = MOST_BYTES) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, stream) of each member, to be read in turn. Raises one of DAMAGED where it is damaged."""
    with gzip.open(path, "rb") as packed, tarfile.open(fileobj=cast(IO[bytes], packed), mode="r|") as tar:
        total = 0
        for info in tar:
            total += info.size
            if not info.isreg() or total > cap:
                raise tarfile.TarError(f"{path.name}: member {info.name!r} is not a plain file of a sane size")
            stream = tar.extractfile(info)
            assert stream is not None
            yield info.name, stream
        while rest := packed.read(1 << 18):  # gzip compares its checksum at the very end
            total += len(rest)
            if total > cap:
                raise tarfile.TarError(f"{path.name}: there is too much behind its members")


def read_text(path: Path, wanted: str, cap: int = 1 << 20) -> bytes | None:
    """One small member, or None where there is none or the archive is damaged."""
    try:
        for name, stream in members(path):
            if name == wanted:
                return stream.read(cap)
    except DAMAGED:
        return None
    return None


def problems(path: Path) -> list[str]:
    """What is wrong with an archive, as sentences; [] when every member matches SHA256SUMS."""
    found: dict[str, str] = {}
    sums: dict[str, str] = {}
    try:
        for name, stream in members(path):
            if name == SUMS:
                lines = stream.read(1 << 20).decode("utf-8", "replace").splitlines()
                sums = {text[66:]: text[:64] for text in lines}
                continue
            digest = hashlib.sha256()
            while chunk := stream.read(1 << 18):
                digest.update(chunk)
            found[name] = digest.hexdigest()
    except DAMAGED as error:
        return [f"{path.name} cannot be read: {error}"]
    if not sums:
        return [f"{path.name} has no {SUMS}"]
    wrong = [f"{path.name}: {name} does not match its checksum" for name in sums if found.get(name) != sums[name]]
    return wrong + [f"{path.name}: {name} is not listed in {SUMS}" for name in found if name not in sums]


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
