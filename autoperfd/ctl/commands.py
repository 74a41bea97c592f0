"""The commands of autoperfctl: one row each with its help, its example, its arguments and what it does. One thread."""

from __future__ import annotations

import argparse
import contextlib
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import autoperfd
from autoperfd.ctl import client, terminal
from autoperfd.ctl.down import NOT_RUNNING, how_to_start, when_down, when_hung
from autoperfd.ctl.places import Places, places
from autoperfd.errors import AutoperfError, ConfigError, DaemonDown, DaemonHangs

WATCH_SECS = 2.0


def run(words: Sequence[str]) -> int:
    """Carry out a command line; returns its exit status. SystemExit 2 (from argparse) for wrong usage."""
    options = parser().parse_args(words, argparse.Namespace(config=None, runtime=None, instance=None))
    command: Command = options.row
    try:
        return command.run(Context(options, places(options.config, options.runtime, options.instance)))
    except ConfigError as error:
        n = len(error.problems)
        terminal.complain(f"{n} problem{'' if n == 1 else 's'}:\n{error.message}")
        return 1
    except AutoperfError as error:
        terminal.complain(error.message, error.hint)
        return NOT_RUNNING if isinstance(error, DaemonDown) else 1


@dataclass(frozen=True)
class Context:
    """What a command works with."""

    options: argparse.Namespace
    places: Places

    def reply(self, command: str, args: dict[str, object] | None = None) -> dict[str, object]:
        """The daemon's reply, also one that refuses. DaemonDown, AutoperfError when none comes."""
        where = self.places.runtime
        try:
            return client.ask(str(where), command, args)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            raise DaemonDown(
                f"autoperfd is not running: nothing answers at {where}/control.sock",
                hint=how_to_start(self.places.unit),
            ) from error
        except PermissionError as error:
            hint = "Run it as root or as a member of group autoperf"
            raise AutoperfError(f"you may not speak to the daemon at {where}/control.sock", hint=hint) from error
        except TimeoutError as error:
            hint = f"Look at `systemctl status {self.places.unit}`"
            raise DaemonHangs(f"the daemon at {where}/control.sock does not answer in time", hint=hint) from error
        except (OSError, ValueError) as error:
            hint = "Was it restarted or upgraded just now? Try again"
            raise AutoperfError(f"cannot speak to the daemon at {where}/control.sock: {error}", hint=hint) from error

    def agreed(self, command: str, args: dict[str, object]) -> dict[str, object]:
        """The daemon's reply; its refusal as AutoperfError."""
        reply = self.reply(command, args)
        if not reply.get("ok"):
            raise AutoperfError(str(reply.get("error")), hint=str(reply.get("hint", "")))
        return reply

    def print(self, command: str, args: dict[str, object] | None = None) -> int:
        """Ask and print; returns the exit status the daemon gives."""
        return terminal.print_reply(self.reply(command, args), as_json=getattr(self.options, "json", False))


# ---------------------------------------------------------------- looking


def _status(context: Context) -> int:
    if not context.options.watch:
        return _status_once(context)
    if terminal.moves() and not context.options.json:
        from autoperfd.ctl import watch

        return watch.live(partial(_screen, context), WATCH_SECS)
    return _watch(context)


def _status_once(context: Context) -> int:
    where = context.places
    try:
        return context.print("status", terminal.wide())
    except DaemonDown:
        return when_down(where).tell(context.options.json)
    except DaemonHangs:
        return when_hung(where).tell(context.options.json)


def _screen(context: Context) -> str:
    """What `status` would print now. Raises AutoperfError where it would complain."""
    where = context.places
    try:
        return str(context.agreed("status", terminal.wide()).get("text", ""))
    except DaemonDown:
        silence = when_down(where)
    except DaemonHangs:
        silence = when_hung(where)
    if not silence.text:
        raise AutoperfError(silence.message, hint=silence.hint)
    return silence.text


def _watch(context: Context) -> int:
    """Show the status again and again, one below the other, until interrupted."""
    first = True
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                _status_once(context)
            except AutoperfError as error:
                if first:
                    raise
                terminal.complain(error.message, error.hint)  # a restart, most likely: go on looking
            first = False
            if not context.options.json:
                sys.stdout.write("\n")
            sys.stdout.flush()
            time.sleep(WATCH_SECS)
    return 0


def _list(context: Context) -> int:
    return context.print("list")


def _show(context: Context) -> int:
    return context.print("show", {"experiment": context.options.experiment})


def _why(context: Context) -> int:
    try:
        return context.print("why", _named(context, "test", "experiment"))
    except DaemonDown as down:
        from autoperfd.ctl import why

        return why.when_down(context.options, context.places.state, down)


def _doctor(context: Context) -> int:
    from autoperfd.ctl import doctor

    options = context.options
    found = doctor.examine(
        options.config, context.agreed, instance=context.places.instance, file=options.file or "", send=options.send
    )
    if context.options.json:
        terminal.print_json(doctor.facts(found))
    else:
        terminal.print_text(doctor.report(found))
    return doctor.status(found)


def _results(context: Context) -> int:
    import tempfile

    from autoperfd.ctl import results

    options = context.options
    if options.rebuild and (options.where or options.by):
        options.misused("argument --rebuild: not allowed with --where or --by")  # ends with exit status 2
    if options.rebuild:
        return _rebuild(context)
    wanted = results.Wanted.read(options.where or (), options.by or "")
    with tempfile.TemporaryDirectory(prefix="autoperfctl-") as scratch:
        found = results.read(options.experiment, wanted, context.agreed, context.places.state, Path(scratch))
    if options.json:
        terminal.print_json(results.facts(found))
    elif options.csv:
        terminal.print_text("".join(results.csv(found)))
    elif options.parquet:
        results.parquet(found, Path(options.parquet))
    else:
        terminal.print_text(results.report(found, results.terminal_width()))
    return 0


def _report(context: Context) -> int:
    from autoperfd.ctl import report

    options = context.options
    path = report.write(options.experiment, options.output or "", context.agreed, context.places.state)
    terminal.print_text(f"The report is {path}; any browser shows it, without a network.\n")
    return 0


def _rebuild(context: Context) -> int:
    try:
        return context.print("rebuild", {"experiment": context.options.experiment})
    except DaemonDown as down:
        hint = f"{down.hint}: it looks at every spreadsheet when it starts, and writes anew what is not as it should be"
        raise DaemonDown(down.message, hint=hint) from down


def _judge(context: Context) -> int:
    import tempfile

    from autoperfd.ctl import judge

    options = context.options
    with tempfile.TemporaryDirectory(prefix="autoperfctl-") as scratch:
        judged = judge.judge(Path(options.place), options.test or "", Path(scratch))
    if options.json:
        terminal.print_json(judge.facts(judged))
    else:
        terminal.print_text(judge.report(judged))
    return 0 if judged.success else 1


def _verify(context: Context) -> int:
    from autoperfd.ctl import verify

    name = context.options.experiment
    findings, live = verify.run(name, context.agreed, context.places.state)
    if context.options.json:
        terminal.print_json(verify.facts(name, findings, live))
    else:
        terminal.print_text(verify.report(name, findings, live))
    return 0 if findings.clean else 1


# ---------------------------------------------------------------- files


def _check(context: Context) -> int:
    from autoperfd.ctl import check

    options, where = context.options, context.places
    data, experiments = check.read(options.file, where.power)
    machines = check.looked_at(data, context.agreed) if options.probe else []
    if options.json:
        facts = check.facts(experiments, options.test or "")
        terminal.print_json({"experiments": facts, "machines": machines} if options.probe else facts)
    else:
        terminal.print_text(check.report(options.file, experiments, where.state / "results", options.test or ""))
        if options.probe:
            terminal.print_text(check.probed(machines))
    return 1 if any(seen.get("well") is False for seen in machines) else 0


def _submit(context: Context) -> int:
    from autoperfd.ctl import check, submit

    file, queue = context.options.file, context.places.queue
    data, experiments = check.read(file, context.places.power)
    name = submit.put(data, Path(file).name, queue)
    names = ", ".join(experiment.name for experiment in experiments)

    def listing() -> dict[str, object] | None:
        try:
            data = context.agreed("list", {}).get("data")
        except DaemonDown:
            raise
        except AutoperfError:  # not allowed to ask: what the folder shows must do
            return None
        return data if isinstance(data, dict) else None

    try:
        outcome, text = submit.fate(name, queue, listing, context.options.wait)
    except DaemonDown as error:
        where = f"waits in the queue as {name}" if (queue / name).exists() else f"was taken as {name}"
        terminal.complain(f"{file} {where}, but autoperfd is not running", error.hint)
        return NOT_RUNNING
    if outcome == "accepted":
        terminal.print_text(f"Accepted: {names if text in ('', outcome) else text}\n")
        return 0
    if outcome == "rejected":
        terminal.complain(f"{file} was rejected:\n{text}")
        return 1
    if outcome == "unknown":
        terminal.print_text(f"The daemon took {file} ({names}) and has not rejected it.\n")
        return 0
    terminal.complain(f"{file} still waits in the queue as {name}", "Look again in a minute: autoperfctl list")
    return 1


def _convert(context: Context) -> int:
    from autoperfd.ctl import check, convert

    file = context.options.file
    done = convert.convert(check.read_bytes(file), file, context.places.power)
    terminal.print_text(done.text)
    for note in done.notes:
        terminal.complain(note)
    if done.problems:
        words = "\n".join(str(problem) for problem in done.problems)
        terminal.complain(f"what was converted has to be mended:\n{words}", "Then look at it with autoperfctl check")
    return 1 if done.problems else 0


# ---------------------------------------------------------------- commanding


def _halt(context: Context) -> int:
    return context.print("halt", _named(context, "experiment"))


def _resume(context: Context) -> int:
    return context.print("resume", _named(context, "experiment"))


def _cancel(context: Context) -> int:
    return context.print("cancel", _named(context, "experiment"))


def _retry(context: Context) -> int:
    args = _named(context, "test", "experiment")
    if context.options.failed:
        args["failed"] = True
    return context.print("retry", args)


def _skip(context: Context) -> int:
    return context.print("skip", _named(context, "test", "experiment"))


def _trust(context: Context) -> int:
    from autoperfd.ctl import trust

    found = trust.offers(_machines(context), context.agreed)
    terminal.print_text("".join(trust.shown(offer) for offer in found))
    blind = [offer.name for offer in found if offer.error]
    if blind:
        terminal.complain(f"{', '.join(blind)}: no host key seen", "See to the network and sshd there, then try again")
    wanted = [offer for offer in found if offer.news]
    if not wanted:
        if not blind:
            terminal.print_text("All of these keys are trusted already.\n")
        return 1 if blind else 0
    if not context.options.yes and not trust.agreed():
        terminal.complain("nothing was trusted", "Compare the fingerprints, then repeat it with --yes")
        return 1
    terminal.print_text(trust.pin(wanted, context.agreed))
    return 1 if blind else 0


def _machines(context: Context) -> list[dict[str, object]]:
    """The machines of the file that is named, or the daemon's machine of that name."""
    what = context.options.what
    if not (what.endswith(".toml") or "/" in what or Path(what).is_file()):
        data = context.agreed("addresses", {"machine": what}).get("data")
        machines = data.get("machines") if isinstance(data, dict) else None
        return [machine for machine in machines if isinstance(machine, dict)] if isinstance(machines, list) else []
    from autoperfd.ctl import check

    _, experiments = check.read(what, context.places.power)
    known = {(m.ip, m.port): m.name for experiment in experiments for m in experiment.machines}
    return [{"name": name, "host": host, "port": port} for (host, port), name in known.items()]


def _named(context: Context, *keys: str) -> dict[str, object]:
    values = ((key, getattr(context.options, key)) for key in keys)
    return {key: value for key, value in values if value is not None}


# ---------------------------------------------------------------- the command line


@dataclass(frozen=True)
class Argument:
    """One argument of a command, as argparse takes it."""

    names: tuple[str, ...]
    help: str
    metavar: str | None = None
    optional: bool = False
    flag: bool = False
    several: bool = False
    secs: float | None = None

    def add_to(self, parser: argparse._ActionsContainer) -> None:
        """Add it."""
        if self.flag:
            parser.add_argument(*self.names, action="store_true", help=self.help)
        elif self.secs is not None:
            parser.add_argument(
                *self.names, type=_secs, default=self.secs, metavar="SECS", help=f"{self.help} (default {self.secs:g})"
            )
        elif self.several:
            parser.add_argument(*self.names, action="append", metavar=self.metavar, help=self.help)
        elif self.optional and not self.names[0].startswith("-"):
            parser.add_argument(*self.names, nargs="?", metavar=self.metavar, help=self.help)
        else:
            parser.add_argument(*self.names, metavar=self.metavar, help=self.help)


@dataclass(frozen=True)
class Command:
    """One command. `either`: its first two arguments, of which exactly one must be given; `choice`: at most one."""

    name: str
    help: str
    example: tuple[str, ...]
    run: Callable[[Context], int]
    arguments: tuple[Argument, ...] = ()
    either: tuple[Argument, ...] = ()
    choice: tuple[Argument, ...] = ()


_JSON = Argument(("--json",), "print JSON for a script", flag=True)
_EXPERIMENT = Argument(("experiment",), "name of the experiment", "EXPERIMENT")
_EVERYTHING = Argument(("experiment",), "name of the experiment; without it: everything", "EXPERIMENT", optional=True)
_FILE = Argument(("file",), "an experiment file (TOML)", "FILE")
_TEST = Argument(("test",), "name of the test", "TEST")
_OF = Argument(("--experiment",), "the experiment, where several have such a test", "NAME")
_NAME = "30SEC_100B_1PUB_1SUB_REL_UC_100LC"

COMMANDS: tuple[Command, ...] = (
    Command(
        "status",
        "what runs, how far, what failed, which machine is ill, whether anything is to be done",
        ("autoperfctl status", "autoperfctl status --json | jq .attention"),
        _status,
        (_JSON, Argument(("--watch",), "show it again every two seconds, until Ctrl-C", flag=True)),
    ),
    Command(
        "check",
        "look at an experiment file: problems, number of tests, hours, data, who runs what; needs no daemon",
        ("autoperfctl check my.toml", "autoperfctl check my.toml --probe", f"autoperfctl check my.toml --test {_NAME}"),
        _check,
        (
            _FILE,
            Argument(("--test",), "show the command lines of this test instead of the first", "NAME"),
            Argument(
                ("--probe",), "let the daemon look at the machines, too; exit status 1 where one is not fit", flag=True
            ),
            _JSON,
        ),
    ),
    Command(
        "submit",
        "check a file, put it into the queue and say whether it was accepted",
        ("autoperfctl submit my.toml",),
        _submit,
        (_FILE, Argument(("--wait",), "how long to wait for the verdict", secs=30.0)),
    ),
    Command(
        "convert",
        "write an experiment file of AutoPerf (JSON or TOML) as one of ours; what has no place here is said",
        ("autoperfctl convert old.json > new.toml",),
        _convert,
        (Argument(("file",), "a file of the predecessor", "FILE"),),
    ),
    Command("list", "all experiments and what lately came through the queue", ("autoperfctl list",), _list, (_JSON,)),
    Command("show", "one experiment in full", ('autoperfctl show "PCG #1"',), _show, (_EXPERIMENT, _JSON)),
    Command(
        "why",
        "what happened to a test: attempts, evidence, decisions, what is left and what comes next",
        (f"autoperfctl why {_NAME}", f'autoperfctl why {_NAME} --experiment "PCG #1"'),
        _why,
        (_TEST, _OF, _JSON),
    ),
    Command(
        "results",
        "where the results of an experiment lie, its tests and their figures, chosen and grouped",
        (
            'autoperfctl results "PCG #1"',
            'autoperfctl results "PCG #1" --where use_reliable=true --where "latency_99_us>500" --csv',
            'autoperfctl results "PCG #1" --by datalen_bytes,use_multicast',
        ),
        _results,
        (
            _EXPERIMENT,
            Argument(
                ("--where",), "only tests of which that holds: = != < <= > >=; may be repeated", "COND", several=True
            ),
            Argument(("--by",), "group by these columns, with counts of what failed and is missing", "COLUMNS"),
        ),
        choice=(
            Argument(("--csv",), "print CSV with all figures", flag=True),
            Argument(("--parquet",), "write the tests that were chosen to a Parquet file", "FILE"),
            Argument(("--rebuild",), "have ess.csv and summary.csv written anew from the memory", flag=True),
            _JSON,
        ),
    ),
    Command(
        "report",
        "an experiment's results as one HTML file to send on: completeness, plots, failures, what to be careful about",
        ('autoperfctl report "PCG #1"', 'autoperfctl report "PCG #1" --output friday.html'),
        _report,
        (
            _EXPERIMENT,
            Argument(
                ("--output",), "the file to write (default <experiment>-report.html in the current folder)", "FILE"
            ),
        ),
    ),
    Command(
        "judge",
        "judge result files of Perftest in any folder, or one of our archives, as a test of ours would be",
        (f"autoperfctl judge old/{_NAME}", f"autoperfctl judge old/run3 --test {_NAME} --json"),
        _judge,
        (
            Argument(("place",), "a folder with pub_0.csv, sub_0.csv, …, or an attempt-1.tar.gz", "DIR"),
            Argument(("--test",), "the test's name, where no folder's name says it", "NAME"),
            _JSON,
        ),
    ),
    Command(
        "verify",
        "read memory, sheets and archives of an experiment independently and say what does not fit",
        ('autoperfctl verify "PCG #1"', 'autoperfctl verify "PCG #1" --json | jq .problems'),
        _verify,
        (_EXPERIMENT, _JSON),
    ),
    Command(
        "halt",
        "stop an experiment, ending its running test; without a name hold everything, new files included",
        ('autoperfctl halt "PCG #1"', "autoperfctl halt"),
        _halt,
        (_EVERYTHING,),
    ),
    Command(
        "resume",
        "let a halted experiment go on; without a name all of them, and lift the hold",
        ('autoperfctl resume "PCG #1"', "autoperfctl resume"),
        _resume,
        (_EVERYTHING,),
    ),
    Command(
        "retry",
        "try a test again that was given up, or all of them",
        (f"autoperfctl retry {_NAME}", 'autoperfctl retry --failed --experiment "PCG #1"'),
        _retry,
        (_OF,),
        (
            Argument(("test",), "name of the test", "TEST", optional=True),
            Argument(("--failed",), "all tests that were given up", flag=True),
        ),
    ),
    Command(
        "skip",
        "leave a test out",
        (f"autoperfctl skip {_NAME}",),
        _skip,
        (_TEST, _OF),
    ),
    Command(
        "cancel",
        "end an experiment for good; its results stay",
        ('autoperfctl cancel "PCG #1"',),
        _cancel,
        (_EXPERIMENT,),
    ),
    Command(
        "doctor",
        "what commonly goes wrong on a bench, each with its remedy: daemon, unit, disk, queue, keys, pings, clock",
        ("autoperfctl doctor", "autoperfctl doctor my.toml --send"),
        _doctor,
        (
            Argument(
                ("file",),
                "look at the machines of this experiment file, too, and at UDP between them",
                "FILE",
                optional=True,
            ),
            Argument(("--send",), "send a test message to the webhook", flag=True),
            _JSON,
        ),
    ),
    Command(
        "trust",
        "show the host keys that machines offer and, once you agree, trust them",
        ("autoperfctl trust my.toml", "autoperfctl trust p1"),
        _trust,
        (
            Argument(
                ("what",), "a machine the daemon knows, or an experiment file for all its machines", "MACHINE|FILE"
            ),
            Argument(("--yes",), "do not ask", flag=True),
        ),
    ),
)


def parser() -> argparse.ArgumentParser:
    """The whole command line; of the parsed options `row` is the Command, `misused(why)` ends with its usage."""
    places = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    where = places.add_argument_group("where the daemon is")
    where.add_argument("--config", metavar="FILE", help="the daemon's settings (default /etc/autoperf/autoperfd.toml)")
    where.add_argument(
        "--runtime", metavar="DIR", help="folder of its socket (default $AUTOPERF_RUNTIME_DIR, settings)"
    )
    where.add_argument("--instance", metavar="NAME", help="the daemon autoperfd@NAME (default $AUTOPERF_INSTANCE)")
    whole = argparse.ArgumentParser(
        prog="autoperfctl",
        description="Ask and command autoperfd, which runs performance experiments unattended.",
        epilog="Exit status: 0 fine, 1 a problem was found, 2 wrong usage, 3 autoperfd is not running.",
        parents=[places],
    )
    whole.add_argument("--version", action="version", version=f"autoperfctl {autoperfd.__version__}")
    rows = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for row in COMMANDS:
        one = rows.add_parser(
            row.name,
            help=row.help,
            description=f"{row.help[0].upper()}{row.help[1:]}.",
            epilog="\n".join(["example:", *(f"  {line}" for line in row.example)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[places],
        )
        either: argparse._ActionsContainer = one
        if row.either:
            either = one.add_mutually_exclusive_group(required=True)
        for argument in row.either:
            argument.add_to(either)
        for argument in row.arguments:
            argument.add_to(one)
        if row.choice:
            choice = one.add_mutually_exclusive_group()
            for argument in row.choice:
                argument.add_to(choice)
        one.set_defaults(row=row, misused=one.error)
    return whole


def examples() -> list[list[str]]:
    """Every example of the help as words, for the tests."""
    return [shlex.split(re.split(" [|>] ", line)[0])[1:] for row in COMMANDS for line in row.example]


def _secs(text: str) -> float:
    secs = float(text)
    if not 0 <= secs <= 86_400:
        raise argparse.ArgumentTypeError("must be from 0 to 86400 seconds")
    return secs
