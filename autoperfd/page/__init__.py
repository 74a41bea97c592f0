"""SHOWS A BROWSER WHAT AUTOPERFD DOES: pages, JSON and metrics, read-only, off unless [page] listen is set."""
