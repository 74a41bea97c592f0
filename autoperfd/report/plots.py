"""Draws the plots of a report as SVG that holds no script and no font. matplotlib lives here, and nowhere else.

One thread; no state of matplotlib's own is used, so that plots do not depend on each other.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autoperfd.core.plan import Setting
from autoperfd.report.facts import shown, varied
from autoperfd.results.gather import Attempt, Gathered, Test

MOST_BOXES = 12  # values of a setting that get a box each; of more, neighbours share one
BINS = 60  # of the time line
WIDE = 50.0  # ratio of the largest to the smallest value from which on an axis is logarithmic

# (figure, title, a logarithmic axis may be right)
DRAWN = (
    ("latency_50_us", "latency, median [µs]", True),
    ("latency_99_us", "latency, 99 % [µs]", True),
    ("total_mbps", "throughput of all [Mbit/s]", True),
    ("total_lost_percent", "lost [%]", False),
)
COLOURS = {  # Okabe and Ito's, which everybody can tell apart
    "success": "#009e73",
    "test": "#d55e00",
    "machine": "#0072b2",
    "network": "#56b4e9",
    "controller": "#cc79a7",
    "operator": "#e69f00",
    "other": "#999999",
}
STYLE: Mapping[Any, Any] = {
    "svg.fonttype": "path",  # no font is asked of the reader's computer
    "svg.hashsalt": "autoperfd",  # the same data give the same bytes
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def effects(tests: Sequence[Test]) -> list[tuple[str, str]]:
    """(setting, SVG) for each setting that varies: figures of proven tests against its values."""
    proven = [test for test in tests if test.state == "ok"]
    with matplotlib.rc_context(dict(STYLE)):
        return [(key, _effect(proven, key, values)) for key, values in varied(proven).items() if len(values) > 1]


def _effect(tests: Sequence[Test], key: str, values: Sequence[Setting]) -> str:
    groups = _shared(values)
    labels = [shown(group[0]) if len(group) == 1 else f"{shown(group[0])}–{shown(group[-1])}" for group in groups]
    place = {value: number for number, group in enumerate(groups) for value in group}
    figure = Figure(figsize=(11, 2.9))
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.3, top=0.9, wspace=0.35)
    for axes, (name, title, may_be_log) in zip(figure.subplots(1, len(DRAWN)), DRAWN, strict=True):
        columns: list[list[float]] = [[] for _ in groups]
        for test in tests:
            number = test.figures.get(name)
            if isinstance(number, int | float) and key in test.settings:
                columns[place[test.settings[key]]].append(float(number))
        _boxes(axes, columns, labels)
        axes.set_title(title)
        axes.set_xlabel(key)
        known = [number for column in columns for number in column]
        if not known:
            axes.text(0.5, 0.5, "not told", ha="center", va="center", transform=axes.transAxes, color="#777777")
        elif may_be_log and min(known) > 0 and max(known) / min(known) > WIDE:
            axes.set_yscale("log")
    return _svg(figure)


def _shared(values: Sequence[Setting]) -> list[Sequence[Setting]]:
    """The values in as many groups of neighbours as there are boxes."""
    count = min(len(values), MOST_BOXES)
    bounds = [round(number * len(values) / count) for number in range(count + 1)]
    return [values[start:end] for start, end in itertools.pairwise(bounds)]


def _boxes(axes: Axes, columns: Sequence[Sequence[float]], labels: Sequence[str]) -> None:
    drawn = [(number, column) for number, column in enumerate(columns) if column]
    if drawn:
        axes.boxplot(
            [column for _, column in drawn],
            positions=[number for number, _ in drawn],
            widths=0.6,
            showmeans=True,
            meanline=True,
            showfliers=sum(map(len, columns)) <= 2000,  # of more, points would be a blot, and the file large
            flierprops={"marker": ".", "markersize": 3, "markeredgecolor": "#777777"},
            medianprops={"color": COLOURS["machine"]},
            meanprops={"color": COLOURS["test"], "linestyle": ":"},
        )
    axes.set_xticks(range(len(labels)), labels, rotation=45 if max(map(len, labels)) > 4 else 0)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.margins(y=0.08)


def time_line(gathered: Gathered) -> str:
    """SVG of attempts over time: how they ended, and on which machine what failed. "" where nothing has ended."""
    ended = [attempt for attempt in gathered.attempts if attempt.ended is not None]
    if not ended:
        return ""
    first = min(attempt.started for attempt in ended)
    span = max(max(attempt.ended or 0.0 for attempt in ended) - first, 1.0)
    unit, secs = ("days", 86_400.0) if span > 2 * 86_400 else ("hours", 3600.0) if span > 7200 else ("minutes", 60.0)
    names = [machine.name for machine in gathered.experiment.machines]
    with matplotlib.rc_context(dict(STYLE)):
        figure = Figure(figsize=(11, 2.6 + 0.16 * len(names)), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 0.4 + 0.1 * len(names)))
        kinds = {kind: [attempt for attempt in ended if _kind(attempt) == kind] for kind in COLOURS}
        kinds = {kind: found for kind, found in kinds.items() if found}
        above.hist(
            [[((attempt.ended or 0.0) - first) / secs for attempt in found] for found in kinds.values()],
            bins=BINS,
            range=(0.0, span / secs),
            stacked=True,
            color=[COLOURS[kind] for kind in kinds],
            label=[kind if kind == "success" else f"{kind}'s fault" for kind in kinds],
        )
        above.set_ylabel("attempts ended")
        above.legend(ncols=len(kinds), frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
        for kind, found in kinds.items():
            marks = [attempt for attempt in found if kind != "success" and attempt.machine in names]
            below.scatter(
                [((attempt.ended or 0.0) - first) / secs for attempt in marks],
                [names.index(attempt.machine) for attempt in marks],
                marker="|",
                s=40,
                color=COLOURS[kind],
            )
        below.set_yticks(range(len(names)), names)
        below.set_ylim(len(names) - 0.5, -0.5)
        below.set_xlabel(f"{unit} since the first attempt; below: failed attempts by machine")
        return _svg(figure)


def _kind(attempt: Attempt) -> str:
    if attempt.end_status in ("success", "no-summary"):
        return "success"
    return attempt.blame if attempt.blame in COLOURS else "other"


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
