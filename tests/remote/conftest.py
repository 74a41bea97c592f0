"""A bench for the tests of this folder: machines of the loopback lab, shared, and a fleet of its own for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoperfd.lab.loopback import LoopbackLab
from tests.remote.support import Bench


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackLab]:
    with LoopbackLab(tmp_path_factory.mktemp("lab"), 2, boot_secs=0.3) as lab:
        yield lab


@pytest.fixture
def bench(lab: LoopbackLab, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(lab, tmp_path)
    yield bench
    bench.close()
    for name, state in lab.status().items():  # as a test may have left it
        if state == "off":
            lab.boot(name)
    sweeper = Bench(lab, tmp_path)
    sweeper.fleet().sweep(sweeper.machines)
    sweeper.close()
    for machine in bench.machines:
        shutil.rmtree(bench.home(machine) / ".autoperf", ignore_errors=True)
