"""Knows what an address asks for and the kinds of answers: a page, JSON, or that there is no such thing. Any thread."""

from __future__ import annotations

import json
from typing import Any

from flask import Response, render_template, request

from autoperfd.page.answers import Answers

MOST_ASKED = 500  # characters of a word in an address
API = "/api/v1/"


class Missing(Exception):
    """There is no such thing to show."""


def page(template: str, **values: Any) -> str:
    """A page."""
    return render_template(f"{template}.html.j2", **values)


def as_json(data: Any, status: int = 200) -> Response:
    """The same JSON as `autoperfctl … --json`."""
    return Response(json.dumps(data, indent=2) + "\n", status, mimetype="application/json")


def asked(key: str) -> str:
    """A word of the address. Raises Missing."""
    word = request.args.get(key, "")
    if not word or len(word) > MOST_ASKED:
        raise Missing(f"this address needs {key}")
    return word


def known(answers: Answers, name: str) -> str:
    """The name, of an experiment that there is. Raises Missing, NoAnswer."""
    if any(found["name"] == name for found in answers.get("status")["experiments"]):
        return name
    raise Missing("there is no experiment of that name")
