"""The Debian package and the controllers it is installed on: a Debian without Python, and what the package then needs.

Built once for the same sources and kept in the lab's cache. Needs root and, where it is not kept, the network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from autoperfd.lab import image
from autoperfd.lab.image import cached, digest, project_files, run_in_image

ROOT = Path(__file__).parents[2]
BUILD_SECS = 900
QUICK = {"DPKG_DEB_COMPRESSOR_TYPE": "zstd", "DPKG_DEB_COMPRESSOR_LEVEL": "1"}
# What the machines of a lab have and a controller is not promised, Python above all.
UNPROMISED = "python3 python3-minimal libpython3-stdlib make strace cyclonedds-tools nftables iputils-ping"


def package() -> Path:
    """The .deb that `make deb` builds of these sources."""
    contents = [f"{file}\0{digest((ROOT / file).read_bytes())}" for file in project_files(ROOT)]

    def make(target: Path) -> None:
        target.mkdir()
        run(ROOT / ".ci/deb", target, "1", "report", "page", **QUICK)

    return next(cached(f"controller-package-{digest(*contents)}", make).glob("*.deb"))


def newer(deb: Path) -> Path:
    """The same package under a newer version, with a code that calls itself so."""

    def make(target: Path) -> None:
        tree = target / "tree"
        target.mkdir()
        run("dpkg-deb", "-R", deb, tree)
        control = tree / "DEBIAN/control"
        control.write_text(re.sub(r"^(Version: .*)-1$", r"\1-2", control.read_text(), flags=re.M))
        code = next(tree.glob("usr/lib/autoperfd/lib/python3*/site-packages/autoperfd/__init__.py"))
        code.write_text(re.sub(r'(__version__ = ".*)"', r'\1.post2"', code.read_text()))
        run("python3", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", "-s", tree, code)
        run("dpkg-deb", "--root-owner-group", "-b", tree, target, **QUICK)
        shutil.rmtree(tree)

    return next(cached(f"controller-package-newer-{digest(str(deb))}", make).glob("*.deb"))


def bare_controller(deb: Path, *more: Path) -> list[Path]:
    """Layers of a controller on which nothing is installed, the packages in /root, and beside them in apt's cache what
    the first of them depends on; a lab has no network to fetch it by."""

    base = image.base_image()  # which takes the lock of the cache, as below

    def make(target: Path) -> None:
        script = f"""
        export DEBIAN_FRONTEND=noninteractive
        apt-get -qq purge --yes --auto-remove {UNPROMISED}
        cp /mnt/*.deb /root
        apt-get -qq update
        apt-get -qq install --yes --download-only /root/{deb.name}
        """
        folder = target.with_name(f"{target.name}.debs")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in (deb, *more):
            shutil.copy(file, folder)
        try:
            run_in_image([base], target, script, environment={}, binds=[f"--bind-ro={folder}:/mnt"])
        finally:
            shutil.rmtree(folder)

    names = [str(file) for file in (deb, *more)]
    return [cached(f"controller-bare-{digest(base.name, UNPROMISED, *names)}", make)]


def run(*argv: str | Path, **environment: str) -> str:
    """A program's standard output; it must succeed."""
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_SECS,
        env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{argv}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
