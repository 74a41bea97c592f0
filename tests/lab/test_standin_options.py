"""The stand-in's command line: Perftest's grammar, its error texts and what it says before it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoperfd.lab import perftest_standin as standin

SAMPLES = Path(__file__).parent.parent / "data" / "perftest" / "stderr"
V33, V411, V42, V43 = (3, 3), (4, 1, 1), (4, 2), (4, 3)


def read(line: str, version: tuple[int, ...] = V411) -> tuple[standin.Settings, list[str]]:
    return standin.read_options(line.split(" ") if line else [], version)


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", standin.__file__, *arguments],
        env={"PATH": os.defpath, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("-DATALEN 200", "dataLen"),
        ("-exec 10", "executionTime"),
        ("-noPrint", "noPrintIntervals"),
        ("-latency 5", "latencyCount"),
        ("-out f", "outputFile"),
        ("-num 3", "numIter"),
        ("-p 10.0.0.1", "peer"),
        ("-zero", "zerocopy"),
    ],
)
def test_any_prefix_matches_the_first_in_ascii_order(given: str, key: str) -> None:
    settings, complaints = read(given)
    assert complaints == []
    assert settings.given == {key}


def test_an_empty_argument_matches_the_first_option() -> None:
    settings, _ = standin.read_options(["", "eth0"], V411)
    assert settings.text("allowInterfaces") == "eth0"


@pytest.mark.parametrize(
    ("given", "value"), [("10.5", 10), ("1e3", 1), ("+7", 7), ("0x20", None), ("12abc", 12), ("\t9", 9)]
)
def test_numbers_are_read_as_by_sscanf(given: str, value: int | None) -> None:
    settings, complaints = standin.read_options(["-executionTime", given], V411)
    if value is None:  # reads 0, which is out of range
        assert complaints == [f"In the argument '-executionTime', '<sec>' should be in the range [1,{2**64 - 1}]"]
    else:
        assert complaints == []
        assert settings.number("executionTime", 0) == value


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("-bogus", "Cannot parse '-bogus', invalid input."),
        ("junk", "Cannot parse 'junk', invalid input."),
        ("-dataLen x", "Cannot parse '<bytes>' '-dataLen', invalid input."),
        ("-dataLen", "Missing '<bytes>' after '-dataLen'"),
        ("-dataLen -pub", "Missing '<bytes>' after '-dataLen'"),
        ("-domain 251", "In the argument '-domain', '<id>' should be in the range [0,250]"),
        ("-transport udpv4", "In the argument '-transport', incorrect '<kind>':  udpv4"),
        ("-pubRate 100", "Missing '<samples/s>:<method>' after '-pubRate'"),
        ("-pubRate 100:walk", "In the argument '-pubRate', incorrect '<samples/s>:<method>':  walk"),
        ("-sendQueueSize 0", f"In the argument '-sendQueueSize', '<number>' should be in the range [1,{2**31 - 1}]"),
        ("-sub -executionTime 3", "Cannot use '-executionTime' while setting '-sub'."),
        ("-pub -numPublishers 2", "Cannot use '-numPublishers' while setting '-pub'."),
    ],
)
def test_complaints(given: str, complaint: str) -> None:
    assert read(given)[1] == [complaint]


def test_all_bad_options_are_said_at_once() -> None:
    assert read("-bogus -domain 999 -junk")[1] == [
        "Cannot parse '-bogus', invalid input.",
        "In the argument '-domain', '<id>' should be in the range [0,250]",
        "Cannot parse '-junk', invalid input.",
    ]


def test_without_a_side_publisher_options_are_taken_by_a_subscriber() -> None:
    assert read("-executionTime 3")[1] == []


@pytest.mark.parametrize(
    ("option", "versions"),
    [
        ("-outputFile f", (V411, V42, V43)),
        ("-latencyFile f", (V411, V42, V43)),
        ("-scan 32:64", (V33, V411)),
        ("-messageSizeMax 9", (V42, V43)),
        ("-threadCPUAffinity 1:2:3:4", (V43,)),
        ("-pubRatebps 20000000:spin", (V43,)),
        ("-networkCapture", (V33, V411, V42, V43)),
    ],
)
def test_options_come_and_go_with_versions(option: str, versions: tuple[tuple[int, ...], ...]) -> None:
    assert tuple(v for v in (V33, V411, V42, V43) if not read(option, v)[1]) == versions


def test_help() -> None:
    result = start("-pub", "-help")
    assert result.returncode == 0
    assert "-outputFile <filename>" in result.stdout
    assert result.stderr.startswith("RTI Perftest 4.1.1 (autoperfd stand-in, not RTI Perftest")
    old = start("-h", STANDIN_VERSION="3.3")
    assert old.returncode == 0
    assert "-outputFile" not in old.stdout
    assert "-dataLen <bytes>" in old.stdout
    assert old.stderr.startswith("RTI Perftest 3.3 (")


def said(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Standard error below the banner."""
    return result.stderr.splitlines()[1:]


@pytest.mark.parametrize(
    ("sample", "arguments"),
    [("pub_bad_option", ["-pub", "-numPublishers", "2"]), ("sub_bad_datalen", ["-sub", "-dataLen", "27"])],
)
def test_an_error_ends_with_255_and_no_file(sample: str, arguments: list[str], tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    result = start(*arguments, "-outputFile", str(path))
    assert result.returncode == 255
    assert said(result) == (SAMPLES / f"{sample}.stderr.txt").read_text().splitlines()[1:]
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("-pub -latencyTest -pidMultiPubTest 1", "Only the publisher with ID = 0 can run the latency test"),
        ("-pub -numIter 5 -latencyCount 10", "numIter (5) must be greater than latencyCount (10)."),
        ("-pub -dataLen 70000 -batchSize 8192", "Batching cannot be used with Large Data."),
    ],
)
def test_combinations_are_refused(arguments: str, complaint: str) -> None:
    result = start(*arguments.split())
    assert result.returncode == 255
    assert said(result) == [complaint, "Test ended."]


def test_an_output_file_that_cannot_be_opened() -> None:
    result = start("-pub", "-outputFile", "/nowhere/x.csv")
    assert result.returncode == 255
    assert result.stderr.endswith("Test ended.\n")


def describe(line: str, version: tuple[int, ...] = V411) -> str:
    settings, complaints = read(line, version)
    assert complaints == []
    return standin.Config(settings, version).describe()


@pytest.mark.parametrize(
    ("sample", "line"),
    [
        ("pub_0_ok_timer", "-pub -latencyCount 100 -batchSize 0 -executionTime 30 -transport UDPv4"),
        (
            "pub_1_ok_timer",
            "-pub -pidMultiPubTest 1 -latencyCount 100 -batchSize 0 -executionTime 30 -transport UDPv4",
        ),
        ("sub_0_ok", "-sub -transport UDPv4"),
    ],
)
def test_the_configuration_reads_as_perftests(sample: str, line: str) -> None:
    expected = (SAMPLES / f"{sample}.stderr.txt").read_text().partition("\n")[2].partition("Waiting")[0]
    assert describe(line) == expected


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("-pub", '\tBatching: 8192 Bytes (Use "-batchSize 0" to disable batching)\n'),
        ("-pub -dataLen 5000", '\tBatching: No (Use "-batchSize" to setup batching)\n'),
        ("-pub -dataLen 5000 -batchSize 9000", "\tBatching: Disabled by RTI Perftest.\n\t\t  BatchSize is smaller"),
        ("-pub -latencyTest", "\nMode: LATENCY TEST (Ping-Pong test)\n"),
        ("-pub -bestEffort -multicast", "\tReliability: Best Effort\n"),
        ("-pub -bestEffort -multicast", "\tUse Multicast: True\n"),
        ("-pub -pubRate 100:spin", "\tPublication Rate: 100 Samples/s (Spin)\n"),
        ("-pub -numIter 20000", "\tNumber of samples: 20000\n"),
        ("-sub -noXmlQos", "\tXML File: Disabled\n"),
        ("-sub -dataLen 70000", "\n[IMPORTANT]: Using the Unbounded Sequence Type. -datalen (70000)"),
    ],
)
def test_the_configuration_follows_the_options(line: str, text: str) -> None:
    assert text in describe(line)


def test_batches_multiply_the_distance_of_pings() -> None:
    settings, _ = read("-pub -latencyCount 10")
    assert standin.Config(settings, V411).samples_per_batch == 81


@pytest.mark.parametrize(
    ("text", "name", "line", "expected"),
    [
        ("sub_1:hang", "sub_1", "", {"hang": ""}),
        ("sub_1:hang", "sub_0", "", {}),
        ("sub:crash=11,ignore-term", "sub_7", "", {"crash": "11", "ignore-term": ""}),
        ("pub_0:exit=3;*:noise", "pub_0", "", {"exit": "3", "noise": ""}),
        ("*:exit", "help", "-help", {}),
        ("help:exit=1", "help", "-help", {"exit": "1"}),
        ("*/dataLen=100:empty", "sub_0", "-dataLen 100", {"empty": ""}),
        ("*/dataLen=100:empty", "sub_0", "-dataLen 1000", {}),
        ("*/bestEffort:empty", "sub_0", "-bestEffort", {"empty": ""}),
        ("sub:empty#_BE_,noise", "sub_0", "-outputFile 4SEC_REL_.csv", {"noise": ""}),
    ],
)
def test_who_misbehaves(text: str, name: str, line: str, expected: dict[str, str]) -> None:
    words = line.split()
    settings, _ = standin.read_options([w for w in words if w != "-help"], V411)
    assert standin.misbehaviours(text, name, settings, words) == expected


def test_once_is_once(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    for expected in ({"empty": ""}, {}, {}):
        assert standin.misbehaviours(f"sub:empty@{flag}", "sub_0", standin.Settings(), []) == expected
        assert flag.exists()


def test_misbehaviour_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "spec"
    assert standin.misbehaviours(f"@{path}", "sub_0", standin.Settings(), []) == {}
    path.write_text("pub:noise\nsub_0:empty\n")
    assert standin.misbehaviours(f"@{path}", "sub_0", standin.Settings(), []) == {"empty": ""}


def test_an_unknown_misbehaviour_is_not_silent() -> None:
    result = start("-sub", STANDIN_MISBEHAVE="sub:hangs")
    assert result.returncode == 255
    assert "there is no 'hangs'" in result.stderr


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("exit=7", 7, "RTI Perftest"),
        ("option-error", 255, "Cannot parse '-noSuchOption', invalid input.\nTest ended.\n"),
        ("wont-start=loader", 127, "error while loading shared libraries"),
        ("wont-start=licence", 255, "license"),
        ("crash-at-start=6", -6, "RTI Perftest"),
    ],
)
def test_participants_that_do_not_start(kind: str, status: int, text: str, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    result = start("-sub", "-outputFile", str(path), STANDIN_MISBEHAVE=f"sub_0:{kind}")
    assert result.returncode == status
    assert text in result.stderr
    assert not path.exists()


def test_a_flood_is_as_large_as_asked() -> None:
    result = start("-sub", STANDIN_MISBEHAVE="sub:flood=2,flood-stdout=1,exit=0")
    assert 1.9 < len(result.stderr) / 2**20 < 2.1
    assert 0.9 < len(result.stdout) / 2**20 < 1.1


def test_it_says_what_it_is_and_what_bends_it() -> None:
    result = start("-bogus", STANDIN_FAST="1", STANDIN_RATE="50", STANDIN_MISBEHAVE="sub_0:noise")
    assert result.stderr.splitlines()[0] == (
        "RTI Perftest 4.1.1 (autoperfd stand-in, not RTI Perftest; fast; rate 50; misbehaves: noise)"
    )
