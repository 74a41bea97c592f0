"""Writes experiment files for rehearsals that are given none: small, and of every kind. Pure; any thread."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

KINDS = ("pcg", "rcg", "listed")


@dataclass(frozen=True, slots=True)
class Draft:
    """One experiment to be written down."""

    name: str
    machines: tuple[str, ...] = ("m1", "m2")
    kind: str = "pcg"
    tests: int = 3
    shuffled: bool = False
    retries: int = 1
    halt_after: int = 10
    buffer_secs: int = 5
    duration_secs: int = 10
    reboot: str = "experiment"
    resume_at: int = 0
    network: str = "default"
    share_network: bool = False
    tool: str = "perftest"
    switches: tuple[str, ...] = ()  # machines that have a power switch

    def text(self) -> str:
        """The file."""
        lines = [
            "[[experiments]]",
            f'experiment_name = "{self.name}"',
            f'tool = "{self.tool}"',
            f"buffer_secs = {self.buffer_secs}",
            f"retries = {self.retries}",
            f"halt_after_consecutive_failures = {self.halt_after}",
            f'reboot = "{self.reboot}"',
            f'network = "{self.network}"',
            f"share_network = {str(self.share_network).lower()}",
        ]
        names = [self._test_name(at) for at in range(self.tests)]
        if self.resume_at and self.kind == "pcg" and not self.shuffled:
            lines.append(f'resuming_test_name = "{names[self.resume_at]}"')
        if self.kind == "listed":
            lines.append(f"tests = {names}".replace("'", '"'))
        else:
            lines.append(f'combination_generation_type = "{self.kind}"')
            if self.shuffled:
                lines.append('order = "shuffled"')
            if self.kind == "rcg":
                lines += [f"rcg_test_count = {self.tests}", "seed = 7"]
            lines += self._space()
        for at, machine in enumerate(self.machines):
            lines += [
                "[[experiments.slave_machines]]",
                f'machine_name = "{machine}"',
                f'participant_allocation = "{("pub", "sub", "all")[min(at, 2)]}"',
                f'ip = "10.0.0.{machine[1:]}"',
                'username = "pi"',
                'ssh_key_path = "~/.ssh/id"',
                'perftest_exec_path = "~/perftest_cpp"',
            ]
            if machine in self.switches:
                lines.append(f'power_cycle = "plug-{machine}"')
        return "\n".join(lines) + "\n"

    def _test_name(self, at: int) -> str:
        return f"{self.duration_secs}SEC_{100 + at}B_1PUB_1SUB_REL_UC_100LC"

    def _space(self) -> list[str]:
        count = self.tests + 2 if self.kind == "rcg" else self.tests
        lengths = f"{{ min = 100, max = {99 + count} }}" if self.kind == "rcg" else [100 + i for i in range(count)]
        return [
            "[experiments.qos_settings]",
            f"duration_secs = [{self.duration_secs}]",
            f"datalen_bytes = {lengths}",
            "pub_count = [1]",
            "sub_count = [1]",
            "use_reliable = [true]",
            "use_multicast = [false]",
            "latency_count = [100]",
        ]


def draw(rng: random.Random, name: str, machines: tuple[str, ...]) -> Draft:
    """Some small experiment."""
    tests = rng.randint(2, 6)
    kind = rng.choices(KINDS, (6, 2, 2))[0]
    return Draft(
        name=name,
        machines=machines,
        kind=kind,
        tests=tests,
        shuffled=kind == "pcg" and rng.random() < 0.3,
        retries=rng.choice((0, 1, 1, 2)),
        halt_after=rng.choice((1, 2, 3, 10)),
        buffer_secs=rng.choice((3, 10)),
        duration_secs=rng.choice((4, 10, 30)),
        reboot=rng.choice(("experiment", "test", "failure", "never")),
        resume_at=rng.choice((0, 0, 0, 1)),
        network=rng.choice(("default", "default", "other")),
        share_network=rng.random() < 0.5,
        tool=rng.choice(("perftest", "perftest", "ddsperf")),
        switches=tuple(machine for machine in machines if rng.random() < 0.6),
    )


def paced_otherwise(rng: random.Random, draft: Draft) -> Draft:
    """The same experiment with another policy, as somebody might drop it again."""
    return replace(draft, retries=rng.choice((0, 1, 2)), buffer_secs=rng.choice((3, 10)))
