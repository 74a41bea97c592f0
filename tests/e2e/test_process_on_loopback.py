"""What may happen to the daemon's own process: signals, a pause, odd surroundings, nothing left to be had.

A real daemon on real sshd processes; each fault strikes while a test runs, whose result must be whole in the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest

from autoperfd.lab.loopback import LoopbackLab
from autoperfd.lab.machines import until
from tests.e2e.support import LiveDaemon, experiment_toml
from tests.e2e.test_on_loopback import machines
from tests.faults import Fired
from tests.programs import needed

ONE = """duration_secs = [3]
datalen_bytes = [100]
pub_count = [1]
sub_count = [1]
latency_count = [10]
"""
WATCHDOG_SECS = 3.0
FOR = Event()  # never set: lets a fault last for a while


class Process(LiveDaemon):
    """A daemon whose process is looked at."""

    def lives(self) -> bool:
        """Whether the process is still the same one."""
        return self.process is not None and self.process.poll() is None

    def open_descriptors(self) -> list[int]:
        """The descriptors it has open."""
        return [int(name) for name in os.listdir(f"/proc/{self.pid()}/fd")]

    def cpu_secs(self) -> float:
        """Processor time it has used."""
        fields = Path(f"/proc/{self.pid()}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def try_to_ask(self, command: str, secs: float = 1.0) -> str:
        """What comes back while the daemon may have nothing left to answer with: the reply's error, or ""."""
        with contextlib.suppress(OSError, ValueError):
            return str(self.ask_within(secs, command).get("error", ""))
        return ""

    def give(self, lab: LoopbackLab, settings: str = ONE, **keys: object) -> None:
        """The experiment "one" for the lab's machines; returns when the participants of its first attempt run."""
        self.trust(lab.machines)
        self.drop("one.toml", experiment_toml("one", settings, machines(lab), reboot="never", **keys))
        self.await_running("one")

    def ended_well(self, tests: int = 1) -> None:
        """So many tests have their one success each, in one attempt each, and everything verifies."""
        self.await_outcome("one", secs=60)
        rows = self.ess("one")
        assert [row["end_status"] for row in rows] == ["success"] * tests, (rows, self.text())
        assert len({row["test_name"] for row in rows}) == tests, rows
        assert self.verify("one") == []


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Process]:
    """Not started."""
    made = Process(tmp_path, more="[results]\nmemory_probe_secs = 0.3")
    yield made
    made.stop()


@pytest.fixture
def strace() -> str:
    """The program that lets system calls fail."""
    return needed("strace", "strace")


# ---------------------------------------------------------------- signals and pauses


@pytest.mark.fault("P4")
def test_sigterm_leaves_the_attempt_alive(daemon: Process, loopback_lab: LoopbackLab, fired: Fired) -> None:
    daemon.start()
    daemon.give(loopback_lab)
    began = time.monotonic()
    assert daemon.stop() == 0
    took = time.monotonic() - began
    assert [row["end_status"] for row in daemon.ess("one")] == ["running"]
    fired("P4", f"ended within {took:.2f} s in mid-attempt")
    assert took < 30
    daemon.start()
    daemon.ended_well()


@pytest.mark.fault("P5")
def test_a_storm_of_signals_is_no_death(daemon: Process, loopback_lab: LoopbackLab, fired: Fired) -> None:
    daemon.start()
    daemon.give(loopback_lab)
    numbers = [
        *(signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGALRM),
        *(signal.SIGWINCH, signal.SIGURG, signal.SIGIO, signal.SIGTSTP, signal.SIGTTIN, signal.SIGCONT),
    ]
    drawn = random.Random(3).choices(numbers, k=10_000)
    for at, number in enumerate(drawn):
        daemon.send(number)
        if at % 2500 == 0:
            assert daemon.ask("status")["ok"]
    assert set(drawn) == set(numbers)
    fired("P5", f"{len(drawn)} signals of {len(numbers)} kinds, then an interrupt")
    daemon.ended_well()
    assert daemon.lives() and daemon.process is not None
    daemon.send(signal.SIGINT)
    assert daemon.process.wait(30) == 0
    assert "ended in order" in daemon.text()


@pytest.mark.fault("P6")
def test_a_pause_of_the_process_costs_nothing(daemon: Process, loopback_lab: LoopbackLab, fired: Fired) -> None:
    """It stands still until the test's deadline and the grace after it are over: the test ended well long before."""
    daemon.start()
    daemon.give(loopback_lab, buffer_secs=3)
    daemon.send(signal.SIGSTOP)
    try:
        FOR.wait(3 + 3 + 3 + 1)
        state = Path(f"/proc/{daemon.pid()}/stat").read_text().rpartition(")")[2].split()[0]
    finally:
        daemon.send(signal.SIGCONT)
    assert state == "T"
    fired("P6", f"its process was in state {state} for 10 s")
    daemon.ended_well()
    assert daemon.lives()


# ---------------------------------------------------------------- the surroundings


SURROUNDINGS = {
    "nothing at all": ('cd /; exec "$@" <&- >&- 2>&-', {}),
    "another language, umask 000": (
        'umask 000; cd /tmp; exec "$@"',
        {"LANG": "C", "LC_ALL": "C", "HOME": "/nowhere", "PYTHONHASHSEED": "1"},
    ),
    "no language, no session, umask 777": ('umask 777; cd /; exec setsid "$@"', {"LANG": "tlh_KX.UTF-8", "TZ": "?"}),
}


@pytest.mark.fault("P11")
@pytest.mark.parametrize("kind", SURROUNDINGS)
def test_the_surroundings_change_nothing(daemon: Process, loopback_lab: LoopbackLab, kind: str, fired: Fired) -> None:
    script, environment = SURROUNDINGS[kind]
    words = [f"{key}={value}" for key, value in environment.items()]
    path = f"PATH={os.environ['PATH']}"  # of the shell only, which looks for setsid
    daemon.start("env", "-i", path, "sh", "-c", script.replace("exec ", f"exec env -i {' '.join(words)} "), "sh")
    found = Path(f"/proc/{daemon.pid()}/environ").read_text().split("\0")[:-1]
    assert found == words
    where = os.readlink(f"/proc/{daemon.pid()}/cwd")
    umask = re.findall(r"^Umask:\s*(\d+)$", Path(f"/proc/{daemon.pid()}/status").read_text(), re.M)
    fired("P11", f"environment {found}, folder {where}, umask {umask} by now")
    if "<&-" in script:
        assert {os.readlink(f"/proc/{daemon.pid()}/fd/{fd}") for fd in (0, 1, 2)} == {os.devnull}
    if "setsid" in script:
        assert os.getsid(daemon.pid()) == daemon.pid()
    daemon.give(loopback_lab)
    daemon.ended_well()
    daemon.drop("bad.toml", "x = 1\n")
    said = daemon.queue / "rejected" / "bad.toml.error.txt"
    daemon.until(said.exists, "the bad file is refused")
    assert daemon.stop() == 0
    (archive,) = daemon.state.glob("results/one/data/*/*.tar.gz")
    modes = {
        daemon.state / "autoperf.db": 0o600,
        daemon.state / "status.json": 0o640,
        daemon.state / "results": 0o750,
        archive.parents[2]: 0o750,
        archive.parents[1]: 0o750,
        archive.parents[0]: 0o750,
        archive: 0o640,
        archive.parents[2] / "ess.csv": 0o640,
        archive.parents[2] / "summary.csv": 0o640,
        archive.parents[2] / "experiment.toml": 0o640,
        said: 0o644,
    }
    assert {str(path): oct(path.stat().st_mode & 0o7777) for path in modes} == {
        str(path): oct(mode) for path, mode in modes.items()
    }


# ---------------------------------------------------------------- nothing left to be had


@pytest.mark.fault("S8")
def test_a_log_that_nobody_reads_holds_up_nothing(daemon: Process, loopback_lab: LoopbackLab, fired: Fired) -> None:
    """Its standard error is a full pipe; later somebody reads again and is told how many lines were lost."""
    pipe = daemon.root / "pipe"
    os.mkfifo(pipe)
    ours = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, 4096)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(ours, b"x" * 64)
        daemon.start("sh", "-c", 'pipe=$1; shift; exec "$@" >"$pipe" 2>&1', "sh", str(pipe))
        for number in range(2500):  # a line of the log each, more than wait to be written
            (daemon.queue / f"{number}.toml").mkdir()
        daemon.give(loopback_lab)
        daemon.ended_well()
        with pytest.raises(BlockingIOError):
            os.write(ours, b"x")
        fired("S8", "its standard error was full until the experiment had ended")
        said = b""
        deadline = time.monotonic() + 20
        while not (lost := re.search(rb"(\d+) lines were lost", said)):
            assert time.monotonic() < deadline, said[-2000:]
            with contextlib.suppress(BlockingIOError):
                said += os.read(ours, 65536)
            daemon.ask("halt")  # the next line, before which it says so
            daemon.ask("resume")
        assert 0 < int(lost[1]) < 5000
        while True:
            os.write(ours, b"x" * 64)
    except BlockingIOError:
        began = time.monotonic()
        assert daemon.stop() == 0, "it ends in order, though the pipe is full again"
        assert time.monotonic() - began < 10
    finally:
        daemon.stop()
        os.close(ours)


@contextlib.contextmanager
def limited(pid: int, what: int, most: int) -> Iterator[None]:
    """A process with a lower limit, for a while; it may end meanwhile."""
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (most, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, what, before)


class Callers(contextlib.ExitStack):
    """Callers that say nothing: each takes a descriptor of the daemon, until it sends them away."""

    def __init__(self, daemon: Process) -> None:
        super().__init__()
        self._daemon = daemon

    def one_more_is_refused(self) -> bool:
        """Whether, when one more has come, any was not let in for want of a descriptor."""
        caller = self.enter_context(socket.socket(socket.AF_UNIX))
        caller.setblocking(False)
        caller.connect(str(self._daemon.runtime / "control.sock"))
        return "cannot accept a caller: Too many open files" in self._daemon.text()

    def keep_coming(self, secs: float) -> None:
        """So that what one leaves is taken by the next."""
        deadline = time.monotonic() + secs
        while time.monotonic() < deadline:
            self.one_more_is_refused()
            FOR.wait(0.25)  # fewer than may wait to be let in, or nobody else could


@pytest.mark.fault("P8")
def test_without_descriptors_work_waits(daemon: Process, loopback_lab: LoopbackLab, fired: Fired) -> None:
    """None is to be had from mid-attempt until after its end: what came of it cannot be fetched meanwhile."""
    daemon.start()
    daemon.give(loopback_lab, ONE.replace("[100]", "[100, 200]"))
    before = daemon.cpu_secs()
    with limited(daemon.pid(), resource.RLIMIT_NOFILE, max(daemon.open_descriptors()) + 1), Callers(daemon) as callers:
        daemon.until(callers.one_more_is_refused, "the callers take every descriptor below the limit", 20)
        daemon.drop("bad.toml", "x = 1\n")
        struck = f"the queue folder {daemon.queue} cannot be used: Too many open files"
        daemon.until(lambda: struck in daemon.text(), "the file is looked at in vain", 20)
        assert (daemon.queue / "bad.toml").exists() or (daemon.queue / ".claimed" / "bad.toml").exists()
        callers.keep_coming(5)
        assert daemon.lives(), daemon.text()
        daemon.until(lambda: "NO_DESCRIPTORS" in daemon.text(), "the attempt's end could not be written", 20)
        spent = daemon.cpu_secs() - before
    fired("P8", f"no descriptor was to be had for 5 s or more, in which it worked for {spent:.1f} s")
    assert spent < 2, "it goes round and round"
    why = daemon.queue / "rejected" / "bad.toml.error.txt"
    daemon.until(why.exists, "the file is dealt with", 20)
    assert "open files" not in why.read_text(), "what it lacked itself is no fault of the file"
    daemon.await_outcome("one", secs=60)
    rows = daemon.ess("one")
    assert [row["end_status"] for row in rows] == ["success", "success"], (rows, daemon.text())
    assert daemon.verify("one") == []
    assert daemon.lives()


@pytest.fixture
def no_threads(daemon: Process, strace: str) -> Iterator[Callable[[], contextlib.AbstractContextManager[Path]]]:
    """`with no_threads() as trace`: the kernel refuses the daemon every thread and process, as at a limit of them.

    A limit itself would not hold for root. On leaving, the tracer lets go of the daemon.
    """
    tracers: list[subprocess.Popen[bytes]] = []

    def let_go() -> None:
        for tracer in tracers:
            tracer.terminate()
            tracer.wait(10)
        tracers.clear()

    @contextlib.contextmanager
    def refusing() -> Iterator[Path]:
        trace, calls = daemon.root / "trace", "clone,clone3,fork,vfork"
        argv = [strace, "-f", "-qq", "-o", str(trace), "-e", f"trace={calls}", "-e", f"inject={calls}:error=EAGAIN"]
        tracers.append(subprocess.Popen([*argv, "-p", str(daemon.pid())], stdin=subprocess.DEVNULL))
        tasks = Path(f"/proc/{daemon.pid()}/task")
        until(
            lambda: all(f"TracerPid:\t{tracers[0].pid}\n" in (task / "status").read_text() for task in tasks.iterdir()),
            "the daemon is not traced",
            10,
        )
        yield trace
        let_go()

    yield refusing
    let_go()


@pytest.mark.fault("P8")
def test_without_threads_work_waits(
    daemon: Process,
    loopback_lab: LoopbackLab,
    no_threads: Callable[[], contextlib.AbstractContextManager[Path]],
    fired: Fired,
) -> None:
    """None is to be had when a file is dropped, nor from mid-attempt until after its end."""
    daemon.start()
    daemon.trust(loopback_lab.machines)
    with no_threads() as trace:
        before = daemon.cpu_secs()
        daemon.drop("bad.toml", "x = 1\n")
        daemon.until(lambda: "bad.toml" in daemon.text(), "the file is tried")
        words = "the controller has no thread left"
        daemon.until(lambda: words in daemon.try_to_ask("status"), "a caller is told")  # or hung up on, if slower
    daemon.until((daemon.queue / "rejected" / "bad.toml.error.txt").exists, "the file is dealt with", 20)
    daemon.give(loopback_lab)
    with no_threads() as trace:
        daemon.until(lambda: "NO_THREADS" in daemon.text(), "the next work finds no thread")
        FOR.wait(2)
        spent = daemon.cpu_secs() - before
        refused = trace.read_text().count("(INJECTED)")
    fired("P8", f"{refused} threads were refused")
    assert refused > 0
    assert spent < 4, "it goes round and round"
    daemon.ended_well()
    assert daemon.lives()


@pytest.mark.fault("P7")
def test_running_out_of_memory_is_a_crash_like_others(daemon: Process, loopback_lab: LoopbackLab, fired: Fired) -> None:
    """First callers who say too much, under a limit that the caps must keep; then no memory is to be had at all.

    A thread that lacks memory for its first step leaves whoever began it waiting for ever: the process must either end
    or stop to give signs of life, upon which this test does what systemd does.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(daemon.root / "notify"))
        manager.settimeout(WATCHDOG_SECS)
        daemon.start(NOTIFY_SOCKET=str(daemon.root / "notify"), WATCHDOG_USEC=f"{WATCHDOG_SECS * 1e6:.0f}")
        daemon.give(loopback_lab)
        pages = int(Path(f"/proc/{daemon.pid()}/statm").read_text().split()[0])
        size = pages * os.sysconf("SC_PAGE_SIZE")
        # 64 callers are served, on a thread each whose stack takes 8 MiB of addresses; what they say is a gigabyte.
        with limited(daemon.pid(), resource.RLIMIT_AS, size + (700 << 20)), contextlib.ExitStack() as callers:
            for _ in range(100):
                caller = callers.enter_context(socket.socket(socket.AF_UNIX))
                caller.settimeout(1)
                with contextlib.suppress(OSError):
                    caller.connect(str(daemon.runtime / "control.sock"))
                    caller.sendall(b"x" * (10 << 20))
            assert daemon.lives(), daemon.text()
        daemon.until(daemon.answers, "it answers", 15)
        assert daemon.process is not None
        with limited(daemon.pid(), resource.RLIMIT_AS, 1):
            deadline = time.monotonic() + 60
            while daemon.lives() and manager_heard(manager):
                assert time.monotonic() < deadline, daemon.text()
                daemon.try_to_ask("list", 0.5)
            if daemon.lives():
                daemon.process.send_signal(signal.SIGABRT)
            status = daemon.process.wait(10)
    fired("P7", f"no memory was to be had; ended with {status}")
    assert status in (-signal.SIGABRT, 70), daemon.text()
    daemon.start()
    daemon.ended_well()


def manager_heard(manager: socket.socket) -> bool:
    """Whether there was a sign of life since the last call, or is one in time."""
    try:
        while b"WATCHDOG=1" not in manager.recv(4096):
            pass
    except TimeoutError:
        return False
    return True


# ---------------------------------------------------------------- the disk under it


@pytest.mark.fault("D6")
def test_a_memory_that_gives_errors_is_waited_for(daemon: Process, strace: str, fired: Fired) -> None:
    daemon.start()
    assert daemon.ask("halt")["ok"]
    assert daemon.stop() == 0
    memory = daemon.state / "autoperf.db"
    before, trace = memory.read_bytes(), daemon.root / "trace"
    inject = ["-P", str(memory), "-e", "inject=pread64:error=EIO", "-e", "trace=pread64"]
    daemon.start(strace, "--daemonize", "-I", "waiting", "-f", "-qq", "-o", str(trace), *inject)
    told = daemon.ask("status")["data"]
    struck = trace.read_text()
    assert "EIO (Input/output error) (INJECTED)" in struck
    fired("D6", struck.splitlines()[0])
    refuge = told["refuge"]
    assert refuge["code"] == "STATE_UNREADABLE" and "disk I/O error" in refuge["sentence"] and refuge["todo"], refuge
    assert told["hold"].startswith("held by"), "the last that is known"
    assert not daemon.ask("resume")["ok"]
    assert memory.read_bytes() == before
    (tracer,) = re.findall(r"^TracerPid:\s*(\d+)$", Path(f"/proc/{daemon.pid()}/status").read_text(), re.M)
    os.kill(int(tracer), signal.SIGTERM)  # it lets go of the daemon: the disk is well again
    daemon.until(lambda: daemon.ask("status")["data"]["refuge"] is None, "it goes on", 15)
    assert daemon.lives() and daemon.ask("status")["data"]["hold"].startswith("held by")
    assert daemon.stop() == 0
