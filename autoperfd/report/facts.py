"""Knows what a report says: the first sentences, which tests are missing and why, what to be careful about.

Pure: from what was gathered to values; nothing here knows HTML or plots. One thread.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from autoperfd.core.plan import Setting
from autoperfd.core.survey import differences
from autoperfd.core.text import safe
from autoperfd.results.gather import STATES, Attempt, Gathered, State, Test

MOST_LISTED = 200  # tests that are listed with the reason
LEAST_TESTS = 5  # of which a share says something
MUCH = 2.0  # times the share of all tests that failed
LEAST_SHARE = 0.1
LEAST_DRIFT = 20  # tests of which a trend says something
DRIFT = 0.5  # rank correlation with time from which on it is told

WORDS: Mapping[State, str] = {
    "ok": "proven",
    "no-summary": "data complete, summary missing",
    "failed": "given up",
    "skipped": "left out",
    "open": "under way",
    "missing": "not begun",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why attempts failed: a code, an example in words, how many attempts of how many tests, on which machines."""

    code: str
    example: str
    blame: str
    attempts: int
    tests: int
    machines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What is known of a machine. `changes`: facts that were not the same in all attempts, as sentences."""

    name: str
    allocation: str
    facts: Mapping[str, str]
    changes: tuple[str, ...]


def sentences(gathered: Gathered) -> list[str]:
    """The three sentences a report begins with."""
    counts = gathered.counted()
    tried = sum(counts[state] for state in ("ok", "no-summary", "failed", "open"))
    machines = gathered.experiment.machines
    swept = [key for key, values in varied(gathered.tests).items() if len(values) > 1]
    first = (
        f"{gathered.planned} tests with {gathered.experiment.tool} on {len(machines)} machines were planned"
        + (f", varying {_listed(swept)}" if swept else "")
        + "."
    )
    second = (
        f"{tried} of them were tried in {len(gathered.attempts)} attempts{_when(gathered.attempts)}: "
        f"{counts['ok']} are proven, {counts['failed']} were given up, "
        f"{counts['missing'] + counts['open']} are still to come."
    )
    own = sum(attempt.blame == "test" for attempt in gathered.attempts)
    lost = [
        attempt for attempt in gathered.attempts if attempt.blame in ("machine", "network", "controller", "operator")
    ]
    third = (
        f"{own} attempts failed by the test's own fault and {len(lost)} by somebody else's "
        f"({_listed([f'{n} {blame}' for blame, n in Counter(a.blame for a in lost).most_common()]) or 'none'}); "
        "figures below are of proven tests only."
    )
    return [first, second, third]


def _when(attempts: Sequence[Attempt]) -> str:
    if not attempts:
        return ""
    ends = [attempt.ended or attempt.started for attempt in attempts]
    return f" from {day(min(attempt.started for attempt in attempts))} to {day(max(ends))}"


def day(wall: float) -> str:
    """A time of the controller for a person."""
    return f"{datetime.fromtimestamp(wall, UTC):%Y-%m-%d %H:%M} UTC"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def varied(tests: Sequence[Test]) -> dict[str, list[Setting]]:
    """setting -> its values among the tests, ascending."""
    found: dict[str, set[Setting]] = {}
    for test in tests:
        for key, value in test.settings.items():
            found.setdefault(key, set()).add(value)
    return {key: sorted(values) for key, values in found.items()}


def reasons(gathered: Gathered) -> list[Reason]:
    """Why attempts failed, the most frequent first."""
    groups: dict[tuple[str, str], list[Attempt]] = {}
    for attempt in gathered.attempts:
        if attempt.end_status not in ("success", "no-summary", "running"):
            groups.setdefault((attempt.code or attempt.end_status, attempt.blame), []).append(attempt)
    return sorted(
        (
            Reason(
                code=code,
                example=found[-1].reason,
                blame=blame,
                attempts=len(found),
                tests=len({attempt.test for attempt in found}),
                machines=tuple(sorted({attempt.machine for attempt in found if attempt.machine})),
            )
            for (code, blame), found in groups.items()
        ),
        key=lambda reason: -reason.attempts,
    )


def unproven(gathered: Gathered) -> list[Test]:
    """Tests to be told of one by one: those that are neither proven nor still to come."""
    return [test for test in gathered.tests if test.state in ("failed", "no-summary", "skipped")][:MOST_LISTED]


def machines(gathered: Gathered) -> list[MachineFacts]:
    """What is known of each machine, as it was found last."""
    latest = {survey.machine: json.loads(survey.facts) for survey in gathered.surveys}
    changes: dict[tuple[str, str], list[str]] = {}
    for each in differences(gathered.surveys):
        changes.setdefault((each.machine, each.fact), [each.before]).append(each.after)
    return [
        MachineFacts(
            machine.name,
            machine.allocation,
            latest.get(machine.name, {}),
            tuple(
                f"{fact} changed: {' → '.join(dict.fromkeys(values))}"
                for (name, fact), values in changes.items()
                if name == machine.name
            ),
        )
        for machine in gathered.experiment.machines
    ]


# ---------------------------------------------------------------- what to be careful about


def cautions(gathered: Gathered, known: Sequence[MachineFacts]) -> list[str]:
    """Sentences about what may mislead a reader of the figures."""
    return [*_dropouts(gathered), *_drift(gathered), *_odd(gathered), *_changes(known)]


def _dropouts(gathered: Gathered) -> Iterator[str]:
    """Where the failures are: the means of what is left there flatter."""
    decided = [test for test in gathered.tests if test.state in ("ok", "no-summary", "failed")]
    overall = sum(test.state == "failed" for test in decided) / len(decided) if decided else 0.0
    for key, values in varied(decided).items():
        for value in values if len(values) > 1 else ():
            cell = [test for test in decided if test.settings.get(key) == value]
            failed = sum(test.state == "failed" for test in cell)
            share = failed / len(cell)
            if len(cell) >= LEAST_TESTS and share >= max(LEAST_SHARE, MUCH * overall):
                yield (
                    f"{failed} of {len(cell)} tests with {key} = {shown(value)} were given up ({share:.0%}, of all "
                    f"tests {overall:.0%}): the figures of those that came through may flatter."
                )


def _drift(gathered: Gathered) -> Iterator[str]:
    """Whether figures go up or down with time, once the settings' own effects are taken away."""
    tests = [test for test in gathered.tests if test.state == "ok" and test.last]
    for name, words in (("latency_mean_us", "The mean latency"), ("total_mbps", "The throughput")):
        found = [(test, math.log(number)) for test in tests if (number := _positive(test, name))]
        if len(found) < LEAST_DRIFT:
            continue
        found.sort(key=lambda pair: pair[0].last.started if pair[0].last else 0.0)
        rest = _without_settings([test for test, _ in found], [number for _, number in found])
        rho = _rank_correlation(rest)
        if abs(rho) >= DRIFT:
            way = "rises" if rho > 0 else "falls"
            yield f"{words} {way} with time beyond what settings explain (rank correlation {rho:+.2f}): look for why."


def _positive(test: Test, name: str) -> float:
    number = test.figures.get(name)
    return float(number) if isinstance(number, int | float) and number > 0 else 0.0


def _without_settings(tests: Sequence[Test], numbers: Sequence[float]) -> list[float]:
    """What is left of the numbers when each setting's mean effect is taken away, one setting after the other."""
    rest = list(numbers)
    for key, values in varied(tests).items():
        if len(values) > 1:
            groups: dict[Setting | None, list[int]] = {}
            for place, test in enumerate(tests):
                groups.setdefault(test.settings.get(key), []).append(place)
            for places in groups.values():
                mean = math.fsum(rest[place] for place in places) / len(places)
                for place in places:
                    rest[place] -= mean
    return rest


def _rank_correlation(numbers: Sequence[float]) -> float:
    """Spearman's coefficient of the numbers with their order; 0 where all are alike."""
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    ranks = [0.0] * len(numbers)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and numbers[order[end + 1]] == numbers[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            ranks[place] = (start + end) / 2
        start = end + 1
    middle = (len(numbers) - 1) / 2
    both = math.fsum((place - middle) * (rank - middle) for place, rank in enumerate(ranks))
    scale = math.fsum((place - middle) ** 2 for place in range(len(numbers)))
    spread = math.fsum((rank - middle) ** 2 for rank in ranks)
    return both / math.sqrt(scale * spread) if spread else 0.0


def _odd(gathered: Gathered) -> Iterator[str]:
    counts = gathered.counted()
    if counts["no-summary"]:
        yield f"{counts['no-summary']} tests have complete data without a summary; they are in no figure here."
    invalid = Counter(attempt.code for attempt in gathered.attempts if attempt.end_status == "invalid")
    if invalid:
        words = _listed([f"{number} {code}" for code, number in invalid.most_common()])
        yield f"{sum(invalid.values())} attempts were disturbed and do not count ({words})."
    again = sum(test.attempts > 1 for test in gathered.tests if test.state == "ok")
    if again:
        yield f"{again} proven tests needed more than one attempt."
    versions = {str(test.figures["tool_version"]) for test in gathered.tests if test.figures.get("tool_version")}
    if len(versions) > 1:
        yield f"The tool had {len(versions)} versions: {_listed(sorted(versions))}."


def _changes(known: Sequence[MachineFacts]) -> Iterator[str]:
    for machine in known:
        for change in machine.changes:
            yield f"{machine.name}: {change} between attempts."


def shown(value: Setting | None) -> str:
    """A setting's value as experiment files spell it."""
    return str(value).lower() if isinstance(value, bool) else "–" if value is None else str(value)


def told(test: Test) -> str:
    """One test in words."""
    words = f"{test.name}: {WORDS[test.state]}"
    if test.attempts:
        words += f", {test.attempts} attempt{'s' if test.attempts > 1 else ''}"
    if test.last and test.state in ("failed", "no-summary", "open") and test.last.reason:
        words += f"; {test.last.code}: {test.last.reason}" if test.last.code else f"; {test.last.reason}"
    return safe(words, 300)


def completeness(gathered: Gathered) -> list[tuple[State, str, int]]:
    """(state, in words, how many tests), of states that there are."""
    counts = gathered.counted()
    return [(state, WORDS[state], counts[state]) for state in STATES if counts[state]]
