"""The overview in every situation that `status` has a text for: it says what to do, and what is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoperfd.daemon import views
from autoperfd.daemon.control import Reply
from autoperfd.page import site
from tests.daemon.test_screen import SITUATIONS
from tests.markup import Elements


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_situation(name: str, tmp_path: Path) -> None:
    view, _ = SITUATIONS[name]
    data = views.to_data(view)

    def ask(command: str, args: object) -> Reply:
        return Reply(data=data) if command == "status" else Reply.refused("not here")

    client = site.make(ask, tmp_path).app.test_client()
    answer = client.get("/")
    assert answer.status_code == 200, answer.text
    text = Elements(answer.text).text
    sentences = views.attention(view)
    assert ("Nothing to do." in text) == (not sentences)
    for sentence in sentences:
        assert " ".join(sentence.split()) in text
    for experiment in view.experiments:
        assert experiment.name in text and views.state(experiment) in text
        assert not experiment.current or experiment.current.test in text
        for machine in experiment.machines:
            assert machine.name in text and machine.trouble in text
    assert ("In refuge since" in text) == bool(view.refuge) and view.hold in text
    assert client.get("/api/v1/status").json == json.loads(json.dumps(data))
    assert client.get("/metrics").status_code == 200
