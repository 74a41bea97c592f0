"""DECIDES: the life of an experiment as values. No I/O, no threads, no clock."""
