"""The site: which address shows what. Asks for what it shows, and gives it to a template or as JSON. Any thread.

All templates and files are read at the start, so that an upgrade of the files of a running daemon changes nothing.
Every word is made one harmless line and then escaped by the template engine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from flask import Flask, Response, request
from jinja2 import StrictUndefined
from werkzeug.exceptions import HTTPException

import autoperfd
from autoperfd.core.text import safe
from autoperfd.daemon import screen, views
from autoperfd.page import guard, metrics, recorded, shapes
from autoperfd.page.answers import Answers, Ask, NoAnswer
from autoperfd.page.asked import API, Missing, as_json, asked, known, page
from autoperfd.page.figures import Figures
from autoperfd.page.memory import Memory

MOST_WORDS = 2000  # characters of anything shown
FILES = {"page.css": "text/css", "page.js": "text/javascript"}


@dataclass(frozen=True, slots=True)
class Site:
    """The site, and the copy of the memory it reads, which is to be tidied every few seconds."""

    app: Flask
    memory: Memory


def make(ask: Ask, folder: Path, hosts: Collection[str] = ()) -> Site:
    """The whole site. `folder`: for copies of the memory, on the disk of the state folder; made when one is wanted.

    `hosts`: names, in lower case, it may be called by besides this computer's own.
    """
    site = Flask("autoperfd.page", static_folder=None, template_folder="templates")
    site.jinja_options = {
        "autoescape": True,
        "undefined": StrictUndefined,
        "finalize": _harmless,
        "trim_blocks": True,
        "lstrip_blocks": True,
    }
    guard.install(site, hosts)
    _teach(site)
    _errors(site)
    answers = Answers(ask)
    _files(site)
    memory = Memory(ask, folder)
    _looks(site, answers)
    recorded.install(site, answers, memory, Figures(memory, folder))
    for name in site.jinja_env.list_templates():
        site.jinja_env.get_template(name)
    return Site(site, memory)


def _harmless(value: Any) -> Any:
    return safe(value, MOST_WORDS) if type(value) is str else value


def _teach(site: Flask) -> None:
    """What templates can say."""
    site.jinja_env.filters.update(
        duration=views.duration, clock=views.clock, count=views.count, size=screen.size, rate=screen.rate
    )
    site.jinja_env.globals.update(
        version=autoperfd.__version__, bar=shapes.bar, strip=shapes.strip, ordered=shapes.ordered, state=shapes.state
    )


def _errors(site: Flask) -> None:
    """An error is told in words, and as JSON where JSON was asked for."""

    def tell(status: int, error: str, hint: str = "") -> Response:
        if request.path.startswith(API):
            return as_json({"error": error, "hint": hint}, status)
        return Response(page("error", error=error, hint=hint, status=status), status)

    @site.errorhandler(HTTPException)
    def _http(error: HTTPException) -> Response:
        status = error.code or 500
        words = {
            404: ("there is nothing at this address", "Go back to the overview"),
            405: ("this page changes nothing: it answers GET and HEAD only", "Use autoperfctl"),
            421: (
                "this page is not called by that name",
                "Use http://localhost, or add the name to [page] hosts in autoperfd.toml",
            ),
            500: ("the page made a mistake; the daemon goes on", "The log has more: journalctl -u 'autoperfd*'"),
        }
        return tell(status, *words.get(status, (error.name, "")))

    @site.errorhandler(NoAnswer)
    def _none(error: NoAnswer) -> Response:
        return tell(503, error.error, error.hint)

    @site.errorhandler(Missing)
    def _missing(error: Missing) -> Response:
        return tell(404, str(error), "Go back to the overview")


# ---------------------------------------------------------------- addresses


def _files(site: Flask) -> None:
    for name, kind in FILES.items():
        content = resources.files("autoperfd.page").joinpath("static", name).read_bytes()
        site.add_url_rule(f"/{name}", name, _file(content, kind), methods=guard.METHODS)


def _file(content: bytes, kind: str) -> Callable[[], Response]:
    def answer() -> Response:
        return Response(content, mimetype=kind, headers={"Cache-Control": "private, max-age=3600"})

    return answer


def _looks(site: Flask, answers: Answers) -> None:
    """What the engine knows by heart."""

    @site.get("/")
    def overview() -> str:
        return page("overview", status=answers.get("status"))

    @site.get(f"{API}status")
    def status_json() -> Response:
        return as_json(answers.get("status"))

    @site.get(f"{API}list")
    def list_json() -> Response:
        return as_json(answers.get("list"))

    @site.get("/metrics")
    def numbers() -> Response:
        return Response(metrics.text(answers), content_type=metrics.CONTENT_TYPE)

    @site.get(f"{API}show")
    def show_json() -> Response:
        return as_json(answers.get("show", experiment=known(answers, asked("experiment"))))

    def story(experiment: str, test: str) -> Mapping[str, Any]:
        name = known(answers, experiment)
        try:
            return answers.get("why", experiment=name, test=test)
        except NoAnswer as error:
            if "no experiment has a test" in error.error:
                raise Missing(f"{name} has no test of that name") from error
            raise

    @site.get("/test")
    def test() -> str:
        return page("test", why=story(asked("experiment"), asked("name")))

    @site.get(f"{API}why")
    def why_json() -> Response:
        return as_json(story(asked("experiment"), asked("test")))
