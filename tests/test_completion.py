"""The shells complete what autoperfctl takes: really asked, each in its own way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from autoperfd.ctl.commands import COMMANDS
from autoperfd.daemon.views import ExperimentView, ListView, MachineView, to_data

FILES = Path(__file__).parents[1] / "completion"
MACHINE = MachineView("p1", "192.0.2.1:22")
LIST = ListView(
    1.0,
    (
        ExperimentView("PCG #1", "running", machines=(MACHINE,)),
        ExperimentView("soak $(touch pwned)", "idle", outcome="waiting", machines=(MACHINE,)),
    ),
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files, and an autoperfctl that knows two experiments."""
    program = tmp_path / "bin" / "autoperfctl"
    program.parent.mkdir()
    listing = json.dumps(to_data(LIST), indent=2)  # as terminal.print_json has it
    program.write_text(f"#!/bin/sh\n[ \"$*\" = 'list --json' ] || exit 9\ncat <<'END'\n{listing}\nEND\n")
    program.chmod(0o755)
    (tmp_path / "my.toml").touch()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*argv: str) -> list[str]:
    binary = shutil.which(argv[0])
    assert binary, f"{argv[0]} is not installed"
    done = subprocess.run([binary, *argv[1:]], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


def in_bash(*words: str) -> list[str]:
    """What bash offers for the last of these words."""
    script = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _autoperfctl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return run("bash", "--norc", "-c", script, "bash", str(FILES / "autoperfctl.bash"), "autoperfctl", *words)


def in_fish(line: str) -> list[str]:
    """The same of fish, without what it says of each."""
    lines = run("fish", "--no-config", "-c", f'source {FILES}/autoperfctl.fish; complete -C "{line}"')
    return [line.split("\t")[0] for line in lines]


def test_bash(place: Path) -> None:
    everywhere = {"--config", "--runtime", "--instance", "--version", "--help"}
    assert set(in_bash("")) == {row.name for row in COMMANDS} | everywhere
    assert in_bash("st") == ["status"] and in_bash("status", "--w") == ["--watch"]
    assert in_bash("--config", "status", "re") == ["results", "report", "resume", "retry"]
    assert in_bash("--instance", "status", "re") == ["results", "report", "resume", "retry"]
    assert in_bash("check", "my") == ["my.toml"] and "--probe" in in_bash("check", "--p")
    assert in_bash("show", "P") == ["PCG\\ #1"]
    assert in_bash("why", "x", "--experiment", "soak") == ["soak\\ \\$\\(touch\\ pwned\\)"]
    assert not (place / "pwned").exists()


def test_bash_is_told_that_file_names_are_some(place: Path) -> None:
    """Otherwise it would not quote their blanks; outside of a completion compopt itself has nothing to change."""
    script = (
        'source "$1"; compopt() { echo "$@"; }; COMP_WORDS=(autoperfctl "${@:2}"); COMP_CWORD=$(($# - 1)); _autoperfctl'
    )
    told = [
        run("bash", "--norc", "-c", script, "bash", str(FILES / "autoperfctl.bash"), *words)
        for words in (("check", "my"), ("report", "x", "--output", "my"), ("show", "P"))
    ]
    assert told == [["-o filenames"], ["-o filenames"], []]
    assert in_bash("status", "--runtime", "b") == ["bin"]


def test_fish(place: Path) -> None:
    assert {row.name for row in COMMANDS} <= set(in_fish("autoperfctl "))
    assert in_fish("autoperfctl status --w") == ["--watch"]
    assert in_fish("autoperfctl check my") == ["my.toml"]
    assert in_fish("autoperfctl show P") == ["PCG #1"]
    assert "soak $(touch pwned)" in in_fish("autoperfctl halt ") and not (place / "pwned").exists()


@pytest.mark.usefixtures("place")
def test_zsh_takes_it() -> None:
    script = 'autoload -U compinit; compinit -u -D; source "$1"; print ${_comps[autoperfctl]}; whence -w _autoperfctl'
    lines = run("zsh", "-f", "-c", script, "zsh", str(FILES / "_autoperfctl"))
    assert "_autoperfctl" in lines[0] and lines[1] == "_autoperfctl: function"
