"""An experiment of many tests as it is gathered: figures depend on its settings, failures have reasons."""

from __future__ import annotations

import random
from dataclasses import replace

from autoperfd.core.config import Experiment, read_experiments
from autoperfd.core.survey import Survey, lasting
from autoperfd.results.gather import Attempt, Figure, Gathered, State, Test
from autoperfd.tools import TOOLS

BEGAN = 1_763_900_000.0
SPACE = """
duration_secs = [30]
datalen_bytes = [100, 1000, 10000, 60000]
pub_count = [1, 5, 10]
sub_count = [1, 5, 10]
use_reliable = [true, false]
use_multicast = [true, false]
durability_level = [0, 1]
latency_count = [100]
"""
FACTS = {"kernel": "6.1.21-v7+", "os": "Raspbian GNU/Linux 11 (bullseye)", "arch": "armv7l", "cpus": "4"}


def experiment(name: str = "PCG #1", space: str = SPACE) -> Experiment:
    machines = "".join(
        f'[[experiments.slave_machines]]\nmachine_name = "p{i}"\nparticipant_allocation = "{role}"\n'
        f'ip = "192.0.2.{i}"\nusername = "pi"\nssh_key_path = "~/.ssh/id"\nperftest_exec_path = "~/perftest"\n'
        for i, role in enumerate(("pub", "pub", "sub", "sub"), 1)
    )
    text = f"""[[experiments]]
experiment_name = {name!r}
combination_generation_type = "pcg"
[experiments.qos_settings]
{space}
{machines}"""
    (found,) = read_experiments(text.encode(), "x", TOOLS, ())
    return found


def figures(settings: dict[str, int | bool], draw: random.Random) -> dict[str, Figure]:
    """Figures that depend on the settings, as those of a real bench do."""
    load = float(settings["datalen_bytes"]) ** 0.5 * int(settings["pub_count"]) * int(settings["sub_count"]) ** 0.5
    latency = 200 + load * (1.6 if settings["use_reliable"] else 1.0) * draw.lognormvariate(0, 0.25)
    lost = 0.0 if settings["use_reliable"] else min(80.0, load / 80 * draw.random())
    rate = 9000 / (1 + load / 4000) * int(settings["sub_count"])
    return {
        "tool_version": "RTI Perftest 4.1.1",
        "latency_mean_us": latency * 1.1,
        "latency_50_us": latency,
        "latency_99_us": latency * draw.uniform(1.5, 6.0),
        "total_samples_per_s": rate,
        "total_mbps": rate * int(settings["datalen_bytes"]) * 8e-6,
        "total_lost_percent": lost,
    }


def gathered(seed: int = 1, name: str = "PCG #1", space: str = SPACE, *, upto: float = 0.97) -> Gathered:
    """All of it; the last few tests are still to come."""
    draw = random.Random(seed)
    of = experiment(name, space)
    tests, attempts, wall = [], [], BEGAN
    for index in range(of.sweep.count):
        settings, test = of.sweep.at(index), of.sweep.name_at(index)
        if index > of.sweep.count * upto:
            tests.append(Test(test, settings, "missing", 0, None, {}))
            continue
        hard = not settings["use_reliable"] and settings["pub_count"] == 10
        tries: list[Attempt] = []
        for number in range(1, 4):
            wall += 55 + draw.random() * 10
            failed = draw.random() < (0.45 if hard else 0.03)
            last = Attempt(
                test, number, wall - 50, wall, "success", "", "", "", "", f"data/{test}/attempt-{number}.tar.gz"
            )
            if failed:
                blame, code, words = draw.choice(
                    [
                        ("test", "TIMEOUT", "sub_3 had not ended by itself when the time was up"),
                        ("test", "TOO_FEW_ROWS", "sub_0.csv has 12 rows of one second for a test of 30 s"),
                        ("machine", "REBOOTED", "p3 restarted by itself in mid-attempt"),
                        ("network", "PARTITION", "p1 and p4 do not hear each other"),
                    ]
                )
                status = {"TIMEOUT": "timeout", "REBOOTED": "rebooted"}.get(code, "truncated")
                last = replace(
                    last, end_status=status, blame=blame, machine=draw.choice(["p3", "p4"]), code=code, reason=words
                )
            tries.append(last)
            if not failed:
                break
        attempts += tries
        ok = tries[-1].end_status == "success"
        state: State = "ok" if ok else "failed"
        tests.append(Test(test, settings, state, len(tries), tries[-1], figures(settings, draw) if ok else {}))
    surveys = [Survey(machine.name, 1, BEGAN, lasting(FACTS)) for machine in of.machines]
    later = Survey("p2", 90, BEGAN + 5000, lasting({**FACTS, "kernel": "6.6.31+rpt-rpi-v7"}))
    return Gathered(
        name=of.name,
        folder=of.folder,
        experiment=of,
        outcome="",
        accepted=BEGAN,
        planned=of.sweep.count,
        whole=True,
        tests=tuple(tests),
        attempts=tuple(attempts),
        surveys=(*surveys, later),
    )
