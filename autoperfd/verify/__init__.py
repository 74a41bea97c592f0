"""The independent reader: re-derives from memory and archives what an experiment's results must be, and compares.

It shares no code with what it checks, only the names of tables, columns, figures and statuses. It writes nothing.
"""
