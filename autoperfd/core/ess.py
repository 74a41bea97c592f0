"""The rows of `ess.csv` and `summary.csv`: columns, formats and quoting. Pure; any thread.

Text that a spreadsheet could take for a formula gets an apostrophe, also after a semicolon, which is the separator
where a computer's language says so. Numbers and times are written by us alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

ESS_COLUMNS = (
    "start_timestamp",
    "end_timestamp",
    "test_name",
    "pings_count",
    "ssh_check_count",
    "end_status",
    "attempt_number",
    "blame",
    "machine",
    "reason",
    "qos_settings",
    "archive",
)

Cell = str | int | float | bool | None
_FORMULA_STARTS = frozenset("=+-@＝＋－＠")
_HIDDEN_START = re.compile(r";(?=[\s\"']*[=+@＝＋－＠'-])")
_PLAIN = re.compile(r"(?!-)[A-Za-z0-9_.:/-]*")


def timestamp(wall: float | None) -> str:
    """Unix seconds as UTC ISO 8601 with milliseconds; "" for None."""
    if wall is None:
        return ""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cell(value: Cell) -> str:
    """One value as it stands between the commas, before csv quoting."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return repr(value)
        case float():
            return repr(value) if math.isfinite(value) else ""
        case _:
            text = value if value.isprintable() else "".join(c if c.isprintable() else " " for c in value)
            text = _HIDDEN_START.sub(";'", text)
            return f"'{text}" if text.lstrip()[:1] in _FORMULA_STARTS or text[:1] == "'" else text


def text_of(cell: str) -> str:
    """The text that `cell` wrote, as far as it was printable."""
    return cell.removeprefix("'").replace(";'", ";")


def line(values: Iterable[Cell]) -> str:
    """One csv line with its end."""
    return ",".join(_quoted(value) for value in values) + "\n"


def _quoted(value: Cell) -> str:
    if not isinstance(value, str):
        return cell(value)
    if _PLAIN.fullmatch(value):
        return value
    return '"' + cell(value).replace('"', '""') + '"'


def settings_cell(settings: Mapping[str, int | bool]) -> str:
    """Settings in one cell: duration_secs=30;use_reliable=true."""
    return ";".join(f"{key}={cell(value)}" for key, value in settings.items())


def ess_line(
    *,
    started: float,
    ended: float | None,
    test: str,
    pings: int,
    ssh_checks: int,
    status: str,
    number: int,
    blame: str,
    machine: str,
    reason: str,
    settings: Mapping[str, int | bool],
    archive: str,
) -> str:
    """One attempt's line; while it runs `ended` is None and `status` is "running"."""
    return line(
        (
            timestamp(started),
            timestamp(ended),
            test,
            pings,
            ssh_checks,
            status,
            number,
            blame,
            machine,
            reason,
            settings_cell(settings),
            archive,
        )
    )


SPREAD = ("mean", "min", "max")  # over the subscribers of a test


def summary_columns(setting_keys: Sequence[str], figure_names: Sequence[str]) -> tuple[str, ...]:
    """The header of summary.csv. Figures called `sub_…`, one value a subscriber, are followed by their SPREAD."""
    first = ("test_name", "attempt_number", "end_status", "start_timestamp", "end_timestamp")
    return (*first, *setting_keys, *figure_names, *spread({}, figure_names), "archive")


def spread(figures: Mapping[str, Cell], figure_names: Sequence[str]) -> dict[str, Cell]:
    """Mean, minimum and maximum of each `sub_…` figure, to 4 decimals; None where a subscriber's value is not known."""
    found: dict[str, Cell] = {}
    for name in figure_names:
        if name.startswith("sub_"):
            values = _numbers(figures.get(name))
            known = (mean(values), min(values), max(values)) if values else (None,) * len(SPREAD)
            found.update({f"{name}_{what}": _tidy(value) for what, value in zip(SPREAD, known, strict=True)})
    return found


def mean(values: Sequence[float]) -> float:
    """The mean of finite numbers, at least one; also of those whose sum is more than a float holds."""
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        import statistics  # slow to import, and hardly ever needed

        return statistics.mean(map(float, values))


def _numbers(listed: Cell) -> list[float]:
    """The values of a list "1;2.5;3" or of a single number; [] where one of them is missing or is none."""
    try:
        values = [float(part) for part in str(listed).split(";")] if listed is not None else []
    except ValueError:
        return []
    return values if all(map(math.isfinite, values)) else []


def _tidy(value: float | None) -> Cell:
    if value is None:
        return None
    rounded = round(value, 4)
    return int(rounded) if rounded.is_integer() else rounded
