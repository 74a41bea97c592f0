"""KNOWS WHAT CAME OUT: one experiment's tests, attempts and figures, read out of a copy of the memory."""
