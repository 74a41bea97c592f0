"""Makes what an attempt leaves when all goes well, in numbers that follow from each other, by the stand-in's printers.

Seeded: the same seed gives the same bytes. Nothing of the reader that is tried with it is used. Pure.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from autoperfd.core.plan import Plan
from autoperfd.lab import perftest_standin as standin

PERCENTS = (0.5, 0.9, 0.99, 0.9999, 0.999999)


@dataclass(frozen=True)
class Made:
    """An attempt's plan and its data files."""

    plan: Plan
    files: Mapping[str, bytes]


def perftest_files(plan: Plan, version: tuple[int, ...], seed: str) -> dict[str, bytes]:
    """The data files of every participant of a plan that has one."""
    rng = random.Random(seed)
    settings = dict(plan.settings)
    secs, length = plan.duration_secs, int(settings["datalen_bytes"])
    rate = rng.choice([300, 5_000, 22_000]) * int(settings["pub_count"])
    sent = [round(rate * rng.uniform(0.9, 1.1)) for _ in range(secs)]
    sent.append(round(rate * rng.random()))  # of the last part of a second
    lossy = settings.get("use_reliable") is False
    out = standin.CsvPrinter(version, length)
    files = {}
    for p in plan.participants:
        name = p.files[0] if p.files else p.stdout
        if p.role == "pub" and p.index == 0:
            answers = sum(sent) // int(settings["pub_count"]) // int(settings["latency_count"])
            files[name] = latencies(out, rng, max(2, min(answers, 4000))).encode()
        elif p.role == "sub":
            files[name] = throughput(out, rng, sent, rng.uniform(0.0, 0.2) if lossy else 0.0).encode()
    return files


def latencies(out: standin.CsvPrinter, rng: random.Random, count: int) -> str:
    """A publisher's file."""
    hidden = out.version < (4, 2)  # the first one is counted and not printed
    middle = rng.choice([80, 1200, 15_000])
    text, values, total, squares = out.latency_title(), [], 0, 0
    low, high, mean, deviation = 1 << 60, 0, 0.0, 0.0
    for number in range(count + hidden):
        x = round(middle * rng.lognormvariate(0, 0.3)) * (10 if rng.random() < 0.02 else 1)
        values.append(x)
        total += x
        squares += x * x
        mean = total / len(values)
        deviation = math.sqrt(max(0.0, squares / len(values) - mean * mean))
        low, high = min(low, x), max(high, x)
        if number or not hidden:
            text += out.latency_row(x, mean, deviation, low, high)
    ordered = sorted(values)
    percentiles = tuple(ordered[int(len(ordered) * share)] for share in PERCENTS)
    return text + out.latency_summary(standin.Latencies(mean, deviation, low, high, percentiles))


def throughput(out: standin.CsvPrinter, rng: random.Random, sent: list[int], loss: float) -> str:
    """A subscriber's file: the first second prints no row, the last part of one is in the summary only."""
    text = out.throughput_title()
    received = lost = 0
    rates: list[int] = []
    all_bits = 0.0
    bits = out.length * 8e-6
    for number, count in enumerate(sent):
        gone = round(count * loss * rng.uniform(0.5, 1.5))
        received, lost = received + count - gone, lost + gone
        if number in (0, len(sent) - 1):
            continue
        exact = (count - gone) / rng.uniform(1.0001, 1.0004)
        rates.append(int(exact))
        all_bits += exact * bits
        text += out.throughput_row(
            received,
            rates[-1],
            sum(rates) / len(rates),
            exact * bits,
            all_bits / len(rates),
            lost,
            100 * lost / (lost + received),
        )
    rate = int(received / len(sent))
    return text + out.throughput_summary(received, rate, rate * bits, lost, 100 * lost / (lost + received))
