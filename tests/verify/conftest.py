"""One finished experiment for all tests of the reader, and fresh copies of it to be tampered with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.verify.support import finished


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a finished experiment; not to be changed."""
    return finished(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def state(pristine: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(pristine, tmp_path / "state"))
