"""Programs of this computer that a test cannot do without."""

from __future__ import annotations

import os
import shutil

import pytest


def needed(name: str, package: str) -> str:
    """The path of a program. Without it the test is skipped, or fails where everything is required."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if not path and os.environ.get("AUTOPERF_REQUIRE_CONTAINER") == "1":
        pytest.fail(f"{name} is required here (apt-get install {package})")
    if not path:
        pytest.skip(f"{name} is not installed (apt-get install {package})")
    return path
