"""A site on a real engine in a folder."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from autoperfd.daemon.control import Reply
from autoperfd.page import answers, site
from tests.daemon.support import Rig
from tests.markup import Elements

HOSTILE = (
    "</title><script>document.title='owned'</script><img src=http://192.0.2.1/x onerror=alert(1)>'\"&{{7*7}}\u202e"
)


def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every answer be fresh."""
    monkeypatch.setattr(answers, "FRESH_SECS", 0.0)
    monkeypatch.setattr(answers, "RARELY", 0.0)


class Bench:
    """A site whose questions a rig's engine answers, at once and on this thread."""

    def __init__(self, folder: Path, hosts: tuple[str, ...] = ()) -> None:
        self.rig = Rig(folder)
        self.asked: list[str] = []
        self.site = site.make(self.ask, folder / "page", hosts)
        self.client = self.site.app.test_client()

    def join(self) -> None:
        """Wait for what is being drawn."""
        for thread in threading.enumerate():
            if thread.name == "page-draw":
                thread.join(90)
                assert not thread.is_alive()

    def stop(self) -> None:
        """Forget the engine once nothing is being drawn."""
        self.join()
        self.rig.stop()

    def ask(self, command: str, args: Mapping[str, Any]) -> Reply:
        """As the daemon answers."""
        self.asked.append(command)
        return self.rig.ask(command, **args)

    def get(self, address: str, **headers: str) -> TestResponse:
        """One answer."""
        return self.client.get(address, headers=headers)

    def seen(self, address: str) -> Elements:
        """What stands in a page that is there."""
        answer = self.get(address)
        assert answer.status_code == 200, answer.text
        return Elements(answer.text)
