"""Knows how an attempt with Perftest is judged: all rules over all participants, and the figures its files hold.

Pure but for reading the files it is given; any thread.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from autoperfd.core.plan import Finding, Participant, ParticipantRecord, Plan, Role, Settings, Verdict
from autoperfd.tools import parse_perftest
from autoperfd.tools.datafile import DataFile
from autoperfd.tools.judging import (
    Evidence,
    Figure,
    Rule,
    Text,
    collect,
    end_is_known,
    executable_started,
    figures,
    first_line,
    peek,
    proves,
    settle,
    streams_are_there,
)
from autoperfd.tools.perftest_data import DATA_RULES, TOGETHER_RULES
from autoperfd.tools.perftest_ends import END_RULES
from autoperfd.tools.perftest_left import Attempt, Left, data_name, stage

COMMON_RULES: tuple[Rule, ...] = (end_is_known, executable_started, streams_are_there)


def judge(plan: Plan, folder: Path, records: Sequence[ParticipantRecord]) -> Verdict:
    """Judge one attempt from its files and its participants' ends."""
    left = []
    for evidence in collect(plan, folder, records):
        name = data_name(evidence.participant)
        left.append(Left(evidence, stage(evidence.stderr), parse_perftest.read(folder / name) if name else None, name))
    attempt = Attempt(plan, tuple(left))
    return settle(_findings(attempt), _figures(attempt))


def _findings(attempt: Attempt) -> Iterator[Finding]:
    """Every rule's finding about every participant, in their order, and those about all together."""
    for one in attempt.left:
        if attempt.recorded:
            yield from (finding for rule in COMMON_RULES if (finding := rule(one.evidence)))
        yield from (finding for rule in END_RULES if (finding := rule(attempt, one)))
        if one.data is not None:
            yield from (finding for data_rule in DATA_RULES if (finding := data_rule(attempt, one, one.data)))
    for together in TOGETHER_RULES:
        yield from together(attempt)


# Figures


def _figures(attempt: Attempt) -> dict[str, Figure]:
    """The figures as far as the files hold them."""
    latency: Mapping[str, Figure] = {}
    subscribers = []
    for one in attempt.left:
        if one.data is None:
            continue
        if one.participant.role == "sub":
            subscribers.append(_throughput(one.data))
        elif one.data.kinds == {"latency"} and one.data.summaries and one.data.summaries[0]["length"]:
            summary = one.data.summaries[0]
            latency = {column: summary[name] for column, name in LATENCY_FIGURES if name in summary}
    return figures(latency, subscribers, _version(attempt.left))


LATENCY_FIGURES = (
    ("latency_mean_us", "ave"),
    ("latency_std_us", "std"),
    ("latency_min_us", "min"),
    ("latency_max_us", "max"),
    ("latency_50_us", "50%"),
    ("latency_90_us", "90%"),
    ("latency_99_us", "99%"),
    ("latency_99_99_us", "99.99%"),
    ("latency_99_9999_us", "99.9999%"),
)


def _throughput(data: DataFile) -> dict[str, float]:
    """A subscriber's figures: its summary's, or without one those of the last row in which data came."""
    row = data.summaries[0] if data.summaries else data.live
    if row is None or "total samples" not in row:
        return {}
    return {
        "samples": row["total samples"],
        "samples_per_s": row["ave samples/s"],
        "mbps": row["ave mbps"],
        "lost": row["lost samples"],
        "lost_percent": row["lost samples (%)"],
    }


def _version(left: Iterable[Left]) -> str:
    """The banner, which is the only place where Perftest says its version."""
    for one in left:
        line = first_line(one.evidence.stderr)
        if line.startswith("RTI Perftest"):
            return line
    return ""


# Old data

DATA_FILE = re.compile(r"(pub|sub)_(0|[1-9]\d{0,3})(?:_output)?\.(?:csv|json|txt)")
STDERR_ENDS = (".stderr", ".stderr.txt", "_stderr.txt", ".err")
MOST_FILES = 10_000  # entries of a folder that are looked at


def judge_files(folder: Path, settings: Settings | None = None) -> Verdict:
    """Judge result files of a test of which nothing else is known: no records of how its participants ended.

    `folder` holds `pub_0.csv` and `sub_<i>.csv` (also `…_output.csv`, `.json`, `.txt`) and, where there are any,
    standard error as `<participant>.stderr`. `settings`: those of the test that are known; what is not known is
    not asked for. With `sub_count` every subscriber must be there and no other, without it those found are judged.
    Rules that need the ends of participants are left out; what standard error says counts. Never raises for content.
    """
    known = settings or {}
    names: dict[tuple[Role, int], str] = {}
    for path in itertools.islice(sorted(folder.iterdir()), MOST_FILES):
        if match := DATA_FILE.fullmatch(path.name):
            names.setdefault(("pub" if match[1] == "pub" else "sub", int(match[2])), path.name)
    subscribers = known.get("sub_count", 1 + max((i for role, i in names if role == "sub"), default=0))
    given = [_given(folder, "pub", 0, names.get(("pub", 0), "pub_0.csv"))]
    given += [_given(folder, "sub", i, names.get(("sub", i), f"sub_{i}.csv")) for i in range(int(subscribers))]
    plan = Plan(
        tool="perftest",
        test_name=folder.name,
        settings=tuple(known.items()),
        domain=0,
        duration_secs=int(known.get("duration_secs", 0)),
        participants=tuple(one.participant for one in given),
    )
    attempt = Attempt(plan, tuple(given), recorded=False)
    strays = [name for (role, i), name in names.items() if role == "sub" and i >= subscribers]
    return settle([*_findings(attempt), *_strays(strays)], _figures(attempt))


def _given(folder: Path, role: Role, index: int, file: str) -> Left:
    """What is left of a participant whose end nobody recorded."""
    name = f"{role}_{index}"
    stderr = next((name + end for end in STDERR_ENDS if (folder / (name + end)).exists()), f"{name}.stderr")
    participant = Participant(name, role, index, "", (), (), file, stderr, ())
    said = peek(folder / stderr)
    evidence = Evidence(participant, None, Text(-1), said)
    return Left(evidence, stage(said), parse_perftest.read(folder / file), file)


@proves("perftest", STRAY_FILE="bad-data")
def _strays(names: Iterable[str]) -> Iterator[Finding]:
    """No file is of a participant that the test does not have: it would be left over from another test."""
    for name in names:
        reason = f"{name} is of no participant of this test: left over from another one"
        yield Finding("bad-data", "STRAY_FILE", reason)
