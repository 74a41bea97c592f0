"""report: one file, written whole, in the place of an earlier report only."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autoperfd.ctl.main import main
from tests.verify.support import NAME, finished

Ctl = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a finished experiment; not to be changed."""
    return finished(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def ctl(pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """`autoperfctl WORDS` in an empty folder, beside a memory and no daemon."""
    config = tmp_path / "autoperfd.toml"
    config.write_text(f'[paths]\nruntime = "{tmp_path}/run"\nstate = "{pristine}"\nqueue = "{tmp_path}/queue"\n')
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("AUTOPERF_RUNTIME_DIR", raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["--config", str(config), *words])
        return status, *capsys.readouterr()

    return run


def test_a_report_is_written_and_written_again(ctl: Ctl) -> None:
    for _ in range(2):
        assert ctl("report", NAME) == (
            0,
            "The report is PCG_1-report.html; any browser shows it, without a network.\n",
            "",
        )
    text = Path("PCG_1-report.html").read_text(encoding="utf-8")
    assert "5 tests with perftest on 2 machines were planned, varying datalen_bytes." in text
    assert "2 proven" in text and "1 given up" in text and "1 left out" in text
    assert [path.name for path in Path().iterdir()] == ["PCG_1-report.html"]
    assert Path("PCG_1-report.html").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("thing", ["another file", "an empty file", "a folder", "a link to nothing"])
def test_what_is_no_report_is_left_alone(ctl: Ctl, thing: str) -> None:
    path = Path("mine.html")
    match thing:
        case "another file":
            path.write_text("mine")
        case "an empty file":
            path.touch()
        case "a folder":
            path.mkdir()
        case _:
            path.symlink_to("nowhere")
    before = path.lstat()
    status, out, err = ctl("report", NAME, "--output", "mine.html")
    assert (status, out) == (1, "") and "mine.html is there, and it is no report" in err
    assert path.lstat().st_ino == before.st_ino and path.lstat().st_mtime == before.st_mtime


def test_a_place_that_cannot_be_written_is_words(ctl: Ctl) -> None:
    status, _, err = ctl("report", NAME, "--output", "nowhere/report.html")
    assert status == 1 and "cannot write nowhere/report.html: No such file or directory" in err
    assert ctl("report", "x")[::2] == (1, f"autoperfctl: there is no experiment 'x'\n  Known are: {NAME}\n")


def test_a_missing_library_is_told_with_what_installs_it(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("autoperfd.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, _, err = ctl("report", NAME)
    assert status == 1 and "reports need matplotlib" in err and "sudo make install EXTRAS=report" in err
