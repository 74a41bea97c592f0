"""Machines on one computer, for the demo and the tests."""
