"""Lays the daemon's condition out as plain text for a person, on a desk or on a phone. Pure; any thread.

Every string that reaches the text is escaped: nothing a machine or a file says can drive a terminal. Equal views and
columns give equal text.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from autoperfd.daemon.views import (
    BUSY,
    WIDTH,
    AttemptView,
    ExperimentView,
    FailureView,
    ListView,
    MachineView,
    ReasonView,
    RefugeView,
    ShowView,
    StatusView,
    ToldView,
    attention,
    clock,
    count,
    duration,
    escaped,
    of,
    rank,
    state,
    summary,
)

WIDEST = 1000
NARROWEST = 30  # columns; a smaller screen gets lines of that length
_BAR = 20  # columns of a progress bar, half of it on a narrow screen
_NARROW = 70  # columns below which a screen is one
_MOST_DETAILED = 3  # experiments shown with all their lines
_MOST_BRIEF = 4  # further ones, a line each
_MOST_REASONS = 3
_MOST_MACHINES = 6  # well machines named one by one
_MOST_CHANGES = 3
_LETTERS = {"~": "no summary", "-": "skipped", "x": "failed", "o": "somebody else's fault"}
_KINDS = {
    "halt": "was halted",
    "over": "goes on",
    "resume": "was resumed",
    "finish": "is finished",
    "digest": "were summed up",
}


def columns_of(args: Mapping[str, Any]) -> int:
    """How wide the screen of whoever asks is; where that makes no sense, the width that it is laid out for."""
    wanted = args.get("columns")
    return wanted if type(wanted) is int and 0 < wanted <= WIDEST else WIDTH


def render_status(view: StatusView, columns: int = WIDTH) -> str:
    """The screen of `status`: what runs, how far, how long still, what failed, which machine is ill, what to do."""
    on = _Screen(columns)
    head = f"autoperfd {view.version} (pid {view.pid}), up {duration(view.now - view.since)}"
    if view.refuge:
        on.in_refuge(view, view.refuge, head)
    else:
        (on.line if on.narrow else on.cut)(f"{head}: {view.sentence or summary(view.experiments, view.hold)}")
        if view.hold:
            on.line(f"HELD: {view.hold}; nothing starts until `autoperfctl resume`")
        on.experiments(view)
        on.foot(view)
        for warning in view.warnings:
            on.gap()
            on.line(f"Note: {warning}", "      ")
    on.to_do(attention(view))
    return on.text()


def render_silent(view: StatusView, head: str, hint: str, columns: int = WIDTH) -> str:
    """The same screen from what was written down last, when no daemon answers. `hint` says what to do."""
    on = _Screen(columns)
    on.line(head)
    on.line(hint)
    on.gap()
    on.line("The last that is known:")
    on.known(view)
    on.to_do(attention(view), nothing="")
    return on.text()


def render_list(view: ListView) -> str:
    """A line an experiment, and what lately came through the queue."""
    if not view.experiments and not view.intake:
        return "No experiments yet. Put one into the queue: autoperfctl submit FILE\n"
    on = _Screen(WIDTH)
    rows = [("EXPERIMENT", "STATE", "DONE", "FAILED", "LEFT")]
    for e in view.experiments:
        left = duration(e.remaining_secs) if e.remaining_secs is not None else "-"
        rows.append((e.name, state(e), of(e), str(e.failed), left))
    if view.experiments:
        on.table(rows)
    if view.intake:
        on.gap()
        on.line("Lately in the queue:")
        for item in view.intake:
            what = item.text if item.text not in ("", item.outcome) else ", ".join(item.experiments)
            on.line(f"{clock(item.at)}  {item.file}: {item.outcome}: {what}", "    ")
    return on.text()


def render_show(view: ShowView) -> str:
    """Everything about one experiment that a person asks for, newest last where it is a history."""
    e, on = view.experiment, _Screen(WIDTH)
    facts = (("folder", view.folder), *view.facts)
    wide = max(len(label) for label, _ in facts)
    on.experiment(e, view.now)
    on.gap()
    for label, value in facts:
        on.whole(f"  {label.ljust(wide)}  {value}")
    on.gap()
    on.line("Machines:")
    on.table([(f"  {m.name}", m.address, m.state, _seen(m, view.now), m.trouble) for m in e.machines])
    if view.failures:
        on.gap()
        on.whole("Tests given up (why: `autoperfctl why TEST`; again: `autoperfctl retry TEST`):")
        for failure in view.failures:
            on.whole(_failure(failure))
    if view.attempts:
        on.gap()
        on.line("Attempts:")
        rows = [("  START", "TEST", "#", "STATUS", "REASON")]
        for a in view.attempts[::-1]:
            rows.append((f"  {a.start_timestamp}", a.test, str(a.attempt), a.end_status, _blamed(a)))
        on.table(rows)
    return on.text()


class _Screen:
    """Lines of so many columns, in the order in which they are said."""

    def __init__(self, columns: int) -> None:
        self.columns = max(NARROWEST, columns)
        self.narrow = columns < _NARROW
        self.label = 10 if not self.narrow else 2  # columns of what stands before a line of an experiment
        self._lines: list[str] = []

    def text(self) -> str:
        """All of it."""
        return "".join(f"{line}\n" for line in self._lines)

    # ------------------------------------------------------------ lines

    def gap(self) -> None:
        """An empty line, but not two, and not at the start."""
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def line(self, text: str, indent: str = "") -> None:
        """Text that goes on in further lines where it does not fit."""
        self._lines += textwrap.wrap(
            escaped(text),
            self.columns,
            subsequent_indent=indent,
            break_long_words=self.narrow,
            break_on_hyphens=False,
        ) or [""]

    def cut(self, text: str) -> None:
        """Text that ends where it does not fit."""
        text = escaped(text)
        self._lines.append(text if len(text) <= self.columns else f"{text[: self.columns - 3]}...")

    def whole(self, text: str) -> None:
        """Text that is as long as it is."""
        self._lines.append(escaped(text))

    def said(self, label: str, text: str) -> None:
        """A line of an experiment, behind what it is about."""
        if self.narrow:
            self.line(f"  {label}{': ' if label else '  '}{text}", "    ")
        else:
            self.line(f"  {label:<10}{text}", " " * 12)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Rows of cells, aligned."""
        shown = [[escaped(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        for row in shown:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self._lines.append("  ".join(cells).rstrip())

    # ------------------------------------------------------------ parts

    def experiments(self, view: StatusView) -> None:
        """The blocks of those that do or need something, then a line each of the others."""
        ordered = sorted(view.experiments, key=lambda e: rank(e.state, e.outcome))
        detailed = [e for e in ordered if e.state != "idle"][:_MOST_DETAILED]
        rest = [e for e in ordered if e not in detailed]
        for experiment in detailed:
            self.gap()
            self.experiment(experiment, view.now, crowd=len(detailed) > 1)
        if rest:
            self.gap()
        for experiment in rest[:_MOST_BRIEF]:
            self.brief(experiment)
        if len(rest) > _MOST_BRIEF:
            self.line(f"... and {len(rest) - _MOST_BRIEF} more: autoperfctl list")

    def known(self, view: StatusView) -> None:
        """What a daemon that does not answer was at."""
        before = len(self._lines)
        self.experiments(view)
        if not view.experiments:
            self.line("no experiment.")
        elif self._lines[before] == "":  # it follows its heading at once
            del self._lines[before]

    def experiment(self, e: ExperimentView, now: float, *, crowd: bool = False) -> None:
        """All that is to be said of one; of one in a crowd only the most frequent reason."""
        self.head(e)
        if e.current:
            c = e.current
            left = "" if c.remaining_secs is None else f", {duration(c.remaining_secs)} left"
            so_far = f"attempt {c.attempt} of {c.attempts_allowed}, for {duration(c.running_for)}{left}"
            if 12 + len(c.test) + 2 + len(so_far) <= self.columns:
                self.said("now", f"{c.test}, {so_far}")
            else:
                self.said("now", c.test)
                self.said("", so_far)
        if e.sentence and e.state != "halted":
            self.said("does", e.sentence)
        if e.state == "halted":
            self.said("halted", f"by {e.halted_cause or 'the daemon'}: {e.halted_reason}")
        self.left(e, now)
        self.lately(e)
        self.failed(e, crowd=crowd)
        if e.failures_in_a_row > 1:
            limit = f"; halts at {e.failures_allowed}" if e.failures_allowed and e.state != "halted" else ""
            self.said("in a row", f"{count(e.failures_in_a_row, 'test')} given up{limit}")
        if e.machines:
            self.machines(e.machines, now)
        for number, sentence in enumerate(e.changes[:_MOST_CHANGES]):
            self.said("" if number else "changed", sentence)
        if len(e.changes) > _MOST_CHANGES:
            self.said("", f"and {len(e.changes) - _MOST_CHANGES} more: autoperfctl report {_name(e)}")

    def head(self, e: ExperimentView) -> None:
        """Its name, where it is and how far."""
        if e.tests_total and not self.narrow:
            self.cut(f"{e.name}: {state(e)}  {_bar(e, _BAR)}  {_counts(e)}")
        elif e.tests_total:
            self.line(f"{e.name}: {state(e)}", "  ")
            self.line(f"  {_bar(e, _BAR // 2)} {_counts(e)}", "    ")
        else:
            self.line(f"{e.name}: {state(e)}, {_counts(e)}", "  ")

    def brief(self, e: ExperimentView) -> None:
        """One that does nothing now, in a line."""
        more = e.sentence or (f"why: autoperfctl show {_name(e)}" if e.failed else "")
        self.cut(f"{e.name}: {state(e)}, {_counts(e)}" + (f"; {more}" if more else ""))

    def left(self, e: ExperimentView, now: float) -> None:
        """How long it takes still, as a range."""
        low, high = e.remaining_low_secs, e.remaining_high_secs
        if low is None:
            return
        pace = f"; {rate(e.tests_per_hour)}" if e.tests_per_hour else ""
        if high is None:
            self.said("left", f"at least {duration(low)}, not before {clock(now + low)}{pace}")
        elif duration(low) == duration(high):
            self.said("left", f"{duration(low)}, until {clock(now + low)}{pace}")
        else:
            until = f"{clock(now + low).removesuffix(' UTC')} to {clock(now + high)}"
            self.said("left", f"{duration(low)} to {duration(high)}, until {until}{pace}")

    def lately(self, e: ExperimentView) -> None:
        """Its latest attempts, a letter each."""
        if e.ends:
            legend = ", ".join(f"{letter} {word}" for letter, word in _LETTERS.items() if letter in e.ends)
            room = self.columns - 12
            ends = e.ends if len(e.ends) <= room else e.ends[-room:]
            self.said("lately", ends + (f"  ({legend})" if legend else ""))

    def failed(self, e: ExperimentView, *, crowd: bool) -> None:
        """Why attempts failed; in a crowd in one line."""
        if not e.reasons:
            return
        if crowd:
            more = f"; {count(len(e.reasons) - 1, 'more reason')}" if len(e.reasons) > 1 else ""
            self.said("failed", f"{_reason(e.reasons[0])}{more}")
            return
        for number, reason in enumerate(e.reasons[:_MOST_REASONS]):
            self.said("" if number else "failed", _reason(reason))
        if len(e.reasons) > _MOST_REASONS:
            more = count(len(e.reasons) - _MOST_REASONS, "more reason")
            self.said("", f"and for {more}: autoperfctl show {_name(e)}")
        else:
            self.said("", f"autoperfctl why {e.reasons[0].test}")

    def machines(self, machines: Sequence[MachineView], now: float) -> None:
        """Those that are well in a line, the others one by one."""
        well = [m for m in machines if m.state == "ok" and not m.trouble]
        ill = [m for m in machines if m not in well]
        parts = []
        if well:
            few = len(well) <= _MOST_MACHINES
            parts.append(f"{', '.join(m.name for m in well) if few else count(len(well), 'machine')} ok")
        parts += [f"{m.name} ({m.address}) {m.state}{_because(m, now)}" for m in ill[:_MOST_MACHINES]]
        if len(ill) > _MOST_MACHINES:
            parts.append(f"{len(ill) - _MOST_MACHINES} more not well: autoperfctl list")
        for number, part in enumerate(parts):
            self.said("" if number else "machines", part)

    def foot(self, view: StatusView) -> None:
        """What was told to people, and whether the disk lasts."""
        wanted = sum(e.wanted_bytes or 0 for e in view.experiments)
        said = []
        if view.told.delivered or view.told.waiting:
            said.append(f"Messages: {_messages(view.told, view.now)}.")
        if view.free_bytes is not None and wanted:
            enough = "" if wanted < view.free_bytes else ": too little"
            said.append(f"Disk: {size(view.free_bytes)} free, the rest wants about {size(wanted)}{enough}.")
        if sum(map(len, said)) + 1 <= self.columns and said:
            said = [" ".join(said)]
        if said and all(e.state in (*BUSY, "halted") for e in view.experiments):  # else it stands below brief lines
            self.gap()
        for text in said:
            self.line(text, "  ")

    def in_refuge(self, view: StatusView, refuge: RefugeView, head: str) -> None:
        """A daemon that cannot use its memory."""
        self.line(f"{head}: IN REFUGE since {clock(refuge.since)}: it does nothing, for it cannot use its memory.")
        self.line("Tests that run on machines go on and will be found again.")
        self.gap()
        if refuge.known is None:
            self.line("What it did last is not known.")
            return
        self.line(f"The last that is known, of {clock(refuge.known)}:")
        self.known(view)

    def to_do(self, sentences: Sequence[str], nothing: str = "Nothing to do.") -> None:
        """Whether a person has to do anything, and what."""
        if not sentences and not nothing:
            return
        self.gap()
        if not sentences:
            self.line(nothing)
            return
        self.line("To do:")
        for sentence in sentences:
            self.line(f"! {sentence}", "  ")


# ---------------------------------------------------------------- words


def _bar(e: ExperimentView, columns: int) -> str:
    total = e.tests_total or 1
    full = max(int(e.tests_done > 0), e.tests_done * columns // total)
    return f"[{'#' * full}{'.' * (columns - full)}]"


def _counts(e: ExperimentView) -> str:
    parts = [f"{of(e)} tests" + (f" ({100 * e.tests_done // e.tests_total} %)" if e.tests_total else "")]
    some = ((e.succeeded, "ok"), (e.failed, "failed"), (e.skipped, "skipped"))
    return ", ".join([*parts, *(f"{n} {word}" for n, word in some if n)])


def rate(per_hour: float) -> str:
    """How fast an experiment goes."""
    return f"{per_hour:.0f} tests an hour" if per_hour >= 10 else f"{per_hour:.1f} tests an hour"


def _reason(reason: ReasonView) -> str:
    whose = "" if reason.blame in ("test", "") else f", blamed on the {reason.blame}"
    return f"{reason.attempts} x {reason.code}{whose}" + (f": {reason.reason}" if reason.reason else "")


def _messages(told: ToldView, now: float) -> str:
    text = f"{told.delivered} delivered"
    if told.at is not None:
        what = _KINDS.get(told.kind, told.kind)
        text += f", the latest {duration(now - told.at)} ago: {told.experiment or 'autoperfd'} {what}"
    return text + (f"; {told.waiting} not delivered yet" if told.waiting else "")


def size(count: int) -> str:
    """Bytes for a person."""
    return f"{count / (1 << 30):.1f} GB" if count >= 1 << 30 else f"{max(1, count >> 20)} MB"


def _name(e: ExperimentView) -> str:
    """Its name as a shell takes it."""
    return e.name if e.name.replace("-", "").replace("_", "").isalnum() else "'" + e.name.replace("'", "'\\''") + "'"


def _because(machine: MachineView, now: float) -> str:
    seen = _seen(machine, now)
    text = f", {seen}" if seen and machine.state != "ok" else ""
    return f"{text}: {machine.trouble}" if machine.trouble else text


def _seen(machine: MachineView, now: float) -> str:
    return "" if machine.last_seen is None else f"seen {duration(now - machine.last_seen)} ago"


def _failure(failure: FailureView) -> str:
    return f"  {failure.test}: {failure.end_status}, {failure.reason or 'no reason known'}"


def _blamed(attempt: AttemptView) -> str:
    who = attempt.machine or attempt.blame
    return f"{attempt.reason} ({who})" if attempt.reason and who else attempt.reason
