"""Answers what people ask of the daemon: each command as one function of the engine. Engine thread.

A command that changes something becomes events; its answer goes out after the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autoperfd.core import messages as m
from autoperfd.daemon import archive, condition, copies, screen, story, views
from autoperfd.daemon.control import Question, Reply, Who
from autoperfd.daemon.engine import Engine, Entry
from autoperfd.daemon.pins import fingerprint
from autoperfd.daemon.store import PinRow
from autoperfd.errors import DiskError, Refused, StoreError

Command = Callable[[Engine, Mapping[str, Any], Who], Reply]


def answer(engine: Engine, question: Question) -> None:
    """Carry a command out and answer it."""
    command = COMMANDS.get(question.command)
    if command is None:
        known = ", ".join(sorted(COMMANDS))
        question.answer(Reply.refused(f"there is no command {question.command!r}", f"Known are: {known}", 2))
        return
    try:
        question.answer(command(engine, question.args, question.who))
    except Refused as refusal:
        question.answer(Reply.refused(refusal.message, refusal.hint))


# ---------------------------------------------------------------- looking


def _status(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    view = condition.status(engine)
    text = screen.render_status(view, screen.columns_of(args))
    return Reply(text=text, data=views.to_data(view), exit=views.status_exit(view))


def _list(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    view = condition.listing(engine)
    return Reply(text=screen.render_list(view), data=views.to_data(view))


def _show(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    view = condition.show(engine, engine.find(_text(args, "experiment")))
    return Reply(text=screen.render_show(view), data=views.to_data(view))


def _why(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    told = condition.why(engine, *_test(engine, args))
    return Reply(text=story.render(told), data=story.to_data(told))


def _numbers(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    return Reply(data=condition.numbers(engine))


def _copy(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    """A copy of the memory for whoever reads it by himself: data {memory, results}."""
    try:
        path = copies.make(engine.store, engine.settings.state, engine.settings.disk_reserve_mb << 20)
    except (DiskError, StoreError) as error:
        raise Refused(error.message, hint=error.hint) from error
    return Reply(text=f"{path}\n", data={"memory": str(path), "results": str(engine.results)})


def _rebuild(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    """Write the spreadsheets of an experiment anew; edited copies are kept aside."""
    entry = engine.find(_text(args, "experiment"))
    folder = engine.results / entry.row.folder
    if not folder.is_dir():
        raise Refused(f"{folder} is gone", hint="Put it back, then `autoperfctl resume`")
    try:
        engine.rebuild(entry)
    except DiskError as error:
        raise Refused(error.message, hint=error.hint) from error
    return Reply(text=f"{folder}: ess.csv and summary.csv are written anew from the memory.\n")


# ---------------------------------------------------------------- stopping and going on


def _halt(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    if args.get("experiment"):
        entry = engine.find(_text(args, "experiment"))
        if entry.life.state == "idle" and entry.life.outcome != "waiting":
            raise Refused(f"{entry.row.name} is {entry.life.outcome}", hint="There is nothing to halt")
        step = engine.happen(entry, m.Halt(who=who.user))
        return Reply(text=f"{entry.row.name} is halted{'' if step.taken else ' already'}.\n")
    if not engine.hold:
        engine.set_hold(f"held by {who.user}")
    for entry in list(engine.entries.values()):
        if entry.life.state not in ("idle", "halted"):
            engine.happen(entry, m.Halt(who=who.user))
    return Reply(text="Everything is held, new files included, until `autoperfctl resume`.\n")


def _resume(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    if args.get("experiment"):
        entry = engine.find(_text(args, "experiment"))
        if not engine.happen(entry, m.Resume(who=who.user)).taken:
            raise Refused(
                f"{entry.row.name} is not halted, it is {entry.life.state}", hint="There is nothing to resume"
            )
        held = " It waits, for everything is held: `autoperfctl resume` lifts that." if engine.hold else ""
        return Reply(text=f"{entry.row.name} goes on.{held}\n")
    was_held = bool(engine.hold)
    if was_held:
        engine.set_hold("")
    names = [e.row.name for e in list(engine.entries.values()) if engine.happen(e, m.Resume(who=who.user)).taken]
    engine.schedule()
    if not names and not was_held:
        raise Refused("nothing is halted or held", hint="There is nothing to resume")
    return Reply(text=f"Going on: {', '.join(names) or 'no experiment was halted'}.\n")


def _cancel(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    entry = engine.find(_text(args, "experiment"))
    if entry.life.outcome == "cancelled":
        return Reply(text=f"{entry.row.name} is cancelled already.\n")
    engine.happen(entry, m.Cancel(who=who.user))
    return Reply(text=f"{entry.row.name} is cancelled; its results stay in {engine.results / entry.row.folder}.\n")


# ---------------------------------------------------------------- single tests


def _skip(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    entry, test, index = _test(engine, args)
    life = entry.life
    decided = engine.store.test_status(life.id, test)
    waiting = any(requeued.test == test for requeued in life.requeued)
    if decided and decided[0] and not waiting and test != life.test:
        raise Refused(f"{test} of {entry.row.name} is decided already: {decided[0]}")
    if index < life.cursor and not waiting and test != life.test and decided is None:
        raise Refused(f"{test} of {entry.row.name} lies before its first test", hint="It is not run anyway")
    engine.happen(entry, m.Skip(test=test, index=index, who=who.user))
    return Reply(text=f"{test} of {entry.row.name} is skipped.\n")


def _retry(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    if args.get("failed"):
        entries = [engine.find(args["experiment"])] if args.get("experiment") else list(engine.entries.values())
        count = 0
        for entry in entries:
            tests = engine.store.failed_tests(entry.life.id)
            if tests and entry.life.outcome != "cancelled":
                engine.happen(entry, m.Retry(tests=tuple(tests), who=who.user))
                count += len(tests)
        if not count:
            raise Refused("no test has failed", hint="There is nothing to try again")
        return Reply(text=f"{count} failed test{'' if count == 1 else 's'} will be tried again.\n")
    entry, test, _ = _test(engine, args)
    life = entry.life
    decided = engine.store.test_status(life.id, test)
    if life.outcome == "cancelled":
        raise Refused(f"{entry.row.name} is cancelled", hint="Drop its file again to take it up")
    if decided is None or not decided[0] or test == life.test or any(r.test == test for r in life.requeued):
        raise Refused(f"{test} of {entry.row.name} has no verdict yet", hint="It will be run anyway")
    if decided[0] in ("success", "no-summary") and _intact(engine, entry, test):
        raise Refused(f"{test} of {entry.row.name} succeeded and its archive is intact", hint="It needs no retry")
    engine.happen(entry, m.Retry(tests=((test, decided[1], decided[0]),), who=who.user))
    return Reply(text=f"{test} of {entry.row.name} will be tried again.\n")


def _intact(engine: Engine, entry: Entry, test: str) -> bool:
    kept = [row for row in engine.store.attempts(entry.life.id, test) if row.status in ("success", "no-summary")]
    if not kept:
        return False
    path = engine.results / entry.row.folder / kept[-1].archive
    return path.is_file() and archive.sha256_of_file(path) == kept[-1].sha256 and not archive.problems(path)


def _test(engine: Engine, args: Mapping[str, Any]) -> tuple[Entry, str, int]:
    """(experiment, test name, place in its sweep) that a command means."""
    test = _text(args, "test")
    entries = [engine.find(_text(args, "experiment"))] if args.get("experiment") else list(engine.entries.values())
    found = [(entry, index) for entry in entries if (index := entry.life.sweep.index_of(test)) is not None]
    if not found:
        raise Refused(f"no experiment has a test {test!r}", hint="`autoperfctl show EXPERIMENT` lists names")
    if len(found) > 1:
        names = ", ".join(entry.row.name for entry, _ in found)
        raise Refused(f"{test} is a test of several experiments: {names}", hint="Say which one: --experiment NAME")
    entry, index = found[0]
    return entry, entry.life.sweep.name_at(index), index


# ---------------------------------------------------------------- host keys


def _addresses(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    """Where a machine that some experiment names can be reached: data {machines: [{name, host, port}]}."""
    name = _text(args, "machine")
    found = {
        (machine.name, machine.ip, machine.port)
        for entry in engine.entries.values()
        for machine in entry.life.experiment.machines
        if name in (machine.name, machine.ip)
    }
    if not found:
        raise Refused(f"no experiment names a machine {name!r}", hint="Trust the machines of a file: trust FILE")
    machines = [{"name": n, "host": host, "port": port} for n, host, port in sorted(found)]
    return Reply(data={"machines": machines})


def _in_use(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    """Which experiment uses each of these machines now: args {machines: [{host, port}]}, data {users: [name or ""]}.

    And `domains`: the DDS domains of running attempts.
    """
    users = {
        (machine.ip, machine.port): entry.row.name
        for entry in engine.entries.values()
        if entry.life.holds_machines()
        for machine in entry.life.experiment.machines
    }
    domains = sorted({entry.life.domain for entry in engine.entries.values() if entry.life.uid})
    found = [users.get((host, port), "") for host, port, _ in machines_of(args, "machines")]
    return Reply(data={"users": found, "domains": domains})


def _pin(engine: Engine, args: Mapping[str, Any], who: Who) -> Reply:
    """Trust exactly these keys of these addresses: args {pins: [{host, port, keys: [line, …]}]}."""
    wall, lines = engine.clock.wall(), []
    rows: list[PinRow] = []
    for host, port, pin in machines_of(args, "pins"):
        keys = pin.get("keys")
        for line in keys if isinstance(keys, list) else ():
            key = " ".join(str(line).split()[:2])  # without the comment
            try:
                lines.append(f"{host} port {port}: {key.split()[0]} {fingerprint(key)} is trusted.")
            except (ValueError, IndexError):
                raise Refused(f"{key[:40]!r} is not a host key") from None
            rows.append(PinRow(host=host, port=port, key=key, who=who.user, pinned=wall))
    if not rows:
        raise Refused("there is no key to trust")
    engine.trust(rows)
    return Reply(text="\n".join(lines) + "\n")


def machines_of(args: Mapping[str, Any], key: str) -> list[tuple[str, int, Mapping[str, Any]]]:
    """(host, port, the whole item) of each machine a command names. Raises Refused where it makes no sense."""
    found = []
    items = args.get(key)
    for item in items if isinstance(items, list) else ():
        host, port = (item.get("host"), item.get("port")) if isinstance(item, dict) else (None, None)
        if not isinstance(host, str) or not _is_word(host) or type(port) is not int or not 0 < port < 65536:
            raise Refused(f"the command needs {key}, each with host and port")
        found.append((host, port, item))
    return found


def _is_word(text: str) -> bool:
    return 0 < len(text) < 256 and text.isascii() and text.isprintable() and " " not in text


def _text(args: Mapping[str, Any], key: str) -> str:
    value = args.get(key)
    if not isinstance(value, str) or not value:
        raise Refused(f"the command needs {key}")
    return value


COMMANDS: Mapping[str, Command] = {
    "status": _status,
    "list": _list,
    "show": _show,
    "why": _why,
    "numbers": _numbers,
    "copy": _copy,
    "rebuild": _rebuild,
    "halt": _halt,
    "resume": _resume,
    "cancel": _cancel,
    "skip": _skip,
    "retry": _retry,
    "addresses": _addresses,
    "in_use": _in_use,
    "pin": _pin,
}
