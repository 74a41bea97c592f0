"""The stand-in's printers against layouts that are not its own: the numbers of each sample, printed again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoperfd.lab import perftest_standin as standin

SAMPLES = Path(__file__).parent.parent / "data" / "perftest"
VERSIONS = {"3.1-3.3": (3, 3), "4.0-4.1.1": (4, 1, 1), "4.2-4.3": (4, 3)}


def printer(path: Path) -> standin.CsvPrinter:
    name = path.stem
    kind = standin.JsonPrinter if name.startswith("json") else standin.CsvPrinter
    return (standin.LegacyPrinter if name.startswith("legacy") else kind)(
        VERSIONS[path.parent.name],
        100,
        intervals="noPrintIntervals" not in name,
        headers="noOutputHeaders" not in name,
        cpu="cpu" in name,
        serialization="showSerializationTime" in name,
        nano="ns_resolution" in name,
    )


def numbers(line: str) -> list[float]:
    try:
        return [float(field) for field in line.split(",")]
    except ValueError:
        return []


def latencies(row: list[float]) -> standin.Latencies:
    return standin.Latencies(row[1], row[2], int(row[3]), int(row[4]), tuple(int(v) for v in row[5:10]))


def reprinted(path: Path) -> str:
    """The sample with every number read from it and printed by the stand-in."""
    out, scale = printer(path), 1000 if "ns_resolution" in path.name else 1
    rows = [row for line in path.read_text().splitlines() if (row := numbers(line))]
    publisher = path.name.startswith("pub")
    text = out.latency_title() if publisher else out.throughput_title()
    for row in rows[:-1]:
        cpu = row[-1] if out.cpu else 0.0
        if publisher:
            times = [round(value * scale, 3) for value in row[1:6]]
            text += out.latency_row(int(times[0]), times[1], times[2], int(times[3]), int(times[4]), cpu)
        else:
            samples, rate, mean, mbps, mean_mbps, lost, percent = row[1:8]
            text += out.throughput_row(int(samples), int(rate), mean, mbps, mean_mbps, int(lost), percent, cpu)
    last = rows[-1]
    cpu = last[-1] if out.cpu else 0.0
    if publisher:
        figures = latencies([last[0], *(round(value * scale, 3) for value in last[1:10])])
        times = last[10:12] if out.serialization else [0.0, 0.0]
        return text + out.latency_summary(figures, times[0], times[1], cpu)
    return text + out.throughput_summary(int(last[1]), int(last[2]), last[3], int(last[4]), last[5], cpu)


CSV = sorted(p for v in VERSIONS for p in (SAMPLES / v).glob("*.csv") if not p.name.startswith("latencyFile"))


def test_all_versions_have_samples() -> None:
    assert len(CSV) == 3 * 11 + 1


@pytest.mark.parametrize("path", CSV, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_csv_is_byte_equal(path: Path) -> None:
    assert reprinted(path).encode() == path.read_bytes()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["json_pub_as_printed_INVALID", "json_pub_cpu_noPrintIntervals_as_printed_INVALID"])
def test_json_of_a_publisher_is_byte_equal(version: str, name: str) -> None:
    path = SAMPLES / version / f"{name}.json"
    document = json.loads("{" + path.read_text())
    out = printer(path)
    text = out.latency_title()
    for row in document.get("intervals", []):
        values = [row[f"latency{key}"] for key in ("", "_ave", "_std", "_min", "_max")]
        text += out.latency_row(*values)
    summary = document["summary"]
    figures = standin.Latencies(
        summary["latency_ave"],
        summary["latency_std"],
        summary["latency_min"],
        summary["latency_max"],
        tuple(summary[f"latency_{key}"] for key in ("50", "90", "99", "99.99", "99.9999")),
    )
    text += out.latency_summary(figures, cpu=summary.get("CPU", summary.get("cpu", 0.0)))
    assert text.encode() == path.read_bytes()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["json_sub_as_printed_INVALID", "json_sub_cpu_noPrintIntervals_as_printed_INVALID"])
def test_json_of_a_subscriber_is_byte_equal(version: str, name: str) -> None:
    path = SAMPLES / version / f"{name}.json"
    document = json.loads("{" + path.read_text())
    out = printer(path)
    text = out.throughput_title()
    for row in document.get("intervals", []):
        keys = ("packets", "packets/s", "packets/s_ave", "mbps", "mbps_ave", "lost", "lost_percent")
        text += out.throughput_row(*(row[key] for key in keys))
    summary = document["summary"]
    text += out.throughput_summary(
        summary["packets"],
        summary["packets/sAve"],
        summary["mbpsAve"],
        summary["lost"],
        summary["lostPercent"],
        summary.get("CPU", summary.get("cpu", 0.0)),
    )
    assert text.encode() == path.read_bytes()


def after(line: str, *labels: str) -> list[float]:
    """The number behind each label."""
    return [float(line.split(label, 1)[1].split()[0].strip("()%")) for label in labels]


@pytest.mark.parametrize("version", VERSIONS)
def test_legacy_is_byte_equal(version: str) -> None:
    path = SAMPLES / version / "legacy_pub.txt"
    out, text = printer(path), ""
    text += out.latency_title()
    *rows, summary = path.read_text().splitlines()[3:]
    for row in rows:
        latency, average, deviation, low, high = after(row, "Latency:", "Ave", "Std", "Min", "Max")
        text += out.latency_row(int(latency), average, deviation, int(low), int(high))
    figures = latencies(
        [0.0, *after(summary, "Ave", "Std", "Min", "Max", " 50%", " 90%", " 99%", " 99.99%", " 99.9999%")]
    )
    assert (text + out.latency_summary(figures)).encode() == path.read_bytes()

    path = SAMPLES / version / "legacy_sub.txt"
    out = printer(path)
    text = out.throughput_title()
    *rows, summary = path.read_text().splitlines()[3:]
    labels = ("Packets:", "Packets/s:", "Packets/s(ave):", "Mbps:", "Mbps(ave):", "Lost:", "(0")
    for row in rows:
        samples, rate, mean, mbps, mean_mbps, lost, percent = after(row, *labels)
        text += out.throughput_row(int(samples), int(rate), mean, mbps, mean_mbps, int(lost), percent)
    samples, rate, mbps, lost, percent = after(summary, "Packets:", "Packets/s(ave):", "Mbps(ave):", "Lost:", "(0")
    assert (text + out.throughput_summary(int(samples), int(rate), mbps, int(lost), percent)).encode() == (
        path.read_bytes()
    )


def test_a_publisher_of_4_3_without_pongs_prints_zeros() -> None:
    out = standin.CsvPrinter((4, 3), 0)
    nothing = standin.Latencies(0.0, 0.0, 0, 140187, (0, 0, 0, 0, 0))
    assert out.latency_summary(nothing).encode() == (SAMPLES / "abnormal" / "pub_no_pongs_4.3.csv").read_bytes()
