"""Rehearses experiments: the real engine, core and memory on virtual time, with machines that exist in memory only.

`World` lives through one seed: the same seed gives the same history, byte for byte. No threads, sockets or sleeps.
"""

import logging

logging.getLogger("autoperfd").addHandler(logging.NullHandler())  # a rehearsal tells its history, not a log
