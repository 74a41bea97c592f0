"""A weak file system as a model: what it was told, and every state of its files that a crash may leave. Pure.

It promises only what fsync promises. Data of a file are durable after an fsync of the file, names after an fsync of
their folder; everything else may be there, or not, or in part (cut at 512 bytes, zeros where the size came before the
data), each operation for itself and in any order. A rename is one change, also between two folders, and is durable
when both were synced. Data under an fsync that failed are lost for good: a later one that succeeds says nothing of
them. A process that is killed leaves all; so do all operations kept.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tests.crashstates.tracing import Call

SECTOR = 512
MOST_PENDING = 24  # so many of the latest unsynced operations are dropped or kept alone, one at a time
RANDOM_SUBSETS = 4  # of the unsynced operations, at each point
Tree = Mapping[str, bytes | None]  # path below the root -> content; None for a folder


@dataclass(eq=False, slots=True)
class Inode:
    """A file or a folder."""

    number: int
    folder: bool


@dataclass(eq=False, slots=True)
class Data:
    """Bytes written to a file; None: the file got that size."""

    inode: Inode
    offset: int
    content: bytes | None
    waits_for: set[Inode] = field(default_factory=set)  # syncs that it is not durable without
    lost: bool = False  # an fsync of it failed


@dataclass(eq=False, slots=True)
class Names:
    """Changes of names in folders that happen together: (folder, name, what it means from now on or None)."""

    changes: tuple[tuple[Inode, str, Inode | None], ...]
    waits_for: set[Inode] = field(default_factory=set)
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Sync:
    """An fsync that returned."""

    inode: Inode
    succeeded: bool


@dataclass(frozen=True, slots=True)
class Told:
    """The program promised something to the world at this point."""

    what: str


Event = Data | Names | Sync | Told
Part = tuple[int, int] | str  # of a write: "all", "zeros", or from and to which byte it reached the disk
Kept = tuple[tuple[Data | Names, Part], ...]


@dataclass(slots=True)
class _File:
    """An open file: shared by duplicates of its descriptor."""

    inode: Inode
    offset: int | None  # None: not known, reads are not traced
    reads: bool
    appends: bool


@dataclass(frozen=True, slots=True)
class State:
    """One thing a crash may leave: the files, and what had been promised before."""

    tree: Tree
    told: tuple[str, ...]
    after: int  # how many events had happened
    what: str  # in words: which of the pending operations reached the disk


class Disk:
    """What happened to the files of a folder, as events; writes to the file `told` are promises."""

    def __init__(self, root: Path) -> None:
        self.events: list[Event] = []
        self._count = itertools.count()
        self._sizes: dict[Inode, int] = {}
        self.root = self._inode(folder=True)
        self._live: dict[Inode, dict[str, Inode]] = {self.root: {}}
        self._initial: dict[Inode, dict[str, Inode]] = {}
        self._content: dict[Inode, bytes] = {}
        self._prefix, self._told = root, ""
        self._open: dict[int, _File] = {}
        self._promises: set[int] = set()  # descriptors of `told`
        self._take_in(root, self.root)

    def _inode(self, *, folder: bool) -> Inode:
        return Inode(next(self._count), folder)

    def _take_in(self, path: Path, folder: Inode) -> None:
        """What is there before is durable."""
        names = self._live.setdefault(folder, {})
        for entry in sorted(path.iterdir()):
            names[entry.name] = inode = self._inode(folder=entry.is_dir())
            if entry.is_dir():
                self._take_in(entry, inode)
            else:
                self._content[inode] = entry.read_bytes()
                self._sizes[inode] = len(self._content[inode])
        self._initial[folder] = dict(names)

    # ------------------------------------------------------------ calls become events

    def feed(self, calls: Iterable[Call], root: Path, told: Path) -> None:
        """Take up what a process did, from its start to its end; `root`: where it had these files."""
        self._prefix, self._told = root, str(told)
        self._open, self._promises = {}, set()
        for call in calls:
            self._call(call)

    def _call(self, call: Call) -> None:
        name, args, fd = call.name, call.args, _number(call.args[0]) if call.args else -1
        failed = call.result < 0
        match name:
            case "open" | "openat" | "creat":
                self._forget(call.result)
                if not failed:
                    self._opened(call)
            case "close":
                self._forget(fd)
            case "dup" | "dup2" | "dup3" | "fcntl":
                if not failed and (name != "fcntl" or args[1].startswith("F_DUPFD")):
                    self._forget(call.result)
                    self._duplicate(fd, call.result)
            case "lseek":
                if not failed and fd in self._open:
                    self._open[fd].offset = call.result
            case "write" | "pwrite64" if fd in self._promises:
                self.events.append(Told(call.text(1)[: max(0, call.result)].decode().strip()))
            case "write" | "pwrite64":
                if not failed and fd in self._open:
                    self._wrote(self._open[fd], call)
            case "ftruncate":
                if not failed and fd in self._open:
                    self._resize(self._open[fd].inode, int(args[1]))
            case "fsync" | "fdatasync":
                if fd in self._open:
                    self.events.append(Sync(self._open[fd].inode, not failed))
            case "rename" | "renameat" | "renameat2":
                if not failed:
                    old, new = (0, 1) if name == "rename" else (1, 3)
                    folders = ("AT_FDCWD", "AT_FDCWD") if name == "rename" else (args[0], args[2])
                    self._renamed(folders[0], call.text(old), folders[1], call.text(new))
            case "unlink" | "rmdir" | "unlinkat" | "mkdir" | "mkdirat":
                if not failed:
                    at = args[0] if name.endswith("at") else "AT_FDCWD"
                    text = call.text(1 if name.endswith("at") else 0)
                    self._named(at, text, made=name.startswith("mkdir"))
            case _:
                touched = fd in self._open or any(self._inside(word) for word in args)
                if touched and not failed:
                    raise NotImplementedError(f"the model of a disk knows no {name}({', '.join(args)[:200]})")

    def _forget(self, fd: int) -> None:
        self._open.pop(fd, None)
        self._promises.discard(fd)

    def _duplicate(self, old: int, new: int) -> None:
        if old in self._open:
            self._open[new] = self._open[old]
        if old in self._promises:
            self._promises.add(new)

    def _inside(self, word: str) -> bool:
        return (
            word.startswith('"')
            and self._relative("AT_FDCWD", bytes.fromhex(word[1:-1].replace("\\x", ""))) is not None
        )

    def _relative(self, at: str, text: bytes) -> tuple[Inode, tuple[str, ...]] | None:
        """The folder to begin at and the names below it; None for what lies elsewhere."""
        path = text.decode("utf-8", "surrogateescape")
        if path.startswith("/"):
            try:
                return self.root, PurePosixPath(path).relative_to(self._prefix).parts
            except ValueError:
                return None
        fd = _number(at)
        return (self._open[fd].inode, PurePosixPath(path).parts) if fd in self._open else None

    def _place(self, at: str, text: bytes) -> tuple[Inode, str] | None:
        """(folder, name) of a path; None for what lies elsewhere. "" is the folder itself."""
        found = self._relative(at, text)
        if found is None:
            return None
        folder, parts = found
        for part in parts[:-1]:
            folder = self._live[folder][part]
        return folder, parts[-1] if parts else ""

    def _opened(self, call: Call) -> None:
        first = 0 if call.name == "openat" else -1
        at, text, flags = (
            call.args[0] if first == 0 else "AT_FDCWD",
            call.text(first + 1),
            "O_WRONLY|O_CREAT|O_TRUNC" if call.name == "creat" else call.args[first + 2],
        )
        if text.decode("utf-8", "surrogateescape") == self._told:
            self._promises.add(call.result)
            return
        place = self._place(at, text)
        if place is None:
            return
        folder, name = place
        if not name:
            inode = folder
        elif name in self._live[folder]:
            inode = self._live[folder][name]
            if "O_TRUNC" in flags and self._sizes[inode]:
                self._resize(inode, 0)
        else:
            inode = self._inode(folder=False)
            self._sizes[inode], self._content[inode] = 0, b""
            self._name((folder, name, inode))
        appends = "O_APPEND" in flags
        self._open[call.result] = _File(inode, 0, "O_WRONLY" not in flags, appends)

    def _wrote(self, file: _File, call: Call) -> None:
        content = call.text(1)[: call.result]
        if call.name == "pwrite64":
            offset = int(call.args[3])
        elif file.appends:
            offset = self._sizes[file.inode]
        elif file.offset is None:
            raise ValueError("a write() where reads may have moved the offset")
        else:
            offset = file.offset
            file.offset += len(content)
        if content:
            self._sizes[file.inode] = max(self._sizes[file.inode], offset + len(content))
            self.events.append(Data(file.inode, offset, content))

    def _resize(self, inode: Inode, size: int) -> None:
        if self._sizes[inode] != size:
            self._sizes[inode] = size
            self.events.append(Data(inode, size, None))

    def _name(self, *changes: tuple[Inode, str, Inode | None]) -> None:
        for folder, name, inode in changes:
            if inode is None:
                self._live[folder].pop(name, None)
            else:
                self._live[folder][name] = inode
        self.events.append(Names(changes))

    def _renamed(self, old_at: str, old: bytes, new_at: str, new: bytes) -> None:
        source, target = self._place(old_at, old), self._place(new_at, new)
        if source is None and target is None:
            return
        if source is None or target is None:
            raise NotImplementedError("a rename into or out of the traced folder")
        inode = self._live[source[0]][source[1]]
        self._name((source[0], source[1], None), (target[0], target[1], inode))

    def _named(self, at: str, text: bytes, *, made: bool) -> None:
        place = self._place(at, text)
        if place is None:
            return
        if made:
            inode = self._inode(folder=True)
            self._live[inode], self._initial[inode] = {}, {}
            self._name((*place, inode))
        else:
            self._name((*place, None))

    # ------------------------------------------------------------ events become states

    def states(self, first: int = 0, *, each_promise: bool = False) -> Iterator[State]:
        """Every different set of files a crash may leave, each with the most that had been promised when it may.

        `first`: only crashes after so many events. `each_promise`: with every promise in turn, in the order of time.
        """
        walk = _Walk(self._initial, self._content, self.root)
        found: dict[bytes, State] = {}
        told: tuple[str, ...] = ()
        for number, event in enumerate(self.events, 1):
            walk.take(event)
            if isinstance(event, Told):
                told = (*told, event.what)
            for what, kept in walk.choices() if number >= first else ():
                digest = walk.digest(kept) + (str(len(told)).encode() if each_promise else b"")
                if digest not in found:
                    found[digest] = State(walk.tree(kept), told, number, what)
                    if each_promise:
                        yield found[digest]
                elif len(found[digest].told) < len(told):
                    found[digest] = State(found[digest].tree, told, number, what)
        if not each_promise:
            yield from found.values()

    def kill(self, count: int) -> Tree:
        """Let the process have been killed after so many events; the files as the next one finds them.

        All that was done is there, and what was not synced is not durable by that.
        """
        del self.events[count:]
        walk = _Walk(self._initial, self._content, self.root)
        for event in self.events:
            walk.take(event)
        kept: Kept = tuple((op, "all") for op in walk.pending)
        self._live = walk.names(kept)
        self._sizes = {inode: len(walk.content(inode, kept)) for inode in self._sizes}
        return walk.tree(kept)

    def pending_after(self) -> list[int]:
        """After how many events something was not durable."""
        walk, found = _Walk(self._initial, self._content, self.root), []
        for number, event in enumerate(self.events, 1):
            walk.take(event)
            if walk.pending:
                found.append(number)
        return found


class _Walk:
    """Where a walk along the events stands: what is durable, what is pending."""

    def __init__(self, names: Mapping[Inode, Mapping[str, Inode]], content: Mapping[Inode, bytes], root: Inode) -> None:
        self.pending: list[Data | Names] = []
        self._log: list[Data | Names] = []  # the first pending operation and all after it, in the order they happened
        self._names = {folder: dict(entries) for folder, entries in names.items()}
        self._content = dict(content)
        self._root, self._random = root, random.Random(7)
        self._digests: dict[tuple[object, ...], bytes] = {}
        self._versions: dict[Inode, int] = {}  # how many operations of a file are in its content before the log

    def take(self, event: Event) -> None:
        """Go on by one event."""
        if isinstance(event, Data | Names):
            folders = {event.inode} if isinstance(event, Data) else {folder for folder, _, _ in event.changes}
            event.waits_for, event.lost = folders, False
            self.pending.append(event)
            self._log.append(event)
        elif isinstance(event, Sync):
            for op in self.pending:
                if not event.succeeded:
                    op.lost = op.lost or event.inode in op.waits_for
                elif not op.lost:
                    op.waits_for.discard(event.inode)
            self.pending = [op for op in self.pending if op.waits_for]
            while self._log and not self._log[0].waits_for:
                self._settle(self._log.pop(0))

    def _settle(self, op: Data | Names) -> None:
        if isinstance(op, Data):
            self._content[op.inode] = _changed(self._content[op.inode], op, "all")
            self._versions[op.inode] = self._versions.get(op.inode, 0) + 1
        else:
            for folder, name, inode in op.changes:
                _rename(self._names[folder], name, inode)

    def choices(self) -> Iterator[tuple[str, Kept]]:
        """Which of the pending operations reached the disk: the sets tried at one point."""
        ops = self.pending
        everything: Kept = tuple((op, "all") for op in ops)
        yield "all", everything
        yield "none of the pending", ()
        yield "the names, no data", tuple((op, "all") for op in ops if isinstance(op, Names))
        yield "the names, zeros for data", tuple((op, "zeros" if isinstance(op, Data) else "all") for op in ops)
        yield "the data, no names", tuple((op, "all") for op in ops if isinstance(op, Data))
        latest = range(max(0, len(ops) - MOST_PENDING), len(ops))
        for place in latest:
            yield f"all but pending operation {place}", everything[:place] + everything[place + 1 :]
            yield f"pending operation {place} alone", (everything[place],)
            yield f"the first {place} pending operations", everything[:place]
            op = ops[place]
            if isinstance(op, Data) and op.content is not None:
                for part in _parts(op):
                    torn: Kept = ((op, part),)
                    yield f"all, but {part} of operation {place}", everything[:place] + torn + everything[place + 1 :]
                    yield f"{part} of operation {place} alone", torn
        for number in range(RANDOM_SUBSETS if len(ops) > 2 else 0):
            yield f"random subset {number}", tuple(one for one in everything if self._random.random() < 0.5)

    def _reached(self, kept: Kept) -> Iterator[tuple[Data | Names, Part]]:
        """What is on the disk of the log, in order: what is durable, and what of the pending was kept."""
        parts = dict(kept)
        for op in self._log:
            if not op.waits_for:
                yield op, "all"
            elif op in parts:
                yield op, parts[op]

    def names(self, kept: Kept) -> dict[Inode, dict[str, Inode]]:
        """All folders' entries."""
        names = {folder: dict(entries) for folder, entries in self._names.items()}
        for op, _ in self._reached(kept):
            if isinstance(op, Names):
                for folder, name, inode in op.changes:
                    _rename(names[folder], name, inode)
        return names

    def content(self, inode: Inode, kept: Kept) -> bytes:
        """What a file holds."""
        content = self._content[inode]
        for op, part in self._reached(kept):
            if isinstance(op, Data) and op.inode is inode:
                content = _changed(content, op, part)
        return content

    def _files(self, kept: Kept) -> Iterator[tuple[str, Inode]]:
        names = self.names(kept)
        waiting = [("", self._root)]
        while waiting:
            path, folder = waiting.pop()
            for name, inode in names[folder].items():
                below = f"{path}/{name}" if path else name
                yield below, inode
                if inode.folder:
                    waiting.append((below, inode))

    def tree(self, kept: Kept) -> Tree:
        """All files that can be reached."""
        return {path: None if inode.folder else self.content(inode, kept) for path, inode in self._files(kept)}

    def digest(self, kept: Kept) -> bytes:
        """The same for the same tree."""
        total = hashlib.blake2b(digest_size=16)
        mine: dict[Inode, list[tuple[int, Part]]] = {}
        for op, part in self._reached(kept):
            if isinstance(op, Data):
                mine.setdefault(op.inode, []).append((id(op), part))
        for path, inode in sorted(self._files(kept), key=lambda found: found[0]):
            total.update(path.encode("utf-8", "surrogateescape") + b"\0")
            if not inode.folder:
                key = (inode, self._versions.get(inode, 0), *mine.get(inode, ()))
                if key not in self._digests:
                    self._digests[key] = hashlib.blake2b(self.content(inode, kept), digest_size=16).digest()
                total.update(self._digests[key])
        return total.digest()


def _rename(entries: dict[str, Inode], name: str, inode: Inode | None) -> None:
    if inode is None:
        entries.pop(name, None)
    else:
        entries[name] = inode


def _changed(content: bytes, op: Data, part: Part) -> bytes:
    if op.content is None:
        return content[: op.offset].ljust(op.offset, b"\0")
    data = op.content
    if part == "zeros":
        if len(content) >= op.offset + len(data):
            return content  # within the old size nothing tells of the write
        return content.ljust(op.offset + len(data), b"\0")
    begin, end = (0, len(data)) if isinstance(part, str) else part
    content = content.ljust(op.offset + begin, b"\0")
    return content[: op.offset + begin] + data[begin:end] + content[op.offset + end :]


def _parts(op: Data) -> Iterator[Part]:
    """Beginnings and ends of a write that are whole sectors of the disk, a few of them."""
    assert op.content is not None
    size = len(op.content)
    cuts = list(range(SECTOR - op.offset % SECTOR, size, SECTOR))
    for cut in {cuts[0], cuts[len(cuts) // 2], cuts[-1]} if cuts else ():
        yield (0, cut)
        yield (cut, size)


def _number(word: str) -> int:
    return int(word) if re.fullmatch(r"\d+", word) else -1


def write_tree(tree: Tree, root: Path) -> None:
    """Put a state's files into a folder."""
    root.mkdir(parents=True)
    for path, content in sorted(tree.items()):
        if content is None:
            (root / path).mkdir(exist_ok=True)
        else:
            (root / path).write_bytes(content)
