"""Is the daemon's unit what was shipped, and will it start after a power cut. Asks systemd; one thread."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping

from autoperfd.ctl.finding import Finding

SECS = 5.0
SANDBOX: Mapping[str, str] = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateDevices": "yes",
    "RestrictNamespaces": "yes",
}
"""Of the unit's sandbox what can be told by one word each."""
PROPERTIES = ("LoadState", "UnitFileState", "DropInPaths", "Restart", "WatchdogUSec", *SANDBOX)


def examine(name: str) -> Iterator[Finding]:
    """What systemd knows of the unit, "autoperfd" or "autoperfd@NAME"."""
    unit = f"{name}.service"
    try:
        argv = ["systemctl", "show", unit, *(f"--property={name}" for name in PROPERTIES)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=SECS, check=True)
    except (OSError, subprocess.SubprocessError):
        yield Finding("unit", None, "systemd cannot be asked about it")
        return
    known = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if known.get("LoadState") != "loaded":
        hint = "sudo make install, or install the package; by hand it has neither sandbox nor watchdog"
        yield Finding("unit", None, f"{unit} is not installed", hint)
        return
    if known.get("UnitFileState") not in ("enabled", "enabled-runtime", "static", "generated"):
        sentence = f"{unit} is not enabled: after a power cut of this computer nothing goes on by itself"
        yield Finding("unit", False, sentence, f"sudo systemctl enable {name}")
    else:
        yield Finding("unit", True, f"{unit} starts with this computer")
    yield from _changes(name, known)


def _changes(name: str, known: Mapping[str, str]) -> Iterator[Finding]:
    weaker = [key for key, wanted in SANDBOX.items() if known.get(key, wanted) != wanted]
    if weaker:
        sentence = f"its sandbox is weaker than shipped: {', '.join(f'{key}={known[key]}' for key in weaker)}"
        yield Finding("sandbox", False, sentence, f"Look at {known.get('DropInPaths') or f'systemctl cat {name}'}")
    else:
        yield Finding("sandbox", True, "as it was shipped")
    if known.get("WatchdogUSec") in ("0", "infinity") or known.get("Restart") == "no":
        sentence = "a daemon that crashes or hangs is not started again"
        yield Finding("unit", False, sentence, f"Look at {known.get('DropInPaths') or f'systemctl cat {name}'}")
