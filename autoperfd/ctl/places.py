"""Knows which daemon is meant and where its things are: from options, the environment and `autoperfd.toml`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from autoperfd.core import instance as instances
from autoperfd.core.settings import DaemonSettings, default_settings, read_settings
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
    instance: str = ""

    @property
    def unit(self) -> str:
        """What systemctl and journalctl call the daemon."""
        return instances.unit(self.instance)


def places(config: str | None, runtime: str | None, instance: str | None = None) -> Places:
    """`runtime` and then the environment win over the settings; `config` None means the usual file, if it is there.

    `instance`: which of several daemons; None: the one the environment names, or else the first. Raises AutoperfError
    when a file that was asked for cannot be used; the usual one is then only complained about.
    """
    name = named(instance)
    usual = instances.place(CONFIG, name)
    try:
        settings = _settings(Path(config) if config else usual, name)
    except FileNotFoundError:
        if config:
            raise AutoperfError(f"autoperfctl cannot read {config}: there is no such file") from None
        settings = default_settings(name)
    except OSError as error:
        if config:
            raise AutoperfError(f"autoperfctl cannot read {config}: {error.strerror}") from error
        settings = default_settings(name)  # root's file need not be readable for everybody
    except ConfigError as error:
        if config:
            raise
        complain(f"{usual} is not valid, so the defaults are taken:\n{error.message}")
        settings = default_settings(name)
    where = runtime or os.environ.get("AUTOPERF_RUNTIME_DIR") or settings.runtime
    return Places(Path(where), settings.state, settings.queue, frozenset(settings.power), name)


def named(instance: str | None) -> str:
    """The instance an option or the environment names. AutoperfError when that is no name of one."""
    return instances.checked(os.environ.get(instances.ENVIRONMENT, "") if instance is None else instance)


def _settings(file: Path, instance: str) -> DaemonSettings:
    return read_settings(file.read_bytes(), str(file), instance)
