"""docs/STATUS.md names every key of the JSON, and shows a screen as it is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from autoperfd.daemon.views import ExperimentView, StatusView

DOCUMENT = (Path(__file__).parents[2] / "docs" / "STATUS.md").read_text(encoding="utf-8")
SCREEN = Path(__file__).parents[1] / "data" / "status" / "running.txt"


def keys(section: str) -> set[str]:
    """Those of the first column of the section's table."""
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {key for cell in cells for key in re.findall(r"`(\w+)`", cell)} - {"key"}


def test_every_key_is_explained() -> None:
    status, experiment = DOCUMENT.split("## For scripts")[1].split("Of each experiment:")
    assert keys(status) == {field.name for field in fields(StatusView)}
    assert keys(experiment) == {field.name for field in fields(ExperimentView)} | {"eta"}


def test_the_screen_is_one() -> None:
    assert f"```text\n{SCREEN.read_text(encoding='utf-8')}```" in DOCUMENT
