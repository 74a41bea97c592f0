"""The house rules that a test can hold: who may import what, what no file names, what each file says first."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "autoperfd"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# Which of our own parts a part may import, besides itself.
MAY_IMPORT = {
    "errors": set(),
    "core": {"errors"},
    "tools": {"core", "errors"},
    "remote": {"core", "errors"},
    "daemon": {"core", "tools", "remote", "page", "errors", ""},
    "verify": set(),
    "results": {"core", "tools", "errors"},
    "report": {"core", "results", ""},
    "page": {"core", "results", "report", "errors", ""},
    "ctl": {"core", "tools", "verify", "results", "report", "errors", ""},
    "rehearsal": {"core", "tools", "daemon", "errors", ""},
    "lab": {"core", "tools", "remote", "daemon", "ctl", "rehearsal", "errors", ""},
    "": set(),
}
# Packages that are not ours, each at home in one part.
AT_HOME = {
    "transitions": {"core"},
    "tomli": {"core", "daemon"},
    "paramiko": {"remote"},
    "sdnotify": {"daemon"},
    "watchdog": {"daemon"},
    "requests": {"daemon"},
    "rich": {"ctl"},
    "urllib3": {"daemon"},
    "matplotlib": {"report"},
    "jinja2": {"report", "page"},
    "flask": {"page"},
    "werkzeug": {"page"},
    "waitress": {"page"},
    "prometheus_client": {"page"},
    "pyarrow": {"results"},
}
# What core may not touch: the world, the time, threads, chance it was not given.
WORLDLY = {
    *("os", "io", "sys", "time", "random", "secrets", "socket", "ssl", "select", "selectors", "subprocess", "shutil"),
    *("tempfile", "glob", "threading", "queue", "asyncio", "concurrent", "multiprocessing", "signal", "fcntl"),
    *("sqlite3", "logging", "urllib", "http", "resource", "pwd", "grp", "mmap", "ctypes", "importlib"),
}
PURE_ENOUGH = {("core/ess.py", "io")}  # StringIO, for the csv module
# Pure: the same words whether the daemon answers or its memory is read; and the reader of archives.
ALSO = {("ctl", f"daemon.{part}") for part in ("views", "screen", "story", "archive")}
ALSO |= {("page", "daemon.views"), ("page", "daemon.screen"), ("page", "daemon.own_socket"), ("page", "remote.threads")}
# What the independent reader takes from what it checks: names of tables, columns, figures and statuses.
CONSTANTS = {
    "core.ess.ESS_COLUMNS",
    "core.plan.END_STATUSES",
    "core.survey.PASSING",
    "daemon.store.MIGRATIONS",
    "daemon.store.SCHEMA_VERSION",
    "tools.judging.FIGURES",
}
# Where any error at all is caught: the process, and threads, which hand it to the one that waits for them.
BOUNDARIES = {"daemon/main.py", "daemon/workers.py", "remote/crew.py"}


def part(path: Path) -> str:
    """The part a file belongs to: "core", …; "errors" for errors.py; "" for the package itself."""
    inside = path.relative_to(PACKAGE)
    if len(inside.parts) > 1:
        return inside.parts[0]
    return "errors" if inside.name == "errors.py" else ""


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Dotted names that a file imports anywhere, also within functions, and their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_there_is_something_to_look_at() -> None:
    parts = {part(path) for path in SOURCES}
    assert {"core", "tools", "remote", "daemon", "ctl", "lab"} <= parts <= set(MAY_IMPORT)


def test_imports_point_inwards() -> None:
    wrong = []
    for path in SOURCES:
        for name, line in imports(path):
            if name.partition(".")[0] != "autoperfd":
                continue
            words = name.split(".")
            target = words[1] if len(words) > 1 and words[1] in MAY_IMPORT else ""
            if target in MAY_IMPORT[part(path)] | {part(path)} or (part(path), ".".join(words[1:3])) in ALSO:
                continue
            if part(path) == "verify" and ".".join(words[1:]) in CONSTANTS:
                continue
            wrong.append(f"{relative(path)}:{line} imports {name}")
    assert not wrong


def test_tools_and_remote_do_not_know_each_other() -> None:
    assert "remote" not in MAY_IMPORT["tools"] and "tools" not in MAY_IMPORT["remote"]


def test_foreign_packages_stay_at_home() -> None:
    wrong = []
    for path in SOURCES:
        for name, line in imports(path):
            package = name.partition(".")[0]
            if package in sys.stdlib_module_names or package == "autoperfd":
                continue
            # The bench measures peers and bare packages; nothing of the product imports the lab.
            if part(path) != "lab" and part(path) not in AT_HOME.get(package, set()):
                wrong.append(f"{relative(path)}:{line} imports {package}")
    assert not wrong


def test_the_independent_reader_shares_no_code_with_what_it_checks() -> None:
    """It imports constants, and they are: no function, no class, nothing but text, numbers and tuples of them."""
    names = {name for path in SOURCES if part(path) == "verify" for name, _ in imports(path)}
    foreign = {n for n in names if n.split(".")[0] not in sys.stdlib_module_names}
    assert {n for n in foreign if not n.startswith("autoperfd.verify.")} == {f"autoperfd.{n}" for n in CONSTANTS}
    for name in CONSTANTS:
        module, _, constant = f"autoperfd.{name}".rpartition(".")
        value = getattr(importlib.import_module(module), constant)
        assert all(isinstance(item, str | int) for item in (value if isinstance(value, tuple) else (value,))), name


def test_core_cannot_touch_the_world() -> None:
    wrong = [
        f"{relative(path)}:{line} imports {name}"
        for path in SOURCES
        if part(path) == "core"
        for name, line in imports(path)
        if name.partition(".")[0] in WORLDLY and (relative(path), name.partition(".")[0]) not in PURE_ENOUGH
    ]
    calls = re.compile(r"(?<![\w.\"])(?:open|input|exec|eval|__import__)\(|\.(?:read|write)_(?:text|bytes)\(")
    wrong += [f"{relative(path)} calls {found[0]}" for path in core() if (found := calls.search(code(path)))]
    assert not wrong


def core() -> list[Path]:
    return [path for path in SOURCES if part(path) == "core"]


def code(path: Path) -> str:
    """A file's code alone: no comment, no text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)


def test_only_the_machine_changes_a_state() -> None:
    """The one assignment to an experiment's state is the trigger of its state machine."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        if part(path) in ("core", "daemon")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign | ast.AugAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and target.attr == "state" and ast.unparse(target.value) == "life"
    ]
    assert not wrong


def test_any_error_is_caught_at_the_boundaries_only() -> None:
    wrong = [
        f"{relative(path)}:{node.lineno}"
        for path in SOURCES
        if part(path) != "lab" and relative(path) not in BOUNDARIES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not re_raises(node)
    ]
    assert not wrong


def re_raises(handler: ast.ExceptHandler) -> bool:
    """Whether a handler only cleans up: it ends by raising what it caught."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_autoperfctl_starts_lightly() -> None:
    """What `autoperfctl status` imports before it asks the daemon."""
    heavy = {"paramiko", "requests", "transitions", "watchdog", "argparse", "sqlite3", "subprocess", "tomli", "csv"}
    for name in ("main", "client", "terminal"):
        tree = ast.parse((PACKAGE / "ctl" / f"{name}.py").read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        words = {word for node in top for word in imported(node)}
        assert not words & heavy, name


def imported(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.ImportFrom):
        return {str(node.module).partition(".")[0]}
    return {alias.name.partition(".")[0] for alias in node.names}


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_first_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.name == "__init__.py" and not text.strip():
        assert path.is_relative_to(ROOT / "tests"), "a package of the product says what it is"
        return
    said = ast.get_docstring(ast.parse(text)) or ""
    first = said.partition("\n")[0]
    assert re.match(r"\S.{15,}", first) and first[-1] in '.:?"', f"no sentence of its own first: {first!r}"


# The old words, as whole words of code, settings or prose; design names their successors.
OLD_WORDS = {
    "campaign": "experiment",
    "test case": "test",
    "slave": "machine (but for the key slave_machines, which users have)",
    "workload": "tool",
}
# Nothing may name the folder it happens to lie in, nor what lies beside it.
PLACES = [r"/shared\b", *([re.escape(str(ROOT))] if len(ROOT.parts) > 2 else [])]


def ours() -> list[Path]:
    """Every text file of the project."""
    suffixes = {".py", ".sh", ".md", ".toml", ".conf", ".service", ".txt", ".cfg", ".yml", ".expected", ""}
    folders = ("autoperfd", "tests", "systemd", "etc", ".ci")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    found += [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    return [p for p in found if p.suffix in suffixes and "__pycache__" not in p.parts and p != Path(__file__)]


def test_no_file_names_the_place_it_was_made_in() -> None:
    pattern = re.compile("|".join(PLACES))
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in ours()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line) and "../shared/perftest/samples/real" not in line
    ]
    assert not wrong


def test_the_old_words_are_gone() -> None:
    pattern = re.compile(rf"\b({'|'.join(OLD_WORDS)})s?\b", re.IGNORECASE)
    wrong = []
    reads_them = ROOT / "autoperfd/ctl/convert.py"  # in files of the predecessor
    for path in (*SOURCES, *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "etc/autoperfd.toml"))):
        if path == reads_them:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if (found := pattern.search(line)) and "slave_machines" not in line and "propagation" not in line:
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {found[0]}, say {OLD_WORDS[found[1].lower()]}")
    assert not wrong


def test_the_diagram_in_the_readme_is_the_table_the_daemon_runs_on() -> None:
    from autoperfd.core.lifecycle import diagram

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, rest = readme.partition("<!-- diagram, by make diagram -->\n")
    assert rest.partition("<!-- diagram ends -->")[0] == f"```mermaid\n{diagram()}```\n", "run `make diagram`"
