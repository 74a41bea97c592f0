"""Knows where the daemon's socket, memory and queue are: from options, the environment and `autoperfd.toml`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from autoperfd.core.settings import DaemonSettings, read_settings
from autoperfd.ctl.terminal import complain
from autoperfd.errors import AutoperfError, ConfigError

CONFIG = Path("/etc/autoperf/autoperfd.toml")


@dataclass(frozen=True, slots=True)
class Places:
    """Where things lie, and the names of the power switches that experiments may use."""

    runtime: Path
    state: Path
    queue: Path
    power: frozenset[str]


def places(config: str | None, runtime: str | None) -> Places:
    """`runtime` and then the environment win over the settings; `config` None means the usual file, if it is there.

    Raises AutoperfError when a file that was asked for cannot be used; the usual one is then only complained about.
    """
    try:
        settings = _settings(Path(config) if config else CONFIG)
    except FileNotFoundError:
        if config:
            raise AutoperfError(f"autoperfctl cannot read {config}: there is no such file") from None
        settings = DaemonSettings()
    except OSError as error:
        if config:
            raise AutoperfError(f"autoperfctl cannot read {config}: {error.strerror}") from error
        settings = DaemonSettings()  # root's file need not be readable for everybody
    except ConfigError as error:
        if config:
            raise
        complain(f"{CONFIG} is not valid, so the defaults are taken:\n{error.message}")
        settings = DaemonSettings()
    where = runtime or os.environ.get("AUTOPERF_RUNTIME_DIR") or settings.runtime
    return Places(Path(where), settings.state, settings.queue, frozenset(settings.power))


def _settings(file: Path) -> DaemonSettings:
    return read_settings(file.read_bytes(), str(file))
