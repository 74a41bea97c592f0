"""What one of several daemons on a computer has of its own, and what is no name of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoperfd.core import instance
from autoperfd.core.settings import DaemonSettings, default_settings, read_settings
from autoperfd.errors import AutoperfError


def test_the_first_has_the_plain_names() -> None:
    assert default_settings() == DaemonSettings()
    assert instance.unit("") == "autoperfd" and instance.place(Path("/etc/autoperf/keys"), "") == Path(
        "/etc/autoperf/keys"
    )


def test_another_one_has_places_of_its_own() -> None:
    found = default_settings("north")
    assert found.state == Path("/var/lib/autoperf@north") and found.runtime == Path("/run/autoperf@north")
    assert found.queue == Path("/etc/autoperf@north/queue") and found.instance == "north"
    assert found.known_hosts == Path("/etc/autoperf@north/known_hosts")
    assert instance.unit("north") == "autoperfd@north"


def test_a_place_that_is_named_stays() -> None:
    found = read_settings(b'[paths]\nstate = "/srv/autoperf"\n', "autoperfd.toml", "north")
    assert found.state == Path("/srv/autoperf") and found.queue == Path("/etc/autoperf@north/queue")


@pytest.mark.parametrize("name", ["", "a", "north-2", "lab_3.b", "x" * 31])
def test_names(name: str) -> None:
    assert instance.checked(name) == name


@pytest.mark.parametrize("name", ["../x", "a/b", "-a", ".", "x" * 32, "a b", "a\n", "ä", "%i", "a@b"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(AutoperfError, match="is not the name of an instance"):
        instance.checked(name)
