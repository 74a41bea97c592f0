"""attempt-N.tar.gz: everything comes back, and any damage is found."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from autoperfd.daemon import archive
from autoperfd.daemon.archive import SUMS
from autoperfd.errors import DiskError

FILES = {"pub_0.csv": b"a,b\n" * 1000, "sub_0.stdout": b"", "sub_0.stderr": bytes(range(256)) * 40}
TEXTS = {"attempt.json": b"{}\n", "result.json": b'{"end_status": "success", "reason": "n\xc3\xa4h"}\n'}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / "staging"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def built(staging: Path, tmp_path: Path) -> Path:
    target = tmp_path / "attempt-1.tar.gz"
    make(target, staging)
    return target


def make(target: Path, staging: Path) -> tuple[str, int]:
    return archive.build(target, staging, {name: digest(FILES[name]) for name in FILES}, TEXTS, 1_700_000_000.75)


def test_everything_comes_back(built: Path, staging: Path) -> None:
    found = {name: stream.read() for name, stream in archive.members(built)}
    assert {name: content for name, content in found.items() if name != SUMS} == FILES | TEXTS
    assert list(found) == [*FILES, *TEXTS, SUMS]
    assert archive.problems(built) == []
    assert archive.read_text(built, "result.json") == TEXTS["result.json"]
    assert archive.read_text(built, "nothing") is None


def test_nothing_is_ever_overwritten(built: Path, staging: Path) -> None:
    """Whatever stands in the place of a new archive, whatever it is, is there afterwards under another name."""
    first = built.read_bytes()
    built.with_name("attempt-1.earlier-2.tar.gz").symlink_to("nowhere")
    built.write_bytes(b"damaged")
    make(built, staging)
    make(built, staging)
    built.unlink()
    built.mkdir()
    make(built, staging)
    names = ("attempt-1.earlier.tar.gz", "attempt-1.earlier-3.tar.gz", "attempt-1.earlier-4.tar.gz")
    damaged, good, folder = map(built.with_name, names)
    assert damaged.read_bytes() == b"damaged" and good.read_bytes() == built.read_bytes() == first and folder.is_dir()
    assert built.with_name("attempt-1.earlier-2.tar.gz").is_symlink()
    assert sorted(path.name for path in built.parent.glob("*.tar.gz")) == sorted(
        [built.name, *names, "attempt-1.earlier-2.tar.gz"]
    )


def test_an_archive_that_cannot_be_kept_aside_stays(
    built: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_EARLIER", 2)
    make(built, staging)
    make(built, staging)
    last = built.stat()
    with pytest.raises(DiskError, match="2 others were"):
        make(built, staging)
    assert built.stat() == last and not list(built.parent.glob(".*"))


def test_it_says_what_it_is(staging: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.tar.gz"
    sha256, size = make(target, staging)
    assert (sha256, size) == (digest(target.read_bytes()), target.stat().st_size)
    assert sha256 == archive.sha256_of_file(target)
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "staging"]


def test_the_same_files_make_the_same_archive(staging: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "a.tar.gz", staging) == make(tmp_path / "b.tar.gz", staging)


@pytest.mark.skipif(not shutil.which("sha256sum") or not shutil.which("tar"), reason="needs tar and sha256sum")
def test_other_programs_can_check_it(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-xzf", built, "-C", out], check=True, timeout=30)
    checked = subprocess.run(["sha256sum", "-c", SUMS], cwd=out, check=True, timeout=30, capture_output=True)
    assert checked.stdout.count(b": OK\n") == len(FILES) + len(TEXTS)
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} <= {0o644, 0o640, 0o600}


def test_any_cut_is_found(built: Path) -> None:
    whole = built.read_bytes()
    for length in {0, 1, 10, 100, len(whole) // 2, len(whole) - 9, len(whole) - 1}:
        built.write_bytes(whole[:length])
        (problem,) = archive.problems(built)
        assert problem.startswith("attempt-1.tar.gz ")


def test_any_flipped_bit_is_found(built: Path) -> None:
    whole, content = built.read_bytes(), gzip.decompress(built.read_bytes())
    missed = []
    for place in range(10, len(whole), max(1, len(whole) // 300)):
        built.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        # Some say the same in other words: one distance of a repetition or another.
        if not archive.problems(built) and gzip.decompress(built.read_bytes()) != content:
            missed.append(place)
    assert not missed


def repacked(path: Path, change: dict[str, bytes | None], extra: list[tarfile.TarInfo] | None = None) -> None:
    """The archive with members changed or (None) left out, its sums as they were."""
    members = [(name, change.get(name, content)) for name, content in content_of(path)]
    members += [(name, content) for name, content in change.items() if name not in dict(members)]
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            if content is not None:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        for info in extra or ():
            tar.addfile(info)


def content_of(path: Path) -> list[tuple[str, bytes]]:
    return [(name, stream.read()) for name, stream in archive.members(path)]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"pub_0.csv": b"other"}, "pub_0.csv does not match its checksum"),
        ({"pub_0.csv": None}, "pub_0.csv does not match its checksum"),
        ({"result.json": b"{}"}, "result.json does not match its checksum"),
        ({"more": b"x"}, f"more is not listed in {SUMS}"),
        ({SUMS: None}, f"has no {SUMS}"),
        ({SUMS: b""}, f"has no {SUMS}"),
        ({SUMS: b"\xff\xfe nonsense"}, "is not listed"),
    ],
)
def test_a_changed_member_is_named(built: Path, change: dict[str, bytes | None], problem: str) -> None:
    repacked(built, change)
    found = archive.problems(built)
    assert any(problem in text for text in found) and all(text.startswith("attempt-1.tar.gz") for text in found)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_nothing_but_plain_files_is_read(built: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("evil")
    info.type, info.linkname = kind, "/etc/passwd"
    repacked(built, {}, [info])
    assert "is not a plain file" in archive.problems(built)[0]


def test_a_bomb_is_not_swallowed(tmp_path: Path) -> None:
    path, info = tmp_path / "bomb.tar.gz", tarfile.TarInfo("zeros")
    info.size = archive.MOST_BYTES + 1
    with gzip.open(path, "wb") as packed:
        packed.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    assert "of a sane size" in archive.problems(path)[0]
    assert archive.read_text(path, "zeros") is None


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    assert "cannot be read" in archive.problems(path)[0]
    for content in (b"", b"plain text", gzip.compress(b"not a tar" * 1000), os.urandom(5000)):
        path.write_bytes(content)
        assert archive.problems(path), content[:20]


def test_a_long_text_is_cut_where_asked(built: Path) -> None:
    assert archive.read_text(built, "pub_0.csv", cap=10) == FILES["pub_0.csv"][:10]


@pytest.mark.parametrize("fault", ["missing", "no folder", "full"])
def test_what_cannot_be_written_leaves_nothing(
    staging: Path, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "attempt-1.tar.gz"
    match fault:
        case "missing":
            (staging / "pub_0.csv").unlink()
        case "no folder":
            target = tmp_path / "nowhere" / "attempt-1.tar.gz"
        case "full":

            def full(fd: int) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match=r"cannot write the archive .*attempt-1\.tar\.gz"):
        make(target, staging)
    assert [path.name for path in tmp_path.iterdir()] == ["staging"]


def test_a_former_try_is_written_over(staging: Path, tmp_path: Path) -> None:
    target = tmp_path / "attempt-1.tar.gz"
    (tmp_path / ".attempt-1.tar.gz.partial").write_bytes(b"x" * 100_000)
    make(target, staging)
    assert archive.problems(target) == []
