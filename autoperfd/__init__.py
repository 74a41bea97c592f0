"""autoperfd: runs performance experiments on lab machines over SSH and proves their results."""

__version__ = "0.1.0"
