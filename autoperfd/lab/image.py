"""The container lab's disk images: a Debian with what machines need, and the project installed on top.

Knows mmdebstrap, overlay mounts and this computer's own apt and pip settings, which are passed on as they
are; promises that a finished image never changes and is built once, under a lock, in the cache folder
($AUTOPERF_LAB_CACHE, default /var/cache/autoperf-lab). Runs in the caller's thread; needs root.
"""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

from autoperfd.errors import AutoperfError

SUITE = "bookworm"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "sudo", "procps", "iproute2"),
    *("iputils-ping", "nftables", "ca-certificates", "python3", "python3-venv", "make", "strace"),
    "cyclonedds-tools",
)
# One shell line each, run with $1 = the root folder of the image.
HOOKS = (
    'chroot "$1" useradd --create-home --uid 1000 --user-group --shell /bin/bash pi',
    'echo "pi ALL=(root) NOPASSWD: /usr/bin/systemctl reboot, /usr/bin/systemctl reboot --force --force"'
    ' >"$1/etc/sudoers.d/pi"; chmod 440 "$1/etc/sudoers.d/pi"',
    'rm -f "$1"/etc/ssh/ssh_host_*_key* "$1/etc/machine-id"; : >"$1/etc/machine-id"; : >"$1/etc/resolv.conf"',
    'printf "UseDNS no\\nMaxStartups 200:30:400\\nMaxSessions 200\\n" >"$1/etc/ssh/sshd_config.d/lab.conf"',
    'mkdir -p "$1/var/log/journal"',  # the journal survives reboots
    'chroot "$1" systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer',
)
BUILD_SECS = 900.0
KEEP_SECS = 86_400.0  # layers of older sources are removed after a day
PIP_FILES = ("/etc/xdg/pip/pip.conf", "/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")
INSTALLING = {
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "/mnt",
    "PIP_ROOT_USER_ACTION": "ignore",
    "SYSTEMD_OFFLINE": "1",  # systemctl enables units and leaves out what needs a running systemd
}
PASSED_ON = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def base_image() -> Path:
    """The root folder of the machines' image, built now if it is not in the cache."""
    sources = apt_sources()
    key = digest(SUITE, *PACKAGES, *HOOKS, *(path.read_text(encoding="utf-8") for path in sources))
    return cached(f"base-{key}", lambda target: build_base(target, sources))


def build_base(target: Path, sources: Sequence[Path]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as options:
        options.write(apt_options())
        options.flush()
        argv = ["unshare", "--mount", "--propagation", "slave", "mmdebstrap", "--mode=root", "--quiet"]
        argv += ["--variant=minbase", "--format=directory", f"--aptopt={options.name}"]
        argv += [f"--include={','.join(PACKAGES)}", *(f"--customize-hook={hook}" for hook in HOOKS)]
        build([*argv, SUITE, str(target), *map(str, sources)], "make the machines' image")


def controller_layers(project: Path, commands: Sequence[str] = ("make install",)) -> list[Path]:
    """Layers over `base_image` with `project` installed, topmost first.

    The project's dependencies are fetched once as wheels; `commands` then run as root in a writable copy
    of the sources (what git knows or would add), without the network.
    """
    files = project_files(project)
    settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*settings["build-system"]["requires"], "wheel", *settings["project"]["dependencies"]]
    base = base_image()
    wheels = cached(f"wheels-{digest(base.name, *wanted)}", lambda target: fetch_wheels(base, wanted, target))

    def install(target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=cache_folder()) as sources:
            for file in files:
                copy = Path(sources, file)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(project / file, copy)
            run_in_image(
                [base],
                target,
                "\n".join(["cd /usr/src/autoperf", *commands]),
                environment=INSTALLING,
                binds=[f"--bind={sources}:/usr/src/autoperf", f"--bind-ro={wheels}:/mnt"],
            )

    contents = [f"{file}\0{digest((project / file).read_bytes())}" for file in files]
    return [cached(f"controller-{digest(wheels.name, *commands, *contents)}", install)]


def fetch_wheels(base: Path, wanted: Sequence[str], target: Path) -> None:
    target.mkdir()
    environment, paths = pip_settings()
    words = " ".join(shlex.quote(word) for word in wanted)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scrap:
        run_in_image(
            [base],
            Path(scrap, "layer"),
            f"python3 -m venv /tmp/venv\n/tmp/venv/bin/pip -q wheel --use-pep517 --wheel-dir /mnt {words}",
            environment=environment,
            binds=[f"--bind={target}:/mnt", *(f"--bind-ro={path}" for path in paths)],
        )


def run_in_image(
    layers: Sequence[Path], upper: Path, script: str, *, environment: Mapping[str, str], binds: Sequence[str]
) -> None:
    """Runs a shell script as root over `layers`, with this computer's network; its writes go to `upper`."""
    upper.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as scrap:
        root, work = Path(scrap, "root"), Path(scrap, "work")
        root.mkdir()
        work.mkdir()
        nspawn = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--as-pid2", "--console=pipe"]
        nspawn += [f"--directory={root}", "--resolv-conf=off", "--bind-ro=/etc/resolv.conf", *binds]
        nspawn += [f"--setenv={name}={value}" for name, value in environment.items()]
        nspawn += ["/bin/sh", "-ec", script]
        steps = [*mounts(layers, upper, work, root), nspawn]
        line = " && ".join(shlex.join(step) for step in steps)
        build(["unshare", "--mount", "--propagation", "slave", "sh", "-c", line], "install into the image")


def mounts(layers: Sequence[Path], upper: Path, work: Path, root: Path) -> list[list[str]]:
    """Commands that mount `root` as the layers (topmost first) with `upper` for writing.

    systemd-nspawn keeps its locks below /run/systemd/nspawn; an empty one of its own lets labs be equal.
    To be run in a mount namespace of their own.
    """
    lower = ":".join(str(layer) for layer in layers)
    return [
        ["mkdir", "-p", "/run/systemd/nspawn"],
        ["mount", "-t", "tmpfs", "tmpfs", "/run/systemd/nspawn"],
        ["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", str(root)],
    ]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, made by `make` if it is missing; half-made ones are made again."""
    folder = cache_folder() / name
    with locked(cache_folder() / "lock"):
        if not folder.exists():
            partial = folder.with_name(f"{name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            make(partial)
            partial.rename(folder)
        os.utime(folder)
        forget(cache_folder().glob("controller-*"))
    return folder


def forget(folders: Iterator[Path]) -> None:
    """Removes folders nobody asked for within `KEEP_SECS`."""
    for folder in folders:
        if folder.stat().st_mtime < time.time() - KEEP_SECS:
            shutil.rmtree(folder, ignore_errors=True)


def cache_folder() -> Path:
    folder = Path(os.environ.get("AUTOPERF_LAB_CACHE") or "/var/cache/autoperf-lab").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, which is made if missing."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(argv: list[str], what: str) -> None:
    """Runs a long command to its end. Raises AutoperfError with the end of what it said."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=BUILD_SECS, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise AutoperfError(f"the container lab could not {what} within {BUILD_SECS:g} s") from error
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}".strip()[-3000:]
        raise AutoperfError(f"the container lab cannot {what}:\n{said}")


def project_files(project: Path) -> list[str]:
    """The files git knows or would add, sorted, as paths below `project`; without tests/."""
    argv = ["git", "-c", f"safe.directory={project.resolve()}", "-C", str(project)]
    argv += ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise AutoperfError(
            f"the container lab cannot list the project's files: {done.stderr.strip()}",
            hint="Run it from a git checkout",
        )
    names = {name for name in done.stdout.split("\0") if name and not name.startswith("tests/")}
    return sorted(name for name in names if (project / name).is_file())


def apt_sources() -> list[Path]:
    """This computer's own package sources for `SUITE`; none: mmdebstrap knows a mirror by itself."""
    found = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    return [
        path
        for path in found
        if path.suffix in (".list", ".sources")
        and path.is_file()
        and SUITE in path.read_text(encoding="utf-8", errors="replace")
    ]


def apt_options() -> str:
    """How this computer's apt reaches its sources: proxies, certificates, date checks."""
    dump = subprocess.run(
        ["apt-config", "dump", "Acquire"], capture_output=True, text=True, timeout=20, check=True
    ).stdout
    unwanted = ("Acquire::IndexTargets", "Acquire::Languages", "Acquire::Changelogs")
    return "".join(f"{line}\n" for line in dump.splitlines() if not line.startswith(unwanted))


def pip_settings() -> tuple[dict[str, str], list[str]]:
    """This computer's pip settings as environment variables, and the local paths they name."""
    values: dict[str, str] = {}
    for name in PIP_FILES:
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(Path(name).expanduser(), encoding="utf-8")
        for section in ("global", "wheel"):
            if parser.has_section(section):
                for key, value in parser.items(section):
                    values[f"PIP_{key.upper().replace('-', '_')}"] = " ".join(value.split())
    passed = {name for name in os.environ if name.startswith("PIP_") or name.upper() in PASSED_ON}
    values |= {name: os.environ[name] for name in passed}
    paths = set()
    for word in " ".join(values.values()).split():
        path = Path(unquote(urlparse(word).path) if word.startswith("file://") else word)
        if path.is_absolute() and path.exists():
            # The pages of a package index usually link to a folder beside them.
            index = word.startswith("file://") and len(path.parts) > 2
            paths.add(str(path.parent if index else path))
    return values, sorted(paths)


def digest(*parts: str | bytes) -> str:
    """A short name for what is made from `parts`."""
    state = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        state.update(f"{len(raw)}:".encode() + raw)
    return state.hexdigest()[:16]
