"""TELLS A SUPERVISOR WHAT CAME OUT: one HTML file of an experiment that needs no network, no script and no daemon."""
