"""What shows how an attempt ended, in words: machines, participants, last lines, disturbances. Pure; any thread.

Reads the evidence that an attempt's row keeps (JSON). Whatever is missing is left out; keys this version does not
know are shown as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autoperfd.core.policy import KEPT

_MOST_ENDS = 6  # participants told one by one
_MOST_LINES = 3  # last lines of one of them
_MOST_PRINTED = 3  # participants whose last lines are shown
_MOST_TEXT = 200  # characters of what is not known here
_FOUND = {
    "adopted": "it was found running again after a restart of the daemon",
    "finished": "it had ended when it was found again after a restart of the daemon",
}
_MACHINES = ("boot_before", "boot_after", "problems", "was_away", "examined", "errors")
_KNOWN = (*_MACHINES, "records", "stagger_secs", "clock", "found", "watch", "undisturbed", "last_lines")


def details(status: str, evidence: str) -> Iterator[str]:
    """Sentences about one attempt that ended in `status`."""
    try:
        told = json.loads(evidence)
    except (ValueError, RecursionError):
        yield "its evidence cannot be read"
        return
    if not isinstance(told, dict):
        return
    found = _FOUND.get(str(told.get("found")))
    if found:
        yield found
    yield from _ends(told)
    yield from _machines(told, briefly=status in KEPT)
    yield from _printed(told)
    without = _table(told, "undisturbed")
    if without:
        reason = f" ({without['reason']})" if without.get("reason") else ""
        yield f"undisturbed it would have been: {without.get('end_status')}{reason}"
    for key, value in told.items():
        if key not in _KNOWN:
            yield f"{key}: {_short(json.dumps(value, ensure_ascii=False))}"


def _ends(told: Mapping[str, Any]) -> Iterator[str]:
    """How participants ended: those that ended badly one by one."""
    records = [record for record in _list(told, "records") if isinstance(record, dict)]
    bad = [record for record in records if (record.get("exit"), record.get("ended_by")) != (0, "self")]
    well = len(records) - len(bad)
    for record in bad[:_MOST_ENDS]:
        yield f"{record.get('name')} on {record.get('machine')}: {_end(record)}"
    if len(bad) > _MOST_ENDS:
        yield f"{len(bad) - _MOST_ENDS} more participants that did not end well"
    if well:
        yield f"{well} participant{' ended by itself' if well == 1 else 's ended by themselves'} with exit 0"


def _end(record: Mapping[str, Any]) -> str:
    number, signal, by = record.get("exit"), record.get("signal"), record.get("ended_by")
    how = f"signal {signal}" if signal is not None else f"exit {number}" if number is not None else "end not known"
    words = {"self": "by itself", "deadline": "stopped at the deadline", "grace": "stopped after its publishers"}
    who = words.get(str(by), f"ended by {by}")
    started, ended = record.get("started"), record.get("ended")
    known = isinstance(started, int | float) and isinstance(ended, int | float)
    return f"{how}, {who}{f' after {ended - started:.1f} s' if known else ''}"  # type: ignore[operator]


def _machines(told: Mapping[str, Any], *, briefly: bool) -> Iterator[str]:
    """How each machine stood; only what is out of the ordinary of a success."""
    names = dict.fromkeys(name for key in _MACHINES for name in _table(told, key))
    same = []
    for name in names:
        before, after = (_table(told, key).get(name) for key in ("boot_before", "boot_after"))
        words = [*_stood(told, name), *_watched(told, name)]
        if before and before == after and (briefly or not words):
            same.append(name)
        elif before or after:
            words.insert(0, _boots(before, after))
        if words:
            yield f"{name}: {', '.join(words)}"
    if same:
        yield f"{_and(same)}: the same boot before and after"


def _boots(before: object, after: object) -> str:
    if before and before == after:
        return "the same boot before and after"
    if before and after:
        return f"another boot: {_boot(before)} before, {_boot(after)} after"
    return f"boot {_boot(before)} before, not known after" if before else f"boot {_boot(after)} after"


def _boot(boot: object) -> str:
    return str(boot)[:8]


def _stood(told: Mapping[str, Any], name: str) -> Iterator[str]:
    """What a look right after the attempt found, and what went wrong on the machine."""
    error, seen = _table(told, "errors").get(name), _table(told, "examined").get(name)
    if isinstance(error, dict) and error.get("reason"):
        yield str(error["reason"])
    if isinstance(seen, dict):
        if isinstance(seen.get("pinged"), bool):
            yield "answers pings" if seen["pinged"] else "answers no ping"
        ssh = seen.get("ssh")
        if ssh:
            yield "SSH well" if ssh == "ok" else f"SSH ill ({ssh})"
        hears = seen.get("hears")
        deaf = [other for other, heard in hears.items() if heard is False] if isinstance(hears, dict) else []
        if deaf:
            yield f"does not hear {_and(deaf)}"
    problem, away = (_table(told, key).get(name) for key in ("problems", "was_away"))
    if problem:
        yield str(problem)
    if away:
        yield f"could not be reached for a while as it ran ({away})"


def _watched(told: Mapping[str, Any], name: str) -> Iterator[str]:
    """What the machine told of itself around the attempt, as far as it is out of the ordinary."""
    looks = [_table(_table(told, "watch"), when).get(name) for when in ("before", "after")]
    then, now = (look if isinstance(look, dict) else {} for look in looks)
    for key, words in (("foreign", "benchmark processes of others"), ("users", "logged in")):
        there = sorted({str(item) for look in (then, now) for item in _list(look, key)})
        if there:
            yield f"{words}: {_short(', '.join(there))}"
    throttled = now.get("throttled")
    if isinstance(throttled, int) and throttled:
        yield f"throttled (bits {throttled:#x})"
    if isinstance(now.get("celsius"), int | float):
        yield f"{now['celsius']:.0f} degrees Celsius"
    errors = [look.get("link_errors") for look in (then, now)]
    if all(isinstance(count, int) for count in errors) and errors[0] != errors[1]:
        yield f"{errors[1] - errors[0]} new errors on its links"  # type: ignore[operator]


def _printed(told: Mapping[str, Any]) -> Iterator[str]:
    """The last lines of the first participants that ended badly, which the evidence lists first."""
    shown = 0
    for name, lines in _table(told, "last_lines").items():
        kept = [str(line) for line in lines if str(line).strip()] if isinstance(lines, list) else []
        if kept and shown < _MOST_PRINTED:
            shown += 1
            yield from (f"{name} {_short(line)}" for line in kept[-_MOST_LINES:])


def _table(told: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = told.get(key)
    return value if isinstance(value, dict) else {}


def _list(told: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = told.get(key)
    return value if isinstance(value, list) else []


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _short(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 3]}..."
