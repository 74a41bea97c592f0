"""Bits that flip and files that are cut: found or harmless, never acted on."""

from __future__ import annotations

import gzip
import hashlib
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from autoperfd.daemon import archive
from autoperfd.daemon.place import SNAPSHOT
from autoperfd.daemon.store import Store, open_store
from autoperfd.errors import AutoperfError
from tests.crashstates.exploring import scratch
from tests.crashstates.protocols import CONTENT, dump, write_memory
from tests.faults import Fired

pytestmark = pytest.mark.timeout(300)
FLIPS = 1200


def what_it_reads(memory: Store) -> list[object]:
    """All that the daemon asks a memory, by the ways it asks."""
    tests = [f"t{place}" for place in range(9)]
    return [
        memory.load(),
        *(memory.attempt(1, test, 1) for test in tests),
        *(list(memory.attempts(1, test)) for test in tests),
        list(memory.closed_after(1, 0)),
        memory.latest(1, 5),
        memory.closed(1),
        memory.failures(1, 5),
        *(memory.test_status(1, test) for test in tests),
        memory.failed_tests(1),
        memory.decided_from(1, 0),
        memory.history(1),
        memory.message("m1"),
    ]


def damaged(data: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """The header's every bit, bits anywhere, and cuts at and beside the ends of sectors."""
    bits = [*range(100 * 8), *(rng.randrange(len(data) * 8) for _ in range(FLIPS))]
    for bit in bits:
        rotten = bytearray(data)
        rotten[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit % 8} of byte {bit // 8} flipped", bytes(rotten)
    for size in range(0, len(data), 512):
        yield f"cut at {size}", data[:size]
        yield f"cut at {size + 7}", data[: size + 7]


@pytest.mark.fault("D10")
def test_a_rotten_memory_is_refused_or_read_right(fired: Fired) -> None:
    found, wrong = 0, []
    with scratch() as folder:
        path = folder / "autoperf.db"
        write_memory(folder, lambda what: None, lambda memory: None)
        with closing(open_store(path)) as memory:
            expected, everything = what_it_reads(memory), dump(memory)
        (folder / "autoperf.db-journal").unlink()
        (folder / SNAPSHOT).write_bytes(b"{}")  # or an empty file would be a memory's beginning
        damages = list(damaged(path.read_bytes(), random.Random(11)))
        for what, rotten in damages:
            path.write_bytes(rotten)
            try:
                with closing(open_store(path)) as memory:
                    if what_it_reads(memory) != expected or dump(memory) != everything:
                        wrong.append(what)
            except AutoperfError:
                found += 1
                if path.read_bytes() != rotten:
                    wrong.append(f"{what}: the file was refused and changed")
            (folder / "autoperf.db-journal").unlink(missing_ok=True)
    assert wrong == []
    assert found > len(damages) // 3
    fired("D10", f"{found} of {len(damages)} damages of the memory were found, the others are harmless")


@pytest.mark.fault("D10")
def test_a_rotten_archive_is_found(tmp_path: Path, fired: Fired) -> None:
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    names = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    path, rng = tmp_path / "attempt-1.tar.gz", random.Random(5)
    archive.build(path, tmp_path, names, {"result.json": b"{}"}, 1.0)
    data, harmless = path.read_bytes(), 0
    for _ in range(500):
        bit = rng.randrange(len(data) * 8)
        rotten = bytearray(data)
        rotten[bit // 8] ^= 1 << bit % 8
        path.write_bytes(rotten)
        if not archive.problems(path):
            # Packed bytes that mean the same; the memory's SHA-256 of the whole file covers these too.
            assert gzip.decompress(rotten) == gzip.decompress(data)
            harmless += 1
    assert harmless < 50
    fired("D10", f"{500 - harmless} of 500 flipped bits of an archive were found")
