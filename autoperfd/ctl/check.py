"""Knows how to look at an experiment file before it runs: problems, size, who would run what. Needs no daemon."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Collection, Iterator

from autoperfd.core.config import Experiment, read_experiments
from autoperfd.core.names import test_name
from autoperfd.core.plan import Plan, Setting, distribute
from autoperfd.daemon.views import duration
from autoperfd.errors import AutoperfError
from autoperfd.tools import TOOLS

MAX_BYTES = 1024 * 1024  # of an experiment file
DOMAIN = 1  # stands for the one each attempt leases

_SAMPLES = 1000  # tests looked at to estimate the hours and to find warnings


def read(file: str, power: Collection[str]) -> tuple[bytes, tuple[Experiment, ...]]:
    """The file's bytes and its experiments. Raises AutoperfError, ConfigError with all problems."""
    data = read_bytes(file)
    return data, read_experiments(data, file, TOOLS, power)


def report(file: str, experiments: Collection[Experiment]) -> str:
    """What the file would do, as text for a person."""
    n = len(experiments)
    lines = [f"{file}: {n} experiment{'' if n == 1 else 's'}, no problems."]
    for experiment in experiments:
        lines += ["", *_experiment(experiment)]
    return "\n".join(lines) + "\n"


def facts(experiments: Collection[Experiment]) -> list[dict[str, object]]:
    """The same for a script."""
    found: list[dict[str, object]] = []
    for experiment in experiments:
        sweep = experiment.sweep.seeded(experiment.seed or 0)
        plan = _plan(experiment, sweep.at(0), sweep.name_at(0))
        found.append(
            {
                "name": experiment.name,
                "tool": experiment.tool,
                "tests": experiment.sweep.count,
                "measuring_secs": _measuring_secs(experiment),
                "first_test": plan.test_name,
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


def _experiment(experiment: Experiment) -> Iterator[str]:
    sweep = experiment.sweep.seeded(experiment.seed or 0)
    drawn = experiment.sweep.shuffled and experiment.seed is None
    count = sweep.count
    measuring = _measuring_secs(experiment)
    most = measuring + count * experiment.policy.buffer_secs
    plan = _plan(experiment, sweep.at(0), sweep.name_at(0))

    yield experiment.name
    yield f"  tests     {count}, {experiment.generation.upper()}, {experiment.order}, with {experiment.tool}"
    yield f"  time      {_hours(measuring)} of measuring; {_hours(most)} if every test used up its buffer_secs"
    yield "            (reboots, retries and the work between tests come on top)"
    for i, machine in enumerate(experiment.machines):
        where = f"{machine.username}@{machine.ip} port {machine.port}"
        yield f"  {'machines' if i == 0 else '        '}  {machine.name} ({machine.allocation}): {where}"
    yield f"  {'such as' if drawn else 'first'}".ljust(12) + plan.test_name
    if not drawn and count > 1:
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


def _hours(secs: float) -> str:
    return duration(secs) if secs < 3600 else f"{secs / 3600:.1f} hours"
