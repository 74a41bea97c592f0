"""What the page shows out of a copy of the memory: an experiment with its figures so far, its ESS, its plots.

What cannot be had is told where it would stand, and the rest is shown. Any thread.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from flask import Flask, Response, request, url_for

from autoperfd.page import attempts
from autoperfd.page.answers import Answers, NoAnswer
from autoperfd.page.asked import API, Missing, as_json, asked, known, page
from autoperfd.page.figures import Drawn, Figures
from autoperfd.page.memory import Memory

PLOT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"  # of an image, which is its own document


def install(site: Flask, answers: Answers, memory: Memory, figures: Figures) -> None:
    """Add these addresses to a site."""

    @site.get("/experiment")
    def experiment() -> str:
        name = known(answers, asked("name"))
        show = answers.get("show", experiment=name)
        counts = _counts(memory, name)
        drawn = figures.of(name)
        return page("experiment", show=show, drawn=drawn, plots=_plots(name, drawn), **counts)

    @site.get("/plot")
    def plot() -> Response:
        name, wanted = asked("experiment"), asked("plot")
        drawn = figures.kept(name)
        svg = _svg(drawn, wanted) if drawn else ""
        if drawn is None or not svg:
            raise Missing("there is no such plot")
        same = request.args.get("of") == drawn.stamp
        headers = {
            "Content-Security-Policy": PLOT_POLICY,
            "Cache-Control": "private, max-age=86400, immutable" if same else "no-store",
        }
        return Response(svg, mimetype="image/svg+xml", headers=headers)

    @site.get("/attempts")
    def ess() -> str:
        name, chosen = known(answers, asked("experiment")), _chosen()
        with memory.reading() as (db, copy):
            number = _number(db, name)
            rows, choices = attempts.rows(db, number, chosen), attempts.choices(db, number)

        def link(**other: str | int) -> str:
            """The same choice but for something."""
            kept: dict[str, Any] = {**chosen.values, "test": chosen.test, **other}
            return url_for("ess", experiment=name, **{key: value for key, value in kept.items() if value})

        return page("attempts", name=name, rows=rows, choices=choices, chosen=chosen, link=link, made=copy.made)

    @site.get(f"{API}attempts")
    def attempts_json() -> Response:
        name, chosen = known(answers, asked("experiment")), _chosen()
        with memory.reading() as (db, _):
            number = _number(db, name)
            return as_json(attempts.to_data(attempts.rows(db, number, chosen)))

    @site.get(f"{API}figures")
    def figures_json() -> Response:
        name = known(answers, asked("experiment"))
        drawn = figures.of(name)
        if drawn is None:
            raise NoAnswer("the figures are being gathered", "Look again in a few seconds")
        if "error" in drawn.facts:
            raise NoAnswer(str(drawn.facts["error"]))
        told = ("sentences", "cautions", "completeness", "unproven", "undrawn")
        return as_json({"experiment": name, "as_of": drawn.made, **{key: drawn.facts[key] for key in told}})


def _number(db: sqlite3.Connection, name: str) -> int:
    """The memory's number of an experiment. Raises NoAnswer, sqlite3.Error."""
    number = attempts.number_of(db, name)
    if number is None:
        raise NoAnswer("this experiment is too new to be seen here", "Look again in half a minute")
    return number


def _chosen() -> attempts.Chosen:
    """Which attempts an address asks for; what makes no sense is as if it were not there."""
    values = {column: word for column in attempts.FILTERS if (word := request.args.get(column, "")[:500])}
    number = request.args.get("page", "")
    page = int(number) if number.isascii() and number.isdigit() and len(number) < 9 else 1
    return attempts.Chosen(values, request.args.get("test", "")[:500], max(1, page))


def _counts(memory: Memory, name: str) -> dict[str, Any]:
    """How attempts ended and on which machines they failed, or why that is not known."""
    try:
        with memory.reading() as (db, _):
            number = attempts.number_of(db, name)
            if number is None:
                return {"ends": [], "by_machine": [], "unknown": ""}
            ends = attempts.choices(db, number)["status"]
            return {"ends": ends, "by_machine": attempts.by_machine(db, number), "unknown": ""}
    except NoAnswer as error:
        return {"ends": [], "by_machine": [], "unknown": error.error}


def _plots(name: str, drawn: Drawn | None) -> dict[str, str]:
    """plot -> its address."""
    if drawn is None or "error" in drawn.facts:
        return {}
    names = ["map", *(["time"] if drawn.facts["time_line"] else []), *(key for key, _ in drawn.facts["effects"])]
    return {plot: url_for("plot", experiment=name, plot=plot, of=drawn.stamp) for plot in names}


def _svg(drawn: Drawn, wanted: str) -> str:
    if "error" in drawn.facts:
        return ""
    by_name = {"map": drawn.facts["map"], "time": drawn.facts["time_line"]}
    return str({**dict(drawn.facts["effects"]), **by_name}.get(wanted, ""))
