"""`autoperfctl status --watch` on a terminal: the screen drawn anew in place until it is interrupted. One thread.

rich lives here, and nowhere else; it is imported when somebody watches. https://rich.readthedocs.io/en/stable/live.html
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from autoperfd.ctl.terminal import loud, printable
from autoperfd.errors import AutoperfError

_BAR = re.compile(r"\[(#*)(\.*)\]")
_LATELY = re.compile(r"^  lately:? +([-+~xo]+)")
_COLOURS = {"+": "green", "x": "bold red", "o": "yellow", "~": "yellow", "-": "dim"}


def live(screen: Callable[[], str], pause_secs: float) -> int:
    """Show what `screen` gives until interrupted. What it raises at first is raised, later it is shown on top."""
    known, trouble = screen(), ""
    foot = f"every {pause_secs:.0f} s; Ctrl-C ends it"
    # Waited for, not raised: an exception in the wrong moment, as in a destructor, would be lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with Live(console=Console(highlight=False), screen=True, auto_refresh=False) as shown:
            while True:
                shown.update(_painted(f"{trouble}{known}\n{time.strftime('%H:%M:%S')}, {foot}"), refresh=True)
                if signal.sigtimedwait({signal.SIGINT}, pause_secs):
                    return 0
                try:
                    known, trouble = screen(), ""
                except AutoperfError as error:  # a restart, most likely: go on looking
                    trouble = f"! {error.message}\n  {error.hint}\n\n"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _painted(text: str) -> Text:
    whole = Text()
    for line in printable(text).split("\n"):
        part = Text(f"{line}\n", no_wrap=True, style="bold red" if loud(line) else "")
        bar, lately = _BAR.search(line), _LATELY.match(line)
        if bar:
            part.stylize("green", *bar.span(1))
            part.stylize("dim", *bar.span(2))
        if lately:
            for at in range(*lately.span(1)):
                part.stylize(_COLOURS[line[at]], at, at + 1)
        whole.append_text(part)
    return whole
