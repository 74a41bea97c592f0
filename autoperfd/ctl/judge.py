"""`autoperfctl judge`: the readers and rules of Perftest over result files in any folder, or over an archive of ours.

Promises to write nothing beside what it judges and to read no more than MOST_BYTES of an archive. One thread.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from autoperfd.core.names import parse_name, pattern, test_name
from autoperfd.core.plan import ParticipantRecord, Plan, Setting, Verdict
from autoperfd.core.text import safe
from autoperfd.daemon import archive
from autoperfd.daemon.views import count
from autoperfd.errors import AutoperfError
from autoperfd.tools import TOOLS, perftest

MOST_BYTES = 4 << 30  # of all members of an archive
MOST_TEXT = 64 << 20  # of one of our own texts in it
MEMBER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
ENDS = "how the participants ended, as nobody recorded it"
NEEDED = {  # setting -> what cannot be checked without it
    "duration_secs": "whether the files cover the whole test",
    "datalen_bytes": "whether they are about samples of the right length",
    "sub_count": "whether every subscriber left a file",
    "use_reliable": "whether samples may be lost",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """What was judged, and how. `unchecked`: what could not be looked at, as sentences without an end."""

    place: Path
    test: str  # the test's name in our spelling; "" where nothing says it
    named_by: str  # where that comes from
    tool: str
    verdict: Verdict
    unchecked: tuple[str, ...]

    @property
    def success(self) -> bool:
        """Whether the files prove a success."""
        return self.verdict.end_status == "success"


def judge(place: Path, test: str, scratch: Path) -> Judged:
    """Judge the result files in the folder or archive `place`; `test` is its test's name, "" where that is not given.

    An archive is unpacked into `scratch`. AutoperfError where there is nothing to judge.
    """
    try:
        if place.is_file():
            return _archived(place, test, scratch)
        names = sorted(entry.name for entry in place.iterdir())
    except OSError as error:
        raise AutoperfError(f"autoperfctl cannot read {place}: {error.strerror}") from error
    if not any(perftest.DATA_FILE.fullmatch(name) for name in names):
        inside = [name for name in names if (place / name).is_dir()]
        hint = "Result files are called pub_0.csv, sub_0.csv, sub_1.csv, …"
        if inside:
            hint += (
                f"; it holds folders ({', '.join(inside[:3])}{', …' if len(inside) > 3 else ''}): judge each of them"
            )
        raise AutoperfError(f"{place} holds no result files", hint=hint)
    settings, named_by = _named(place, test)
    unchecked = (*(why for key, why in NEEDED.items() if key not in settings), ENDS)
    verdict = perftest.judge_files(place, settings)
    return Judged(place, test_name(settings), named_by, "perftest", verdict, unchecked)


def _named(place: Path, test: str) -> tuple[dict[str, Setting], str]:
    """The settings of the test, and who says so: the caller, the folder's name or that of the one it lies in."""
    if test:
        try:
            return parse_name(test), "as given"
        except ValueError as error:
            raise AutoperfError(f"{test!r} is no test name: {error}", hint=f"One looks like {pattern()}") from error
    for folder in (place.absolute(), place.absolute().parent):
        settings, left = _beginning(folder.name)
        if settings:
            return settings, f"by the name of the folder {folder.name}" + (f" without {left}" if left else "")
    return {}, ""


def _beginning(name: str) -> tuple[dict[str, Setting], str]:
    """The settings that the beginning of a folder's name spells, and the rest of it; {} where it spells no test."""
    parts = name.split("_")
    for end in range(len(parts), 3, -1):
        try:
            settings = parse_name("_".join(parts[:end]))
        except ValueError:
            continue
        if {"duration_secs", "pub_count", "sub_count"} <= settings.keys():
            return settings, "_".join(["", *parts[end:]]) if end < len(parts) else ""
    return {}, ""


# ---------------------------------------------------------------- archives


def _archived(place: Path, test: str, scratch: Path) -> Judged:
    """Judge an attempt by what its archive holds: the files, what was started, and how it ended."""
    if test:
        raise AutoperfError("an archive says itself which test it is of", hint="Leave --test out")
    texts: dict[str, bytes] = {}
    try:
        for name, stream in archive.members(place, MOST_BYTES):
            if not MEMBER.fullmatch(name):
                raise AutoperfError(f"{place} is no archive of ours: it has a member {name!r}")
            if name in ("attempt.json", "evidence.json"):
                texts[name] = stream.read(MOST_TEXT)
            with (scratch / name).open("wb") as file:
                while chunk := stream.read(1 << 20):
                    file.write(chunk)
        plan = Plan.from_json(json.dumps(json.loads(texts["attempt.json"])["plan"]))
        evidence = json.loads(texts["evidence.json"])
        records = [ParticipantRecord(**record) for record in evidence["records"]]
        verdict = TOOLS[plan.tool].verdict(plan, scratch, records)
    except archive.DAMAGED as error:
        raise AutoperfError(f"{place} is no whole archive of ours: {error}", hint="See autoperfctl verify") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise AutoperfError(f"{place} is no archive of ours: its attempt.json or evidence.json is not") from error
    return Judged(place, plan.test_name, "by the archive", plan.tool, verdict, ())


# ---------------------------------------------------------------- words


def report(judged: Judged) -> str:
    """The judgement as text for a person."""
    return "".join(f"{safe(line, 4000) if line.strip() else ''}\n" for line in _lines(judged)).replace("\n\n\n", "\n\n")


def _lines(judged: Judged) -> Iterator[str]:
    verdict = judged.verdict
    yield f"{judged.place}: {'success' if judged.success else f'no success ({verdict.end_status})'}"
    yield f"{'test:':10}{judged.test or 'not known'}{f' ({judged.named_by})' if judged.test else ''}"
    if verdict.findings:
        yield f"{'failed:':10}{count(len(verdict.findings), 'rule')}"
    for finding in verdict.findings:
        yield f"- {finding.code}: {finding.reason} ({finding.status})"
    figures = _figures(verdict)
    if figures:
        yield f"{'figures:':10}latencies in µs, one way; throughput of all subscribers, and of each"
    for name, value in figures.items():
        yield f"- {name}: {value}"
    if judged.unchecked:
        yield f"{'not seen:':10}{'; '.join(judged.unchecked)}"
        if not judged.test:
            yield f"          Name the test to have more looked at: --test {pattern()}"


def _figures(verdict: Verdict) -> Mapping[str, float | int | str]:
    return {name: value for name, value in verdict.figures.items() if value != ""}


def facts(judged: Judged) -> dict[str, object]:
    """The same for a script."""
    return {
        "place": str(judged.place),
        "test": judged.test,
        "tool": judged.tool,
        "success": judged.success,
        "end_status": judged.verdict.end_status,
        "findings": [
            {
                "code": finding.code,
                "end_status": finding.status,
                "participant": finding.participant.name if finding.participant else "",
                "reason": finding.reason,
            }
            for finding in judged.verdict.findings
        ],
        "figures": dict(_figures(judged.verdict)),
        "unchecked": list(judged.unchecked),
    }
