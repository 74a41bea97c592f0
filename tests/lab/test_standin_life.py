"""Stand-ins talking to each other over real UDP: all scenes are played at once, each in a network of its own.

A scene is a few participants in one folder. Those that are to stay for ever are looked at when all others have
ended, and killed then, so the whole module takes as long as its slowest scene.
"""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoperfd.lab import perftest_standin as standin

SAMPLES = Path(__file__).parent.parent / "data" / "perftest"
DEADLINE = 60.0


def eventually(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about within {DEADLINE:g} s"
        threading.Event().wait(0.02)


class Scene:
    """Participants started together. `stays`: names of those that never end by themselves."""

    def __init__(self, *participants: str, stays: str = "", **environment: str) -> None:
        self.participants = participants
        self.stays = stays.split()
        self.environment = environment
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.folder = Path()

    def start(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        environment = {"PATH": os.defpath, "STANDIN_FAST": "1", "STANDIN_NET": str(folder), **self.environment}
        for text in self.participants:
            side, name, *arguments = text.split()
            with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-I", "-S", standin.__file__, f"-{side}", *arguments],
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                )

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def size(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_size if path.exists() else 0

    def progress(self, name: str) -> list[str]:
        """Standard error from the first step on."""
        lines = self.text(f"{name}.err").splitlines()
        starts = [i for i, line in enumerate(lines) if line.startswith("Waiting to discover")]
        return lines[starts[0] :] if starts else []

    def status(self, name: str) -> int | None:
        return self.processes[name].poll()

    def rows(self, file: str) -> list[list[float]]:
        rows = []
        for line in self.text(file).splitlines():
            with contextlib.suppress(ValueError):
                rows.append([float(field) for field in line.split(",")])
        return rows


PUB = "-executionTime 3 -batchSize 0 -latencyCount 50"
SHORT = "-executionTime 2 -batchSize 0 -latencyCount 50"
# A subscriber prints no row for its first second: long enough for rows whatever stalls for a few seconds.
LONG = "-executionTime 8 -batchSize 0 -latencyCount 50"
SCENES = {
    "reliable": Scene(f"pub p0 {LONG} -outputFile p0.csv -latencyFile raw.csv", "sub s0 -outputFile s0.csv"),
    "two by two": Scene(
        f"pub p0 {LONG} -numSubscribers 2 -cpu -outputFile p0.csv",
        f"pub p1 {LONG} -numSubscribers 2 -cpu -pidMultiPubTest 1 -outputFile p1.csv",
        "sub s0 -numPublishers 2 -cpu -outputFile s0.csv",
        "sub s1 -numPublishers 2 -cpu -sidMultiSubTest 1 -outputFile s1.csv",
    ),
    "best effort multicast": Scene(
        f"pub p0 {PUB} -bestEffort -multicast -outputFile p0.csv",
        f"pub p1 {PUB} -bestEffort -multicast -pidMultiPubTest 1 -outputFile p1.csv",
        f"pub p2 {PUB} -bestEffort -multicast -pidMultiPubTest 2 -outputFile p2.csv",
        "sub s0 -bestEffort -multicast -numPublishers 3 -outputFile s0.csv",
    ),
    "3.3": Scene(f"pub p0 {PUB}", "sub s0", STANDIN_VERSION="3.3", STANDIN_MISBEHAVE="sub:noise"),
    "4.3": Scene(f"pub p0 {PUB} -outputFile p0.csv", "sub s0 -outputFile s0.csv", STANDIN_VERSION="4.3"),
    "latency test": Scene(
        "pub p0 -latencyTest -executionTime 2 -outputFile p0.csv", "sub s0 -outputFile s0.csv"
    ),
    "large samples": Scene(
        "pub p0 -executionTime 3 -latencyCount 20 -dataLen 128000 -outputFile p0.csv",
        "sub s0 -dataLen 128000 -outputFile s0.csv",
    ),
    "count": Scene(
        "pub p0 -numIter 1500 -latencyCount 100 -batchSize 0 -executionTime 30 -outputFile p0.csv",
        "sub s0 -outputFile s0.csv",
    ),
    "json": Scene(
        f"pub p0 {SHORT} -outputFormat json -outputFile p0.csv", "sub s0 -outputFormat json -outputFile s0.csv"
    ),
    "alone": Scene("sub s0 -outputFile s0.csv", "pub p0 -domain 2 -outputFile p0.csv", stays="s0 p0"),
    "reliability": Scene("pub p0 -bestEffort", "sub s0 -outputFile s0.csv", stays="p0 s0"),
    "best effort reader": Scene("pub p0", "sub s0 -bestEffort", stays="p0 s0"),
    "durability": Scene("pub p0 -durability 1", "sub s0 -durability 2", stays="p0 s0"),
    "keyed": Scene("pub p0 -keyed", "sub s0", stays="p0 s0"),
    "type": Scene("pub p0 -dataLen 70000", "sub s0", stays="p0 s0"),
    "asked not to match": Scene("pub p0", "sub s0", stays="p0 s0", STANDIN_MISBEHAVE="pub_0:no-match"),
    "same sid": Scene("pub p0 -numSubscribers 2", "sub s0", "sub s1", stays="p0 s0 s1"),
    "pid too large": Scene(
        f"pub p0 {SHORT}",
        f"pub p5 {SHORT} -pidMultiPubTest 5",
        "sub s0 -numPublishers 2 -outputFile s0.csv",
        stays="s0",
    ),
    "control size": Scene(
        f"pub p0 {SHORT} -dataLen 1262 -outputFile p0.csv", "sub s0 -dataLen 1262 -outputFile s0.csv", stays="s0"
    ),
    "control size 4.3": Scene(
        f"pub p0 {SHORT} -dataLen 1264 -outputFile p0.csv",
        "sub s0 -dataLen 1264 -outputFile s0.csv",
        STANDIN_VERSION="4.3",
    ),
    "real pace": Scene(
        "pub p0 -executionTime 1 -outputFile p0.csv", "sub s0 -outputFile s0.csv", STANDIN_FAST=""
    ),
    "no pongs": Scene(
        f"pub p0 {SHORT} -outputFile p0.csv", "sub s0", STANDIN_VERSION="4.3", STANDIN_MISBEHAVE="sub_0:no-pongs"
    ),
    "publisher killed": Scene(
        "pub p0 -executionTime 60 -latencyCount 1 -batchSize 0 -outputFile p0.csv",
        "sub s0 -outputFile s0.csv",
        stays="s0",
    ),
    "subscriber killed": Scene(
        f"pub p0 {PUB} -outputFile p0.csv", "sub s0 -outputFile s0.csv", STANDIN_LEASE="5"
    ),
    "deaf to the end": Scene(
        f"pub p0 {SHORT} -bestEffort",
        "sub s0 -bestEffort -outputFile s0.csv",
        stays="s0",
        STANDIN_MISBEHAVE="sub_0:hang-after-data",
    ),
    "spoilt files": Scene(
        f"pub p0 {PUB} -numSubscribers 8 -outputFile p0.csv",
        *(f"sub s{i} -sidMultiSubTest {i} -outputFile s{i}.csv" for i in range(8)),
        STANDIN_MISBEHAVE=";".join(f"sub_{i}:{kind}" for i, kind in enumerate(standin.LEFT)),
    ),
    "crashes": Scene(
        f"pub p0 {PUB} -bestEffort -numSubscribers 3",
        "sub s0 -bestEffort -outputFile s0.csv",
        "sub s1 -bestEffort -sidMultiSubTest 1 -outputFile s1.csv",
        "sub s2 -bestEffort -sidMultiSubTest 2 -outputFile s2.csv",
        stays="s2",
        STANDIN_MISBEHAVE="sub_0:crash=11;sub_1:early-exit;sub_2:hang=data,ignore-term",
    ),
    "late": Scene(
        f"pub p0 {SHORT}", "sub s0", STANDIN_MISBEHAVE="pub_0:slow-start=1;sub_0:orphan=120"
    ),
}  # fmt: skip


def orphans(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Scene]]:
    """All scenes, with everything over that is ever over by itself."""
    top = tmp_path_factory.mktemp("scenes")
    try:
        for number, scene in enumerate(SCENES.values()):
            scene.start(top / str(number))
        victim = SCENES["subscriber killed"]
        eventually(lambda: "Waiting for data ..." in victim.text("s0.err"), "data")
        victim.processes["s0"].kill()
        killed = SCENES["publisher killed"]
        eventually(lambda: killed.size("p0.csv") >= 4096, "a block of rows")
        killed.processes["p0"].terminate()
        end = time.monotonic() + DEADLINE
        for name, scene in SCENES.items():
            for participant, process in scene.processes.items():
                if participant not in scene.stays:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.0, end - time.monotonic()))
                    assert process.poll() is not None, f"{participant} of '{name}' has not ended"
        yield SCENES
    finally:
        for scene in SCENES.values():
            for process in scene.processes.values():
                process.kill()
                process.wait()
        for pid in orphans(SCENES["late"].folder):
            os.kill(pid, signal.SIGKILL)


def test_those_that_never_end_are_still_there(played: dict[str, Scene]) -> None:
    ended = [(name, p) for name, scene in played.items() for p in scene.stays if scene.status(p) is not None]
    assert ended == []


@pytest.mark.parametrize(
    ("name", "participants"),
    [
        ("reliable", "p0 s0"),
        ("two by two", "p0 p1 s0 s1"),
        ("best effort multicast", "p0 p1 p2 s0"),
        ("3.3", "p0 s0"),
        ("4.3", "p0 s0"),
        ("latency test", "p0 s0"),
        ("count", "p0 s0"),
        ("late", "p0 s0"),
    ],
)
def test_normal_ends(played: dict[str, Scene], name: str, participants: str) -> None:
    scene = played[name]
    assert {p: scene.status(p) for p in participants.split()} == dict.fromkeys(participants.split(), 0)


@pytest.mark.parametrize(
    ("scene", "participant", "sample"),
    [
        ("reliable", "p0", "pub_0_ok_timer"),
        ("reliable", "s0", "sub_0_ok"),
        ("two by two", "p0", "pub_0_ok_timer"),
        ("two by two", "p1", "pub_1_ok_timer"),
        ("count", "p0", "pub_0_ended_by_numIter"),
        ("alone", "s0", "sub_0_peer_never_shows"),
        ("reliability", "s0", "sub_incompatible_qos"),
    ],
)
def test_the_steps_are_said_as_in_the_samples(
    played: dict[str, Scene], scene: str, participant: str, sample: str
) -> None:
    text = (SAMPLES / "stderr" / f"{sample}.stderr.txt").read_text().splitlines()
    start = next(i for i, line in enumerate(text) if line.startswith("Waiting to discover"))
    expected = text[start + 1 :]  # the first line has the number of peers
    assert played[scene].progress(participant)[1:] == expected


def test_files_of_a_reliable_test(played: dict[str, Scene]) -> None:
    scene = played["reliable"]
    assert scene.text("p0.csv").startswith("\nIntervals One-Way Latency for 100 Bytes:\nLength (Bytes), Latency (μs), ")
    *rows, summary = scene.rows("p0.csv")
    assert len(rows) > 5
    assert len(summary) == 10
    assert all(len(row) == 6 and row[4] <= row[1] <= row[5] for row in rows)
    assert rows[0][4] <= rows[0][5]
    assert summary[3:5] == rows[-1][4:6]
    *rows, summary = scene.rows("s0.csv")
    assert rows
    assert all(len(row) == 8 and row[6] == 0 for row in rows)
    assert summary[1] >= rows[-1][1] > 0
    assert any(100 < row[2] < 3000 for row in rows)  # a stall spoils the rows it falls in
    assert summary[4] == 0
    assert scene.text("p0.out") == scene.text("s0.out") == ""
    raw = scene.text("raw.csv").splitlines()
    assert raw[0] == "Sample Number, Value"
    assert raw[1].startswith("0, ")
    assert raw[-1] == ""


def test_only_publisher_0_writes(played: dict[str, Scene]) -> None:
    for scene in (played["two by two"], played["best effort multicast"]):
        assert scene.size("p1.csv") == 0
        assert scene.size("p0.csv") > 0


def test_all_subscribers_get_all_samples_of_all_publishers(played: dict[str, Scene]) -> None:
    scene = played["two by two"]
    first, second = scene.rows("s0.csv"), scene.rows("s1.csv")
    assert first[-1][1] == second[-1][1] > 1000
    assert len(first[0]) == 9  # with -cpu
    assert len(first[-1]) == 7


def test_multicast_counts_each_sample_once(played: dict[str, Scene]) -> None:
    summary = played["best effort multicast"].rows("s0.csv")[-1]
    assert 0 < summary[1] + summary[4] <= 18000


def test_3_3_writes_to_standard_output_among_the_middlewares_lines(played: dict[str, Scene]) -> None:
    scene = played["3.3"]
    assert "Intervals One-way Latency for 100 Bytes:" in scene.text("p0.out")
    assert "Ave Samples/s" in scene.text("s0.out")
    assert "COMMENDBeWriterService_write" in scene.text("s0.out")
    assert len(scene.rows("s0.out")[-1]) == 6


def test_4_3_drops_the_first_pong(played: dict[str, Scene]) -> None:
    row = played["4.3"].rows("p0.csv")[0]
    assert row[3] == 0.0
    assert row[1] == row[4] == row[5]


def test_a_latency_test_has_a_row_a_ping(played: dict[str, Scene]) -> None:
    scene = played["latency test"]
    pings = scene.rows("s0.csv")[-1][1]
    assert len(scene.rows("p0.csv")) - 1 == pings - 1  # a summary more; 4.1.1 prints none for the first
    assert pings > 10


def test_samples_larger_than_a_datagram(played: dict[str, Scene]) -> None:
    summary = played["large samples"].rows("s0.csv")[-1]
    assert summary[0] == 128000
    assert summary[1] > 5
    assert summary[4] == 0
    assert "Asynchronous Publishing: Yes" in played["large samples"].text("p0.err")


def test_num_iter_is_exact(played: dict[str, Scene]) -> None:
    assert played["count"].rows("s0.csv")[-1][1] == 1500


def test_json_is_the_inside_of_a_document(played: dict[str, Scene]) -> None:
    for name in ("p0", "s0"):
        text = played["json"].text(f"{name}.csv")
        assert text.startswith('\t\t\t"length":100,\n')
        assert text.endswith("\n\t\t}")


def test_a_missing_peer_is_waited_for(played: dict[str, Scene]) -> None:
    scene = played["alone"]
    assert scene.size("s0.csv") == 0
    assert scene.progress("p0") == ["Waiting to discover 1 subscribers ..."]


@pytest.mark.parametrize(
    ("scene", "participant", "lines"),
    [
        ("reliability", "p0", ["Found incompatible reader for writer Throughput QoS is 11."]),
        ("best effort reader", "p0", ["Found incompatible writer for reader Latency QoS is 11."]),
        ("best effort reader", "s0", ["Found incompatible reader for writer Latency QoS is 11."]),
        ("durability", "s0", ["Found incompatible writer for reader Throughput QoS is 2."]),
        ("keyed", "p0", ["Found inconsistent topic. Expecting Throughput of type TestDataKeyed_t."]),
        ("type", "s0", ["Found inconsistent topic. Expecting Throughput of type TestData_t."]),
        ("asked not to match", "s0", ["Found incompatible writer for reader Throughput QoS is 11."]),
    ],
)
def test_mismatches_are_said_and_nothing_happens(
    played: dict[str, Scene], scene: str, participant: str, lines: list[str]
) -> None:
    found = [line for line in played[scene].progress(participant) if line.startswith("Found")]
    assert found[: len(lines)] == lines
    for name in played[scene].processes:
        assert "Sending data ..." not in played[scene].text(f"{name}.err")


def test_a_double_sid_stops_at_the_announcements(played: dict[str, Scene]) -> None:
    assert played["same sid"].progress("p0")[-1] == "Waiting for subscribers announcement ..."


def test_a_pid_out_of_bounds(played: dict[str, Scene]) -> None:
    scene = played["pid too large"]
    assert scene.status("p5") == 0
    assert "message.entity_id out of bounds" in scene.text("s0.out")


def test_a_payload_that_is_a_control_code(played: dict[str, Scene]) -> None:
    scene = played["control size"]
    assert scene.status("p0") == 0
    assert "No Pong samples have been received" in scene.text("p0.err")
    assert scene.size("p0.csv") == 0
    assert "No samples have been received by the Subscriber side" in scene.text("s0.err")
    assert played["control size 4.3"].rows("s0.csv")[-1][1] > 0  # 1264 is harmless since 4.2


def too_short(folder: Path, version: str) -> Scene:
    """One sample, which arrives within the subscriber's first second; played again where the race went otherwise."""
    for number in range(8):
        scene = Scene("pub p0 -numIter 1 -latencyCount 1", "sub s0", STANDIN_FAST="", STANDIN_VERSION=version)
        scene.start(folder / str(number))
        assert scene.processes["p0"].wait(DEADLINE) == 0
        if "Waiting for data ..." not in scene.text("s0.err"):
            return scene
        scene.processes["s0"].kill()
        scene.processes["s0"].wait()
    raise AssertionError("the one sample never came within the subscriber's first second")


def test_a_test_shorter_than_the_first_tick_never_ends(tmp_path: Path) -> None:
    scene = too_short(tmp_path, "4.1.1")
    assert scene.status("s0") is None
    scene.processes["s0"].kill()
    scene.processes["s0"].wait()
    assert "Test ended." not in scene.text("s0.err")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="only there it divides by zero")
def test_a_test_shorter_than_the_first_tick_crashes_4_3(tmp_path: Path) -> None:
    assert too_short(tmp_path, "4.3").processes["s0"].wait(DEADLINE) == -signal.SIGFPE


def test_no_pongs_with_4_3(played: dict[str, Scene]) -> None:
    text = played["no pongs"].text("p0.csv")
    assert text == (SAMPLES / "abnormal" / "pub_no_pongs_4.3.csv").read_text()


def test_a_killed_publisher_leaves_whole_blocks(played: dict[str, Scene]) -> None:
    scene = played["publisher killed"]
    assert scene.status("p0") == -signal.SIGTERM
    content = (scene.folder / "p0.csv").read_bytes()
    assert len(content) > 0
    assert len(content) % 4096 == 0
    assert b"Summary" not in content
    assert scene.size("s0.csv") == 0  # its first rows are in its buffer


def test_a_publisher_gives_a_dead_reader_up_and_ends(played: dict[str, Scene]) -> None:
    scene = played["subscriber killed"]
    assert scene.status("p0") == 0
    assert "Finishing test due to timer..." in scene.text("p0.err")


def test_a_subscriber_deaf_to_the_end_goes_on(played: dict[str, Scene]) -> None:
    scene = played["deaf to the end"]
    assert scene.status("p0") == 0
    assert scene.progress("s0")[-1] == "Waiting for data ..."


def test_spoilt_files(played: dict[str, Scene]) -> None:
    scene = played["spoilt files"]
    content = {
        kind: path.read_bytes() if (path := scene.folder / f"s{i}.csv").exists() else None
        for i, kind in enumerate(standin.LEFT)
    }
    assert content.pop("no-file") is None
    files = {kind: data for kind, data in content.items() if data is not None}
    assert len(files) == 7
    assert files["empty"] == b""
    assert files["header-only"].count(b"\n") == 3
    assert not files["truncated"].endswith(b"\n")
    assert files["no-summary"].endswith(b"\n")
    assert b"Summary" not in files["truncated"] + files["no-summary"]
    assert files["appended"].count(b"Throughput Summary") == 2
    assert files["garbage"].startswith(b"\x00\x01\x02")
    assert len(files["huge"]) > 1 << 20


def test_crashes(played: dict[str, Scene]) -> None:
    scene = played["crashes"]
    assert scene.status("s0") == -signal.SIGSEGV
    assert scene.status("s1") == 0
    assert scene.size("s1.csv") == 0
    assert scene.status("p0") == 0  # best effort goes on
    scene.processes["s2"].terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        scene.processes["s2"].wait(0.3)


def test_an_orphan_is_left_behind(played: dict[str, Scene]) -> None:
    assert len(orphans(played["late"].folder)) == 1


def test_the_fixed_delays_are_perftests(played: dict[str, Scene]) -> None:
    """Without STANDIN_FAST: 1 s before the data, then 2 s (publisher) and 2 + 2 s (subscriber) to the end."""
    scene = played["real pace"]
    assert "fast" not in scene.text("p0.err")
    for name, least in (("p0", 1 + 1 + 2), ("s0", 1 + 1 + 4)):
        first, last = ((scene.folder / f"{name}.{end}").stat().st_mtime for end in ("out", "err"))
        assert least < last - first < least + 15


def test_it_is_one_file_for_old_pythons() -> None:
    source = Path(standin.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 9))
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    assert imported <= set(sys.stdlib_module_names)
    assert source.startswith("#!")
    assert os.access(standin.__file__, os.X_OK)
