"""The state folder: whether it is fit to live in, what disk it lies on, and whether somebody lived there before.

Reads only, but for `begin_anew`. A folder that is not as it must be is named with what was found and what was
expected; it is never mended or replaced here. Start-up thread, and the refuge's.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from autoperfd.daemon import files
from autoperfd.errors import StoreError

MEMORY = "autoperf.db"
SNAPSHOT = "status.json"  # what the daemon's state was, for those who look while it is down
INSTALLATION = "installation"  # written once a memory lives here; says so when the memory is gone
BEGIN_ANEW = "begin-anew"  # a person puts it there; taken away when it has had its effect
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
SHARED = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "9p", "fuse.sshfs", "fuse.glusterfs", "lustre"})
_MOUNTS = Path("/proc/self/mountinfo")


def check(folder: Path) -> None:
    """Raises StoreError unless `folder` is a real folder of our own that nobody else may write."""
    user = _user(os.geteuid())
    make = f"Make it so: `sudo install -d -o {user} -g {user} -m 0750 {folder}`, or set [paths] state in autoperfd.toml"
    expected = f"expected a folder of {user} with mode 0750"
    try:
        found = folder.lstat()
    except FileNotFoundError:
        raise StoreError(f"the state folder {folder} is missing, {expected}", hint=make) from None
    except OSError as error:
        raise StoreError(f"the state folder {folder} cannot be looked at: {error.strerror}", hint=make) from error
    if stat.S_ISLNK(found.st_mode):
        hint = "Set [paths] state in autoperfd.toml to the folder it leads to"
        raise StoreError(f"the state folder {folder} is a symbolic link, {expected}", hint=hint)
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"the state folder {folder} is {_kind(found.st_mode)}, {expected}", hint=make)
    if found.st_uid != os.geteuid():
        whose = f"the state folder {folder} belongs to {_user(found.st_uid)}, {expected}"
        hint = f"Give it back: `sudo chown -R {user}: {folder}`, or start autoperfd as {_user(found.st_uid)}"
        raise StoreError(whose, hint=hint)
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o022 or mode & 0o700 != 0o700:
        hint = f"Correct it: `sudo chmod 0750 {folder}`"
        raise StoreError(f"the state folder {folder} has mode {mode:04o}, {expected}", hint=hint)


def warnings(folder: Path) -> tuple[str, ...]:
    """What a person should know of the disk the folder lies on."""
    kind = file_system(folder)
    if kind in IN_MEMORY:
        return (f"The state folder {folder} lies in memory ({kind}): it will not survive a reboot.",)
    if kind in SHARED:
        return (f"The state folder {folder} lies on a network file system ({kind}); a disk of its own is safer.",)
    return ()


def file_system(folder: Path, mounts: Path = _MOUNTS) -> str:
    """The kind of file system a folder lies on ("ext4", "tmpfs", …); "" where it cannot be told."""
    try:
        real = folder.resolve()
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except (OSError, RuntimeError):
        return ""
    best, kind = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, told = before.split(" "), after.split(" ")
        if len(fields) < 5 or not told[0]:
            continue
        where = Path(fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape", "replace"))
        if real.is_relative_to(where) and len(where.parts) >= best:  # of two mounts on one place the later one counts
            best, kind = len(where.parts), told[0]
    return kind


def may_begin(folder: Path) -> None:
    """Raises StoreError where a new memory would take the place of one that was lost.

    A person who wants that puts the file `begin-anew` into the folder; it is taken away here.
    """
    if (folder / BEGIN_ANEW).exists():
        begin_anew(folder)
        return
    signs = _signs(folder)
    if signs:
        raise _missing(folder, f"{signs} tells of an earlier life")


def must_be_there(folder: Path) -> None:
    """Raises StoreError where the memory that was in use a moment ago is not there: its disk may not be mounted.

    `begin-anew` holds here too; it is not taken away.
    """
    if not os.path.lexists(folder / MEMORY) and not (folder / BEGIN_ANEW).exists():
        raise _missing(folder, "it was in use before")


def _missing(folder: Path, why: str) -> StoreError:
    return StoreError(
        f"the memory {folder / MEMORY} is missing, though {why}",
        hint="Mount its disk, or restore the latest backup (one that is too old is told). To begin anew beside what"
        f" lies there: `sudo touch {folder / BEGIN_ANEW}`",
    )


def begin_anew(folder: Path) -> None:
    """Take the person's word away before it has its effect: it holds for one new memory only."""
    try:
        (folder / BEGIN_ANEW).unlink()
        for sign in (INSTALLATION, SNAPSHOT):  # of the life before: they say nothing of the new one
            (folder / sign).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{folder / BEGIN_ANEW} cannot be taken away: {error.strerror}") from error
    files.sync_folder(folder)


def remember(folder: Path, installation: str) -> None:
    """Leave the sign that a memory lives here. Raises DiskError."""
    sign = folder / INSTALLATION
    try:
        if sign.read_text(encoding="ascii") == f"{installation}\n":
            return
    except (OSError, ValueError):
        pass
    files.replace(sign, f"{installation}\n".encode())


def _signs(folder: Path) -> str:
    """What in the folder tells of an earlier life; "" for nothing."""
    for sign in (folder / INSTALLATION, folder / SNAPSHOT, *sorted(folder.glob(f"{MEMORY}.v*"))):
        if sign.exists():
            return str(sign)
    try:
        results = sorted(path for path in (folder / "results").iterdir() if path.is_dir())
    except OSError:
        results = []
    return str(results[0]) if results else ""


def _kind(mode: int) -> str:
    kinds = {stat.S_IFREG: "a file", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
