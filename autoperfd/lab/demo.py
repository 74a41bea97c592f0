"""`make demo`: the real daemon runs an example experiment on two machines of the loopback lab, shown as it happens.

Knows the example and what must come of it; promises exit status 0 only when it did, and that nothing runs afterwards.
Needs no root. One thread; every wait has a deadline.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from autoperfd.ctl import client
from autoperfd.errors import AutoperfError
from autoperfd.lab.loopback import LoopbackLab
from autoperfd.lab.machines import LabMachine, copy_executable, machines_toml, start_time

READY_SECS = 30.0
RUN_SECS = 240.0
END_SECS = 20.0
PAUSE_SECS = 0.3
EXPERIMENT = "Demo"

# Only the daemon's own settings make it quick; everything else is as in production.
SETTINGS = """\
[paths]
state = "{state}"
queue = "{queue}"
runtime = "{runtime}"
known_hosts = "{state}/known_hosts"

[machines]
ping = "auto"          # a plain user may not be allowed to send ICMP
patience_secs = 60
backoff_first_secs = 1
backoff_cap_secs = 5
boot_budget_secs = 60
grace_secs = 10
stop_secs = 2

[guards]
foreign = "record"     # machines made on one computer see each other's processes, and its users
users = "record"
throttled = "record"

[results]
disk_reserve_mb = 100

[queue]
rescan_secs = 2
settle_secs = 0.2
"""

EXAMPLE = """\
[[experiments]]
experiment_name = "{name}"
combination_generation_type = "pcg"
tool = "{tool}"
buffer_secs = 15
retries = 2
reboot = "experiment"

[experiments.qos_settings]
duration_secs = [3]
datalen_bytes = {datalen}
pub_count     = [1]
sub_count     = [1, 2]
use_reliable  = {reliable}
use_multicast = [false]
latency_count = [10]

"""
# ddsperf sends as fast as it can, so that best effort on one computer says little.
SWEEPS = {
    "perftest": {"datalen": "[100, 1000]", "reliable": "[true, false]"},
    "ddsperf": {"datalen": "[100, 1000, 4000, 16000]", "reliable": "[true]"},
}

# Stands before ddsperf on the subscribers' machine: one start of it fails, as any program may.
FAILS_ONCE = """\
#!/bin/sh
case "$*" in
    *sub) if mkdir "$HOME/failed-once" 2>/dev/null; then echo "failing once, for the demo" >&2; exit 1; fi ;;
esac
exec {program} "$@"
"""

ESS_COLUMNS = ("test_name", "attempt_number", "end_status", "pings_count", "ssh_check_count", "reason")
FIGURES = {
    "latency_mean_us": "mean us",
    "latency_50_us": "50 % us",
    "latency_99_us": "99 % us",
    "total_samples_per_s": "samples/s",
    "total_mbps": "Mbps",
    "total_lost": "lost",
}


def main(argv: list[str] | None = None) -> int:
    """The whole demo; 0 when all went as it should."""
    parser = argparse.ArgumentParser(prog="python -m autoperfd.lab.demo", description="Show an experiment run.")
    parser.add_argument("--tool", choices=["perftest", "ddsperf"], default="perftest", help="benchmark tool to drive")
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="where everything lies, default ./.demo")
    given = parser.parse_args(argv)
    demo = Demo(given.folder.absolute(), given.tool)
    try:
        return demo.run()
    except AutoperfError as error:
        print(f"\nThe demo cannot go on: {error.sentence()}\n{demo.last_words()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


class Demo:
    """One showing, in a folder that is its own and made anew."""

    def __init__(self, folder: Path, tool: str) -> None:
        self.folder, self.tool = folder, tool
        self.state, self.queue = folder / "state", folder / "queue"
        self.log = folder / "autoperfd.log"
        self.config, self.example = folder / "autoperfd.toml", folder / "demo.toml"
        self.results = self.state / "results" / EXPERIMENT
        self.screen = Screen()

    def run(self) -> int:
        """Prepare, run, show; everything is stopped when this returns."""
        program = self._program()
        end_earlier(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.queue.mkdir(parents=True)
        self.state.mkdir()
        began = time.monotonic()
        say("1. Two machines: sshd on 127.0.0.x, each with its own home, host key and boot id")
        with (
            tempfile.TemporaryDirectory(prefix="autoperf-demo-") as runtime,
            LoopbackLab(self.folder / "lab", 2) as lab,
        ):
            boot_ids = {machine.name: lab.boot_id(machine.name) for machine in lab.machines}
            for machine in lab.machines:
                print(f"   {machine.name}: ssh -p {machine.port} {machine.username}@{machine.ip}")
            self._write_files(lab, program, Path(runtime))
            say("2. The daemon")
            with self._daemon(Path(runtime)):
                say("3. The machines' host keys are trusted, the experiment is submitted")
                self._autoperfctl("trust", "--yes")
                self._autoperfctl("submit")
                say("4. It runs (8 tests of 3 s; the machines are rebooted first; one attempt fails on purpose)")
                self._watch(runtime)
                self._autoperfctl("status", file=False)
            rebooted = all(lab.boot_id(name) != before for name, before in boot_ids.items())
        return self._conclude(rebooted, time.monotonic() - began)

    def last_words(self) -> str:
        """The end of the daemon's log; "" where there is none."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
        except FileNotFoundError:
            return ""
        return "\n".join([f"The end of {shown(self.log)}:", *(f"   {line}" for line in lines)])

    # ------------------------------------------------------------ preparing

    def _program(self) -> str:
        """What the machines run. AutoperfError with the line that installs it."""
        if self.tool == "perftest":
            return "perftest_cpp"
        path = shutil.which("ddsperf")
        if not path:
            raise AutoperfError(
                "there is no ddsperf on this computer", hint="Install it with: sudo apt-get install cyclonedds-tools"
            )
        return path

    def _write_files(self, lab: LoopbackLab, program: str, runtime: Path) -> None:
        self.config.write_text(SETTINGS.format(state=self.state, queue=self.queue, runtime=runtime), encoding="utf-8")
        blocks = [
            f"{machines_toml([machine], [role], f'~/{Path(program).name}')}environment = {environment}\n"
            for machine, role, environment in zip(lab.machines, ("pub", "sub"), self._environments(), strict=True)
        ]
        if self.tool == "ddsperf":
            for machine in lab.machines:
                self._put_ddsperf(machine, program)
        head = EXAMPLE.format(name=EXPERIMENT, tool=self.tool, **SWEEPS[self.tool])
        self.example.write_text(head + "\n".join(blocks), encoding="utf-8")

    def _environments(self) -> list[str]:
        """The machines' environment tables: the stand-in is told to be quick, and to crash once."""
        if self.tool == "ddsperf":
            return ["{}", "{}"]
        misbehave = f"sub_0/dataLen=1000:crash=11@{self.folder}/crashed-once"
        quick = 'STANDIN_FAST = "1"'
        return [f"{{ {quick} }}", f"{{ {quick}, STANDIN_MISBEHAVE = {json.dumps(misbehave)} }}"]

    def _put_ddsperf(self, machine: LabMachine, program: str) -> None:
        wrapper = self.folder / "ddsperf"
        wrapper.write_text(FAILS_ONCE.format(program=program), encoding="utf-8")
        copy_executable(wrapper, machine.home / "ddsperf")

    # ------------------------------------------------------------ running

    @contextlib.contextmanager
    def _daemon(self, runtime: Path) -> Iterator[None]:
        """The daemon as a process of its own that ends with this one, ready to answer."""
        argv = [sys.executable, "-m", "autoperfd.daemon.main", "--config", str(self.config)]
        with self.log.open("wb") as log:
            daemon = subprocess.Popen(
                [*ends_with_parent(), *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        (self.folder / "daemon.pid").write_text(f"{daemon.pid} {start_time(daemon.pid)}", encoding="ascii")
        print(f"   pid {daemon.pid}, log in {shown(self.log)}")
        try:
            self._await(lambda: self._answers(runtime), daemon, "the daemon does not answer", READY_SECS)
            yield
        finally:
            daemon.terminate()
            try:
                status = daemon.wait(END_SECS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                status = daemon.wait()
            (self.folder / "daemon.pid").unlink()
        if status != 0:
            raise AutoperfError(f"the daemon ended with {status}")

    def _await(self, happened: Callable[[], bool], daemon: subprocess.Popen[bytes], if_not: str, secs: float) -> None:
        deadline = time.monotonic() + secs
        while not happened():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise AutoperfError(if_not)
            time.sleep(PAUSE_SECS / 3)

    def _answers(self, runtime: Path) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bool(client.ask(str(runtime), "status").get("ok"))
        return False

    def _autoperfctl(self, command: str, *options: str, file: bool = True) -> None:
        """Run a command as a person would, and show it."""
        words = [command, *options, *([shown(self.example)] if file else [])]
        print(f"   $ autoperfctl {' '.join(words)}", flush=True)
        argv = [sys.executable, "-m", "autoperfd.ctl.main", "--config", str(self.config), *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=READY_SECS + 30, check=False)
        print("".join(f"   {line}\n" for line in (done.stdout + done.stderr).splitlines()), end="", flush=True)
        if done.returncode:
            raise AutoperfError(f"autoperfctl {command} ended with {done.returncode}")

    def _watch(self, runtime: str) -> None:
        """Show attempts as they end, and on a terminal the status below them, until the experiment is over."""
        deadline = time.monotonic() + RUN_SECS
        told = 0
        while True:
            reply = client.ask(runtime, "status")
            ended = [row for row in rows_of(self.results / "ess.csv") if row["end_timestamp"]]
            fresh = [
                f"{row['end_timestamp'][11:19]}  {row['test_name']}  attempt {row['attempt_number']}  "
                f"{row['end_status']}{': ' if row['reason'] else ''}{row['reason']}"
                for row in ended[told:]
            ]
            told = len(ended)
            data = reply.get("data")
            experiment = data["experiments"][0] if isinstance(data, dict) and data.get("experiments") else {}
            over = experiment.get("state") == "halted" or (
                experiment.get("state") == "idle" and experiment.get("outcome") != "waiting"
            )
            self.screen.show(fresh, "" if over else str(reply.get("text", "")))
            if over:
                return
            if time.monotonic() > deadline:
                raise AutoperfError(f"the experiment did not end within {RUN_SECS:g} s:\n{reply.get('text')}")
            time.sleep(PAUSE_SECS)

    # ------------------------------------------------------------ showing what came of it

    def _conclude(self, rebooted: bool, secs: float) -> int:
        attempts = rows_of(self.results / "ess.csv")
        summary = rows_of(self.results / "summary.csv")
        say("5. The experiment status spreadsheet (ess.csv), and the figures (summary.csv)")
        print(table(attempts, {column: column.removesuffix("_count") for column in ESS_COLUMNS}))
        print()
        known = {key: name for key, name in FIGURES.items() if any(row.get(key) for row in summary)}
        print(table(summary, {"test_name": "test_name", **known}))
        if self.tool == "perftest":
            print("\n   (Measured by the lab's stand-in, which is not RTI Perftest.)")
        say("6. The report, for somebody who was not there")
        report = self.folder / "report.html"
        self._autoperfctl("report", EXPERIMENT, "--output", str(report), file=False)
        say(f"7. It took {secs:.0f} s and everything is stopped. What is left to look at:")
        for path in (self.results / "ess.csv", self.results / "summary.csv", self.results / "data", report, self.log):
            print(f"   {shown(path)}")
        ended = [row["end_status"] for row in attempts]
        tests = {row["test_name"] for row in attempts if row["end_status"] == "success"}
        checks = {
            "8 tests succeeded, each of them once": len(tests) == 8 and ended.count("success") == 8,
            "an attempt failed and was made again": len(ended) > 8,
            "both machines were rebooted": rebooted,
            "the report tells of all 8 tests": report.read_text(encoding="utf-8").count('<i class="ok" title=') == 8,
            "every success has its archive": all((self.results / row["archive"]).is_file() for row in summary),
            "nothing runs any more": not left_running(self.folder),
        }
        print()
        for sentence, holds in checks.items():
            print(f"   {'yes' if holds else 'NO '}  {sentence}")
        return 0 if all(checks.values()) else 1


class Screen:
    """Lines that stay, and on a terminal a block below them that is drawn over."""

    def __init__(self) -> None:
        self._in_place = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._height = 0

    def show(self, lines: Sequence[str], block: str) -> None:
        """Add lines; replace the block."""
        if self._in_place:
            width = shutil.get_terminal_size().columns - 4
            if self._height:
                sys.stdout.write(f"\x1b[{self._height}A\x1b[J")
            below = [line[:width] for line in block.splitlines()]
            self._height = len(below)
        else:
            below = []
        sys.stdout.write("".join(f"   {line}\n" for line in (*lines, *below)))
        sys.stdout.flush()


def say(sentence: str) -> None:
    """A heading."""
    print(f"\n{sentence}", flush=True)


def shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no file yet."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def table(rows: Sequence[Mapping[str, str]], columns: Mapping[str, str]) -> str:
    """Rows as aligned text under headings; `columns`: key -> heading. Numbers stand to the right."""
    cells = [list(columns.values()), *([rounded(row.get(key, "")) for key in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    numeric = [all(is_number(row[i]) for row in cells[1:]) for i in range(len(columns))]
    lines = []
    for row in cells:
        words = [
            word.rjust(width) if right else word.ljust(width)
            for word, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append(f"   {'  '.join(words).rstrip()}")
    return "\n".join(lines)


def rounded(word: str) -> str:
    """A number with at most one decimal, anything else as it is."""
    return f"{float(word):.1f}" if "." in word and is_number(word) else word


def is_number(word: str) -> bool:
    """Whether a cell holds a number, or nothing."""
    return not word or word.replace(".", "", 1).isdecimal()


def ends_with_parent() -> list[str]:
    """A command in front of another that ends it with the process that started it."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


def end_earlier(folder: Path) -> None:
    """End what a killed demo left in this folder."""
    with contextlib.suppress(OSError, ValueError):
        pid, start = (folder / "daemon.pid").read_text(encoding="ascii").split()
        if start_time(int(pid)) == start:
            os.kill(int(pid), signal.SIGKILL)
    LoopbackLab(folder / "lab", 2).stop()


def left_running(folder: Path) -> list[int]:
    """Processes with a path below the folder in their command line or environment, but for this one and `make`."""
    mark, found = os.fsencode(f"{folder}/"), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) not in (os.getpid(), os.getppid()):
            with contextlib.suppress(OSError):
                if mark in (entry / "cmdline").read_bytes() or mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


if __name__ == "__main__":
    sys.exit(main())
