"""Makes the page of a report: one HTML file without scripts and without anything from elsewhere. One thread.

Every word from outside is escaped by the template engine; plots are images, in which a browser runs nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import autoperfd
from autoperfd.core.text import safe
from autoperfd.report import facts, plots
from autoperfd.results.gather import Gathered

MARK = "autoperfd report"  # what tells our own files from others
MOST_CELLS = 20_000  # of the map of tests
TEMPLATES = Path(__file__).parent


def render(gathered: Gathered, wall: float) -> Iterator[str]:
    """The page in pieces; `wall`: now, in Unix seconds."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(shown=facts.shown, plain=_plain, image=_image)
    known = facts.machines(gathered)
    yield from environment.get_template("report.html.j2").generate(
        mark=MARK,
        version=autoperfd.__version__,
        made=facts.day(wall),
        gathered=gathered,
        sentences=facts.sentences(gathered),
        completeness=facts.completeness(gathered),
        cells=[(test.state, facts.told(test)) for test in gathered.tests[:MOST_CELLS]],
        more=max(0, len(gathered.tests) - MOST_CELLS),
        cautions=facts.cautions(gathered, known),
        reasons=facts.reasons(gathered),
        unproven=facts.unproven(gathered),
        varied=facts.varied(gathered.tests),
        machines=known,
        known_facts=sorted({fact for machine in known for fact in machine.facts}),
        effects=plots.effects(gathered.tests),
        time_line=plots.time_line(gathered),
    )


def _plain(text: object) -> str:
    return safe(str(text), 500)


def _image(svg: str) -> str:
    """An SVG as the address of an image."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")
