"""The labs as fixtures; knows which tests need one, promises clean machines at the start of each test.

`loopback_lab`: two new machines a test (another number by indirect parametrisation).
`container_lab`: four machines and a controller with the project installed, built once a session; each test
finds them freshly booted with new disks and a healed network.
Where a lab cannot be had its tests are skipped with the reason; AUTOPERF_REQUIRE_CONTAINER=1 makes a missing
container lab a failure instead. Everything of a lab is imported only when a test asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults import MARKED, rows_of
from tests.faults import fired as fired  # a fixture and a hook, which pytest finds in this file
from tests.faults import pytest_pyfunc_call as pytest_pyfunc_call

if TYPE_CHECKING:
    from autoperfd.lab.container import ContainerLab
    from autoperfd.lab.loopback import LoopbackLab

PROJECT = Path(__file__).parent.parent
LABS = {"loopback_lab": pytest.mark.lab, "container_lab": pytest.mark.container}


@pytest.hookimpl(tryfirst=True)  # before any is left out by -m or -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that asks for a lab carries its marker, so `-m "not container"` needs no second list."""
    config.stash[MARKED] = [(item.nodeid, rows_of(item)) for item in items]
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in LABS:
                item.add_marker(LABS[fixture])


@pytest.fixture
def loopback_lab(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LoopbackLab]:
    from autoperfd.errors import AutoperfError
    from autoperfd.lab.loopback import LoopbackLab, find_sshd

    try:
        find_sshd()
    except AutoperfError as error:
        pytest.skip(error.sentence())
    with LoopbackLab(tmp_path / "lab", getattr(request, "param", 2), boot_secs=0.2) as lab:
        yield lab


@pytest.fixture(scope="session")
def built_container_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerLab]:
    from autoperfd.lab.container import ContainerLab, missing

    if reason := missing():
        if os.environ.get("AUTOPERF_REQUIRE_CONTAINER") == "1":
            pytest.fail(f"the container lab is required here, but {reason}")
        pytest.skip(f"container lab: {reason}")
    lab = ContainerLab(tmp_path_factory.mktemp("container_lab"), machines=4, controller=True)
    if (PROJECT / "Makefile").exists():
        lab.install_controller(PROJECT)
    with lab:
        yield lab


@pytest.fixture
def container_lab(built_container_lab: ContainerLab) -> Iterator[ContainerLab]:
    built_container_lab.reset()
    yield built_container_lab
