"""README.md and docs/: every block is executed, read or names what proves it.

tests/documents.py says how a block is marked. Commands run at a desk of tests/desk.py, one for each document.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from autoperfd.core import messages as m
from autoperfd.core.config import read_experiments
from autoperfd.core.settings import read_settings
from autoperfd.tools import TOOLS
from tests import documents
from tests.desk import TEST, Desk, experiment, results
from tests.documents import ROOT, SHELLS, Block
from tests.verify.support import Bench

BLOCKS = [block for file in documents.documents() for block in documents.blocks(documents.read(file), file)]
RUN = [file for file in documents.documents() if any(b.kind.startswith("runs") for b in BLOCKS if b.file == file)]
OTHERWISE = {  # exit statuses other than 0, and why they are right at the desk
    "autoperfctl doctor": (1, "the desk has no unit"),
    "autoperfctl doctor my.toml --send": (1, "nor a webhook"),
}
PROGRAMS = ("autoperfctl", "autoperfd", "sudo", "make", "systemctl", "apt", "apt-get", "curl", "ssh", "pip", "$ ")


@pytest.fixture
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Desk]:
    """Of somebody new for README.md, of somebody with results for all others."""
    made = Desk(tmp_path, new=request.node.callspec.params["file"] == "README.md")
    yield made
    made.close()


# ---------------------------------------------------------------- every block is proven somehow


def test_every_document_has_its_fences_in_order() -> None:
    wrong = [f"{file}: {line!r}" for file in documents.documents() for line in documents.indented(documents.read(file))]
    assert not wrong, "a block that no fence shows would be looked at by nobody"


@pytest.mark.parametrize("block", BLOCKS, ids=[block.where for block in BLOCKS])
def test_a_block_is_proven(block: Block) -> None:
    assert problems(block) == []


def problems(block: Block) -> list[str]:
    """What is wrong with a block, but for what its execution would show."""
    known = (*SHELLS, "text", "toml", "json", "yaml", "python", "mermaid")
    if block.language not in known:
        return [f"{block.where}: it needs a language behind its fence, one of {', '.join(known)}"]
    if block.language == "text" and not block.kind and block.text.startswith(PROGRAMS):
        return [f"{block.where}: these are commands, so its language is sh, or console where output is shown"]
    if block.language == "mermaid":
        is_made = block.mark.startswith(("made: ", "diagram, by make diagram"))
        return [] if is_made else [f"{block.where}: a diagram is made from the code; tests/pages.py does that"]
    if block.language in (*SHELLS, "python", "yaml") and not block.kind:
        return [f"{block.where}: the line above must say how it is proven; tests/documents.py says how"]
    if block.language in SHELLS and not block.commands():
        return [f"{block.where}: there is no command in it"]
    if block.language == "toml" and block.kind != "part of":
        if block.kind == "part of an experiment":
            whole = experiment(Path("~"), []).replace("[[experiments]]\n", f"[[experiments]]\n{block.text}", 1)
            read_experiments(whole.encode(), block.where, TOOLS, ["plug-p1"])
        elif "[[experiments]]" in block.text:
            read_experiments(block.text.encode(), block.where, TOOLS, ["plug-p1"])
        else:
            read_settings(block.text.encode(), block.where)
    if block.language == "json":
        json.loads(block.text)
    return documents.unproven(block)


MADE_UP = """# One

<!-- runs -->
```console
$ true
a
$ false
```

```
sudo true
```

```text
sudo true
```

```sh
true
```

<!-- run by: tests/test_docs.py::test_nothing_of_the_kind, tests/nowhere.py -->
```sh
zzz --zzzz  # and what it is for
```

<!-- needs hardware: a Pi -->
```sh
true
```

<!-- part of: Makefile -->
```text
so it is not
```

```toml
[page]
listne = "x"
```

    an indented block
"""


def test_what_is_wrong_is_found() -> None:
    """That the checks above can fail at all."""
    runs, unnamed, text, unmarked, nowhere, hardware, part, settings = documents.blocks(MADE_UP, "README.md")
    assert runs.commands() == [("true", "a\n"), ("false", "")] and problems(runs) == []
    assert "README.md:11: it needs a language behind its fence" in problems(unnamed)[0]
    assert "these are commands" in problems(text)[0]
    assert "must say how it is proven" in problems(unmarked)[0]
    assert problems(nowhere) == [
        "README.md:24: tests/test_docs.py has no test_nothing_of_the_kind",
        "README.md:24: there is no file tests/nowhere.py",
    ]
    assert problems(hardware) == ["README.md:29: the mark does not say why"]
    assert problems(part) == ["README.md:34: it does not stand so in Makefile"]
    with pytest.raises(Exception, match="listne"):
        problems(settings)
    assert documents.indented(MADE_UP) == ["an indented block\n"]


def test_words_that_nobody_runs_are_found() -> None:
    mark = "run by: tests/test_packaging.py::test_systemd_understands_the_unit"
    asked = Block("README.md", 1, "sh", "sudo make install\nsudo make toast  # with butter\n", mark)
    quoting = Block("README.md", 1, "sh", "make install\n", f"{mark}, docs/PAGE.md")
    assert problems(quoting) == ["README.md:1: nothing it names reads docs/PAGE.md"]
    assert problems(asked) == ["README.md:1: nothing it names has the words toast of 'sudo make toast  # with butter'"]


def test_what_is_shown_is_compared() -> None:
    assert shows("a\n…\nd\n", "a\nb\nc\nd\n") and shows("a … c\n", "a b c\n") and shows("a\n…\n", "a\n")
    assert not shows("a\n…\nd\n", "a\nb\nc\n") and not shows("a\n", "a\nb\n") and not shows("a … c\n", "a b d\n")


# ---------------------------------------------------------------- commands


def shows(shown: str, said: str) -> bool:
    """Whether a document shows what a command said. "…" stands for any words, alone on a line for any lines."""
    parts = [re.escape(part).replace("…", "[^\n]*") for part in re.split(r"^…\n", shown, flags=re.MULTILINE)]
    return re.fullmatch("(?:.*\n)*?".join(parts), said) is not None


@pytest.mark.timeout(300)  # dozens of programs, one after another
@pytest.mark.parametrize("file", RUN)
def test_the_commands_of_a_document_run(file: str, desk: Desk) -> None:
    wrong = []
    for block in (block for block in BLOCKS if block.file == file and block.kind.startswith("runs")):
        for line, shown in block.commands():
            status, said = desk.run(line, yes=block.kind.endswith("yes"))
            wanted = OTHERWISE.get(line.partition(" #")[0].strip(), (0, ""))[0]
            if status != wanted or "Traceback" in said:
                wrong.append(f"{block.where}: {line}: exit status {status}, not {wanted}\n{said}")
            elif shown and not shows(shown, said):
                wrong.append(f"{block.where}: {line}: it says\n{said}")
    assert not wrong, "\n".join(wrong)
    assert "Traceback" not in desk.daemon.text()


def test_there_are_commands_to_run() -> None:
    assert {"README.md", "docs/COMMANDS.md", "docs/PAGE.md"} <= set(RUN)
    lines = [line for block in BLOCKS if block.kind.startswith("runs") for line, _ in block.commands()]
    assert len(lines) > 35
    assert set(OTHERWISE) <= set(lines), "an exception that nothing needs any more"


def test_what_lies_on_the_disk(tmp_path: Path) -> None:
    """The tree that README.md shows is what an experiment leaves."""
    (block,) = [b for b in BLOCKS if b.file == "README.md" and "what_lies_on_the_disk" in b.mark]
    results(tmp_path / "state", experiment(tmp_path, [1, 2]))
    folders: list[str] = []
    named = []
    for line in block.text.splitlines()[1:]:
        if entry := re.match(r"( *)(\S+)(?:  |$)", line):
            if len(entry[1]) > 20:
                continue  # the rest of a remark
            folders = [*folders[: len(entry[1]) // 2 - 1], entry[2]]
            named.append("".join(folders))
    assert len(named) == 7
    made_otherwise = {"copies/"}  # by the daemon, for verify
    assert [name for name in named if not (tmp_path / "state" / name).exists()] == list(made_otherwise)


def test_the_story_in_the_readme(tmp_path: Path) -> None:
    (block,) = [b for b in BLOCKS if "the_story_in_the_readme" in b.mark]
    ((line, shown),) = block.commands()
    assert line == f"autoperfctl why {TEST}"
    assert crash_and_outage(tmp_path).ask("why", test=TEST).text == shown


def crash_and_outage(folder: Path) -> Bench:
    """README.md's experiment when its first attempt has crashed and the second one has lived through an outage."""
    bench = Bench(folder, patience_secs=1800)
    bench.clock.step += datetime(2026, 11, 24, 2, 40, tzinfo=UTC).timestamp() - bench.clock.wall()
    text = experiment(folder, [])
    for key, value in (("pub_count", "1"), ("sub_count", "1"), ("use_multicast", "false")):
        text = re.sub(rf"^{key} *= .*", f"{key} = [{value}]", text, flags=re.MULTILINE)
    bench.submit(text)
    bench.running()
    bench.wait(13)
    ended = {"started": 100.0, "ended": 112.4, "ended_by": "self"}
    evidence = {
        "records": [
            {"name": "pub_0", "machine": "p1", "exit": 0, "signal": None, **ended},
            {"name": "sub_0", "machine": "p2", "exit": None, "signal": 11, **ended},
        ],
        "boot_before": {"p1": "a", "p2": "b"},
        "boot_after": {"p1": "a", "p2": "b"},
        "examined": {name: {"pinged": True, "ssh": "ok"} for name in ("p1", "p2")},
        "last_lines": {"sub_0 err:": ["Waiting for data...", "Segmentation fault"]},
    }
    reason = "sub_0 was ended by signal 11"
    result = m.AttemptResult(
        end_status="crashed", blame="test", machine="p2", code="CRASHED", reason=reason, evidence=json.dumps(evidence)
    )
    bench.answer(1, m.Failed(result=result))
    bench.wait(2)
    bench.running()
    bench.wait(8)
    for looking in (30, 30, 30, 30, 30, 2):
        bench.away(reason="p2: 192.0.2.12 does not answer pings")
        bench.wait(20)
        bench.answer(1, m.Due())
        bench.wait(looking)
    bench.validated()
    return bench


# ---------------------------------------------------------------- installing


def test_an_extra_is_what_pip_is_asked_for() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = set(re.findall(r'EXTRAS="?([a-z ]+)"?', "".join(map(documents.read, documents.documents()))))
    assert {"page report", "report page parquet"} <= named
    for extras in named:
        argv = [sys.executable, ".ci/wanted", *extras.split()]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
        assert all(set(known[extra]) <= set(done.stdout.splitlines()) for extra in extras.split())


@pytest.mark.install
def test_pip_takes_the_example(tmp_path: Path) -> None:
    """`python -m pip install ./docs/examples/iperf3`, into a folder beside the virtual environment."""
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site")]
    copy = tmp_path / "docs/examples/iperf3"
    copy.mkdir(parents=True)
    for path in (ROOT / "docs/examples/iperf3").iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    done = subprocess.run([*argv, "./docs/examples/iperf3"], cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    (found,) = [d for d in Distribution.discover(path=[str(tmp_path / "site")])]
    assert [(point.group, point.name) for point in found.entry_points] == [("autoperfd.tools", "iperf3")]
