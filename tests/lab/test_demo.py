"""`make demo` keeps its promises: the whole showing with both tools, its refusal without sshd, its tables."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autoperfd.errors import AutoperfError
from autoperfd.lab.demo import left_running, table
from autoperfd.lab.loopback import find_sshd

ROOT = Path(__file__).parents[2]


def demo(folder: Path, tool: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "autoperfd.lab.demo", "--tool", tool, "--folder", str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PATH": path},
    )


@pytest.mark.lab
@pytest.mark.timeout(300)
@pytest.mark.parametrize("tool", ["perftest", "ddsperf"])
def test_the_demo_shows_what_it_says_and_leaves_nothing(tmp_path: Path, tool: str) -> None:
    try:
        find_sshd()
    except AutoperfError as error:
        pytest.skip(error.sentence())
    if tool == "ddsperf" and not shutil.which("ddsperf"):
        pytest.skip("ddsperf is not installed (apt-get install cyclonedds-tools)")
    said = demo(tmp_path / "demo", tool)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "NO " not in said.stdout and "   yes  nothing runs any more" in said.stdout
    assert "$ autoperfctl submit" in said.stdout
    assert re.search(r"  attempt [23]  success", said.stdout), said.stdout
    assert ("not RTI Perftest" in said.stdout) == (tool == "perftest")
    for line in said.stdout.splitlines():
        if line.strip().startswith(str(tmp_path)):
            assert Path(line.strip()).exists()
    assert left_running(tmp_path / "demo") == []


def test_without_the_tool_it_says_how_to_get_it(tmp_path: Path) -> None:
    said = demo(tmp_path / "demo", "ddsperf", path=str(tmp_path))
    assert (said.returncode, said.stdout) == (1, "")
    assert "sudo apt-get install cyclonedds-tools" in said.stderr


def test_tables_stand_in_columns() -> None:
    rows = [{"a": "1", "b": "x", "c": "hidden"}, {"a": "22.255", "b": "long word"}]
    assert table(rows, {"a": "first", "b": "second"}).splitlines() == [
        "   first  second",
        "       1  x",
        "    22.3  long word",
    ]
