"""REACHES MACHINES: SSH links, the launcher, fetching. Knows no benchmark tool."""

from autoperfd.remote.fleet import Fleet
from autoperfd.remote.values import (
    FetchedFile,
    MachineReport,
    Order,
    Outcome,
    Pins,
    Timing,
    Validation,
)

__all__ = ["FetchedFile", "Fleet", "MachineReport", "Order", "Outcome", "Pins", "Timing", "Validation"]
