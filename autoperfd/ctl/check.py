"""Knows how to look at an experiment file before it runs: problems, size, who would run what. Needs no daemon."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoperfd.core.config import Experiment, read_experiments
from autoperfd.core.names import test_name
from autoperfd.core.plan import Plan, Setting, distribute
from autoperfd.ctl.finding import Finding
from autoperfd.ctl.trust import AskDaemon
from autoperfd.daemon import screen
from autoperfd.daemon.views import count as count_of
from autoperfd.daemon.views import duration
from autoperfd.errors import AutoperfError
from autoperfd.tools import TOOLS

MAX_BYTES = 1024 * 1024  # of an experiment file
DOMAIN = 1  # stands for the one each attempt leases

REBOOT_SECS = 60  # a Raspberry Pi from the command to the next login
PINGS_A_SEC = 20  # rows of latency a second at latency_count 100, as in real data of 100 bytes
PACKED = 5  # times that text of figures is packed
ARCHIVE_BYTES = 6000  # of records and evidence, whatever was measured
_SAMPLES = 1000  # tests looked at to estimate the hours and to find warnings


def read(file: str, power: Collection[str]) -> tuple[bytes, tuple[Experiment, ...]]:
    """The file's bytes and its experiments. Raises AutoperfError, ConfigError with all problems."""
    data = read_bytes(file)
    return data, read_experiments(data, file, TOOLS, power)


def report(file: str, experiments: Collection[Experiment], results: Path, test: str = "") -> str:
    """What the file would do, as text for a person; command lines are of the first test, or of `test`.

    `results`: the folder they would lie in. AutoperfError where no experiment has that test.
    """
    n = len(experiments)
    lines = [f"{file}: {n} experiment{'' if n == 1 else 's'}, no problems."]
    for experiment, index in _chosen(experiments, test):
        lines += ["", *_experiment(experiment, results, index, asked=bool(test))]
    return "\n".join(lines) + "\n"


def _chosen(experiments: Collection[Experiment], test: str) -> list[tuple[Experiment, int]]:
    """The experiments that have the test, each with its place in the sweep; all with their first where it is ""."""
    found = []
    for experiment in experiments:
        index = experiment.sweep.seeded(experiment.seed or 0).index_of(test) if test else 0
        if index is not None:
            found.append((experiment, index))
    if not found:
        hint = "The report without --test names some"
        raise AutoperfError(f"no experiment of the file has a test {test!r}", hint=hint)
    return found


def looked_at(text: bytes, ask: AskDaemon, *, hear: bool = False) -> list[Mapping[str, Any]]:
    """What the daemon sees of each machine of a file now; `hear`: whom each one hears, too. Raises AutoperfError."""
    words = text.decode("utf-8", "surrogateescape")
    data = ask("probe", {"text": words, "hear": True} if hear else {"text": words}).get("data")
    found = data.get("machines") if isinstance(data, Mapping) else None
    if not isinstance(found, list):
        raise AutoperfError("the daemon's answer to a probe makes no sense")
    return found


def probed(machines: Sequence[Mapping[str, Any]]) -> str:
    """What was seen of machines, as text for a person."""
    lines = ["", "Machines as the daemon sees them now:"]
    for seen in machines:
        lines += _seen(seen)
    return "\n".join(lines) + "\n"


def _seen(seen: Mapping[str, Any]) -> Iterator[str]:
    name = str(seen.get("machine"))
    if not seen.get("well"):
        yield from Finding(name, seen.get("well"), str(seen.get("sentence")), str(seen.get("hint") or "")).lines()
        return
    facts: Mapping[str, str] = seen.get("facts", {})
    what = [facts[key] for key in ("board", "cpu", "os", "kernel") if facts.get(key)]
    nics = [_nic(facts, key.split(".")[1]) for key in facts if key.startswith("nic.") and key.endswith(".mtu")]
    skew = facts.get("clock_skew")
    clock = [f"clock {float(skew):+.3f} s off"] if skew else []
    yield from Finding(name, True, "; ".join([*what, *nics, *clock])).lines()
    for warning in seen.get("warnings", ()):
        yield f"      {warning}"


def _nic(facts: Mapping[str, str], name: str) -> str:
    speed, duplex = (facts.get(f"nic.{name}.{key}") for key in ("mbps", "duplex"))
    words = [f"{speed} Mbit/s" if speed else "", f"{duplex} duplex" if duplex in ("full", "half") else ""]
    return " ".join(filter(None, (name, *words, f"MTU {facts[f'nic.{name}.mtu']}")))


def facts(experiments: Collection[Experiment], test: str = "") -> list[dict[str, object]]:
    """The same for a script."""
    found: list[dict[str, object]] = []
    for experiment, index in _chosen(experiments, test):
        sweep = experiment.sweep.seeded(experiment.seed or 0)
        plan = _plan(experiment, sweep.at(index), sweep.name_at(index))
        found.append(
            {
                "name": experiment.name,
                "tool": experiment.tool,
                "tests": experiment.sweep.count,
                "measuring_secs": _measuring_secs(experiment),
                "reboots": _reboots(experiment),
                "results_bytes": _results_bytes(experiment),
                "shown_test": plan.test_name,
                "warnings": _warnings(experiment),
                "command_lines": [
                    {
                        "machine": p.machine,
                        "participant": p.name,
                        "argv": list(p.argv),
                        "environment": dict(p.environment),
                    }
                    for p in plan.participants
                ],
            }
        )
    return found


def read_bytes(file: str) -> bytes:
    """What a file holds that a person names. Raises AutoperfError."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not hang us
        with open(descriptor, "rb") as stream:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise AutoperfError(f"autoperfctl cannot read {file}: it is not a regular file")
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise AutoperfError(f"autoperfctl cannot read {file}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise AutoperfError(f"autoperfctl cannot use {file}: an experiment file is at most {MAX_BYTES // 1024} KiB")
    return data


def _experiment(experiment: Experiment, results: Path, index: int, *, asked: bool) -> Iterator[str]:
    sweep = experiment.sweep.seeded(experiment.seed or 0)
    drawn = experiment.sweep.shuffled and experiment.seed is None
    count = sweep.count
    measuring = _measuring_secs(experiment)
    most = measuring + count * experiment.policy.buffer_secs
    plan = _plan(experiment, sweep.at(index), sweep.name_at(index))

    yield experiment.name
    yield f"  tests     {count}, {experiment.generation.upper()}, {experiment.order}, with {experiment.tool}"
    yield f"  time      {_hours(measuring)} of measuring; {_hours(most)} if every test used up its buffer_secs"
    reboots = _reboots(experiment)
    if reboots:
        more = f"{count_of(reboots, 'restart')} of all machines, {REBOOT_SECS} s each"
        yield f"            {_hours(measuring + reboots * REBOOT_SECS)} of measuring with {more}"
    yield "            (retries, outages and the work between tests come on top)"
    yield f"  data      {_volume(experiment, results)}"
    for i, machine in enumerate(experiment.machines):
        where = f"{machine.username}@{machine.ip} port {machine.port}"
        yield f"  {'machines' if i == 0 else '        '}  {machine.name} ({machine.allocation}): {where}"
    yield f"  {'test' if asked else 'such as' if drawn else 'first'}".ljust(12) + plan.test_name
    if not drawn and not asked and count > 1:
        yield f"  last      {sweep.name_at(count - 1)}"
    yield from _distribution(experiment)
    yield ""
    yield f"  Command lines of that test (each attempt leases its own DDS domain; {DOMAIN} stands for it):"
    for name in plan.machines():
        participants = plan.on(name)
        yield f"    {name}: {', '.join(p.name for p in participants)}"
        for participant in participants:
            words = [f"{key}={value}" for key, value in participant.environment]
            yield f"      {shlex.join([*words, *participant.argv])}"
    for warning in _warnings(experiment):
        yield f"! {warning}"


def _distribution(experiment: Experiment) -> Iterator[str]:
    """Who runs how many participants of the test that has the most of them."""
    biggest = max(_sampled(experiment), key=lambda test: test["pub_count"] + test["sub_count"])
    places = distribute(int(biggest["pub_count"]), int(biggest["sub_count"]), experiment.machines)
    counts = [Counter(names) for names in places]
    yield f"  biggest   {test_name(biggest)}"
    for machine in experiment.machines:
        parts = [f"{count[machine.name]} {role}" for count, role in zip(counts, ("pub", "sub"), strict=True)]
        yield f"            {machine.name} runs {' and '.join(part for part in parts if part[0] != '0') or 'nothing'}"


def _plan(experiment: Experiment, settings: dict[str, Setting], name: str) -> Plan:
    return TOOLS[experiment.tool].plan(name, settings, experiment.machines, DOMAIN, {})


def _sampled(experiment: Experiment) -> list[dict[str, Setting]]:
    """All tests of a small experiment, evenly spread ones of a large one."""
    sweep = experiment.sweep.seeded(experiment.seed or 0)
    n = min(sweep.count, _SAMPLES)
    return [sweep.at(i * sweep.count // n) for i in range(n)]


def _measuring_secs(experiment: Experiment) -> float:
    """The sum of duration_secs: exact for a small experiment, estimated from samples for a large one."""
    tests = _sampled(experiment)
    return experiment.sweep.count * sum(test.get("duration_secs", 0) for test in tests) / len(tests)


def _warnings(experiment: Experiment) -> list[str]:
    """The experiment's own warnings, and the tool's about its tests: one of each kind, whatever the numbers in it."""
    tool = TOOLS[experiment.tool]
    tests = _sampled(experiment)
    kinds: dict[str, list[str]] = {}
    for test in tests:
        for warning in tool.warnings(test):
            kinds.setdefault(re.sub("[0-9]+", "0", warning), []).append(f"{test_name(test)}: {warning}")
    return [
        *experiment.warnings,
        *(f"{found[0]} (such a warning for {len(found)} of {len(tests)} tests)" for found in kinds.values()),
    ]


def _reboots(experiment: Experiment) -> int:
    """How often the machines are restarted, if nothing fails."""
    return {"test": experiment.sweep.count, "experiment": 1}.get(experiment.policy.reboot, 0)


def _volume(experiment: Experiment, results: Path) -> str:
    """What the results should take, and whether that fits."""
    size = _results_bytes(experiment)
    try:
        space = os.statvfs(results)
    except OSError:
        return f"about {screen.size(size)} of results (whether they fit cannot be seen from here)"
    free = space.f_bavail * space.f_frsize
    fits = f"{screen.size(free)} are free in {results}"
    return f"about {screen.size(size)} of results; {fits}" + ("" if size < free else ": TOO LITTLE")


def _results_bytes(experiment: Experiment) -> int:
    tests = _sampled(experiment)
    return int(experiment.sweep.count * sum(map(_archived, tests)) / len(tests))


def _archived(test: Mapping[str, Setting]) -> float:
    """Bytes an archive of a test should have. A row a second and subscriber has 110, a row of latency 60."""
    secs = float(test.get("duration_secs", 0))
    latencies = secs * PINGS_A_SEC * 100 / float(test.get("latency_count") or 100)
    return ARCHIVE_BYTES + (secs * 110 * float(test.get("sub_count", 1)) + latencies * 60) / PACKED


def _hours(secs: float) -> str:
    return duration(secs) if secs < 3600 else f"{secs / 3600:.1f} hours"
