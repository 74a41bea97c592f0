"""What is shipped around the code: the unit and its sandbox, accounts and folders, `make install`, the scripts."""

from __future__ import annotations

import configparser
import importlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import autoperfd
from tests import documents
from tests.programs import needed

if TYPE_CHECKING:
    from autoperfd.lab.container import ContainerLab

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "systemd" / "autoperfd.service"
MOST_EXPOSURE = 1.5
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*argv: str | Path, timeout: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
    """A command without standard input; `more`: its whole environment, where given."""
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=more or None,
        cwd=ROOT,
    )


def unit() -> dict[str, list[str]]:
    """The unit's settings, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


# The unit


def test_the_unit_is_little_exposed() -> None:
    analyze = needed("systemd-analyze", "systemd")
    said = run(analyze, "security", "--offline=true", "--no-pager", UNIT)
    found = re.search(r"Overall exposure level.*: ([\d.]+)", said.stdout)
    assert found, said.stderr
    assert float(found[1]) <= MOST_EXPOSURE


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    analyze = needed("systemd-analyze", "systemd")
    copy = tmp_path / "autoperfd.service"
    copy.write_text(UNIT.read_text(encoding="utf-8").replace("/usr/bin/autoperfd", "/bin/true"), encoding="utf-8")
    said = run(analyze, "verify", "--man=no", copy)
    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.parametrize("name", ["autoperfd", "autoperfd-failed", "autoperfd-places"])
def test_systemd_understands_the_units_of_one_more_daemon(name: str, tmp_path: Path) -> None:
    analyze = needed("systemd-analyze", "systemd")
    for unit_file in (ROOT / "systemd").glob("*@.service"):
        text = re.sub(r"(ExecStart=)/usr\S+", r"\1/bin/true", unit_file.read_text(encoding="utf-8"))
        (tmp_path / unit_file.name).write_text(text, encoding="utf-8")
    said = run(analyze, "verify", "--man=no", tmp_path / f"{name}@north.service", SYSTEMD_UNIT_PATH=f"{tmp_path}:")
    assert (said.returncode, said.stderr) == (0, "")


def test_one_more_daemon_has_places_of_its_own() -> None:
    text = (ROOT / "systemd" / "autoperfd@.service").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if "autoperf" in line and line[:5] not in ("User=", "Group")]
    shared = [line for line in lines if not re.search(r"autoperf(d|d-failed|d-places)?@(%i|NAME)", line)]
    assert [line for line in shared if not line.startswith(("#", "Exec", "Description=", "Documentation="))] == []
    assert "Environment=AUTOPERF_INSTANCE=%i" in text


def test_a_name_that_is_no_path_makes_no_folder() -> None:
    said = run(ROOT / "systemd" / "autoperfd-places", "a/../b")
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)


def test_the_unit_keeps_what_the_daemon_relies_on() -> None:
    found = unit()
    assert found["Type"] == ["notify"] and found["NotifyAccess"] == ["main"] and found["WatchdogSec"] == ["30"]
    assert found["Restart"] == ["on-failure"]
    assert found["User"] == found["Group"] == found["StateDirectory"] == found["RuntimeDirectory"] == ["autoperf"]
    assert "/etc/autoperf/queue" in found["ReadWritePaths"]
    assert "PrivateUsers" not in found, "SO_PEERCRED would say 65534 for everybody"
    assert any(value.endswith("=%b") for value in found["Environment"])


def test_no_secret_is_needed_to_start() -> None:
    """A source that may be missing has a value of its own, or is a name that systemd only looks for."""
    found = unit()
    defaults = {value.partition(":")[0] for value in found["SetCredential"]}
    for credential in found["LoadCredential"]:
        name, _, source = credential.partition(":")
        assert name in defaults or not source.startswith("/"), credential


def test_the_parser_s_child_may_limit_itself() -> None:
    analyze = needed("systemd-analyze", "systemd")
    said = run(analyze, "syscall-filter", "--no-pager", "@default")
    assert re.search(r"^\s*prlimit64$", said.stdout, re.MULTILINE), "the one call behind setrlimit(3)"


# Accounts, folders, the kernel's setting


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A root folder with the accounts that sysusers makes."""
    sysusers = needed("systemd-sysusers", "systemd")
    if os.geteuid() != 0:
        pytest.skip("making accounts and giving folders away needs root")
    (tmp_path / "etc").mkdir()
    said = run(sysusers, f"--root={tmp_path}", ROOT / "systemd" / "autoperfd.sysusers.conf")
    assert said.returncode == 0, said.stderr
    yield tmp_path


def ids(root: Path, file: str) -> dict[str, int]:
    lines = (root / "etc" / file).read_text(encoding="utf-8").splitlines()
    return {line.split(":")[0]: int(line.split(":")[2]) for line in lines}


def test_accounts_and_folders(root: Path) -> None:
    tmpfiles = needed("systemd-tmpfiles", "systemd")
    users, groups = ids(root, "passwd"), ids(root, "group")
    assert "autoperf" in users and {"autoperf", "autoperf-submit"} <= set(groups)
    assert ":/var/lib/autoperf:" in (root / "etc/passwd").read_text(encoding="utf-8"), 'the "~" of ssh_key_path'
    said = run(tmpfiles, f"--root={root}", "--create", ROOT / "systemd" / "autoperfd.tmpfiles.conf")
    assert said.returncode == 0, said.stderr
    assert folder(root, "etc/autoperf/queue") == (0o1730, users["autoperf"], groups["autoperf-submit"])
    assert folder(root, "etc/autoperf/queue/.claimed") == (0o700, users["autoperf"], groups["autoperf"])
    assert folder(root, "etc/autoperf/queue/rejected")[0] == 0o755
    assert folder(root, "etc/autoperf/keys") == (0o700, 0, 0)
    assert folder(root, "etc/autoperf") == (0o755, 0, 0)


def folder(root: Path, name: str) -> tuple[int, int, int]:
    found = (root / name).stat()
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


def test_ping_is_allowed_to_every_group() -> None:
    text = (ROOT / "systemd" / "autoperfd.sysctl.conf").read_text(encoding="utf-8")
    assert "\nnet.ipv4.ping_group_range = 0 2147483647\n" in text


# The project


def test_there_is_one_version() -> None:
    assert PROJECT["version"] == autoperfd.__version__
    assert f"## {autoperfd.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(PROJECT["scripts"]))
def test_console_scripts_lead_somewhere(name: str) -> None:
    module, _, function = PROJECT["scripts"][name].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_makefile_has_what_the_readme_says() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    wanted = set(re.findall(r"`(?:sudo )?make ([a-z-]+)", readme)) | set(
        re.findall(r"^(?:sudo )?make ([a-z-]+)", readme, re.M)
    )
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test", "check", "install"} <= wanted
    assert wanted <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_the_manual_is_what_the_tables_say() -> None:
    done = subprocess.run([sys.executable, ".ci/manual", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "man").iterdir()))
def test_groff_has_nothing_to_say_about_a_manual_page(page: str) -> None:
    groff = needed("groff", "groff-base")
    done = subprocess.run(
        [groff, "-man", "-ww", "-Tutf8", str(ROOT / "man" / page)], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "") and "autoperf" in done.stdout


def test_what_is_missing_is_named_with_the_line_that_installs_it(tmp_path: Path) -> None:
    for name in ("sh", "id"):  # no apt-get: as for somebody who may not install
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    argv = (ROOT / ".ci" / "need", "sh:dash", "frobnicate:frob", "frobctl:frob", "twiddle:twiddle-utils")
    said = run(*argv, PATH=str(tmp_path))
    assert said.returncode == 1
    assert "frobnicate frobctl twiddle" in said.stderr
    assert "sudo apt-get install frob twiddle-utils\n" in said.stderr
    assert run(argv[0], "--go-on", *argv[1:], PATH=str(tmp_path)).returncode == 0
    assert run(argv[0], "sh:dash", PATH=str(tmp_path)).stderr == ""


# make install


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install DESTDIR=…` makes."""
    if run("/usr/bin/python3", "-c", "import ensurepip, sys; assert sys.version_info >= (3, 11)").returncode:
        pytest.skip("/usr/bin/python3 is none that can make virtual environments (apt-get install python3-venv)")
    destdir = tmp_path_factory.mktemp("destdir")
    make(destdir, "install")
    return destdir


def make(destdir: Path, *goals: str) -> str:
    said = run("make", *goals, f"DESTDIR={destdir}", timeout=300)
    assert said.returncode == 0, said.stderr
    return said.stdout


@pytest.mark.install
@pytest.mark.timeout(400)
def test_an_installation_carries_final_paths(installed: Path) -> None:
    lib = installed / "usr/lib/autoperfd"
    for name in ("autoperfd", "autoperfctl"):
        assert (lib / "bin" / name).read_text(encoding="utf-8").startswith("#!/usr/lib/autoperfd/bin/python")
        assert os.readlink(installed / "usr/bin" / name) == f"/usr/lib/autoperfd/bin/{name}"
    texts = [path for path in (lib / "bin").iterdir() if not path.is_symlink()] + [lib / "pyvenv.cfg"]
    assert not [path.name for path in texts if str(installed) in path.read_text(encoding="utf-8")]
    package = next(lib.glob("lib/python3*/site-packages/autoperfd"))
    compiled = package / "__pycache__" / next(path.name for path in (package / "__pycache__").glob("errors.*.pyc"))
    assert str(installed).encode() not in compiled.read_bytes()
    assert b"/usr/lib/autoperfd/lib/" in compiled.read_bytes()
    sources = {path.relative_to(ROOT / "autoperfd") for path in (ROOT / "autoperfd").rglob("*") if path.is_file()}
    shipped = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    assert not {path for path in sources - shipped if "__pycache__" not in path.parts}, (
        "not all of the package is shipped"
    )


@pytest.mark.install
@pytest.mark.timeout(400)
def test_an_installation_runs_and_has_its_place_in_the_system(installed: Path) -> None:
    python = installed / "usr/lib/autoperfd/bin/python"
    assert {path.name for path in (installed / "usr/share/man").glob("man?/*")} == {
        path.name for path in (ROOT / "man").iterdir()
    }
    documented = installed / "usr/share/doc/autoperfd"
    for file in documents.documents():
        assert documents.broken(file, documents.read(file), documented) == [], "a link that leads nowhere there"
    for module, name in (("daemon", "autoperfd"), ("ctl", "autoperfctl")):
        script = f"import sys; from autoperfd.{module}.main import main; sys.exit(main(['--version']))"
        said = subprocess.run(
            [python, "-I", "-c", script], capture_output=True, text=True, timeout=60, check=False, cwd="/"
        )
        assert said.stdout == f"{name} {autoperfd.__version__}\n", said.stderr
    unit_file = configparser.ConfigParser(interpolation=None, strict=False)
    unit_file.read(installed / "usr/lib/systemd/system/autoperfd.service")
    assert unit_file["Service"]["ExecStart"] == "/usr/bin/autoperfd"
    for name in ("sysusers.d/autoperfd.conf", "tmpfiles.d/autoperfd.conf", "sysctl.d/60-autoperfd.conf"):
        assert (installed / "usr/lib" / name).is_file()


@pytest.mark.install
@pytest.mark.timeout(400)
def test_settings_outlive_another_installation_and_its_removal(installed: Path, tmp_path: Path) -> None:
    destdir = tmp_path / "destdir"
    shutil.copytree(installed, destdir, symlinks=True)
    settings = destdir / "etc/autoperf/autoperfd.toml"
    settings.write_text("# mine\n", encoding="utf-8")
    make(destdir, "install")
    assert settings.read_text(encoding="utf-8") == "# mine\n"
    make(destdir, "uninstall")
    assert [path for path in destdir.rglob("*") if not path.is_dir()] == [settings]


# The sandbox, under a real systemd


@pytest.mark.timeout(300)
def test_the_sandbox_allows_what_is_needed_and_nothing_else(container_lab: ContainerLab) -> None:
    container_lab.install_controller(ROOT)
    controller = container_lab.controller
    probe = (ROOT / "tests/data/sandbox_probe.py").read_text(encoding="utf-8")
    container_lab.copy_to("controller", "/usr/local/lib/probe.py", probe)
    drop_in = "[Service]\nType=oneshot\nRestart=no\nExecStart=\nExecStart=/usr/lib/autoperfd/bin/python "
    drop_in += "/usr/local/lib/probe.py\nStandardOutput=file:/run/probe\n"
    container_lab.copy_to("controller", "/run/systemd/system/autoperfd.service.d/probe.conf", drop_in)
    controller.run("systemctl daemon-reload; systemctl start autoperfd", timeout=60, check=True)
    said = controller.run("cat /run/probe").stdout
    rows = [line.split("\t") for line in said.splitlines() if not line.startswith("#")]
    assert len(rows) > 30, said
    wrong = [f"{name}: {does}" for kind, name, does in rows if does != ("yes" if kind == "needed" else "no")]
    assert not wrong, said
